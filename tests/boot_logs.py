"""Boot logs of the tests: as they were posted, as the kernel printed them, and the commands that read them."""

import io
import json
from pathlib import Path

import pytest

from sim.cli import main
from sim.kernel.bootlog import BootLog
from sim.kernel.bootlog_reading import parse, read
from sim.xsave.components import bits

DATA = Path(__file__).parent / "data"
LOGS = sorted((DATA / "bootlogs").glob("*.txt"))
TEXTS = [path.read_text().replace("# ", "") for path in LOGS]


def text_of(name: str) -> str:
    return (DATA / "bootlogs" / f"{name}.txt").read_text()


def as_printed(text: str) -> str:
    """The lines of a log as the kernel printed them, without what others put before them or wrapped."""
    log = parse(text.splitlines(keepends=True), "the log")
    lines = [f"x86/fpu: Supporting XSAVE feature 0x{1 << i:03x}: 'AVX-512 opmask'" for i in bits[log.supporting]]
    lines += [
        f"x86/fpu: xstate_offset[{i}]: {log.offsets[i]:4}, xstate_sizes[{i}]: {log.sizes[i]:4}" for i in log.sizes
    ]
    size = f"context size is {log.size} bytes, using '{log.format}' format."
    return "".join(line + "\n" for line in (*lines, f"x86/fpu: Enabled xstate features {log.mask:#x}, {size}"))


PRINTED = [as_printed(text) for text in TEXTS]


def case(name: str) -> str:
    return str(DATA / "cases" / f"{name}.txt")


def run_json(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["layout", *map(str, arguments), "--json"])
    return stop.value.code or 0, json.loads(capsys.readouterr().out)


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["layout", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    return err


def parse_text(text: str) -> BootLog:
    return parse(text.splitlines(keepends=True), "the log")


def read_bytes(content: bytes) -> BootLog:
    return read(io.BytesIO(content), "the log")
