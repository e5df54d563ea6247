"""The answer as one pastes it into a mail: 15 lines of 72 columns, with what is needed to find it again."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sim.analysis.answers import Estimate, Range
from sim.report import layout, names, schedule_answer, sureness, words
from sim.report.amounts import counted, fixed, percent, short_spread, si, three_digits, with_half
from sim.report.layout import part, wrapped
from sim.report.names import carried, config_of, cpu
from sim.report.shown import XSS, Between, Shown, ShownCase
from sim.report.tables import columns_of, line_called
from sim.results.manifest import COMPLETE, COSTS

LINES: Final = 15
ROWS: Final = 4
SIDE_BY_SIDE: Final = 2
"""The most cases that are columns; with more of them, strategies are."""
COLUMNS: Final = 2
MOST_KERNELS: Final = 3
PAIR: Final = 34
AMOUNT: Final = 17
OVER: Final = 21
LABEL: Final = 24
CELL: Final = 24
OF_THE_SHOW: Final = {
    "--out": 1, "--jobs": 1, "--json": 0, "--no-figures": 0, "--full": 0, "--mail": 0,
}  # fmt: skip
"""Options of a run that change no number, and the number of words after each."""


def text(screen: Shown) -> str:
    """The mail, at most :data:`LINES` lines of 72 columns."""
    tables = [list(_table(screen, rows)) for rows in range(ROWS, 0, -1)]
    notes = list(_notes(screen))
    shorter = [wrapped(" ".join(notes[:n]), "  ", "  ") for n in range(len(notes), 0, -1)] or [[]]
    return "\n".join(
        layout.fitted(
            [
                part(_head(screen), gap=False),
                part(_about(screen, with_load=True), _about(screen, with_load=False), losses=[4.0]),
                part(*tables, losses=[5.0] * (len(tables) - 1)),
                part(*shorter, losses=[1.0 if schedule_answer.is_asked(screen) else 6.0] * (len(shorter) - 1)),
                part(_reproduce(screen.manifest), gap=False),
            ],
            LINES,
        )
    )


def _head(screen: Shown) -> list[str]:
    manifest = screen.manifest
    versions = manifest["versions"]
    incomplete = "" if manifest["status"] == COMPLETE else f", NOT COMPLETE ({manifest['status']})"
    share = sureness.assumed_share(screen)
    certain = "each cost at its value" if schedule_answer.is_asked(screen) else "nothing of it on assumed costs"
    text = (
        f"[fpswitch {versions['fpswitch']}, source {versions['source_sha256'][:12]}, {manifest['scenario']} "
        f"{manifest['scenario_sha256'][:12]}, seed {manifest['seed']}, n={screen.n}{incomplete}; simulated, "
        f"{f'{share} of it on assumed costs' if share else certain}]"
    )
    return wrapped(text, "", " ")


def _about(screen: Shown, *, with_load: bool) -> list[str]:
    """Host, load and kernel, and what the numbers are."""
    case = next((case for case in screen.cases if case.lines), screen.cases[0])
    document, load = case.document, case.load
    models = {each.document["cpu"] for each in screen.cases}
    cpus = counted(document["cpus"], "CPU") + (f" ({cpu(document['cpu'])}), " if len(models) == 1 else ", ")
    where = f", {case.title}" if case.one_of_many else ""
    vcpus = counted(document["vcpus"] or "no", "vCPU")
    if not with_load:
        host = f"{cpus}{vcpus}{where}"
    elif document["vcpus"] and load:
        exits, switches, pairs = (fixed(each, 0) for each in (load.exits, load.switches, load.load_puts))
        rates = f"{exits} exits, {switches} switches, {pairs} vcpu load/put pairs per vCPU-second{where}"
        host = f"{cpus}{vcpus} ({rates})"
    else:
        host = f"{cpus}{vcpus} ({fixed(load.switches, 0) if load else '-'} switches per CPU-second{where})"
    kernels = list(dict.fromkeys(each.document["kernel"] for each in screen.cases))
    config = config_of(document, case.reference)
    beside = "beside carrying nothing" if not config.strategy.carries else f"beside {case.labels[case.reference]}"
    what = f"Cycles per {case.per}-second for {carried(config)} alone, {beside}:"
    if words.of_two_cases_alone(screen) or (not case.lines and schedule_answer.is_asked(screen)):
        numbers = sorted({each.document["vcpus"] for each in screen.cases})
        host = f"{cpus}{counted(' to '.join(dict.fromkeys(map(str, (numbers[0], numbers[-1])))), 'vCPU')}"
        pair = f"All operations, one case less another, in us per {case.per}-second:"
        what = pair if words.of_two_cases_alone(screen) else "What the schedule comes to:"
    named = ", ".join([*kernels[:MOST_KERNELS], *(["..."] if len(kernels) > MOST_KERNELS else [])])
    return wrapped(f"{host}, Linux {named}. {what}")


def _table(screen: Shown, rows: int) -> Iterator[str]:
    answered = [case for case in screen.cases if case.lines]
    if words.of_two_cases_alone(screen):
        yield from _pairs(screen, rows)
        return
    if not answered and schedule_answer.is_asked(screen):
        yield from schedule_answer.lines(screen, most=rows)
        return
    if not answered:
        yield "  there is nothing to compare"
        return
    moved = [case for case in answered if _xss(case)]
    if len(screen.cases) <= SIDE_BY_SIDE:
        labels, everything = columns_of(answered, rows), columns_of(answered, sum(len(case.lines) for case in answered))
        left = f"{len(labels)} of {len(everything)} strategies" if len(labels) < len(everything) else ""
        heads = [case.title for case in screen.cases]
        lines = [(label, [_cell(case, label) for case in screen.cases]) for label in labels]
        lines += [("IA32_XSS (*)", [_xss_cell(case) for case in screen.cases])] if moved else []
    else:
        heads = _columns(screen, answered)
        some = screen.cases[: rows + 1] if len(screen.cases) <= rows + 1 else _ends(screen.cases, rows + 1)
        part_of_all = f"({len(some)} of {screen.of})" if len(some) < screen.of else ""
        left = f"{screen.heading[: LABEL - 4 - len(part_of_all)]} {part_of_all}"
        lines = [(case.short, [_cell(case, label) for label in heads]) for case in some]
        if len(heads) < COLUMNS and moved and XSS in screen.asks:
            heads = [*heads, "IA32_XSS (*)"]
            lines = [(label, [*cells, _xss_cell(case)]) for case, (label, cells) in zip(some, lines, strict=True)]
    yield f"  {left}"[: LABEL - 1].ljust(LABEL) + "".join(f"{head[: CELL - 1]:>{CELL}}" for head in heads)
    for label, cells in lines:
        yield f"  {label}"[: LABEL - 1].ljust(LABEL) + "".join(f"{cell:>{CELL}}" for cell in cells)


def _pairs(screen: Shown, rows: int) -> Iterator[str]:
    """Contrasts of two cases, each a line."""
    titles = names.titles(screen.comparison.results.cases)
    some = screen.between[:rows]
    part_of_all = f" ({len(some)} of {len(screen.between)})" if len(some) < len(screen.between) else ""
    lines = [(f"{titles.heading[: PAIR - 3 - len(part_of_all)]}{part_of_all}", "+- 95 %", "over the costs")]
    for each in some:
        lines.append((names.less(*(titles.short[of.case] for of in each.contrast)), *_amounts_of(screen, each)))
    for label, amount, over in lines:
        yield f"  {label}"[: PAIR - 1].ljust(PAIR) + f"{amount:>{AMOUNT}}{over:>{OVER}}"


def _amounts_of(screen: Shown, between: Between) -> tuple[str, str]:
    found = between.found
    if found is None:
        return "-", "-"
    scale = words.scale(screen, between)
    mark = " *" if found.verdict == "not shown" else ""
    low, high = (three_digits(scale * end) for end in (found.range.low, found.range.high))
    return with_half(scale * found.own.mean, scale * (found.own.high - found.own.mean)) + mark, f"{low} to {high}"


def _ends(cases: Sequence[ShownCase], most: int) -> list[ShownCase]:
    """At most ``most`` of the cases, evenly spaced."""
    last = len(cases) - 1
    return [cases[round(i * last / max(most - 1, 1))] for i in range(most)]


def _cell(case: ShownCase, label: str) -> str:
    line = line_called(case, label)
    if line is None:
        unsound = any(own == label and name in case.unsound for name, own in case.labels.items())
        return "unsound" if unsound else "-"
    return _amount(line.found.own_without_xss.mean, line.found.range_without_xss)


def _amount(mean: float, over: Range) -> str:
    spread = short_spread(over.low, over.high)
    return f"{si(mean)} [{spread}]"


def _notes(screen: Shown) -> Iterator[str]:
    """Sentences, the most important ones first."""
    shares = [abs(case.percent(line.found.own_without_xss.mean)) for case in screen.cases for line in case.lines]
    if shares:
        most = f"No strategy takes more than {percent(max(shares))} % of all CPU time"
        yield f"[] 95 % of draws from the ranges of the cost table. {_left_out(screen)}{most}."
    in_table = words.between(screen) if words.of_two_cases_alone(screen) else []
    if in_table:
        unshown = any(each.found is not None and each.found.verdict == "not shown" for each in screen.between)
        yield f"Over the costs: 95 % of draws from their ranges.{' (*) no difference shown.' * unshown}"
    if screen.n == 1:
        yield "NOT TESTED: one replication."
    yield from _of_xss(screen)
    yield from (each for each in words.sentences(screen, with_contrasts=False) if each not in in_table)


def _left_out(screen: Shown) -> str:
    """If lines are cases: how many strategies have no column."""
    answered = [case for case in screen.cases if case.lines]
    labels = columns_of(answered, sum(len(case.lines) for case in answered))
    there = len(_columns(screen, answered))
    return f"{there} of {len(labels)} strategies. " if len(screen.cases) > SIDE_BY_SIDE and there < len(labels) else ""


def _columns(screen: Shown, answered: Sequence[ShownCase]) -> list[str]:
    """The strategies that are columns if lines are cases; IA32_XSS takes one if it is asked about."""
    by_xss = XSS in screen.asks and any(map(_xss, answered))
    return columns_of(answered, COLUMNS - by_xss)


def _of_xss(screen: Shown) -> Iterator[str]:
    """What (*) means in the table; if there was no room for it, the writes of IA32_XSS in all cases."""
    moved = [case for case in screen.cases if _xss(case)]
    if not moved:
        return
    who = ", ".join(dict.fromkeys(line.label for case in moved for line in case.lines if line.found.xss.mean))
    if len(screen.cases) <= SIDE_BY_SIDE or XSS in screen.asks:
        yield f"(*) beside it, by writes of IA32_XSS: {who}."
        return
    ordered = sorted(moved, key=lambda case: abs(_xss(case)[0][0].mean))
    ends = [f"{_xss_cell(case)} ({case.title})" for case in (ordered[0], *ordered[1:][-1:])]
    yield f"Beside it, by writes of IA32_XSS: {' to '.join(ends)}; {who}."


def _xss(case: ShownCase) -> list[tuple[Estimate, Range]]:
    """The writes of IA32_XSS of a case that differ from the reference's: those of the first line that has any."""
    return [(line.found.xss, line.found.range_xss) for line in case.lines if line.found.xss.mean][:1]


def _xss_cell(case: ShownCase) -> str:
    return next((_amount(found.mean, over) for found, over in _xss(case)), "0")


def _reproduce(manifest: Mapping[str, Any]) -> list[str]:
    """How to get the same numbers; the command is whole or left out, since a part of it is another command."""
    costs = f"(costs.json: {manifest['files'][COSTS][:12]})" if manifest.get("files") else ""
    kept = "fpswitch run manifest.json, from the result directory"
    own = kept if manifest.get("files") else f"sim.run() of {manifest['scenario']} as it is here; nothing was kept"
    lines = (wrapped(f"Reproduce: {each or own} {costs}", "", "  ") for each in (command(manifest), ""))
    return next(each for each in lines if len(each) <= 2)


def command(manifest: Mapping[str, Any]) -> str:
    """The command line that gives the same numbers; empty for a run from Python (``sim.run``)."""
    words = iter(str(each) for each in manifest.get("command") or ())
    kept = []
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in OF_THE_SHOW:
            kept.append(word)
        elif OF_THE_SHOW[name] and not equals:
            next(words, None)
    if kept[:2] != ["fpswitch", "run"]:
        return ""
    for option, value in (("--seed", manifest["seed"]), ("--replications", manifest["replications"])):
        if not any(word.partition("=")[0] == option for word in kept):
            kept += [option, str(value)]
    return shlex.join(kept)
