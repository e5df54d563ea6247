"""What README and docs show after ``$ fpswitch ...``.

``python tests/shown.py [PAGE ...]`` runs it all again and rewrites the pages.  The commands of a page run one after the
other in one empty directory.  A TOML block after "Save this as NAME:" is there as that file.  The source hash, another
one after each change, is shown as (SOURCE HASH).
"""

import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from sim.cli import main

TOP = Path(__file__).parent.parent
PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("**/*.md"))]
SHOWN = re.compile(r"^    \$ fpswitch (?P<command>.*)\n(?P<printed>(?:(?:    .*)?\n)+)", re.MULTILINE)
SAVED = re.compile(r"Save this as (?P<name>[\w.-]+):\n\n```toml\n(?P<text>.*?)```", re.DOTALL)


def run(command: str) -> str:
    """What a command prints, which must end well."""
    words = shlex.split(command)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            main([*words, "--no-figures"] if words[0] == "run" else words)
        except SystemExit as stop:
            if stop.code:
                raise RuntimeError(f"fpswitch {command}: status {stop.code}") from stop
    return re.sub(r"\([0-9a-f]{12}\)", "(SOURCE HASH)", printed.getvalue()).rstrip()


def refreshed(text: str, printed_by: Callable[[str], str] = run) -> str:
    """A page with what its commands print now."""
    before = Path.cwd()

    def block(match: re.Match[str]) -> str:
        lines = [f"    {line}" if line else "" for line in printed_by(match["command"]).splitlines()]
        return "\n".join([f"    $ fpswitch {match['command']}", *lines, "", ""])

    with TemporaryDirectory() as folder:
        for saved in SAVED.finditer(text):
            (Path(folder) / saved["name"]).write_text(saved["text"], encoding="utf-8")
        os.chdir(folder)
        try:
            return SHOWN.sub(block, text).rstrip() + "\n"
        finally:
            os.chdir(before)


if __name__ == "__main__":
    for page in [Path(name).resolve() for name in sys.argv[1:]] or PAGES:
        text = page.read_text(encoding="utf-8")
        if SHOWN.search(text):
            page.write_text(refreshed(text), encoding="utf-8")
            print(page)
