"""What the check of a trace notices: the table of docs/reference/trace-rules.md, from random places of the samples.

``python benchmarks/trace_corruption.py [PLACES]``: places per trace and class, 200 by default.  The limits are held by
tests/test_trace_check.py; this prints the numbers.
"""

import sys
from collections import Counter
from pathlib import Path

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from corruption import CLASSES, TRACES, Trace, break_places


def main() -> None:
    """Prints a line per class: outcomes, in percent of the places."""
    places = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    totals: dict[str, Counter[str]] = {name: Counter() for name in CLASSES}
    for path in TRACES:
        trace = Trace.read(path)
        for name in CLASSES:
            totals[name] += break_places(trace, name, places, seed=1)[0]
    rows = []
    for name, outcome in totals.items():
        shares = {kind: f"{number / outcome.total():.1%}" for kind, number in outcome.items()}
        legal = "; ".join(f"{share} {why}" for why, share in shares.items() if why not in ("contradicted", "inferred"))
        rows.append((name, outcome.total(), shares.get("contradicted", "0 %"), shares.get("inferred", "0 %"), legal))
    print(tabulate(rows, headers=("class", "places", "contradicted", "inferred or assumed", "else")))


if __name__ == "__main__":
    main()
