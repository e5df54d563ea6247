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
