"""How much a simulated host draws ahead and keeps before it is walked, which no result shows."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
from test_host_parts import kind_with

from sim.host.cpu_time import CpuTime
from sim.host.exits import ExitStream
from sim.host.interrupts import Devices, DeviceSource, TickTimes
from sim.host.schedule import Schedule
from sim.host.streams import Draws, Instants


def take_draws(asks):
    draws = Draws(asks)
    for _ in range(3000):
        draws.next()


def pass_exits(asks):
    kind = kind_with(np.random.default_rng(0), 0, [([], [], [])], 2, False, 20, 0.0)
    kind.gaps = asks
    stream = ExitStream([kind], batch=True)
    stream.begin()
    ahead = [len(stream.wall) - 1]
    for _ in range(9):
        stream.skip(len(stream.wall) - 1)
        stream.refill()
        ahead.append(len(stream.wall) - 1)
    assert ahead == [16 + 32 + 64 + 128, 256, 512, 1024, 2048, 4096, 8192, 8192, 8192, 8192]


@pytest.mark.parametrize(
    ("largest", "use"), [(512, take_draws), (512, lambda asks: Instants(asks).upto(3000)), (8192, pass_exits)]
)
def test_twice_as_many_are_drawn_ahead_each_time_up_to_a_limit(largest, use):
    drawn = []

    def asks(n):
        drawn.append(n)
        return np.ones(n, np.int64)

    use(asks)
    assert drawn == [min(16 << k, largest) for k in range(len(drawn))]
    assert drawn[-2:] == [largest, largest]


@pytest.mark.parametrize("which", [0, 1])
def test_the_kind_of_exit_that_comes_most_often_is_drawn_ahead_the_farthest_and_twice_as_far_each_time(which):
    """The other one, of which fewer are drawn, says how many of them are laid out."""
    kinds = [kind_with(np.random.default_rng(0), i, [([], [], [])] * 2, 2, False, 20, 0.0) for i in range(2)]
    for i, kind in enumerate(kinds):
        kind.gaps = functools.partial(np.full, fill_value=2 if i == which else 3)
    stream = ExitStream(kinds, batch=True)
    stream.begin()
    for fillings in range(6):
        ahead = [
            len(kind.drawn_guest) + np.count_nonzero(np.asarray(stream._kind[stream.next :]) == i)
            for i, kind in enumerate(kinds)
        ]
        assert 128 << fillings <= ahead[which] < 512 << fillings
        assert ahead[1 - which] < ahead[which]
        stream.skip(len(stream.wall) - 1)
        stream.refill()


def test_other_strategies_walk_the_points_in_blocks_of_16384():
    walked = []
    walker = SimpleNamespace(walk=lambda points: walked.append(len(points)))
    cpu = SimpleNamespace(schedule=Schedule(None, [walker]), id=0, touched=0)
    for _ in range(2 * 16384 + 1):
        CpuTime.tell(cpu, None)
    assert (walked, len(cpu.schedule.points)) == ([16384, 16384], 1)


@pytest.mark.parametrize("of_devices", [False, True])
def test_interrupts_that_have_been_served_are_forgotten(of_devices):
    draws = Draws(np.arange)
    source = DeviceSource(Instants(np.ones), draws, Draws(np.zeros), 0)
    ahead = Devices([source]) if of_devices else TickTimes(draws)
    ahead.cycles(70)
    kept = []
    for served in (64, 1, 0):
        ahead.serve(served)
        ahead.cycles(0)
        kept.append(len(ahead._ready))
    assert kept == [7, 6, 6]
