"""Within a long replication a run says how far it is, and Ctrl-C ends it."""

import ctypes
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import engine_mode  # first of all: the loop as plain Python  # noqa: F401
import pytest
from hosts import RICH, changed, from_text
from tqdm import tqdm

from sim.engine import loop, simulation, table
from sim.engine.signals import PutOff
from sim.experiment.progress import Progress, every
from sim.host import simulation as reference
from sim.host.elapsed import fraction
from sim.host.warmup import warmup_seconds
from sim.results import progress

ENDLESS = """
title = "more to simulate than anybody waits for"
[run]
measure = "1000 s"
warmup = "0 ms"
replications = 2
strategies = ["xstate-guest", "manual-load"]
reference = "xstate-guest"
engine = "{engine}"
[host]
cpus = 4
cpu = ["zen4"]
[threads.t]
count = 16
compute = {{ exponential = "20 us" }}
sleep = {{ exponential = "20 us" }}
"""

RESTORED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # jobs of a shell ignore it
MAIN = "from sim.cli import main; main()"

# In simulated time.


def rich():
    return changed(from_text(RICH)[0], measure=2e-3, warmup=1e-3)


def test_the_fraction_that_another_thread_sees_is_that_of_simulated_time_in_the_reference():
    case, seen = rich(), []
    end = case.cycles(warmup_seconds(case)) + case.cycles(case.scenario.run.measure)

    def watch(host):
        draw = host.interrupt_cycles

        def looked():
            seen.append((fraction(), min(1.0, host.env.now / end)))
            return draw()

        host.interrupt_cycles = looked

    reference.simulate(case, case.timed_by, (), 0, watch)
    assert len(seen) > 20
    assert all(one == other for one, other in seen)
    assert seen[-1][0] > 0.9
    assert fraction() == 0.0


def test_the_fraction_that_another_thread_sees_is_that_of_simulated_time_in_the_loop(monkeypatch):
    seen, run = [], loop.run

    def looked(handle, budget):
        ended = run(handle, 50)
        seen.append(fraction())
        return ended

    monkeypatch.setattr(loop, "run", looked)
    simulation.simulate(rich(), "xstate-guest", (), 0)
    assert seen == sorted(seen)
    assert seen[0] < 0.1
    assert seen[-1] == 1.0
    assert fraction() == 0.0


def test_the_bar_moves_with_what_is_in_flight_and_never_back():
    told, shown = Progress(shown=True), []
    told.start(10, 2)
    told._bar = tqdm(total=10, initial=2, file=io.StringIO())
    for far in (0.25, 1.5, 1.25):
        told.move(far)
        shown.append(told._bar.n)
    told.step()
    shown.append(told._bar.n)
    told.step()
    shown.append(told._bar.n)
    told.move(20)
    shown.append(told._bar.n)
    told.close()
    assert shown == [2.25, 3.5, 3.5, 3.5, 4, 10]


def test_who_is_told_now_and_then_is_told_until_the_end_whatever_becomes_of_files():
    calls = []

    def tell():
        calls.append(1)
        raise OSError("no space left")

    with every(0.001, tell):
        deadline = time.monotonic() + 30
        while len(calls) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    n = len(calls)
    time.sleep(0.01)
    assert len(calls) == n


# Ctrl-C.


@pytest.fixture
def interruptible():
    """Ctrl-C as a terminal's: what a shell runs in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_between_two_calls_from_machine_code_is_caught_in_the_next():
    """Without PutOff ctypes prints it, and the C function, here qsort() in place of the loop, goes on."""
    signals, caught = PutOff(), []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    def compare(one, other):
        try:
            signals.pass_on()
        except KeyboardInterrupt as error:
            caught.append(error)
        return 0

    items = (ctypes.c_char * 10_000)()
    deadline = time.monotonic() + 30
    with signals:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        while not caught and time.monotonic() < deadline:
            ctypes.CDLL(None).qsort(items, len(items), 1, compare)
    assert len(caught) == 1


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_a_replication_at_the_next_thing_that_the_loop_asks_for(monkeypatch):
    row, calls = simulation.Replication._row, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return row(*arguments)

    monkeypatch.setattr(simulation.Replication, "_row", interrupted)
    monkeypatch.setattr(table, "_tables", {})
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        simulation.simulate(rich(), "xstate-guest", (), 0)
    assert 3 <= len(calls) <= 5
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("engine", ["simpy", "compiled"])
def test_a_run_says_how_far_its_replications_are_and_ctrl_c_ends_it_at_once(engine, jobs, tmp_path):
    if engine == "compiled":
        pytest.importorskip("numba")
    (tmp_path / "endless.toml").write_text(ENDLESS.format(engine=engine))
    arguments = ["run", str(tmp_path / "endless.toml"), "--jobs", str(jobs), "--out", str(tmp_path / "r")]
    script = f"import sys; sys.path[:0] = [{str(Path(__file__).parent.parent)!r}]; {RESTORED}; {MAIN}"
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stderr=subprocess.PIPE, text=True)
    deadline, far = time.monotonic() + 300, []  # the loop may have to be compiled first
    while len(far) < 3:
        said = progress.read(tmp_path / "r")
        if said is not None and said.in_flight > 0 and said.in_flight not in far:
            far.append(said.in_flight)
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, far
        time.sleep(0.1)
    assert far == sorted(far)
    assert far[-1] < 2 * jobs
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)  # the replications would take hours
    assert process.returncode == 130
    assert "interrupted after 0 of " in err
