"""README and docs tell the truth: what they print after a command is what the command prints."""

import re
import shlex
from pathlib import Path

import pytest

from sim.cli import COMMANDS, main

TOP = Path(__file__).parent.parent
PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("**/*.md"))]
SHOWN = re.compile(r"^    \$ fpswitch (?P<command>.*)\n(?P<printed>(?:(?:    .*)?\n)+)", re.MULTILINE)
BLOCKS = {page: list(SHOWN.finditer(page.read_text(encoding="utf-8"))) for page in PAGES}


def called(page):
    return page.name


@pytest.mark.parametrize("page", [page for page, blocks in BLOCKS.items() if blocks], ids=called)
def test_what_a_page_shows_is_what_its_commands_print_one_after_the_other(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for shown in BLOCKS[page]:
        command = shlex.split(shown["command"])
        with pytest.raises(SystemExit) as stop:
            main([*command, "--no-figures"] if command[0] == "run" else command)
        assert not stop.value.code
        printed = re.sub(r"\([0-9a-f]{12}\)", "(SOURCE HASH)", capsys.readouterr().out)  # another one after each change
        assert re.sub(r"(?m)^    ", "", shown["printed"]).rstrip() == printed.rstrip()


def test_the_first_screen_and_sequences_are_shown():
    shown = {(page.name, block["command"].split()[0]) for page, blocks in BLOCKS.items() for block in blocks}
    assert {("README.md", "run"), ("first-host.md", "run"), ("flow.md", "flow")} <= shown


def test_every_command_is_in_the_table():
    table = (TOP / "docs/commands.md").read_text(encoding="utf-8")
    assert {name for name in COMMANDS if f"`fpswitch {name}" not in table} == set()


@pytest.mark.parametrize("page", PAGES, ids=called)
def test_the_pages_that_a_page_links_are_there(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_is_a_first_page():
    assert len((TOP / "README.md").read_text(encoding="utf-8").splitlines()) < 150
