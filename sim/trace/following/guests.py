"""KVM's events beside the swap, and the x86_fpu events that only read."""

from sim.trace.following.judging import clears_load, fields
from sim.trace.following.known import Known, Place, Step, named
from sim.trace.following.whose import who
from sim.trace.reading.events import AFTER_SAVE, COPY_SRC, EVENTS


def on_kvm_entry(f: Known, place: Place, step: Step) -> None:
    """kvm_entry: the guest fpstate must be active and in the registers."""
    thread = who(f, place, step)
    if thread is None:
        return
    f.is_user(thread)
    if thread.in_kvm_run is False:
        f.contradict(place, step, "guest-entry", f"the guest fpstate of {named(thread)} is not active")
    f.set_kvm_run(thread, True)
    if f.load_of(thread) is not False:
        clears_load(f, place, step, thread, "entered its guest")
    for replica in f.replicas:
        replica.enters_guest(place.number)


def on_kvm_exit(f: Known, place: Place, step: Step) -> None:
    """kvm_exit."""
    thread, reason = who(f, place, step), step.values[0]
    if thread is not None:
        for replica in f.replicas:
            replica.leaves_guest(place.number, reason.lower().replace("_", "-"))


def on_userspace_exit(f: Known, place: Place, step: Step) -> None:
    """kvm_userspace_exit: KVM_RUN is over, so the swap back was before."""
    thread, reason = who(f, place, step), step.values[0]
    if thread is None:
        return
    if thread.in_kvm_run:
        f.contradict(place, step, "swap", f"{named(thread)} leaves KVM_RUN with the guest fpstate active")
        f.set_kvm_run(thread, False)
    for replica in f.replicas:
        replica.userspace_exit(place.number, reason)


def on_memory_read(f: Known, place: Place, step: Step) -> None:
    """before_save and after_save: ptrace or a core dump reads the current task; copy_src: v6.6's fork."""
    thread = who(f, place, step)
    if thread is not None:
        f.is_user(thread)
        xfeatures, xcomp_bv = step.values[2:]
        f.learn_kvm_run(thread, xcomp_bv)
        if step.event == COPY_SRC and step.values[1] == 0 and f.load_of(thread) is True:
            clears_load(f, place, step, thread, "forked")  # it had been in user mode, its registers in place
        guest, load = bool(thread.in_kvm_run), f.load_of(thread)
        saved = step.event == AFTER_SAVE and load is not True
        fields(f, place, step, thread, guest, None if load is None else int(load), memory=not saved)
        f.memory_holds(thread, guest, xfeatures)
    f.explain(place, step, "ptrace" if step.event != COPY_SRC else "fork")


def on_unknown_fpu(f: Known, place: Place, step: Step) -> None:
    """Events that no kernel of the model passes in a legal flow, or that say nothing about registers."""
    if who(f, place, step) is not None and EVENTS[step.event] == "x86_fpu_xstate_check_failed":
        f.contradict(place, step, "event", "the kernel itself found the fpstate inconsistent")
    f.explain(place, step, "other")
