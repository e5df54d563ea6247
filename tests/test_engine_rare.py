"""What hardly any host leads to and some branch of the loop needs: hosts made for it, errors, and arrays that grow."""

import re
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import both_engines  # first of all: the loop as plain Python
import pytest
from hosts import changed, only, simulate
from test_engine_hosts import BUSY, HOST

from sim.engine import blocks, events, kept_tables, kernel_work, layout, loop, process, simulation, table, vcpus
from sim.engine import check as checking
from sim.engine.fragments import Unsupported
from sim.engine.transitions import Transitions

SPINNERS = """
[guests.s]
vcpus = {n}
lock = {{ every = "20 us", hold = "10 us" }}
"""
SIGNALLED = """
[guests.g]
vcpus = 4
demand = "20 us"
sleep = { exponential = "30 us" }
signalled = 0.5
signal_time = "5 us"
[guests.g.exits.x]
every = { exponential = "15 us" }
effect = "ipi"
"""
RARE = {
    "vCPUs that wake up on idle CPUs are yielded to": """
cpus = 4
idle_exit = "100 us"
ple_window = 500
directed_yield = "lag-credit"
[guests.s]
vcpus = 8
demand = { exponential = "100 us" }
sleep = { exponential = "200 us" }
lock = { every = "20 us", hold = "10 us" }
[threads.h0]
affinity = [0]
compute = { exponential = "100 us" }
sleep = { exponential = "100 us" }
[threads.h1]
affinity = [1]
compute = { exponential = "100 us" }
sleep = { exponential = "100 us" }
""",
    "vCPUs wake up on idle CPUs together": """
cpus = 8
idle_exit = "200 us"
ple_window = 500
directed_yield = "v7.3"
[guests.s]
vcpus = 12
demand = { exponential = "100 us" }
sleep = "300 us"
lock = { every = "20 us", hold = "30 us" }
""",
    "a search for a vCPU to yield to begins where the last one ended in steps": """
cpus = 2
ple_window = 500
directed_yield = "v6.18"
"""
    + SPINNERS.format(n=9),
    "more wait on a CPU than the credit of lag counts": """
cpus = 1
ple_window = 500
directed_yield = "lag-credit"
"""
    + SPINNERS.format(n=24),
    "the window of a guest that spins does not grow": """
ple_window = 500
ple_window_grow = 0
"""
    + SPINNERS.format(n=4),
    "signals and IPIs come to vCPUs that are elsewhere": SIGNALLED,
    "signals end a halt before anybody has woken the vCPU": """
halt_poll = "100 us"
"""
    + SIGNALLED
    + """
[threads.h]
count = 2
compute = { exponential = "500 us" }
sleep = { exponential = "100 us" }
""",
    "a vCPU that somebody wakes is woken by an IPI meanwhile": """
cpus = 4
wakeup_time = "20 us"
halt_poll = "0 us"
[threads.kicker]
count = 3
compute = "10 us"
sleep = { exponential = "60 us" }
wakes = { vm = 1.5 }
[guests.vm]
vcpus = 6
demand = "30 us"
waits = { share = 1.0 }
[guests.vm.exits.ipi]
every = { exponential = "15 us" }
effect = "ipi"
""",
    "the time limit of a wait ends one in the middle of the queue": """
cpus = 3
wakeup_time = "15 us"
[threads.source]
compute = "10 us"
sleep = { exponential = "60 us" }
wakes = { relay = 1.0 }
[threads.relay]
count = 4
compute = { exponential = "10 us" }
waits = { share = 1.0, at_most = "90 us" }
wakes = { sink = 1.5 }
[threads.sink]
count = 3
compute = "1 us"
waits = { share = 1.0 }
""",
}
AMX = """
[threads.a]
compute = { exponential = "100 us" }
sleep = { exponential = "80 us" }
fpu = { components = ["SSE", "XTILEDATA"], share = 0.1 }
[threads.k]
kind = "kthread"
count = 2
compute = { exponential = "100 us" }
sleep = { exponential = "80 us" }
"""
"""The area of a task grows on one CPU while another still knows the old one as its last XRSTORS."""


def host(text):
    """Two CPUs, or as many as the text says first."""
    return only((HOST.replace("cpus = 2\n", "") if text.startswith("\ncpus") else HOST) + text)


@pytest.mark.parametrize("what", RARE)
def test_what_hardly_any_host_has_gives_the_same_records(what):
    both_engines.assert_the_same(host(RARE[what]))


def test_an_area_that_is_replaced_on_another_cpu_gives_the_same_records():
    both_engines.assert_the_same(host(AMX))


STRATEGIES = ("user-return", "manual-load", "manual-lazy", "xstate-all-resident")
CONSTANT = both_engines.MOVING.replace('"rewritten"', '"constant"')


def test_what_a_task_left_on_a_cpu_and_still_has_gives_the_same_records_and_is_looked_up_the_next_time(new_tables):
    for replication in range(2):
        both_engines.assert_the_same(only(CONSTANT), STRATEGIES, replication)


# Operations that take no time, so that what follows them comes in the same cycle.

TABLES = Path(__file__).parent.parent / "sim/costs/tables"


@pytest.fixture
def free(tmp_path):
    """Keys of a host on which nothing that the kernel or the processor does takes time."""

    def zero(row):
        return re.sub(r"\b(value|low) = +[0-9.]+", r"\1 = 0", re.sub(r"\bhigh = +[0-9.]+", "high = 1", row))

    for name in ("sapphire-rapids", "skylake-sp"):
        rows = (TABLES / f"{name}.toml").read_text().replace('"skylake-sp"', '"skylake-sp.toml"').splitlines()
        (tmp_path / f"{name}.toml").write_text("\n".join(row if '"ratio"' in row else zero(row) for row in rows))
    return f"""
costs = {{ sapphire-rapids = {str(tmp_path / "sapphire-rapids.toml")!r} }}
interrupt_time = "0 ns"
wakeup_time = "0 ns"
idle_exit = "0 us"
ple_time = "0 ns"
ple_window = 500
halt_poll = "0 us"
"""


POLLING = """
[guests.polling]
vcpus = 3
idle = "haltpoll"
demand = "20 us"
sleep = { exponential = "300 us" }
"""


CALLS = BUSY[BUSY.index("[guests.all]") :]


@pytest.mark.parametrize(
    "text",
    [POLLING, SPINNERS.format(n=8), CALLS, 'preemption = "full"\n' + CALLS],
    ids=["polling", "spinning", "calls", "preempted calls"],
)
def test_a_host_on_which_nothing_takes_time_but_programs_gives_the_same_records(free, text):
    case = only(HOST + free + text)
    assert not any(cycles for _, _, cycles in simulate(case, case.timed_by, 0).ledger)
    both_engines.assert_the_same(case)


@pytest.mark.parametrize("pending", [1, 0])
def test_what_comes_in_the_cycle_in_which_polling_ends_keeps_the_vcpu_from_blocking(pending):
    run = simulation.Replication(host(POLLING), "xstate-guest", (), 0)
    t = run.built.number(next(thread for thread in run.built.threads if "vcpu" in thread.name))
    run.a.c[0, layout.THREAD] = t
    run.a.t[t, layout.ACCOUNT], run.a.t[t, layout.WAITING_REQUESTS] = layout.HALT_POLL, pending
    vcpus.vcpu_event(run.a, 0, t, process.EVENT)
    assert bool(run.a.t[t, layout.BLOCKED]) is not bool(pending)


@pytest.mark.parametrize("started", [7_000, layout.INF])
def test_a_timer_that_a_cpu_has_started_before_the_ipi_that_was_to_start_it_stays(started):
    run = simulation.Replication(host(POLLING), "xstate-guest", (), 0)
    run.a.c[1, layout.HRTICK_ASKED], run.a.c[1, layout.HRTICK_TIME] = 1, started
    kernel_work.act(run.a, 1, layout.START_HRTICK, 9_000)
    assert run.a.c[1, layout.HRTICK_TIME] == min(started, 9_000)
    assert not run.a.c[1, layout.HRTICK_ASKED]


# Tables.

TOUCHED = """
buffer_level = "touched"
[threads.all]
count = 3
compute = { exponential = "30 us" }
sleep = { exponential = "20 us" }
fpu = { components = ["SSE", "AVX"], share = 0.5 }
[guests.one]
demand = { exponential = "30 us" }
sleep = { exponential = "20 us" }
[guests.one.exits.io]
every = { exponential = "50 us" }
kernel_fpu = 0.5
"""


@pytest.mark.parametrize("text", [HOST + TOUCHED, HOST + AMX, CONSTANT], ids=["touched", "areas", "equal"])
def test_tables_that_begin_with_one_row_and_grow_give_the_same_records(new_tables, monkeypatch, text):
    begin = table.Table.__init__

    def small(self, *given, **more):
        begin(self, *given, **more)
        self.rows, self.hash = table.zeros(1, layout.R_COLUMNS), self.hash[:4].copy()
        self.levels, self.level_counts = self.levels[:1].copy(), self.level_counts[:1].copy()
        self.flags = self.flags[: max(self._flagged)].copy()

    monkeypatch.setattr(table.Table, "__init__", small)
    both_engines.assert_the_same(only(text), ("manual-load", "user-return"))
    (grown, *_) = table._tables.values()
    for array in (grown.rows, grown.hash, grown.levels, grown.level_counts, grown.flags):
        assert len(array) > 4


def test_what_is_done_for_hosts_of_many_cpus_and_streams_changes_no_record(monkeypatch):
    """Prefetching, which compiled code does from 256 CPUs on whatever is set here, and streams in one array."""
    monkeypatch.setattr(events, "MANY_CPUS", 1)
    monkeypatch.setattr(loop, "MANY_CPUS", 1)
    monkeypatch.setattr(blocks, "MANY", 1)
    both_engines.assert_the_same(only(HOST + TOUCHED), ("manual-load", "user-return"))


@pytest.mark.parametrize("text", [HOST + AMX, CONSTANT], ids=["areas", "equal"])
def test_tables_that_move_whenever_something_is_noted_give_the_same_records(new_tables, monkeypatch, text):
    """The loop has addresses, and what was there is overwritten here."""

    def moves(method):
        def moving(self, *given):
            result = method(self, *given)
            for name in ("rows", "hash", "levels", "level_counts", "flags"):
                there = getattr(self, name)
                setattr(self, name, table.zeros(*there.shape))
                getattr(self, name)[:] = there
                left.append(there)
                there[:] = 1 << 40
            self.moved = True
            return result

        return moving

    left = []
    for name in ("_new_row", "_note_flags"):
        monkeypatch.setattr(table.Table, name, moves(getattr(table.Table, name)))
    both_engines.assert_the_same(only(text), ("manual-load", "user-return"))
    assert len(left) > 100


def test_after_a_row_for_which_there_was_no_memory_a_table_gives_the_same_records(new_tables, monkeypatch):
    add, added = table.Table._new_row, count()

    def no_memory(self):
        raise MemoryError

    def adding(self, *given):
        with monkeypatch.context() as here:
            if next(added) == 10:
                here.setattr(table.Table, "_note_flags", no_memory)
            return add(self, *given)

    monkeypatch.setattr(kept_tables, "read", lambda name: [])
    monkeypatch.setattr(table.Table, "_new_row", adding)
    case, strategies = only(HOST + TOUCHED), ("manual-load", "user-return")
    with pytest.raises(Unsupported, match="memory"):
        simulation.simulate(case, *strategies[:1], strategies, 0)
    both_engines.assert_the_same(case, strategies)
    assert next(added) > 20


@pytest.mark.parametrize("most", [1, 40])
def test_a_kernel_model_with_more_rows_or_states_than_a_table_can_have_is_refused(new_tables, monkeypatch, most):
    monkeypatch.setattr(table, "MOST", most)
    with pytest.raises(Unsupported, match="a kernel model with too many states"):
        simulation.simulate(host(TOUCHED), "xstate-guest", (), 0)


# Compiling, and comparing.


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_the_loop_is_complete_once_all_of_its_entries_have_been_made_and_kept(monkeypatch, missing, kept):
    made, completed = [], []

    @contextmanager
    def making():
        yield missing

    def compile_entry(function, arguments):
        made.append(function)
        return kept or len(made) > 1

    monkeypatch.setattr(loop, "HAVE_NUMBA", True)
    monkeypatch.setattr(loop, "making", making)
    monkeypatch.setattr(loop, "compile_entry", compile_entry)
    monkeypatch.setattr(loop, "complete", lambda: completed.append(len(made)))
    loop.compile_all.__wrapped__()
    assert made == [function for function, _ in loop.ENTRIES]
    assert completed == ([len(made)] if missing and kept else [])


def test_engines_that_logged_so_differently_many_events_that_one_thinned_its_marks_are_compared_at_those_of_both():
    marks = list(range(100, 116))
    often = checking.Trail([], every=1, marks=marks[:12])
    seldom = checking.Trail([], every=4, marks=[103, 107, 0, 0])
    for one, other in ((often, seldom), (seldom, often)):
        again = [checking.Trail([], every=each.every, marks=list(each.marks)) for each in (one, other)]
        assert checking._narrowed(checking.Window(32), *again) == checking.Window(32 + 8, 4)


FORKS = """
[threads.make]
kind = "fork"
count = 2
compute = { exponential = "50 us" }
sleep = { exponential = "50 us" }
exec = true
fpu = { components = ["SSE", "AVX"] }
"""


def test_tasks_that_have_contents_in_common_have_them_in_common_when_one_takes_over_from_the_other(
    new_tables, monkeypatch
):
    """A child has its parent's registers until it writes its own, and the CPU knows both."""
    found, pairs = [], Transitions._pairs

    def noted(*arguments):
        found.append(pairs(*arguments))
        return found[-1]

    monkeypatch.setattr(Transitions, "_pairs", noted)
    case = changed(only(HOST + FORKS), measure=20e-3)
    both_engines.assert_the_same(case, ("manual-load", "user-return"))
    assert any(found)
