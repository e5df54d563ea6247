"""What the simulated host promises about itself: bounded memory, and a warm-up that is long enough."""

import math
import re
from collections import deque
from statistics import mean, stdev
from unittest.mock import Mock

import numpy as np
import pytest
from hosts import MS, RICH, SHIPPED, changed, from_text, hosted, on_host, only, simulate, threads, value
from test_host_cpus import FOUR

from sim.errors import InputError
from sim.host.exits import LARGEST_BLOCK, ExitStream
from sim.host.interrupts import Devices, TickTimes
from sim.host.room import size_text
from sim.host.simulation import Measurement, cross
from sim.host.streams import Draws, Instants
from sim.host.warmup import warmup_seconds
from sim.host.watching import watch
from sim.kernel.operations import Ledger
from sim.scenario.cases import cases
from sim.scenario.reading import read

# An end.

ALWAYS_IN_THE_KERNEL = """
title = "requests that come faster than the interrupts for them can be served, on one of four CPUs"
[run]
measure = "1 ms"
strategies = ["free-ssp"]
[host]
cpus = 4
cpu = ["sapphire-rapids"]
tsc = "2 GHz"
[guests.storm]
vcpus = 4
affinity = [0]
posted_interrupts = false
demand = "1 us"
arrivals = "400 kHz"
"""


def test_a_cpu_that_never_comes_out_of_the_kernel_ends_the_run_with_a_message():
    case = only(ALWAYS_IN_THE_KERNEL)
    with pytest.raises(InputError, match=r"run\.measure: found '1 ms', after which CPU 0 did not come out"):
        simulate(case, case.reference, 0)
    with pytest.raises(InputError, match=r"after which CPU 0 did not come out"):
        for _ in watch(case, case.reference, 0, Mock()):
            pass


def test_who_watches_a_run_gets_a_turn_each_simulated_millisecond():
    case = changed(only(FOUR + '[threads.t]\ncompute = "1 ms"\n'), measure=3 * MS, warmup=2 * MS)
    assert sum(1 for _ in watch(case, case.reference, 0, Mock())) == 2 + 3 + 1  # and at the end


def test_a_run_whose_accounts_do_not_add_up_to_the_time_that_passed_ends_with_the_figures(monkeypatch):
    case = changed(only(FOUR + '[threads.t]\ncompute = "1 ms"\n'), measure=1 * MS, warmup=0.0)
    assert simulate(case, case.reference, 0)
    end = Measurement.end

    def ends_late(self, cpu):
        end(self, cpu)
        self.elapsed += cpu.id

    monkeypatch.setattr(Measurement, "end", ends_late)
    with pytest.raises(AssertionError, match=r": \d+ cycles elapsed, \d+ are accounted for; operations took") as error:
        simulate(case, case.reference, 0)
    elapsed, accounted = map(int, re.findall(r"(\d+) cycles elapsed, (\d+) are", str(error.value))[0])
    assert elapsed - accounted == 1 + 2 + 3


def test_patience_that_ends_in_the_cycle_in_which_the_measurement_does_refuses_nothing():
    _env, host = hosted(only(FOUR + '[threads.t]\ncompute = "1 ms"\n'))
    measurement = Measurement(host)
    cross(host, measurement.end)
    with pytest.raises(InputError, match="did not come out"):
        measurement._refuse(only(ALWAYS_IN_THE_KERNEL))
    for cpu in host.cpus:
        cpu.pass_boundary()
    assert measurement.over.triggered
    measurement._refuse(only(ALWAYS_IN_THE_KERNEL))


IN_ONE_SYSTEM_CALL = FOUR + '[threads.{}]\ncount = {}\ncompute = "1 us"\nsyscall = "8 ms"\naffinity = "pinned"\n'


def test_a_cpu_that_is_in_the_kernel_during_all_of_the_measurement_measures_nothing():
    case = changed(only(IN_ONE_SYSTEM_CALL.format("one", 1)), measure=2 * MS, warmup=1 * MS)
    assert 3 * 2 * MS <= value(simulate(case, case.reference, 0), "elapsed_cycles") / case.tsc_hz < 3 * 2.1 * MS


def test_a_measurement_without_a_cycle_is_one_message():
    case = changed(only(IN_ONE_SYSTEM_CALL.format("all", 4)), measure=2 * MS, warmup=1 * MS)
    with pytest.raises(
        InputError, match=r"run\.measure: found '2 ms', during all of which every CPU was in the kernel"
    ):
        simulate(case, case.reference, 0)


# Memory.


@pytest.mark.parametrize(
    ("entry", "number"),
    [
        *((f'[threads.t]\ncount = 3\nkind = "{kind}"\ncompute = "1 ms"\nsleep = "1 ms"\n', 3)
          for kind in ("compute", "kthread", "fork")),
        ('[threads.t]\ncount = 3\nkind = "pipe"\ncompute = "1 us"\n', 6),
        ("[guests.g]\nvms = 3\nvcpus = 2\n", 6),
    ],
)  # fmt: skip
def test_how_large_a_host_is_counts_the_threads_that_it_has_both_of_a_pipe_and_those_of_all_vcpus(entry, number):
    case = only(FOUR + entry)
    assert size_text(case) == f"4 CPUs and {number} threads and vCPUs"
    assert len(threads(hosted(case)[1])) == number - (3 if "pipe" in entry else 0)  # the second waits for the first


FORKING = FOUR + '[threads.make]\nkind = "fork"\ncount = 4\ncompute = "20 us"\nsleep = "100 us"\n'


BOUNDED = (str, bytes, int, float, type, np.random.Generator, Draws, Instants, TickTimes, Devices, ExitStream, Ledger)
"""What is drawn ahead, and operations to be counted: blocks that grow to a constant."""


def held(root):
    """How many elements the containers hold that are reachable from ``root``."""
    seen, todo, elements = set(), deque([root]), 0
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, BOUNDED):
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            elements += len(each)
            todo.extend(each.keys())
            todo.extend(each.values())
        elif isinstance(each, (list, tuple, set, frozenset, deque)):
            elements += len(each)
            todo.extend(each)
        elif callable(each) and hasattr(each, "__closure__"):
            todo.extend(cell.cell_contents for cell in each.__closure__ or ())
            todo.append(getattr(each, "__self__", None))
        elif type(each).__module__.startswith(("sim.", "simpy")):
            names = {name for kind in type(each).__mro__ for name in getattr(kind, "__slots__", ())}
            todo.extend(getattr(each, name) for name in names if hasattr(each, name))
            todo.append(getattr(each, "__dict__", None))
    return elements


def least_held(env, host, until):
    """The least that is held at some instants before ``until``, when few children live; with SimPy's queue."""
    sizes = []
    for k in range(10, -1, -1):
        env.run(until=until - k * 123_456)
        sizes.append(held(host) + len(env._queue))
    return min(sizes)


@pytest.mark.parametrize(
    "text", [FORKING, FORKING.replace("kind = ", "exec = false\nkind = ")], ids=["exec", "no exec"]
)
def test_what_is_held_does_not_grow_with_simulated_time_though_thousands_of_children_come_and_go(text):
    case = only(text)
    env, host = hosted(case)
    once, later = (least_held(env, host, case.cycles(seconds)) for seconds in (0.03, 0.12))
    assert sum(cpu.count_forks for cpu in host.cpus) > 2000
    assert later <= 2 * once  # what is between two instructions at that instant varies; three children in four are new
    assert len(host.kernel.contexts) <= 5 + 4 + 4  # kernel, idle, parents, and a child of each
    assert len(host.kernel.buffer_level._used) <= 4 + 4


def test_walkers_hold_no_more_either_however_many_children_come_and_go():
    env, host = hosted(only(FORKING), others=["no-cet", "xstate-all"])
    env.run(until=host.cpus[0].host.env.now + 100_000_000)
    host.schedule.walk()
    for walker in host.schedule.walkers:
        assert len(walker.kernel.contexts) == len(host.kernel.contexts) <= 5 + 4 + 4
        assert len(walker.tasks) <= 4 + 4 + 4
        assert len(walker.kernel.buffer_level._used) <= 4 + 4


@pytest.mark.slow
def test_what_is_held_does_not_grow_with_simulated_time_on_a_host_with_everything():
    case = from_text(RICH)[0]
    env, host = hosted(case)
    once, later = (least_held(env, host, case.cycles(seconds)) for seconds in (0.2, 0.6))
    assert later <= 1.3 * once


@pytest.mark.parametrize("every", ["20 kHz", "1 kHz"])
def test_exits_are_drawn_ahead_in_blocks_that_do_not_grow_without_bound(every):
    case = only(FOUR + f'[guests.g.exits.a]\nevery = "{every}"\n[guests.g.exits.b]\nevery = "50 Hz"\n')
    env, host = hosted(case)
    (vcpu,) = threads(host).values()
    ahead = []
    for milliseconds in range(0, 2000, 50):
        env.run(until=case.cycles((milliseconds + 1) * MS))
        ahead.append(len(vcpu._stream.guest) + sum(len(kind.drawn_guest) for kind in vcpu._stream.kinds))
    assert max(ahead) <= 4 * LARGEST_BLOCK


# Warm-up.


def rates(case, strategy, warmup_s, replications):
    """Guest share, operations' cycles and context switches of each replication, per second of a CPU."""
    changed = case.scenario.run.model_copy(update={"warmup": warmup_s, "measure": 40 * MS})
    longer = type(case)(**{name: getattr(case, name) for name in case.__slots__} | {
        "scenario": case.scenario.model_copy(update={"run": changed})})  # fmt: skip
    records = [simulate(longer, strategy, n) for n in range(replications)]
    return [
        [value(record, metric) / value(record, "elapsed_cycles") for record in records]
        for metric in ("guest_cycles", "operations_cycles", "context_switches")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rfc-question", "overcommit"])
def test_twice_the_warm_up_changes_no_metric_beyond_its_standard_error(name):
    (path,) = [path for path in SHIPPED if path.stem == name]
    case = cases(read(path))[-1]
    warmup = warmup_seconds(case)
    n = 6
    for once, twice in zip(
        rates(case, case.reference, warmup, n), rates(case, case.reference, 2 * warmup, n), strict=True
    ):
        error = math.hypot(stdev(once), stdev(twice)) / math.sqrt(n)
        assert abs(mean(once) - mean(twice)) <= 3 * error


@pytest.mark.parametrize(
    ("threads", "measure", "warmup_ms"),
    [
        ('[threads.t]\ncount = 8\ncompute = "1 ms"', "5 s", 80),  # ten rounds of two ticks of 4 ms
        (
            '[threads.t]\ncount = 9\ncompute = "1 ms"\n[threads.p]\nkind = "pipe"\ncount = 2\ncompute = "1 us"',
            "5 s",
            160,
        ),
        ('[threads.t]\ncompute = "1 ms"\nsleep = "50 ms"', "5 s", 500),
        ('[guests.g]\ndemand = "1 ms"\narrivals = "20 Hz"', "5 s", 500),
        ("[guests.g]", "5 s", 40),  # which waits for nothing
        ('[threads.t]\ncompute = "1 ms"\nsleep = "50 ms"', "100 ms", 100),
    ],
)
def test_the_warm_up_is_ten_rounds_or_ten_waits_but_not_longer_than_the_measurement(threads, measure, warmup_ms):
    case = only(FOUR.replace('"50 ms"', f'"{measure}"') + threads)
    assert warmup_seconds(case) == pytest.approx(warmup_ms * MS)


def test_without_warm_up_the_measurement_begins_at_once():
    case = only(FOUR.replace("[host]", 'warmup = "0 ns"\n[host]') + '[threads.t]\ncompute = "1 ms"\n')
    assert value(simulate(on_host(case), "xstate-guest", 0), "elapsed_cycles") == pytest.approx(
        4 * case.cycles(50 * MS), rel=1e-4
    )
