"""The state of a kernel model as small canonical values: what a task has, and what a CPU has, by equality pattern.

A flow point reads and writes one CPU, the task that runs there and, at a context switch, the next one.  A *fragment*
is all that belongs to one task (its struct fpu, its vCPU, the areas, the truth of the integrity check); a *shape* is
all that belongs to one CPU.  Names of tasks, addresses and versions of contents do not matter to the model, only
which are the same: fragments and shapes number their contents (*tokens*) in the order in which they are met, and a
shape says of a token whose it is, and which tokens of fragments it equals.  The tasks that a shape speaks of are its
*slots*.

An area's contents count as far as its XSTATE_BV says that they are there (:func:`contents_of`): no instruction reads
the others, which a restore initialises and a save writes before it sets their bits.  The objects that are made for a
flow point have :data:`DEAD` there, so that nothing can look at them unseen.

This module and :mod:`sim.engine.reading` write and make the objects of :mod:`sim.kernel.state` by their ``__slots__``,
so that a new field of the model is part of the pattern without a word here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, Final

from sim.kernel.kernel import Kernel
from sim.kernel.state import Context, Cpu, Fpstate, SignalFrame, Task, Vcpu
from sim.xsave.area import Area
from sim.xsave.components import AVX, bits
from sim.xsave.unit import Unit

TOKEN: Final = 1 << 32
"""Contents that somebody wrote are numbers from here on; all others of the model, except XCOMP_BV, are smaller."""
SLOTS: Final = 12
"""The most tasks of which a shape may speak."""
TOKENS: Final = 15
"""The most contents that a fragment or a shape may tell apart."""
GONE: Final = -2
"""XRSTOR_INFO's address of an area that does not exist any more."""

_NOT_ENCODED: Final[dict[Any, set[str]]] = {
    Area: {"address", "standard"},
    Context: {"id", "name", "version"},
    Task: {"cpu", "id", "last_cpu", "name"},
    Vcpu: {"id", "name", "vmcs_cpu"},
    Cpu: {"current", "id", "idle", "ledger", "pending", "record"},
    Unit: {name for name in Unit.__slots__ if name.startswith("_")} | {"freedoms"},
    Fpstate: set(),
    SignalFrame: set(),
}
_LITERAL: Final = {"header_rest", "info_mode", "info_xcomp_bv", "xcomp_bv", "xstate_bv"}
FIELDS: Final = {
    cls: tuple(name for name in cls.__slots__ if name not in skipped) for cls, skipped in _NOT_ENCODED.items()
}
_VALUES: Final[dict[Any, Callable[[Any], tuple[Any, ...]]]] = {cls: attrgetter(*names) for cls, names in FIELDS.items()}
_CONTENTS: Final = FIELDS[Area].index("compacted")


def _writer(cls: Any, names: tuple[str, ...]) -> Callable[[Callable[..., Any], tuple[Any, ...]], tuple[Any, ...]]:
    """A function that writes objects of a class as tuples, given a function for values, and the fields' values.

    It is generated: there are a hundred thousand objects, and a loop over the fields takes three times as long.
    """
    fields = [f"f{i}" for i in range(len(names))]
    plain = "{0} is None or {0}.__class__ is bool or ({0}.__class__ is int and {0} < TOKEN)"
    written = [
        f"value({each}, {name!r})"
        if name == "info_address"
        else f"{each} if {plain.format(each)} else value({each}, {name!r})"
        for each, name in zip(fields, names, strict=True)
    ]
    source = f"def write(value, fields):\n ({', '.join(fields)},) = fields\n return (cls, {', '.join(written)},)"
    made: dict[str, Any] = {"cls": cls, "TOKEN": TOKEN}
    exec(source, made)
    return made["write"]


_WRITERS: Final = {cls: _writer(cls, names) for cls, names in FIELDS.items()}


class Unsupported(Exception):
    """A state that the tables cannot hold exactly; says what it is."""


class Dead:
    """A content that is not there: it can be copied, but not looked at, nor be part of a state."""

    def __eq__(self, other: object) -> bool:
        raise Unsupported("an XSAVE area of which a component is looked at that no restore loads")

    __hash__ = None  # type: ignore[assignment]


DEAD: Final = Dead()

Fragment = tuple[Any, ...]
Shape = tuple[Any, ...]


class Entity:
    """A task and all that is its own, as objects of the model; ``tokens`` are its fragment's contents by number."""

    __slots__ = ("areas", "guest", "own", "task", "tokens", "vcpu")

    def __init__(self, task: Task, guest: Context | None) -> None:
        self.task = task
        self.vcpu: Vcpu | None = task.vcpu
        self.own = task.context
        self.guest = guest
        self.tokens: dict[int, int] = {}
        self.areas: tuple[Area | None, ...] = ()
        self.find_areas()

    def find_areas(self) -> None:
        """Its areas by role: the normal fpstate's, the guest fpstate's, and that of a mechanism with an own buffer."""
        task, vcpu = self.task, self.task.vcpu
        normal = task.saved_fpstate or task.fpstate
        self.areas = (normal.area, vcpu.fpstate.area if vcpu else None, vcpu.carried_area if vcpu else None)

    def name_of(self, context: int) -> str | None:
        """Which of its contexts has this number."""
        if context == self.own.id:
            return "T"
        return "G" if self.guest is not None and context == self.guest.id else None


class _TaskElsewhere(Task):
    """A task of which nobody may look at anything, nor change it."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        raise Unsupported(f"{name} of a task that takes no part")

    def __setattr__(self, name: str, value: Any) -> None:
        raise Unsupported(f"{name} of a task that takes no part")


class _VcpuElsewhere(Vcpu):
    """A vCPU of the same kind."""

    __slots__ = ()
    __getattr__ = _TaskElsewhere.__getattr__
    __setattr__ = _TaskElsewhere.__setattr__


class Bystander(Entity):
    """A task that takes no part: only its identity is there, and that of its contexts and areas."""

    __slots__ = ()

    def __init__(self, own: Context, guest: Context, areas: tuple[Area, ...]) -> None:
        self.task, self.vcpu = _TaskElsewhere.__new__(_TaskElsewhere), _VcpuElsewhere.__new__(_VcpuElsewhere)
        self.own, self.guest, self.areas, self.tokens = own, guest, areas, {}


class _Writing:
    """Turns the objects of one entity, or of one CPU, into a nested tuple."""

    def __init__(self, k: Kernel, entity: Entity | None, everybody: list[Entity], unused: int) -> None:
        self._k = k
        self._unused = unused
        self._entity = entity
        self._everybody = everybody
        self._seen: dict[int, int] = {}
        self.tokens: dict[int, int] = {}
        self.slots: list[Entity] = []
        self._left_out = 0

    def value(self, value: Any, name: str = "") -> Any:
        kind = type(value)
        if kind is int:
            if name == "info_address":
                return self._info_address(value)
            return value if value < TOKEN or name in _LITERAL else self._token(value)
        if self._entity is None and isinstance(value, (Task, Vcpu)):
            return self._reference(value)
        if kind in FIELDS:
            return self._object(value, kind)
        if value is None or kind is bool or kind is str:
            return value
        if kind is list or kind is tuple:
            if name == "regs" and self._unused >= 0:
                unused = self._unused
                return (
                    "list",
                    *[self._whose(each) if i == unused else self.value(each) for i, each in enumerate(value)],
                )
            return (
                "list" if kind is list else "tuple",
                *[
                    self.value(each) if each.__class__ is not int else each if each < TOKEN else self._token(each)
                    for each in value
                ],
            )
        if kind is dict:
            of = self._uret if name == "uret" else self.value
            return ("dict", *[(key, of(each)) for key, each in value.items()])
        if value is DEAD:
            raise Unsupported("an XSAVE area of which a component is restored that no restore loads")
        raise Unsupported(f"{kind.__name__} objects in a task's state")

    def _object(self, value: Any, kind: Any) -> Any:
        number = self._seen.get(id(value))
        if number is not None:
            return ("again", number)
        self._seen[id(value)] = len(self._seen)
        values = _VALUES[kind](value)
        left_out, self._left_out = self._left_out, 0
        if kind is Fpstate and not value.is_guest:
            self._left_out = never_loaded(self._k)  # of its area, which comes next
        elif kind is Area:
            there = [value.compacted[i] for i in contents_of(self._k, value, left_out)]
            values = (*values[:_CONTENTS], there, *values[_CONTENTS + 1 :])
        return _WRITERS[kind](self.value, values)

    def _reference(self, value: Task | Vcpu) -> tuple[str, int, bool]:
        for each in self._everybody:
            if each.task is value or each.vcpu is value:
                return "slot", self._slot(each), each.task is value
        raise AssertionError(value)

    def _slot(self, entity: Entity) -> int:
        if entity not in self.slots:
            self.slots.append(entity)
            if len(self.slots) > SLOTS:
                raise Unsupported(f"a CPU whose registers speak of more than {SLOTS} tasks")
        return self.slots.index(entity)

    def _uret(self, value: int) -> Any:
        """The value of a user-return MSR: the number of a guest's context, or a token."""
        if value >= TOKEN or not value:
            return self._token(value) if value else 0
        if self._entity is not None:
            return ("own", self._entity.name_of(value))
        for each in self._everybody:
            if (name := each.name_of(value)) is not None:
                return ("whose", self._slot(each), name)
        return ("whose", -1, "")

    def _info_address(self, value: int) -> Any:
        if value == -1:
            return -1
        for each in self._everybody:
            for role, area in enumerate(each.areas):
                if area is not None and area.address == value:
                    return ("area", self._slot(each), role)
        return GONE

    def _token(self, value: Any) -> Any:
        number = self.tokens.get(value)
        if number is not None:
            return ("token", number)
        number = self.tokens[value] = len(self.tokens)
        if number == TOKENS:
            raise Unsupported(f"more than {TOKENS} contents of one task, or on one CPU")
        writer = value >> 32
        if self._entity is not None:
            return ("token", number, self._entity.name_of(writer) or self._foreign(writer))
        who: tuple[int, str] = (-1, "")
        for each in self._everybody:
            if (name := each.name_of(writer)) is not None:
                who = (self._slot(each), name)
                break
        else:
            who = (-1, self._foreign(writer))
        equal = sorted((self._slot(each), each.tokens[value]) for each in self._everybody if value in each.tokens)
        return ("token", number, who, tuple(equal))

    def _whose(self, content: Any) -> Any:
        """Of a content that nobody compares, all that matters is whether it is a guest's."""
        if isinstance(content, tuple):
            return ("tuple", *map(self._whose, content))
        if content < TOKEN:
            return content
        context = self._k.contexts.get(content >> 32)
        return ("somebody's", context is not None and context.guest)

    def _foreign(self, writer: int) -> str:
        if writer == self._k.kernel_context.id:
            return "K"
        context = self._k.contexts.get(writer)
        return "Y" if context is not None and context.guest else "X"


def never_loaded(k: Kernel) -> int:
    """The components that no restore of a normal fpstate loads, although saves may write them: nobody can tell what is
    in them there.  With host shadow stacks the host has a value of its own there, and all are taken to count.
    """
    return 0 if k.host_consumes_carried else k.restore_mask & ~k.restore_mask_normal


def contents_of(k: Kernel, area: Area, left_out: int) -> tuple[int, ...]:
    """The components whose contents in an area may ever be read; restores of it leave out those in ``left_out``.

    A Zen 4 may set XSTATE_BV[2] without a write (Freedoms.legacy_sse_write_marks_avx_in_use).
    """
    sets_avx = k.config.cpu.freedoms.legacy_sse_write_marks_avx_in_use
    return bits[(area.xstate_bv | AVX if sets_avx else area.xstate_bv) & ~left_out]


def unused_component(k: Kernel) -> int:
    """The carried component if no strategy's save, restore or check looks at what is in it, else -1.

    That is so if nothing carries it: guests write it, and what they leave in the registers is residue.
    """
    masks, mask = k.config.masks, k.carried_mask
    saved = masks.host_default | masks.guest_default | masks.restore_mask | k.restore_mask_normal
    if not mask or k.carried.xfeature is None or k.strategy.carries or k.host_consumes_carried or saved & mask:
        return -1
    return k.carried.xfeature


def write_fragment(k: Kernel, entity: Entity, unused: int) -> Fragment:
    """The fragment of an entity, whose ``tokens`` are numbered by it."""
    writing = _Writing(k, entity, [entity], unused)
    tree: Fragment = writing.value(entity.task)
    entity.tokens = writing.tokens
    entity.find_areas()
    return tree


def write_shape(
    k: Kernel, cpu: Cpu, everybody: list[Entity], unused: int
) -> tuple[Shape, list[Entity], dict[int, int]]:
    """The shape of a CPU, whom its slots stand for, and its tokens by number; fragments have been written before."""
    writing = _Writing(k, None, everybody, unused)
    return writing.value(cpu), writing.slots, writing.tokens


def joined(shape: Shape, first: int, second: int) -> Iterator[tuple[int, int]]:
    """Which tokens of the fragments in two slots are the same, as far as a shape knows."""
    for each in shape:
        if not isinstance(each, tuple):
            continue
        if each[:1] == ("token",) and len(each) > 2:
            equal = dict(each[3])
            if first in equal and second in equal:
                yield equal[first], equal[second]
        else:
            yield from joined(each, first, second)


def is_joined(shape: Shape) -> bool:
    """Whether a shape has a token that two tasks have."""
    return any(
        len(each) > 2 and len(each[3]) > 1 if each[:1] == ("token",) else is_joined(each)
        for each in shape
        if isinstance(each, tuple)
    )


def tokens_of(tree: Any) -> int:
    """How many tokens a fragment or a shape tells apart."""
    if not isinstance(tree, tuple):
        return 0
    if tree[:1] == ("token",):
        return tree[1] + 1 if isinstance(tree[1], int) else 0
    return max(map(tokens_of, tree), default=0)


def with_equal(tree: Any, slot: int, equal: tuple[int, ...]) -> Any:
    """A shape whose token ``i`` equals token ``equal[i]`` of the fragment in a slot, or none of them (-1)."""
    if not isinstance(tree, tuple):
        return tree
    if tree[:1] != ("token",):
        return tuple([with_equal(each, slot, equal) for each in tree])
    if len(tree) == 2:
        return tree
    _, number, who, others = tree
    same = [each for each in others if each[0] != slot] + ([(slot, equal[number])] if equal[number] >= 0 else [])
    return ("token", number, who, tuple(sorted(same)))


def with_fields(shape: Shape, fields: dict[str, Any], comes: int) -> tuple[Shape, tuple[int, ...]]:
    """A CPU's shape in which these fields are other ones, and for each of its slots, which slot of the old one it was.

    Slots are numbered as :func:`write_shape` does it after a flow point of which the task in slot ``comes`` is the
    current one; that slot may be one more than the old shape has.
    """
    slots: list[int] = []

    def slot(old: int) -> int:
        if old not in slots:
            slots.append(old)
            if len(slots) > SLOTS:
                raise Unsupported(f"a CPU whose registers speak of more than {SLOTS} tasks")
        return slots.index(old)

    def changed(tree: Any) -> Any:
        if type(tree) is not tuple:
            return tree
        match tree[0]:
            case "slot" | "area":
                return tree[0], slot(tree[1]), tree[2]
            case "whose":
                return ("whose", slot(tree[1]), tree[2]) if tree[1] >= 0 else tree
            case "token":
                if len(tree) == 2:
                    return tree
                _, number, (whose, name), equal = tree
                who = (slot(whose) if whose >= 0 else whose), name
                in_turn = sorted(equal, key=lambda each: each[0] != comes)  # the current task is asked first
                return ("token", number, who, tuple(sorted([(slot(old), token) for old, token in in_turn])))
        return tuple([each if type(each) is not tuple else changed(each) for each in tree])

    values = [fields.get(name, value) for name, value in zip(FIELDS[Cpu], shape[1:], strict=True)]
    return (shape[0], *map(changed, values)), tuple(slots)
