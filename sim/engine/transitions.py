"""What the kernel model does at a flow point, asked of it once for each combination of canonical states.

There is no second description of the kernel: a transition is found by making the objects of :mod:`sim.kernel.state` in
that state, passing the flow point with the :class:`~sim.kernel.walker.Walker` of the strategy, and writing down what
has become of them.  An own strategy file, a carried state or another kernel version needs nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from sim.engine.fragments import (
    GONE,
    STALE,
    Entity,
    Reading,
    Shape,
    Unsupported,
    joined,
    tokens_in,
    without_tokens,
    write_fragment,
    write_shape,
)
from sim.kernel.config import Config
from sim.kernel.guests import GuestChoice
from sim.kernel.kernel import Kernel
from sim.kernel.operations import Key
from sim.kernel.state import Cpu, Task
from sim.kernel.walker import Walker
from sim.xsave.area import Area

NOWHERE, HERE, ELSEWHERE, KEPT = range(4)
"""Where a task was last (fpu->last_cpu), or a VMCS is current; KEPT: a flow point has not changed it."""

OTHER, CURRENT, NEXT = range(3)
"""Whom a slot stands for.  Adding FRESH: its fragment is as it was when the shape was written."""
FRESH: Final = 2

CURRENT_NUMBER, NEXT_NUMBER, CHILD_NUMBER = 1, 2, 3

AREAS: Final = 3
"""Roles of a task's areas: normal, guest, own buffer of a mechanism."""


@dataclass(frozen=True, slots=True)
class Point:
    """A flow point: a method of the walker, and what it takes after the CPU and the next thread."""

    what: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Side:
    """One task that takes part: its fragment, where it was last, and where its VMCS is."""

    fragment: int
    last: int
    vmcs: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A combination of states: the point's number, the CPU's shape, whom its slots stand for, and who takes part."""

    point: int
    shape: int
    slots: tuple[int, ...]
    current: Side
    next: Side | None


@dataclass(frozen=True, slots=True)
class Use:
    """An operation; ``task`` (0 current, 1 next) and ``role`` of the area whose level its price depends on, or -1."""

    key: Key
    task: int = -1
    role: int = -1


@dataclass(frozen=True, slots=True)
class Answer:
    """What a flow point does.

    ``slots``: for each slot of the new shape, the old slot that it was, or CURRENT or NEXT below zero (~CURRENT).
    ``changed``: whether tokens of current and next are others than before.  ``uses`` are the operations in order,
    ``called`` those that another CPU is asked to run, whose thread kind is None.  ``renewed``: areas (task, role) that
    have been replaced by new ones.  ``result`` is what the walker's method returned, if that is a truth value.
    """

    shape: int
    slots: tuple[int, ...]
    current: Side
    next: Side | None
    changed: tuple[bool, bool]
    uses: tuple[Use, ...]
    called: tuple[Key, ...]
    found: tuple[tuple[str, int], ...]
    renewed: tuple[tuple[int, int], ...]
    result: bool


@dataclass(slots=True)
class Numbers:
    """Values by number, in the order in which they were first met."""

    values: list[Any] = field(default_factory=list)
    _of: dict[Any, int] = field(default_factory=dict)

    def of(self, value: Any) -> int:
        """The number of a value."""
        number = self._of.get(value)
        if number is None:
            number = self._of[value] = len(self.values)
            self.values.append(value)
        return number


class _Levels:
    """The buffer level as a question: which areas were asked for, in order."""

    def __init__(self) -> None:
        self.asked: list[Area] = []

    def __call__(self, cpu: Cpu, area: Area) -> str:
        self.asked.append(area)
        return f"@{len(self.asked) - 1}"

    def forget(self, area: Area) -> None:
        """A freed area is forgotten by whoever keeps levels."""


class Transitions:
    """The table of one strategy on one kernel: fragments, shapes and flow points by number, and answers by asking."""

    def __init__(self, config: Config, *, integrity: bool) -> None:
        self._levels = _Levels()
        self._walker = Walker(config, 2, buffer_level=lambda touched: self._levels, integrity=integrity)
        self.kernel: Kernel = self._walker.kernel
        self.kernel.call_function_single = lambda cpu, key: self._called.append(key)
        self._called: list[Key] = []
        self._cpu, self._elsewhere = self.kernel.cpus
        self._elsewhere.current = Task.__new__(Task)
        self._elsewhere.current.kind = ""
        self._created = dict(self.kernel.contexts)
        self.points = Numbers()
        self.fragments = Numbers()
        self.shapes = Numbers()
        self.slots_of: list[int] = []
        self._answers: dict[Asked, Answer] = {}
        self.fragment_flags: list[tuple[bool, bool]] = []
        self.shape_flags: list[bool] = []
        self.batches = self._walker.batches
        entity = Entity(self._cpu.idle, None)
        fragment = self._fragment_number(entity)
        self.idle = self._shape_number(write_shape(self.kernel, self._cpu, [entity])), fragment
        """The shape of a CPU that has not run anything, and the fragment of its idle task."""

    # Where everything begins.

    def _fragment_number(self, entity: Entity) -> int:
        """The number of an entity's fragment; of a new one it is noted whether its preempt notifier is registered,
        and whether guest state and registers are loaded."""
        number = self.fragments.of(write_fragment(self.kernel, entity))
        if number == len(self.fragment_flags):
            task, vcpu = entity.task, entity.vcpu
            clean = vcpu is not None and vcpu.guest_state_loaded and not task.need_fpu_load
            self.fragment_flags.append((task.notifier is not None, clean))
        return number

    def task(self, kind: str) -> int:
        """The fragment of a new task."""
        self.kernel.contexts.update(self._created)
        return self._fragment_number(Entity(self.kernel.new_task("", kind), None))

    def vcpu(self, choice: GuestChoice) -> int:
        """The fragment of a new vCPU thread."""
        self.kernel.contexts.update(self._created)
        vcpu = self.kernel.new_vcpu("", choice)
        return self._fragment_number(Entity(vcpu.task, vcpu.context))

    def _shape_number(self, written: tuple[Shape, list[Entity]]) -> int:
        shape, slots = written
        number = self.shapes.of(shape)
        if number == len(self.slots_of):
            self.slots_of.append(len(slots))
            self.shape_flags.append(self._cpu.guest is not None)
        return number

    def without_area(self, shape: int, slot: int, role: int) -> int:
        """The shape of a CPU whose last XRSTORS was from this area, now that the area is gone; else the same one."""

        def changed(tree: Any) -> Any:
            if not isinstance(tree, tuple):
                return tree
            return GONE if tree == ("area", slot, role) else tuple(map(changed, tree))

        tree: Shape = changed(self.shapes.values[shape])
        number = self.shapes.of(tree)
        if number == len(self.slots_of):
            self.slots_of.append(self.slots_of[shape])
            self.shape_flags.append(self.shape_flags[shape])
        return number

    # Asking.

    def answer(self, asked: Asked) -> Answer:
        """What happens; :class:`Unsupported` if that depends on something that the states do not say."""
        found = self._answers.get(asked)
        if found is None:
            found, doubtful = self._run(asked, otherwise=False)
            if doubtful:
                other, _ = self._run(asked, otherwise=True)
                if not self._same(found, other):
                    point = self.points.values[asked.point]
                    raise Unsupported(
                        f"{point.what.__name__}: depends on contents that a task left on a CPU before it moved"
                    )
            self._answers[asked] = found
        return found

    def _same(self, one: Answer, other: Answer) -> bool:
        """Whether it makes no difference what unknown contents are."""
        blank = [without_tokens(self.shapes.values[each.shape]) for each in (one, other)]
        return blank[0] == blank[1] and all(
            getattr(one, name) == getattr(other, name)
            for name in ("current", "next", "uses", "called", "found", "renewed", "result")
        )

    def _run(self, asked: Asked, otherwise: bool) -> tuple[Answer, bool]:
        k, cpu = self.kernel, self._cpu
        reading = Reading(k)
        shape = self.shapes.values[asked.shape]
        whom = asked.slots
        current = reading.entity(self.fragments.values[asked.current.fragment], {})
        sides = [(current, asked.current)]
        if asked.next is not None:
            values = {number: token for token, number in current.tokens.items()}
            given: dict[int, int] = {}
            if CURRENT + FRESH in whom and NEXT + FRESH in whom:
                pairs = joined(shape, whom.index(CURRENT + FRESH), whom.index(NEXT + FRESH))
                given = {theirs: values[ours] for ours, theirs in pairs}
            sides.append((reading.entity(self.fragments.values[asked.next.fragment], given), asked.next))
        stale: set[Entity] = set()
        slots: list[Entity] = []
        for each in whom:
            if each == OTHER:
                slots.append(reading.bystander())
                continue
            entity = sides[(each - 1) % FRESH][0]
            slots.append(entity)
            if each <= FRESH:
                stale.add(entity)
        reading.cpu(cpu, shape, slots, stale)
        doubtful = self._guess([entity for entity, _ in sides], take=otherwise)
        for entity, side in sides:
            self._place(entity, side)
        cpu.current = current.task
        current.task.cpu = cpu
        return self._pass(asked, sides, slots), doubtful

    def _guess(self, sides: list[Entity], take: bool) -> bool:
        """Whether there are contents of which it is not known if they still are their writer's; ``take``: they are."""
        k, cpu, unit = self.kernel, self._cpu, self._cpu.unit
        owners = {context.id: each for each in sides for context in (each.own, each.guest) if context is not None}
        doubtful = False

        def unknown(held: Any) -> Entity | None:
            return next((owners[each >> 32] for each in tokens_in(held) if each & STALE and each >> 32 in owners), None)

        for i, held in enumerate(unit.regs):
            if (owner := unknown(held)) is not None:
                doubtful = True
                if take:
                    writer = next(tokens_in(held)) >> 32
                    unit.regs[i] = (owner.own if writer == owner.own.id else owner.guest or owner.own).regs[i]
        index: dict[Any, int] = {each: i for i, each in enumerate(k.carried_numbers)}
        index |= {each: i for i, each in enumerate(k.carried_names)}
        noting: tuple[dict[Any, int], ...] = (cpu.msrs, cpu.uret)
        for notes in noting:
            for each, noted in notes.items():
                if (owner := unknown(noted)) is not None:
                    doubtful = True
                    if take and owner.vcpu is not None and owner.vcpu.carried:
                        notes[each] = owner.vcpu.carried[index[each]]
        if (owner := unknown(cpu.carried_cache)) is not None:
            doubtful = True
            if take:
                cpu.carried_cache = owner.task.host_value
        return doubtful

    def _place(self, entity: Entity, side: Side) -> None:
        task, vcpu = entity.task, entity.vcpu
        places = {NOWHERE: None, HERE: self._cpu, ELSEWHERE: self._elsewhere}
        last = places[side.last]
        task.last_cpu = last.id if last else -1
        if vcpu is not None:
            vcpu.vmcs_cpu = places[side.vmcs]
            # Whoever makes a VMCS current elsewhere has cleared it here.
            if side.vmcs != HERE and self.kernel.vendor == "vmx" and self._cpu.current_vmcs is vcpu:
                self._cpu.current_vmcs = None

    def _pass(self, asked: Asked, sides: list[tuple[Entity, Side]], slots: list[Entity]) -> Answer:
        walker, k, cpu, point = self._walker, self.kernel, self._cpu, self.points.values[asked.point]
        walker.tasks = {CURRENT_NUMBER + i: entity.task for i, (entity, _) in enumerate(sides)}
        walker._exits.clear()
        cpu.ledger.restart()
        self._called.clear()
        self._levels.asked.clear()
        if k.integrity:
            k.integrity.clear()
        before = [entity.areas for entity, _ in sides]
        tokens = [entity.tokens for entity, _ in sides]
        more: tuple[Any, ...] = () if asked.next is None else (NEXT_NUMBER,)
        if point.what is Walker.fork:
            more = (CHILD_NUMBER, "")
        result = point.what(walker, cpu, *more, *point.arguments)
        if CHILD_NUMBER in walker.tasks:
            child = Entity(walker.tasks[CHILD_NUMBER], None)
            sides.append((child, Side(-1, NOWHERE, NOWHERE)))
            before.append(child.areas)
            tokens.append({})
        fragments = [self._fragment_number(entity) for entity, _ in sides]
        everybody = [*dict.fromkeys([*(entity for entity, _ in sides), *slots])]
        shape, standing = write_shape(k, cpu, everybody)
        participants = [entity for entity, _ in sides]
        return Answer(
            shape=self._shape_number((shape, standing)),
            slots=tuple(~(1 + participants.index(each)) if each in participants else slots.index(each)
                        for each in standing),
            current=self._side(sides[0][0], fragments[0]),
            next=self._side(sides[1][0], fragments[1]) if len(sides) > 1 else None,
            changed=(sides[0][0].tokens != tokens[0], len(sides) > 1 and sides[1][0].tokens != tokens[1]),
            uses=tuple(self._uses([before, [entity.areas for entity, _ in sides]])),
            called=tuple(self._called),
            found=tuple(sorted(k.integrity.counts.items())) if k.integrity else (),
            renewed=tuple(
                (i, role)
                for i, areas in enumerate(before)
                for role, area in enumerate(areas)
                if area is not None and area is not sides[i][0].areas[role]
            ),
            result=result is True,
        )  # fmt: skip

    def _side(self, entity: Entity, fragment: int) -> Side:
        task, vcpu = entity.task, entity.vcpu
        last = NOWHERE if task.last_cpu < 0 else HERE if task.last_cpu == self._cpu.id else ELSEWHERE
        vmcs = NOWHERE
        if vcpu is not None and vcpu.vmcs_cpu is not None:
            vmcs = HERE if vcpu.vmcs_cpu is self._cpu else ELSEWHERE
        return Side(fragment, last, vmcs)

    def _uses(self, of_sides: list[list[tuple[Area | None, ...]]]) -> list[Use]:
        uses = []
        for key in self._cpu.pending:
            if len(key) > 6 and str(key[6]).startswith("@"):
                area = self._levels.asked[int(key[6][1:])]
                place = next(
                    (
                        (i, role)
                        for sides in of_sides
                        for i, areas in enumerate(sides)
                        for role, each in enumerate(areas)
                        if each is area
                    ),
                    None,
                )
                if place is None:
                    raise Unsupported("an instruction on an area that is nobody's")
                uses.append(Use(key[:6], *place))
            else:
                uses.append(Use(key))
        return uses
