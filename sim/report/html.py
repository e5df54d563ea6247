"""A report in one HTML file that needs no network: answer, figures, tables, costs, scenario, how to reproduce."""

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from sim.analysis.uncertainty.draws import factor
from sim.report import answer, html_answer, mail
from sim.report.amounts import si
from sim.report.markup import Cell, Markup, Number, details, element, joined, table
from sim.report.names import cost_row, cpu
from sim.report.shown import Shown
from sim.results.tables import case_columns
from sim.scenario.writing import written_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from sim.analysis.comparison import Comparison

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The page's Content-Security-Policy: nothing is loaded from anywhere."""
MOST_ROWS: Final = 20_000
"""The most rows of a table; for more a browser takes seconds."""
MOST_DRAWN: Final = 12
"""The most cases for which figures are drawn."""
SECTIONS: Final = ("Answer", "Figures", "Tables", "Costs", "Scenario", "Reproduce")


def page(screen: Shown, drawn: Mapping[str, Callable[[], "Figure"]]) -> str:
    """The report of a comparison; ``drawn`` draws its figures by their names."""
    parts = {
        "Answer": html_answer.body(screen),
        "Figures": joined(_figures(screen.comparison, drawn)),
        "Tables": joined(_tables(screen.comparison)),
        "Costs": joined(_costs(screen)),
        "Scenario": element("pre", written_text(_scenario(screen.manifest["resolved"]))),
        "Reproduce": joined(_reproduce(screen)),
    }
    links = [element("a", name, href=f"#{name.lower()}") for name in SECTIONS]
    sections = [element("section", element("h2", name), parts[name], id=name.lower()) for name in SECTIONS]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", answer.title(screen.manifest)),
        element("style", _file("page.css")),
    )
    body = element(
        "body",
        html_answer.heading(screen),
        element("nav", *links),
        *sections,
        element("script", _file("page.js")),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _file(name: str) -> Markup:
    return Markup((files("sim.report") / name).read_text(encoding="utf-8"))


# Figures.


def _figures(comparison: "Comparison", drawn: Mapping[str, Callable[[], "Figure"]]) -> Iterator[Markup]:
    if len(comparison.results.cases) > MOST_DRAWN:
        yield element("p", f"None: {len(comparison.results.cases)} cases are more than a figure can hold.")
        return
    for name, draw in drawn.items():
        yield element("figure", inline_svg(draw(), name))


def inline_svg(figure: "Figure", name: str) -> Markup:
    """A figure as an element of a page; ``name`` makes its ids its own."""
    from matplotlib import pyplot, rc_context

    text = io.StringIO()
    with rc_context({"svg.hashsalt": "fpswitch"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)([^")]+)', rf"\1{name}-\2", svg)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1))


# Tables.


def _tables(comparison: "Comparison") -> Iterator[Markup]:
    frames = {
        "Differences from the reference, on one schedule": comparison.df_differences(),
        "What the host did": comparison.df_schedule(),
        "Every metric of every strategy": comparison.df_metrics(),
        "Integrity": comparison.df_integrity(),
        "Break-even rates": comparison.df_break_even(),
        "Wake-up latencies": comparison.df_latency(),
    }
    known = case_columns(comparison.results.cases)
    for title, whole in frames.items():
        frame = whole.drop(columns=known)
        if not len(frame):
            continue
        if len(frame) > MOST_ROWS:
            yield element("p", f"{title}: {len(frame)} rows; fpswitch compare --json has them.")
        else:
            yield details(f"{title} ({len(frame)} rows)", _frame(frame))


def _frame(frame: "pd.DataFrame") -> Markup:
    columns = [str(column) for column in frame.columns]
    rows = [list(map(_cell, columns, row)) for row in frame.itertuples(index=False, name=None)]
    return table(columns, rows)


P_VALUES: Final = ("p", "p_adjusted")


def _cell(column: str, value: Any) -> Cell:
    if isinstance(value, str):
        return html_answer.name(value) if column == "strategy" else value
    if column in P_VALUES:
        return Number(float(value), html_answer.p_text(float(value)))
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return str(value)
    number = float(value)
    return Number(number, str(value) if isinstance(value, int) else small(number) or si(number, 4))


def small(number: float) -> str:
    """A number that three decimals would show as 0; empty for others."""
    return f"{number:.3g}" if 0 < abs(number) < LEAST else ""


LEAST: Final = 0.01


# Costs.


ROW: Final = ("row", "value", "low", "high", "clock", "grade", "% of the cost", "source (unfold: conditions)")


def _costs(screen: Shown) -> Iterator[Markup]:
    """Each row of the cost tables that priced some operation of the run, and where it comes from."""
    yield element(
        "p",
        "Every row that was used. The share is the row's largest share of a strategy's whole cost. Rows that are "
        "drawn together have the same factor.",
    )
    seen = set()
    for case in screen.comparison.results.cases:
        if case["cost_table"] in seen:
            continue
        seen.add(case["cost_table"])
        used = screen.answers.used(case["case"])
        rows = screen.answers.table(case["case"]).rows
        lines: list[list[Cell]] = []
        for name, share in sorted(used.items(), key=lambda each: -each[1]):
            row = rows[name]
            numbers = [Number(value, f"{value:g}") for value in (row.value, row.low, row.high)]
            more = element("p", f"{row.conditions} ({row.date}); table {row.table}, factor {factor(row)}")
            about = details(row.source, more)
            lines.append([cost_row(row), *numbers, row.clock, row.grade, Number(share, f"{100 * share:.2f}"), about])
        yield element("h3", f"{case['cost_table']} (for {cpu(case['cpu'])})")
        yield table(ROW, lines)


# The scenario.


def _scenario(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The scenario, with cost tables by name; the manifest names them by their place in the directory."""
    host = dict(resolved["host"])
    if "costs" in host:
        host["costs"] = {cpu: name.rpartition("#")[2] for cpu, name in host["costs"].items()}
    return {**resolved, "host": host}


# How to reproduce.


def _reproduce(screen: Shown) -> Iterator[Markup]:
    manifest = screen.manifest
    yield element("p", "From the result directory, on any machine, with byte-identical tables:")
    yield element("pre", "fpswitch run manifest.json")
    if command := mail.command(manifest):
        yield element("p", "Without it, with the same version and cost tables:")
        yield element("pre", command)
    facts: Mapping[str, Any] = {
        "versions": manifest["versions"],
        "commit": manifest.get("commit"),
        "platform": manifest.get("platform"),
        "scenario_sha256": manifest["scenario_sha256"],
        "fingerprint": manifest["fingerprint"],
        "seed": manifest["seed"],
        "replications": manifest["replications"],
        "cost tables": {case["cost_table"]: case["cost_table_sha256"] for case in screen.comparison.results.cases},
        "started": manifest.get("started"),
        "wall_s": manifest.get("wall_s"),
    }
    yield element("pre", json.dumps({key: value for key, value in facts.items() if value is not None}, indent=1))
