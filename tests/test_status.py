"""`fpswitch status` says what of a run is done, running and failed, also while it runs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import fake_host
import pytest
import worlds
from command import run as run_command
from command import run_json

from sim import experiment
from sim.cli.status import duration
from sim.errors import RunError
from sim.results import lock, progress
from sim.results import manifest as manifests
from sim.results.lock import Lock

SMALL = worlds.small()
PARTS = 6 * 2

SLOW = """
import sys, time
sys.path[:0] = [{tests!r}, {root!r}]
import fake_host, sim.experiment
from sim.experiment import workers

workers.GROUP_S = 0  # each replication is kept at once

def slow(*work):
    if work[-1] >= 3:
        time.sleep(60)
    return fake_host.simulate(*work)

if __name__ == "__main__":
    sim.experiment.run({scenario!r}, jobs={jobs}, out={out!r}, simulate=slow)
"""


def test_a_complete_run_is_complete_and_leaves_no_trace_of_its_progress(scenario, tmp_path, capsys):
    experiment.run(scenario, jobs=1, simulate=fake_host.simulate, out=tmp_path / "r")
    found = run_json(capsys, "status", str(tmp_path / "r"))
    assert (found["status"], found["finished"], found["total"], found["failed"]) == ("complete", PARTS, PARTS, [])
    assert not (tmp_path / "r" / progress.NAME).exists()


def test_what_it_says_while_a_run_goes_on_and_after_it_was_killed(scenario, tmp_path, capsys):
    text = SLOW.format(
        tests=str(Path(__file__).parent), root=str(Path(__file__).parent.parent), scenario=str(scenario), jobs=1,
        out=str(tmp_path / "r"),
    )  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", text])
    folder, deadline = tmp_path / "r" / "parts", time.monotonic() + 30
    while not (len(list(folder.glob("[!.]*"))) >= 3 and (tmp_path / "r" / progress.NAME).exists()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    status, out, err = run_command(capsys, "status", str(tmp_path / "r"))
    assert (status, err) == (0, "")
    assert f"small, running, process {process.pid} on " in out
    assert "of 12 (" in out
    assert "failed     none" in out
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    status, out, err = run_command(capsys, "status", str(tmp_path / "r"))
    assert (status, err) == (1, "")
    assert "small, killed" in out
    assert "done       6 of 12 (50%)" in out
    assert "the same command continues it" in out


def begun(directory):
    """A complete result becomes a run that has said nothing yet."""
    manifests.write(directory, {**manifests.read(directory), "status": manifests.RUNNING})


def test_a_run_that_has_just_begun_is_not_told_as_killed(scenario, tmp_path, capsys):
    experiment.run(scenario, jobs=1, simulate=fake_host.simulate, out=tmp_path / "r")
    begun(tmp_path / "r")
    with Lock(tmp_path / "r"):
        found = run_json(capsys, "status", str(tmp_path / "r"))
        assert (found["status"], found["process"]["pid"]) == ("running", os.getpid())
        (tmp_path / ".r.lock").write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname()}))  # above pid_max
        status, out, _ = run_command(capsys, "status", str(tmp_path / "r"))
    assert (status, "small, killed" in out) == (1, True)


DRIVER = """
import sys, time
from pathlib import Path
from sim.results import lock, progress
from sim.results.lock import Lock

directory = Path(sys.argv[1])
lock = Lock(directory)
progress.write(directory, progress.Progress(finished=1, total=12, before=0, elapsed_s=1, at=time.time()))
print("holds", flush=True)
time.sleep(600)
"""


@contextmanager
def running(*command):
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def with_number(pid):
    """Another process with the number of one that has ended, where this one may say which is given next."""
    for _ in range(50):  # others begin, too
        try:
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        except OSError as error:
            pytest.skip(f"numbers of processes cannot be chosen here: {error}")
        with running("sleep", "600") as process:
            if process.pid == pid:
                yield
                return
    pytest.skip(f"number {pid} is taken")


@pytest.fixture
def killed_driver(scenario, tmp_path, capsys):
    """A directory whose run was killed, and the number of the process."""
    directory = tmp_path / "r"
    experiment.run(scenario, jobs=1, simulate=fake_host.simulate, out=directory)
    begun(directory)
    with running(sys.executable, "-c", DRIVER, str(directory)) as process:
        assert process.stdout.readline() == b"holds\n"
        assert run_json(capsys, "status", str(directory))["process"]["pid"] == process.pid
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its number is not free yet
        assert is_told_as_killed(directory, capsys)
    return directory, process.pid


def is_told_as_killed(directory, capsys):
    """By what the driver said, and by the lock alone."""
    found = [run_command(capsys, "status", str(directory))]
    said = (directory / progress.NAME).read_bytes()
    (directory / progress.NAME).unlink()
    found.append(run_command(capsys, "status", str(directory)))
    (directory / progress.NAME).write_bytes(said)
    return all(status == 1 and "small, killed" in out for status, out, _ in found)


def test_a_process_that_got_the_number_of_a_killed_driver_is_not_taken_for_it(killed_driver, capsys):
    directory, pid = killed_driver
    with with_number(pid):
        assert is_told_as_killed(directory, capsys)


def test_a_process_of_the_same_number_in_another_boot_or_begun_at_another_time_is_not_the_driver(killed_driver, capsys):
    directory, pid = killed_driver
    with running("sleep", "600") as other:
        for path in (directory / progress.NAME, directory.parent / ".r.lock"):
            text = path.read_text()
            path.write_text(text.replace(f'"pid": {pid}', f'"pid": {other.pid}'))
            assert path.read_text() != text
        assert is_told_as_killed(directory, capsys)
        boot, ticks = lock.began(other.pid).split()
        for since, killed in ((f"{boot} {ticks}", False), (f"{'0' + boot[1:]}- {ticks}", True), ("", False)):
            assert lock.is_alive(other.pid, since, socket.gethostname(), 0) is not killed


def test_a_run_that_ends_in_this_moment_is_not_told_as_killed(scenario, tmp_path, capsys, monkeypatch):
    experiment.run(scenario, jobs=1, simulate=fake_host.simulate, out=tmp_path / "r")
    complete = manifests.read(tmp_path / "r")
    begun(tmp_path / "r")
    monkeypatch.setattr(progress, "read", lambda path: manifests.write(path, complete))
    assert run_json(capsys, "status", str(tmp_path / "r"))["status"] == "complete"


def test_what_it_continues_counts_and_so_does_what_an_earlier_result_has(scenario, tmp_path, capsys):
    experiment.run(scenario, jobs=1, simulate=fake_host.simulate, out=tmp_path / "r", replications=2)

    def wrong(*work):
        if work[-1] == 4:
            raise ZeroDivisionError("no")
        return fake_host.simulate(*work)

    with pytest.raises(RunError):
        experiment.run(scenario, jobs=1, simulate=wrong, out=tmp_path / "r")
    status, out, _ = run_command(capsys, "status", str(tmp_path / "r"))
    assert status == 1
    assert "small, failed" in out
    assert "done       8 of 12 (67%)" in out
    assert "replication 4: ZeroDivisionError: no" in out


def test_a_replication_that_failed_is_named(scenario, tmp_path, capsys):
    experiment.run(scenario, jobs=1, simulate=fake_host.simulate, out=tmp_path / "r")
    manifest = tmp_path / "r" / "manifest.json"
    found = manifests.read(tmp_path / "r")
    failed = {"case": "zen4 v6.18", "timed_by": "free-ssp", "strategies": ["free-ssp"], "replication": 3}
    manifests.write(tmp_path / "r", {**found, "status": "failed", "failed": [failed]})
    assert json.loads(manifest.read_text())["failed"] == [failed]
    status, out, _ = run_command(capsys, "status", str(tmp_path / "r"))
    assert (status, "failed     zen4 v6.18 timed by free-ssp #3" in out) == (1, True)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"finished": 1}', "null", '{"more": 1}'])
def test_a_damaged_progress_file_is_none(tmp_path, content):
    (tmp_path / progress.NAME).write_text(content)
    assert progress.read(tmp_path) is None


def test_the_time_that_is_left_is_by_what_this_run_took():
    found = progress.Progress(finished=30, total=100, before=10, elapsed_s=40, at=0)
    assert found.per_second == 0.5
    assert found.left_s == 140
    assert progress.Progress(finished=10, total=100, before=10, elapsed_s=40, at=0).left_s is None


def test_durations_are_in_words():
    assert [duration(s) for s in (0, 89, 90, 5399, 5400, 400_000)] == [
        "0 s",
        "89 s",
        "2 min",
        "90 min",
        "1.5 h",
        "4.6 days",
    ]


def test_something_else_than_a_result_directory_is_refused(tmp_path, capsys):
    for directory in (tmp_path, tmp_path / "none"):
        status, out, err = run_command(capsys, "status", str(directory))
        assert (status, out, err.count("\n")) == (2, "", 1)
