"""What the commands share: the --json option, and how a result is printed."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from tabulate import tabulate

from sim.errors import InputError

_MASK = re.compile("-?(0[xX][0-9a-fA-F]{1,32}|0|[1-9][0-9]{0,38})")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on standard output and nothing else there."
)


_Command = TypeVar("_Command", bound=Callable[..., Any])


def scenario_options(command: _Command) -> _Command:
    """The options that take the place of keys of a scenario file; :func:`overrides` makes keys of them again."""
    for option in reversed(
        (
            click.option("--strategies", metavar="LIST", help="Strategies or their files, with commas, or all."),
            click.option("--reference", metavar="NAME", help="The strategy from which differences are taken."),
            click.option("--replications", metavar="N", type=int, help="How often each strategy runs."),
            click.option("--seed", metavar="N", type=int, help="Of all random streams."),
        )
    ):
        command = option(command)
    return command


def overrides(
    strategies: str | None, reference: str | None, replications: int | None, seed: int | None
) -> dict[str, Any]:
    """What :func:`sim.scenario.reading.read` takes: the values of the options that were given, by path.

    A file among the strategies is relative to the current directory, unlike one that a scenario file names.
    """
    names = None if strategies is None else [each.strip() for each in strategies.split(",")]
    given = {
        "run.strategies": "all" if names == ["all"] else names,
        "run.reference": reference,
        "run.replications": replications,
        "run.seed": seed,
    }
    return {path: value for path, value in given.items() if value is not None}


def parse_mask(text: str, what: str) -> int:
    """A mask as the user writes it: hexadecimal with 0x in front, or decimal; ``what`` is what an error calls it."""
    if not _MASK.fullmatch(text):
        raise InputError(f"{what} {text!r}: not a number (0x1800 and 6144 are)")
    return int(text, 0)


def emit(document: Any, text: str, as_json: bool) -> None:
    """Prints ``document`` as JSON, or ``text``."""
    click.echo(json.dumps(document, indent=1) if as_json else text)


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """A plain-text table, columns aligned, nothing converted or rounded."""
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
