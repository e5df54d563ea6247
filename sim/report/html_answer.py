"""The first screen as HTML: the same sentences, and tables of all strategies that can be sorted."""

from collections.abc import Iterator
from typing import Final

from sim.report import answer, schedule_answer, schedule_table, sureness, units, words
from sim.report.amounts import fixed, percent, si, spread, with_half
from sim.report.markup import Cell, Markup, Number, element, joined, table
from sim.report.shown import Line, Shown, ShownCase
from sim.report.tables import reference_text

STRATEGY: Final = ("strategy", "name", "us per {}-s", "% of all CPUs", "cycles per {}-s", "95 % of draws")
COLUMNS: Final = (*STRATEGY, "IA32_XSS", "p", "assumed")
LOAD: Final = ("case", "exits", "switches", "KVM_RUN", "halts", "load+put", "busy")


def heading(screen: Shown) -> Markup:
    """What was simulated, and warnings about it."""
    manifest = screen.manifest
    parts = [
        element("h1", answer.title(manifest)),
        element("p", f"{answer.host(screen)}; {answer.replications(screen)}, seed {manifest['seed']}", class_="host"),
    ]
    parts += [element("p", text, class_="warning") for text in answer.warnings(screen)]
    question = manifest["resolved"].get("question", "").strip()
    return joined([*parts, *([element("p", question)] if question else [])])


def body(screen: Shown) -> Markup:
    """The answer, how sure it is, the load, and what is not there."""
    parts = [element("p", _signs(words.in_words(screen)), class_="answer"), *(_case(case) for case in screen.cases)]
    if screen.of > len(screen.cases):
        parts.append(element("p", f"{len(screen.cases)} of {screen.of} cases are shown, evenly spaced."))
    for label, text in (
        ("In your units", " ".join(units.sentences(screen))),
        ("How sure", " ".join(next(iter(sureness.texts(screen)), []))),
        ("How the host reacts", answer.host_text(words.host(screen))),
        ("Not shown", "; ".join(answer.what_is_missing(screen))),
        ("Unsound", answer.unsound_text(screen)),
    ):
        if text:
            parts += [element("h3", label), element("p", _signs(text))]
    parts += [
        element("h3", "Load"),
        _load(screen),
        schedule_table.html(screen),
        schedule_answer.html(screen),
        element("h3", "Cite"),
        element("p", answer.cite(screen)),
    ]
    return joined(parts)


def _signs(text: str) -> str:
    """The typographic signs for what plain text writes in ASCII."""
    return text.replace("+-", "\N{PLUS-MINUS SIGN}")


def _case(case: ShownCase) -> Markup:
    head = element("h3", f"{case.title}: {reference_text(case)}")
    if case.incomplete:
        return joined([head, element("p", case.incomplete, class_="warning")])
    if case.reference in case.unsound:
        text = f"{case.reference} violates integrity: there is no cost to compare with."
        return joined([head, element("p", text, class_="warning")])
    if not case.lines:
        return joined([head, element("p", "There is nothing to compare.")])
    return joined([head, table([each.format(case.per) for each in COLUMNS], list(_rows(case)))])


def _rows(case: ShownCase) -> Iterator[list[Cell]]:
    for line in case.in_order(case.lines):
        yield _row(case, line)


def _row(case: ShownCase, line: Line) -> list[Cell]:
    found = line.found
    own, over = found.own_without_xss, found.range_without_xss
    return [
        name(line.label),
        joined(map(name, line.names), " = "),
        Number(case.us(own.mean), _signs(with_half(case.us(own.mean), case.us(own.high - own.mean)))),
        Number(case.percent(own.mean), percent(case.percent(own.mean))),
        Number(own.mean, si(own.mean)),
        Number(over.median, spread(over.low, over.high)),
        Number(found.xss.mean, si(found.xss.mean, sign="+") if found.xss.mean else "0"),
        Number(p := found.p_without_xss if found.planned else found.p_without_xss_adjusted, p_text(p)),
        Number(found.assumed, f"{100 * found.assumed:.0f} %"),
    ]


def name(text: str) -> Markup:
    """A text that is not broken over two lines."""
    return element("span", text, class_="name")


def p_text(p: float) -> str:
    """A p-value; a dash if nothing was tested."""
    return "-" if p != p else "< 1e-4" if p < 1e-4 else f"{p:.4f}"


def _load(screen: Shown) -> Markup:
    rows: list[list[Cell]] = []
    for case in screen.cases:
        if case.load is not None:
            load = case.load
            rates = (load.exits, load.switches, load.kvm_runs, load.halts, load.load_puts)
            cells = [Number(rate, fixed(rate, 0)) for rate in rates]
            rows.append([case.title, *cells, Number(load.busy, f"{fixed(100 * load.busy, 0)} %")])
    return table(LOAD, rows, caption=f"per {screen.cases[0].per}-second; compare with perf kvm stat and perf stat")
