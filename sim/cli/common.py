"""What the commands share: the --json option, and how a result is printed."""

import json
from collections.abc import Sequence
from typing import Any

import click
from tabulate import tabulate

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on standard output and nothing else there."
)


def emit(document: Any, text: str, as_json: bool) -> None:
    """Prints ``document`` as JSON, or ``text``."""
    click.echo(json.dumps(document, indent=1) if as_json else text)


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """A plain-text table, columns aligned, nothing converted or rounded."""
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
