"""From fragments and shapes back to objects of the kernel model: a world of its own for each flow point asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sim.engine.asked import AREAS
from sim.engine.fragments import (
    DEAD,
    FIELDS,
    GONE,
    SLOTS,
    TOKENS,
    Bystander,
    Entity,
    Fragment,
    Shape,
    contents_of,
    never_loaded,
)
from sim.engine.standing import Standing
from sim.kernel.kernel import AREA_BYTES, Kernel
from sim.kernel.state import Context, Cpu, Fpstate, Task, Vcpu
from sim.xsave.area import CONTENTS, Area
from sim.xsave.unit import Unit

FOREIGN_TASK: Final = 8
FOREIGN_GUEST: Final = 9
STANDING_CONTEXT: Final = 10
FIRST_CONTEXT: Final = 16
FIRST_AREA: Final = 64
BYSTANDERS: Final = 1 << 10
WRITTEN: Final = 1 << 16
OLD: Final = 1 << 30
"""Numbers of contexts, and versions of contents, far enough apart that none is used twice in one world."""


_Maker = Callable[[Any, Callable[[Any], Any], tuple[Any, ...]], None]


def _maker(names: tuple[str, ...], make_unit: _Maker | None = None) -> _Maker:
    """A function that sets these fields of an object, given what makes a value, and the object as a tuple.

    A CPU's unit is there already; ``make_unit`` sets its fields in its turn.
    """
    fields = [f"f{i}" for i in range(len(names))]
    lines = [f"def make(made, value, written):\n (_, {', '.join(fields)},) = written"]
    for each, name in zip(fields, names, strict=True):
        is_there = name == "unit"
        made_of = f"value({each}) if {each}.__class__ is tuple else {each}"
        lines.append(f" make_unit(made.unit, value, {each})" if is_there else f" made.{name} = {made_of}")
    made: dict[str, Any] = {"make_unit": make_unit}
    exec("\n".join(lines), made)
    return made["make"]


_IS_GUEST: Final = 1 + FIELDS[Fpstate].index("is_guest")
_MAKERS: Final = {cls: _maker(names) for cls, names in FIELDS.items()}
_MAKERS[Cpu] = _maker(FIELDS[Cpu], _MAKERS[Unit])


def _bystander(number: int) -> Bystander:
    own, guest = (Context.__new__(Context) for _ in range(2))
    own.id, guest.id = BYSTANDERS + 2 * number, BYSTANDERS + 2 * number + 1
    own.name = guest.name = ""
    own.guest, guest.guest = False, True
    areas = tuple([Area((BYSTANDERS + 3 * number + role) * AREA_BYTES) for role in range(AREAS)])
    return Bystander(own, guest, areas)


_BYSTANDERS: Final = tuple(map(_bystander, range(SLOTS + 1)))
"""One for each slot, and one that a sketch of the task that comes is like."""
_CONTEXTS: Final = {
    FOREIGN_GUEST: Context(FOREIGN_GUEST, "", guest=True),
    **{each.id: each for entity in _BYSTANDERS for each in (entity.own, entity.guest) if each is not None},
}


class Reading:
    """Makes the objects of one world: entities from fragments, and a CPU from a shape."""

    def __init__(self, k: Kernel) -> None:
        k.contexts = _CONTEXTS.copy()
        k.contexts[k.kernel_context.id] = k.kernel_context
        k.kernel_context.version = WRITTEN
        k._contexts_made = k._areas = OLD  # so that what a flow point makes has numbers of its own
        self._k = k
        self._contexts = FIRST_CONTEXT
        self._areas = FIRST_AREA
        self._ids = (0, 0)
        self._made: list[Any] = []
        self._given: dict[int, int] = {}
        self.tokens: dict[int, int] = {}
        self._slots: list[Entity] = []
        self._known: set[Entity] = set()
        self._number = TOKENS  # of its contents; those of a standing entity come before
        self._bystanders = 0
        self._left_out = 0

    # Entities.

    @classmethod
    def standing(cls, k: Kernel, number: int, fragment: Fragment) -> Standing:
        """A task of this fragment, which may be in other worlds, too, if it joins them."""
        reading = cls(k)
        reading._contexts, reading._areas, reading._number = STANDING_CONTEXT, 0, 0
        return Standing(number, reading.entity(fragment, {}), reading._made)

    def join(self, entity: Entity) -> None:
        """The entity is one of this world."""
        for context in (entity.own, entity.guest):
            if context is not None:
                self._k.contexts[context.id] = context

    def entity(self, fragment: Fragment, given: dict[int, int]) -> Entity:
        """A task of this fragment; ``given`` are tokens that another task has, too."""
        self._begin(given)
        task: Task = self._object(fragment)
        guest = task.vcpu.context if task.vcpu is not None else None
        entity = Entity(task, guest)
        entity.tokens = {token: number for number, token in self.tokens.items()}
        self.join(entity)
        return entity

    def _begin(self, given: dict[int, int]) -> None:
        self._ids = (self._contexts, self._contexts + 1)
        self._contexts += 2
        self._made, self.tokens, self._given = [], {}, given
        self._slots = []

    def bystander(self) -> Entity:
        """A task that takes no part, and whose contents are not known."""
        entity = _BYSTANDERS[self._bystanders]
        self._bystanders += 1
        entity.tokens.clear()
        return entity

    # CPUs.

    def cpu(self, cpu: Cpu, shape: Shape, slots: list[Entity], known: set[Entity]) -> None:
        """Makes ``cpu`` one of this shape; the entities in ``known`` have their contents, others are bystanders.

        ``tokens`` are then those of the CPU, by number.
        """
        self._made, self.tokens, self._given = [], {}, {}
        self._slots, self._known = slots, known
        self._number = 0
        _MAKERS[Cpu](cpu, self._value, shape)

    # Values.

    def _value(self, value: Any) -> Any:
        if type(value) is not tuple:
            return value
        if value[0] in _MAKERS:
            return self._object(value)
        match value[0]:
            case "list":
                return [each if type(each) is int else self._value(each) for each in value[1:]]
            case "token":
                return self._token(value)
            case "tuple":
                return tuple([each if type(each) is int else self._value(each) for each in value[1:]])
            case "dict":
                return {key: self._value(each) for key, each in value[1:]}
            case "again":
                return self._made[value[1]]
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
        raise AssertionError(value)

    def _object(self, value: Any) -> Any:
        kind = value[0]
        made = kind.__new__(kind)
        self._made.append(made)
        if kind is Task:
            made.cpu, made.id, made.last_cpu, made.name = None, self._ids[0], -1, ""
        elif kind is Vcpu:
            made.id, made.name, made.vmcs_cpu = self._ids[1], "", None
        left_out, self._left_out = self._left_out, 0
        if kind is Fpstate and not value[_IS_GUEST]:
            self._left_out = never_loaded(self._k)  # of its area, which comes next
        _MAKERS[kind](made, self._value, value)
        if kind is Context:
            made.id, made.name, made.version = self._ids[made.guest], "", WRITTEN
        elif kind is Area:
            self._areas += 1
            made.address = self._areas * AREA_BYTES
            there, made.compacted = made.compacted, [DEAD] * CONTENTS
            for i, content in zip(contents_of(self._k, made, left_out), there, strict=True):
                made.compacted[i] = content
            made.standard = made.compacted
        return made

    def _context(self, slot: int, name: str) -> int:
        """The number of a context: of a slot's, the kernel's, another guest's, or another task's that may be gone."""
        if slot >= 0:
            entity = self._slots[slot]
            return entity.guest.id if name == "G" and entity.guest is not None else entity.own.id
        return {"K": self._k.kernel_context.id, "Y": FOREIGN_GUEST}.get(name, FOREIGN_TASK)

    def _token(self, value: Any) -> Any:
        number = value[1]
        if number in self.tokens:
            return self.tokens[number]
        if number in self._given:
            made = self._given[number]
        elif isinstance(value[2], str):  # in a fragment: by its own contexts, or not
            name = value[2]
            writer = self._ids[name == "G"] if name in "TG" else self._context(-1, name)
            self._number += 1
            made = writer << 32 | self._number
        else:
            made = self._token_of_cpu(*value[1:])
        self.tokens[number] = made
        return made

    def _token_of_cpu(self, number: int, who: tuple[int, str], equal: tuple[tuple[int, int], ...]) -> int:
        for slot, local in equal:
            entity = self._slots[slot]
            if entity in self._known:
                made = next((token for token, each in entity.tokens.items() if each == local), 0)
                if not made:
                    raise AssertionError("a CPU that knows of a content which its task does not have")
                break
        else:
            made = self._context(*who) << 32 | OLD | number + 1
        for slot, local in equal:
            self._slots[slot].tokens.setdefault(made, local)
        return made
