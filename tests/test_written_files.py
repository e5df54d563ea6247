"""A file that a user names is replaced where its links lead; what cannot be replaced is written to.

Nothing here writes to a device or to the machine's /dev, and standard output is always redirected.
"""

import errno
import os
import subprocess
import sys
import tempfile
import threading

import pytest

from sim.cli import main
from sim.results import files


def fpswitch(*arguments, stdout=None):
    """A process of the command line, whose standard output is a file; forked, so that it need not import anything."""
    with tempfile.TemporaryFile() as errors, open(os.devnull, "wb") as nothing:
        child = os.fork()
        if child == 0:
            _becomes_fpswitch(list(map(str, arguments)), stdout or nothing, errors)
        _, status = os.waitpid(child, 0)
        errors.seek(0)
        return subprocess.CompletedProcess(arguments, os.waitstatus_to_exitcode(status), None, errors.read().decode())


def _becomes_fpswitch(arguments, stdout, stderr):
    """Does not return."""
    status = 99
    try:
        os.dup2(stdout.fileno(), 1)
        os.dup2(stderr.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        main(arguments)
    except SystemExit as stop:
        status = stop.code or 0
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def drawn(out, *arguments, stdout=None):
    """A short timeline, written by another process."""
    found = fpswitch("timeline", "overcommit", "--duration", "1 ms", "-o", out, *arguments, stdout=stdout)
    assert "Traceback" not in found.stderr
    return found


@pytest.fixture(scope="module")
def timeline(tmp_path_factory):
    """The bytes of that timeline."""
    out = tmp_path_factory.mktemp("timeline") / "t"
    assert drawn(out).returncode == 0
    return out.read_bytes()


def only(directory, *names):
    """Whether nothing else is there, such as a temporary file."""
    return sorted(each.name for each in directory.iterdir()) == sorted(names)


@pytest.fixture
def dev(tmp_path):
    """What /dev has of links: broken code, run as root, must not find the machine's own."""
    place = tmp_path / "dev"
    place.mkdir()
    (place / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (place / name).symlink_to(f"/proc/self/fd/{number}")
    return place


@pytest.mark.parametrize("name", ["stdout", "fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1", "/dev/stdout"])
def test_standard_output_in_a_file_is_written_to_and_its_link_stays(tmp_path, dev, timeline, name):
    if name == "/dev/stdout" and os.access("/dev", os.W_OK):
        pytest.skip("for users who cannot change /dev")
    with (tmp_path / "out").open("wb") as out:
        assert drawn(dev / name, stdout=out).returncode == 0
        inode = os.fstat(out.fileno()).st_ino
    assert (tmp_path / "out").read_bytes() == timeline  # without the sentence that the command prints
    assert (tmp_path / "out").stat().st_ino == inode
    assert only(tmp_path, "out", "dev")
    assert only(dev, "fd", "stdin", "stdout", "stderr")
    assert os.readlink(dev / "stdout") == "/proc/self/fd/1"


def test_standard_error_and_another_descriptor_are_written_to_as_well(tmp_path, dev, timeline):
    with (tmp_path / "out").open("wb") as out:
        number = out.fileno()
        assert drawn(dev / "fd" / str(number)).returncode == 0
    assert (tmp_path / "out").read_bytes() == timeline
    program = (
        f"from pathlib import Path; from sim.results import files; files.write(Path({str(dev)!r}, 'stderr'), b'a page')"
    )
    command = [sys.executable, "-c", program]
    with (tmp_path / "err").open("ab") as err:
        err.write(b"before ")
        err.flush()
        subprocess.run(command, stderr=err, check=True)
    assert (tmp_path / "err").read_bytes() == b"before a page"


def test_a_link_to_standard_output_leads_there(tmp_path, dev, timeline):
    (tmp_path / "link").symlink_to("dev/stdout")
    with (tmp_path / "out").open("wb") as out:
        assert drawn(tmp_path / "link", stdout=out).returncode == 0
    assert (tmp_path / "out").read_bytes() == timeline
    assert (tmp_path / "link").is_symlink()


def test_of_a_symlink_the_file_is_replaced_at_once_and_the_link_stays(tmp_path, timeline):
    place, real = tmp_path / "place", tmp_path / "real"
    place.mkdir(), real.mkdir()
    (real / "t").write_text("before")
    (place / "second").symlink_to("../real/t")
    (place / "first").symlink_to("second")
    with (real / "t").open() as reader:
        assert drawn(place / "first").returncode == 2  # the file is there
        assert drawn(place / "first", "--force").returncode == 0
        assert reader.read() == "before"
    assert (real / "t").read_bytes() == timeline
    assert os.readlink(place / "first") == "second"
    assert only(place, "first", "second")
    assert only(real, "t")


def test_a_symlink_whose_file_is_not_there_yet_makes_it(tmp_path):
    (tmp_path / "link").symlink_to("file")
    files.write(tmp_path / "link", b"a page")
    assert (tmp_path / "file").read_bytes() == b"a page"
    assert (tmp_path / "link").is_symlink()


def test_a_pipe_is_written_to_and_stays(tmp_path, timeline):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    assert drawn(pipe).returncode == 0
    reader.join()
    assert found == [timeline]
    assert pipe.is_fifo()
    assert only(tmp_path, "pipe")


@pytest.mark.parametrize("command", ["timeline", "profile", "fit"])
def test_a_loop_of_links_is_one_message(tmp_path, command):
    (tmp_path / "a.toml").symlink_to("b.toml")
    (tmp_path / "b.toml").symlink_to("a.toml")
    out = tmp_path / "a.toml"
    if command == "timeline":
        found = drawn(out)
    elif command == "profile":
        found = fpswitch("cpu", "detect", "-o", out)
    else:
        workload = tmp_path / "w.json"
        workload.write_text('{"tasks": {"t": {"run": 1000, "sleep": 1000}}}')
        found = fpswitch("new", out, "--rt-app", workload)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert "Too many levels of symbolic links" in found.stderr
    assert out.is_symlink()


def test_a_profile_and_a_scenario_are_written_where_a_link_leads(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    workload = tmp_path / "w.json"
    workload.write_text('{"tasks": {"t": {"run": 1000, "sleep": 1000}}}')
    for name, arguments in (("p.toml", ["cpu", "detect", "-o"]), ("s.toml", ["new", "--rt-app", workload])):
        (tmp_path / name).symlink_to(real / name)
        assert fpswitch(*arguments, tmp_path / name).returncode == 0
        assert (tmp_path / name).is_symlink()
        assert (real / name).stat().st_size > 100


def test_a_descriptor_that_is_closed_and_one_for_reading_are_told_by_name(tmp_path, dev):
    with pytest.raises(OSError, match=r"Bad file descriptor: '.*/dev/fd/9999'"):
        files.write(dev / "fd" / "9999", b"a page")
    (tmp_path / "in").write_text("kept")
    with (tmp_path / "in").open() as file, pytest.raises(OSError, match=r"Bad file descriptor: '.*/dev/fd/"):
        files.write(dev / "fd" / str(file.fileno()), b"a page")
    assert (tmp_path / "in").read_text() == "kept"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOSPC, "disk full")

    (tmp_path / "file").write_text("before")
    (tmp_path / "link").symlink_to("file")
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match=r"disk full: '.*/link'"):
        files.write(tmp_path / "link", b"after")
    assert (tmp_path / "file").read_text() == "before"
    assert only(tmp_path, "file", "link")


def test_in_a_copy_of_links_a_kept_file_is_replaced_and_the_original_stays(tmp_path):
    (tmp_path / "original").write_text("before")
    (tmp_path / "copy").symlink_to("original")
    files.write_kept(tmp_path / "copy", b"after")
    assert ((tmp_path / "original").read_text(), (tmp_path / "copy").read_text()) == ("before", "after")
    assert not (tmp_path / "copy").is_symlink()


def test_the_mode_of_a_new_file_is_that_of_any_other(tmp_path):
    files.write(tmp_path / "file", b"a page")
    (tmp_path / "other").write_bytes(b"a page")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


AFTERWARDS = """
import os
from sim.cli import main
try:
    main(["scenarios"])
finally:
    os._exit(os.open(os.devnull, os.O_RDONLY) <= 2)
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_or_socket_gets_the_number_of_a_stream_that_was_closed_from_the_start(closed):
    """It would be written to, or be closed, in the place of that."""
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, AFTERWARDS]
    assert subprocess.run(command, capture_output=True).returncode == 0
