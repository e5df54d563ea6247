"""Who waits for whom, who spins and who polls, and recorded bursts: the same records of both engines."""

import pytest
from both_engines import BY_CHANCE, IN_ORDER, LOCKED, WAKING, assert_the_same  # first of all: the loop as plain Python
from hosts import changed, only

from sim.engine import simulation
from sim.host import simulation as reference
from sim.host.preemption import PREEMPTION

KICKS = """
[guests.vm.exits.ipi]
every = {{ exponential = "80 us" }}
effect = "ipi"
wakes = {{ make = 0.7 }}
[guests.vm.exits.kick]
every = {{ exponential = "70 us" }}
reason = "{reason}"
wakes = {{ pool = 1.6, make = 0.4 }}
[guests.vm.exits.out]
every = {{ exponential = "90 us" }}
handled = "userspace"
vmm = "8 us"
wakes = {{ pool = 0.8 }}
[guests.vm.exits.cpuid]
every = {{ exponential = "30 us" }}
"""


@pytest.mark.parametrize("reason", ["msr-write", "other"])
@pytest.mark.parametrize("preemption", PREEMPTION)
def test_exits_that_wake_threads_give_the_same_records(preemption, reason):
    case = only(WAKING.format(preemption=preemption, **BY_CHANCE) + KICKS.format(reason=reason))
    assert_the_same(case)


@pytest.mark.parametrize("how", [IN_ORDER, BY_CHANCE], ids=["in order", "by chance"])
@pytest.mark.parametrize("preemption", PREEMPTION)
def test_threads_and_vcpus_that_wait_for_threads_give_the_same_records(preemption, how):
    assert_the_same(only(WAKING.format(preemption=preemption, **how)))


def test_time_limits_of_waits_that_are_over_get_room_when_they_need_it(monkeypatch):
    monkeypatch.setattr(simulation, "SLICE", 7)
    text = (
        WAKING.format(preemption="voluntary", **IN_ORDER)
        .replace('"100 us"', '"9 ms"')
        .replace('at_most = "50 us"', 'at_most = "9 ms"')
    )
    forks, guests = text.index("[threads.forks]"), text.index("[guests.vm]")
    case = only(text[:forks] + text[guests:])
    sizes = []
    make_room = simulation.Replication._make_room

    def noted(run):
        run.built.most_events = 900  # so that it is not at once that there is too little room
        make_room(run)
        sizes.append(len(run.a.heap))

    monkeypatch.setattr(simulation.Replication, "_make_room", noted)
    assert_the_same(case)
    assert sizes[0] < sizes[-1]


BLOCKS = """
[threads.recorded]
{more}
compute = {{ empirical = {path!r}, column = "compute", unit = "us" }}
sleep = {{ empirical = {path!r}, column = "sleep", unit = "us" }}
"""


@pytest.mark.parametrize("more", ["blocks = 3\ncount = 2", "blocks = 50\ncount = 2", 'blocks = 50\nkind = "fork"'])
def test_bursts_and_sleeps_in_recorded_blocks_give_the_same_records(more, tmp_path):
    rows = "".join(f"{7 * i % 11 + 1},{5 * i % 13 + 1}\n" for i in range(50))
    (tmp_path / "recorded.csv").write_text(f"compute,sleep\n{rows}")
    blocks = BLOCKS.format(path=str(tmp_path / "recorded.csv"), more=more)
    assert_the_same(only(WAKING.format(preemption="voluntary", **IN_ORDER) + blocks))


@pytest.mark.parametrize("kernel", ["v6.18", "v7.3"])
@pytest.mark.parametrize("directed", ["none", "v7.3", "lag-credit"])
def test_guests_that_spin_and_guests_that_poll_give_the_same_records(directed, kernel):
    text = LOCKED.replace("lag-credit", directed).replace("cpus = 2", f'cpus = 2\nkernel = ["{kernel}"]')
    case = changed(only(text), measure=5e-3)
    assert reference.simulate(case, case.timed_by, (), 0)[0].metrics["guest_spin_cycles"][0] > 0
    assert_the_same(case)
