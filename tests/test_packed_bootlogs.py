"""Boot logs in files that are no plain text: packed, of a journal, of a serial line, in another encoding."""

import base64
import bz2
import gzip
import io
import json
import lzma

import pytest
from boot_logs import PRINTED, TEXTS, parse_text, read_bytes

from sim import packed
from sim.errors import InputError
from sim.kernel.bootlog_reading import parse, read, read_all
from sim.mailed import undone

# Packed.


@pytest.mark.parametrize(
    "pack", [gzip.compress, lzma.compress, bz2.compress, lambda data: gzip.compress(gzip.compress(data))]
)
def test_a_packed_log_is_the_log(pack):
    assert read_bytes(pack(TEXTS[0].encode())) == parse_text(TEXTS[0])


def zstd(data: bytes) -> bytes:
    import pyarrow

    return pyarrow.compress(data, codec="zstd", asbytes=True)


def test_zstd_is_read_by_the_codec_of_pyarrow(tmp_path):
    data = zstd(TEXTS[0].encode())
    assert read_bytes(data) == parse_text(TEXTS[0])
    assert read_bytes(data + zstd(TEXTS[1].encode())).boots == 2
    with pytest.raises(InputError, match="cannot read the log"):
        read_bytes(data[:-20])


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress, zstd])
def test_a_packed_log_that_is_cut_off_or_damaged_is_one_message(pack):
    data = pack(b"".join(text.encode() for text in TEXTS * 50))
    for broken in (data[: len(data) // 2], data[:12] + b"\x55" * 40 + data[52:]):
        with pytest.raises(InputError, match=r"^cannot read the log: [^\n]+; expected lines"):
            read_all(io.BytesIO(broken), "the log")


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress, zstd])
@pytest.mark.parametrize("text", TEXTS[:3])
@pytest.mark.parametrize("header", ["", "Content-Type: application/gzip\nContent-Transfer-Encoding: base64\n\n"])
def test_a_packed_log_in_base64_is_the_log(header, text, pack):
    """A mail's attachment, or what ``gzip -c | base64`` prints on a console."""
    encoded = base64.encodebytes(pack(text.encode())).decode()
    assert parse_text(f"The log:\n\n{header}{encoded}") == parse_text(text)
    assert parse_text(f"{header}{encoded}\n--part--\n") == parse_text(text)


def test_a_damaged_or_endless_file_in_base64_is_left_alone():
    for raw in (gzip.compress(TEXTS[0].encode())[:-20], gzip.compress(bytes(40 << 20))):
        lines = base64.encodebytes(raw).decode().splitlines(keepends=True)
        assert "".join(undone(lines)).replace("=", "").split() == "".join(lines).replace("=", "").split()


def test_what_is_not_packed_is_passed_on():
    assert packed.unpacked(io.BytesIO(b"BZ, plain"), "the file").read() == b"BZ, plain"
    assert packed.unpacked(io.BytesIO(b""), "the file").read() == b""


# What journald, serial consoles and PowerShell make of a log.


def as_bytes(line: str) -> list[int]:
    return list(line.encode())


def in_pieces(line: str) -> str:
    """A field of journalctl -o export whose value is not plain text: its length in eight bytes, and the bytes."""
    raw = line.encode() + b"\x01"
    return f"MESSAGE\n{len(raw).to_bytes(8, 'little').decode('latin-1')}{raw.decode()}\n"


JOURNALS = {
    "json": lambda line: json.dumps({"PRIORITY": "6", "MESSAGE": as_bytes(line)}) + "\n",
    "json without blanks": lambda line: json.dumps({"MESSAGE": as_bytes(line)}, separators=(",", ":")) + "\n",
    "json-pretty": lambda line: json.dumps({"MESSAGE": as_bytes(line), "PRIORITY": "6"}, indent=8) + "\n",
    "json-seq": lambda line: "\x1e" + json.dumps({"MESSAGE": as_bytes(line)}) + "\n",
    "export": lambda line: f"__CURSOR=s=1;i=2\n_TRANSPORT=kernel\n{in_pieces(line)}\n",
}


@pytest.mark.parametrize("text", PRINTED)
@pytest.mark.parametrize("how", JOURNALS)
def test_a_journal_whose_messages_are_bytes_is_the_log(how, text):
    stream = io.BytesIO("".join(map(JOURNALS[how], text.splitlines())).encode("latin-1"))
    assert read(stream, "the journal") == parse(text.splitlines(keepends=True), "the log")


def test_a_list_of_what_are_no_bytes_stays():
    line = '{"MESSAGE" : [ 120, 999 ], "xstate_offset[2]" : 576 }\n'
    assert list(undone([line])) == [line]
    assert list(undone(['{"MESSAGE" : [\n', "\t120,\n"])) == ['{"MESSAGE" : [120,\n']


@pytest.mark.parametrize("noise", [b"\xff\0\xfe\x80", bytes(300), b"\0\n"])
def test_zeros_and_noise_on_a_serial_line_do_not_hide_a_log(noise):
    for text in PRINTED:
        half = text.index("\n", len(text) // 2) + 1
        raw = noise + text[:half].encode() + noise.replace(b"\n", b"") + text[half:].encode()
        assert read(io.BytesIO(raw), "the capture") == parse(text.splitlines(keepends=True), "the log")


def test_utf_16_without_its_byte_order_mark_is_read():
    for text in PRINTED:
        assert read(io.BytesIO(text.encode("utf-16-le")), "log") == parse(text.splitlines(keepends=True), "the log")


@pytest.mark.parametrize(
    ("begins", "message"),
    [
        (b"LPKSHHRH", "is a journal of systemd .journalctl --file FILE prints it.; allowed: a boot log as text"),
        (b"KDUMP   ", "is a kernel dump .makedumpfile --dump-dmesg FILE LOG"),
        (b"\x7fELF", "is an ELF file .if it is a vmcore"),
        (b"\x04\x22\x4d\x18", "is packed by lz4 .lz4 -dc FILE unpacks it"),
        (b"\x89PNG", "is a picture; allowed: a boot log as text"),
        (bytes(range(256)), "is not text"),
    ],
)
def test_what_holds_a_log_and_is_no_text_is_named(begins, message):
    with pytest.raises(InputError, match=f"the file {message}"):
        read(io.BytesIO(begins + bytes(300)), "the file")
