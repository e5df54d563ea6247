"""What several rules ask of an event: its fields, and whether TIF_NEED_FPU_LOAD may have been cleared before it."""

from sim.trace.following.known import Known, Place, Step, Thread, named
from sim.trace.following.verdict import SILENT_SAVE
from sim.trace.following.whose import who
from sim.trace.reading.events import EVENTS
from sim.xsave.components import COMPACTED, XTILEDATA


def fields(f: Known, place: Place, step: Step, thread: Thread, guest: bool, load: int | None, *, memory: bool) -> bool:
    """Compares an event with the thread's struct fpu, the active fpstate and the flag; False if one contradicts.

    ``memory``: xfeatures must be what is known to be there, because no save came in between.
    """
    fpu, flag, xfeatures, xcomp_bv = step.values
    good = pointer(f, place, step, thread, fpu)
    mask = xcomp_bv & ~COMPACTED
    if not xcomp_bv & COMPACTED or mask != thread.mask[guest]:
        if xcomp_bv & COMPACTED and mask == thread.mask[guest] | XTILEDATA:
            thread.mask[guest] = mask
            thread.memory[guest] = None
            for replica in f.replicas:
                replica.enlarged(thread.number, guest, mask)
        elif good:
            good = False
            other = " of a guest fpstate" if mask == thread.mask[not guest] and not guest else ""
            active = "guest fpstate" if guest else "task's own fpstate"
            f.contradict(
                place, step, "fpstate",
                f"the {active} of {named(thread)} is active, with mask {thread.mask[guest]:#x}; "
                f"the event has {mask:#x}{other}",
            )  # fmt: skip
    if good and load is not None and flag != load:
        good = False
        f.contradict(place, step, "load", f"TIF_NEED_FPU_LOAD of {named(thread)} is {load} here")
    if good and xfeatures & ~mask:
        good = False
        f.contradict(place, step, "xfeatures", f"{xfeatures & ~mask:#x} is in xfeatures and not in xcomp_bv")
    known = thread.memory[guest]
    if good and memory and known is None:
        f.verdict.assumed[SILENT_SAVE] += 1
    if good and memory and known is not None and known != xfeatures:
        good = False
        f.contradict(
            place, step, "xfeatures",
            f"the last save of this fpstate of {named(thread)} wrote {known:#x}, and nothing has changed it",
        )  # fmt: skip
    return good


def pointer(f: Known, place: Place, step: Step, thread: Thread, fpu: int) -> bool:
    """Whether the event's struct fpu is that of the thread."""
    if thread.fpu is None:
        other = f.by_fpu.get(fpu)
        if other is not None and other is not thread:
            if other.on_cpu is not None and other.on_cpu != place.number:
                f.contradict(place, step, "pointer", f"{fpu:#x} is the struct fpu of {named(other)}")
                return False
            other.fpu = None  # it died outside the recording, and the memory was used again
        thread.fpu = fpu
        f.by_fpu[fpu] = thread
    elif thread.fpu != fpu:
        f.contradict(place, step, "pointer", f"the struct fpu of {named(thread)} is at {thread.fpu:#x}, not {fpu:#x}")
        return False
    return True


def same(f: Known, place: Place, step: Step) -> None:
    """What the model has passed must be the event."""
    events = f.passed(place)
    if not events or (events[-1].event, events[-1].load) != (EVENTS[step.event], step.values[1]):
        shown = f"{events[-1].event} with load: {events[-1].load}" if events else "nothing"
        f.contradict(place, step, "event", f"the model has {shown} here")


def clears_load(f: Known, place: Place, step: Step, thread: Thread, what: str) -> None:
    """The flag of the current thread was cleared without an event, which a skipped restore alone can do."""
    valid = f.valid(place, thread)
    if f.load_of(thread) is None:
        f.set_load(thread, False)
        f.owns(place, thread)
        return
    if valid is False and not place.owed:
        f.contradict(
            place, step, "restored-before",
            f"{named(thread)} {what}, but its registers were not restored since it was switched in: "
            "an x86_fpu_regs_activated is missing",
        )  # fmt: skip
    if valid is not True:
        f.owns(place, thread)
    thread.behind_kernel_fpu = False
    for replica in f.replicas:
        replica.returns(place.number)


def returned(f: Known, place: Place, thread: Thread) -> None:
    """Behind KVM_RUN the thread was in user mode, with its registers in place already, so that no event shows it.

    It cannot call KVM_RUN again without; one that leaves its CPU counts as having been there, as most have.
    """
    if thread.returning:
        thread.returning = False
        if f.load_of(thread) is False:
            for replica in f.replicas:
                replica.returns(place.number)


def done(f: Known, place: Place, thread: Thread) -> None:
    """The registers are the thread's, and all about that is known."""
    thread.behind_kernel_fpu = thread.newborn = False
    thread.load_known = True
    thread.last_cpu_known = True
    place.owner_known = True
    place.doubt = False


def owes_kvm_fpu(f: Known, place: Place, step: Step, thread: Thread) -> None:
    """Nothing else of this thread may come between a swap and its kvm_fpu."""
    if thread.late:
        f.contradict(place, step, "swap", f"a kvm_fpu {thread.late} of {named(thread)} is missing")
        thread.late = ""


def hold(f: Known, place: Place, step: Step, kind: str) -> None:
    """Holds an event until the next one of its CPU, if it comes from the task that runs there."""
    place.unseen = place.current is None and place.departed is None
    place.holder = who(f, place, step)
    if place.holder is None:
        f.explain(place, step, kind)
    else:
        f.is_user(place.holder)
        place.held = step
