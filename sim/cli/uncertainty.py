"""`fpswitch uncertainty`: how sure a ranking is, which cost decides it, and which to measure next."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim.cli.common import emit, jobs_option, json_option, say
from sim.errors import InputError, unknown

if TYPE_CHECKING:
    from sim.analysis.uncertainty.counted import Counted
    from sim.analysis.uncertainty.report import CaseReport
    from sim.results.tables import Results

LEAST_DRAWS = 100
MOST_DRAWS = 100_000
MOST_AGAIN = 1000


@click.command()
@click.argument("results", metavar="RESULTS")
@click.option("--draws", type=int, default=10_000, show_default=True, metavar="N", help="Draws of the cost tables.")
@click.option("--seed", type=int, default=1, show_default=True, metavar="N", help="Seed of the draws.")
@click.option("--case", "names", multiple=True, metavar="CASE", help="Only this case; may be given more than once.")
@click.option(
    "--pair", "pairs", multiple=True, metavar="A,B", help="Print the break-even value of each row for A and B."
)
@click.option("--resimulate", type=int, default=0, metavar="N", help="Simulate N draws again, and compare.")
@jobs_option("Processes for --resimulate")
@click.option("--out", metavar="DIR", help="Write the report, its JSON and a figure for each part of it there.")
@json_option
def uncertainty(
    results: str,
    draws: int,
    seed: int,
    names: tuple[str, ...],
    pairs: tuple[str, ...],
    resimulate: int,
    jobs: int | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Price the run in the result directory RESULTS again, with every draw of its cost tables from the rows' ranges.

    For each case it says how probable it is that each strategy is cheaper than each other one, with intervals over
    replications and costs together; how much of the variance of a difference each factor explains; at which value of a
    row the order of two strategies is reversed; and which factor to measure next. A factor is a row with all rows that
    are derived from it; they are drawn together. Everything is given with and without the switching of IA32_XSS, with
    the distributions of the table and with all rows uniform. The counts of operations stay those of the run;
    --resimulate shows how much that matters.

    With --json: {"results", "scenario", "draws", "seed", "cases": [{"case", "cpu", "kernel", "cost_table", "unit",
    "reference", "violating", "replications", "views": [{"xss", "distributions" ("table" or "uniform"), "strategies":
    {NAME: {"cost", "difference", "cheapest"}}, "cheaper": {A: {B: probability}}, "variance": [{"a", "b", "factors":
    {FACTOR: share}, "interaction", "replications", "deviation"}], "measure_next": [{"factor", "rows", "doubt",
    "reduction", "pairs": [{"cheaper", "more_expensive", "reduction"}]}]}], "break_even": [{"xss", "cheaper",
    "more_expensive", "row", "value" (null: none), "wins", "within", "steady", "clock", "now", "low", "high"}],
    "together": [{"xss", "cheaper", "more_expensive", "share"}], "feedback": [{"draw", "strategy", "cost_repriced",
    "cost_simulated", "difference_repriced", "difference_simulated", "departure"}], "departure":
    {"largest_cost_percent", "largest_difference_percent", "clear", "differences", "turned", "pairs"} or null}]}. "cost"
    and "difference" are {"replications", "costs", "joint"}, each {"mean", "low", "high"} in "unit", as is the
    "departure" of a draw. docs/uncertainty.md says what each means.

    \b
    Examples:
      fpswitch uncertainty results/rfc-question
      fpswitch uncertainty results/rfc-question --pair manual-load,xstate-guest --out uncertainty/
    """
    _check(draws, LEAST_DRAWS, MOST_DRAWS, "draws")
    _check(seed, 0, 2**63, "seed")
    _check(resimulate, 0, MOST_AGAIN, "resimulate")
    from sim.analysis.uncertainty.report import as_document, read_cases, report
    from sim.report.uncertainty_text import as_text, heading
    from sim.results import load

    run = load(results)
    say(run.notes)
    cases = _chosen(read_cases(run), names)
    asked = [_pair(text, cases) for text in pairs]
    folder = _folder(out) if out else None
    texts, documents = [heading(draws, seed)], []
    for case in cases:  # one at a time: the draws of one case are enough to keep
        each = report(case, draws=draws, seed=seed)
        if resimulate:
            each = _again(run, each, resimulate, seed, jobs, folder)
        if as_json or folder:
            documents.append(as_document(each))
        texts.append(as_text(each, asked))
        if folder:
            from sim.report.uncertainty_figures import write_figures

            write_figures(each, folder, seed)
    head = {"results": results, "scenario": run.manifest["scenario"], "draws": draws, "seed": seed}
    document, text = head | {"cases": documents}, "\n\n".join(texts)
    if folder:
        (folder / "uncertainty.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        (folder / "uncertainty.txt").write_text(text + "\n", encoding="utf-8")
    emit(document, text, as_json)


def _check(value: int, least: int, most: int, what: str) -> None:
    if not least <= value <= most:
        raise InputError(f"{what} {value} (allowed: {least} to {most})")


def _folder(name: str) -> Path:
    """The directory for the report, made before anything is computed."""
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {name}: this directory cannot be made ({error.strerror})") from error
    return Path(name)


def _chosen(cases: "list[Counted]", names: tuple[str, ...]) -> "list[Counted]":
    there = [case.case for case in cases]
    for name in names:
        if name not in there:
            raise unknown("case", name, there)
    return [case for case in cases if not names or case.case in names]


def _pair(text: str, cases: "list[Counted]") -> tuple[str, str]:
    pair = [name.strip() for name in text.split(",")]
    if len(pair) != 2 or pair[0] == pair[1]:
        raise InputError(f"pair {text!r} (allowed: two strategies with a comma between them)")
    there = {name for case in cases for name in case.strategies}
    for name in pair:
        if name not in there:
            raise unknown("strategy", name, there)
    return pair[0], pair[1]


def _again(
    run: "Results", each: "CaseReport", number: int, seed: int, jobs: int | None, folder: Path | None
) -> "CaseReport":
    from dataclasses import replace

    from sim.analysis.schedules import walked
    from sim.analysis.uncertainty.report import file_name
    from sim.analysis.uncertainty.resimulation import resimulate
    from sim.experiment import run_cases
    from sim.scenario.cases import Case, cases
    from sim.scenario.reading import read

    assert run.directory, "it was loaded"
    scenario = read(run.directory / "manifest.json")
    case = next(case for case in cases(scenario) if case.name == each.coefficients.case)

    def rerun(case: Case) -> Any:
        return walked(run_cases(scenario, [case], jobs=jobs, progress=True)).ledger

    with tempfile.TemporaryDirectory() as temporary:
        tables = (folder or Path(temporary)) / f"draws-{file_name(each.coefficients.case)}"
        tables.mkdir(parents=True, exist_ok=True)
        found = resimulate(each.coefficients, case, rerun, tables, draws=number, seed=seed)
    return replace(each, feedback=found)
