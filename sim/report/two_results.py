"""Two results in plain text of 72 columns, and as one JSON document."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from sim.analysis.answers import Answers, Estimate, Load
from sim.analysis.two_results import CasePair, Compared, TwoResults
from sim.report import names
from sim.report.amounts import fixed, with_half
from sim.report.layout import WIDTH, at_most, fitted, item, part, wrapped
from sim.report.sureness import is_shared

if TYPE_CHECKING:
    from sim.analysis.comparison import Comparison

LINES: Final = 40
MOST_PAIRS: Final = 6
MOST: Final = 8
"""Strategies of a pair of cases that are shown, if they fit."""
MOST_KEYS: Final = 6
LABEL: Final = 26
TOOL: Final = {"fpswitch": "fpswitch", "source_sha256": "its source"}
VERDICTS: Final = {
    "lower": "B is cheaper", "higher": "B is more expensive", "same": "exactly the same",
    "not shown": "no difference shown", "not tested": "not tested",
}  # fmt: skip


def text(found: TwoResults, a: "Comparison", b: "Comparison", *, full: bool) -> str:
    """The comparison of two results, on a screen or, with ``full``, in full."""
    pairs = found.pairs if full else found.pairs[:MOST_PAIRS]
    sizes = [max(len(pair.found) for pair in pairs)] if full else range(MOST, 0, -1)
    tables = [list(_table(a, pairs, size)) for size in sizes]
    hidden = len(found.pairs) - len(pairs)
    parts = [
        part([*_results(a, b), *_paired(found), *_differs(found), "=" * WIDTH], gap=False),
        part(
            *([*item("ANSWER", _answer(found, a)), *each] for each in tables),
            losses=[5.0] * (len(tables) - 1),
            gap=False,
        ),
        part(_load(pairs)),
        part(item("COSTS", _shared(a, b, pairs)), gap=False),
        part(item("UNSOUND", ", ".join(sorted({name for pair in pairs for name in pair.unsound}))), gap=False),
        part(at_most(item("ALONE", f"{', '.join(found.alone)}: in one of the two only" if found.alone else ""), 2)),
        part([f"  {hidden} more pairs of cases: --full"] if hidden else [], gap=False),
    ]
    return "\n".join(fitted(parts, 10**6 if full else LINES))


def _results(a: "Comparison", b: "Comparison") -> Iterator[str]:
    for letter, each in (("A", a), ("B", b)):
        manifest = each.results.manifest
        versions = manifest["versions"]
        where = f"{each.results.directory}: " if each.results.directory else ""
        yield from at_most(
            wrapped(
                f"{where}{manifest['scenario']} ({manifest['scenario_sha256'][:12]}), seed {manifest['seed']}, n = "
                f"{manifest['replications']}; fpswitch {versions['fpswitch']} ({versions['source_sha256'][:12]})",
                f"{letter}  ",
                "   ",
            ),
            3,
        )


def _paired(found: TwoResults) -> list[str]:
    paired = [pair.paired for pair in found.pairs]
    if all(paired):
        return wrapped(
            "PAIRED: seed, load and random streams are the same, so that replication n is the same world in both.",
            "",
            "  ",
        )
    some = "" if not any(paired) else f" in {paired.count(False)} of {len(paired)} cases"
    keys = {path: (one, other) for pair in found.pairs for path, one, other in pair.not_paired}
    said = ", ".join(f"{path} ({_value(path, one)}; {_value(path, other)})" for path, (one, other) in keys.items())
    text = f"NOT PAIRED{some}: other {said}, so these are independent samples, compared by Welch's test."
    return at_most(wrapped(text, "", "  "), 4)


def _differs(found: TwoResults) -> list[str]:
    keys: dict[str, tuple[Any, Any]] = {}
    for pair in found.pairs:
        for path, one, other in pair.differs:
            keys.setdefault(path, (one, other))
    for name, one, other in found.tool:
        keys[TOOL[name]] = one[:12], other[:12]
    said = [f"{path} ({_value(path, one)}; {_value(path, other)})" for path, (one, other) in keys.items()]
    more = f", and {len(said) - MOST_KEYS} keys more" if len(said) > MOST_KEYS else ""
    text = f"They differ in {', '.join(said[:MOST_KEYS])}{more}." if said else "They differ in nothing."
    return at_most(wrapped(text, "", "  "), 6)


def _value(path: str, value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = names.value_text(path, value) if isinstance(value, str | int | float) else str(value)
    return names.cut(text, 24)


# The answer.


def _answer(found: TwoResults, a: "Comparison") -> str:
    """The whole cost, in words, of one pair of cases or from the least difference to the most; then own operations."""
    whole = [(pair, each) for pair in found.pairs for each in pair.found if each.what == "cost"]
    said = []
    if whole:
        ordered = sorted(whole, key=lambda each: _scale(a, *each) * each[1].difference.mean)
        amounts = list(dict.fromkeys(_signed(each.difference, _scale(a, pair, each)) for pair, each in ordered))
        pair, first = ordered[0]
        label = names.labels(a.results.case(pair.a))[first.strategy]
        amount = amounts[0] if len(amounts) == 1 else f"{amounts[0]} ({pair.a}) to {amounts[-1]} ({ordered[-1][0].a})"
        per = first.difference.unit.partition("/")[2].removesuffix("-s")
        said.append(f"B less A, all operations of {label}: {amount} us per {per}-second ({_counted(whole)})")
    own = [(pair, each) for pair in found.pairs for each in pair.found if each.what == "own_without_xss"]
    if own:
        said.append(f"own operations of the others: {_counted(own)}")
    return "; ".join(said) + "."


def _counted(lines: Sequence[tuple[CasePair, Compared]]) -> str:
    """The verdicts, and how often each is there."""
    verdicts = [each.verdict for _, each in lines]
    if len(set(verdicts)) == 1:
        return VERDICTS[verdicts[0]]
    return ", ".join(f"{VERDICTS[v]} {verdicts.count(v)} of {len(verdicts)}" for v in VERDICTS if v in verdicts)


def _scale(comparison: "Comparison", pair: CasePair, each: Compared) -> float:
    """From the unit of an estimate to microseconds."""
    in_cycles = each.difference.unit.startswith("cycles")
    return float(1e6 / comparison.results.case(pair.a)["tsc_hz"]) if in_cycles else 1.0


def _table(a: "Comparison", pairs: Sequence[CasePair], most: int) -> Iterator[str]:
    """All pairs of cases, with so many strategies of each."""
    per = "vCPU" if a.results.case(pairs[0].a)["vcpus"] else "CPU"
    yield f"  us per {per}-second".ljust(LABEL) + f"{'A':>13}{'B':>13}{'B less A':>14}{'p':>6}"
    for pair in pairs:
        yield from _pair(a, pair, most)
    own = max(sum(each.what == "own_without_xss" for each in pair.found) for pair in pairs)
    if own > most:
        yield f"  {own - most} more strategies: --full"


def _pair(a: "Comparison", pair: CasePair, most: int) -> Iterator[str]:
    """The table of two cases: the whole cost, then own operations."""
    document = a.results.case(pair.a)
    labels = names.labels(document)
    scale = _scale(a, pair, pair.found[0]) if pair.found else 1.0
    yield from wrapped(pair.a if pair.a == pair.b else f"{pair.a} (A), {pair.b} (B)", "  ", "    ")
    whole = [each for each in pair.found if each.what == "cost"]
    own = [each for each in pair.found if each.what == "own_without_xss"]
    xss = {each.strategy: each for each in pair.found if each.what == "own"}
    for each in whole:
        yield _row(f"all of {labels[each.strategy]}", each, scale)
    shown = sorted(own, key=lambda each: (each.verdict not in ("lower", "higher"), -abs(each.difference.mean)))[:most]
    order = list(document["strategies"])
    for each in sorted(shown, key=lambda each: order.index(each.strategy)):
        yield _row(labels[each.strategy], each, scale)
        with_xss = xss[each.strategy]
        if (with_xss.a.mean, with_xss.b.mean) != (each.a.mean, each.b.mean):
            yield _row("  with IA32_XSS", with_xss, scale)


def _row(label: str, each: Compared, scale: float) -> str:
    cells = [_amount(each.a, scale), _amount(each.b, scale), _signed(each.difference, scale), _p(each)]
    numbers = "".join(cell.rjust(width) for cell, width in zip(cells, (13, 13, 14, 6), strict=True))
    return (f"   {label}"[: WIDTH - len(numbers)].ljust(LABEL)[: WIDTH - len(numbers)] + numbers).rstrip()


def _amount(each: Estimate, scale: float) -> str:
    return with_half(scale * each.mean, scale * (each.high - each.mean))


def _signed(each: Estimate, scale: float) -> str:
    text = _amount(each, scale)
    return text if text.startswith(("-", "0")) and not text.startswith("0.") else f"+{text}"


def _p(each: Compared) -> str:
    p = each.p_adjusted
    if math.isnan(p):
        return "="[: each.verdict == "same"] or "-"
    return "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0")


def _load(pairs: Sequence[CasePair]) -> list[str]:
    columns = ("exits", "switches", "KVM_RUN", "halts", "load+put", "busy")
    title = "LOAD (per vCPU-second, or CPU-second of a host without vCPUs)"
    lines = [title, " " * 18 + "".join(column.rjust(9) for column in columns)]
    for pair in pairs[:2]:
        for letter, load in (("A", pair.load_a), ("B", pair.load_b)):
            lines.append(f"  {letter}".ljust(18) + "".join(cell.rjust(9) for cell in _rates(load)))
    return lines


def _rates(load: Load) -> list[str]:
    rates = (load.exits, load.switches, load.kvm_runs, load.halts, load.load_puts)
    return [*(fixed(rate, 0) for rate in rates), f"{fixed(100 * load.busy, 0)} %"]


def _shared(a: "Comparison", b: "Comparison", pairs: Sequence[CasePair]) -> str:
    """Assumed rows that two cost tables have in common, of which the comparison says nothing."""
    found: dict[str, None] = {}
    of_a, of_b = Answers(a), Answers(b)
    for pair in pairs:
        table, other = of_a.table(pair.a), of_b.table(pair.b)
        if table.name != other.name:
            used = of_a.used(pair.a)
            rows = [table.rows[row] for row in used if is_shared(table.rows[row], other)]
            found.update(dict.fromkeys(row.operation for row in rows))
    listed = ", ".join(list(found)[:4]) + (", ..." if len(found) > 4 else "")
    return f"both tables have the same assumed {listed}: of these the comparison says nothing" if found else ""


# The document.


def document(found: TwoResults, a: "Comparison", b: "Comparison") -> dict[str, Any]:
    """What ``fpswitch compare A B --json`` prints; "difference" is b less a, and what is not a number is null."""
    plain = _plain(
        {
            "a": _result(a),
            "b": _result(b),
            "tool": [{"key": key, "a": one, "b": other} for key, one, other in found.tool],
            "alone": list(found.alone),
            "cases": [
                {
                    "a": pair.a,
                    "b": pair.b,
                    "paired": pair.paired,
                    "test": "paired t" if pair.paired else "Welch",
                    "differs": [{"key": key, "a": one, "b": other} for key, one, other in pair.differs],
                    "load": {"a": asdict(pair.load_a), "b": asdict(pair.load_b)},
                    "unsound": list(pair.unsound),
                    "found": [asdict(each) for each in pair.found],
                }
                for pair in found.pairs
            ],
        }
    )
    assert isinstance(plain, dict)
    return plain


def _result(comparison: "Comparison") -> dict[str, Any]:
    manifest = comparison.results.manifest
    keys = ("scenario", "scenario_sha256", "seed", "replications")
    return {key: manifest[key] for key in keys} | {"versions": dict(manifest["versions"])}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
