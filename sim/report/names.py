"""What people call strategies, CPUs, cases and cost rows, in the fewest words that tell them apart."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, get_args

from sim.analysis.metrics import settings_of
from sim.costs.rows import CostRow
from sim.kernel.config import Config, boot
from sim.kernel.strategies import MAX_LABEL, strategy
from sim.kernel.strategies import names as shipped
from sim.scenario.distribution import Kind
from sim.scenario.host_schema import is_mask
from sim.xsave.profiles import names as cpus
from sim.xsave.profiles import profile


def config_of(case: Mapping[str, Any], name: str) -> Config:
    """The kernel of a case, an entry of the manifest, with one of its strategies."""
    return boot(settings_of(case, name))


def labels(case: Mapping[str, Any]) -> dict[str, str]:
    """What the strategies of a case are called, each with a label of its own."""
    taken = {strategy(name).label for name in shipped()}
    found: dict[str, str] = {}
    for name in case["strategies"]:
        own = config_of(case, name).strategy
        label = own.label if name in shipped() or own.label not in taken else ""
        label = label or cut(own.name if name.endswith(".toml") else name, MAX_LABEL)
        found[name] = label if label not in found.values() else cut(name, MAX_LABEL)
    return found


def cut(text: str, width: int) -> str:
    """A text that fits: both ends of a longer one, and the file of "name (file)"."""
    if len(text) > width and (in_brackets := re.fullmatch(r".* \((.+)\)", text)):
        return cut(in_brackets[1], width)
    head = width // 2 - 1
    return text if len(text) <= width else f"{text[:head]}..{text[head + 2 - width :]}"


def carried(config: Config) -> str:
    """The carried state."""
    return config.carried.called


def cpu(name: str) -> str:
    """The family of a CPU profile: "Zen 4"; a user's profile is called by its file."""
    if name not in cpus():
        return name
    title = profile(name).title
    family = re.search(r"\(([^,)]+)", title)
    return family[1] if family else name


class Titles(NamedTuple):
    """What cases are called by what they differ in.

    ``heading`` says what that is, such as "kernel, guest_xss"; by the name of a case ``short`` has its values, and
    ``full`` values that say themselves what they are of.
    """

    heading: str
    short: dict[str, str]
    full: dict[str, str]


DISTRIBUTIONS: Final = get_args(Kind)


def key_name(path: str) -> str:
    """What a swept key is called by itself: "halt_poll", or "sleep" if its mean or file is swept."""
    *_, table, last = path.split(".")
    return table if last in DISTRIBUTIONS else last


def titles(cases: Sequence[Mapping[str, Any]]) -> Titles:
    """Titles of cases; a single one is named after its CPU."""

    def varies(values: Sequence[Any]) -> bool:
        return any(value != values[0] for value in values)

    by_cpu, by_kernel = (varies([case[each] for case in cases]) for each in ("cpu", "kernel"))
    paths = list(dict.fromkeys(path for case in cases for path in case["sweep"]))
    swept = [path for path in paths if varies([case["sweep"].get(path) for case in cases])]
    last = [key_name(path) for path in swept]
    keys = {path: name if last.count(name) == 1 else path for path, name in zip(swept, last, strict=True)}
    by_cpu = by_cpu or not (by_kernel or swept)
    heading = ", ".join([*(["CPU"] if by_cpu else []), *(["kernel"] if by_kernel else []), *keys.values()])
    short, full = {}, {}
    for case in cases:
        parts = [*([cpu(case["cpu"])] if by_cpu else []), *([case["kernel"]] if by_kernel else [])]
        values = {path: value_text(path, case["sweep"][path]) for path in swept if path in case["sweep"]}
        short[case["case"]] = ", ".join([*parts, *values.values()])
        full[case["case"]] = ", ".join([*parts, *(f"{keys[path]} = {value}" for path, value in values.items())])
    return Titles(heading, short, full)


def less(one: str, other: str) -> str:
    """Two cases, with what they have in common said once: "mediated less emulated, 10 kHz"."""
    ours, theirs = one.split(", "), other.split(", ")
    if len(ours) != len(theirs):
        return f"{one} less {other}"
    apart = [f"{a} less {b}" for a, b in zip(ours, theirs, strict=True) if a != b]
    return ", ".join([*apart, *(a for a, b in zip(ours, theirs, strict=True) if a == b)])


def value_text(path: str, value: Any) -> str:
    """A swept value as a scenario writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:#x}" if isinstance(value, int) and is_mask(path) else str(value)


def cost_row(row: CostRow) -> str:
    """A row of a cost table: "WRMSR(PLx_SSP)", "XRSTORS loaded CET_KERNEL, in memory"."""
    parts = [row.operation] if row.term == "base" else [row.operation, row.term]
    where = f", in {row.level}" if row.level else ""
    return " ".join([*parts, *([row.component] if row.component else [])]) + where
