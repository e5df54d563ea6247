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
from sim.errors import InputError, RunError
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
        gone = {"pid": 2**22 + 1, "host": socket.gethostname(), "began": lock.began(os.getpid())}  # above pid_max
        (tmp_path / ".r.lock").write_text(json.dumps(gone))
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


def test_a_process_of_the_same_number_that_began_at_another_time_is_not_the_driver(killed_driver, capsys):
    directory, pid = killed_driver
    with running("sleep", "600") as other:
        for path in (directory / progress.NAME, directory.parent / ".r.lock"):
            text = path.read_text()
            path.write_text(text.replace(f'"pid": {pid}', f'"pid": {other.pid}'))
            assert path.read_text() != text
        assert is_told_as_killed(directory, capsys)


SEEN_FROM_HERE = """
import sys
from sim.cli import main
main(["status", sys.argv[1], "--json"])
"""
NAMESPACES = {
    "PID": ["--pid", "--fork"],  # with the outer /proc
    "PID with /proc": ["--pid", "--fork", "--mount-proc"],
    "time": ["--time", "--boottime", "1000"],
    "UTS": ["--uts", "sh", "-c", 'hostname another && exec "$@"', "sh"],
}


@pytest.fixture
def driver(scenario, tmp_path):
    """A directory in which a process runs that says nothing any more, and that process."""
    directory = tmp_path / "r"
    experiment.run(scenario, jobs=1, simulate=fake_host.simulate, out=directory)
    begun(directory)
    with running(sys.executable, "-c", DRIVER, str(directory)) as process:
        assert process.stdout.readline() == b"holds\n"
        yield directory, process


def seen(directory, namespace=()):
    """The status and what `fpswitch status` says in this kind of namespace."""
    command = ["unshare", *namespace] if namespace else []
    if command and subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip(f"{' '.join(command)} is not possible here")
    found = subprocess.run([*command, sys.executable, "-c", SEEN_FROM_HERE, str(directory)], stdout=subprocess.PIPE)
    document = json.loads(found.stdout)
    return found.returncode, document["status"], document["process"]


def silent(directory):
    """All that its driver said was said more than ten minutes ago."""
    long_ago = time.time() - lock.SILENT_S - 60
    said = json.loads((directory / progress.NAME).read_text())
    (directory / progress.NAME).write_text(json.dumps({**said, "at": long_ago}))
    os.utime(directory.parent / ".r.lock", (long_ago, long_ago))


@pytest.mark.parametrize("namespace", NAMESPACES.values(), ids=NAMESPACES)
def test_a_driver_that_cannot_be_seen_is_running_or_silent_but_never_killed(driver, namespace):
    directory, process = driver
    who = {"pid": process.pid, "host": socket.gethostname()}
    is_visible = "--uts" in namespace
    assert seen(directory, namespace) == (0, "running", who)
    silent(directory)
    assert seen(directory, namespace) == ((0, "running", who) if is_visible else (1, "silent", who))
    assert seen(directory) == (0, "running", who)
    process.kill()
    process.wait()
    assert seen(directory, namespace) == ((1, "killed", None) if is_visible else (1, "silent", who))
    assert seen(directory) == (1, "killed", None)


def test_a_silent_driver_is_named_with_how_long(driver, capsys, monkeypatch):
    directory, process = driver
    silent(directory)
    monkeypatch.setattr(lock, "here", str)
    status, out, _ = run_command(capsys, "status", str(directory))
    assert status == 1
    assert f"small, silent, process {process.pid} on {socket.gethostname()}\n" in out
    assert "  said last  11 min ago; whether it runs cannot be seen from here\n" in out
    assert "the same command continues it" not in out


HERE, AN_HOUR = socket.gethostname(), 3600
SINCE_THE_BOOT = time.clock_gettime(time.CLOCK_BOOTTIME)
OTHER_BOOT = "8d0c4e5b-0000-4000-8000-000000000000 pid:[4026531836] time:[4026531834] 500"


@pytest.mark.parametrize(
    ("host", "since", "ago_s", "state"),
    [
        (HERE, OTHER_BOOT, SINCE_THE_BOOT + AN_HOUR, "killed"),  # this host was started again
        (HERE, OTHER_BOOT, 0, "running"),  # another host of this name
        ("another", OTHER_BOOT, 0, "running"),
        ("another", OTHER_BOOT, lock.SILENT_S / 2, "running"),
        ("another", OTHER_BOOT, lock.SILENT_S + 1, "silent"),
        ("another", OTHER_BOOT, SINCE_THE_BOOT + AN_HOUR, "silent"),
        (HERE, "", 0, "running"),  # it had no /proc, or was of fpswitch 0.2.0
        (HERE, "", SINCE_THE_BOOT + AN_HOUR, "killed"),
        (HERE, lock.began(os.getpid()), SINCE_THE_BOOT + AN_HOUR, "running"),
        (HERE, f"{lock.here()} 1", 0, "killed"),
    ],
    ids=range(10),  # since the values differ from process to process
)
def test_what_is_known_of_a_driver_depends_on_where_it_runs_and_when_it_said_something(host, since, ago_s, state):
    assert lock.Driver(os.getpid(), host, since, time.time() - ago_s).state == state


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
def test_a_progress_file_that_says_nothing_is_refused(tmp_path, content):
    (tmp_path / progress.NAME).write_text(content)
    with pytest.raises(InputError, match=f"{tmp_path / progress.NAME}: "):
        progress.read(tmp_path)


def saying(**changed):
    """What the process of this test would say of a run."""
    said = progress.Progress(finished=1, total=12, before=0, elapsed_s=1, at=time.time())
    return {name: getattr(said, name) for name in said.__slots__} | changed


@pytest.mark.parametrize(
    "changed",
    [{"pid": "me"}, {"pid": 10**30}, {"pid": -1}, {"began": 3}, {"at": "now"}, {"at": 1e300}, {"host": "a\nb"},
     {"running": 3}, {"running": [["a"]]}, {"failed": [["a", "b", "c"]]}, {"finished": -1}, {"total": 1.5}],
    ids=str,
)  # fmt: skip
def test_a_damaged_progress_file_is_ignored_with_one_sentence(scenario, tmp_path, capsys, changed):
    experiment.run(scenario, jobs=1, simulate=fake_host.simulate, out=tmp_path / "r")
    begun(tmp_path / "r")
    (tmp_path / "r" / progress.NAME).write_text(json.dumps(saying()))
    assert run_json(capsys, "status", str(tmp_path / "r"))["finished"] == 1
    (tmp_path / "r" / progress.NAME).write_text(json.dumps(saying(**changed)))
    status, out, err = run_command(capsys, "status", str(tmp_path / "r"))
    assert (status, "small, killed" in out) == (1, True)
    assert err.startswith(f"fpswitch: {tmp_path / 'r' / progress.NAME}: damaged: {next(iter(changed))}")
    assert err.endswith("; it is ignored\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("content", ['{"pid": 1e400, "host": "a"}', f'{{"pid": {10**30}, "host": "a"}}', "[" * 4000])
def test_a_damaged_lock_is_that_of_nobody(tmp_path, content):
    (tmp_path / ".r.lock").write_text(content)
    assert lock.holder(tmp_path / "r") is None


def test_a_continued_run_does_not_say_that_all_of_it_took_the_time_of_the_rest(driver, scenario, capsys):
    directory, _ = driver
    said = json.loads((directory / progress.NAME).read_text())
    said |= {"finished": 10, "before": 8, "elapsed_s": 4.0}
    (directory / progress.NAME).write_text(json.dumps(said))
    _, out, _ = run_command(capsys, "status", str(directory))
    assert "  done       10 of 12 (83%); 8 were there 4 s ago, when this run began\n" in out
    (directory / progress.NAME).write_text(json.dumps({**said, "before": 0}))
    _, out, _ = run_command(capsys, "status", str(directory))
    assert "  done       10 of 12 (83%) in 4 s\n" in out
    manifests.write(directory, {**manifests.read(directory), "status": manifests.COMPLETE, "wall_s": 4.0})
    _, out, _ = run_command(capsys, "status", str(directory))
    assert "  done       12 of 12 (100%); the last run took 4 s\n" in out


def test_a_driver_that_does_not_say_when_it_began_is_not_taken_for_one_that_began_with_the_reader(tmp_path):
    said = {"finished": 1, "total": 2, "before": 0, "elapsed_s": 1, "at": time.time(), "pid": 2**22 + 1, "host": HERE}
    (tmp_path / progress.NAME).write_text(json.dumps(said))
    assert progress.read(tmp_path).driver.state == "running"


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
