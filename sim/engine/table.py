"""A strategy's transitions as the loop reads them: rows of numbers, found by a hash, that grow while it runs.

A table lives as long as the process, so that replications and cases with the same kernel go on where others ended.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from struct import Struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.costs.price import Prices
from sim.engine import kept_tables
from sim.engine import layout as at
from sim.engine.asked import INIT_AREA, OTHER, UNCHANGED, Answer, Asked, Point
from sim.engine.counted import LEVELS, Counted
from sim.engine.fragments import Unsupported
from sim.engine.numbers import Numbers
from sim.engine.transitions import Transitions
from sim.kernel.config import Config, boot
from sim.kernel.operations import VCPU_LOAD, VMCLEAR, Key
from sim.kernel.walker import Walker

Integers = NDArray[np.int64]
Tokens = tuple[int, ...] | None

PART, LEAST = 32, 16
"""A table is written again when it has grown by this share of its rows, and by at least this many."""
MOST: Final = 1 << 20
"""The most rows, fragments and shapes of a table: what a key of the hash has room for."""

_ROW: Final = Struct(f"{at.R_COLUMNS}q")
"""A row as bytes: to write them takes a third of the time that the assignment of a list takes."""


def _mixed(key1: Any, key2: Any) -> Any:
    """Where a search for these keys, or for each of two arrays of them, begins; as sim.engine.kernel_table.find."""
    half = (1 << 31) - 1
    return (((key1 ^ key1 >> 31) & half) * 0x5E3779B1 ^ ((key2 ^ key2 >> 31) & half) * 0x3F58476D) >> 16


def zeros(*shape: int) -> Integers:
    """An array of 64-bit zeros, aligned to a cache line; takes memory only where it is used."""
    numbers = np.zeros(prod(shape) + 8, np.int64)
    first = -numbers.ctypes.data % 64 // 8
    return numbers[first : first + prod(shape)].reshape(shape)


@lru_cache(maxsize=1 << 12)
def _packed_tokens(tokens: tuple[Tokens, Tokens, Tokens]) -> tuple[int, ...]:
    """From R_TOKENS to R_NEW: where contents come from, then how many are new, and how many old ones of current, next
    and the CPU are needed."""
    words, most = [0] * (at.R_NEW - at.R_TOKENS), [0, 0, 0, 0]  # of current, next, the CPU and new ones
    for of, column in zip(tokens, (at.R_TOKENS, at.R_TOKENS2, at.R_CPU_TOKENS), strict=True):
        if of is None:
            continue
        for i, each in enumerate((len(of) + 1, *of)):
            words[column - at.R_TOKENS + i // at.TOKENS_IN_WORD] |= each << 6 * (i % at.TOKENS_IN_WORD)
        for source in of:
            whose, number = divmod(source, at.FROM_NEXT)
            most[whose] = max(most[whose], number + 1)
    return *words, most[3] | most[0] << 8 | most[1] << 16 | most[2] << 24


@lru_cache(maxsize=1 << 12)
def _packed_slots(slots: tuple[int, ...], whom: tuple[int, ...]) -> tuple[int, int]:
    """R_SLOTS, and the flag that says whether slots change; ``whom`` they stood for before."""
    word = len(slots)
    for i, slot in enumerate(slots, 1):
        word |= (slot & 15) << 4 * i
    stays = slots == tuple([i if each == OTHER else ~each for i, each in enumerate(whom)])
    return word, 0 if stays else at.HAS_SLOTS


class Points:
    """Flow points by number; those that every replication has come first."""

    def __init__(self, first: list[Point]) -> None:
        self.all: list[Point] = []
        self._numbers: dict[Point, int] = {}
        for point in first:
            self.of(point)

    def of(self, point: Point) -> int:
        """The number of a flow point."""
        number = self._numbers.get(point)
        if number is None:
            number = self._numbers[point] = len(self.all)
            if number == at.MOST_POINTS:
                raise Unsupported("too many kinds of flow points")
            self.all.append(point)
        return number


class Table:
    """What has been asked of a kernel model so far, by row."""

    def __init__(self, config: Config, points: Points, *, integrity: bool) -> None:
        self.model = Transitions(config, integrity=integrity)
        self._points = points
        self._name = kept_tables.name_of(config, integrity=integrity)
        self._kept = 0
        self._packed = b""
        self._lengths: dict[str, int] = {}
        self.count = 0
        self.renewed: dict[int, tuple[tuple[int, int], ...]] = {}
        self.keys = Numbers()
        self.uses: list[tuple[int, ...]] = []
        self.level_keys = Numbers()
        self.found: dict[int, tuple[tuple[str, int], ...]] = {}
        self._levels = 0
        self._priced_for: tuple[Prices, int] | None = None
        self.rows = zeros(512, at.R_COLUMNS)
        self.hash = np.zeros(1024, np.int64)
        self.levels = np.zeros((1024, 2), np.int64)
        self.level_counts = np.zeros((64, at.LEVEL_COLUMNS), np.int64)
        self.flags = np.zeros((256, at.F_COLUMNS), np.int64)
        self._flagged = [0, 0, 0]
        self.moved = True
        """Whether an array has moved since the loop was told its address."""
        if pieces := kept_tables.read(self._name):
            self._take(pieces)
        self._note_flags()

    # On the disk.

    def keep(self) -> None:
        """Writes what has been asked to disk, for later processes, if it is much more than what is there."""
        if self.count <= self._kept + max(self._kept // PART, LEAST):
            return
        if kept_tables.directory() is None:
            return
        self._kept = self.count
        whole: dict[str, Any] = {
            "rows": self.rows[: self.count], "levels": self.levels[: self._levels], "uses": self.uses,
            "keys": self.keys.values, "level_keys": self.level_keys.values, "found": list(self.found.items()),
            "renewed": list(self.renewed.items()), **self.model.kept(),
        }  # fmt: skip
        piece = {name: each[self._lengths.get(name, 0) :] for name, each in whole.items()}
        self._lengths = {name: len(each) for name, each in whole.items()}
        rows = piece["rows"].copy()
        rows[:, [at.R_COUNT, at.R_TIMES]], rows[:, at.R_PRICE] = 0, -1
        numbers, rows[:, at.R_KEY1] = self._renumbered(rows[:, at.R_KEY1])
        piece["points"] = [self._points.all[number] for number in numbers]
        piece["rows"] = np.ascontiguousarray(rows.view(np.uint8).T)  # most bytes are 0, and lie together so
        self._packed += kept_tables.packed(piece)
        kept_tables.write(self._name, self.count, self._packed)

    @staticmethod
    def _renumbered(keys: Integers) -> tuple[list[int], Integers]:
        """The points in keys, and the keys with places in that list in place of the points' numbers."""
        numbers, places = np.unique(keys >> at.POINT_SHIFT, return_inverse=True)
        return numbers.tolist(), places << at.POINT_SHIFT | keys & (1 << at.POINT_SHIFT) - 1

    def _rows_of(self, piece: dict[str, Any]) -> Integers:
        """The rows of a piece that has been kept, with this process's numbers of points."""
        rows: Integers = np.ascontiguousarray(piece["rows"].T).view(np.int64)
        numbers = np.array([self._points.of(point) for point in piece["points"]], np.int64)
        keys = rows[:, at.R_KEY1]
        rows[:, at.R_KEY1] = numbers[keys >> at.POINT_SHIFT] << at.POINT_SHIFT | keys & (1 << at.POINT_SHIFT) - 1
        return rows

    def _take(self, pieces: list[dict[str, Any]]) -> None:
        """Goes on from what an earlier process has kept; what this one keeps begins with all of it, as one piece."""
        rows = np.concatenate([self._rows_of(piece) for piece in pieces])
        levels = np.concatenate([piece["levels"] for piece in pieces])
        kept = {
            name: [each for piece in pieces for each in piece[name]]
            for name in pieces[0].keys() - {"rows", "points", "levels"}
        }
        self.model.take(kept)
        self.count = self._kept = n = len(rows)
        self.rows = zeros(max(512, 1 << n.bit_length()), at.R_COLUMNS)
        self.rows[:n] = rows
        self._hash(2 * len(self.rows))
        self._levels = len(levels)
        self.levels = np.zeros((max(1024, 1 << len(levels).bit_length()), 2), np.int64)
        self.levels[: len(levels)] = levels
        self.uses, self.found, self.renewed = kept["uses"], dict(kept["found"]), dict(kept["renewed"])
        self.keys = Numbers(kept["keys"])
        for key in kept["level_keys"]:
            self._level_number(key)

    # Growing.

    def put_into(self, row: Any) -> None:
        """Tells the loop all addresses."""
        self.moved = False
        row[at.KW_HASH], row[at.KW_MASK] = self.hash.ctypes.data, len(self.hash) - 1
        row[at.KW_ROWS], row[at.KW_LEVELS] = self.rows.ctypes.data, self.levels.ctypes.data
        row[at.KW_LEVEL_COUNTS], row[at.KW_FLAGS] = self.level_counts.ctypes.data, self.flags.ctypes.data

    def _new_row(self, key1: int, key2: int, values: list[int], uses: tuple[int, ...]) -> int:
        """Adds a row; what may find no memory comes before there is any of it."""
        n = self.count
        if n == MOST:
            raise Unsupported("a kernel model with too many states")
        if n == len(self.rows):
            rows, self.rows = self.rows, zeros(2 * n, at.R_COLUMNS)
            self.rows[:n] = rows
            self.moved = True
        if 2 * n > len(self.hash):
            self._hash(2 * len(self.hash))
        self._note_flags()
        values[at.R_KEY1], values[at.R_KEY2] = key1, key2
        _ROW.pack_into(self.rows.data, n * _ROW.size, *values)
        self.uses.append(uses)
        self.count += 1
        self._enter(key1, key2, n)
        return n

    def _enter(self, key1: int, key2: int, row: int) -> None:
        mask = len(self.hash) - 1
        i = _mixed(key1, key2) & mask
        while self.hash[i]:
            i = (i + 1) & mask
        self.hash[i] = row + 1

    def _hash(self, size: int) -> None:
        """Makes a hash of this size, with all rows in it: a list at first, whose items are read faster."""
        mask, places = size - 1, [0] * size
        rows = self.rows[: self.count]
        for n, i in enumerate((_mixed(rows[:, at.R_KEY1], rows[:, at.R_KEY2]) & mask).tolist(), 1):
            while places[i]:
                i = (i + 1) & mask
            places[i] = n
        self.hash = np.array(places, np.int64)
        self.moved = True

    def _note_flags(self) -> None:
        """What the loop needs to know about fragments and shapes."""
        model = self.model
        noted = [len(model.fragment_flags), len(model.shape_flags), len(model.apart)]
        if noted == self._flagged:
            return
        most = max(len(model.fragment_flags), len(model.shape_flags))
        if most > MOST:
            raise Unsupported("a kernel model with too many states")
        while most > len(self.flags):
            self.flags = np.concatenate([self.flags, np.zeros_like(self.flags)])
            self.moved = True
        for i in range(self._flagged[0], len(model.fragment_flags)):
            notifier, clean = model.fragment_flags[i]
            self.flags[i, at.F_NOTIFIER], self.flags[i, at.F_CLEAN] = notifier, clean
            self.flags[i, at.F_TASK_TOKENS] = model.fragment_tokens[i]
        for i in range(self._flagged[0] if noted[2] == self._flagged[2] else 0, len(model.fragment_flags)):
            self.flags[i, at.F_LIKE] = model.alike(i)
        for i in range(self._flagged[1], len(model.shape_flags)):
            self.flags[i, [at.F_IN_GUEST, at.F_OWNER, at.F_JOINED]] = model.shape_flags[i]
            self.flags[i, at.F_CPU_TOKENS] = model.shape_tokens[i]
        self._flagged = noted

    def task(self, kind: str) -> int:
        """The fragment of a new task."""
        return self._noted(self.model.task(kind))

    def vcpu(self, choice: Any) -> int:
        """The fragment of a new vCPU thread."""
        return self._noted(self.model.vcpu(choice))

    def without_area(self, shape: int, slot: int, role: int) -> int:
        """As :meth:`Transitions.without_area`."""
        return self._noted(self.model.without_area(shape, slot, role))

    def _noted(self, number: int) -> int:
        self._note_flags()
        return number

    # Rows.

    def begin(self, prices: Prices, level: int) -> None:
        """A replication begins: nothing is counted yet, and prices are those of its cost table."""
        self.rows[:, [at.R_COUNT, at.R_TIMES]] = 0
        self.level_counts[:, at.LEVEL_COUNT0 : at.LEVEL_COUNT0 + 3] = 0
        before = self._priced_for
        if before is None or before[0] is not prices or before[1] != level:  # equal ones may differ in what comes later
            self._priced_for = prices, level
            self.counted = Counted(self, prices)
            self.rows[:, at.R_PRICE] = -1

    def add(self, asked: Asked, key1: int, key2: int) -> int:
        """Adds the row of a flow point in a combination of states that is new."""
        answer = self.model.answer(asked)
        if asked.next is not None and answer.next is not None and answer.next.fragment != UNCHANGED:
            # The answer is of this fragment only; the loop has looked for the first of those that are like it.
            key2 += asked.next.fragment + 1 - (key2 >> at.NEXT_SHIFT) << at.NEXT_SHIFT
        uses: list[int] = []
        first, counted = self._levels, 0
        for use in answer.uses:
            if use.role < 0:
                uses.append(self.keys.of(use.key))
                continue
            if asked.point.what is Walker.exits:
                raise Unsupported("exits whose operations depend on where a buffer is, counted together")
            if self._levels == len(self.levels):
                self.levels = np.concatenate([self.levels, np.zeros_like(self.levels)])
                self.moved = True
            whose = at.INIT_AREA if use.task == INIT_AREA else use.task * 3 + use.role
            self.levels[self._levels] = whose, self._level_number(use.key)
            self._levels += 1
            counted += 1
        assert answer.called in ((), (("", VCPU_LOAD, VMCLEAR),))
        n = self.count
        try:  # before the row, which is never there without them
            if answer.found:
                self.found[n] = answer.found
            if answer.renewed:
                self.renewed[n] = answer.renewed
            return self._new_row(key1, key2, self._values(asked, answer, first << 8 | counted), tuple(uses))
        except BaseException:
            self.found.pop(n, None)
            self.renewed.pop(n, None)
            raise

    def add_equal(self, shape: int, slot: int, equal: tuple[int, ...], key1: int, key2: int) -> int:
        """Adds the row that says what a CPU's shape becomes when a task's contents have changed."""
        values = [0] * at.R_COLUMNS
        values[at.R_SHAPE] = self.model.with_equal(shape, slot, equal)
        return self._new_row(key1, key2, values, ())

    def _level_number(self, key: Key) -> int:
        number = self.level_keys.of(key)
        if number == len(self.level_counts):
            self.level_counts = np.concatenate([self.level_counts, np.zeros_like(self.level_counts)])
            self.moved = True
        return number

    @staticmethod
    def _values(asked: Asked, answer: Answer, levels: int) -> list[int]:
        values = [0] * at.R_COLUMNS
        values[at.R_PRICE], values[at.R_LEVELS] = -1, levels
        values[at.R_RESULT], values[at.R_CALLED] = answer.result, len(answer.called)
        values[at.R_SHAPE] = answer.shape
        values[at.R_SLOTS], flags = _packed_slots(answer.slots, asked.slots)
        for side, fragment, shift in ((answer.current, at.R_FRAGMENT, 4), (answer.next, at.R_FRAGMENT2, 0)):
            if side is not None:
                values[fragment] = side.fragment
                values[at.R_PLACES] |= (side.last << 2 | side.vmcs) << shift
        if answer.tokens != (None, None, None):
            values[at.R_TOKENS : at.R_NEW + 1] = _packed_tokens(answer.tokens)
            flags |= at.HAS_TOKENS
        if levels & 255:
            flags |= at.HAS_LEVELS
        if answer.found:
            flags |= at.HAS_FOUND
        if answer.renewed:
            flags |= at.HAS_RENEWED
        values[at.R_FLAGS] = flags
        return values

    def price(self, n: int) -> None:
        """Prices a row, which the strategy that times the host has passed."""
        assert self._priced_for is not None
        prices, level = self._priced_for
        first, counted = self.rows[n, at.R_LEVELS] >> 8, self.rows[n, at.R_LEVELS] & 255
        for _, number in self.levels[first : first + counted].tolist():
            for i in range(3) if level < 0 else (level,):
                self.level_counts[number, at.LEVEL_PRICE0 + i] = prices[*self.level_keys.values[number], LEVELS[i]]
        self.rows[n, at.R_PRICE] = sum(prices[self.keys.values[key]] for key in self.uses[n])

    # What came of it.

    def findings(self) -> dict[str, int]:
        """What the integrity check has found, warm-up included."""
        found: dict[str, int] = {}
        for n, kinds in self.found.items():
            if times := int(self.rows[n, at.R_TIMES]):
                for kind, each in kinds:
                    found[kind] = found.get(kind, 0) + each * times
        return dict(sorted(found.items()))


_tables: dict[Any, Table] = {}
"""The tables of this process, by configuration."""


def table_of(settings: Any, points: Points, *, integrity: bool) -> Table:
    """The table of a strategy on a kernel."""
    key = settings, integrity
    if key not in _tables:
        _tables[key] = Table(boot(settings), points, integrity=integrity)
    return _tables[key]
