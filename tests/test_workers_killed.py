"""Commands whose workers get SIGKILL in the middle of their work: it is done again, or there is one message."""

import multiprocessing
import os
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import run
from corruption import NAMED

from sim.verification.statistics import coverage, per_event
from sim.verification.theory import study

EXITS = Path(__file__).parent / "data" / "cases" / "kvm-only-trace.txt"
IN_WORK_S = 0.7
"""CPU time after which a worker has imported what it needs."""


@contextmanager
def killed(most, after_s=IN_WORK_S):
    """Kills ``most`` workers of this process, each when it has taken that CPU time; yields the list of them."""
    over, found = threading.Event(), []

    def kill():
        while len(found) < most and not over.wait(0.005):
            for worker in multiprocessing.active_children():
                if worker.pid not in found and cpu_s(worker.pid) >= after_s and len(found) < most:
                    found.append(worker.pid)
                    worker.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield found
    finally:
        over.set()
        killer.join()


def cpu_s(pid):
    """Seconds of CPU time that a process has had; 0 if it has ended."""
    try:
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return 0.0
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def fitted(capsys, out, trace, jobs):
    command = [
        "fit",
        str(trace),
        "-o",
        str(out),
        "--cpu",
        "sapphire-rapids",
        "--replications",
        "8",
        "--jobs",
        str(jobs),
    ]
    _, said, error = run(capsys, *command, "--jobs", str(jobs), "--json")
    samples = sorted(out.with_suffix(".samples").glob("*"))
    return said, error, out.read_bytes(), [each.read_bytes() for each in samples]


@pytest.mark.slow
@pytest.mark.parametrize("trace", [EXITS, NAMED["host-builds"]], ids=["exits", "threads"])
def test_a_fit_whose_workers_are_killed_is_that_of_one_process(trace, tmp_path, capsys):
    (tmp_path / "1").mkdir()
    alone = fitted(capsys, tmp_path / "1" / "mine.toml", trace, 1)
    (tmp_path / "2").mkdir()
    with killed(2) as workers:
        beside = fitted(capsys, tmp_path / "2" / "mine.toml", trace, 2)
    assert len(workers) == 2
    assert beside[1:] == alone[1:]
    assert beside[0].replace(str(tmp_path / "2"), str(tmp_path / "1")) == alone[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "work",
    [
        lambda jobs: coverage.study(8, jobs),
        lambda jobs: per_event.study(["exit-storm", "halt-polling"], jobs, 2),
        lambda jobs: study.study(8, jobs, study.CLAIMS[-4:]),
    ],
    ids=["coverage", "per event", "theory"],
)
def test_a_study_whose_workers_are_killed_is_that_of_one_process(work):
    with killed(2) as workers:
        beside = work(2)
    assert len(workers) == 2
    assert beside == work(1)


@pytest.mark.parametrize(
    "command",
    [
        ["fit", str(EXITS), "-o", "mine.toml", "--cpu", "sapphire-rapids"],
        pytest.param(["verify", "statistics", "--repetitions", "100"], marks=pytest.mark.slow),
        pytest.param(["verify", "theory", "--replications", "2"], marks=pytest.mark.slow),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_command_whose_workers_are_all_killed_ends_with_one_message(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with killed(1000, after_s=0.0):
        status, _, error = run(capsys, *command, "--jobs", "2")
    assert status == 1
    assert error.splitlines()[-1].startswith("fpswitch: task ")
    assert "3 worker processes have died of it (killed, or out of memory" in error
