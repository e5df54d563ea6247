"""README and docs tell the truth: what they print after a command is what the command prints."""

import re

import click
import pytest
from shown import PAGES, SHOWN, TOP, refreshed

import sim
from sim.cli import COMMANDS, cli


def called(page):
    return page.name


SIMULATED = ("apx-guests.md", "halt-polling.md", "mediated-vpmu.md", "mitigation-placement.md", "overcommit-ratio.md")
"""Pages that show sweeps, which take seconds."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page.name in SIMULATED))
        for page in PAGES
        if SHOWN.search(page.read_text("utf-8"))
    ],
    ids=called,
)
def test_what_a_page_shows_is_what_its_commands_print(page):
    text = page.read_text(encoding="utf-8")
    assert text == refreshed(text)  # else: python tests/shown.py


def test_a_page_that_shows_something_else_is_found():
    text = "    $ fpswitch kernels\n    something else\n\nAnd so on.\n"
    assert (
        refreshed(text, lambda _: "v6.18\n\nv6.19") == "    $ fpswitch kernels\n    v6.18\n\n    v6.19\n\nAnd so on.\n"
    )


def test_the_first_screen_and_sequences_are_shown():
    shown = {(page.name, block["command"].split()[0]) for page in PAGES for block in SHOWN.finditer(page.read_text())}
    assert {("README.md", "run"), ("first-host.md", "run"), ("flow.md", "flow")} <= shown


def test_every_command_is_in_the_table():
    table = (TOP / "docs/commands.md").read_text(encoding="utf-8")
    assert {name for name in COMMANDS if f"`fpswitch {name}" not in table} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_s_page_has_all_of_its_help_in_the_sections_of_a_man_page(name, monkeypatch):
    monkeypatch.syspath_prepend(TOP / "docs")
    import from_code

    page = from_code.commands()[f"fpswitch-{name}"]
    own = page.partition(f"## fpswitch {name} ")[0]
    assert own.index("## Synopsis") < own.index("## Description") < own.index("## Examples") < own.index("## Options")
    with click.Context(cli, info_name="fpswitch") as group:
        command = cli.get_command(group, name)
        context = click.Context(command, group, name, max_content_width=72, terminal_width=72)
        words = command.get_help(context).split()
    shown = re.sub(r"^#+ .*|^```.*", "", own, flags=re.MULTILINE).split()
    titles = {"Usage:", "Example:", "Examples:", "Options:", "Commands:"}
    assert [word for word in words if word not in titles] == shown


def test_every_abbreviation_of_a_first_screen_that_is_shown_is_in_the_glossary():
    glossary = set(re.findall(r"PL(?=x)|[^\W_]+", (TOP / "docs/glossary.md").read_text(encoding="utf-8")))
    words = set()
    for page in PAGES:
        for block in SHOWN.finditer(page.read_text(encoding="utf-8")):
            if block["command"].startswith(("run ", "compare ")):
                lines = (line.removeprefix("    ") for line in block["printed"].splitlines())
                words |= {word for line in lines for word in re.findall(r"[A-Za-z]*[A-Z]{2}[A-Z0-9]*", headed(line))}
    assert words - glossary == {"ASSUMED", "DIR", "HASH", "SOURCE", "XOR"}  # words, and a component of APX's encoding


def headed(line):
    """A line of a first screen without the heading that it may begin with, such as HOW SURE."""
    return re.sub(r"^[A-Z]+( [A-Z]+)*(?=  | \()", "", line)


@pytest.mark.parametrize("page", PAGES, ids=called)
def test_the_pages_that_a_page_links_are_there(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=called)
def test_a_page_has_the_minus_sign_that_the_program_prints(page):
    assert "\N{MINUS SIGN}" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=called)
def test_no_line_of_a_page_is_a_comment_by_chance(page):
    assert re.findall(r"^ {0,3}%.*", page.read_text(encoding="utf-8"), re.MULTILINE) == []  # MyST leaves it out


def test_the_readme_is_a_first_page():
    assert len((TOP / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_the_readme_installs_the_wheel_of_this_version():
    wheels = set(re.findall(r"dist/(\S+\.whl)", (TOP / "README.md").read_text(encoding="utf-8")))
    assert wheels == {f"fpswitch-{sim.__version__}-py3-none-any.whl"}
