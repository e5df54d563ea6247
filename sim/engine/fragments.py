"""The state of a kernel model as small canonical values: what a task has, and what a CPU has, by equality pattern.

A flow point reads and writes one CPU, the task that runs there and, at a context switch, the next one.  A *fragment*
is all that belongs to one task (its struct fpu, its vCPU, the areas, the truth of the integrity check); a *shape* is
all that belongs to one CPU.  Names of tasks, addresses and versions of contents do not matter to the model, only
which are the same: a fragment numbers its tokens in the order in which they are met, and a shape says of a token whose
it is, and which tokens of fragments it equals.  The tasks that a shape speaks of are its *slots*.

This module reads and makes the objects of :mod:`sim.kernel.state` by their ``__slots__``, so that a new field of the
model is part of the pattern without a word here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sim.kernel.kernel import AREA_BYTES, Kernel
from sim.kernel.state import Context, Cpu, Fpstate, Task, Vcpu
from sim.xsave.area import Area
from sim.xsave.unit import Unit

TOKEN: Final = 1 << 32
"""Contents that somebody wrote are not below it, all other numbers of the model are (but XCOMP_BV)."""
SLOTS: Final = 12
"""The most tasks of which a shape may speak."""
STALE: Final = 1 << 31
"""Versions of contents that are not known any more begin here."""
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
}
_LITERAL: Final = {"header_rest", "info_mode", "info_xcomp_bv", "xcomp_bv", "xstate_bv"}
_FIELDS: Final = {
    cls: tuple(name for name in cls.__slots__ if name not in skipped) for cls, skipped in _NOT_ENCODED.items()
}
_OF_TASK: Final = (Task, Vcpu, Fpstate, Area, Context)


class Unsupported(Exception):
    """A state that the tables cannot hold exactly; says what it is."""


Fragment = tuple[Any, ...]
Shape = tuple[Any, ...]


class Entity:
    """A task and all that is its own, as objects of the model; ``tokens`` are the contents of its fragment by number.

    One without a fragment stands for a task that takes no part: only its identity is there.
    """

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

    def value(self, value: Any, name: str = "") -> Any:
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            if name == "uret_value":
                return self._uret(value)
            if name == "info_address":
                return self._info_address(value)
            return value if value < TOKEN or name in _LITERAL else self._token(value)
        if name == "regs" and self._unused >= 0:
            return (
                "list",
                *(self._whose(each) if i == self._unused else self.value(each) for i, each in enumerate(value)),
            )
        if isinstance(value, (list, tuple)):
            return ("list" if isinstance(value, list) else "tuple", *map(self.value, value))
        if isinstance(value, dict):
            inner = "uret_value" if name == "uret" else ""
            return ("dict", *((key, self.value(each, inner)) for key, each in value.items()))
        return self._object(value)

    def _object(self, value: Any) -> Any:
        if self._entity is None and isinstance(value, (Task, Vcpu)):
            task = value if isinstance(value, Task) else value.task
            return (
                "slot",
                self._slot(next(each for each in self._everybody if each.task is task)),
                type(value) is Task,
            )
        number = self._seen.get(id(value))
        if number is not None:
            return ("again", number)
        kind = type(value)
        if kind not in _FIELDS:
            raise Unsupported(f"{kind.__name__} objects in a task's state")
        self._seen[id(value)] = len(self._seen)
        return (kind, *(self.value(getattr(value, name), name) for name in _FIELDS[kind]))

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

    def _token(self, value: int) -> Any:
        number = self.tokens.get(value)
        if number is not None:
            return ("token", number)
        number = self.tokens[value] = len(self.tokens)
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
        equal = tuple((self._slot(each), each.tokens[value]) for each in self._everybody if value in each.tokens)
        return ("token", number, who, equal, not equal and who[0] >= 0 and bool(value & STALE))

    def _whose(self, content: Any) -> Any:
        """Of a content that nobody compares, whether it is a guest's is all that is left."""
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


def unused_component(k: Kernel) -> int:
    """The carried component if no strategy's save, restore or check looks at what is in it, else -1.

    So it is where nothing carries it: it is written by guests, and what is left of it in the registers is residue.
    """
    masks, mask = k.config.masks, k.carried_mask
    saved = masks.host_default | masks.guest_default | masks.restore_mask | k.restore_mask_normal
    if not mask or k.carried.xfeature is None or k.strategy.carries or k.host_consumes_carried or saved & mask:
        return -1
    return k.carried.xfeature


def write_fragment(k: Kernel, entity: Entity) -> Fragment:
    """The fragment of an entity, whose ``tokens`` are numbered by it."""
    writing = _Writing(k, entity, [entity], unused_component(k))
    tree: Fragment = writing.value(entity.task)
    entity.tokens = writing.tokens
    entity.find_areas()
    return tree


def write_shape(k: Kernel, cpu: Cpu, everybody: list[Entity]) -> tuple[Shape, list[Entity]]:
    """The shape of a CPU, and whom its slots stand for; fragments have been written before."""
    writing = _Writing(k, None, everybody, unused_component(k))
    return writing.value(cpu), writing.slots


class Reading:
    """Makes the objects of one world: entities from fragments, and a CPU from a shape."""

    def __init__(self, k: Kernel) -> None:
        k.contexts = {k.kernel_context.id: k.kernel_context, FOREIGN_GUEST: Context(FOREIGN_GUEST, "", guest=True)}
        k.kernel_context.version = WRITTEN
        k._contexts_made = k._areas = OLD  # what a flow point makes has other numbers than what is made here
        self._k = k
        self._contexts = FIRST_CONTEXT
        self._areas = 1
        self._entity: Entity | None = None
        self._ids = (0, 0)
        self._made: list[Any] = []
        self._given: dict[int, int] = {}
        self._tokens: dict[int, int] = {}
        self._slots: list[Entity] = []
        self._stale: set[Entity] = set()
        self._number = 0

    # Entities.

    def entity(self, fragment: Fragment, given: dict[int, int]) -> Entity:
        """A task of this fragment; ``given`` are tokens that are somebody else's, too."""
        self._begin(given)
        task: Task = self._value(fragment)
        guest = task.vcpu.context if task.vcpu is not None else None
        entity = Entity(task, guest)
        entity.tokens = {token: number for number, token in self._tokens.items()}
        for context in (task.context, guest):
            if context is not None:
                self._k.contexts[context.id] = context
        return entity

    def _begin(self, given: dict[int, int]) -> None:
        self._ids = (self._contexts, self._contexts + 1)
        self._contexts += 2
        self._made, self._tokens, self._given = [], {}, given
        self._slots = []

    def bystander(self) -> Entity:
        """A task that takes no part, and whose contents are not known."""
        self._begin({})
        own, guest = (Context(each, "", guest=bool(i)) for i, each in enumerate(self._ids))
        for context in (own, guest):
            self._k.contexts[context.id] = context
        task = Task(own.id, "", "user", Fpstate(self._area(), 0, 0, 0, own, is_guest=False), own)
        vcpu = Vcpu(guest.id, task, Fpstate(self._area(), 0, 0, 0, guest, is_guest=True), guest)
        vcpu.carried_area = self._area()
        task.vcpu = vcpu
        return Entity(task, guest)

    def _area(self) -> Area:
        self._areas += 1
        return Area(self._areas * AREA_BYTES)

    # CPUs.

    def cpu(self, cpu: Cpu, shape: Shape, slots: list[Entity], stale: set[Entity]) -> None:
        """Makes ``cpu`` one of this shape; of the entities in ``stale`` the tokens have changed elsewhere."""
        self._made, self._tokens, self._given = [], {}, {}
        self._entity, self._slots, self._stale = None, slots, stale
        self._number = 0
        for name, value in zip(_FIELDS[Cpu], shape[1:], strict=True):
            if name == "unit":
                for each, inner in zip(_FIELDS[Unit], value[1:], strict=True):
                    setattr(cpu.unit, each, self._value(inner))
            else:
                setattr(cpu, name, self._value(value))

    # Values.

    def _value(self, value: Any) -> Any:
        if not isinstance(value, tuple):
            return value
        match value[0]:
            case "list":
                return [self._value(each) for each in value[1:]]
            case "tuple":
                return tuple(self._value(each) for each in value[1:])
            case "dict":
                return {key: self._value(each) for key, each in value[1:]}
            case "again":
                return self._made[value[1]]
            case "token":
                return self._token(value)
            case "somebody's":
                return (FOREIGN_GUEST if value[1] else FOREIGN_TASK) << 32 | OLD
            case "own":
                return self._ids[value[1] == "G"]
            case "slot":
                entity = self._slots[value[1]]
                return entity.task if value[2] else entity.vcpu
            case "whose":
                return self._context(value[1], value[2])
            case "area":
                area = self._slots[value[1]].areas[value[2]]
                return GONE if area is None else area.address
        return self._object(value)

    def _object(self, value: Any) -> Any:
        kind = value[0]
        made = kind.__new__(kind)
        self._made.append(made)
        if kind is Task:
            made.cpu, made.id, made.last_cpu, made.name = None, self._ids[0], -1, ""
        elif kind is Vcpu:
            made.id, made.name, made.vmcs_cpu = self._ids[1], "", None
        for name, each in zip(_FIELDS[kind], value[1:], strict=True):
            setattr(made, name, self._value(each))
        if kind is Context:
            made.id, made.name, made.version = self._ids[made.guest], "", WRITTEN
        elif kind is Area:
            self._areas += 1
            made.address, made.standard = self._areas * AREA_BYTES, made.compacted
        return made

    def _context(self, slot: int, name: str) -> int:
        """The number of a context: of a slot's, the kernel's, another guest's, or another task's that may be gone."""
        if slot >= 0:
            entity = self._slots[slot]
            return entity.guest.id if name == "G" and entity.guest is not None else entity.own.id
        return {"K": self._k.kernel_context.id, "Y": FOREIGN_GUEST}.get(name, FOREIGN_TASK)

    def _token(self, value: Any) -> int:
        number = value[1]
        if number in self._tokens:
            return self._tokens[number]
        if number in self._given:
            made = self._given[number]
        elif isinstance(value[2], str):  # in a fragment: by its own contexts, or not
            name = value[2]
            writer = self._ids[name == "G"] if name in "TG" else self._context(-1, name)
            self._number += 1
            made = writer << 32 | self._number
        else:
            made = self._token_of_cpu(*value[1:])
        self._tokens[number] = made
        return made

    def _token_of_cpu(self, number: int, who: tuple[int, str], equal: tuple[tuple[int, int], ...], maybe: bool) -> int:
        fresh = [(self._slots[slot], local) for slot, local in equal if self._slots[slot] not in self._stale]
        known = [token for entity, local in fresh for token, each in entity.tokens.items() if each == local]
        version = number + 1 | (STALE if maybe or (equal and not fresh) else OLD)
        made = known[0] if known else self._context(*who) << 32 | version
        for entity, local in fresh:
            if made not in entity.tokens:
                entity.tokens[made] = local
        return made


FOREIGN_TASK: Final = 8
FOREIGN_GUEST: Final = 9
FIRST_CONTEXT: Final = 16
WRITTEN: Final = 1 << 16
OLD: Final = 1 << 30
"""Numbers of contexts, and versions of contents, that do not meet in one world."""


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


def without_tokens(tree: Any) -> Any:
    """A fragment or a shape without whose contents are where."""
    if not isinstance(tree, tuple):
        return tree
    if tree[:1] == ("token",):
        return "token"
    return tuple(map(without_tokens, tree))


def tokens_in(held: Any) -> Iterator[int]:
    """The tokens in a content, of which CET_S has one per MSR."""
    for each in held if isinstance(held, tuple) else (held,):
        if isinstance(each, int) and each >= TOKEN:
            yield each
