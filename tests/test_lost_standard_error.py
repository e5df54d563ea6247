"""Standard error that nobody reads, or that was closed from the start, changes no result and no exit status."""

import json
import os
import subprocess
import sys

import pytest
import worlds

from sim.experiment.progress import Progress
from sim.results import load

SMALL = worlds.small(("manual-load", "xstate-guest"), ["sapphire-rapids"], replications=2)
PROGRAM = [sys.executable, "-m", "sim.cli"]


def broken(command):
    """Into a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=nobody, text=True, check=False)


def redirected(to):
    def run(command):
        shell = ["sh", "-c", f'exec "$@" 2>{to}', "sh", *command]
        return subprocess.run(shell, stdout=subprocess.PIPE, text=True, check=False)

    return run


WAYS = {"a broken pipe": broken, "a full disk": redirected("/dev/full"), "closed": redirected("&-")}


@pytest.fixture(params=WAYS)
def without(request):
    """Runs a command, with its exit status and what it wrote to standard output."""

    def run(*words):
        done = WAYS[request.param]([*PROGRAM, *map(str, words)])
        return done.returncode, done.stdout

    return run


@pytest.fixture
def there(scenario, tmp_path):
    """A result, which a run of another scenario replaces, and says so."""
    subprocess.run([*PROGRAM, "run", scenario, "--jobs", "1", "--out", tmp_path / "r"], check=True, capture_output=True)
    return tmp_path / "r"


@pytest.mark.slow
def test_a_run_goes_on_whose_notes_are_lost(without, scenario, there):
    status, text = without("run", scenario, "--jobs", "1", "--seed", "2", "--out", there, "--json")
    assert status == 0
    assert json.loads(text)["scenario"]
    assert load(there).manifest["resolved"]["run"]["seed"] == 2


def test_a_wrong_input_has_its_exit_status(without):
    assert without("flow", "no-such-flow") == (2, "")


def test_a_note_of_a_command_is_lost_and_its_answer_is_not(without):
    expected = subprocess.run([*PROGRAM, "layout", "6144"], capture_output=True, text=True, check=False)
    assert (expected.returncode, "6144 is decimal" in expected.stderr) == (0, True)
    assert without("layout", "6144") == (0, expected.stdout)


@pytest.mark.parametrize("closed", ["", "2>&-"])
def test_without_dev_null_a_command_answers_as_with_it(closed):
    """As in a root directory that has nothing but the program."""
    program = "import os; os.devnull = '/none/null'; from sim.cli import main; main(['layout', '6144'])"
    expected = subprocess.run([*PROGRAM, "layout", "6144"], capture_output=True, text=True, check=False)
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", program]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, expected.stdout)
    assert done.stderr == ("" if closed else expected.stderr)


class Lost:
    """A stream as :mod:`tqdm` and print() see it, of a terminal that has gone."""

    def __init__(self, error):
        self._error = error

    def write(self, text):
        raise self._error

    flush = isatty = lambda self: True


@pytest.mark.parametrize("stream", [Lost(OSError(5, "EIO")), Lost(ValueError("I/O on closed file")), None])
def test_notes_of_a_run_in_python_are_lost_without_an_error(stream, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", stream)
    told = Progress(shown=True)
    told.say("before")
    told.start(2, 0)
    told.step()
    told.say("in the middle")
    told.close()
    assert told.notes == ["before", "in the middle"]
    assert capsys.readouterr().out == ""
