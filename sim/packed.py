"""Files as people send them: plain, or compressed by gzip, xz, bzip2 or zstd, which is recognised by the first
bytes."""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from typing import IO, Any, Final, TypeAlias, cast

from sim.errors import InputError

DAMAGED: Final = (EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a packed stream raises when it is cut off or damaged; an OSError with an errno is the system's own."""

Stream: TypeAlias = "io.BufferedReader[Any] | gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File"
"""With peek() and read1()."""

_KINDS: Final = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}

_OTHERS: Final = {
    b"LPKSHHRH": "a journal of systemd (journalctl --file FILE prints it)",
    b"KDUMP   ": "a kernel dump (makedumpfile --dump-dmesg FILE LOG writes the log that is in it)",
    b"\x7fELF": "an ELF file (if it is a vmcore, makedumpfile --dump-dmesg FILE LOG writes the log that is in it)",
    b"PERFILE2": "a recording of perf (perf script -i FILE prints it)",
    b"\x17\x08Dtracing": "a recording of trace-cmd (trace-cmd report -i FILE prints it)",
    b"\xc1\x1f\xfc\xc1": "a trace in CTF, of LTTng or perf data convert (perf script prints what is read here)",
    b"PK\x03\x04": "a zip archive (unpack it)",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive (unpack it)",
    b"Rar!": "a rar archive (unpack it)",
    b"\x04\x22\x4d\x18": "packed by lz4 (lz4 -dc FILE unpacks it)",
    b"\x02\x21\x4c\x18": "packed by lz4 (lz4 -dc FILE unpacks it)",
    b"\x89LZO": "packed by lzop (lzop -dc FILE unpacks it)",
    b"LZIP": "packed by lzip (lzip -dc FILE unpacks it)",
    b"\x1f\x9d": "packed by compress (zcat FILE unpacks it)",
    b"\x5d\0\0": "packed in xz's older format (xz --format=lzma -dc FILE unpacks it)",
    b"%PDF": "a PDF file",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
"""What is no text and known by its first bytes (systemd, src/libsystemd/sd-journal/journal-def.h; makedumpfile,
diskdump_mod.h; the others as in file(1)), and what makes text of it."""

_OF_PROTOBUF: Final = b"\n"
"""The tag of the first packet (Perfetto, protos/perfetto/trace/trace.proto, Trace.packet)."""

_PEEKED: Final = 256
_UTF16_LE: Final = re.compile(rb"(?:[\t\n\r -~]\0){16}")
_PIECE: Final = 1 << 16

MOST_OF_LINE: Final = 1 << 16
"""Bytes of a line; what is longer comes in pieces."""


def unpacked(stream: IO[bytes], name: str) -> Stream:
    """The bytes of ``stream``, unpacked if they are packed, as UTF-8 if they are UTF-16; ``name`` is what an error
    calls it.  PowerShell writes UTF-16 where it redirects what a program prints; a part of that has no byte order mark.

    Packed twice (``x.gz`` sent through a mail gateway that packs again) is unpacked twice.
    """
    found: Stream = io.BufferedReader(stream)  # for peek() and read1()
    for _ in range(2):
        if found.peek(2).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return io.BufferedReader(_Utf8(found))
        if _UTF16_LE.match(found.peek(_PEEKED)):
            return io.BufferedReader(_Utf8(found, "utf-16-le"))
        packer = kind(found.peek(_PEEKED))
        if not packer:
            break
        found = _unpacking(found, packer, name)
    if found.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8):
        found.read(len(codecs.BOM_UTF8))
    return found


class _Utf8(io.RawIOBase):
    """UTF-16, by default with a byte order mark, as UTF-8; what is no UTF-16 is replaced."""

    def __init__(self, stream: Stream, encoding: str = "utf-16") -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._left:
            part = self._stream.read1(_PIECE)
            self._left = self._decoder.decode(part, final=not part).encode()
            if not part:
                break
        given, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)


def told(stream: Stream) -> str:
    """What a file is that is no text, and what makes text of it; empty if its first bytes do not tell."""
    begins = stream.peek(_PEEKED)
    if begins.startswith(_OF_PROTOBUF) and is_binary(stream):
        return "no text, perhaps a trace of Perfetto (traceconv systrace FILE prints what ftrace recorded in it)"
    return next((what for magic, what in _OTHERS.items() if begins.startswith(magic)), "")


def is_binary(stream: Stream) -> bool:
    """Whether the stream does not begin like text; after a power failure a log may begin with zeros."""
    begins = stream.peek(_PEEKED)
    text = begins.lstrip(b"\0")[:_PEEKED]
    return b"\0" in text or bool(begins and not text)


def content(stream: Stream, name: str, most: int) -> bytes:
    """All that is left of the stream; :class:`InputError` if that is more than ``most`` bytes, as of a gzip bomb."""
    parts: list[bytes] = []
    size = 0
    while part := stream.read1(most + 1 - size):
        parts.append(part)
        size += len(part)
        if size > most:
            raise InputError(f"{name}: more than {most >> 20} MiB of text (allowed: up to that)")
    return b"".join(parts)


def lines(stream: Stream, name: str, most: int) -> Iterator[bytes]:
    """The lines of the stream; :class:`InputError` after ``most`` bytes."""
    size = 0
    while line := stream.readline(MOST_OF_LINE):
        yield line
        size += len(line)
        if size > most:
            raise InputError(f"{name}: more than {most >> 20} MiB of text (allowed: up to that)")


def kind(begins: bytes) -> str:
    """The program that packed a file which begins so; empty if none did."""
    return next((kind for magic, kind in _KINDS.items() if begins.startswith(magic)), "")


def _unpacking(stream: Stream, kind: str, name: str) -> Stream:
    """Not buffered again where that is not needed: of a file that is cut off, all before that place can be read."""
    if kind == "gzip":
        return gzip.GzipFile(fileobj=stream, mode="rb")
    if kind == "xz":
        return lzma.LZMAFile(cast(IO[bytes], stream))
    if kind == "bzip2":
        return bz2.BZ2File(stream)
    try:
        import pyarrow
    except ImportError as error:  # pragma: no cover  # a dependency of this package
        raise InputError(f"{name} is packed by zstd, which needs pyarrow: unpack it with zstd -d") from error
    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), "zstd"))
