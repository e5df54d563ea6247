"""Fork, exec and exit: what they do to the registers, and to who is known."""

from sim.trace.following.judging import clears_load, fields, hold, owes_kvm_fpu, same
from sim.trace.following.known import Known, Place, Step, named
from sim.trace.following.signals import owes_signal
from sim.trace.following.whose import who
from sim.trace.reading.events import DROPPED


def on_deactivated(f: Known, place: Place, step: Step) -> None:
    """No switch comes before it here, so it belongs to an exit, or to a switch before the recording."""
    if place.late_save == step.tid:
        place.late_save = None
        f.explain(place, step, "save")
    else:
        hold(f, place, step, "save")


def dropped(f: Known, place: Place, step: Step, following: Step | None) -> bool:
    """x86_fpu_regs_deactivated that no switch comes before, and the event after it on its CPU."""
    thread = place.holder
    assert thread is not None
    xfeatures, xcomp_bv = step.values[2:]
    f.learn_kvm_run(thread, xcomp_bv)
    guest = bool(thread.in_kvm_run)
    if following is None or following.event != DROPPED or following.tid not in (step.tid, -1):
        if place.unseen:  # the sched_switch was before the recording
            fields(f, place, step, thread, guest, None, memory=False)
            f.owns(place, thread)
            f.set_load(thread, True)
            f.memory_holds(thread, guest, xfeatures)
            place.current = thread.on_cpu = None
        else:
            f.contradict(place, step, "save", f"no sched_switch takes the CPU from {named(thread)}, nor is it dropped")
        f.explain(place, step, "save")
        return False
    if f.drop_needs_registers and f.load_of(thread) is not False:
        clears_load(f, place, step, thread, "dropped its registers")
    good = fields(f, place, step, thread, guest, 0 if f.drop_needs_registers else None, memory=True)
    f.set_load(thread, False)
    f.passed(place).clear()
    for replica in f.replicas:
        replica.drops(place.number)
    if [event for event, _ in f.passed(place)] != ["x86_fpu_regs_deactivated", "x86_fpu_dropped"]:
        f.contradict(place, step, "event", "the model drops nothing here")
    f.owns(place, None)
    f.explain(place, step, "drop")
    if good:
        fields(f, place, following, thread, guest, 0 if f.drop_needs_registers else None, memory=True)
    f.explain(place, following, "drop")
    f.passed(place).clear()
    return True


def on_dropped(f: Known, place: Place, step: Step) -> None:
    """x86_fpu_dropped without the event that goes with it."""
    fresh, thread = place.fresh or place.current is None, who(f, place, step)
    if thread is not None and not fresh:
        f.contradict(place, step, "drop", "the x86_fpu_regs_deactivated before it is missing")
    if thread is not None:
        f.is_user(thread)
        f.set_load(thread, False)
        f.owns(place, None)
    f.explain(place, step, "drop")


def on_copy_dst(f: Known, place: Place, step: Step) -> None:
    """x86_fpu_copy_dst: the child is known by its struct fpu before it has a pid."""
    thread = who(f, place, step)
    if thread is None:
        f.explain(place, step, "fork")
        return
    f.is_user(thread)
    xfeatures = step.values[2]
    owes_kvm_fpu(f, place, step, thread)
    owes_signal(f, place, step, thread)
    if f.load_of(thread) is not False:
        clears_load(f, place, step, thread, "forked")
    thread.forked_at = thread.stint
    child = f.new_thread(0, thread.name)
    for replica in f.replicas:
        replica.forks(place.number, child.number, thread.name)
    child.user, child.newborn = True, not f.partial
    child.in_kvm_run = False
    child.last_cpu_known = True
    if fields(f, place, step, child, False, 0, memory=False):
        same(f, place, step)
    f.memory_holds(child, False, xfeatures)
    thread.children.append(child)
    f.explain(place, step, "fork")
    f.passed(place).clear()


def on_fork(f: Known, place: Place, step: Step) -> None:
    """sched_process_fork: the child gets its pid."""
    thread = who(f, place, step)
    _, name, child_tid = step.values
    children = thread.children if thread is not None else []
    child = children.pop() if children else None
    for failed in children:  # fork() that went no further than the copy
        f.forget(failed)
    children.clear()
    if (stale := f.threads.get(child_tid)) is not None:
        if stale.on_cpu is not None:  # another CPU's clock is ahead, and the child runs there already
            if child is not None:
                f.forget(child)
            return
        f.forget(stale)
    if child is not None:
        child.tid, child.name = child_tid, name
        f.threads[child_tid] = child


def on_exec(f: Known, place: Place, step: Step) -> None:
    """The flush came before this event; a switch in between left without a save."""
    tid, old_tid = step.values
    thread = who(f, place, step) if old_tid == tid else f.threads.get(old_tid)
    if thread is None:
        return
    if old_tid != tid and thread.tid != tid:  # a thread took over its process, and the leader's pid
        del f.threads[thread.tid]
        thread.tid = tid
        f.threads[tid] = thread
    f.is_user(thread)
    if thread.newborn and place.owed == 0:
        f.contradict(
            place, step, "restored-before",
            f"{named(thread)} calls execve(), but its registers were never restored since it was forked: "
            "an x86_fpu_regs_activated is missing",
        )  # fmt: skip
    thread.newborn = False
    if thread.behind_kernel_fpu and thread.assumed:  # it was the flush that set the flag
        f.verdict.assumed[thread.assumed] -= 1
    thread.behind_kernel_fpu = False
    thread.assumed = ""
    if thread.in_kvm_run:
        f.set_kvm_run(thread, False)
    thread.in_kvm_run = False
    for replica in f.replicas:
        replica.execs(thread.number)
    thread.load_known = thread.last_cpu_known = True
    thread.memory = [f.model.tasks[thread.number].fpstate.area.xstate_bv, None]  # a task's own SSP0 stays
    thread.mask = list(f.masks)
    thread.handlers = 0
    thread.signal_due = ""


def on_exit(f: Known, place: Place, step: Step) -> None:
    """sched_process_exit, which comes before the drop."""
    thread = who(f, place, step)
    if thread is not None:
        thread.exiting = True
        thread.signal_due = ""
