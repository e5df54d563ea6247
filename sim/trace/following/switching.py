"""sched_switch and the save of the task that left, which is inside __switch_to() and so comes right after it."""

from typing import Final

from sim.trace.following.judging import clears_load, fields, returned
from sim.trace.following.known import Known, Place, Step, Thread
from sim.trace.following.verdict import AT_LIFE, ELSEWHERE, NO_USER_MODE
from sim.trace.following.whose import leaves_elsewhere, misses_switch, speaks
from sim.trace.reading.events import DEACTIVATED

SKEW_NS: Final = 20_000
"""A CPU whose next event is later than another CPU's by more than this will not show an earlier one."""

_DEAD: Final = (ord("X"), ord("Z"))
_STOPPED: Final = (ord("T"), ord("t"))


def on_switch(f: Known, place: Place, step: Step) -> None:
    """sched_switch, of which the next event of the CPU tells whether it saved."""
    prev_tid = step.values[0]
    thread = f.thread(prev_tid, "", place.number)
    if thread is not place.current:
        if place.departed is thread:  # this CPU's clock is behind that of the CPU to which the thread went
            place.departed = None
            leaves_late(f, place, step)
            return
        if thread.on_cpu is not None and thread.on_cpu != place.number:
            leaves_elsewhere(f, thread)
            thread = f.thread(prev_tid, "", place.number)
        misses_switch(f, place, step, thread)
    speaks(f, place, step, thread)
    place.held = step


def leaves_late(f: Known, place: Place, step: Step) -> None:
    """The switch away of a thread that has been seen elsewhere since; its save cannot be judged any more."""
    name, next_tid = step.values[3:5]
    following = f.thread(next_tid, name, place.number)
    if following.on_cpu is None:
        f.set_load(following, True)
        f.runs(place, following)
    f.disown(place)
    place.late_save = step.tid


def switched(f: Known, place: Place, held: Step, saved: Step | None) -> bool:
    """A switch, and the event after it on its CPU: the save of the task that left, or anything else."""
    prev = place.current
    assert prev is not None
    is_save = saved is not None and saved.event == DEACTIVATED and saved.tid in (prev.tid, -1)
    if is_save:
        assert saved is not None
        saves(f, place, saved, prev)
    elif saved is not None or f.now_ns - held.time_ns > SKEW_NS:
        leaves_unsaved(f, prev, place)
    else:
        leaves_unknown(f, prev)
        place.late_save = prev.tid
    _, _, state, name, next_tid, _ = held.values
    following = f.thread(next_tid, name, place.number)
    if following.on_cpu is not None and following.on_cpu != place.number:
        leaves_elsewhere(f, following)
        following = f.thread(next_tid, name, place.number)
    if f.partial:
        following.last_cpu_known = False
        following.memory = [None, None]
    if not following.load_known:
        f.set_load(following, True)
    prev.on_cpu = None
    for replica in f.replicas:
        if replica.cpu(place.number).current is not replica.tasks[prev.number]:
            replica.runs(place.number, prev.number)
    returned(f, place, prev)
    for replica in f.replicas:
        replica.switch(place.number, following.number)
    place.current = following
    following.on_cpu = place.number
    following.stint += 1
    if is_save:
        assert saved is not None
        events, guest = f.passed(place), bool(prev.in_kvm_run)
        fields(f, place, saved, prev, guest, events[-1].load if events else f.load_at_save, memory=False)
        prev.last_cpu_known = True  # fpregs_owner stays as it was: what is saved was the owner, unless it is dying
        xfeatures = saved.values[2]
        f.memory_holds(prev, guest, xfeatures)
        prev.load_known = True
        f.explain(place, saved, "save")
    f.passed(place).clear()
    if state in _STOPPED:  # its tracer may write its memory, which also makes it load that (PTRACE_SETREGSET)
        prev.memory[False] = None
        prev.last_cpu_known = False
    if state in _DEAD and prev.tid > 0:
        f.forget(prev)
    return is_save


def saves(f: Known, place: Place, step: Step, prev: Thread) -> None:
    """The flag must be clear, by a restore that was seen or by one that was rightly skipped."""
    f.is_user(prev)
    xcomp_bv = step.values[3]
    f.learn_kvm_run(prev, xcomp_bv)
    if f.load_of(prev) is not False:
        clears_load(f, place, step, prev, "was saved")
    for replica in f.replicas:
        xfeatures = step.values[2]
        replica.holds(place.number, xfeatures)


def leaves_unsaved(f: Known, prev: Thread, place: Place) -> None:
    """No save: a kernel thread, a task whose flag is set, or one that kernel_fpu_begin() has saved before."""
    load = f.load_of(prev)
    if load is None:
        f.set_load(prev, True)
    elif load is False and prev.user:
        assume_kernel_fpu(f, place, prev)
    elif prev.user:
        f.verdict.assumed[NO_USER_MODE] += 1


def assume_kernel_fpu(f: Known, place: Place, thread: Thread) -> None:
    """In fork, exec and exit the random pool uses it; elsewhere interrupts, crypto and the like may."""
    thread.assumed = AT_LIFE if thread.exiting or thread.forked_at == thread.stint else ELSEWHERE
    f.verdict.assumed[thread.assumed] += 1
    for replica in f.replicas:
        replica.uses_kernel_fpu(place.number)
    thread.memory[bool(thread.in_kvm_run)] = None
    thread.behind_kernel_fpu = True
    place.owner_known = True


def leaves_unknown(f: Known, prev: Thread) -> None:
    """Whether it was saved is not in the recording."""
    f.set_load(prev, True)
    prev.memory[bool(prev.in_kvm_run)] = None
