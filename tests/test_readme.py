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


def test_the_first_screen_is_the_real_output_of_the_run(capsys, tmp_path, monkeypatch):
    command = re.search(r"\$ fpswitch (run .*)", README)
    assert command
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([*command[1].split(), "--no-figures"])
    assert not stop.value.code
    shown = README[command.end() : README.index("How to read it:")].strip("\n")
    lines = [line.removeprefix("    ") for line in shown.splitlines()]
    assert len(lines) > 30
    printed = re.sub(r"\([0-9a-f]{12}\)", "(SOURCE HASH)", capsys.readouterr().out)  # another one after each change
    assert "\n".join(lines).rstrip() == printed.rstrip()


def test_every_command_is_in_the_table():
    assert {name for name in COMMANDS if f"`fpswitch {name}" not in README} == set()


def test_the_pages_that_the_readme_links_are_there():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (Path(__file__).parent.parent / link).exists()] == []
