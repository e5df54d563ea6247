"""A CPU with a run queue that a test steps through."""

from collections.abc import Callable
from fractions import Fraction

from hypothesis import strategies as st

from sim.host.eevdf import EevdfRunQueue
from sim.host.runqueue import Entity, RunQueue
from sim.host.weights import WMULT_SHIFT

MS = 2_000_000  # TSC cycles, at 2 GHz
TICK = MS
SLICE = 14 * MS // 5

nices = st.integers(-20, 19)
slices = st.sampled_from((0, 0, 0, MS, 3 * MS + 1, 10 * MS, 30 * MS))


def queued(queue: EevdfRunQueue) -> list[Entity]:
    return queue._queue + ([queue.current] if queue.current else [])


def mean(queue: EevdfRunQueue) -> Fraction:
    entities = queued(queue)
    return Fraction(sum(e.weight * e.vruntime for e in entities), sum(e.weight for e in entities))


def lag(queue: EevdfRunQueue, entity: Entity) -> float:
    """w_i (V - v_i): the service it is owed, in cycles."""
    return float(entity.weight * (mean(queue) - entity.vruntime) / (1 << WMULT_SHIFT))


def ticks(queue: RunQueue, now: int) -> bool:
    """task_tick_fair() without HRTICK: whether what runs has to be rescheduled."""
    queue.update_current(now)
    return queue.need_resched


class Host:
    """One CPU with a tick: the least that a host must do with a run queue."""

    def __init__(self, queue: RunQueue, see: Callable[[], None] = lambda: None) -> None:
        self.queue, self.see, self.now = queue, see, 0

    def run(self, cycles: int) -> None:
        end = self.now + cycles
        while (tick := (self.now // TICK + 1) * TICK) <= end:
            self.now = tick
            if ticks(self.queue, tick):
                self.see()
                self.queue.pick_next(tick)
        self.now = end
        self.queue.update_current(end)
        self.see()

    def wake(self, entity: Entity, initial: bool = False) -> None:
        self.queue.enqueue(self.now, entity, initial=initial)
        if self.queue.wakeup_preempts(self.now, entity, fork=initial):
            self.queue.pick_next(self.now)
        self.see()

    def block(self, special: bool = False) -> None:
        assert self.queue.current is not None
        self.queue.dequeue(self.now, self.queue.current, sleep=True, special=special)
        self.queue.pick_next(self.now)


def eevdf() -> EevdfRunQueue:
    return EevdfRunQueue(SLICE, TICK)


steps = st.lists(
    st.tuples(
        st.sampled_from(("run", "run", "wake", "wake", "block", "move", "exit")),
        st.integers(1, 4 * TICK),
        st.integers(0, 7),
    ),
    min_size=15,
    max_size=80,
)
people = st.lists(st.tuples(nices, slices), min_size=2, max_size=8)


def live(host: Host, entities: list[Entity], steps: list[tuple[str, int, int]]) -> None:
    """Runs, sleeps, wake-ups, moves of waiting entities away and back, and exits with a new life, at random."""
    queue = host.queue
    for entity in entities[::2]:
        host.wake(entity)
    for step, cycles, which in steps:
        entity = entities[which % len(entities)]
        if step == "run":
            host.run(cycles)
        elif step == "wake" and (not entity.on_rq or entity.sched_delayed):
            host.wake(entity, initial=cycles % 2 == 0 and not entity.sched_delayed)
        elif step == "move" and (waiting := queue.waiting()):
            moved = waiting[which % len(waiting)]
            queue.dequeue(host.now, moved, sleep=False)
            queue.enqueue(host.now, moved)
        elif step in ("block", "exit") and queue.current:
            host.block(special=step == "exit")
        host.see()
