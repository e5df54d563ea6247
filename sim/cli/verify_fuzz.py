"""`fpswitch verify fuzz`: damaged inputs for every reader."""

import sys
import time
from pathlib import Path

import click

from sim.cli.common import emit, json_option, say, table
from sim.errors import unknown


@click.command(short_help="Damage files of every kind: each is read, or refused.")
@click.option("--inputs", default=1000, show_default=True, metavar="N", help="Of each reader.")
@click.option("--reader", "only", metavar="NAME", multiple=True, help="Only this one. May be repeated.")
@click.option("--seed", default=1, show_default=True, metavar="N", help="Of the damage.")
@click.option(
    "--data",
    default="tests/data",
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Files to damage.",
)
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Where the first input of each kind goes.")
@json_option
def fuzz(inputs: int, only: tuple[str, ...], seed: int, data: Path, keep: Path | None, as_json: bool) -> None:
    """Damage files of every kind, and check that each is read, or refused in one message.

    What is checked: no traceback; at most 20 s of CPU time and 1 GiB for an input; nothing written elsewhere, no
    command run, no pickle loaded; no control character on the terminal; and one message, which names the file, in lines
    of at most 1,000 characters. The files are those of the package and, in a checkout, those of its tests. The exit
    status is 1 if a check failed.

    With atheris (the extra fuzz), inputs that reached new code are damaged further; without it, those with a new
    message.

    With --json: {"readers": [{"reader", "inputs", "messages" (of how many kinds), "reached" (inputs that got further
    than all before, or null), "seconds", "problems": {KIND: N}}]}.

    \b
    Examples:
      fpswitch verify fuzz --inputs 100000
      fpswitch verify fuzz --reader "boot log" --keep found
    """
    from sim.verification.fuzz import READERS, campaign

    for name in only:
        if name not in READERS:
            raise unknown("reader", name, READERS)
    documents, rows, kinds = [], [], []
    for name in only or READERS:
        began = time.monotonic()
        found = campaign(name, inputs, seed, data)
        seconds = round(time.monotonic() - began, 1)
        say([f"{name}: {found.inputs} inputs, {found.problems.total()} wrong, {seconds} s"])
        documents.append(
            {
                "reader": name,
                "inputs": found.inputs,
                "messages": len(found.messages),
                "reached": found.reached,
                "seconds": seconds,
                "problems": dict(found.problems.most_common()),
            }
        )
        reached = "" if found.reached is None else str(found.reached)
        rows.append((name, str(found.inputs), reached, str(len(found.messages)), str(found.problems.total())))
        kinds += [f"{name}: {kind} ({n} times)" for kind, n in found.problems.most_common()]
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for number, (kind, content) in enumerate(found.examples.items(), 1):
                stem = f"{name.replace(' ', '-')}-{number}"
                (keep / stem).write_bytes(content)
                (keep / f"{stem}.info").write_text(kind + "\n", encoding="utf-8")
    text = table(rows, ("reader", "inputs", "got further", "kinds of messages", "wrong"))
    emit({"readers": documents}, "\n\n".join(filter(None, (text, "\n".join(kinds)))), as_json)
    sys.exit(1 if kinds else 0)
