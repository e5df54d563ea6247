"""One at a time writes to a directory of results: all others are told who does, and change nothing."""

import errno
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import fake_host
import pandas as pd
import pytest
import worlds
from command import run as run_command

from sim import experiment
from sim.errors import InputError
from sim.experiment.design import Design
from sim.results.lock import Lock
from sim.results.replayed import ReplayDirectory

HERE = Path(__file__).parent
TRACE = str(HERE.parent / "sim" / "scenario" / "scenarios" / "no-such-trace.txt")
WAITS = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from sim import experiment
from sim.experiment.design import Design

def waits(*work):
    print("waits", flush=True)
    time.sleep(600)

scenario, out, options = sys.argv[1], sys.argv[2], {"simulate": waits, "jobs": 1}
"""
SMALL = worlds.small(cpu=["zen4"])
DESIGN = ("lhs:2", ["host.cpus=2..9"])
HOLDERS = {
    "run": "experiment.run(scenario, seed=2, out=out, **options)",
    "run by an executor": "experiment.run(scenario, seed=2, out=out, executor=ThreadPoolExecutor(1), simulate=waits)",
    "run --design": f"experiment.run_design(scenario, Design.parsed(*{DESIGN}), out, **options)",
    "replay": "from sim.cli import main; print('waits', flush=True); main(['replay', '-', '--out', out])",
}
"""What a process does that has the directory."""


def earlier_run(scenario, out):
    experiment.run(scenario, out=out, simulate=fake_host.simulate, jobs=1)


def earlier_points(scenario, out):
    """A design whose second point is not finished."""

    def ends(case, timed_by, strategies, replication):
        if (out / "points" / "000001" / "ledger.parquet").exists():
            raise KeyboardInterrupt
        return fake_host.simulate(case, timed_by, strategies, replication)

    with pytest.raises(experiment.Interrupted):
        experiment.run_design(scenario, Design.parsed(*DESIGN), out, simulate=ends, jobs=1)


def earlier_replay(scenario, out):
    kept = ReplayDirectory(out)
    kept.write({"number": 1}, pd.DataFrame({"number": [1]}), {"trace": "t"})
    kept.close()


EARLIER = {
    "run": earlier_run,
    "run by an executor": earlier_run,
    "run --design": earlier_points,
    "replay": earlier_replay,
}


@pytest.fixture(scope="module", params=HOLDERS)
def held(request, tmp_path_factory):
    """A scenario, and a directory with a result, in which a process of each kind does something."""
    place = tmp_path_factory.mktemp("held")
    scenario, out = place / "small.toml", place / "r"
    scenario.write_text(worlds.small(replications=3))
    EARLIER[request.param](scenario, out)
    code = WAITS + HOLDERS[request.param]
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(scenario), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])},
    )
    assert holder.stdout.readline() == "waits\n"
    lock = place / ".r.lock"
    while not (lock.exists() and lock.read_text()):  # a replay locks before it reads, and then writes who it is
        assert holder.poll() is None
    yield scenario, out, holder.pid
    holder.kill()
    holder.communicate()


COMMANDS = {
    "run": ("run", "SCENARIO", "--jobs", "1"),
    "run --cluster": ("run", "SCENARIO", "--cluster", "tcp://127.0.0.1:9"),
    "run --design": ("run", "SCENARIO", "--jobs", "1", "--design", DESIGN[0], "--range", *DESIGN[1]),
    "replay": ("replay", TRACE),
}
"""What is refused, before it looks for a cluster or reads a trace."""


def contents(place):
    """All that lies there, but for what a run says of its progress."""
    return {
        path: path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.name not in ("progress.json", ".progress.json")
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_writes_to_a_directory_shuts_out_all_that_would_and_they_change_nothing(held, command, capsys):
    scenario, out, pid = held
    before = contents(out.parent)
    words = [str(scenario) if each == "SCENARIO" else each for each in COMMANDS[command]]
    status, text, error = run_command(capsys, *words, "--out", str(out))
    assert (status, text, error.count("\n")) == (2, "", 1)
    assert error.startswith(f"fpswitch: {out}: process {pid} on {socket.gethostname()}, since 20")
    assert contents(out.parent) == before


@pytest.mark.parametrize("name", ["link", "link/", "link/.", "elsewhere/../r", "elsewhere/../r/"])
@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_a_directory_is_called_it_is_one(held, command, name, capsys):
    scenario, out, pid = held
    for link, target in (("link", out), ("elsewhere", out)):
        if not (out.parent / link).is_symlink():
            (out.parent / link).symlink_to(target)
    before = contents(out.parent)
    words = [str(scenario) if each == "SCENARIO" else each for each in COMMANDS[command]]
    status, _, error = run_command(capsys, *words, "--out", f"{out.parent}/{name}")
    assert (status, f"process {pid} on " in error) == (2, True)
    assert contents(out.parent) == before


@pytest.mark.parametrize("held", ["run"], indirect=True)
def test_nobody_writes_to_what_a_run_has_set_aside(held, capsys):
    scenario, out, pid = held
    aside = out.with_name("r.previous")
    assert aside.is_dir()
    before = contents(out.parent)
    status, _, error = run_command(capsys, "run", str(scenario), "--jobs", "1", "--out", str(aside))
    assert (status, f"{aside}: process {pid} on " in error) == (2, True)
    assert contents(out.parent) == before


def test_a_run_sets_nothing_aside_where_another_writes(tmp_path):
    scenario = tmp_path / "small.toml"
    scenario.write_text(worlds.small(replications=3))
    earlier_run(scenario, tmp_path / "r")
    before = contents(tmp_path / "r")
    with Lock(tmp_path / "r.previous"), pytest.raises(InputError, match=f"r.previous: process {os.getpid()} on "):
        experiment.run(scenario, seed=2, out=tmp_path / "r", simulate=fake_host.simulate, jobs=1)
    assert contents(tmp_path / "r") == before
    assert not list(tmp_path.glob(".*"))


def refuses(call, reason, name=""):
    """The same call, which fails for a path that ends so, or for any."""

    def called(what, *arguments, **options):
        if str(what).endswith(name):
            raise OSError(reason, os.strerror(reason), str(what))
        return call(what, *arguments, **options)

    return called


def test_a_full_disk_at_the_lock_is_one_message_that_names_its_file_and_leaves_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pwrite", refuses(os.pwrite, errno.ENOSPC))
    with pytest.raises(InputError) as caught:
        Lock(tmp_path / "r")
    where = f"{tmp_path / 'r'}: cannot be locked ({tmp_path / '.r.lock'}: No space left on device)"
    assert str(caught.value) == where
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    with Lock(tmp_path / "r"):  # by this process, which holds nothing of the lock that it did not get
        pass


def test_a_run_whose_lock_files_cannot_be_deleted_any_more_is_complete_and_leaves_no_lock_held(tmp_path, monkeypatch):
    scenario = tmp_path / "small.toml"
    scenario.write_text(worlds.small(replications=3))
    monkeypatch.setattr(Path, "unlink", refuses(Path.unlink, errno.EACCES, ".lock"))
    for seed in (1, 2):
        results = experiment.run(scenario, seed=seed, out=tmp_path / "r", simulate=fake_host.simulate, jobs=1)
        assert results.manifest["seed"] == seed
        assert {each.name for each in tmp_path.glob(".*")} == {".r.lock", ".r.previous.lock"}


def as_somebody_else(function):
    """What it returns, as text, of a user who may not write what is root's; of this user, if that is not root."""
    if os.geteuid():
        return str(function())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setuid(65534)
            os.write(writing, str(function()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as answer:
        return answer.read()


def what_is_said_of(directory):
    def ask():
        try:
            Lock(directory).release()
        except InputError as error:
            return error
        return "nothing"

    return ask


@pytest.fixture
def for_all():
    """A directory in which everybody may make files, as /tmp."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o1777)
        yield Path(made)


def test_another_user_is_told_who_has_a_directory(for_all):
    with Lock(for_all / "r"):
        (for_all / ".r.lock").chmod(0o444)
        assert f"process {os.getpid()} on " in as_somebody_else(what_is_said_of(for_all / "r"))


def test_what_another_user_has_left_is_not_taken_for_a_run_in_progress(for_all):
    (for_all / ".r.lock").touch(mode=0o444)
    said = as_somebody_else(what_is_said_of(for_all / "r"))
    assert said == f"{for_all / 'r'}: cannot be locked ({for_all / '.r.lock'}: Permission denied)"


def test_a_directory_that_cannot_be_set_aside_leaves_no_mark_in_the_way_of_its_owner(scenario, for_all, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    earlier_run(scenario, for_all / "r")
    before = sorted(for_all.iterdir())
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(InputError, match="Operation not permitted"):
        experiment.run(scenario, seed=2, out=for_all / "r", simulate=fake_host.simulate, jobs=1)
    assert sorted(for_all.iterdir()) == before


@pytest.mark.parametrize("mask", [0o077, 0o002])
def test_files_of_a_result_have_the_mode_that_the_user_wants(scenario, tmp_path, mask):
    earlier = os.umask(mask)
    try:
        earlier_run(scenario, tmp_path / "r")
    finally:
        os.umask(earlier)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "r").rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o666 & ~mask}, modes
