"""The fields of many events at once, into columns: a parser for each table of :mod:`sim.trace.reading.events`."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.trace.reading.digits import Block, Mask, Places, word
from sim.trace.reading.events import CODE, EVENTS, TABLE_OF

Columns = dict[str, NDArray[Any]]
Name = tuple[Places, NDArray[np.intp], int]
"""Where names are in the block, how long they are, and in how many words of eight bytes they fit."""


Parsed = tuple[Mask, Columns, dict[str, Name]]
Parser = Callable[[Block, Places, Places], Parsed]


def _ends(block: Block, places: Places) -> Mask:
    """The line ends here."""
    here = block.bytes[places]
    found: Mask = (here == ord("\n")) | (here == ord("\r")) | (here == ord(" "))
    return found


def _x86_fpu(block: Block, start: Places, ends: Places) -> Parsed:
    """``x86/fpu: 0xffff8881056e68c0 load: 1 xfeatures: a2 xcomp_bv: 80000000000008e7``."""
    ok = (block.words(start) == word("x86/fpu:")) & block.is_at(start + 8, " ")
    at = start + 9
    prefixed = block.is_at(at, "0") & block.is_at(at + 1, "x")
    at = at + 2 * prefixed
    fpu, length = block.hexadecimal(at)
    at = at + length
    ok &= (length > 0) & block.is_at(at, " ") & (block.words(at - 1) >> np.uint64(16) == word("load: "))
    load = block.bytes[at + 7] - np.uint8(ord("0"))
    ok &= (load <= 1) & (block.words(at + 8) == word(" xfeatur")) & (block.words(at + 12) == word("atures: "))
    at = at + 20
    xfeatures, length = block.hexadecimal(at)
    at = at + length
    ok &= (length > 0) & (block.words(at) == word(" xcomp_b")) & (block.words(at + 3) == word("omp_bv: "))
    at = at + 11
    xcomp_bv, length = block.hexadecimal(at)
    ok &= (length > 0) & block.is_at(at + length, "\n")
    return ok, {"fpu": fpu, "load": load.astype(np.int8), "xfeatures": xfeatures, "xcomp_bv": xcomp_bv}, {}


def _equal_signs(block: Block, start: Places, ends: Places, count: int) -> tuple[list[Places], Mask]:
    """The places of the first ``count`` equal signs of each payload, and whether there are so many."""
    places = block.places("=")
    first = np.searchsorted(places, start)
    ok = places[np.minimum(first + count - 1, len(places) - 1)] < ends
    return [np.where(ok, places[np.minimum(first + k, len(places) - 1)], start) for k in range(count)], ok


def _label(block: Block, at: Places, label: str) -> Mask:
    """The label stands before the equal sign."""
    ok = block.words(at - 8) == word(label) if len(label) >= 8 else _short_label(block, at, label)
    for k, character in enumerate(reversed(label[:-8]), 9):
        ok &= block.is_at(at - k, character)
    return ok


def _short_label(block: Block, at: Places, label: str) -> Mask:
    found: Mask = block.words(at - 8) >> np.uint64(8 * (8 - len(label))) == word(label)
    return found


def _fields(block: Block, at: list[Places], labels: tuple[str, ...], ends: Places, ok: Mask) -> list[NDArray[np.int64]]:
    """Numbers that follow one another, each up to the label of the next or, the last one, to the end of the line."""
    values = []
    for k, label in enumerate(labels):
        ok &= _label(block, at[k], " " + label)
        value, length = block.signed(at[k] + 1)
        behind = at[k] + 1 + length
        ok &= length > 0
        ok &= behind + len(labels[k + 1]) + 1 == at[k + 1] if k + 1 < len(labels) else _ends(block, behind)
        values.append(value)
    return values


def _sched_switch(block: Block, start: Places, ends: Places) -> Parsed:
    at, ok = _equal_signs(block, start, ends, 9)
    ok &= at[0] == start + 9
    ok &= _label(block, at[0], "prev_comm")
    prev_pid, prev_prio = (
        _number(block, at[k], label, at[k + 1], behind, ok)
        for k, label, behind in ((1, " prev_pid", " prev_prio"), (2, " prev_prio", " prev_state"))
    )
    ok &= _label(block, at[3], " prev_state") & (at[5] == at[4] + 1) & block.is_at(at[4] - 1, " ")
    ok &= (at[6] == at[5] + 12) & _label(block, at[6], "> next_comm")
    state = block.bytes[at[3] + 1]
    ok &= (state | 32 >= ord("a")) & (state | 32 <= ord("z"))
    name, length = at[6] + 1, at[7] - 9 - (at[6] + 1)
    ok &= (length >= 0) & (length <= 15) & (at[1] - start < 40)
    next_pid = _number(block, at[7], " next_pid", at[8], " next_prio", ok)
    ok &= _label(block, at[8], " next_prio")
    next_prio, size = block.signed(at[8] + 1)
    ok &= (size > 0) & _ends(block, at[8] + 1 + size)
    columns: Columns = {
        "prev_pid": prev_pid,
        "prev_prio": prev_prio,
        "prev_state": state,
        "next_pid": next_pid,
        "next_prio": next_prio,
    }
    return ok, columns, {"next_comm": (name, np.clip(length, 0, 16), 2)}


def _number(block: Block, at: Places, label: str, next_at: Places, behind: str, ok: Mask) -> NDArray[np.int64]:
    """The number after ``label=``, which ends where the next label begins."""
    value, length = block.signed(at + 1)
    ok &= _label(block, at, label) & (length > 0) & (at + 1 + length + len(behind) == next_at)
    return value


def _numbered(first: str, *labels: str, keep: int | None = None) -> Parser:
    """Payloads that are a text ``first`` and then numbers with these labels, of which ``keep`` become columns."""

    def parser(block: Block, start: Places, ends: Places) -> Parsed:
        at, ok = _equal_signs(block, start, ends, len(labels) + 1)
        ok &= (at[0] == start + len(first)) & _label(block, at[0], first)
        if first == "comm":
            ok &= at[1] - start < 26
        values = _fields(block, at[1:], labels, ends, ok)
        return ok, dict(zip(labels[:keep], values[:keep], strict=True)), {}

    return parser


def _fork(block: Block, start: Places, ends: Places) -> Parsed:
    """``comm=cc1 pid=13099 child_comm=child child_pid=13100``."""
    at, ok = _equal_signs(block, start, ends, 4)
    ok &= (at[0] == start + 4) & _label(block, at[0], "comm") & (at[1] - start < 26)
    pid = _number(block, at[1], " pid", at[2], " child_comm", ok)
    ok &= _label(block, at[2], " child_comm") & _label(block, at[3], " child_pid")
    name, length = at[2] + 1, at[3] - 10 - (at[2] + 1)
    ok &= (length >= 0) & (length <= 15)
    child_pid, size = block.signed(at[3] + 1)
    ok &= (size > 0) & _ends(block, at[3] + 1 + size)
    return ok, {"pid": pid, "child_pid": child_pid}, {"child_comm": (name, np.clip(length, 0, 16), 2)}


def _vcpu_wakeup(block: Block, start: Places, ends: Places) -> Parsed:
    """``wait time 1854246 ns, polling valid``."""
    ok = (block.words(start) == word("wait tim")) | (block.words(start) == word("poll tim"))
    ok &= block.is_at(start + 8, "e") & block.is_at(start + 9, " ")
    ns, length = block.long_decimal(start + 10)
    behind = start + 10 + length
    ok &= (length > 0) & block.is_at(behind, " ") & block.is_at(behind + 1, "n") & block.is_at(behind + 2, "s")
    return ok, {"ns": ns}, {"how": (start, np.full(len(start), 4), 1)}


def _kvm_fpu(block: Block, start: Places, ends: Places) -> Parsed:
    length = block.token(start, 1)
    words = block.words(start)
    load = (length == 4) & (words << np.uint64(32) == word("load") << np.uint64(32))
    unload = (length == 6) & (words << np.uint64(16) == word("unload") << np.uint64(16))
    return load | unload, {}, {"load": (start, length, 1)}


def _kvm_entry(block: Block, start: Places, ends: Places) -> Parsed:
    ok = block.words(start - 3) >> np.uint64(24) == word("vcpu ")
    vcpu, length = block.decimal(start + 5)
    return ok & (length > 0) & (length < 8), {"vcpu": vcpu}, {}


def _reason(block: Block, start: Places, ends: Places) -> Parsed:
    """``[vcpu N ]reason NAME ...``."""
    vcpu = block.words(start - 3) >> np.uint64(24) == word("vcpu ")
    _, digits = block.decimal(start + 5)
    at = start + np.where(vcpu, 6 + digits, 0)
    ok = (~vcpu | ((digits > 0) & (digits < 8) & block.is_at(at - 1, " "))) & (
        block.words(at - 1) >> np.uint64(8) == word("reason ")
    )
    at = at + 7
    length = block.token(at)
    behind = at + length
    ok &= ~((length == 2) & (block.words(behind - 3) >> np.uint64(24) == word(" excp")))  # a name of two words
    return ok & (length > 0) & (length < 32), {}, {"reason": (at, length, 4)}


def _signal_deliver(block: Block, start: Places, ends: Places) -> Parsed:
    """``sig=10 errno=0 code=-6 sa_handler=5636184039c0 sa_flags=4000000``."""
    at, ok = _equal_signs(block, start, ends, 4)
    ok &= (at[0] == start + 3) & _label(block, at[0], "sig")
    sig = _number(block, at[0], "sig", at[1], " errno", ok)
    ok &= _label(block, at[2], " code") & _label(block, at[3], " sa_handler")
    handler, length = block.hexadecimal(at[3] + 1)
    return ok & (length > 0) & _ends(block, at[3] + 1 + length), {"sig": sig, "handler": handler}, {}


def _nothing(block: Block, start: Places, ends: Places) -> Parsed:
    """No payload, as perf prints it."""
    nothing = np.zeros(len(start), dtype=np.intp)
    return start >= ends, {}, {"rest": (start, nothing, 1)}


def _told(block: Block, start: Places, ends: Places) -> Parsed:
    """``components: e7 carried: 1``."""
    ok = (block.words(start) == word("componen")) & (block.words(start + 4) == word("onents: "))
    components, length = block.hexadecimal(start + 12)
    at = start + 12 + length
    ok &= (length > 0) & (block.words(at) == word(" carried")) & (block.words(at + 2) == word("arried: "))
    carried, size = block.decimal(at + 10)
    return (
        ok & (size > 0) & (size < 8) & _ends(block, at + 10 + size),
        {"components": components, "carried": carried},
        {},
    )


PARSERS: Final[dict[str, Parser]] = {
    "x86_fpu": _x86_fpu,
    "sched_switch": _sched_switch,
    "sched_wakeup": _numbered("comm", "pid", "prio", "target_cpu"),
    "sched_migrate_task": _numbered("comm", "pid", "prio", "orig_cpu", "dest_cpu"),
    "sched_process_fork": _fork,
    "sched_process_exec": _numbered("filename", "pid", "old_pid"),
    "sched_process_exit": _numbered("comm", "pid", "prio", keep=1),
    "kvm_fpu": _kvm_fpu,
    "kvm_entry": _kvm_entry,
    "kvm_exit": _reason,
    "kvm_userspace_exit": _reason,
    "kvm_vcpu_wakeup": _vcpu_wakeup,
    "signal_deliver": _signal_deliver,
    "sys_enter_rt_sigreturn": _nothing,
    "told": _told,
}
"""By table."""

CODES: Final = {
    name: np.array([CODE[event] for event in EVENTS if TABLE_OF[event].name == name], dtype=np.int8) for name in PARSERS
}
