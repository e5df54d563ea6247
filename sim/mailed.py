"""Lines of a log that came through a mail program, a web page or a terminal, as they were before.

Undone are transfer encodings (RFC 2045, sections 6.7 and 6.8; base64 also where a cloud's API has it in JSON or XML,
and of a packed file), lines that a container's log has in parts, HTML's tags and character references, bold type of
forums, the escapes of JSON, Markdown and RTF, messages that journald writes as a list of bytes, the colours of a
terminal, ligatures, and white space and quotation marks that look like ASCII's.  What was quoted or wrapped stays so:
:func:`without_prefix` helps to join it.
"""

import base64
import binascii
import html
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from typing import Final

from sim import packed
from sim.errors import InputError

_ENCODING: Final = re.compile(r"Content-Transfer-Encoding:\s*([\w-]+)", re.ASCII | re.IGNORECASE)
_BASE64: Final = re.compile(r"(?P<before>)(?P<code>[A-Za-z0-9+/]{2,}={0,2})(?P<after>)")
# Without a header that says so, at least a line of it (60 characters in uuencode's days, 64 in PEM, 76 in mails).
_SURE_BASE64: Final = re.compile(
    r"(?P<before>(?:.*[^A-Za-z0-9+/=])?)(?P<code>[A-Za-z0-9+/]{60,}={0,2})(?P<after>(?:[\"'<].*)?)", re.DOTALL
)
_MORE_BASE64: Final = re.compile(r"(?P<before>)(?P<code>[A-Za-z0-9+/]+={0,2}|)(?P<after>(?:[\"'<].*)?)", re.DOTALL)
_NOT_IN_TEXT: Final = frozenset(range(256)) - frozenset(range(32, 127)) - frozenset(b"\t\n\r\f\x1b")
"""Bytes that are rare in a log."""

# kubernetes, pkg/kubelet/kuberuntime/logs/logs.go: the last part of a line has F, those before it P.
_PART: Final = re.compile(r"(?P<head>\S{20,40} std(?:out|err) )(?P<tag>[PF])(?: |$)", re.ASCII)
_ANY_CODE: Final = re.compile(r"(?:=[0-9A-F]{2})+", re.ASCII)
# Without a header that says so, "eax=20000000" must stay: codes with a letter, and blanks at the end of a line.
_SURE_CODE: Final = re.compile(r"(?:=(?:3D|[C-F][0-9A-F]=[89AB][0-9A-F](?:=[89AB][0-9A-F])*))+|=(?:20|09)(?=\s*$)")
_NEXT_PART: Final = ("From ", "--")
"""How the next mail of an mbox begins (RFC 4155), and the next part of a mail (RFC 2046, section 5.1.1)."""

_BREAK: Final = re.compile(r"<br\s*/?>|</(?:p|div|li|tr|pre|h\d)>", re.IGNORECASE)
_CELL: Final = re.compile(r"</t[dh]>", re.IGNORECASE)
_TAG: Final = re.compile(r"</?(?!cpuid\s)[a-zA-Z][a-zA-Z0-9]{0,15}(?:\s[^<>]{0,300})?/?>")
# Copied from a terminal, a colour may have lost its ESC, or show it as ^[.
_COLOUR: Final = re.compile(
    r"(?:\x1b|\^\[|#033|\\(?:x1b|033|u001b|e))\[[0-9;]*[A-Za-z]|\[\d{1,3}(?:;\d{1,3})*m(?:\[K)?|\[m\[K", re.ASCII
)
_BOLD: Final = re.compile(
    r"\[/?(?:b|i|u|code|color|size)(?:=[^\]\s]{0,40})?\]|\*\*(?=[A-Za-z])|(?<=[A-Za-z])\*\*", re.ASCII
)
_BLANKS: Final = {"n": "\n", "r": "", "t": " "}
_ESCAPED: Final = re.compile(
    r"\\(?:u00(?P<code>[2-7][0-9A-Fa-f])|'(?P<curly>9[1-4])|(?P<mark>[!-/:-@\[-`{-~])|(?P<blank>[nrt]))", re.ASCII
)
_QUOTE_MARKS: Final = re.compile(r"(?:[>|] ?)+", re.ASCII)
_DIGIT: Final = re.compile(r"\d", re.ASCII)
# systemd, src/shared/logs-show.c, json_variant_new_string_or_bytes(): what holds control characters is a list of bytes.
_BYTES: Final = re.compile(r'(?<="MESSAGE")(\s*:\s*)\[(\s*\d{1,3}(?:\s*,\s*\d{1,3})*)\s*\]', re.ASCII)
_BYTES_BEGIN: Final = re.compile(r'"MESSAGE"\s*:\s*\[[\s\d,]*$', re.ASCII)
_BYTES_GO_ON: Final = re.compile(r"[\s\d,]*", re.ASCII)
_TOO_LONG: Final = 1 << 20
"""Characters that are held back at most to be joined."""

_QUOTES: Final = dict.fromkeys("‘’‚‛′ʹʼˈ´＇‹›", "'") | dict.fromkeys("“”„‟″«»＂", '"')
_LIKE_ASCII: Final = dict.fromkeys("‐‑‒–—−", "-") | {"：": ":", "，": ",", "［": "[", "］": "]"}
_LIGATURES: Final = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl"}
_MOJIBAKE: Final = re.compile("Â[\x80-\xbf]|â€")


def undone(lines: Iterable[str]) -> Iterator[str]:
    """The lines with all of that undone, each with a line end; a line of HTML may become several."""
    for line in _without_byte_lists(_without_quoted_printable(_without_base64(_in_whole(lines)))):
        if "[" in line or "**" in line:
            line = _BOLD.sub("", _COLOUR.sub("", line))
        if "<" in line:
            line = _TAG.sub("", _CELL.sub(" ", _BREAK.sub("\n", line)))
        if "&" in line:
            line = html.unescape(html.unescape(line))  # twice where a page shows the source of another
        if "\\" in line:
            line = _ESCAPED.sub(_unescaped, line)
            if "\\u00" in line:  # JSON within a string of JSON
                line = _ESCAPED.sub(_unescaped, line)
        if not line.isascii():
            line = _ascii_like(line)
        yield from (each + "\n" for each in line.rstrip("\r\n").split("\n"))


def without_prefix(line: str, before: str) -> str:
    """``line`` without what it has in common with ``before``, the beginning of the line above it.

    A mail program that wraps a quoted line, or a logger that splits a long one, begins both parts alike: with quote
    marks, a time stamp, "kernel:".  Numbers in it may differ.
    """
    if before and (found := re.match(_with_other_numbers(before), line)):
        return line[found.end() :].lstrip(" \t>|")
    pairs = zip(_DIGIT.sub("0", line), _DIGIT.sub("0", before), strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    while same and before[same - 1] not in " \t>|:]":
        same -= 1
    return line[same:].lstrip(" \t>|")


def _with_other_numbers(text: str) -> str:
    """A pattern of ``text`` in which numbers, and the blanks before them, may be others."""
    parts = re.split(r"(\d+|\s+)", text, flags=re.ASCII)
    return "".join(r"\d+" if part[:1].isdigit() else r"\s*" if part.isspace() else re.escape(part) for part in parts)


def text_lines(raw: Iterable[bytes]) -> Iterator[str]:
    """Lines of bytes as text: UTF-8, and a line that is none as Windows-1252."""
    for line in raw:
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            yield line.decode("cp1252", "replace")


def _in_whole(lines: Iterable[str]) -> Iterator[str]:
    """Lines of a container's log that were written in parts, and a console in a string of JSON, whose line is longer
    than what is read at a time, without a cut within a line of the console.
    """
    held, rest = "", ""
    for line in lines:
        line, rest = rest + line, ""
        part = _PART.match(line)
        if part and part["tag"] == "P" and len(held) < _TOO_LONG:
            held = (held or part["head"] + "F ") + line[part.end() :].rstrip("\r\n")
            continue
        if held:
            line = held + line[part.end() :] if part else f"{held}\n{line}"
            held = ""
        if not line.endswith("\n") and (end := line.rfind("\\n") + 2) > 1:
            line, rest = line[:end], line[end:]
        yield line
    if held or rest:
        yield held + rest


@dataclass(slots=True)
class _Encoded:
    """Lines that may be base64: ``begin`` is what stands before it in the first, ``after`` what ends it in the last."""

    certain: bool
    begin: str
    lines: list[str] = field(default_factory=list)
    code: str = ""
    after: str = ""

    def text(self) -> Iterator[str]:
        """The text that is encoded in the lines, or these if none is."""
        try:
            raw = base64.b64decode(self.code)
        except binascii.Error:
            raw = b""
        if packed.kind(raw):
            raw = _unpacked(raw)
        if not raw or not (self.certain or sum(byte in _NOT_IN_TEXT for byte in raw) <= len(raw) // 10):
            yield from self.lines
            return
        if self.begin:
            yield self.begin + "\n"
        yield from text_lines(raw.splitlines(keepends=True))
        yield "\n"
        if self.after:
            yield self.after + "\n"


def _unpacked(raw: bytes) -> bytes:
    """What was packed, such as a mail's attachment; nothing if it is damaged, or a bomb."""
    try:
        return packed.content(packed.unpacked(io.BytesIO(raw), "base64"), "base64", _TOO_LONG * 16)
    except (InputError, *packed.DAMAGED):
        return b""


def _without_base64(lines: Iterable[str]) -> Iterator[str]:
    encoded, in_body = False, False
    held: _Encoded | None = None
    for line in lines:
        if found := _ENCODING.match(line):
            encoded, in_body = found[1].lower() == "base64", False
        elif line.startswith(_NEXT_PART):
            encoded = False
        elif not line.strip():
            in_body = True
        certain = encoded and in_body
        pattern = _BASE64 if certain else _MORE_BASE64 if held else _SURE_BASE64
        part = pattern.fullmatch(line.strip()) if line.strip() else None
        if held and (part is None or held.after or len(held.code) > _TOO_LONG):
            yield from held.text()
            held = None
            part = part and (_BASE64 if certain else _SURE_BASE64).fullmatch(line.strip())
        if part is None:
            yield line
            continue
        held = held or _Encoded(certain, part["before"])
        held.lines.append(line)
        held.code += part["code"]
        held.after = part["after"]
    if held:
        yield from held.text()


def _without_quoted_printable(lines: Iterable[str]) -> Iterator[str]:
    certain, held = False, ""
    for line in lines:
        if found := _ENCODING.match(line):
            certain = found[1].lower() == "quoted-printable"
        elif line.startswith(_NEXT_PART):
            certain = False
        if held and (marks := _QUOTE_MARKS.match(held)) and line.startswith(marks[0].rstrip()):
            line = line.removeprefix(marks[0].rstrip()).removeprefix(" " if marks[0].endswith(" ") else "")
        line, held = held + line, ""
        if "=" in line:
            bare = line.rstrip()
            if bare.endswith("=") and len(line) < _TOO_LONG:
                held = bare[:-1]  # a soft line end
                continue
            line = (_ANY_CODE if certain else _SURE_CODE).sub(_characters, line)
        yield line
    if held:
        yield held + "\n"


def _without_byte_lists(lines: Iterable[str]) -> Iterator[str]:
    """``"MESSAGE" : [ 120, 56, 54 ]`` of journalctl's JSON as text, also where -o json-pretty wrote a line for each."""
    held = ""
    for line in lines:
        if held:
            held += line.strip()
            if _BYTES_GO_ON.fullmatch(line) and len(held) < _TOO_LONG:
                continue
            line, held = held + "\n", ""
        if '"MESSAGE"' in line:
            if _BYTES_BEGIN.search(line):
                held = line.rstrip()
                continue
            line = _BYTES.sub(_of_bytes, line)
        yield line
    if held:
        yield held + "\n"


def _of_bytes(match: re.Match[str]) -> str:
    numbers = [int(number) for number in match[2].split(",")]
    return match[1] + next(text_lines([bytes(numbers)])) if max(numbers) < 256 else match[0]


def _characters(match: re.Match[str]) -> str:
    return next(text_lines([bytes.fromhex(match[0].replace("=", ""))]))


def _unescaped(match: re.Match[str]) -> str:
    if match["curly"]:  # RTF: a character of Windows-1252
        return "'" if match["curly"] < "93" else '"'
    return chr(int(match["code"], 16)) if match["code"] else match["mark"] or _BLANKS[match["blank"]]


def _ascii_like(line: str) -> str:
    if _MOJIBAKE.search(line):  # UTF-8 that was taken for Windows-1252 on the way
        try:
            line = line.encode("cp1252").decode("utf-8")
        except UnicodeError:
            line = line.replace("Â\xa0", " ")
    return "".join(map(_like, line))


@cache
def _like(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Zs":
        return " "
    if kind == "Cf":  # zero-width characters, soft hyphens, byte order marks
        return ""
    return _QUOTES.get(character) or _LIKE_ASCII.get(character) or _LIGATURES.get(character) or character
