"""x86_fpu_regs_activated: a restore, the end of an fpstate swap (kvm_fpu follows), or a signal."""

from sim.trace.following.judging import clears_load, done, fields, hold, owes_kvm_fpu, returned, same
from sim.trace.following.known import Known, Place, Step, Thread, named
from sim.trace.following.signals import SIGRETURN, marks, owes_signal
from sim.trace.following.verdict import ELSEWHERE
from sim.trace.following.whose import who
from sim.trace.reading.events import KVM_FPU, SWITCH
from sim.xsave.components import CET_S


def on_activated(f: Known, place: Place, step: Step) -> None:
    """x86_fpu_regs_activated, of which the next event of the CPU tells what it is."""
    hold(f, place, step, "restore")


def restored(f: Known, place: Place, step: Step, following: Step | None) -> bool:
    """x86_fpu_regs_activated, and the event after it on its CPU."""
    thread = place.holder
    assert thread is not None
    flag, xcomp_bv = step.values[1], step.values[3]
    if following is not None and following.event == KVM_FPU and following.tid == step.tid:
        swap(f, place, step, thread, enter=following.values[0] == "load")
        return True
    if f.tells_guest and thread.in_kvm_run is bool(~xcomp_bv & CET_S):  # the other fpstate is active now
        if following is None or (following.event == SWITCH and following.values[0] == step.tid):
            thread.late = "unload" if thread.in_kvm_run else "load"
            swap(f, place, step, thread, not thread.in_kvm_run)
            return False
        f.verdict.unswapped += 1
    f.learn_kvm_run(thread, xcomp_bv)
    owes_kvm_fpu(f, place, step, thread)
    guest = bool(thread.in_kvm_run)
    if flag:
        if thread.signal_due == SIGRETURN and thread.due_stint != thread.stint:
            thread.signal_due = ""  # a restore, or rt_sigreturn's own behind a preemption: they look alike
        inferred = returns(f, place, step, thread, guest)
        f.explain(place, step, inferred or "restore", inferred=bool(inferred))
    else:
        fact = marks(f, place, step, thread, guest)
        f.explain(place, step, "signal", inferred=not fact)
    f.passed(place).clear()
    return False


def returns(f: Known, place: Place, step: Step, thread: Thread, guest: bool) -> str:
    """A restore from memory; what explains that it was not skipped, if nothing in the recording does."""
    xfeatures = step.values[2]
    load, valid = f.load_of(thread), f.valid(place, thread)
    inferred = "kernel_fpu_begin" if waits_for_restore(f, place, thread) else ""
    if load is False:  # kernel_fpu_begin() saved silently, and set the flag
        thread.memory[guest] = None
        for replica in f.replicas:
            replica.holds(place.number, xfeatures)
            replica.uses_kernel_fpu(place.number)
        inferred = "kernel_fpu_begin"
    elif load is True and valid is True:
        inferred = "outside the recording" if place.doubt else "kernel_fpu_begin"
        if place.doubt:
            f.owns(place, None)
        else:
            for replica in f.replicas:
                replica.uses_kernel_fpu(place.number)
    elif valid is not False:
        f.owns(place, None)
    good = fields(f, place, step, thread, guest, None, memory=True)
    f.set_load(thread, True)
    f.memory_holds(thread, guest, xfeatures)
    for replica in f.replicas:
        replica.returns(place.number)
    thread.returning = False
    if good:
        same(f, place, step)
    done(f, place, thread)
    return inferred


def waits_for_restore(f: Known, place: Place, thread: Thread) -> bool:
    """Whether a restore rests on an assumed kernel_fpu_begin().

    It does if that is all that keeps the thread from being the owner here, and where nothing else speaks for it.
    """
    if not thread.behind_kernel_fpu:
        return False
    cpu = f.model.cpu(place.number)
    last_here = f.model.tasks[thread.number].last_cpu == place.number
    return thread.assumed == ELSEWHERE or (place.owner_known and cpu.fpregs_owner is None and last_here)


def swap(f: Known, place: Place, step: Step, thread: Thread, enter: bool) -> None:
    """fpu_swap_kvm_fpstate(): a save unless the flag is set, and always a restore."""
    _, flag, xfeatures, _ = step.values
    if thread.late and thread.late != ("load" if enter else "unload"):
        owes_kvm_fpu(f, place, step, thread)
    owes_signal(f, place, step, thread)
    if thread.in_kvm_run is enter:
        f.contradict(
            place, step, "swap",
            f"the guest fpstate of {named(thread)} is {'' if enter else 'not '}active already: a kvm_fpu is missing",
        )  # fmt: skip
    f.set_kvm_run(thread, not enter)
    load = f.load_of(thread)
    inferred = bool(flag) and thread.behind_kernel_fpu
    if load is None:
        f.set_load(thread, bool(flag))
        if not flag:
            f.owns(place, thread)
    elif load and not flag:
        clears_load(f, place, step, thread, "swapped its fpstates with load: 0")
    elif not load and flag:  # kernel_fpu_begin() has saved it
        inferred = True
        thread.memory[not enter] = None
        for replica in f.replicas:
            replica.uses_kernel_fpu(place.number)
    good = fields(f, place, step, thread, enter, None, memory=True)
    if not flag:
        thread.memory[not enter] = None
    f.set_load(thread, bool(flag))
    thread.memory[enter] = xfeatures
    for replica in f.replicas:
        replica.memory_holds(thread.number, enter, xfeatures)
    if enter:
        returned(f, place, thread)
    for replica in f.replicas:
        (replica.loads_guest_fpu if enter else replica.puts_guest_fpu)(place.number)
    thread.in_kvm_run = enter
    thread.returning = not enter and f.fills_in
    if not enter:
        thread.memory[True] = None  # the VMM may write it (KVM_SET_XSAVE)
    if good:
        same(f, place, step)
    done(f, place, thread)
    f.explain(place, step, "kernel_fpu_begin" if inferred else "swap", inferred=inferred)
    f.passed(place).clear()


def on_kvm_fpu(f: Known, place: Place, step: Step) -> None:
    """A kvm_fpu that no x86_fpu_regs_activated came right before."""
    fresh, thread = place.fresh or place.current is None, who(f, place, step)
    if thread is None:
        return
    f.is_user(thread)
    enter = step.values[0] == "load"
    if thread.late == step.values[0]:
        thread.late = ""
        return
    if not fresh:
        f.contradict(place, step, "swap", "the x86_fpu_regs_activated of this swap is missing")
    thread.memory = [None, None]
    f.set_kvm_run(thread, enter)
    f.set_load(thread, False)
    f.owns(place, thread)
    done(f, place, thread)
