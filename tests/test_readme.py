"""The README tells the truth: its example is what the command prints."""

import re
from pathlib import Path

import pytest

from sim.cli import COMMANDS, main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_example_is_the_real_output(capsys):
    command = re.search(r"\$ fpswitch (flow preempt .*)", README)
    assert command
    with pytest.raises(SystemExit):
        main(command[1].split())
    printed = capsys.readouterr().out
    assert printed in re.sub(r"(?m)^    ", "", README)


def test_the_tables_of_the_run_are_its_real_output(capsys, tmp_path, monkeypatch):
    command = re.search(r"\$ fpswitch (run .*)", README)
    assert command
    monkeypatch.chdir(Path(__file__).parent.parent)
    with pytest.raises(SystemExit) as stop:
        main([*command[1].split(), "--no-figures", "--out", str(tmp_path / "results")])
    assert not stop.value.code
    shown = README[command.end() : README.index("![Cost by strategy")]
    tables = [line[4:] for line in shown.splitlines() if line.startswith("    ")]
    assert len(tables) > 25
    assert "\n".join(tables) in "\n".join(line for line in capsys.readouterr().out.splitlines() if line)


def test_every_command_is_in_the_table():
    assert {name for name in COMMANDS if f"`fpswitch {name}" not in README} == set()


def test_the_pages_that_the_readme_links_are_there():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (Path(__file__).parent.parent / link).exists()] == []
