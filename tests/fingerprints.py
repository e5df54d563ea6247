"""Short hashes of the tables of every shipped scenario at a small size, by which an unmeant change of a number is seen.

``python tests/fingerprints.py`` prints them anew; a change that is meant goes into data/fingerprints.json, with its
reason in CHANGELOG.md.
"""

import hashlib
import json
from pathlib import Path

from hosts import FEWER, SHIPPED

from sim.experiment import run
from sim.results.tables import SCHEMAS
from sim.scenario.reading import read

KEPT = Path(__file__).parent / "data" / "fingerprints.json"
SMALL = {"run.measure": "2 ms", "run.warmup": "2 ms", "run.replications": 1, "run.seed": 1}


def fingerprint(path):
    """The hash of the four tables as text: it does not depend on how a library writes a file."""
    results = run(read(path, SMALL | {"run.engine": "simpy"} | FEWER.get(path.stem, {})), jobs=1)
    digest = hashlib.sha256()
    for name in ("ledger", "metrics", "latency", "integrity"):
        digest.update(getattr(results, name)[SCHEMAS[name].names].to_csv(index=False).encode())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    print(json.dumps({path.stem: fingerprint(path) for path in SHIPPED}, indent=1))
