"""Boot logs as clouds and containers keep them: encoded, in parts, on one line."""

import base64
import io
import json
import re
from pathlib import Path

import pytest

from sim import mailed
from sim.errors import InputError
from sim.kernel.bootlog_reading import read

LOGS = sorted((Path(__file__).parent / "data" / "bootlogs").glob("*.txt"))
TEXTS = [path.read_text() for path in LOGS]


def of(content: str | bytes):
    return read(io.BytesIO(content if isinstance(content, bytes) else content.encode()), "the log")


def in_lines(code: str, width: int) -> str:
    return "".join(code[k : k + width] + "\n" for k in range(0, len(code), width))


def xml(code: str) -> str:
    return f"<GetConsoleOutputResponse>\n<instanceId>i-0</instanceId>\n<output>{code}</output>\n<a/>\n"


CONSOLES = {
    "JSON": lambda code: json.dumps({"InstanceId": "i-0", "Output": code, "Timestamp": "2025-01-01"}, indent=4),
    "JSON on a line": lambda code: json.dumps({"Output": code, "Timestamp": "2025-01-01"}),
    "XML": xml,
    "XML in lines": lambda code: xml(in_lines(code, 76)),
    "alone": lambda code: code,
    "base64(1)": lambda code: in_lines(code, 76),
    "openssl": lambda code: in_lines(code, 64),
    "between others": lambda code: f"Output of the console:\n{in_lines(code, 60)}\nand so on\n",
}


@pytest.mark.parametrize("text", TEXTS, ids=[path.stem for path in LOGS])
@pytest.mark.parametrize("how", CONSOLES)
def test_a_console_in_base64_is_the_log(how, text):
    serial = "\x1b[0m" + text.replace("\n", "\r\n")
    assert of(CONSOLES[how](base64.b64encode(serial.encode()).decode())) == of(text)


@pytest.mark.parametrize("digits", ["0123456789abcdef" * 8, "deadbeef" * 13, "A" * 96])
def test_what_decodes_to_no_text_stays(digits):
    lines = [f"root hash {digits}\n", "x86/fpu: x87 FPU will use FXSAVE\n", f"{digits}\n"]
    assert "".join(mailed.undone(lines)) == "".join(lines)


@pytest.mark.parametrize("text", TEXTS, ids=[path.stem for path in LOGS])
@pytest.mark.parametrize("size", [7, 40, 8192])
def test_the_parts_of_a_line_in_a_container_s_log_are_the_line(size, text):
    rows = []
    for line in text.splitlines():
        parts = [line[k : k + size] for k in range(0, len(line), size)]
        rows += [
            f"2025-01-01T10:00:00.123456789Z stdout {'F' if part is parts[-1] else 'P'} {part}\n" for part in parts
        ]
    assert of("".join(rows)) == of(text)


@pytest.mark.parametrize("text", TEXTS, ids=[path.stem for path in LOGS])
@pytest.mark.parametrize("before", range(64_000, 65_600, 203))
def test_a_console_on_one_line_is_not_cut_within_a_line_of_the_log(before, text):
    serial = "x" * (before - 25_000) + "\r\n" + "y" * 25_000 + "\r\n" + text.replace("\n", "\r\n")
    assert of(json.dumps({"contents": serial, "kind": "compute#serialPortOutput"})) == of(text)


def test_a_byte_order_mark_is_no_part_of_the_first_line():
    assert of(b"\xef\xbb\xbf" + TEXTS[0].encode()) == of(TEXTS[0])


@pytest.mark.parametrize(
    ("begins", "what"),
    [
        (b"\n\x1a2\x18\n\x04\x08\x06\x10\x00\x00", "perhaps a trace of Perfetto (traceconv systrace FILE prints"),
        (b"\xc1\x1f\xfc\xc1\x00\x00\x00\x00", "a trace in CTF, of LTTng or perf data convert"),
    ],
)
def test_binary_traces_are_named(begins, what):
    with pytest.raises(InputError, match=re.escape(what)):
        of(begins + bytes(300))
