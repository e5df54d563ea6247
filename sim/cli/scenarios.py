"""``fpswitch scenarios`` and ``fpswitch new``: the shipped scenarios, and one of one's own to start from."""

import textwrap
from importlib.resources import files
from pathlib import Path

import click

from sim.cli.common import emit, json_option
from sim.errors import InputError
from sim.scenario.shipped import Shipped, catalogue

WIDTH = 72


@click.command()
@json_option
def scenarios(as_json: bool) -> None:
    """List the shipped scenarios: what each asks, and how long it takes on two cores.

    Their names are known to every command that takes a scenario, and to extends in a scenario file.

    With --json: {"scenarios": [{"name", "question", "seconds"}]}.

    \b
    Examples:
      fpswitch scenarios
      fpswitch show rfc-question
    """
    found = catalogue()
    emit({"scenarios": [each._asdict() for each in found]}, _text(found), as_json)


@click.command()
@click.argument("file", metavar="FILE.toml")
@json_option
def new(file: str, as_json: bool) -> None:
    """Write a scenario to start from: small, complete, with comments that say what to change.

    With --json: {"file"}.

    \b
    Example:
      fpswitch new my-host.toml && fpswitch run my-host.toml
    """
    if not file.endswith(".toml"):
        raise InputError(f"FILE: found {file!r}; allowed: the path of a file that ends in .toml")
    template = (files("sim.scenario") / "new.toml").read_text(encoding="utf-8")
    try:
        with Path(file).open("x", encoding="utf-8") as stream:
            stream.write(template)
    except FileExistsError as error:
        raise InputError(f"{file!r} is there already; allowed: a new file") from error
    except (OSError, ValueError) as error:  # the latter for a null character
        raise InputError(f"cannot write {file!r}: {getattr(error, 'strerror', None) or error}") from error
    emit({"file": file}, f"{file}: change it, check it (fpswitch show {file}), run it (fpswitch run {file})", as_json)


def _text(found: list[Shipped]) -> str:
    names = max(len(each.name) for each in found)
    lines = []
    for each in found:
        head = f"{each.name:<{names}} {each.seconds:>5} s  "
        lines += textwrap.wrap(each.question, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    return "\n".join(lines)
