"""What the commands share: the --json option, and how a result is printed."""

import json
import re
from collections.abc import Sequence
from typing import Any

import click
from tabulate import tabulate

from sim.errors import InputError

_MASK = re.compile("-?(0[xX][0-9a-fA-F]{1,32}|0|[1-9][0-9]{0,38})")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on standard output and nothing else there."
)


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
