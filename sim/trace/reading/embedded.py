"""The text of a trace inside another file: ftrace's text in a trace of Catapult in JSON, in any string of JSON or of a
program, or a mail's body in base64, also of a packed file.
"""

import binascii
import io
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from sim import packed
from sim.packed import Stream

_PIECE: Final = 1 << 16
_JSON: Final = re.compile(rb"\s*[{\[]")
_OF_CATAPULT: Final = re.compile(rb'"(?:traceEvents|systemTraceEvents)"')
# Catapult, tracing/tracing/extras/importer/trace_event_importer.html: ftrace's text beside Chrome's own events
_KEY: Final = re.compile(rb'"systemTraceEvents"\s*:\s*"')
_LONGEST_KEY: Final = 64
_STRING: Final = re.compile(rb'(?:[^"\\]|\\(?:u[0-9a-fA-F]{4}|[^u]))*+')
_LONGEST_ESCAPE: Final = 6
_ENCODED: Final = re.compile(
    rb"(?:.*\n)?Content-Transfer-Encoding:\s*base64\b.*?\r?\n\r?\n(?=[A-Za-z0-9+/=\r\n]+(?:\Z|\n--))",
    re.DOTALL | re.IGNORECASE,
)
_ALONE: Final = re.compile(rb"(?:[A-Za-z0-9+/]{60,}\r?\n){2,}[A-Za-z0-9+/=\r\n]*\Z|[A-Za-z0-9+/]{200,}=*\s*\Z")
_LINE_OF_STRING: Final = re.compile(rb"[^\n]*?: (?:\w+:)?(?:sched_|kvm_|x86_fpu_)\w+: [^\n\\]*\\n[^\n]*\n?\Z")
_BEFORE_STRING: Final = re.compile(rb"\s*(?:\{[^\n\\]{0,400}\":\s*|\[\s*)\"")
_ESCAPED: Final = re.compile(rb"\\(?P<of>[nrt\"'\\/]|u(?P<code>[0-9a-fA-F]{4}))")
_WHOLE: Final = re.compile(rb"(?:[^\\]|\\(?:u[0-9a-fA-F]{4}|[^u]))*+", re.DOTALL)
_PLAIN: Final = {b"n": b"\n", b"r": b"", b"t": b"\t"}
_NOT_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/=\r\n]")


def unwrapped(stream: Stream, name: str) -> Stream:
    """The text that the stream has inside, or the stream itself; lines count from the first of that text.

    ``name`` is what an error calls it.
    """
    begins = stream.peek(_PIECE)
    if _JSON.match(begins) and _OF_CATAPULT.search(begins):
        return io.BufferedReader(_Pieces(_of_catapult(stream)))
    if _LINE_OF_STRING.match(begins):
        return io.BufferedReader(_Pieces(_of_string(stream)))
    if encoded := _ENCODED.match(begins):
        stream.read(encoded.end())
    elif not _ALONE.match(begins):
        return stream
    return packed.unpacked(io.BufferedReader(_Pieces(_of_base64(stream))), name)


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = piece
        given, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)


def _of_catapult(stream: Stream) -> Iterator[bytes]:
    """The string of systemTraceEvents; nothing if there is none."""
    text = b""
    while (key := _KEY.search(text)) is None:
        piece = stream.read1(_PIECE)
        if not piece:
            return
        text = text[-_LONGEST_KEY:] + piece
    rest = text[key.end() :]
    while True:
        string = _STRING.match(rest)
        assert string is not None
        yield _plain(string[0])
        rest = rest[string.end() :]
        if rest.startswith(b'"') or len(rest) > _LONGEST_ESCAPE:
            return
        piece = stream.read1(_PIECE)
        if not piece:
            return
        rest += piece


def _plain(string: bytes) -> bytes:
    found: str = json.loads(f'"{string.decode("latin-1")}"', strict=False)  # a piece may end within a character
    return found.encode("latin-1", "replace")


def _of_string(stream: Stream) -> Iterator[bytes]:
    """A string whose line ends are escaped, as it was."""
    rest = b""
    if key := _BEFORE_STRING.match(stream.peek(_PIECE)):
        stream.read(key.end())
    while piece := stream.read1(_PIECE):
        rest += piece
        whole = _WHOLE.match(rest)
        assert whole is not None
        yield _ESCAPED.sub(_unescaped, whole[0])
        rest = rest[whole.end() :]
    yield _ESCAPED.sub(_unescaped, rest)


def _unescaped(match: re.Match[bytes]) -> bytes:
    if match["code"]:
        return chr(int(match["code"], 16)).encode("utf-8", "replace")
    return _PLAIN.get(match["of"], match["of"])


def _of_base64(stream: Stream) -> Iterator[bytes]:
    """What is encoded, up to a line that is none."""
    rest = b""
    while piece := stream.read1(_PIECE):
        end = _NOT_BASE64.search(piece)
        rest += (piece[: end.start()] if end else piece).translate(None, b"\r\n")
        whole = len(rest) // 4 * 4
        try:
            yield binascii.a2b_base64(rest[:whole])
        except binascii.Error:
            return
        rest = rest[whole:]
        if end:
            return
