"""How far a span in the guest comes, with which interrupts and exits, against one that is followed step by step."""

from itertools import cycle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_host_cpu import a_cpu

from sim.host.exits import INF, ExitCost, ExitKind, ExitStream
from sim.host.guest_span import GuestSpan

COST = ExitCost((), 30, 7)
"""The exit for an interrupt, in whose last 7 cycles interrupts are off."""


def exits_every(gap, time):
    """A stream of exits that take 20 cycles, the last five of them with interrupts off, and ``time``; 0: none."""
    if not gap:
        return []
    column = np.full
    return [
        ExitKind(
            "msr", "other", lambda n: column(n, gap), lambda n: column(n, time), lambda n: column(n, False), False,
            False, None, None, cost=ExitCost((), 20, 5),
        )
    ]  # fmt: skip


def a_guest(kinds=(), cost=COST):
    """As much of a vCPU thread as a span sees, at the guest's first instruction."""
    guest = SimpleNamespace(
        _stream=ExitStream(list(kinds), batch=True), _interrupt=SimpleNamespace(cost=cost), _demand_end=INF, _wall=0
    )
    guest._stopped = lambda *what: GuestSpan._stopped(guest, *what)
    guest._stream.begin()
    return guest


def follow(guest, cpu, until, soft=False):
    cpu.exit_request = False
    return GuestSpan._follow_guest(guest, cpu, 0, until, soft)


DEVICES = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 40), st.sampled_from([None, None, None, 0])), max_size=6
).map(lambda found: sorted(found, key=lambda each: each[0]))


@example(400, 100, 100, [3, 7, 19], [(10, 0, None), (150, 0, None)])
@given(
    st.integers(1, 400), st.integers(0, 150), st.integers(40, 150),
    st.lists(st.integers(0, 40), min_size=1, max_size=3), DEVICES,
)  # fmt: skip
def test_an_interrupt_is_part_of_the_span_if_it_comes_while_the_guest_runs_and_the_next_after_its_entry_has_begun(
    until, tick, period, tick_cycles, devices
):
    ticks = [
        (at, cycles, None, True) for at, cycles in zip(range(tick, 2000, period), cycle(tick_cycles), strict=False)
    ]
    coming = sorted(ticks + [(*each, False) for each in devices], key=lambda each: (each[0], not each[3]))
    stopped_at, now, hits, served, of_devices = until, 0, 0, 0, 0
    for (at, cycles, components, is_tick), (then, *_) in zip(coming, [*coming[1:], (INF,)], strict=True):
        if at >= until:
            break
        if at < now or components is not None or min(then, until) <= at + 30 + cycles - 7:
            until = at
            break
        now, hits, served = at + 30 + cycles, hits + 1, served + cycles
        of_devices += not is_tick
    found = follow(a_guest(), a_cpu(tick, period, tick_cycles, devices), stopped_at)
    end = max(until, now)
    assert (found.end, found.until, found.by_itself, found.ongoing) == (end, until, False, None)
    assert (found.hits, found.devices, found.served) == (hits, of_devices, served)
    assert found.wall == end - 30 * hits - served


@given(st.integers(1, 2000), st.integers(21, 90), st.integers(0, 40), st.booleans())
def test_a_span_that_is_stopped_ends_in_the_guest_or_before_an_exit_or_once_interrupts_are_on_again(
    until, gap, time, soft
):
    """The n-th exit begins after ``gap`` cycles of the guest; interrupts are off in its last 5 cycles, at the entry."""
    period = gap + 20 + time
    n, into = divmod(until, period)
    found = follow(a_guest(exits_every(gap, time)), a_cpu(INF, 1, [0], []), until, soft)
    assert (found.until, found.by_itself, found.hits) == (until, False, 0)
    if into < gap or (into == gap and soft):
        assert (found.end, found.wall, found.last, found.ongoing) == (until, until, n, None)
    elif into <= period - 5:
        begins = n * period + gap
        assert (found.end, found.wall, found.last, found.ongoing.name) == (begins, begins, n, "msr")
    else:
        over = (n + 1) * period
        assert (found.end, found.wall, found.last, found.ongoing) == (over, over, n + 1, None)


@pytest.mark.parametrize("at", range(95, 130))
def test_an_interrupt_in_an_exit_ends_the_span_before_it_and_one_at_the_entry_comes_after_it(at):
    """The first exit comes after 100 cycles, and takes 25; interrupts are off in the last five."""
    found = follow(a_guest(exits_every(100, 5)), a_cpu(INF, 1, [0], [(at, 9, None)]), 1000)
    if at < 100 or at >= 125:
        assert found.hits == 1
    else:
        assert (found.until, found.hits, found.devices) == (at, 0, 0)
        assert (found.end, found.last, found.ongoing is None) == ((100, 0, False) if at <= 120 else (125, 1, True))


@pytest.mark.parametrize(("device", "until"), [(INF, 100), (100, 1000), (INF, 1000)])
def test_an_exit_with_an_effect_ends_the_span_also_in_the_cycle_of_an_interrupt_or_of_its_limit(device, until):
    (kind,) = exits_every(100, 5)
    kind.effect = True
    found = follow(a_guest([kind]), a_cpu(INF, 1, [0], [(device, 9, None)]), until)
    assert (found.end, found.until, found.by_itself, found.wall, found.last) == (100, 100, True, 100, 0)
    assert not follow(a_guest([kind]), a_cpu(INF, 1, [0], []), 99).by_itself


def test_the_end_of_a_request_ends_the_span_and_before_an_exit_that_comes_with_it():
    for demand in (99, 100):
        guest = a_guest(exits_every(100, 5))
        guest._demand_end = demand
        found = follow(guest, a_cpu(INF, 1, [0], []), 1000)
        assert (found.end, found.by_itself, found.wall, found.last) == (demand, True, demand, 0)


@pytest.mark.parametrize(("at", "under_way"), [(-1, False), (0, True)])
def test_an_exit_is_under_way_if_its_interrupt_comes_with_it_and_not_if_that_came_during_the_entry_before(
    at, under_way
):
    guest = a_guest(exits_every(100, 5))
    guest._wall = 100
    found = follow(guest, a_cpu(INF, 1, [0], [(at, 9, None)]), 1000)
    assert (found.end, found.until, found.wall, found.hits) == (0, at, 100, 0)
    assert (found.ongoing is not None) is under_way
