"""Flow points that leave no event, which the trace of a simulated run has in comment lines."""

from typing import Final

from sim.trace.following.judging import clears_load
from sim.trace.following.known import Known, Place, Step
from sim.trace.following.told import ToldReplica
from sim.trace.following.whose import speaks
from sim.trace.reading.events import EVENTS

_WRITES: Final = ("user_writes", "kernel_fpu", "guest_writes")


def on_told(f: Known, place: Place, step: Step) -> None:
    """A flow point by its name; in a trace that does not say it is of a simulated run it means nothing."""
    if not isinstance(f.model, ToldReplica):
        return
    point = EVENTS[step.event].removeprefix("fp_")
    if point == "starts":
        f.runs(place, f.idle(place.number))
        f.owns(place, None)
        return
    thread = place.current
    if thread is None:  # behind a gap
        return
    speaks(f, place, step, thread)
    components, carried = step.values
    if point == "return_to_user":
        if f.load_of(thread) is not False:
            clears_load(f, place, step, thread, "returned to user mode")
        else:
            for replica in f.replicas:
                replica.returns(place.number)
        f.passed(place).clear()
        return
    if point in ("begin", "end"):
        f.measured[point == "end"].append(step.time_ns)
    elif point == "kernel_fpu":
        thread.memory[bool(thread.in_kvm_run)] = None
        place.owner_known = True
    arguments = (components,) if point in _WRITES else (components, carried) if point == "guest_switches_task" else ()
    for replica in f.replicas:
        if isinstance(replica, ToldReplica):
            replica.passes(place.number, point, arguments)
    f.passed(place).clear()
