"""The reader's units: what one load/put pair, exit or switch costs more, and the command that takes the reader's
rates."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from shlex import quote
from typing import Any, Final

from sim.analysis import price_load
from sim.analysis.answers import Load
from sim.analysis.event_costs import EXIT_AND_ENTRY, EventCost, buffers, event_costs, guest_ssp, rates
from sim.analysis.guest_settings import for_all, particular
from sim.analysis.metrics import settings_of
from sim.analysis.price_own import COMMON
from sim.costs.table import names as shipped_tables
from sim.errors import InputError
from sim.kernel.config import Settings, boot
from sim.kernel.operations import VMENTRY, VMEXIT
from sim.report.amounts import three_digits
from sim.report.layout import INDENT, WIDTH, Part, item, part, whole
from sim.report.names import cpu
from sim.report.price import VALUED
from sim.report.shown import Shown, ShownCase
from sim.results.manifest import COSTS

DEFAULT: Final = Settings()
LABEL: Final = "IN YOUR UNITS"
MOST_LINES: Final = 8
MOST_SHORT: Final = 5
MOST: Final = 2
"""How many strategies' events are priced."""
LONG_PATH: Final = 30
"""A longer result directory is DIR in a command, and named once."""
LEAST: Final = 0.05
"""An operation is named if there are at least this many per event; fewer depend on what guests do."""


def part_of(screen: Shown) -> Part:
    """The part of the first screen."""
    found = sentences(screen)
    if not found:
        return part([])
    event, here, *own_rates = found
    all_tables = "--full" if screen.comparison.results.directory is not None else "comparison.summary()"
    where = [f"With your own rates: {all_tables}."] if own_rates else []
    full, short = item(LABEL, " ".join(found)), whole(LABEL, [event, *where, here], MOST_SHORT)
    is_whole = all(len(INDENT + word) <= WIDTH for word in " ".join(own_rates).split())
    return part(full if len(full) <= MOST_LINES and is_whole else short, short, losses=[3.0])


def sentences(screen: Shown) -> list[str]:
    """Sentences on events, the load here, and the command, for the first case that has an answer."""
    case = next((case for case in screen.cases if case.lines and case.load), None)
    if case is None or case.load is None:
        return []
    asked = [name for pair in case.asked for name in (pair.a, pair.b)]
    ranked = sorted(case.lines, key=lambda line: not any(name in asked for name in line.names))
    said = list(_of_case(screen, case, [line.names[0] for line in case.in_order(ranked[:MOST])]))
    if not said:
        return []
    where = f" on {cpu(case.document['cpu'])}" if case.one_of_many else ""
    here_is = f" ({case.title})" if case.one_of_many else ""
    vcpus = case.document["vcpus"]
    here = f"{case.load.load_puts:.0f} load+puts" if vcpus else f"{case.load.switches:.0f} switches"
    found = [f"{'; '.join(said)}{where}.", f"Here{here_is}: {here} per {case.per}-second."]
    if vcpus:
        given = f"of one CPU{_left_out(case.document)}"
        found.append(f"With your own rates in place of these ({given}): {command(screen, case, case.load)}")
    return found


def command(screen: Shown, case: ShownCase, load: Load) -> str:
    """The command that prices a user's rates on the CPU and kernel of a case, with the rates of its schedule to start
    from; the user's own files are those of the result directory."""
    document, own = case.document, _own_files(screen)
    per_cpu = document["vcpus"] / document["cpus"]
    exits, kvm_runs, load_puts = (round(per_cpu * each) for each in (load.exits, load.kvm_runs, load.load_puts))
    switches = math.ceil(per_cpu * load.switches)
    found = rates(replace(load, exits=exits, kvm_runs=kvm_runs, load_puts=load_puts, switches=switches))
    kernel, use = _kernel(document), guest_ssp(document)
    others = {
        "--strategies": _strategies(document, own),
        "--carried": own.get(kernel["carried"], kernel["carried"]) if kernel["carried"] != DEFAULT.carried else None,
        "--costs": own.get(f"#{table}", table) if (table := document["cost_table"]) != document["cpu"] else None,
        **dict(_settings(kernel)),
        "--guest-ssp": use if use != COMMON.guest_ssp else None,
        "--buffer": level if (level := buffers(document)) != COMMON.buffer else None,
        "--tsc": _tsc(document),
        "--exits": f"{found.exits:.0f}/s",
        "--load-put": f"{found.pairs:.0f}/s",
        "--kvm-run": f"{found.kvm_run:.0f}/s",
        "--switches": f"{found.all_switches:.0f}/s",
        "--between": _between(found),
    }
    given = {option: value for option, value in others.items() if value is not None}
    options = "".join(f" {option} {quote(value)}" if value else f" {option}" for option, value in given.items())
    profile = own.get(f"CPU {document['cpu']}", document["cpu"])
    return f"fpswitch price --cpu {quote(profile)} --kernel {document['kernel']}{options}"


def _kernel(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the kernel, with what all guests have in particular, where settings can say it."""
    settings = [settings_of(document, name) for name in document["strategies"]]
    its = max(settings, key=lambda each: boot(each).guest_has_cet)
    kernel: Mapping[str, Any] = document["resolved"]["kernel"]
    if (of_guests := for_all(document, its)) is None:
        return kernel
    of_each = {field.name: (getattr(of_guests, field.name), getattr(its, field.name)) for field in fields(Settings)}
    return {**kernel, **{key: value for key, (value, usual) in of_each.items() if value != usual}}


def _tsc(document: Mapping[str, Any]) -> str | None:
    """The TSC frequency of a case, if it is not that of the CPU profile."""
    hz = document["tsc_hz"]
    usual = boot(settings_of(document, document["strategies"][0])).cpu.tsc_hz
    return None if hz == usual else f"{hz / 1e9:.12g}GHz"


def _left_out(document: Mapping[str, Any]) -> str:
    """The keys of single guests that the command does not have."""
    its = settings_of(document, document["strategies"][0])
    if for_all(document, its) is not None:
        return ""
    keys = [f"guests.{name}.{key}" for name, kind in particular(document).items() for key in kind]
    return f"; without {', '.join(keys)}"


def _settings(kernel: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings of a case that are not the default, as options of ``fpswitch price``; "" is a flag that is given."""
    for name in ("guest_xss", "guest_xcr0"):
        if (mask := kernel.get(name)) is not None:
            yield f"--{name.replace('_', '-')}", f"{mask:#x}"
    for name in ("guest_amx", "vpmu_counts_instructions"):
        if kernel.get(name):
            yield f"--{name.replace('_', '-')}", ""
    for name in ("apx", "pasid"):
        if not kernel.get(name, True):
            yield f"--no-{name}", ""
    for name in VALUED:
        if (value := kernel.get(name, default := getattr(DEFAULT, name))) != default:
            yield f"--{name.replace('_', '-')}", str(value)
    if not kernel["guest_cet"]:
        yield "--no-guest-cet", ""
    if kernel["hypothetical"]:
        yield "--hypothetical", ""
    if not kernel["mitigations"]:
        yield "--no-mitigations", ""
    elif kernel["mitigations"] is not True:
        yield "--mitigations", ",".join(kernel["mitigations"])


def _own_files(screen: Shown) -> dict[str, str]:
    """Where the result directory has what is not shipped: files by kind and name, and by how the scenario has them;
    cost tables by # and name."""
    directory, manifest = screen.comparison.results.directory, screen.manifest
    if directory is None:
        return {}
    there = "DIR" if len(str(directory)) > LONG_PATH else directory
    found = {}
    for each in manifest.get("inputs", ()):
        found[each["path"]] = found[f"{each['kind']} {each['name']}"] = f"{there}/{each['path']}"
    tables = {case["cost_table"] for case in manifest["cases"]} - set(shipped_tables())
    return found | {f"#{name}": f"{there}/{COSTS}#{name}" for name in tables}


def _strategies(document: Mapping[str, Any], own: Mapping[str, str]) -> str | None:
    """All strategies of the case, if any is the user's own; `fpswitch price` takes the shipped ones by itself."""
    found = {name: own.get(f"strategy {name}", name) for name in document["strategies"]}
    return ",".join(found.values()) if any(name != file for name, file in found.items()) else None


def _between(load: price_load.Load) -> str | None:
    """What runs while a vCPU is switched out, in whole %; vCPUs are rounded up, so that the switches suffice."""
    if not load.switched_out:
        return None
    vcpu = math.ceil(100 * load.shares.get("vcpu", 0.0))
    return "user" if not vcpu else "vcpu" if vcpu == 100 else f"user={100 - vcpu}%,vcpu={vcpu}%"


def _of_case(screen: Shown, case: ShownCase, strategies: list[str]) -> Iterator[str]:
    assert case.load is not None
    table = screen.answers.table(case.name)
    by_event: dict[str, list[tuple[str, EventCost]]] = {}
    for name in strategies:
        try:
            found = event_costs(case.document, name, case.reference, table, case.load)
        except InputError:
            continue  # the cost table lacks an operation that only this sequence has
        for each in found:
            by_event.setdefault(each.event, []).append((case.labels[name], each))
    for event, costs in by_event.items():
        carrying = [(label, cost) for label, cost in costs if round(cost.own.cycles, 3)]
        ranges = [screen.answers.over_costs(case.name, cost.own.rows) for _, cost in carrying]
        said = [
            f"{three_digits(cost.own.cycles)}{' cycles' * (i == 0)} by {label} ({_operations(cost)}"
            f"{three_digits(over.low)} to {three_digits(over.high)})"
            for i, ((label, cost), over) in enumerate(zip(carrying, ranges, strict=True))
        ]
        if event == EXIT_AND_ENTRY:
            xss = {label: round(cost.own.xss) for label, cost in costs if round(cost.own.xss)}
            said += [f"{cycles:+d} of IA32_XSS by {label}" for label, cycles in xss.items()]
        if said:
            yield f"one {event}: {', '.join(said)}"


def _operations(cost: EventCost) -> str:
    """The operations that the strategy adds, by the name of the instruction: "3 RDMSR, 4 WRMSR; "."""
    counts: dict[str, float] = {}
    for operation, n in cost.own.operations.items():
        if operation.startswith((VMENTRY, VMEXIT)) or " " not in operation:
            name = operation.partition("(")[0]
            counts[name] = counts.get(name, 0.0) + n
    said = [f"{n:.3g} {name}" for name, n in counts.items() if abs(n) >= LEAST]
    return f"{', '.join(said)}; " if said else ""
