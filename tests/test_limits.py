"""Inputs that do not end, or grow when they are read, are one short message at once; so are disks that are full."""

import contextlib
import errno
import gzip
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import fake_host
import pytest
import worlds
from command import run as run_command

from sim import bounded, experiment
from sim.errors import MOST_SAID, InputError, RunError
from sim.experiment import workers
from sim.results import files, load

FOREVER = Path("/dev/zero")
SMALL = worlds.small(replications=2)


def readers(name):
    """Each command that reads a file called so."""
    return {
        ".toml": (
            ("run", name),
            ("costs", "check", name),
            ("cpu", "show", name),
            ("flow", "preempt", "--strategy", name),
            ("flow", "preempt", "--carried", name),
        ),
        ".txt": (
            ("cpu", "import", name),
            ("layout", "--boot-log", name),
            ("replay", name, "--check"),
            ("fit", name, "-o", "x.toml"),
        ),
        ".jsonl": (("verify", "vectors", name),),
    }[Path(name).suffix]


def refused(capsys, *command):
    """The message of a command that cannot take its input, which is one, and says so in time."""
    began = time.process_time()
    status, out, err = run_command(capsys, *command)
    assert (status, out) == (2, "")
    assert err.replace("\n", "").isprintable()
    assert all(len(line) <= MOST_SAID + len("fpswitch: ") for line in err.splitlines())
    assert time.process_time() - began < (10 if sys.gettrace() is None else 30)  # measuring coverage takes its time
    return err


@pytest.mark.parametrize("suffix", [".toml", ".txt", ".jsonl"])
def test_a_file_without_end_is_refused(tmp_path, capsys, suffix):
    endless = tmp_path / f"endless{suffix}"
    endless.symlink_to(FOREVER)
    for command in readers(str(endless)):
        assert "endless" in refused(capsys, *command)


@pytest.mark.parametrize(
    "content",
    [
        b"a = " + b"[" * 50_000, b"a." * 50_000 + b"b = 1", b"[" + b"a." * 50_000 + b"b]",
        b'"a" . ' * 50_000 + b"b = 1", b"'a b'.\"c\\\" d\"." * 50_000 + b"b = 1",
        ("a." * 50_000 + "b = 1").encode("utf-16"),
    ],
    ids=["brackets", "key", "table", "quoted", "quoted words", "UTF-16"],
)  # fmt: skip
def test_toml_that_nobody_wrote_is_refused(tmp_path, capsys, content):
    (tmp_path / "deep.toml").write_bytes(content)
    for command in readers(str(tmp_path / "deep.toml")):
        refused(capsys, *command)


def test_long_words_and_numbers_are_no_deep_key():
    text = b'a = "' + b"x" * 100_000 + b'"\nb = [' + b"1.5, " * 5000 + b"]\n" + b'c = "one. two. three. "\n'
    assert len(bounded.toml(text)["b"]) == 5000


@pytest.mark.parametrize("around", ['"{}"', "'{}'", '"""\n{}""""', "'''\n{}\n'''", '"\\"{}"', "1  # {}"])
def test_words_with_many_dots_are_no_deep_key_where_they_are_no_key(around):
    text = f"a = {around}\nb = {around}\n".replace("{}", "a." * 50_000)
    assert bounded.toml(text.encode()).keys() == {"a", "b"}


@pytest.mark.parametrize("content", ['"', "'", '"\\"', '"""\\"', '\\"', '"""""\\', "'''''\\", "#", "a.", '"a".'])
def test_toml_that_never_ends_is_looked_at_once(content):
    for dots in ("", "." * bounded.MOST_DOTTED):
        began = time.process_time()
        with contextlib.suppress(ValueError):
            bounded.toml((content * (bounded.MOST_TOML // len(content)) + dots).encode())
        assert time.process_time() - began < 10


@pytest.mark.parametrize("command", [("cpu", "import"), ("layout", "--boot-log"), ("verify", "vectors")])
def test_what_grows_when_it_is_unpacked_is_refused(tmp_path, capsys, command):
    (tmp_path / "bomb.txt").write_bytes(gzip.compress(bytes(b"x" * (1 << 20)), 1) * 40)
    assert "bomb.txt: more than" in refused(capsys, *command, str(tmp_path / "bomb.txt"))


def test_a_line_of_a_trace_that_is_too_long_is_one_foreign_line(tmp_path, capsys):
    event = b"  qemu-1  [000] d..2.   100.000001: sched_switch: prev_comm=a prev_pid=1 prev_prio=1 prev_state=S ==> "
    (tmp_path / "long.txt.gz").write_bytes(gzip.compress(event + b"x" * (32 << 20) + b"\n" + event, 1))
    err = refused(capsys, "replay", str(tmp_path / "long.txt.gz"), "--check")
    assert "1 of its 2 lines are not events" in err
    assert "(a line that is too long) xxx" in err


@pytest.mark.parametrize("command", [("costs", "check"), ("flow", "preempt", "--strategy"), ("cpu", "show"), ("show",)])
def test_a_byte_order_mark_is_no_error(tmp_path, capsys, command):
    shipped = {
        "costs": "sim/costs/tables/skylake-sp.toml",
        "flow": "sim/kernel/data/strategies/manual-load.toml",
        "cpu": "sim/xsave/cpus/zen4.toml",
        "show": "scenarios/rfc-question.toml",
    }[command[0]]
    content = (Path(__file__).parent.parent / shipped).read_bytes()
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf" + content)
    status, _, err = run_command(capsys, *command, str(tmp_path / "bom.toml"))
    assert (status, err) == (0, "")


def test_a_cost_table_does_not_grow_by_its_texts(tmp_path, capsys):
    shutil.copy(Path(__file__).parent.parent / "sim/costs/tables/skylake-sp.toml", tmp_path / "t.toml")
    text = (tmp_path / "t.toml").read_text()
    (tmp_path / "t.toml").write_text(text.replace('source = "{none}"', f'source = "{"{none}" * 600}"', 1))
    assert "characters (allowed: up to 4000)" in refused(capsys, "costs", "check", str(tmp_path / "t.toml"))


def test_the_middle_of_a_long_message_is_left_out():
    text = str(InputError(f"file.toml: found {'x' * 5000}; allowed: y"))
    assert len(text) == MOST_SAID
    assert text.startswith("file.toml: found x")
    assert text.endswith("; allowed: y")


# The disk.


@pytest.mark.parametrize("after", [0, 1, 2, 4, 6, 9, 12])
def test_a_full_disk_is_one_message_that_names_the_file_and_the_same_command_continues(tmp_path, monkeypatch, after):
    path, out = tmp_path / "s.toml", tmp_path / "r"
    path.write_text(SMALL)
    whole = experiment.run(path, jobs=1, simulate=fake_host.simulate)
    written, original = [], os.fsync

    def full(handle):
        written.append(handle)
        if len(written) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    # The first sync is that of the name of the new directory.
    with pytest.raises(InputError if after < 1 else RunError, match=r"No space left on device") as caught:
        experiment.run(path, jobs=1, simulate=fake_host.simulate, out=out)
    assert str(caught.value).count("\n") == 0
    assert str(out) in str(caught.value)
    assert "is gone" not in str(caught.value)
    monkeypatch.undo()
    again = experiment.run(path, jobs=1, simulate=fake_host.simulate, out=out)
    assert again.ledger.equals(whole.ledger)
    assert load(out).metrics.equals(whole.metrics)


def refused_when_gone(path, out, gone, monkeypatch):
    """A run during which ``gone`` is deleted, and what it says."""
    path.write_text(SMALL)
    monkeypatch.setattr(workers, "GROUP_S", 0)

    def removed(*work):
        if work[-1] == 1:
            shutil.rmtree(gone, ignore_errors=True)
        return fake_host.simulate(*work)

    with pytest.raises(RunError) as caught:
        experiment.run(path, jobs=1, simulate=removed, out=out)
    message = str(caught.value)
    assert re.fullmatch(r"\S+/r/parts/\w+\.arrow: cannot be written \(No such file or directory\) after .*", message)
    assert message.endswith(f"; {gone} is gone, with everything that it kept")


def test_a_directory_that_vanishes_is_one_message_that_does_not_promise_what_is_gone(tmp_path, monkeypatch):
    out = tmp_path / "r"
    refused_when_gone(tmp_path / "s.toml", out, out, monkeypatch)
    assert not out.exists()


def test_parts_that_vanish_alone_are_not_promised_either_and_the_same_command_begins_anew(tmp_path, monkeypatch):
    path, out = tmp_path / "s.toml", tmp_path / "r"
    refused_when_gone(path, out, out / "parts", monkeypatch)
    again = experiment.run(path, jobs=1, simulate=fake_host.simulate, out=out)
    whole = experiment.run(path, jobs=1, simulate=fake_host.simulate)
    assert again.metrics.equals(whole.metrics)


def test_a_limit_on_files_leaves_the_earlier_result_as_it_was(tmp_path):
    path, out = tmp_path / "s.toml", tmp_path / "r"
    path.write_text(SMALL)
    experiment.run(path, jobs=1, simulate=fake_host.simulate, out=out)
    before = {file.name: file.read_bytes() for file in out.glob("*.parquet")}
    command = [sys.executable, "-m", "sim.cli", "run", str(path), "--out", str(out), "--seed", "5", "--jobs", "1"]
    done = subprocess.run(
        command,
        env={name: text for name, text in os.environ.items() if not name.startswith("COVERAGE_")},  # it writes files
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        check=False,
    )
    assert done.returncode == 1
    assert "cannot be written (File too large)" in done.stderr
    assert done.stderr.count("\n") <= 3
    kept = out if (out / "ledger.parquet").exists() else out.with_name("r.previous")
    assert {file.name: file.read_bytes() for file in kept.glob("*.parquet")} == before


# What `fpswitch verify fuzz` found.


def test_a_time_that_is_no_time_makes_a_line_foreign(tmp_path, capsys):
    text = (Path(__file__).parent / "data/traces/formats/ftrace.txt").read_bytes()
    line = next(line for line in text.splitlines() if b"sched_switch: prev_comm" in line)
    late = re.sub(rb" \d+\.(\d{6}): sched", rb" 92233720368.\1: sched", line)
    assert late != line
    (tmp_path / "t.txt").write_bytes(text + late + b"\n")
    status, out, err = run_command(capsys, "replay", str(tmp_path / "t.txt"), "--check")
    assert (status, err) == (0, "")
    assert "x86_fpu events" in out


def test_a_size_with_a_leading_zero_is_a_number(tmp_path, capsys):
    log = "x86/fpu: Enabled xstate features 0x2e7, context size is 0752 bytes, using 'compacted' format.\n"
    (tmp_path / "log").write_text(log)
    assert run_command(capsys, "layout", "--boot-log", str(tmp_path / "log"))[0] in (0, 1)


def test_what_a_profile_says_of_its_source_does_not_act_on_the_terminal(tmp_path, capsys):
    text = (Path(__file__).parent.parent / "sim/xsave/cpus/zen4.toml").read_text()
    (tmp_path / "p.toml").write_text(text.replace('source = "', 'source = "\\u001b[2J\ufeff', 1))
    status, out, err = run_command(capsys, "cpu", "show", str(tmp_path / "p.toml"))
    assert all(c.isprintable() or c == "\n" for c in out + err)
    assert status in (0, 2)


# The campaign itself.


def test_the_campaign_finds_each_kind_of_wrong(tmp_path):
    from sim.verification.fuzz.judging import _wrong

    good = "fpswitch: /x/input.toml: no\n"
    assert list(_wrong(2, "", good)) == []
    assert list(_wrong(0, "all well\n", "")) == []
    kinds = {
        "exit status 3": (3, "", good),
        "control characters on standard output: '\\x1b'": (0, "\x1b[2J", ""),
        "control characters on standard error: '\\x07'": (2, "", "fpswitch: input.toml\x07"),
        "a message of more than 1,000 characters": (2, "", "fpswitch: input.toml" + "x" * 1000),
        "exit status 2, and something on standard output": (2, "x", good),
        "no message, or several: 'Traceback'": (2, "", "Traceback"),
        "a message without the place": (2, "", "fpswitch: no\n"),
    }
    assert {kind: kind in list(_wrong(*said)) for kind, said in kinds.items()} == dict.fromkeys(kinds, True)


def test_the_campaign_tries_inputs_and_says_what_broke(tmp_path):
    from sim.verification.fuzz import campaign

    found = campaign("carried state", 20, 1, tmp_path)
    assert (found.inputs, found.problems.total()) == (20, 0)
    assert len(found.messages) > 2
    assert campaign("trace of perf", 5, 1, tmp_path).inputs == 0  # no test data there
