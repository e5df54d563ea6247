"""What `fpswitch run --design` prints: each range, and how the strategies' own operations go with its values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim.cli.common import emit, table
from sim.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from sim.experiment.design import Design


SHOWN = ("mean", "least", "most")


def asked(
    design: str | None, ranges: Sequence[str], out: str | None, without_effect: Mapping[str, bool]
) -> "Design | None":
    """The design that was asked for; :class:`InputError` for a part of one, or none at all of a directory.

    ``without_effect``: which options were given that a design has no use for.
    """
    if design is None:
        if ranges:
            raise InputError(f"--range {ranges[0]} without --design (allowed: --design lhs:N, sobol:N or factorial:L)")
        return None
    from sim.experiment import Design

    if out is None:
        raise InputError("--design without --out (allowed: a directory of its own)")
    if beside := [name for name, is_given in without_effect.items() if is_given]:
        raise InputError(
            f"--design beside {', '.join(beside)} (allowed: without; fpswitch compare and report show a point of it, a "
            "directory in DIR/points)"
        )
    return Design.parsed(design, ranges)


def show(points: "pd.DataFrame", design: "Design", out: str, as_json: bool) -> None:
    """Prints the summary of a design's points."""
    from sim.analysis.by_point import by_value

    parts, documents = [], []
    for each in design.ranges:
        found = by_value(points, each.path)
        rows = [
            (_span(row["low"], row["high"]), row["case"], row["strategy"], *map(_us, (row[x] for x in SHOWN)))
            for row in found.to_dict("records")
        ]
        head = (f"{each.path}{f' ({each.unit})' if each.unit else ''}", "case", "strategy", "mean", "least", "most")
        parts.append(table(rows, head))
        documents.append({"path": each.path, "unit": each.unit or None, "quarters": found.to_dict("records")})
    first = (
        f"{design.n} points ({design.kind}); own operations less the reference's, us per vCPU-second, over quarters of "
        "the points"
    )
    where = f"{Path(out) / 'points.parquet'} has all points, {Path(out) / 'dataset'} all tables"
    emit({"out": out, "points": design.n, "ranges": documents}, "\n\n".join((first, *parts, where)), as_json)


def _span(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _us(value: float) -> str:
    return f"{value:+.1f}"
