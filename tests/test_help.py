"""The command line answers at once."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from sim.cli import COMMANDS, cli

SCRIPT = """
import sys
from sim.cli import main
try:
    main(["--help"])
finally:
    roots = ("sim", "numpy", "pandas", "pydantic")
    print(*(name for name in sys.modules if name.split(".")[0] in roots), file=sys.stderr)
"""


def test_the_help_lists_every_command_and_imports_none_of_them():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    assert set(done.stderr.split()) == {"sim", "sim.cli", "sim.errors", "sim.release"}
    for name, (_, line) in COMMANDS.items():
        assert f"  {name}" in done.stdout
        assert line in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help_of_its_own_with_an_example(name):
    command = cli.get_command(click.Context(cli), name)
    assert command.help
    assert "Example" in command.help + (command.epilog or "")
