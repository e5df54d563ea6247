"""What few hosts have, what the compiled engine has no room for, and the event in which engines differ."""

import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest.mock import Mock

import both_engines  # first of all: the loop as plain Python
import pytest
from hosts import changed, only, with_little
from test_host_limits import ALWAYS_IN_THE_KERNEL

from sim.engine import build, choice, events, layout, loop, plain, process, simulation, table, walking
from sim.engine import check as checking
from sim.engine.check import check
from sim.engine.fragments import Unsupported
from sim.engine.signals import PutOff
from sim.errors import InputError
from sim.host import room
from sim.host import simulation as reference

SMALL = """
title = "two guests and a make"
[run]
engine = "ENGINE"
measure = "2 ms"
warmup = "0 ms"
strategies = ["xstate-guest", "manual-load"]
reference = "xstate-guest"
[host]
cpus = 1
cpu = ["zen4"]
tsc = "1 GHz"
[guests.g]
vcpus = 2
demand = "40 us"
sleep = { exponential = "30 us" }
[guests.g.exits.x]
every = "50 us"
[threads.make]
kind = "fork"
compute = "50 us"
sleep = "50 us"
"""


def small(engine="auto"):
    return only(SMALL.replace("ENGINE", engine))


# Which engine runs.


@pytest.fixture
def numba(monkeypatch):
    """numba is there, as far as the choice of an engine goes, and may compile."""
    monkeypatch.setattr(choice, "find_spec", lambda name: name)
    monkeypatch.delenv(choice.DISABLED, raising=False)


@pytest.mark.parametrize("engine", ["auto", "compiled"])
def test_a_record_says_that_the_compiled_engine_made_it_and_is_that_of_the_reference(numba, engine):
    case = small(engine)
    wanted = reference.simulate(case, case.timed_by, case.strategies, 0)
    found = choice.simulate(case, case.timed_by, case.strategies, 0)
    assert {record.engine for record in found} == {"compiled"}
    assert found == wanted


@pytest.mark.parametrize(("value", "is_off"), [("1", True), ("0", False), ("", False), ("yes", False)])
def test_auto_takes_simpy_and_says_so_where_numba_may_not_compile_and_compiled_is_obeyed(
    numba, monkeypatch, value, is_off
):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", value)
    case, asked = small(), small("compiled")
    assert (choice.wanted(case), choice.wanted(asked)) == (not is_off, True)
    of_auto, of_compiled = (choice.simulate(each, each.timed_by, (), 0)[0].engine for each in (case, asked))
    lacks = "simpy (compiled lacks numba's compiler, which NUMBA_DISABLE_JIT turns off)"
    assert (of_auto, of_compiled) == (lacks if is_off else "compiled", "compiled")


def test_what_shows_only_when_it_runs_hands_over_to_simpy_or_is_refused_if_compiled_is_asked_for(numba, monkeypatch):
    def gives_up(*arguments):
        raise Unsupported("more events than there is room for")

    monkeypatch.setattr(simulation, "simulate", gives_up)
    case = small()
    (record,) = choice.simulate(case, case.timed_by, (), 0)
    assert record.engine == "simpy (compiled lacks more events than there is room for)"
    assert record == reference.simulate(case, case.timed_by, (), 0)[0]
    with pytest.raises(InputError, match="found 'compiled', which lacks more events than there is room for"):
        choice.simulate(small("compiled"), case.timed_by, (), 0)


# What few hosts have.

FEW = with_little("a host with little on it", "3 ms") + 'tsc = "1 GHz"\nhz = 1000\n'

RARE = {
    "IPIs to the next vCPU of three": """
[guests.ring]
vcpus = 3
demand = "30 us"
sleep = { exponential = "40 us" }
[guests.ring.exits.ipi]
every = { exponential = "50 us" }
effect = "ipi"
target = "next"
""",
    "threads that neither sleep nor call": """
[threads.busy]
count = 3
compute = { exponential = "40 us" }
""",
    "pipes between CPUs, whose ends run at the same time": """
[threads.pipes]
kind = "pipe"
count = 2
compute = { exponential = "2 us" }
syscall = { exponential = "1 us" }
affinity = "pinned"
""",
    "interrupts and ticks that take a random time": """
interrupt_time = { exponential = "2 us" }
[threads.busy]
compute = "1 ms"
""",
}


@pytest.mark.parametrize("what", RARE)
def test_what_few_hosts_have_gives_the_same_records(what):
    both_engines.assert_the_same(only(FEW + RARE[what]))


def test_interrupts_closer_together_than_the_loop_draws_at_once_give_the_same_records():
    storm = '[interrupts.storm]\nevery = { exponential = "1 us" }\ntime = { exponential = "100 ns" }\n'
    case = only(FEW.replace("cpus = 2", "cpus = 1") + '[threads.busy]\ncompute = "1 ms"\n' + storm)
    both_engines.assert_the_same(changed(case, measure=150e-6, warmup=0.0))


def test_without_idle_balancing_the_records_are_the_same_and_others():
    text = FEW + '[threads.t]\ncount = 3\ncompute = "100 us"\nsleep = { exponential = "50 us" }\n'
    left = only(text.replace("hz = 1000", "hz = 1000\nidle_balancing = false"))
    both_engines.assert_the_same(left)
    one, other = (simulation.simulate(case, case.timed_by, (), 0) for case in (left, only(text)))
    assert one != other


# What the loop has no room for.


@pytest.mark.parametrize(
    ("limit", "most", "says"),
    [
        (layout.MOST_EVENTS, 1, "more events than there is room for"),
        (layout.MOST_QUEUED, 1, "more threads on a CPU than there is room for"),
        (layout.THREADS, 0, "more forked threads at once than there is room for"),
    ],
)
def test_a_loop_that_has_no_room_says_for_what(limit, most, says):
    run = simulation.Replication(small(), "xstate-guest", (), 0)
    run.a.g[limit] = most
    with pytest.raises(Unsupported, match=says):
        run.run()


@pytest.mark.parametrize("room", [1, 3])
def test_where_a_strategy_cannot_walk_a_block_nothing_is_noted_behind_it(monkeypatch, room):
    for module in (layout, walking):
        monkeypatch.setattr(module, "MOST_NOTED", room)
    monkeypatch.setitem(layout.SHAPES, "noted", (room, layout.N_COLUMNS))
    row = simulation.Replication._row
    for last in range(1, 30):
        asked = []

        def fails(run, w, *rest, asked=asked, last=last):
            asked.append(w)
            if asked.count(1) == last:
                raise Unsupported("on purpose")
            return row(run, w, *rest)

        monkeypatch.setattr(simulation.Replication, "_row", fails)
        monkeypatch.setattr(table, "_tables", {})
        with pytest.raises(Unsupported, match="on purpose"):
            simulation.simulate(small(), "xstate-guest", ["manual-load"], 0)


TOUCHES = """
title = "a guest that touches much"
[run]
measure = "12 ms"
warmup = "0 ms"
strategies = ["xstate-guest", "manual-load"]
[host]
cpus = 1
hz = 100
cpu = ["zen4"]
tsc = "1 GHz"
buffer_level = "touched"
l1 = "1 KiB"
l2 = "2 MiB"
[guests.g]
demand = "9 ms"
sleep = "1 ms"
touches = "100 GB/s"
"""


@pytest.mark.parametrize(
    ("less", "more", "says"),
    [
        ("100 GB/s", "900 GB/s", "more bytes through a CPU's caches at once than 61 bits count"),
        ("2 MiB", "1023 GiB", "a cache whose bytes, times TSC Hz, do not fit in 61 bits"),
    ],
)
def test_more_bytes_of_a_cache_than_can_be_counted_are_left_to_the_reference(less, more, says):
    both_engines.assert_the_same(only(TOUCHES))
    case = only(TOUCHES.replace(less, more))
    with pytest.raises(Unsupported, match=says):
        simulation.simulate(case, case.timed_by, case.strategies, 0)


def test_threads_of_one_process_make_the_records_that_one_thread_makes():
    case = changed(small(), measure=300e-6)
    table._tables.clear()
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda n: simulation.simulate(case, case.timed_by, case.strategies, n), range(3)))
    assert found == [reference.simulate(case, case.timed_by, case.strategies, n) for n in range(3)]


def test_an_error_in_what_the_loop_asks_of_python_is_that_error():
    run = simulation.Replication(small(), "xstate-guest", (), 0)

    def fails(*arguments):
        raise ZeroDivisionError("on purpose")

    run.built.streams.refill = fails
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        run.run()


def test_a_cpu_that_never_comes_out_of_the_kernel_is_left_to_the_reference(monkeypatch):
    monkeypatch.setattr(simulation, "PATIENCE_S", 10e-6)
    case = changed(only(ALWAYS_IN_THE_KERNEL), measure=20e-6, warmup=0.0)
    with pytest.raises(Unsupported, match="a CPU that does not come out of the kernel"):
        simulation.simulate(case, case.timed_by, (), 0)


# Event for event.


def test_the_first_event_in_which_the_engines_differ_is_named(monkeypatch):
    case = small()
    assert check(case, case.timed_by, case.strategies, 0).same
    monkeypatch.setattr(process, "charge", both_engines.never(process.charge))
    found = check(case, case.timed_by, (), 0)
    assert not found.same
    assert str(found.of_simpy) != str(found.of_compiled)
    for seen in (found.of_simpy, found.of_compiled):
        assert seen is None or f"at cycle {seen.clock} on CPU 0" in str(seen)


def test_records_that_differ_where_no_event_does_are_named_by_their_strategies(monkeypatch):
    records, case = simulation.Replication.records, small()
    walked = case.strategies[-1]
    assert walked != case.timed_by

    def wrong(run):
        return [replace(each, integrity={"lost": 1}) if each.strategy == walked else each for each in records(run)]

    monkeypatch.setattr(simulation.Replication, "records", wrong)
    found = check(case, case.timed_by, case.strategies, 0)
    assert (found.of_simpy, found.of_compiled, found.same) == (None, None, False)
    assert found.differ == (walked,)
    assert found.events > 20


TWO_CPUS = SMALL.replace("cpus = 1", "cpus = 2").replace("ENGINE", "auto")


def trails(monkeypatch, room, begin=0, length=None):
    """What both engines keep of the same replication, with room for so many marks and events."""
    for module in (layout, events):
        monkeypatch.setattr(module, "MOST_MARKS", room)
    case = only(TWO_CPUS)
    window = checking.Window(begin, length)
    found, points = checking._compiled(case, case.timed_by, (), 0, window)
    return found, checking._reference(case, case.timed_by, (), 0, points, window), points


def test_a_fingerprint_of_each_cpu_is_the_polynomial_of_its_events_in_both_engines(monkeypatch):
    found, wanted, points = trails(monkeypatch, 1 << 14)
    assert found.fingerprints == wanted.fingerprints
    assert len(set(found.fingerprints)) == 2
    for cpu, value in enumerate(found.fingerprints):
        seen = [each for each in wanted.kept if each.cpu == cpu]
        terms = [term for each in seen for term in (each.cpu, each.clock, points.of(each.point), each.thread)]
        powers = (pow(layout.FACTOR, n, layout.PRIME) for n in range(len(terms)))
        assert value == sum(a * b for a, b in zip(reversed(terms), powers, strict=True)) % layout.PRIME


def test_marks_stay_few_however_long_the_replication_and_are_spaced_evenly(monkeypatch):
    every_one, _, _ = trails(monkeypatch, 1 << 14)
    assert (every_one.every, len(every_one.marks)) == (1, every_one.events)
    for trail in trails(monkeypatch, 8)[:2]:
        assert 4 <= len(trail.marks) < 8
        assert len(trail.kept) == 8
        assert trail.every * 8 >= trail.events
        assert trail.marks == every_one.marks[trail.every - 1 :: trail.every]


def test_a_window_of_a_replication_has_the_same_events_and_ends_it(monkeypatch):
    everything, _, _ = trails(monkeypatch, 1 << 14)
    for trail in trails(monkeypatch, 16, 70, 10)[:2]:
        assert trail.records is None
        assert trail.events == 80
        assert trail.kept == everything.kept[70:80]
        assert trail.marks == everything.marks[70:80]


@pytest.mark.parametrize("since", [0.1e-3, 0.5e-3, 0.9e-3, 1.3e-3, 1.9e-3])
def test_bisecting_finds_the_first_event_that_a_comparison_of_all_events_finds(monkeypatch, since):
    case = only(TWO_CPUS)
    rule = process.charge

    def broken(a, c):
        if a.g[layout.NOW] < case.cycles(since):
            rule(a, c)

    monkeypatch.setattr(process, "charge", broken)
    for module in (layout, events):
        monkeypatch.setattr(module, "MOST_MARKS", 1 << 14)
    wanted = check(case, case.timed_by, (), 0)
    assert not wanted.same
    for module in (layout, events):
        monkeypatch.setattr(module, "MOST_MARKS", 4)
    assert check(case, case.timed_by, (), 0) == wanted


# Without a compiler, and signals.


def test_without_a_compiler_no_machine_code_is_made():
    assert not plain.compile_entry(loop.run, 2)


def test_ctrl_c_waits_until_it_is_passed_on_and_does_not_get_lost_at_the_end():
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(len(came)))
    try:
        put_off = PutOff()
        with put_off:
            signal.raise_signal(signal.SIGINT)
            assert came == []
            put_off.pass_on()
            assert came == [0]
            signal.raise_signal(signal.SIGINT)
        assert came == [0, 1]
        signal.raise_signal(signal.SIGINT)
        assert came == [0, 1, 2]
    finally:
        signal.signal(signal.SIGINT, before)


# Memory.


@pytest.mark.parametrize("engine", ["simpy", "auto", "compiled"])
def test_a_host_that_cannot_fit_into_memory_is_refused_before_it_is_made(numba, monkeypatch, engine):
    monkeypatch.setattr(room, "memory_bytes", lambda: 10_000)
    says = r"host.cpus: found 1 CPUs and \d+ threads and vCPUs, which take at least .* GB with 1 strategies; allowed: "
    with pytest.raises(InputError, match=says + "what fits into the 0.0 GB"):
        choice.simulate(small(engine), "xstate-guest", (), 0)


def test_arrays_that_do_not_fit_into_memory_are_left_to_the_reference_or_refused(numba, monkeypatch):
    monkeypatch.setattr(build, "most_queued", lambda *_: 1 << 50)
    case = small()
    (record,) = choice.simulate(case, case.timed_by, (), 0)
    assert record.engine.startswith("simpy (compiled lacks memory for the arrays of 1 CPUs and ")
    with pytest.raises(InputError, match="found 'compiled', which lacks memory for the arrays of "):
        choice.simulate(small("compiled"), case.timed_by, (), 0)


def test_a_host_that_turns_out_not_to_fit_into_memory_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(reference, "populate", lambda *_: bytearray(1 << 60))
    case = small("simpy")
    with pytest.raises(InputError, match=r"host.cpus: found 1 CPUs and .* which take more than there is; "):
        choice.simulate(case, case.timed_by, (), 0)


def no_more(*_):
    raise MemoryError


SAYS = r"memory ran out in replication 3 of case .*, after its host had been made: this process had [\d.]+ GB at most "


def test_memory_that_runs_out_was_for_the_state_under_each_strategy(monkeypatch):
    monkeypatch.setattr(reference.Measurement, "finish", no_more)
    monkeypatch.setattr(room, "CPU_STATE_BYTES", 10**9)
    monkeypatch.setattr(room.resource, "getrusage", lambda _: Mock(ru_maxrss=3 << 20))  # KiB: getrusage(2)
    with pytest.raises(InputError, match=r"had 3\.2 GB at most .* threads and vCPUs take at least 2\.0 GB"):
        reference.simulate(small("simpy"), "xstate-guest", ("free-ssp",), 3)


def test_memory_that_runs_out_later_is_not_told_as_a_host_that_is_too_large(numba, monkeypatch):
    monkeypatch.setattr(reference.Measurement, "finish", no_more)
    with pytest.raises(InputError, match=rf"^{SAYS}.*1 CPUs and \d+ threads and vCPUs take at least 0\.0 GB"):
        choice.simulate(small("simpy"), "xstate-guest", (), 3)
    monkeypatch.setattr(simulation.Replication, "_make_room", no_more)
    with pytest.raises(InputError, match=f"found 'compiled', which lacks memory: {SAYS}"):
        choice.simulate(small("compiled"), "xstate-guest", (), 3)
