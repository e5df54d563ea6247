"""Recordings in the tools' own formats, perf.data and trace.dat: read by those tools, if they are installed."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from sim.errors import InputError

TOOLS: Final[dict[bytes, tuple[str, ...]]] = {
    b"PERFILE2": (
        "perf", "script", "--ns", "--header", "--show-lost-events", "-F", "comm,tid,cpu,time,event,trace", "-i",
    ),
    b"\x17\x08Dtracing": ("trace-cmd", "report", "-t", "-i"),
}  # fmt: skip
"""By the first bytes of a file: the command that prints it as text, with times in ns, to be followed by its name.

tools/perf/util/header.c, PERF_MAGIC; trace-cmd's Documentation/trace-cmd/trace-cmd.dat.v7.5.txt.
"""

_PACKAGES: Final = {"perf": "package linux-perf or linux-tools", "trace-cmd": "package trace-cmd"}


def command(path: Path) -> tuple[str, ...] | None:
    """The command that prints the recording in a file; None if the file is none of those, or a pipe, which it would
    begin to read.

    Raises :class:`InputError` if the tool is missing.
    """
    if path.is_fifo():
        return None
    with path.open("rb") as stream:
        begins = stream.read(max(map(len, TOOLS)))
    for magic, words in TOOLS.items():
        if begins.startswith(magic):
            if shutil.which(words[0]) is None:
                alone = " ".join((*words, path.name))
                raise InputError(
                    f"{path} is a recording of {words[0]}, which is not installed here ({_PACKAGES[words[0]]}); "
                    f"allowed: its text, as {alone} prints it"
                )
            return (*words, str(path))
    return None


@contextmanager
def printed(words: tuple[str, ...]) -> Iterator[IO[bytes]]:
    """What the command prints; :class:`InputError` with what it said, if it fails."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
        assert process.stdout is not None
        try:
            yield process.stdout
            failed = process.wait()
        except InputError as error:
            if process.wait() == 0:
                raise
            raise InputError(_failure(words, said)) from error
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if failed:
            raise InputError(_failure(words, said))


def _failure(words: tuple[str, ...], said: IO[bytes]) -> str:
    said.seek(0)
    lines = [line for line in said.read().decode("utf-8", "replace").splitlines() if line.strip()]
    text = next((line for line in lines if "Ignoring" not in line), "no message")
    shown = "".join(c if c.isprintable() else "?" for c in text.strip())
    return f"{words[-1]}: {words[0]} {words[1]} cannot print it: {shown}"
