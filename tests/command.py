"""Running the command line inside a test."""

import json

import pytest

from sim.cli import main


def run(capsys, *arguments):
    """Exit status, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


def run_json(capsys, *arguments):
    """The one document that a command prints with --json, and nothing else."""
    status, out, err = run(capsys, *arguments, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)  # fails on anything but one document
