"""Two results in plain text of 72 columns, and as one JSON document."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from sim.analysis.answers import Answers, Estimate, Load
from sim.analysis.two_results import CasePair, Compared, TwoResults
from sim.report import names
from sim.report.amounts import counted, fixed, with_half
from sim.report.layout import WIDTH, fitted, item, part, wrapped
from sim.report.sureness import is_shared

if TYPE_CHECKING:
    from sim.analysis.comparison import Comparison

LINES: Final = 40
MOST_PAIRS: Final = 6
MOST: Final = 8
"""How many strategies of a pair of cases are shown, if they fit."""
MOST_KEYS: Final = 6
MOST_VALUE: Final = 24
MOST_ALONE: Final = 4
MOST_LOADS: Final = 2
COLUMNS: Final = ("A", "B", "B less A", "adj. p")
LEAST_WIDTHS: Final = (13, 13, 14, 7)
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
    more = [f"  {counted(hidden, 'more pair')} of cases: --full"] if hidden else []
    parts = [
        part([*_results(a, b), *_paired(found), *_differs(found), "=" * WIDTH], gap=False),
        part(
            *([*item("ANSWER", _answer(found, a)), *each, *more] for each in tables),
            losses=[5.0] * (len(tables) - 1),
            gap=False,
        ),
        part(_load(a, pairs)),
        part(item("COSTS", _shared(a, b, pairs)), gap=False),
        part(item("UNSOUND", ", ".join(sorted({name for pair in pairs for name in pair.unsound}))), gap=False),
        part(item("ALONE", _alone(found)), gap=False),
    ]
    return "\n".join(fitted(parts, 10**6 if full else LINES))


def _results(a: "Comparison", b: "Comparison") -> Iterator[str]:
    for letter, each in (("A", a), ("B", b)):
        manifest = each.results.manifest
        versions = manifest["versions"]
        where = f"{each.results.directory}: " if each.results.directory else ""
        yield from wrapped(
            f"{where}{manifest['scenario']} ({manifest['scenario_sha256'][:12]}), seed {manifest['seed']}, n = "
            f"{manifest['replications']}; fpswitch {versions['fpswitch']} ({versions['source_sha256'][:12]})",
            f"{letter}  ",
            "   ",
        )


def _alone(found: TwoResults) -> str:
    """The cases that only one of the two has."""
    return "; ".join(
        f"in {letter} only: {_some(alone, MOST_ALONE)}"
        for letter, alone in zip("AB", found.alone, strict=True)
        if alone
    )


def _some(texts: Sequence[str], most: int, what: str = "") -> str:
    """The first of a list, and how many more there are."""
    more = f", and {len(texts) - most}{what} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


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
    said = _some([_differing(path, *values) for path, values in keys.items()], MOST_KEYS, " keys")
    return wrapped(
        f"NOT PAIRED{some}: different {said}, so these are independent samples, compared by Welch's test.", "", "  "
    )


def _differs(found: TwoResults) -> list[str]:
    told = {path for pair in found.pairs for path, _, _ in pair.not_paired}
    keys: dict[str, tuple[Any, Any]] = {}
    for pair in found.pairs:
        for path, one, other in pair.differs:
            if path not in told:
                keys.setdefault(path, (one, other))
    for name, one, other in found.tool:
        keys[TOOL[name]] = one[:12], other[:12]
    said = _some([_differing(path, *values) for path, values in keys.items()], MOST_KEYS, " keys")
    nothing = "They differ in nothing" + (" else." if any(pair.not_paired for pair in found.pairs) else ".")
    return wrapped(f"They{' also' if told else ''} differ in {said}." if said else nothing, "", "  ")


def _differing(path: str, one: Any, other: Any) -> str:
    """A key of the scenario with both values, those of A and of B; a table that only one has is not shown."""
    if isinstance(one, Mapping) or isinstance(other, Mapping):
        only = "B" if one is None else "A" if other is None else ""
        return f"{path} (only in {only})" if only else f"{path} (a table in {'A' if isinstance(one, Mapping) else 'B'})"
    values = [_value(path, each) for each in (one, other)]
    return f"{path} ({'; '.join(values)})" if values[0] != values[1] else path


def _value(path: str, value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list | tuple):
        if any(isinstance(each, Mapping | list | tuple) for each in value):
            return f"{len(value)} entries"
        return names.cut(", ".join(names.value_text(path, each) for each in value) or "nothing", MOST_VALUE)
    return names.cut(names.value_text(path, value), MOST_VALUE)


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
        said.append(f"B less A, all operations with {label}: {amount} us per {per}-second ({_counted(whole)})")
    own = [(pair, each) for pair in found.pairs for each in pair.found if each.what == "own_without_xss"]
    if own:
        with_xss = [(pair, each) for pair in found.pairs for each in pair.found if _has_xss(pair, each)]
        less = " without IA32_XSS" if with_xss else ""
        said.append(f"own operations of the others{less}: {_counted(own)}")
        if with_xss:
            said.append(f"with it: {_of_xss(a, with_xss)}")
    return "; ".join(said) + "."


def _has_xss(pair: CasePair, each: Compared) -> bool:
    """Whether this is a strategy's cost with IA32_XSS, and differs from that without."""
    return each.what == "own" and any(
        (each.a.mean, each.b.mean) != (other.a.mean, other.b.mean)
        for other in pair.found
        if (other.what, other.strategy) == ("own_without_xss", each.strategy)
    )


def _of_xss(a: "Comparison", lines: Sequence[tuple[CasePair, Compared]]) -> str:
    """What strategies cost with IA32_XSS: the largest difference that was shown, and the verdicts."""
    shown = [(pair, each) for pair, each in lines if each.verdict in ("lower", "higher")]
    if not shown:
        return _counted(lines)
    pair, most = max(shown, key=lambda each: abs(_scale(a, *each) * each[1].difference.mean))
    label = names.labels(a.results.case(pair.a))[most.strategy]
    amount = f"{label} {_signed(most.difference, _scale(a, pair, most))}"
    return f"{amount} ({_counted(lines)})" if len(lines) == 1 else f"{_counted(lines)}, at most {amount}"


def _counted(lines: Sequence[tuple[CasePair, Compared]]) -> str:
    """The verdicts, and how often each occurs."""
    verdicts = [each.verdict for _, each in lines]
    if len(set(verdicts)) == 1:
        return VERDICTS[verdicts[0]]
    return ", ".join(f"{VERDICTS[v]} {verdicts.count(v)} of {len(verdicts)}" for v in VERDICTS if v in verdicts)


def _scale(comparison: "Comparison", pair: CasePair, each: Compared) -> float:
    """The factor from the unit of an estimate to microseconds."""
    in_cycles = each.difference.unit.startswith("cycles")
    return float(1e6 / comparison.results.case(pair.a)["tsc_hz"]) if in_cycles else 1.0


def _table(a: "Comparison", pairs: Sequence[CasePair], most: int) -> Iterator[str]:
    """All pairs of cases, with this many strategies of each."""
    rows = [(pair, list(_rows(a, pair, most))) for pair in pairs]
    cells = [COLUMNS, *(cells for _, found in rows for _, cells in found)]
    widths = [
        max(least, *(len(row[i]) + 1 for row in cells)) for i, least in enumerate(LEAST_WIDTHS)
    ]  # at least one space between columns

    def line(label: str, cells: Sequence[str]) -> Iterator[str]:
        numbers = "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        if len(label) + len(numbers) > WIDTH:
            yield label
            label = ""
        yield label.ljust(WIDTH - len(numbers)) + numbers

    per = "vCPU" if a.results.case(pairs[0].a)["vcpus"] else "CPU"
    yield from line(f"  us per {per}-second", COLUMNS)
    for pair, found in rows:
        yield from wrapped(pair.a if pair.a == pair.b else f"{pair.a} (A), {pair.b} (B)", "  ", "    ")
        for label, row in found:
            yield from line(f"   {label}", row)
    own = max(sum(each.what == "own_without_xss" for each in pair.found) for pair in pairs)
    if own > most:
        yield f"  {own - most} more {'strategy' if own - most == 1 else 'strategies'}: --full"
    yield "  +-: 95 % over replications; adj. p: Holm's, over all lines of a kind"


Row = tuple[str, tuple[str, ...]]
"""A label, and the cells of a line."""


def _rows(a: "Comparison", pair: CasePair, most: int) -> Iterator[Row]:
    """The lines of two cases: the whole cost, then own operations."""
    document = a.results.case(pair.a)
    labels = names.labels(document)
    scale = _scale(a, pair, pair.found[0]) if pair.found else 1.0
    whole = [each for each in pair.found if each.what == "cost"]
    own = [each for each in pair.found if each.what == "own_without_xss"]
    xss = {each.strategy: each for each in pair.found if _has_xss(pair, each)}
    for each in whole:
        yield _row(f"all, {labels[each.strategy]}", each, scale)
    shown = sorted(own, key=lambda each: (not _moved(each, xss), -abs(each.difference.mean)))[:most]
    order = list(document["strategies"])
    for each in sorted(shown, key=lambda each: order.index(each.strategy)):
        yield _row(labels[each.strategy], each, scale)
        if each.strategy in xss:
            yield _row("  with IA32_XSS", xss[each.strategy], scale)


def _moved(each: Compared, with_xss: Mapping[str, Compared]) -> bool:
    """Whether a difference was shown, without IA32_XSS or with it."""
    verdicts = {each.verdict, with_xss.get(each.strategy, each).verdict}
    return bool(verdicts & {"lower", "higher"})


def _row(label: str, each: Compared, scale: float) -> Row:
    return label, (_amount(each.a, scale), _amount(each.b, scale), _signed(each.difference, scale), _p(each))


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


def _load(a: "Comparison", pairs: Sequence[CasePair]) -> list[str]:
    columns = ("exits", "switches", "KVM_RUN", "halts", "load+put", "busy")
    title = "LOAD (per vCPU-second, or CPU-second of a host without vCPUs)"
    lines = [title, " " * 18 + "".join(column.rjust(9) for column in columns)]
    titles = names.titles(a.results.cases).short
    for pair in pairs[:MOST_LOADS]:
        where = f", {titles[pair.a]}" if len(pairs) > 1 else ""
        for letter, load in (("A", pair.load_a), ("B", pair.load_b)):
            label = names.cut(f"{letter}{where}", 16)
            lines.append(f"  {label:16}" + "".join(cell.rjust(9) for cell in _rates(load)))
    if len(pairs) > MOST_LOADS:
        lines.append(f"  {counted(len(pairs) - MOST_LOADS, 'more pair')} of cases: --json")
    return lines


def _rates(load: Load) -> list[str]:
    rates = (load.exits, load.switches, load.kvm_runs, load.halts, load.load_puts)
    return [*(fixed(rate, 0) for rate in rates), f"{fixed(100 * load.busy, 0)} %"]


def _shared(a: "Comparison", b: "Comparison", pairs: Sequence[CasePair]) -> str:
    """Assumed rows that two cost tables have in common, about which the comparison says nothing."""
    found: dict[str, None] = {}
    of_a, of_b = Answers(a), Answers(b)
    for pair in pairs:
        table, other = of_a.table(pair.a), of_b.table(pair.b)
        if table.name != other.name:
            used = of_a.used(pair.a)
            rows = [table.rows[row] for row in used if is_shared(table.rows[row], other)]
            found.update(dict.fromkeys(row.operation for row in rows))
    listed = ", ".join(list(found)[:4]) + (", ..." if len(found) > 4 else "")
    return (
        f"both tables have the same assumed {listed}: the comparison says nothing about what these cost"
        if found
        else ""
    )


# The document.


def document(found: TwoResults, a: "Comparison", b: "Comparison") -> dict[str, Any]:
    """What ``fpswitch compare A B --json`` prints; "difference" is b less a, and what is not a number is null."""
    plain = _plain(
        {
            "a": _result(a),
            "b": _result(b),
            "tool": [{"key": key, "a": one, "b": other} for key, one, other in found.tool],
            "alone": [name for alone in found.alone for name in alone],
            "alone_in": {"a": list(found.alone[0]), "b": list(found.alone[1])},
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
