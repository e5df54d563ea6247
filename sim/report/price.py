"""What `fpswitch price` prints: at most 72 columns and about 40 lines, the answer first; and the same as a document."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sim.analysis.price import NOTHING, Difference, Priced, PricedStrategy, Spread
from sim.analysis.price_load import Between, count
from sim.analysis.price_own import GuestSsp, Own
from sim.kernel.config import Settings
from sim.kernel.operations import WRMSR_XSS
from sim.kernel.strategies import names as shipped
from sim.report.amounts import percent, si
from sim.xsave.components import names as component_names

DEFAULT: Final = Settings()
WIDTH: Final = 72
NAME: Final = 21
LABEL: Final = 9
MOST_ROWS: Final = 3
LEAST: Final = 0.1
"""A cost row is named if it makes up at least this share of a difference."""

WHO: Final[Mapping[Between, str]] = {
    "user": "a user task", "kthread": "a kernel thread", "idle": "nobody (it halts)", "vcpu": "another vCPU",
}  # fmt: skip
SSPS: Final[Mapping[GuestSsp, str]] = {
    "none": "never written", "constant": "written once", "rewritten": "new each time that the guest runs",
}  # fmt: skip

Group = tuple[PricedStrategy, ...]
"""Strategies that cost the same."""


def text(priced: Priced, notes: Sequence[str], doubts: Sequence[str]) -> str:
    """The answer, its range and what it rests on, and what was assumed.

    ``notes`` are further assumptions, ``doubts`` are warnings that come first.
    """
    parts = (_head(priced, doubts), _answer(priced), _rests_on(priced), _unsaid(priced), _assumed(priced, notes))
    return "\n".join(line for part in parts for line in part)


def _head(priced: Priced, doubts: Sequence[str]) -> Iterator[str]:
    config, load = priced.strategies[0].config, priced.load
    yield from textwrap.wrap(
        f"{config.carried.name} on {config.cpu.title}, Linux {config.version.name}, costs {priced.table.name}",
        WIDTH,
        break_on_hyphens=False,
    )
    fastpath = "".join(f", {count(rate)} {reason}" for reason, rate in load.fastpath.items())
    yield from textwrap.wrap(
        f"Per second of one CPU: {count(load.exits)} exits handled in the kernel{fastpath}, {count(load.pairs)} "
        f"load/put pairs ({count(load.kvm_run)} to user space, {count(load.switched_out)} switched out), "
        f"{count(load.all_switches)} context switches; so {count(load.entries)} VM entries. TSC "
        f"{priced.tsc_hz / 1e9:g} GHz.",
        WIDTH,
        break_on_hyphens=False,
    )
    if said := [*doubts, *_too_much(priced)]:
        yield from _item("NOTE", f"{'; '.join(said)}.")
    yield "=" * WIDTH


def _too_much(priced: Priced) -> Iterator[str]:
    if over := [label(each) for each in priced.strategies if each.cycles.value > priced.tsc_hz]:
        whose = "all strategies" if len(over) == len(priced.strategies) else ", ".join(over)
        yield f"a CPU does not have enough cycles for these rates with {whose}, each cost at its value"


# The answer.


def groups(priced: Priced) -> list[Group]:
    """Strategies grouped by equal cost: sound ones first, and those that were posted before hypothetical ones.

    The reference's are first, then from the cheapest on.
    """
    found: list[Group] = []
    for each in priced.strategies:
        if not any(each in group for group in found):
            group = (each, *(priced[name] for name in each.same_as))
            found.append(tuple(sorted(group, key=lambda one: (one.name != priced.reference, _rank(one)))))
    return sorted(found, key=lambda group: (group[0].name != priced.reference, group[0].cycles.value))


def _rank(each: PricedStrategy) -> tuple[bool, bool]:
    return bool(each.unsound), bool(each.config.strategy.hypothetical)


def _answer(priced: Priced) -> Iterator[str]:
    yield from _in_words(priced)
    than = f"more than {priced.reference}," if priced.reference else "range"
    yield f"{'in all':>30}  % of {than:>26} per load"
    yield f"{'cycles/s':>30}   CPU {'95 % of draws of the costs':>26}    + put"
    same = []
    for group in groups(priced):
        first, *others = group
        joined = " = ".join(label(each) for each in group)
        name = joined if len(joined) <= NAME else label(first)[: NAME - 2] + (" =" if others else "")
        if others and name != joined:
            same.append(
                f"{label(first)} = " + ", ".join(("! " if each.unsound else "") + label(each) for each in others)
            )
        yield f"{'!' if first.unsound else ' '} {name:{NAME}} {_numbers(priced, first)}".rstrip()
    if same:
        yield from _item("=", "the same cost: " + "; ".join(same))
    if unsound := [label(each) for each in priced.strategies if each.unsound]:
        yield from _item("!", f"UNSOUND, so its cost is not comparable: {', '.join(unsound)}")
    yield from _xss(priced)


def _in_words(priced: Priced) -> Iterator[str]:
    """The strategies asked about, against one another and beside carrying nothing; IA32_XSS is separate."""
    asked = [(priced[name], found) for name in priced.asked if (found := priced[name].difference) is not None]
    more = [f"{label(each)} {_amount(found.own, priced)}" for each, found in asked if _is(found.own)]
    said = list(_contrasts(priced)) if more else []
    if more:
        said.append(f"Beside carrying nothing ({priced.reference}): {', '.join(more)}")
    elif asked:
        why = "" if priced.load.pairs else "; all their cost is at load/put pairs (--load-put)"
        nothing = " and ".join(label(each) for each, _ in asked)
        said.append(f"Beside carrying nothing ({priced.reference}), {nothing} cost nothing more{why}")
    by_xss: dict[str, list[str]] = {}
    for each, found in asked:
        if _is(found.switching_xss):
            by_xss.setdefault(_amount(found.switching_xss, priced), []).append(label(each))
    said += [
        f"IA32_XSS, switched at VM exits, is apart: {amount} with {' and '.join(names)}"
        for amount, names in by_xss.items()
    ]
    if said:
        yield from _item("ANSWER", f"{'. '.join(said)}.")


def _contrasts(priced: Priced) -> Iterator[str]:
    """The most expensive strategy less each other one."""
    first = max(priced.asked, key=lambda name: sum(each.a == name for each in priced.contrasts), default="")
    found = [each for each in priced.contrasts if each.a == first]
    parts = [
        f"{si(each.own.value)} cycles/s ({_range(each.own)}; {_share(each.own, priced)} of a CPU) more than "
        f"{label(priced[each.b])}"
        for each in found
        if _is(each.own)
    ]
    parts += [f"as much as {label(priced[each.b])}" for each in found if not _is(each.own)]
    if parts:
        yield f"{label(priced[first])} costs {' and '.join(parts) if len(parts) < 3 else ', '.join(parts)}"


def _is(spread: Spread) -> bool:
    return any(abs(each) > NOTHING for each in spread)


def _amount(spread: Spread, priced: Priced) -> str:
    return f"{si(spread.value, sign='+')} ({_range(spread)}; {_share(spread, priced)})"


def _share(spread: Spread, priced: Priced) -> str:
    return f"{percent(100 * spread.value / priced.tsc_hz)} %"


def label(each: PricedStrategy) -> str:
    """The strategy's name; with its file, if that has the name of a shipped one."""
    name = each.config.strategy.name
    return f"{name} ({each.name})" if name != each.name and name in shipped() else name


def _numbers(priced: Priced, each: PricedStrategy) -> str:
    text = f"{si(each.cycles.value):>6} {_of_a_cpu(100 * each.cycles.value / priced.tsc_hz):>5} "
    if each.difference is None:
        return f"{text}{'':7} {_range(each.cycles):>18}"
    if each.name == priced.reference:
        return f"{text}{'-':>7}"
    pair = each.difference.pair
    more, own = si(each.difference.all.value, sign="+"), "" if pair is None else f"{pair.cycles:.0f}"
    return f"{text}{more:>7} {_range(each.difference.all):>18} {own:>8}"


def _of_a_cpu(share: float) -> str:
    """A share in % in five characters."""
    return "<0.01" if 0 < share < 0.01 else f"{share:.{2 if share < 10 else 1 if share < 1000 else 0}f}"


def _range(spread: Spread) -> str:
    return f"{si(spread.low)} to {si(spread.high)}"


def _xss(priced: Priced) -> Iterator[str]:
    """The writes of IA32_XSS, which a strategy changes on some CPUs, are a question of their own."""
    parts: dict[str, list[str]] = {}
    for group in groups(priced):
        if (difference := group[0].difference) and difference.xss:
            parts.setdefault(si(difference.xss, sign="+"), []).extend(map(label, group))
    for cycles, strategies in parts.items():
        yield from _item(
            "XSS",
            f"{cycles} of the difference of {', '.join(strategies)} is the switching of IA32_XSS; the last column is "
            "without it.",
        )


# What it rests on.


def _rests_on(priced: Priced) -> Iterator[str]:
    shares = [share for each in _differences(priced) if (share := each.assumed(priced.table)) is not None]
    if not shares:
        return
    low, high = f"{100 * min(shares):.0f}", f"{100 * max(shares):.0f}"
    yield f"RESTS ON  ASSUMED costs: {low if low == high else f'{low} to {high}'} % of each difference. Most of all on"
    for row, share, strategy in deciding(priced)[:MOST_ROWS]:
        cost = priced.table.rows[row]
        yield from _item(
            "", f"{row} {cost.value:g} ({cost.low:g} to {cost.high:g}, {cost.grade}): {100 * share:.0f} % of {strategy}"
        )


def _differences(priced: Priced) -> list[Difference]:
    return [each.difference for each in priced.strategies if each.difference is not None]


def deciding(priced: Priced) -> list[tuple[str, float, str]]:
    """Cost rows, their largest share of a sound strategy's difference, and that strategy; the largest share first.

    The share of IA32_XSS is of the whole difference, that of other rows is of the rest.  Strategies that were posted
    are named before hypothetical ones.
    """
    best: dict[str, tuple[bool, float, str]] = {}
    for first, *_ in groups(priced):
        if first.unsound or first.difference is None:
            continue
        rows = first.difference.rows
        total = sum(map(abs, rows.values()))
        own = sum(abs(cycles) for row, cycles in rows.items() if priced.table.rows[row].operation != WRMSR_XSS)
        for row, cycles in rows.items():
            share = abs(cycles) / (total if priced.table.rows[row].operation == WRMSR_XSS else own)
            found = (not first.config.strategy.hypothetical, share, label(first))
            if share >= LEAST and found > best.get(row, (False, 0.0, "")):
                best[row] = found
    return sorted(((row, share, name) for row, (_, share, name) in best.items()), key=lambda each: -each[1])


# What rates do not say, and what was assumed.


def _unsaid(priced: Priced) -> Iterator[str]:
    """How far the cycles of a pair depend on options about guests, and about what runs in between."""
    found: dict[str, list[str]] = {}
    for each in priced.unsaid:
        if each.strategy in priced.asked:
            (least, low), *_, (most, high) = sorted(each.per_pair.items(), key=lambda one: one[1])
            option = f"--{each.option.replace('_', '-')} {least} to {most}"
            found.setdefault(label(priced[each.strategy]), []).append(f"{low:.0f} to {high:.0f} ({option})")
    if found:
        said = "; ".join(f"{name} {', '.join(ranges)}" for name, ranges in found.items())
        yield from _item("DEPENDS", f"on what rates do not say, per load + put: {said}.")


def _assumed(priced: Priced, notes: Sequence[str]) -> Iterator[str]:
    yield from _item("ASSUMED", "; ".join((*assumptions(priced), *notes)) + ".")


def assumptions(priced: Priced) -> list[str]:
    """What rates do not say and is assumed, each with the option that changes it."""
    load, assumed = priced.load, priced.assumed
    configs = [each.config for each in priced.strategies]
    carried = configs[0].carried
    if carried.xfeature is not None and not any(config.guest_has_cet for config in configs):
        found = ["guests have no CET"]
    else:
        found = [
            f"a guest's {carried.name} is {SSPS[assumed.guest_ssp]} (--guest-ssp)",
            f"guest XSS is {max(config.guest_xss for config in configs):#x} (--guest-xss)",
        ]
    found += _chosen(configs[0].settings)
    found += [
        f"all use {component_names(assumed.registers).replace('YMM', 'AVX')} (--registers)",
        f"fpstates are in {assumed.buffer} (--buffer)",
    ]
    if load.switched_out:
        who = [f"{WHO[who]}" + (f" {100 * share:.0f} %" if share < 1 else "") for who, share in load.shares.items()]
        found.insert(0, f"while a vCPU is out, {' or '.join(who)} runs (--between), and none migrates")
    if load.task_switches:
        found.append(f"{count(load.task_switches)}/s switches are between user tasks")
    found += [f"{reason} has no fastpath here" for reason in _slow(priced)]
    return found


VALUED: Final = (
    "guest_spec_ctrl", "host_shadow_stacks", "msr_access", "vmscape_by", "ibpb_at", "vpmu", "vpmu_in_use",
)  # fmt: skip
"""Settings that are options with a value, of the same name."""


def _chosen(settings: Settings) -> Iterator[str]:
    """What was said of the guests and the kernel, where it is not the default."""
    if settings.guest_amx:
        yield "guests have AMX (--guest-amx)"
    if settings.guest_xcr0 is not None:
        yield f"guest XCR0 is {settings.guest_xcr0:#x} (--guest-xcr0)"
    for option in VALUED:
        if (value := getattr(settings, option)) != getattr(DEFAULT, option):
            yield f"{option} is {value} (--{option.replace('_', '-')})"
    for option in ("apx", "pasid"):
        if not getattr(settings, option):
            yield f"the kernel leaves {option.upper()} off (--no-{option})"
    if settings.vpmu_counts_instructions:
        yield "a counter counts instructions (--vpmu-counts-instructions)"
    if settings.mitigations is not True:
        yield f"mitigations are {', '.join(settings.mitigations or ()) or 'off'}"


def _slow(priced: Priced) -> list[str]:
    config = priced.strategies[0].config
    return [reason for reason in priced.load.fastpath if reason not in config.version.fastpath[config.vendor]]


def _item(label: str, text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{label:{LABEL}} " if len(label) > 1 else f"{label:2}",
        subsequent_indent="  ",
        break_on_hyphens=False,
    )


# The document.


def document(
    priced: Priced, notes: Sequence[str], doubts: Sequence[str], left_out: Mapping[str, str]
) -> dict[str, Any]:
    """What ``--json`` prints."""
    load, config = priced.load, priced.strategies[0].config
    return {
        "cpu": config.cpu.name,
        "kernel": config.version.name,
        "carried": config.carried.name,
        "cost_table": priced.table.name,
        "tsc_hz": priced.tsc_hz,
        "unit": "TSC cycles per second of one CPU",
        "load": {
            "exits": load.exits,
            "fastpath": dict(load.fastpath),
            "load_put": load.pairs,
            "kvm_run": load.kvm_run,
            "switches": load.all_switches,
            "task_switches": load.task_switches,
            "vm_entries": load.entries,
            "between": dict(load.shares) if load.switched_out else {},
        },
        "assumed": [*assumptions(priced), *notes],
        "notes": [*doubts, *_too_much(priced)],
        "reference": priced.reference,
        "strategies": {each.name: _strategy(priced, each) for each in priced.strategies},
        "contrasts": [
            {"a": each.a, "b": each.b, "own": each.all._asdict(), "own_without_xss": each.own._asdict()}
            for each in priced.contrasts
        ],
        "unsaid": [each._asdict() | {"per_pair": dict(each.per_pair)} for each in priced.unsaid],
        "rows": [
            {"row": row, "share": share, "of": name, **_cost_row(priced, row)} for row, share, name in deciding(priced)
        ],
        "left_out": dict(left_out),
    }


def _strategy(priced: Priced, each: PricedStrategy) -> dict[str, Any]:
    difference = each.difference
    return {
        "name": each.config.strategy.name,
        "cycles": each.cycles._asdict(),
        "percent_of_cpu": _percent(each.cycles, priced.tsc_hz),
        "difference": None if difference is None else difference.all._asdict(),
        "own_without_xss": None if difference is None else difference.own._asdict(),
        "xss": None if difference is None else difference.xss,
        "xss_range": None if difference is None else difference.switching_xss._asdict(),
        "difference_percent_of_cpu": None if difference is None else _percent(difference.all, priced.tsc_hz),
        "per_load_put": None if difference is None or difference.pair is None else _own(difference.pair),
        "per_event": None if difference is None else {name: _own(each) for name, each in difference.events.items()},
        "rows": None if difference is None else dict(difference.rows),
        "assumed_percent": None if difference is None else _assumed_percent(difference, priced),
        "same_as": list(each.same_as),
        "unsound": each.unsound,
        "hypothetical": list(each.config.hypothetical),
        "guest_xss": f"{each.config.guest_xss:#x}",
    }


def _percent(spread: Spread, tsc_hz: float) -> dict[str, float]:
    return {name: 100 * cycles / tsc_hz for name, cycles in spread._asdict().items()}


def _own(own: Own) -> dict[str, Any]:
    return own._asdict() | {"operations": dict(own.operations)}


def _assumed_percent(difference: Difference, priced: Priced) -> float | None:
    share = difference.assumed(priced.table)
    return None if share is None else 100 * share


def _cost_row(priced: Priced, name: str) -> dict[str, Any]:
    row = priced.table.rows[name]
    return {key: getattr(row, key) for key in ("value", "low", "high", "clock", "grade", "table", "source")}
