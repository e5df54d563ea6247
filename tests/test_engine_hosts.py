"""Hosts at random, and what few of them have: both engines give the same records, whichever way through the loop."""

import both_engines  # first of all: the loop as plain Python
import pytest
from any_host import GROUPED, any_host
from hosts import changed, only, with_little
from test_host_limits import IN_ONE_SYSTEM_CALL

from sim.engine import build, choice, fragments, layout, rescheduling, simulation, sources, table
from sim.engine.counted import Counted
from sim.engine.fragments import Unsupported
from sim.host import population
from sim.host import simulation as reference
from sim.host.fork_thread import ForkThread

QUICK = (6, 19, 23, 65, 75, 81, 86, 88, 94, 96, 99, 103, 115, 121, 124, 134, 145, 151, 152, 154, 161, 164, 185)
"""Few hosts that lead nearly everywhere in the loop that all lead to; and 124, where timers expire at one tick."""
DRAWN = GROUPED + 40
BYTES = "more bytes through a CPU's caches at once"
REFUSED = {254: BYTES}
"""Much goes through the caches."""
SLICES = (0, 100_000, 5_000_000, 300_000)
"""What threads ask for with sched_setattr(), in cycles; 0: nothing.  No scenario says it."""


@pytest.fixture
def own_slices(monkeypatch):
    """Threads of all hosts have slices of their own."""

    def with_slices(*arguments):
        host = population.populate(*arguments)
        for thread in {thread for cpu in host.cpus for thread in cpu.rq.waiting()}:
            if not isinstance(thread, ForkThread):  # whose children do not inherit it
                thread.custom_slice = SLICES[thread.number % len(SLICES)]
        return host

    for module in (reference, simulation):
        monkeypatch.setattr(module, "populate", with_slices)


def drawn(own):
    """The numbers of the hosts, those that are not quick marked so; every fourth has slices of its own."""
    return [
        pytest.param(number, marks=[] if number in QUICK else pytest.mark.slow)
        for number in range(DRAWN)
        if (number % 4 == 3) is own
    ]


def assert_the_same(number):
    """Of the host with this number, or it is refused."""
    if number in REFUSED:
        with pytest.raises(Unsupported, match=REFUSED[number]):
            both_engines.assert_the_same(only(any_host(number)))
    else:
        both_engines.assert_the_same(only(any_host(number)))


@pytest.mark.parametrize("number", drawn(own=False))
def test_any_host_gives_the_same_records(number):
    assert_the_same(number)


@pytest.mark.parametrize("number", drawn(own=True))
def test_any_host_whose_threads_have_slices_of_their_own_gives_the_same_records(own_slices, number):
    assert_the_same(number)


HOST = with_little("a host with one thing on it", "5 ms") + 'tsc = "1 GHz"\nhz = 1000\n'
RARE = {
    "a guest without posted interrupts loses its CPU while it polls": """
[guests.poller]
vcpus = 2
idle = "haltpoll"
posted_interrupts = false
demand = { exponential = "20 us" }
arrivals = { exponential = "60 us" }
[threads.waking]
kind = "kthread"
count = 3
compute = { exponential = "30 us" }
sleep = { exponential = "60 us" }
""",
    "a thread runs alone for longer than its virtual time may grow": """
cpus = 1
base_slice = "2 ms"
[threads.long]
nice = 18
compute = "60 ms"
sleep = "1 ms"
""",
    "a kernel thread never sleeps": """
[threads.busy]
kind = "kthread"
compute = { exponential = "200 us" }
[threads.others]
count = 3
compute = { exponential = "200 us" }
sleep = "100 us"
""",
    "threads that never sleep are preempted in their system calls": """
preemption = "full"
[threads.busy]
count = 5
compute = { exponential = "100 us" }
syscall = { exponential = "300 us" }
""",
    "round robin takes no notice of yields": """
cpus = 2
scheduler = "round-robin"
ple_window = 500
[guests.spinners]
vcpus = 4
lock = { every = "20 us", hold = "10 us" }
""",
    "vCPUs that spin yield to one that is alone": """
ple_window = 500
[guests.spinners]
vcpus = 2
affinity = "pinned"
lock = { every = "20 us", hold = "10 us" }
""",
    "ticks take any time, and a thread moves to an idle CPU": """
cpus = 3
interrupt_time = { exponential = "1 us" }
[threads.first]
affinity = [0]
compute = "9 ms"
[threads.stays]
affinity = [1]
compute = { exponential = "100 us" }
sleep = { exponential = "100 us" }
[threads.moves]
affinity = [1, 2]
compute = { exponential = "30 us" }
sleep = { exponential = "50 us" }
""",
    "an idle CPU pulls threads that have waited since the beginning": """
cpus = 2
[threads.stays]
affinity = [1]
compute = "10 us"
sleep = "300 us"
[threads.many]
count = 9
compute = { exponential = "40 us" }
sleep = { exponential = "60 us" }
""",
    "children begin with areas that nobody has used, in the places of those that have ended": """
buffer_level = "touched"
[threads.forks]
kind = "fork"
compute = { exponential = "30 us" }
sleep = { exponential = "60 us" }
fpu = { components = ["SSE", "AVX"], share = 0.5 }
[threads.others]
count = 3
compute = { exponential = "30 us" }
sleep = { exponential = "80 us" }
fpu = { components = ["SSE", "AVX"], share = 0.5 }
""",
    "an area that grows for AMX is one that nobody has used": """
buffer_level = "touched"
[threads.grows]
count = 3
compute = { exponential = "100 us" }
sleep = { exponential = "80 us" }
fpu = { components = ["SSE", "XTILEDATA"], share = 0.3 }
[threads.kernel]
kind = "kthread"
count = 2
compute = { exponential = "100 us" }
sleep = { exponential = "80 us" }
""",
}


@pytest.mark.parametrize("what", RARE)
def test_what_few_hosts_have_gives_the_same_records(what):
    body = RARE[what]
    host = HOST.replace("cpus = 2\n", "") if body.startswith("\ncpus") else HOST
    case = only(host + body)
    both_engines.assert_the_same(changed(case, measure=0.08) if "60 ms" in body else case)


def test_the_loop_counts_idle_cpus_and_listings_on_from_what_there_is_at_the_beginning():
    body = RARE["ticks take any time, and a thread moves to an idle CPU"]
    body = body.replace("cpus = 3", "cpus = 4") + '[threads.many]\ncount = 6\ncompute = "9 us"\naffinity = [0]\n'
    case = changed(only(HOST.replace("cpus = 2\n", "") + body), measure=1e-3)
    run = simulation.Replication(case, case.timed_by, (), 0)
    a = run.a
    assert a.g[layout.IDLE_CPUS] == sum(int(word).bit_count() for word in a.idle) > 0
    assert a.g[layout.LISTINGS] == a.t[:, layout.LISTED].max() > 0
    run.run()
    assert a.g[layout.IDLE_CPUS] == sum(int(word).bit_count() for word in a.idle)


def test_what_a_task_left_on_a_cpu_before_it_moved_gives_the_same_records():
    both_engines.assert_the_same(only(both_engines.MOVING), ("user-return",))


BUSY = """
interrupt_time = "0 ns"
wakeup_time = "0 ns"
[guests.all]
vcpus = 3
demand = "20 us"
sleep = { exponential = "20 us" }
[guests.all.exits.ipi]
every = { exponential = "20 us" }
time = "0 ns"
effect = "ipi"
[guests.all.exits.io]
every = { exponential = "30 us" }
time = "0 ns"
handled = "userspace"
vmm = "2 us"
[threads.pipes]
kind = "pipe"
compute = "5 us"
affinity = "pinned"
count = 2
"""


# What the loop has no room for, or cannot know.


@pytest.fixture
def new_tables(monkeypatch):
    """Nobody has asked the kernel models anything, and nobody goes on with what this test leaves."""
    monkeypatch.setattr(table, "_tables", {})
    monkeypatch.setattr(build, "POINTS", table.Points(build.POINTS.all[: layout.POINT_EQUAL + 1]))


@pytest.mark.parametrize(
    ("module", "name", "most", "says"),
    [
        (table, "MOST", 3, "a kernel model with too many states"),
        (fragments, "SLOTS", 1, "a CPU whose registers speak of more than 1 tasks"),
        (fragments, "TOKENS", 1, "more than 1 contents of one task, or on one CPU"),
        (sources, "TOKENS", 0, "more than 0 contents written at once"),
        (layout, "MOST_POINTS", layout.POINT_EQUAL + 1, "too many kinds of flow points"),
        (rescheduling, "POSTED_MOST", 0, "more interrupts waiting on a CPU than there is room for"),
    ],
)
def test_a_host_for_which_there_is_no_room_is_refused(new_tables, monkeypatch, module, name, most, says):
    monkeypatch.setattr(module, name, most)
    case = only(HOST + BUSY)
    with pytest.raises(Unsupported, match=says):
        simulation.simulate(case, case.timed_by, ("manual-load",), 0)


def test_a_measurement_without_a_cycle_is_left_to_the_reference_which_says_so():
    case = changed(only(IN_ONE_SYSTEM_CALL.format("all", 4)), measure=2e-3, warmup=1e-3)
    with pytest.raises(Unsupported, match="every CPU was in the kernel"):
        simulation.simulate(case, case.timed_by, (), 0)


def test_the_reference_simulates_where_it_is_asked_for():
    case = changed(only(HOST + RARE["a kernel thread never sleeps"]), measure=1e-3, engine="simpy")
    (record,) = choice.simulate(case, case.timed_by, (), 0)
    assert record.engine == "simpy"
    assert record == reference.simulate(case, case.timed_by, (), 0)[0]


def test_accounts_that_do_not_add_up_are_an_error(monkeypatch):
    totals = Counted._totals
    monkeypatch.setattr(Counted, "_totals", lambda counted: totals(counted) + (totals(counted) > 0))
    case = changed(only(HOST + RARE["a kernel thread never sleeps"]), measure=1e-3)
    with pytest.raises(AssertionError, match="cycles elapsed"):
        simulation.simulate(case, case.timed_by, (), 0)
