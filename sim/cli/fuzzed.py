"""The process in which ``fpswitch verify fuzz`` reads damaged inputs: lines of JSON on what it finds."""

import itertools
import json
import random
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from sim.cli import main, messages
from sim.cli.common import say
from sim.verification.fuzz.campaign import is_guided
from sim.verification.fuzz.readers import READERS
from sim.verification.fuzz.trying import Trying

COMPARED: Final = 0.1
"""How many of the results that can be loaded are compared, too, which takes a third of a second."""

_calls: Final = itertools.count()


def loaded(arguments: list[str]) -> Any:
    """The command on a result directory, most times no more of it than its loading; the first time, all is imported."""
    from sim.results import load

    with messages():
        load(arguments[1])
    if next(_calls) == 0 or random.random() < COMPARED:
        return main(arguments)
    sys.exit(0)


def kept(arguments: list[str]) -> Any:
    """What a run does with groups that it finds, of replications up to the most that a scenario may have."""
    from sim.results import parts
    from sim.results.groups import MOST_REPLICATIONS
    from sim.results.shelf import Shelf

    problems: list[str] = []
    with messages(), closing(Shelf()) as shelf:
        for group in parts.kept(Path(arguments[1]), problems):
            for same in {finished.same for finished in shelf.add(group)}:
                sum(len(table) for tables in shelf.tables(same, MOST_REPLICATIONS) for table in tables.values())
        say(problems)
    sys.exit(0)


COMMANDS: Final = {"compare": loaded, "kept": kept}


def tell(said: dict[str, Any]) -> None:
    """Says it to the campaign."""
    print(json.dumps(said), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    reader, number, begin, *paths = sys.argv[1:]
    data, place, corpus = map(Path, paths)
    trying = Trying(COMMANDS.get(READERS[reader].command[0], main), reader, int(number), data, place, tell)
    if not trying.seeds:
        tell({"none": True})
    elif is_guided():
        import atheris

        trying.guided(atheris, int(begin) % 2**31 or 1, corpus)
    else:
        trying.unguided(int(begin))
