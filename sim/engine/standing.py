"""A task's objects, made once for each fragment: after a flow point it is seen what has changed, and put back.

Most flow points change little of a task, so to look at its fields takes much less time than to make the objects anew
and to write them all down.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter, is_
from typing import Any, Final

from sim.engine.fragments import FIELDS, TOKEN, Entity
from sim.kernel.state import Context, Fpstate, SignalFrame, Task, Vcpu
from sim.xsave.area import Area

PLACES: Final = {"cpu", "last_cpu", "vmcs_cpu"}
"""Fields that whoever uses an entity sets."""
_SLOTS: Final[dict[Any, tuple[str, ...]]] = {
    cls: tuple(name for name in cls.__slots__ if name not in PLACES)
    for cls in (Area, Context, Fpstate, SignalFrame, Task, Vcpu)
}
_VALUES: Final[dict[Any, Callable[[Any], tuple[Any, ...]]]] = {cls: attrgetter(*names) for cls, names in _SLOTS.items()}

Change = tuple[int, str, Any]
"""The number of an object, a field, and its new value."""


class _Part:
    """One object as it was made: the values of its fields, and what its lists and dicts held."""

    __slots__ = ("_containers", "_names", "_read", "_values", "contents_are_the_same", "made")

    def __init__(self, made: Any) -> None:
        self.made = made
        self._names, self._read = _SLOTS[type(made)], _VALUES[type(made)]
        self._values = self._read(made)
        containers = {id(each): each for each in self._values if type(each) in (dict, list)}
        self._containers = [(each, each.copy()) for each in containers.values()]
        self.contents_are_the_same = True

    def changes(self) -> list[tuple[str, Any, Any]]:
        """Fields that are not what they were, with values now and before; notes whether other contents count, too."""
        now, before = self._read(self.made), self._values
        found: list[tuple[str, Any, Any]] = []
        if not all(map(is_, now, before)):
            found = [each for each in zip(self._names, now, before, strict=True) if each[1] is not each[2]]
        self.contents_are_the_same = all(_same(*each) for each in self._containers)
        if not self.contents_are_the_same:
            found.append(("", None, None))
        elif found and type(self.made) is Area:  # XSTATE_BV says which contents count
            self.contents_are_the_same = "xstate_bv" not in [name for name, _, _ in found]
        return found

    def put_back(self) -> None:
        """Makes the object what it was."""
        for name, value in zip(self._names, self._values, strict=True):
            setattr(self.made, name, value)
        for container, held in self._containers:
            container.clear()
            container.extend(held) if isinstance(container, list) else container.update(held)


def _same(container: Any, held: Any) -> bool:
    """By identity: contents that nothing may look at refuse to be compared."""
    if len(container) != len(held):
        return False
    if isinstance(container, dict):
        return all(map(is_, container, held)) and all(map(is_, container.values(), held.values()))
    return all(map(is_, container, held))


class Standing(Entity):
    """The entity of a fragment: the same objects for each flow point."""

    __slots__ = ("_changed", "_had", "_parts", "fragment")

    def __init__(self, fragment: int, entity: Entity, made: list[Any]) -> None:
        self.fragment = fragment
        self.task, self.vcpu, self.own, self.guest = entity.task, entity.vcpu, entity.own, entity.guest
        self.areas, self.tokens = self._had = entity.areas, entity.tokens
        self._parts = [_Part(each) for each in made]
        self._changed: list[_Part] = []

    def changes(self) -> tuple[Change, ...] | None:
        """What has changed in the fragment, if that is flags and numbers only; None if it is more."""
        self._changed.clear()
        found: list[Change] = []
        is_plain = True
        for number, part in enumerate(self._parts):
            changes = part.changes()
            if changes:
                self._changed.append(part)
                encoded = FIELDS[type(part.made)]
                for name, new, old in changes:
                    if name in encoded:
                        is_plain &= _is_plain(new) and _is_plain(old)
                        found.append((number, name, new))
                is_plain &= part.contents_are_the_same
        return tuple(found) if is_plain else None

    def put_back(self) -> None:
        """Makes it what it was, where :meth:`changes` has found something."""
        for part in self._changed:
            part.put_back()
        self.areas, self.tokens = self._had


def _is_plain(value: Any) -> bool:
    return value is None or type(value) is bool or (type(value) is int and value < TOKEN)
