"""The event queue of the compiled engine, against Python's."""

import heapq
from random import Random

import engine_mode  # first of all  # noqa: F401
import pytest

from sim.engine import arrays, events, layout


@pytest.mark.parametrize("rows", range(12, 20))
def test_events_of_a_full_queue_come_in_order_and_no_place_beyond_its_end_is_read(rows):
    """Whether the last entry has all of its siblings or none depends on how many rows there are."""
    random, kept = Random(rows), []
    a = arrays.empty(cpus=1, n=1, kinds=1, walkers=1, queues=1, entities=0, most_queued=1)
    a.put("heap", a.heap[:rows].copy())
    a.g[layout.EVENTS], a.g[layout.MOST_EVENTS] = layout.FIRST_EVENT - 1, rows
    while True:
        time, priority = random.randrange(9), random.randrange(2)
        created = events.push(a, time, priority, layout.ARRIVAL, len(kept))
        if created < 0:
            break
        heapq.heappush(kept, (time, priority, created, len(kept)))
    assert a.g[layout.FAILED] == layout.FAIL_EVENTS
    assert len(kept) > rows - 8
    while kept:
        time, priority, created, whom = heapq.heappop(kept)
        assert events.peek(a) == time
        assert list(a.heap[layout.FIRST_EVENT]) == [
            time, priority << layout.CREATED_BITS | created, whom << 8 | layout.ARRIVAL, 0
        ]  # fmt: skip
        events.pop(a)
        if kept:
            assert events.peek(a) == kept[0][0]
            events.fill(a)


def test_of_a_cpu_that_is_interrupted_only_the_interruption_is_left_in_the_queue():
    random, kept = Random(1), []
    a = arrays.empty(cpus=9, n=1, kinds=1, walkers=1, queues=9, entities=0, most_queued=1)
    a.g[layout.CPUS], a.g[layout.EVENTS], a.g[layout.MOST_EVENTS] = 9, layout.FIRST_EVENT - 1, len(a.heap)

    def schedules(what, whom):
        time, priority = a.g[layout.NOW] + random.randrange(30), layout.FIRST_CPU + whom
        kept.append((time, priority, events.push(a, time, priority, what, whom), what, whom))

    schedules(layout.ARRIVAL, 9)
    interrupted = 0
    while interrupted < 1000:
        for c in random.sample(range(9), 3):
            has = [each for each in kept if each[3:] == (layout.CPU_WAITS, c)]
            assert a.c[c, layout.WAITING] == len(has)
            if has:
                kept.remove(has[0])
                kept.append((a.g[layout.NOW], layout.URGENT, a.g[layout.CREATED], layout.CPU_INTERRUPTED, c))
                interrupted += 1
            events.kick(a, c)
            if random.random() < 0.7 and all(each[4] != c for each in kept):
                a.c[c, layout.WAITING] = 1
                schedules(layout.CPU_WAITS, c)
        if random.random() < 0.5 or not kept:
            schedules(layout.ARRIVAL, random.randrange(9, 20))
        events.fill(a)
        assert a.g[layout.EVENTS] - layout.FIRST_EVENT + 1 == len(kept)
        time, priority, created, what, whom = first = min(kept)
        kept.remove(first)
        assert list(a.heap[layout.FIRST_EVENT]) == [
            time,
            priority << layout.CREATED_BITS | created,
            whom << 8 | what,
            0,
        ]
        events.pop(a)
        a.g[layout.NOW] = time
        if what == layout.CPU_WAITS:
            a.c[whom, layout.WAITING] = 0
