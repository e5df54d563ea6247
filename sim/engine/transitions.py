"""What the kernel model does at a flow point, asked of it once for each combination of canonical states.

There is no second description of the kernel: a transition is found by making the objects of :mod:`sim.kernel.state` in
that state, passing the flow point with the :class:`~sim.kernel.walker.Walker` of the strategy, and writing down what
has become of them.  A strategy file, a carried state or another kernel version needs nothing here.
"""

from __future__ import annotations

from typing import Any, Final

from sim.engine.asked import (
    CHILD_NUMBER,
    CURRENT,
    CURRENT_NUMBER,
    ELSEWHERE,
    HERE,
    INIT_AREA,
    NEXT,
    NEXT_NUMBER,
    NOWHERE,
    OTHER,
    UNCHANGED,
    UNREAD,
    Answer,
    Asked,
    Point,
    Side,
    Use,
)
from sim.engine.fragments import (
    FIELDS,
    GONE,
    Entity,
    Shape,
    Unsupported,
    is_joined,
    joined,
    tokens_of,
    unused_component,
    with_equal,
    with_fields,
    write_fragment,
    write_shape,
)
from sim.engine.layout import FROM_CPU, FROM_NEXT
from sim.engine.numbers import Numbers
from sim.engine.reading import Reading
from sim.engine.sources import Sources
from sim.engine.standing import PLACES, Change, Standing
from sim.engine.switches import Sketch, Switches
from sim.kernel import kvm
from sim.kernel.config import Config
from sim.kernel.guests import GuestChoice
from sim.kernel.kernel import Kernel
from sim.kernel.operations import Key
from sim.kernel.state import Cpu, Task
from sim.kernel.walker import Walker
from sim.xsave.area import Area

_GUEST, _OWNER = (1 + FIELDS[Cpu].index(name) for name in ("guest", "fpregs_owner"))
"""Where they are in a shape."""

KEPT: Final = ("apart", "fragment_flags", "fragment_tokens", "kinds", "shape_flags", "shape_tokens")
"""Lists by the number of a fragment, or of a shape; and the fragments whose outlines are not enough."""

MOST_STANDING: Final = 1024
"""The most fragments whose objects are kept; they take some kilobytes each."""


def handles_signal(walker: Walker, cpu: Cpu) -> None:
    """A signal is delivered, handled and returned from in one step, so that no state has a signal frame in it."""
    walker.deliver_signal(cpu)
    walker.return_to_user(cpu)
    walker.sigreturn(cpu)
    walker.return_to_user(cpu)


class _Levels:
    """The buffer level as a question: which areas were asked for, in order."""

    def __init__(self) -> None:
        self.asked: list[Area] = []

    def __call__(self, cpu: Cpu, area: Area) -> str:
        self.asked.append(area)
        return f"@{len(self.asked) - 1}"

    def forget(self, area: Area) -> None:
        """The kernel model calls it for freed areas; there is nothing to forget."""


class Transitions:
    """One strategy on one kernel: fragments and shapes by number, and answers by asking."""

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
        self._unused = unused_component(self.kernel)
        self.fragments = Numbers()
        self.shapes = Numbers()
        self.fragment_tokens: list[int] = []
        self.shape_tokens: list[int] = []
        self.kinds: list[str] = []
        self.fragment_flags: list[tuple[bool, bool]] = []
        self.shape_flags: list[tuple[bool, int, bool]] = []
        self.apart: list[int] = []
        self._new: dict[str | GuestChoice, int] = {}
        self._standing: dict[int, Standing] = {}
        self._changed: dict[tuple[int, tuple[Change, ...]], int] = {}
        self._joined: dict[tuple[int, int, int], tuple[tuple[int, int], ...]] = {}
        self.batches = self._walker.batches
        entity = Entity(self._cpu.idle, None)
        fragment = self._fragment_number(entity)
        shape, _, _ = write_shape(self.kernel, self._cpu, [entity], self._unused)
        self._switches = Switches(self)
        self.idle = self._shape_number(shape), fragment
        """The shape of a CPU that has not run anything, and the fragment of its idle task."""

    # On the disk.

    def kept(self) -> dict[str, list[Any]]:
        """Fragments and shapes, for :meth:`take` in another process; halves of switches are faster to ask again.

        The lists grow at their ends only.
        """
        values = {name: getattr(self, name) for name in KEPT}
        return values | {"fragments": self.fragments.values, "shapes": self.shapes.values}

    def take(self, kept: dict[str, list[Any]]) -> None:
        """Goes on from what :meth:`kept` returned; numbers stay what they were."""
        for name in KEPT:
            setattr(self, name, kept[name])
        self.fragments, self.shapes = Numbers(kept["fragments"]), Numbers(kept["shapes"])

    # Where everything begins.

    def _fragment_number(self, entity: Entity) -> int:
        """The number of an entity's fragment; of a new one it is noted whether its preempt notifier is registered,
        and whether guest state and registers are loaded."""
        if isinstance(entity, Sketch):
            return UNCHANGED
        changes = None
        if isinstance(entity, Standing):
            changes = entity.changes()
            if changes == ():
                return entity.fragment
            if changes is not None and (entity.fragment, changes) in self._changed:
                return self._changed[entity.fragment, changes]
        number = self.fragments.of(write_fragment(self.kernel, entity, self._unused))
        if number == len(self.fragment_flags):
            task, vcpu = entity.task, entity.vcpu
            clean = vcpu is not None and vcpu.guest_state_loaded and not task.need_fpu_load
            self.kinds.append(task.kind)
            self.fragment_flags.append((task.notifier is not None, clean))
            self.fragment_tokens.append(len(entity.tokens))
        if changes is not None and isinstance(entity, Standing):
            self._changed[entity.fragment, changes] = number
        return number

    def task(self, kind: str) -> int:
        """The fragment of a new task."""
        if kind not in self._new:
            self.kernel.contexts.update(self._created)
            self._new[kind] = self._fragment_number(Entity(self.kernel.new_task("", kind), None))
        return self._new[kind]

    def vcpu(self, choice: GuestChoice) -> int:
        """The fragment of a new vCPU thread."""
        if choice not in self._new:
            self.kernel.contexts.update(self._created)
            vcpu = self.kernel.new_vcpu("", choice)
            self._new[choice] = self._fragment_number(Entity(vcpu.task, vcpu.context))
        return self._new[choice]

    def _shape_number(self, shape: Shape) -> int:
        """The number of a shape; of a new one it is noted whether a guest runs, in which slot the registers' owner is,
        counted from 1, and whether two tasks have contents in common."""
        number = self.shapes.of(shape)
        if number == len(self.shape_flags):
            guest, owner = shape[_GUEST], shape[_OWNER]
            slot = 0 if owner is None else owner[1] + 1
            self.shape_flags.append((guest is not None, slot, is_joined(shape)))
            self.shape_tokens.append(tokens_of(shape))
        return number

    def without_area(self, shape: int, slot: int, role: int) -> int:
        """The shape of a CPU whose last XRSTORS was from this area, now that the area is gone; else the same one."""

        def changed(tree: Any) -> Any:
            if not isinstance(tree, tuple):
                return tree
            return GONE if tree == ("area", slot, role) else tuple(map(changed, tree))

        return self._shape_number(changed(self.shapes.values[shape]))

    def with_equal(self, shape: int, slot: int, equal: tuple[int, ...]) -> int:
        """The shape of a CPU, now that what the task in a slot has is something else: token ``i`` of the CPU is token
        ``equal[i]`` of the task's fragment, or none of them (-1)."""
        tree: Shape = with_equal(self.shapes.values[shape], slot, equal)
        return self._shape_number(tree)

    # Asking.

    def alike(self, fragment: int) -> int:
        """The first of the fragments that are the same to a CPU on which a task comes (:class:`Switches`)."""
        return self._switches.like(fragment)

    def like(self, point: Point) -> Point:
        """One name for all points that do the same here: of an exit's reason, only the path that it takes counts."""
        if point.what is Walker.vm_exit:
            return Point(kvm.exit_path, (False, kvm.exit_path(self.kernel, *point.arguments)))
        if point.what is Walker.exits and point.arguments:
            return Point(kvm.exit_path, (True, kvm.exit_path(self.kernel, point.arguments[0])))
        return point

    def answer(self, asked: Asked) -> Answer:
        """What happens; raises :class:`Unsupported` if that depends on something that the states do not hold."""
        whom = asked.slots
        pairs: tuple[tuple[int, int], ...] = ()
        if CURRENT in whom and NEXT in whom:
            pairs = self._pairs(asked.shape, whom.index(CURRENT), whom.index(NEXT))
        if asked.next is not None and not pairs:
            return self._switches.answer(asked)
        fragment = asked.current.fragment
        current = self._standing.pop(fragment, None)  # it is back there when nothing has gone wrong
        if current is None:
            current = Reading.standing(self.kernel, fragment, self.fragments.values[fragment])
        reading = Reading(self.kernel)
        reading.join(current)
        sides: list[tuple[Entity, Side]] = [(current, asked.current)]
        if asked.next is not None:
            values = {number: token for token, number in current.tokens.items()}
            given = {theirs: values[ours] for ours, theirs in pairs}
            sides.append((reading.entity(self.fragments.values[asked.next.fragment], given), asked.next))
        slots = [reading.bystander() if each == OTHER else sides[each - 1][0] for each in whom]
        try:
            answer = self.passed(asked.point, asked.shape, reading, sides, slots)
        except AttributeError as error:
            if error.name not in PLACES:
                raise
            raise Unsupported(f"a kernel model that looks at {error.name} where it did not matter before") from error
        current.put_back()
        self._standing[fragment] = current
        if len(self._standing) > MOST_STANDING:
            del self._standing[next(iter(self._standing))]  # the one that has not been used for longest
        return answer

    def passed(
        self, point: Point, shape: int, reading: Reading, sides: list[tuple[Entity, Side]], slots: list[Entity]
    ) -> Answer:
        """What happens to a CPU of this shape, whose slots stand for these tasks, and to those that take part."""
        cpu, current = self._cpu, sides[0][0]
        known = {entity for entity, _ in sides if not isinstance(entity, Sketch)}
        reading.cpu(cpu, self.shapes.values[shape], slots, known)
        for entity, side in sides:
            self._place(entity, side, cpu)
        cpu.current = current.task
        current.task.cpu = cpu
        return self._pass(point, sides, slots, reading.tokens)

    def glimpsed(self, point: Point, cpu: Cpu, entity: Entity, side: Side) -> Answer:
        """What happens to a task on a CPU that does not exist but for a few fields; the answer has no shape yet."""
        self._place(entity, side, cpu)
        self._run(point, cpu, [entity])
        return Answer(
            shape=UNCHANGED,
            slots=(),
            current=self._side(entity, UNCHANGED, cpu),
            next=None,
            tokens=(None, None, None),
            uses=tuple(self._uses([[entity.areas]])),
            called=tuple(self._called),
            found=self._found(),
            renewed=(),
            result=False,
        )

    def with_vcpu(
        self, shape: int, whom: tuple[int, ...], fields: tuple[tuple[str, bool], ...]
    ) -> tuple[int, tuple[int, ...]]:
        """The shape of a CPU some of whose fields are now the vCPU of the task that has come (True), or nobody's
        (False); and whom its slots stand for, as in an :class:`Answer`."""
        place = whom.index(CURRENT) if CURRENT in whom else len(whom)
        values = {name: ("slot", place, False) if comes else None for name, comes in fields}
        tree, slots = with_fields(self.shapes.values[shape], values, place)
        return self._shape_number(tree), tuple([~CURRENT if old == place else old for old in slots])

    def _pairs(self, shape: int, first: int, second: int) -> tuple[tuple[int, int], ...]:
        key = shape, first, second
        if key not in self._joined:
            self._joined[key] = tuple(joined(self.shapes.values[shape], first, second))
        return self._joined[key]

    def _place(self, entity: Entity, side: Side, cpu: Cpu) -> None:
        task, vcpu = entity.task, entity.vcpu
        task.last_cpu = (-1, cpu.id, self._elsewhere.id, -1)[side.last]
        if side.last == UNREAD:
            del task.last_cpu
        if vcpu is not None:
            vcpu.vmcs_cpu = (None, cpu, self._elsewhere, None)[side.vmcs]
            if side.vmcs == UNREAD:
                del vcpu.vmcs_cpu
            # Whoever makes a VMCS current elsewhere has cleared it here.
            elif side.vmcs != HERE and self.kernel.vendor == "vmx" and cpu.current_vmcs is vcpu:
                cpu.current_vmcs = None

    def _run(self, point: Point, cpu: Cpu, participants: list[Entity]) -> Any:
        """The kernel model passes the point; the walker's tasks are the participants, and a child if one was forked."""
        walker, integrity = self._walker, self.kernel.integrity
        walker.tasks = {CURRENT_NUMBER + i: entity.task for i, entity in enumerate(participants)}
        walker._exits.clear()
        cpu.pending.clear()  # the ledger itself is not read
        self._called.clear()
        self._levels.asked.clear()
        if integrity:
            integrity.clear()
        more: tuple[Any, ...] = () if len(participants) == 1 else (NEXT_NUMBER,)
        if point.what is Walker.fork:
            more = (CHILD_NUMBER, "")
        return point.what(walker, cpu, *more, *point.arguments)

    def _found(self) -> tuple[tuple[str, int], ...]:
        return tuple(sorted(self.kernel.integrity.counts.items())) if self.kernel.integrity else ()

    def _pass(
        self, point: Point, sides: list[tuple[Entity, Side]], slots: list[Entity], of_cpu: dict[int, int]
    ) -> Answer:
        walker, k, cpu = self._walker, self.kernel, self._cpu
        before = [entity.areas for entity, _ in sides]
        sources = Sources([entity.tokens for entity, _ in sides], of_cpu)
        result = self._run(point, cpu, [entity for entity, _ in sides])
        if CHILD_NUMBER in walker.tasks:
            child = Entity(walker.tasks[CHILD_NUMBER], None)
            sides.append((child, Side(-1, NOWHERE, NOWHERE)))
            before.append(child.areas)
        participants = [entity for entity, _ in sides]
        fragments = [self._fragment_number(entity) for entity in participants]
        everybody = [*dict.fromkeys([*participants, *slots])]
        shape, standing, tokens = write_shape(k, cpu, everybody, self._unused)
        froms = [sources.of(entity.tokens, i) for i, entity in enumerate(participants)]
        return Answer(
            shape=self._shape_number(shape),
            slots=tuple([~(1 + participants.index(each)) if each in participants else slots.index(each)
                         for each in standing]),
            current=self._side(participants[0], fragments[0], cpu),
            next=self._side(participants[1], fragments[1], cpu) if len(sides) > 1 else None,
            tokens=(froms[0], froms[1] if len(froms) > 1 else None, sources.of(tokens, FROM_CPU // FROM_NEXT)),
            uses=tuple(self._uses([before, [entity.areas for entity in participants]])),
            called=tuple(self._called),
            found=self._found(),
            renewed=tuple(
                (i, role)
                for i, areas in enumerate(before)
                for role, area in enumerate(areas)
                if area is not None and area is not participants[i].areas[role]
            ),
            result=result is True,
        )  # fmt: skip

    def _side(self, entity: Entity, fragment: int, cpu: Cpu) -> Side:
        """What has become of a task; fields that are not there are what they were."""
        last = getattr(entity.task, "last_cpu", self._elsewhere.id)
        vmcs = getattr(entity.vcpu, "vmcs_cpu", self._elsewhere)
        return Side(
            fragment,
            NOWHERE if last < 0 else HERE if last == cpu.id else ELSEWHERE,
            NOWHERE if vmcs is None else HERE if vmcs is cpu else ELSEWHERE,
        )

    def _uses(self, of_sides: list[list[tuple[Area | None, ...]]]) -> list[Use]:
        uses = []
        for key in self._cpu.pending:
            if len(key) > 6 and key[6][:1] == "@":
                uses.append(Use(key[:6], *self._place_of(self._levels.asked[int(key[6][1:])], of_sides)))
            else:
                uses.append(Use(key))
        return uses

    def _place_of(self, area: Area, of_sides: list[list[tuple[Area | None, ...]]]) -> tuple[int, int]:
        """Whose an area is, before or after the flow point, and its role."""
        if area is self.kernel.init_area:
            return INIT_AREA, 0
        for sides in of_sides:
            for i, areas in enumerate(sides):
                for role, each in enumerate(areas):
                    if each is area:
                        return i, role
        raise Unsupported("an instruction on an area that is nobody's")
