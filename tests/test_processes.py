"""Worker processes of this machine: whenever one of them is killed, the work goes on, and ends."""

import errno
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, wait
from multiprocessing.context import SpawnProcess

import pytest
from worker_tasks import dies, dies_twice, doubled, killed_in_an_answer, raises_unsendable

from sim import processes
from sim.errors import InputError, RunError
from sim.experiment.pool import Gone
from sim.experiment.processes import Processes
from sim.processes import Died, Workers, in_processes

PATIENCE_S = 120


@pytest.fixture
def pool(request):
    started = Workers(3, getattr(request, "param", doubled))
    yield started
    started.close(at_once=True)


def test_tasks_are_done_and_what_they_raise_is_raised_here(pool):
    futures = [pool.submit(n) for n in (*range(20), None, *range(20, 30))]
    assert [each.result(PATIENCE_S) for each in futures if each is not futures[20]] == [2 * n for n in range(30)]
    with pytest.raises(InputError, match="none"):
        futures[20].result(PATIENCE_S)


def test_a_task_that_cannot_be_sent_leaves_its_worker_for_others(pool):
    failed = [pool.submit(threading.Lock()) for _ in range(6)]
    for each in failed:
        assert "pickle" in str(each.exception(PATIENCE_S))
    assert pool.submit(4).result(PATIENCE_S) == 8


@pytest.mark.parametrize("pool", [raises_unsendable], indirect=True)
def test_an_error_that_cannot_be_sent_is_told_and_kills_no_worker(pool):
    for _ in range(2):
        assert re.fullmatch(
            r"Unsendable: of one process \(cannot be sent as it is: .*pickle.*\)",
            str(pool.submit(1).exception(PATIENCE_S)),
        )
    assert all(each.process.is_alive() for each in pool._all.values())


def test_a_worker_that_is_killed_in_the_middle_of_an_answer_has_died(pool, monkeypatch):
    monkeypatch.setattr(processes, "_serve", killed_in_an_answer)
    error = pool.submit(1).exception(PATIENCE_S)
    assert isinstance(error, Died)
    monkeypatch.undo()
    pool.start_again(error.number)
    assert pool.submit(1).result(PATIENCE_S) == 2


def test_a_pool_that_ends_at_once_waits_neither_for_tasks_nor_for_workers_that_have_died(pool):
    begun = [pool.submit(n) for n in range(300)]
    begun[0].result(PATIENCE_S)
    os.kill(pool._all[0].process.pid, signal.SIGKILL)
    pool.close(at_once=True)
    assert all(each.done() for each in begun)
    assert not any(each.process.is_alive() for each in pool._all.values())


def test_a_pool_that_ends_at_once_does_not_wait_for_a_worker_that_is_stopped(pool):
    pool.submit(1).result(PATIENCE_S)
    os.kill(pool._all[0].process.pid, signal.SIGSTOP)
    begun = pool.submit(2)
    ends = threading.Thread(target=pool.close, kwargs={"at_once": True}, daemon=True)
    ends.start()
    ends.join(PATIENCE_S)
    try:
        assert not ends.is_alive()
        assert begun.done()
    finally:
        if ends.is_alive():
            os.kill(pool._all[0].process.pid, signal.SIGCONT)


def test_the_first_worker_too_is_started_without_interrupts():
    """In a process that has started none: multiprocessing begins another one beside the first."""
    program = (
        "import worker_tasks; from sim.processes import Workers; pool = Workers(2, worker_tasks.blocked)\n"
        "print([each.result() for each in [pool.submit(0.5), pool.submit(0.5)]]); pool.close(at_once=False)"
    )
    here = os.path.dirname(__file__)
    found = subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True, text=True, check=True)
    assert found.stdout == "[True, True]\n"


def test_ctrl_c_while_a_later_worker_starts_comes_when_it_has_started(pool, monkeypatch):
    """Threads of the pool, and of a progress bar, would take the signal that is blocked in the main thread."""
    pool.submit(1).result(PATIENCE_S)
    steps, start = [], SpawnProcess.start

    def interrupted(process):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        start(process)
        steps.append("started")

    monkeypatch.setattr(SpawnProcess, "start", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs of a shell ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.submit(2)
        assert steps == ["started"]
        assert len(pool._all) == 2
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_threads_that_start_workers_at_the_same_time_leave_main_as_it_was():
    main = sys.modules["__main__"]

    def start():
        with processes._without_main():
            time.sleep(0.05)

    started = [threading.Thread(target=start) for _ in range(2)]
    for each in started:
        each.start()
        time.sleep(0.02)
    for each in started:
        each.join()
    left, sys.modules["__main__"] = sys.modules["__main__"], main
    assert left is main


def test_a_worker_that_cannot_start_is_one_message_about_that(monkeypatch):
    def none(process):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(SpawnProcess, "start", none)
    with pytest.raises(Gone, match=r"^worker 1 of 3 cannot be started \(Too many open files\)"):
        Processes(3).submit(1)
    with pytest.raises(RunError, match=r"^worker 1 of 2 cannot be started \(Too many open files\)"):
        in_processes(doubled, range(9), 2)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_every_task_is_done_though_workers_are_killed_while_they_start_wait_and_answer(pool, seed):
    """Six kills of any worker that is there, some of them milliseconds after it has been started."""
    chosen, over = random.Random(seed), threading.Event()

    def kill():
        for _ in range(6):
            while not pool._all and not over.is_set():
                time.sleep(0.0005)
            if over.wait(chosen.choice((0, 0.001, 0.01, 0.1, 0.3))):
                return
            chosen.choice(list(pool._all.values())).process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    todo, flying, found = list(range(200)), {}, []
    while todo or flying:
        while todo and len(flying) < 6:
            task = todo.pop()
            flying[pool.submit(task)] = task
        done, _ = wait(flying, timeout=PATIENCE_S, return_when=FIRST_COMPLETED)
        assert done, "nothing moves"
        for each in done:
            task, error = flying.pop(each), each.exception()
            if error is None:
                found.append(each.result())
            else:
                assert isinstance(error, Died)
                pool.start_again(error.number)
                todo.append(task)
    over.set()
    killer.join()
    assert sorted(found) == [2 * n for n in range(200)]


def test_work_in_processes_whose_workers_die_is_done_again_and_in_order(tmp_path):
    steps = []
    tasks = [(number, tmp_path) for number in range(12)]
    assert in_processes(dies_twice, tasks, 3, lambda: steps.append(1)) == list(range(12))
    assert len(steps) == 12


def test_work_of_which_three_workers_die_is_one_message_that_says_which():
    with pytest.raises(RunError, match=r"^task 4 of 9: 3 worker processes have died of it \(killed, or out of memory"):
        in_processes(dies, range(9), 2)


def test_what_work_in_processes_raises_ends_it_and_its_processes():
    with pytest.raises(InputError, match="none"):
        in_processes(doubled, [*range(5), None, *range(500)], 2)


@pytest.mark.parametrize("jobs", [1, 2])
def test_work_in_processes_without_tasks_is_done(jobs):
    assert in_processes(doubled, [], jobs) == []
