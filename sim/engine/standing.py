"""A task's objects, made once for each fragment: after a flow point it is seen what has changed, and put back.

Most flow points change little of a task, so to look at its fields takes much less time than to make the objects anew
and to write them all down.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from operator import is_
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

Change = tuple[int, str, Any]
"""The number of an object, a field, and its new value."""


@cache
def _reader(names: tuple[str, ...], kinds: tuple[type, ...]) -> Callable[..., tuple[Any, ...]]:
    """A function that gives these fields of an object, then what is in lists and dicts, given both.

    It is generated: to ask for each field by name takes several times as long.
    """
    containers = [f"c{i}" for i in range(len(kinds))]
    values = [f"made.{name}" for name in names]
    for each, kind in zip(containers, kinds, strict=True):
        values += [f"len({each})", f"*{each}"] + [f"*{each}.values()"] * (kind is dict)
    made: dict[str, Any] = {}
    exec(f"def read({', '.join(['made', *containers])}):\n return ({', '.join(values)},)", made)
    return made["read"]


class _Part:
    """One object as it was made: the values of its fields, and what its lists and dicts held."""

    __slots__ = ("_before", "_containers", "_names", "_read", "contents_are_the_same", "made")

    def __init__(self, made: Any) -> None:
        self.made = made
        self._names = _SLOTS[type(made)]
        fields = [getattr(made, name) for name in self._names]
        containers = {id(each): each for each in fields if type(each) in (dict, list)}
        self._containers = [(each, each.copy()) for each in containers.values()]
        read = _reader(self._names, tuple(map(type, containers.values())))
        self._read = partial(read, made, *containers.values())
        self._before = self._read()
        self.contents_are_the_same = True

    def changes(self) -> list[tuple[str, Any, Any]]:
        """Fields that are not what they were, with values now and before; notes whether other contents count, too.

        By identity: contents that nothing may look at refuse to be compared.
        """
        now, before = self._read(), self._before
        if len(now) == len(before) and all(map(is_, now, before)):
            return []
        found = [each for each in zip(self._names, now, before, strict=False) if each[1] is not each[2]]
        contents, held = now[len(self._names) :], before[len(self._names) :]
        self.contents_are_the_same = len(contents) == len(held) and all(map(is_, contents, held))
        if not self.contents_are_the_same:
            found.append(("", None, None))
        elif type(self.made) is Area:  # XSTATE_BV says which contents count
            self.contents_are_the_same = "xstate_bv" not in [name for name, _, _ in found]
        return found

    def put_back(self) -> None:
        """Makes the object what it was."""
        for name, value in zip(self._names, self._before, strict=False):
            setattr(self.made, name, value)
        for container, held in self._containers:
            container.clear()
            container.extend(held) if isinstance(container, list) else container.update(held)


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
