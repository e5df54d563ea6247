"""Context switches asked of the kernel model in two halves: one task leaves, whichever comes next, and one comes.

There are many more pairs of tasks and their states than tasks that leave and tasks that come.  The half in which a task
comes hardly looks at its state, nor at the CPU's; fields that it is not expected to look at do not exist when it is
asked, so no answer can depend on them.  Where it does look at one, it is asked with the whole CPU, then with all of
both.  What may be looked at of the task is its outline: fragments with the same one have the same answer, and the loop
looks for the first of them (F_LIKE in sim.engine.layout).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sim.engine.asked import CURRENT, CURRENT_NUMBER, INIT_AREA, NEXT, OTHER, UNCHANGED, Answer, Asked, Point, Side, Use
from sim.engine.fragments import FIELDS, Entity, Fragment, Shape
from sim.engine.layout import FROM_CPU, FROM_NEXT, NEW_TOKEN
from sim.engine.reading import Reading
from sim.kernel import process
from sim.kernel.state import Cpu, Task, Vcpu
from sim.kernel.walker import Walker
from sim.xsave.unit import Unit

if TYPE_CHECKING:
    from sim.engine.transitions import Transitions

TASK_FIELDS: Final = tuple(name for name in FIELDS[Task] if name not in ("notifier", "vcpu"))
VCPU_FIELDS: Final = tuple(name for name in FIELDS[Vcpu] if name != "task")
CPU_FIELDS: Final = ("current_vmcs", "last_vcpu")
"""What there is of a CPU in the half in which a task comes, besides PKRU."""
ABSENT: Final = tuple(name for name in FIELDS[Cpu] if name not in (*CPU_FIELDS, "unit"))
ABSENT_IN_UNIT: Final = tuple(name for name in Unit.__slots__ if name != "pkru")
COMES: Final = -1
"""In place of a vCPU's number: that of the task that comes."""
MISSING: Final = object()
"""A field that is not there."""


def leaves(walker: Walker, cpu: Cpu) -> None:
    """The current task leaves the CPU."""
    process.switch_out(walker.kernel, cpu)


def comes(walker: Walker, cpu: Cpu, kind: str) -> None:
    """The task comes after one of this kind, which has left."""
    cpu.current = Task.__new__(Task)
    cpu.current.kind = kind
    task = walker.tasks[CURRENT_NUMBER]
    task.cpu = None
    process.switch_in(walker.kernel, cpu, task)


LEAVES: Final = Point(leaves)


def _plain(tree: Fragment, names: tuple[str, ...]) -> tuple[Any, ...]:
    """The fields that are numbers, booleans or strings; contents, areas and contexts are MISSING."""
    fields = dict(zip(FIELDS[tree[0]], tree[1:], strict=True))
    return tuple([MISSING if type(fields[name]) is tuple else fields[name] for name in names])


def _set(made: Any, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
    for name, value in zip(names, values, strict=True):
        if value is not MISSING:
            setattr(made, name, value)


class Outline:
    """What the half in which a task comes may look at in its fragment; equal outlines have the same key."""

    __slots__ = ("has_notifier", "key", "task", "vcpu")

    def __init__(self, fragment: Fragment) -> None:
        fields = dict(zip(FIELDS[Task], fragment[1:], strict=True))
        self.task = _plain(fragment, TASK_FIELDS)
        vcpu = next((fields[name] for name in ("notifier", "vcpu") if fields[name] and fields[name][0] is Vcpu), None)
        self.vcpu = None if vcpu is None else _plain(vcpu, VCPU_FIELDS)
        self.has_notifier = fields["notifier"] is not None
        self.key = self.task, self.vcpu, self.has_notifier


class Sketch(Entity):
    """A task of which only the outline exists."""

    __slots__ = ("_outline",)

    def __init__(self, outline: Outline, like: Entity) -> None:
        self._outline = outline
        self.own, self.guest, self.areas, self.tokens = like.own, like.guest, like.areas, {}
        self.task = Task.__new__(Task)
        self.vcpu = None
        _set(self.task, TASK_FIELDS, outline.task)
        if outline.vcpu is not None:
            self.vcpu = Vcpu.__new__(Vcpu)
            _set(self.vcpu, VCPU_FIELDS, outline.vcpu)
            self.vcpu.task = self.task
        self.task.vcpu = self.vcpu
        self.task.notifier = self.vcpu if outline.has_notifier else None

    def find_areas(self) -> None:
        """Nothing to find: a sketch has the areas that it was given."""

    @property
    def changed(self) -> bool:
        """Whether anything differs from the outline; if so, the outline is not enough."""
        task, vcpu, of = self.task, self.vcpu, self._outline
        return (
            tuple([getattr(task, name, MISSING) for name in TASK_FIELDS]) != of.task
            or task.vcpu is not vcpu
            or task.notifier is not (vcpu if of.has_notifier else None)
            or (vcpu is not None and tuple([getattr(vcpu, name, MISSING) for name in VCPU_FIELDS]) != of.vcpu)
        )


View = tuple[int, tuple[int | None, ...]]
"""What the half in which a task comes may look at in a CPU: PKRU, and whose vCPU each of CPU_FIELDS is."""


def _view(shape: Shape, whom: tuple[int, ...]) -> View:
    fields = dict(zip(FIELDS[Cpu], shape[1:], strict=True))
    others: list[int] = []
    whose: list[int | None] = []
    for name in CPU_FIELDS:
        if fields[name] is None:
            whose.append(None)
            continue
        _, slot, _ = fields[name]
        if whom[slot] != CURRENT and slot not in others:
            others.append(slot)
        whose.append(COMES if whom[slot] == CURRENT else others.index(slot))
    return fields["unit"][1 + FIELDS[Unit].index("pkru")], tuple(whose)


class Glimpse:
    """A CPU of which only a view exists."""

    def __init__(self, like: Cpu) -> None:
        self.cpu = Cpu.__new__(Cpu)
        for name in ("id", "ledger", "pending", "record"):
            setattr(self.cpu, name, getattr(like, name))
        self.cpu.unit = Unit.__new__(Unit)
        self._others = [Vcpu.__new__(Vcpu) for _ in CPU_FIELDS]

    def show(self, view: View, comes: Vcpu | None) -> None:
        """Makes the CPU one that looks so to the vCPU that comes."""
        self.cpu.unit.pkru, whose = view
        for name, number in zip(CPU_FIELDS, whose, strict=True):
            setattr(self.cpu, name, None if number is None else comes if number == COMES else self._others[number])

    def seen(self, comes: Vcpu | None) -> View | None:
        """How it looks now; None if there is anything that a view does not have."""
        cpu, number_of = self.cpu, {id(None): None, id(comes): None if comes is None else COMES}
        number_of |= {id(each): number for number, each in enumerate(self._others)}
        values = [id(getattr(cpu, name)) for name in CPU_FIELDS]
        is_more = any([hasattr(cpu, name) for name in ABSENT] + [hasattr(cpu.unit, name) for name in ABSENT_IN_UNIT])
        if is_more or not number_of.keys() >= set(values):
            return None
        return cpu.unit.pkru, tuple([number_of[value] for value in values])


class Coming(NamedTuple):
    """What happens when a task comes, in as far as a view of the CPU decides it: an answer that leaves the CPU as it
    was, and which of its fields become the task's vCPU (True), or nobody's (False)."""

    answer: Answer
    fields: tuple[tuple[str, bool], ...]


class Switches:
    """The context switches of one strategy, put together from halves."""

    def __init__(self, model: Transitions) -> None:
        self._model = model
        self._outlines: list[tuple[Outline, int]] = []
        self._first: dict[Any, int] = {}
        self._left: dict[tuple[int, tuple[int, ...], Side], Answer] = {}
        self._came: dict[tuple[Any, ...], Answer | None] = {}
        self._seen: dict[tuple[Any, ...], Coming | None] = {}
        self._views: dict[tuple[int, tuple[int, ...]], View] = {}
        self._placed: dict[tuple[int, tuple[int, ...], tuple[tuple[str, bool], ...]], tuple[int, tuple[int, ...]]] = {}
        self._glimpse = Glimpse(model.kernel.cpus[0])

    def answer(self, asked: Asked) -> Answer:
        """What happens, for two tasks that have no contents in common, as far as the CPU knows; to all fragments that
        are :meth:`like` the one that comes, if it stays UNCHANGED."""
        assert asked.next is not None
        whom = tuple([CURRENT if each == CURRENT else OTHER for each in asked.slots])
        key = asked.shape, whom, asked.current
        left = self._left.get(key)
        if left is None:
            left = self._left[key] = self._model.answer(Asked(LEAVES, asked.shape, whom, asked.current, None))
        whom = tuple([CURRENT if each >= 0 and asked.slots[each] == NEXT else OTHER for each in left.slots])
        kind = self._model.kinds[asked.current.fragment]
        return _together(left, self._comes(kind, left.shape, whom, asked.next))

    def _comes(self, kind: str, shape: int, whom: tuple[int, ...], side: Side) -> Answer:
        outline, alike = self._outline(side.fragment)
        key: tuple[Any, ...] = kind, shape, whom, alike, side.last, side.vmcs
        if key not in self._came:
            self._came[key] = self._glimpsed(kind, shape, whom, outline, alike, side) or self._sketched(
                kind, shape, whom, outline, side
            )
        came = self._came[key]
        if came is not None:
            return came
        if alike not in self._model.apart:
            self._model.apart.append(alike)
        key = kind, shape, whom, side
        came = self._came.get(key)
        if came is None:
            came = self._came[key] = self._model.answer(Asked(Point(comes, (kind,)), shape, whom, side, None))
        return came

    def like(self, fragment: int) -> int:
        """The first of the fragments with the same outline; if that has not been enough once, the fragment itself."""
        _, first = self._outline(fragment)
        return fragment if first in self._model.apart else first

    def _outline(self, fragment: int) -> tuple[Outline, int]:
        """The outline of a fragment, and the first fragment that has it."""
        fragments = self._model.fragments.values
        while len(self._outlines) <= fragment:
            number = len(self._outlines)
            outline = Outline(fragments[number])
            self._outlines.append((outline, self._first.setdefault(outline.key, number)))
        return self._outlines[fragment]

    def _glimpsed(
        self, kind: str, shape: int, whom: tuple[int, ...], outline: Outline, alike: int, side: Side
    ) -> Answer | None:
        """The half in which a task comes, with an outline of it and a view of the CPU; None if that is not enough."""
        if (shape, whom) not in self._views:
            self._views[shape, whom] = _view(self._model.shapes.values[shape], whom)
        view = self._views[shape, whom]
        key = kind, view, alike, side.last, side.vmcs
        if key not in self._seen:
            self._seen[key] = self._coming(kind, view, outline, side)
        coming = self._seen[key]
        if coming is None:
            return None
        placed = shape, whom, coming.fields
        if placed not in self._placed:
            self._placed[placed] = self._model.with_vcpu(*placed)
        number, slots = self._placed[placed]
        return coming.answer._replace(shape=number, slots=slots)

    def _coming(self, kind: str, view: View, outline: Outline, side: Side) -> Coming | None:
        model, glimpse = self._model, self._glimpse
        sketch = Sketch(outline, Reading(model.kernel).bystander())
        glimpse.show(view, sketch.vcpu)
        try:
            answer = model.glimpsed(Point(comes, (kind,)), glimpse.cpu, sketch, side)
        except AttributeError:  # it looked at a field that does not exist
            return None
        changed, after = sketch.changed, glimpse.seen(sketch.vcpu)
        if sketch.vcpu is not None:
            del sketch.vcpu.task
        if changed or after is None or after[0] != view[0]:
            return None
        fields = [(name, now) for name, was, now in zip(CPU_FIELDS, view[1], after[1], strict=True) if now != was]
        if any(now not in (None, COMES) for _, now in fields):
            return None
        return Coming(answer, tuple([(name, now == COMES) for name, now in fields]))

    def _sketched(self, kind: str, shape: int, whom: tuple[int, ...], outline: Outline, side: Side) -> Answer | None:
        """The half in which a task comes, with an outline of it; None if that does not say enough, or changes."""
        reading = Reading(self._model.kernel)
        sketch = Sketch(outline, reading.bystander())
        try:
            slots = [reading.bystander() if each == OTHER else sketch for each in whom]
            sides: list[tuple[Entity, Side]] = [(sketch, Side(UNCHANGED, side.last, side.vmcs))]
            answer = self._model.passed(Point(comes, (kind,)), shape, reading, sides, slots)
        except AttributeError:  # it looked at a field that does not exist
            return None
        changed = sketch.changed
        if sketch.vcpu is not None:
            del sketch.vcpu.task
        return None if changed else answer


def _together(left: Answer, came: Answer) -> Answer:
    """One half after the other."""
    of_cpu, of_current = left.tokens[2], left.tokens[0]
    made = 1 + max((each - NEW_TOKEN for each in (*(of_cpu or ()), *(of_current or ()))), default=-1)
    made = max(made, 0)

    def source(each: int) -> int:
        if each < FROM_NEXT:
            return FROM_NEXT + each
        if each >= NEW_TOKEN:
            return each + made
        return each if of_cpu is None else of_cpu[each - FROM_CPU]

    of_next = None if came.tokens[0] is None else tuple(map(source, came.tokens[0]))
    uses = [use if use.task in (-1, INIT_AREA) else Use(use.key, use.task + 1, use.role) for use in came.uses]
    found = dict(left.found)
    for kind, times in came.found:
        found[kind] = found.get(kind, 0) + times
    return Answer(
        shape=came.shape,
        slots=tuple([~NEXT if each < 0 else left.slots[each] for each in came.slots]),
        current=left.current,
        next=came.current,
        tokens=(of_current, of_next, of_cpu if came.tokens[2] is None else tuple(map(source, came.tokens[2]))),
        uses=(*left.uses, *uses),
        called=(*left.called, *came.called),
        found=tuple(sorted(found.items())),
        renewed=(*left.renewed, *[(task + 1, role) for task, role in came.renewed]),
        result=False,
    )
