"""The kernels of the model side by side: which of them share a value, and what one of them does."""

from dataclasses import asdict, dataclass
from typing import Any

from sim.kernel import versions
from sim.kernel.releases import Release
from sim.kernel.versions import Difference, shown


@dataclass(frozen=True, slots=True)
class ValueGroup:
    """Kernels, oldest first, that have the same value in a row."""

    value: str
    kernels: tuple[str, ...]


def value_groups(row: Difference) -> dict[str, list[ValueGroup]]:
    """By name of the value, which kernels share which one, in the order of the oldest kernel that has it."""
    groups: dict[str, list[ValueGroup]] = {}
    for key in next(iter(row.cells.values())).values:
        sharing: dict[str, list[str]] = {}
        for name, cell in row.cells.items():
            sharing.setdefault(shown(cell.values[key], "; "), []).append(name)
        groups[key] = [ValueGroup(value, tuple(names)) for value, names in sharing.items()]
    return groups


def document(kernels: tuple[str, ...]) -> dict[str, Any]:
    """The table as one JSON document, with the columns of ``kernels``."""
    about = versions.about()
    return {
        "kernels": [{"name": name, "title": versions.version(name).title, "about": about[name]} for name in kernels],
        "differences": [
            {
                "number": row.number,
                "topic": row.topic,
                "kernels": {
                    name: {
                        "says": cell.says,
                        "source": cell.source,
                        "checked": cell.checked,
                        "since": cell.since or None,
                        "values": dict(cell.values),
                    }
                    for name, cell in row.cells.items()
                    if name in kernels
                },
            }
            for row in versions.differences()
        ],
    }


def other_release(wanted: Release) -> dict[str, Any]:
    """A release that is not a kernel of the model, as one JSON document: the nearest kernel, and what differs or may
    differ."""
    near = versions.nearest(wanted)
    topics = {row.number: row.topic for row in versions.differences()}
    read = near.was_read
    said = {each.number: each for each in read.differs} if read else {}
    return {
        "release": f"{wanted[0]}.{wanted[1]}",
        "nearest": near.kernel,
        "says": near.says,
        "read": asdict(read.tree) if read else None,
        "besides": (read.besides if read else "") or None,
        "differs": [
            {
                "number": number,
                "topic": topics[number],
                "says": said[number].says if number in said else None,
                "source": said[number].source if number in said else None,
                "values": said[number].values if number in said else None,
            }
            for number in near.differs
        ],
        "may_differ": [{"number": number, "topic": topics[number]} for number in near.may_differ],
    }
