"""What README and docs show after ``$ fpswitch ...``.

``python tests/shown.py [PAGE ...]`` runs it all again and rewrites the pages.  The commands of a page run one after the
other in one empty directory.  A block after "Save this as NAME:" is there as that file.  A diff block is applied to a
copy of the sources, and what comes after it runs there.  The source hash, another one after each change, is shown as
(SOURCE HASH).
"""

import contextlib
import functools
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from sim.cli import main

TOP = Path(__file__).parent.parent
PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("**/*.md"))]
SHOWN = re.compile(r"^    \$ fpswitch (?P<command>.*)\n(?P<printed>(?:(?:    .*)?\n)+)", re.MULTILINE)
DIFF = re.compile(r"^```diff\n(?P<patch>.*?)^```\n", re.MULTILINE | re.DOTALL)
SAVED = re.compile(r"Save\s+this\s+as\s+(?P<name>[\w.-]+):\n\n```(?:toml|text)\n(?P<text>.*?)```", re.DOTALL)


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
    return without_hash(printed.getvalue())


def without_hash(printed: str) -> str:
    return re.sub(r"\([0-9a-f]{12}\)", "(SOURCE HASH)", printed).rstrip()


class Patched:
    """A copy of the sources, which diffs change, in a directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def apply(self, patch: str) -> None:
        if not (self.folder / "sim").exists():
            shutil.copytree(TOP / "sim", self.folder / "sim", ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["git", "apply", "-"], input=patch, text=True, check=True, cwd=self.folder)

    def run(self, command: str) -> str:
        """What a command prints there, which must end well."""
        ran = [sys.executable, "-m", "sim.cli", *shlex.split(command)]
        environment = os.environ | {"PYTHONPATH": str(self.folder)}
        return without_hash(subprocess.run(ran, capture_output=True, text=True, check=True, env=environment).stdout)


def refreshed(text: str, printed_by: Callable[[str], str] = run) -> str:
    """A page with what its commands print now."""
    before = Path.cwd()

    def block(match: re.Match[str], printed_by: Callable[[str], str]) -> str:
        lines = [f"    {line}" if line else "" for line in printed_by(match["command"]).splitlines()]
        return "\n".join([f"    $ fpswitch {match['command']}", *lines, "", ""])

    with TemporaryDirectory() as folder, TemporaryDirectory() as sources:
        patched = Patched(Path(sources))
        for saved in SAVED.finditer(text):
            (Path(folder) / saved["name"]).write_text(saved["text"], encoding="utf-8")
        os.chdir(folder)
        try:
            parts, at = [], 0
            for diff in [*DIFF.finditer(text), None]:
                until = diff.end() if diff else len(text)
                printed = functools.partial(block, printed_by=patched.run if at else printed_by)
                parts.append(SHOWN.sub(printed, text[at:until]))
                if diff:
                    patched.apply(diff["patch"])
                at = until
            return "".join(parts).rstrip() + "\n"
        finally:
            os.chdir(before)


if __name__ == "__main__":
    for page in [Path(name).resolve() for name in sys.argv[1:]] or PAGES:
        text = page.read_text(encoding="utf-8")
        if SHOWN.search(text):
            page.write_text(refreshed(text), encoding="utf-8")
            print(page)
