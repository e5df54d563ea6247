"""CPUID registers in nested structures, as programs print them: JSON, YAML, Python, Rust, C and gdb.

Four registers stand in an object with a member for each, or in a list of four numbers.  Their leaf and sub-leaf are
members of the same object or of one around it (``leaf``, ``function``, ``in_eax``, the EAX and ECX of an input), or
numbers in the keys under which it stands (``"0xd": {"1": {...}}``, ``"0xd.1"``, ``(13, 1):``), or before it in a list.
A sub-leaf that is not said is the next of its leaf.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from sim.xsave.cpuid_bytes import is_xstate
from sim.xsave.cpuid_decoded import LOW, XSTATE, Registers, Row, numbered

_TOKEN: Final = re.compile(
    r"(?P<open>[{\[(])|(?P<close>[}\])])|(?P<after_key>=>|:|=)|(?P<end>[,;])"
    r"|\"(?P<string>[^\"\n]{0,200})\"|'(?P<quoted>[^'\n]{0,200})'|(?P<word>[^\s{}\[\]():=,;\"'>|]{1,200})",
    re.ASCII,
)
_MOST: Final = 1 << 20
"""Characters that are looked at: those of the first CPUs."""
_OF_XSTATE: Final = re.compile(r"(?<![\da-z])(?:0x0*|0*)d(?![\da-f])|(?<!\d)13(?!\d)", re.ASCII | re.IGNORECASE)
"""Leaf 0DH."""
_JSON: Final = re.compile(r"\s*(?:\{|\[\s*(?:[{\"\d]|\[\s*[\"\d]))", re.ASCII)
_ITEMS: Final = re.compile(r"(?:- \s*)*", re.ASCII)
"""What begins items of lists in YAML, one in another."""
_DEEPEST: Final = 32

_LABEL: Final = re.compile(
    r"(?<![a-z])(?:cpuid|(?:sub[-_ ]?)?lea(?:f|ves|fs)|sub|function|func|fn|index|idx|[er]?[ac]x)(?![a-wyz])"
    r"|cpu[ _#]?\d+",
    re.ASCII | re.IGNORECASE,
)
_SEPARATORS: Final = re.compile(r"[\s,.:;/=_+-]+", re.ASCII)
_NUMBER: Final = re.compile(r"(?:0x)?[0-9a-f]{1,8}h?|\d{1,10}", re.ASCII | re.IGNORECASE)
_LETTER: Final = re.compile(r".*[a-f]", re.ASCII | re.IGNORECASE)
_HEXADECIMAL: Final = re.compile(r"0\d|.*[a-f]", re.ASCII | re.IGNORECASE)
"""A number without 0x or h that shows its base, unless zeros pad decimal ones."""
_PADDED: Final = re.compile(r"0\d{8,}", re.ASCII)
"""A decimal number; a hexadecimal one has 8 digits at most."""
_SUFFIX: Final = re.compile(r"(?<=[\da-f])_?(?:[ui](?:8|16|32|64|size)|ul{0,2}|ll?)$", re.ASCII | re.IGNORECASE)

_LEAF_NAMES: Final = frozenset(
    ("leaf", "leafid", "leafnumber", "leafnum", "function", "func", "fn", "eaxin", "ineax", "inputeax", "initialeax")
)
_SUB_NAMES: Final = frozenset(
    ("subleaf", "subleafid", "subleafnumber", "subleafnum", "sub", "subfunction", "subfunc", "index", "idx", "ecxin",
     "inecx", "inputecx", "initialecx")
)  # fmt: skip
_SUB_LEAVES: Final = re.compile(r"sub|indices|indexes", re.ASCII | re.IGNORECASE)
_INPUTS: Final = frozenset(("in", "input", "inputs", "query", "request", "args", "key"))
_REGISTERS: Final = tuple(tuple(pattern.format(name) for name in "abcd") for pattern in ("e{}x", "r{}x", "{}"))
_WITH_SUB: Final = 2
"""Numbers of a leaf and a sub-leaf."""
_FOUR: Final = 4
_ROW: Final = 6
"""Numbers of a list: a leaf, a sub-leaf and four registers."""


@dataclass(slots=True)
class _Node:
    """What stands in a pair of brackets: texts and nodes, each with its key; the key of a list's items is empty."""

    members: list[tuple[str, "str | _Node"]] = field(default_factory=list)

    def texts(self) -> dict[str, str]:
        """The texts by their keys in lower case, without marks."""
        return {_plain(key): value for key, value in self.members if isinstance(value, str) and key}

    def records(self) -> "list[_Node]":
        """The members from each that names a leaf up to the next, as nodes, without what stands before the first."""
        found: list[_Node] = []
        for key, value in self.members:
            if isinstance(value, str) and _plain(key) in _LEAF_NAMES:
                found.append(_Node())
            if found:
                found[-1].members.append((key, value))
        return found

    def items(self) -> list[str]:
        """The texts without a key."""
        return [value for key, value in self.members if isinstance(value, str) and not key]


@dataclass(frozen=True, slots=True)
class _Found:
    """Numbers as they are printed; ``path`` is a leaf, perhaps a sub-leaf, and what stands before them."""

    path: tuple[str, ...]
    registers: Sequence[str]


def rows(text: str) -> Iterator[Row]:
    """The registers of all objects, if those of leaf 0DH may be a CPU's; nothing else."""
    text = text[:_MOST]
    if not _OF_XSTATE.search(text):
        return
    for shown in (text,) if _JSON.match(text) else (_in_brackets(text), text):
        found = list(_numbered(list(_walk(_tree(shown), (), 0))))
        if _may_be_of_a_cpu(found):
            yield from found
            return


def _may_be_of_a_cpu(found: list[Row]) -> bool:
    """Whether leaf 0DH has x87, SSE and sizes, and no sub-leaf for a component that there is not."""
    leaf = {sub: registers for number, sub, registers in reversed(found) if number == XSTATE}
    if 0 not in leaf or not is_xstate(leaf[0]):
        return False
    there = leaf[0][0] | leaf[1][2] if 1 in leaf else LOW
    # Sub-leaves 0 and 1 are of all components; bits 0 and 1 are there, too.
    return all(there >> sub & 1 for sub, registers in leaf.items() if sub < 32 and registers[0])


def _tree(text: str) -> _Node:
    root = _Node()
    open_nodes, key = [root], ""
    words: list[str] = []
    closed = False  # the last member is a node, and nothing stands behind it yet
    for match in _TOKEN.finditer(text):
        node = open_nodes[-1]
        if match["open"]:
            child = _Node()
            node.members.append((key or " ".join(words), child))
            open_nodes.append(child)
            key, words, closed = "", [], False
        elif match["after_key"]:
            if closed and not words:  # (13, 1): in Python, (0xd, 1) => in Rust, [0xd] = in C
                last = node.members[-1][1]
                if isinstance(last, _Node) and len(last.members) == len(last.items()) <= _WITH_SUB:
                    key = " ".join(last.items())
                    node.members.pop()
            elif words and key:  # leaf=0xd index=1
                node.members.append((key, " ".join(words[:-1])))
                key, words = words[-1], []
            else:
                key, words = " ".join(words), []
            closed = False
        elif match["end"] or match["close"]:
            if words:
                node.members.append((key, " ".join(words)))
            key, words, closed = "", [], False
            if match["close"] and len(open_nodes) > 1:
                open_nodes.pop()
                closed = True
        else:
            words.append(match["string"] or match["quoted"] or match["word"] or "")
            closed = False
    if words:
        open_nodes[-1].members.append((key, " ".join(words)))
    return root


def _in_brackets(text: str) -> str:
    """The text with brackets where it shows nodes by indentation (YAML), and a comma behind each line."""
    shown: list[str] = []
    open_at: list[tuple[int, bool]] = []  # indents, and whether of an item
    for line in text.splitlines():
        body = line.strip()
        indent = len(line) - len(line.lstrip())
        if not body or body.startswith("#"):
            continue
        items = _ITEMS.match(body)
        assert items is not None
        # A list may stand at the indent of its key.
        while open_at and open_at[-1] >= (indent, bool(items[0])):
            shown.append("},")
            open_at.pop()
        inner = indent + 2 * items[0].count("-")
        shown += "{" * items[0].count("-")
        open_at += [(each, True) for each in range(indent, inner, 2)]
        indent, body = inner, body[items.end() :]
        if body.endswith(":"):
            shown.append(body + " {")
            open_at.append((indent, False))
        else:
            shown.append(body + ",")
    return "\n".join(shown)


def _walk(node: _Node, path: tuple[str, ...], depth: int) -> Iterator[_Found]:
    if depth > _DEEPEST:
        return
    several = node.records()
    if len(several) > 1:
        for each in several:
            yield from _walk(each, path, depth)
        return
    texts, items = node.texts(), node.items()
    if len(items) == _ROW and _are_numbers(items):
        yield _Found(tuple(items[:2]), items[2:])
        return
    path = _named(node, texts, path)
    if path and (registers := _registers(node, texts, items)):
        yield _Found(path, registers)
        for key, value in node.members:
            if isinstance(value, _Node) and _SUB_LEAVES.match(key):  # the others, beside those of sub-leaf 0
                yield from _walk(value, path[-_WITH_SUB:][:1] + _numbers(key), depth + 1)
        return
    if items and len(items) <= _WITH_SUB and _are_numbers(items):  # [13, 1, {...}]
        path = tuple(items)
    for key, value in node.members:
        inner = path + _numbers(key)
        if isinstance(value, _Node):
            yield from _walk(value, inner, depth + 1)
        elif len(four := value.split()) == _FOUR and _are_numbers(four) and inner:
            yield _Found(inner, four)


def _named(node: _Node, texts: dict[str, str], path: tuple[str, ...]) -> tuple[str, ...]:
    """The path, with what the members of the node say of leaf and sub-leaf."""
    said = texts
    if "eax" in texts and "ebx" not in texts:  # the EAX and ECX of an input
        said = texts | {"leaf": texts["eax"]} | ({"subleaf": texts["ecx"]} if "ecx" in texts else {})
    for key, value in node.members:
        if isinstance(value, _Node) and _plain(key) in _INPUTS:
            inner, items = value.texts(), value.items()
            found = [inner[name] for name in ("eax", "ecx") if name in inner] or items
            if found and len(found) <= _WITH_SUB and "ebx" not in inner and _are_numbers(found):
                return tuple(found)
            said = said | inner
    leaf = next((value for name, value in said.items() if name in _LEAF_NAMES and _are_numbers([value])), None)
    sub = next((value for name, value in said.items() if name in _SUB_NAMES and _are_numbers([value])), None)
    if leaf is not None:
        path = (leaf,)
    return path if sub is None or not path else (path[-1], sub)


def _registers(node: _Node, texts: dict[str, str], items: list[str]) -> Sequence[str]:
    """The four registers of a node, as printed; empty if it has none."""
    inner = {_plain(key): value for key, value in node.members if isinstance(value, _Node)}
    for names in _REGISTERS:
        found = [texts.get(name) or _only_number(inner.get(name)) for name in names]
        if _are_numbers(found):
            return found
    return items if len(items) == len(node.members) == _FOUR and _are_numbers(items) else ()


def _only_number(node: _Node | None) -> str:
    """The number of an object such as ``{"value": 7}``."""
    found = [] if node is None else [value for _, value in node.members if isinstance(value, str)]
    return found.pop() if len(found) == 1 else ""


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", key.rpartition("$")[2].lower())


def _are_numbers(texts: Sequence[str]) -> bool:
    return all(_NUMBER.fullmatch(_SUFFIX.sub("", text)) for text in texts)


def _numbers(key: str) -> tuple[str, ...]:
    """The numbers of a key that has nothing else but labels."""
    parts = tuple(part for part in _SEPARATORS.split(_LABEL.sub(" ", key)) if part)
    return parts if parts and len(parts) <= _WITH_SUB and _are_numbers(parts) else ()


def _numbered(found: list[_Found]) -> Iterator[Row]:
    """The numbers that are printed as such; each of these roles has one base in the whole text."""
    shows = _LETTER if any(_PADDED.match(value) for each in found for value in each.registers) else _HEXADECIMAL
    leaves = _base([each.path[-2:][0] for each in found], shows)
    subs = _base([each.path[-1] for each in found if each.path[1:]], shows)
    registers = _base([value for each in found for value in each.registers], shows)

    def read(each: _Found) -> tuple[int, int | None, Registers]:
        a, b, c, d = (_value(value, registers) & LOW for value in islice(each.registers, _FOUR))
        sub = _value(each.path[-1], subs) if each.path[1:] else None
        return _value(each.path[-2:][0], leaves), sub, (a, b, c, d)

    return numbered(map(read, found))


def _base(numbers: list[str], shows: re.Pattern[str]) -> int:
    """16 where a number without 0x shows it, else 10."""
    plain = (_SUFFIX.sub("", number) for number in numbers)
    return 16 if any(shows.match(each) for each in plain if not _shows_base(each)) else 10


def _shows_base(number: str) -> bool:
    return number.lower().startswith("0x") or number.lower().endswith("h")


def _value(number: str, base: int) -> int:
    number = _SUFFIX.sub("", number)
    return int(number.rstrip("hH"), 16 if _shows_base(number) else base)
