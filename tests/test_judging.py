"""What judges a damaged input notices: what a command does to other files and processes, errors, and time."""

import importlib
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import command
import pytest

from sim import cli, kernel
from sim.verification.fuzz import judging, trying
from sim.verification.fuzz.judging import Watch, judged
from sim.verification.fuzz.readers import READERS
from sim.xsave.profiles import profile

HOOKS = """
import os, pickle, subprocess, sys
from fractions import Fraction
from pathlib import Path
from sim.verification.fuzz.judging import Watch
place = Path(sys.argv[1])
watch = Watch(place / "inside")
sys.addaudithook(watch)
watch.is_on = True
try:
    {what}
except Exception:
    pass
watch.is_on = False
print(watch.seen)
"""
SEEN = {
    "a file elsewhere": ("open(place / 'elsewhere', 'w')", "opens '{place}/elsewhere' for writing"),
    "a file elsewhere, by its descriptor": (
        "os.open(place / 'elsewhere', os.O_RDWR | os.O_CREAT)",
        "opens '{place}/elsewhere' for writing",
    ),
    "a file of the directory above": (
        "open(place / 'inside' / '..' / 'up', 'a')",
        "opens '{place}/inside/../up' for writing",
    ),
    "a file that goes": ("os.remove(place / 'there')", "os.remove '{place}/there'"),
    "a directory elsewhere": ("os.mkdir(place / 'new')", "os.mkdir '{place}/new'"),
    "a command": ("subprocess.run(['true'])", "subprocess.Popen 'true'"),
    "a command of a shell": ("os.system('true')", "os.system b'true'"),
    "a pickle that names a class": ("pickle.loads(pickle.dumps(Fraction(1)))", "pickle.find_class 'fractions'"),
    "reading elsewhere": ("open(place / 'there').read()", ""),
    "writing below its directory": ("open(place / 'inside' / 'x', 'w'); os.remove(place / 'inside' / 'x')", ""),
    "writing to nowhere": ("open('/dev/null', 'w')", ""),
}


@pytest.mark.parametrize("what", SEEN)
def test_what_a_command_does_outside_its_directory_is_seen_and_nothing_else(what, tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "there").touch()
    code, seen = SEEN[what]
    arguments = [sys.executable, "-c", HOOKS.format(what=code), str(tmp_path)]
    out = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip()
    assert out == seen.format(place=tmp_path)


@pytest.fixture
def watch(tmp_path):
    return Watch(tmp_path)


def test_the_first_thing_that_is_seen_is_what_was_wrong(watch):
    def elsewhere(command):
        watch("os.system", ("first",))
        watch("os.system", ("second",))

    assert judged(elsewhere, (), watch) == ("os.system 'first'", "")
    assert not watch.is_on
    watch("os.system", ("third",))
    assert judged(lambda command: sys.exit(0), (), watch) == ("", "")  # and the next command begins anew


def test_an_error_that_is_no_message_is_named_with_the_last_place_in_this_package(watch):
    def elsewhere(command):
        raise KeyboardInterrupt

    assert judged(elsewhere, (), watch)[0].startswith("KeyboardInterrupt at judging.py:")
    wrong, _ = judged(lambda command: profile(None), (), watch)
    assert wrong.startswith(("TypeError at profile", "AttributeError at profile"))


@pytest.mark.parametrize(
    ("limit", "number", "timer", "waits_s"),
    [("HANG_S", signal.SIGPROF, signal.ITIMER_PROF, 0), ("WAITS_S", signal.SIGALRM, signal.ITIMER_REAL, 30)],
)
def test_a_command_that_computes_or_waits_too_long_hangs_even_if_it_catches_every_exception(
    watch, monkeypatch, limit, number, timer, waits_s
):
    def hangs(command):
        while True:
            try:
                time.sleep(waits_s)
            except Exception:
                continue

    monkeypatch.setattr(judging, limit, 0.01)
    before = signal.signal(number, judging._hangs)
    try:
        assert judged(hangs, (), watch)[0].startswith("hangs: over ")
        assert signal.getitimer(timer) == (0.0, 0.0)
    finally:
        signal.signal(number, before)


def test_a_command_hangs_by_its_own_cpu_time_and_not_by_what_others_take(watch, monkeypatch):
    monkeypatch.setattr(judging, "HANG_S", 0.05)
    before = signal.signal(signal.SIGPROF, judging._hangs)
    try:
        assert "hangs" not in judged(lambda command: time.sleep(0.2), (), watch)[0]
    finally:
        signal.signal(signal.SIGPROF, before)


def test_a_message_with_its_place_and_status_2_is_how_an_input_is_refused(watch):
    def refuses(command):
        print(f"fpswitch: {command[0]}: no", file=sys.stderr)
        sys.exit(2)

    assert judged(refuses, ("input.toml",), watch) == ("", "fpswitch: input.toml: no\n")
    assert judged(refuses, ("x",), watch)[0] == "a message without the place"


def test_two_files_that_do_not_fit_together_are_a_place(watch, tmp_path):
    path = tmp_path / "mine.toml"
    shipped = Path(kernel.__file__).parent / "data/carried/apx.toml"
    path.write_text(shipped.read_text().replace("xfeature = 19", "xfeature = 14"))
    wrong, message = judged(cli.main, ("flow", "preempt", "--carried", str(path), "--hypothetical"), watch)
    assert (wrong, "apx: size_bytes = 128 (allowed on sapphire-rapids, by CPUID: 48)" in message) == ("", True)


def test_one_message_that_names_a_key_called_fpswitch_is_one_and_two_are_two(watch):
    def refuses(command):
        print(*command, sep="\n", file=sys.stderr)
        sys.exit(2)

    one = "fpswitch: /w/r/manifest.json: damaged: versions.fpswitch: Value should have at most 1000 items"
    note = f"fpswitch: /r {judging.NOTE}"
    assert judged(refuses, (one,), watch)[0] == judged(refuses, (note, one), watch)[0] == ""
    assert judged(refuses, (one, one), watch)[0].startswith("no message, or several")
    assert judged(refuses, (note,), watch)[0].startswith("no message, or several")


def test_memory_is_limited_when_what_the_seeds_import_and_reserve_is_there(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(trying, "watched", lambda place: Watch(place))
    monkeypatch.setattr(trying, "judged", lambda main, command, watch: done.append(command[0]) or ("", ""))
    monkeypatch.setattr(trying.gc, "freeze", lambda: done.append("freeze"))
    monkeypatch.setattr(trying, "limit_memory", lambda: done.append("limit"))
    one = trying.Trying(
        lambda arguments: None, "manifest", 1, Path(__file__).parent / "data", tmp_path, lambda said: None
    )
    assert one.seeds
    assert done == [*["compare"] * len(one.seeds), "freeze", "limit"]


def test_the_first_result_directory_is_always_compared(monkeypatch):
    from sim.cli import fuzzed

    compared = []
    monkeypatch.setattr("sim.results.load", lambda directory: None)
    monkeypatch.setattr(fuzzed, "main", compared.append)
    monkeypatch.setattr(fuzzed.random, "random", lambda: 1.0)
    monkeypatch.setattr(fuzzed, "_calls", itertools.count())
    fuzzed.loaded(["compare", "r"])
    with pytest.raises(SystemExit):
        fuzzed.loaded(["compare", "r"])
    assert compared == [["compare", "r"]]


@pytest.mark.parametrize("reader", ["CPU model in JSON", "CPU model in XML", "workload of rt-app"])
def test_the_files_that_are_damaged_are_read_one_after_the_other(reader, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    how = READERS[reader]
    found = how.seeds(tmp_path, Path(__file__).parent / "data")
    assert len(found) > 1
    for content in found:
        assert command.run(capsys, *how.put(content, tmp_path))[0] == 0


@pytest.mark.parametrize(
    ("whole", "inputs"), [([], 1), ([json.dumps({"inputs": 1, "messages": [], "problems": []})], 2)]
)
def test_a_process_that_ends_in_the_middle_of_a_line_is_a_problem(tmp_path, monkeypatch, whole, inputs):
    campaign = importlib.import_module("sim.verification.fuzz.campaign")
    text = "\n".join([*whole, '{"inp'])
    monkeypatch.setattr(campaign, "PROCESS", f"import os; os.write(1, {text.encode()!r}); os._exit(9)")
    monkeypatch.setattr(campaign, "is_guided", lambda: False)
    found = campaign.campaign("scenario", inputs, 1, tmp_path)
    assert (found.inputs, found.problems) == (inputs, {"ends the process with status 9: ''": 1})
