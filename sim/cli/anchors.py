"""`fpswitch verify anchors`: predictions beside published numbers."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from tabulate import tabulate

from sim.cli.common import emit, json_option

if TYPE_CHECKING:
    from sim.verification.anchors.data import Anchors
    from sim.verification.anchors.predictions import Prediction

WIDTH = 72
MARKS = {"untouched": "", "input": "input", "same as an input": "same", "difference of others": "diff."}
LEGEND = (
    "model: the prediction, with each row of the cost table at its value. range: the middle 95 % of draws of the "
    "costs; many values lie at the low end of their ranges, so that a prediction can lie below it. input: a row of the "
    "cost table that the prediction uses, or one that it comes from, names the source of the number: no evidence. "
    "same: another number is an input to the same prediction. diff.: the difference of two other numbers. floor: the "
    "prediction leaves something out and can only be too low. bound: smaller than the spread of its source, within "
    "which the prediction should lie. TSC cycles where no unit is named."
)


@click.command(short_help="Compare predictions with published numbers.")
@json_option
def anchors(as_json: bool) -> None:
    """Print published experiments, what the model predicts for them, and which of them are evidence.

    A prediction is the sequence of the kernel model that an experiment runs, priced with the cost table of its CPU. A
    number that was an input to that table is marked, and is not evidence: the sources of the table's rows say which.
    Series that contradict each other are kept apart. Known measurements that the model cannot express come last.

    No error of a prediction is a failure, whatever its size: the exit status is 0, or 2 if the model cannot run an
    experiment.

    With --json: {"anchors": [{"id", "title", "series", "published", "low", "high", "unit", "source", "date", "cpu",
    "stands_for", "cost_table", "predicted", "predicted_low", "predicted_high", "error_percent", "within" (low to high;
    null: no spread is published), "standing", "with" (ids), "evidence", "floor", "bound", "touched": [{"table", "row",
    "where"}], "operations": {OPERATION: N}, "note"}], "counts": {"untouched", "floors", "bounds", "inputs",
    "same_as_an_input", "differences_of_others"}, "series": {NAME: text}, "not_expressible": [{"title", "published",
    "source", "date", "why"}]}.

    \b
    Example:
      fpswitch verify anchors
    """
    from sim.verification.anchors.data import read
    from sim.verification.anchors.predictions import count, predict

    data = read()
    predictions = predict(data)
    counts = count(predictions)
    document = {
        "anchors": [_as_document(each) for each in predictions],
        "counts": counts,
        "series": data.series,
        "not_expressible": [
            {
                "title": each.title,
                "published": each.published,
                "source": each.source,
                "date": each.date,
                "why": each.why,
            }
            for each in data.not_expressible
        ],
    }
    emit(document, "\n\n".join(_as_text(data, predictions, counts)), as_json)


def _as_document(each: "Prediction") -> dict[str, Any]:
    anchor = each.anchor
    return {
        "id": anchor.id,
        "title": anchor.title,
        "series": anchor.series,
        "published": anchor.published,
        "low": anchor.low,
        "high": anchor.high,
        "unit": anchor.unit,
        "source": anchor.source,
        "date": anchor.date,
        "cpu": anchor.cpu,
        "stands_for": anchor.stands_for,
        "cost_table": anchor.table or anchor.cpu,
        "predicted": each.predicted,
        "predicted_low": each.low,
        "predicted_high": each.high,
        "error_percent": each.error_percent,
        "within": each.within,
        "standing": each.standing,
        "with": list(each.with_anchors),
        "evidence": each.standing == "untouched",
        "floor": anchor.floor,
        "bound": anchor.is_bound,
        "touched": [touch._asdict() for touch in each.touched],
        "operations": dict(each.operations),
        "note": anchor.note,
    }


def _as_text(data: "Anchors", predictions: "Sequence[Prediction]", counts: dict[str, int]) -> Iterator[str]:
    for name, about in data.series.items():
        mine = [each for each in predictions if each.anchor.series == name]
        yield _fill(f"== {name}: {about}") + "\n\n" + _series(mine) + _notes(mine)
    yield _fill(LEGEND)
    left = counts["untouched"] - counts["floors"] - counts["bounds"]
    yield _fill(
        f"Of {len(predictions)} numbers, {counts['untouched']} are untouched. Of these {counts['floors']} have a floor "
        f"for a prediction and {counts['bounds']} are bounds; {left} can be compared. {counts['inputs']} were inputs, "
        f"{counts['same_as_an_input']} have an input's prediction, {counts['differences_of_others']} are differences."
    )
    yield "Known measurements that the model cannot express\n\n" + "\n".join(
        _fill(f"- {each.title}, {each.published} ({each.source}): {each.why}.", "  ") for each in data.not_expressible
    )


def _series(predictions: "Sequence[Prediction]") -> str:
    rows = []
    for each in predictions:
        anchor = each.anchor
        mark = MARKS[each.standing] or ("floor" if anchor.floor else "bound" if anchor.is_bound else "")
        unit = {"TSC cycles": "", "core cycles": " core", "ns": " ns"}[anchor.unit]
        error = ("within" if each.within else "outside") if anchor.is_bound else _percent(each.error_percent)
        span = f"{each.low:.{_digits(each.low)}f}-{each.high:.{_digits(each.low)}f}"
        predicted = f"{each.predicted:.{_digits(anchor.published)}f}"
        rows.append((anchor.title, f"{anchor.published:g}{unit}", predicted, span, error, mark))
    headers = ("", "publ.", "model", "range", "error", "")
    align = ("left", "right", "right", "right", "right", "left")
    return tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True, colalign=align)


def _percent(error: float) -> str:
    return "0%" if abs(error) < 0.5 else f"{error:+.0f}%"


def _digits(value: float) -> int:
    return 1 if abs(value) < 10 else 0


def _notes(predictions: "Sequence[Prediction]") -> str:
    lines: dict[str, list[str]] = {}
    for each in predictions:
        anchor = each.anchor
        notes = [f"{anchor.source}, {anchor.date}.", anchor.note]
        if anchor.stands_for:
            notes.append(f"{anchor.cpu} stands for {anchor.stands_for}.")
        if anchor.floor:
            notes.append(f"Not in the prediction: {anchor.floor}.")
        if each.touched:
            rows = list(dict.fromkeys(touch.row for touch in each.touched))
            more = f" and {len(rows) - 2} more" if len(rows) > 2 else ""
            notes.append(f"Known to {', '.join(rows[:2])}{more}.")
        lines.setdefault(" ".join(note for note in notes if note), []).append(anchor.title)
    return "\n\n" + "\n".join(_fill(f"{'; '.join(titles)}: {text}", "  ") for text, titles in lines.items())


def _fill(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent * 2, break_on_hyphens=False, break_long_words=False
    )
