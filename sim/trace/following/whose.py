"""Whose event it is: which task runs on its CPU, and what a missing sched_switch means."""

from sim.trace.following.known import Known, Place, Step, Thread, named
from sim.trace.following.verdict import UNSEEN_SWITCH


def who(f: Known, place: Place, step: Step) -> Thread | None:
    """The thread that an event comes from, None if it cannot be the current one of this CPU."""
    current = place.current
    if step.tid < 0:  # a task that is gone by the time that perf asks for its pid
        return current
    thread = f.thread(step.tid, step.comm, place.number)
    if thread is not current:
        if thread.on_cpu is not None and thread.on_cpu != place.number:
            settle_elsewhere(f, thread)
            thread = f.thread(step.tid, step.comm, place.number)
        if thread.on_cpu is not None and current is not None and current.spoken:
            f.contradict(place, step, "one-cpu", f"{named(thread)} runs on CPU {thread.on_cpu}")
            return None
        if thread.on_cpu is not None:
            leaves_elsewhere(f, thread)
        misses_switch(f, place, step, thread)
    speaks(f, place, step, thread)
    return thread


def settle_elsewhere(f: Known, thread: Thread) -> None:
    """The thread may be about to leave another CPU, whose clock differs from this one's."""
    assert thread.on_cpu is not None
    elsewhere = f.places[thread.on_cpu]
    if elsewhere.held is not None:
        f.settle(elsewhere, None)


def speaks(f: Known, place: Place, step: Step, thread: Thread) -> None:
    """The thread has an event of its own, so it is in the recording."""
    thread.spoken = True
    if thread.unheard:
        thread.unheard = False
        f.contradict(
            place,
            step,
            "current",
            f"{named(thread)} is in the recording, so an earlier sched_switch of it is missing",
        )


def misses_switch(f: Known, place: Place, step: Step, thread: Thread) -> None:
    """``thread`` runs here, and the switch to it was not seen.

    At the start and after a gap that is so for every task, and always after a task outside the recording.  Otherwise
    what it and the last one left in the registers is unknown.
    """
    gone, departed = place.current, place.departed
    last = gone or departed
    place.departed = None
    if last is None:
        thread.load_known = False
    elif not last.spoken:
        last.unheard = True
        place.doubt = True
        f.verdict.assumed[UNSEEN_SWITCH] += 1
        f.set_load(thread, True)
    else:
        if not place.owed:
            likely = f"a sched_switch from {named(last)} to {named(thread)} is missing"
            if departed is thread:
                likely = f"{named(thread)} was on another CPU in between"
            f.contradict(place, step, "current", likely)
        thread.load_known = False
        thread.memory = [None, None]
        f.disown(place)
        if gone is not None:
            gone.memory = [None, None]
    if gone is not None:
        f.set_load(gone, True)
    f.runs(place, thread)


def leaves_elsewhere(f: Known, thread: Thread) -> None:
    """A thread is here that was last seen on another CPU: its switch there is late, missing, or not recorded."""
    assert thread.on_cpu is not None
    elsewhere = f.places[thread.on_cpu]
    settle_elsewhere(f, thread)
    if thread.on_cpu is None:
        return
    elsewhere.departed, elsewhere.current = thread, None
    elsewhere.doubt = True
    thread.on_cpu = None
    thread.memory = [None, None]
    thread.last_cpu_known = False
    thread.load_known = False
