"""Traces of the tests as text, and the commands and the reader that read them."""

import gzip
import io
import json
from pathlib import Path

import pytest
from corruption import TRACES

from sim.cli import main
from sim.trace.reading import lines
from sim.trace.reading.chunks import steps
from sim.trace.reading.reader import Reader

CASES = Path(__file__).parent / "data" / "cases"
FORMATS = Path(__file__).parent / "data" / "traces" / "formats"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


def checked(capsys, name):
    status, out, _ = run(capsys, "replay", CASES / f"{name}.txt", "--check", "--json")
    return status, json.loads(out)


def read(data, block=1 << 20):
    reader = Reader(io.BytesIO(data), "a trace", block)
    return [step for chunk in reader.chunks() for step in steps(chunk, reader.names)], reader


def without_lines(found):
    return [tuple(step)[1:] for step in found]


PLAIN = {path.stem.partition(".")[0]: gzip.decompress(path.read_bytes()) for path in TRACES[:2]}
SHORT = b"".join(PLAIN["host-pipe"].splitlines(keepends=True)[:400]) if "host-pipe" in PLAIN else b""


def short(name):
    return b"".join(PLAIN[name].splitlines(keepends=True)[:500])


def as_trace_cmd(text):
    """Lines of perf script as trace-cmd report prints them."""
    rows = []
    for line in text.splitlines():
        event = lines.HEADER.match(line)
        if event is None or line.startswith(b"#"):
            continue
        rows.append(
            b"%16s-%-5s [%s] %s.%s: %s: %s"
            % (*event.group("comm", "tid", "cpu", "seconds", "fraction"), event["event"], event["payload"])
        )
    return rows
