"""What the commands share: the --json option, options for keys of a scenario, and how a result is printed."""

import json
import os
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
from tabulate import tabulate

from sim.errors import InputError, one_line

_HEXADECIMAL = re.compile("[0-9a-fA-F]{1,32}")
_MASK = re.compile("-?(0[xX][0-9a-fA-F]{1,32}|0|[1-9][0-9]{0,38})")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on standard output and nothing else there."
)

set_option = click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Any key of the scenario, such as host.cpus=64; VALUE as in TOML, or a bare word. May be repeated.",
)

_Command = TypeVar("_Command", bound=Callable[..., Any])


_Item = TypeVar("_Item")


def counting_events(steps: Iterator[_Item]) -> Iterable[_Item]:
    """The same, with a bar on standard error where that is a terminal."""
    from tqdm import tqdm

    return tqdm(steps, desc="events", unit="", unit_scale=True, disable=None, file=sys.stderr, ncols=72)


def jobs_option(of: str = "Processes") -> Callable[[_Command], _Command]:
    """The --jobs option."""
    return click.option("--jobs", type=int, metavar="N", callback=_jobs, help=f"{of}; by default one per CPU.")


def _jobs(context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    if value is not None:
        from sim.processes import check_jobs

        check_jobs(value)
    return value


class Overrides(NamedTuple):
    """What :func:`sim.scenario.reading.read` takes: values by the path of the key, and what the user calls each."""

    values: dict[str, Any]
    options: dict[str, str]


def scenario_options(command: _Command) -> _Command:
    """The options that take the place of keys of a scenario file; :func:`overrides` makes keys of them again."""
    for option in reversed(
        (
            click.option("--strategies", metavar="A,B", help="Only these (names or files), and the reference."),
            click.option("--reference", metavar="STRATEGY", help="The strategy from which differences are taken."),
            click.option("--contrast", metavar="A,B", multiple=True, help="A pair to ask about. May be repeated."),
            click.option("--cpu", metavar="A,B", help="CPU profiles."),
            click.option("--kernel", metavar="A,B", help="Kernels."),
            click.option("--case", metavar="NAME", multiple=True, help="Only this case. May be repeated."),
            click.option("--measure", metavar="TIME", help="Simulated time of a replication."),
            click.option("--replications", metavar="N", type=int, help="Exactly this many."),
            click.option("--precision", metavar="SHARE", help='As many as this precision takes, such as "1 %".'),
            click.option("--feedback", is_flag=True, default=None, help="Also each strategy on a schedule of its own."),
            click.option("--seed", metavar="N", type=int, help="The seed of all random streams."),
            click.option("--engine", metavar="NAME", help="simpy, compiled or auto; the results are the same."),
            set_option,
        )
    ):
        command = option(command)
    return command


def overrides(given: Mapping[str, Any]) -> Overrides:
    """The values of :func:`scenario_options` that were given.

    A file among them is relative to the current directory, unlike one that a scenario file names.
    """
    keys = {
        "strategies": ("run.strategies", _names),
        "reference": ("run.reference", None),
        "contrast": ("run.contrasts", lambda pairs: [_pair(pair) for pair in pairs]),
        "cpu": ("host.cpu", _listed),
        "kernel": ("host.kernel", _listed),
        "case": ("run.cases", list),
        "measure": ("run.measure", None),
        "replications": ("run.replications", None),
        "precision": ("run.precision", None),
        "feedback": ("run.feedback", None),
        "seed": ("run.seed", None),
        "engine": ("run.engine", None),
    }
    values: dict[str, Any] = {}
    options: dict[str, str] = {}
    for name, (path, parse) in keys.items():
        value = given.get(name)
        if value is not None and value != ():
            values[path] = parse(value) if parse else value
            options[path] = f"--{name}"
    for text in given["settings"]:
        path, value = _setting(text)
        if path in options:
            raise InputError(f"--set {path}: found beside {options[path]}; allowed: one of them")
        values[path], options[path] = value, f"--set {path}"
    return Overrides(values, options)


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.split(",")]


def _pair(text: str) -> list[str]:
    pair = _listed(text)
    if len(pair) != 2:
        raise InputError(f"--contrast {text!r}: allowed are two strategies, as in manual-load,xstate-guest")
    return pair


def _names(text: str) -> list[str] | str:
    return "all" if text.strip() == "all" else _listed(text)


def _setting(text: str) -> tuple[str, Any]:
    """Path and value of --set."""
    from sim.scenario.explain import keys, path_text

    key, equals, written = text.partition("=")
    try:
        path = path_text(keys(key.strip())) if equals else ""
    except ValueError:
        path = ""
    if not path:
        raise InputError(f"--set: found {text!r}; allowed: KEY=VALUE, such as host.cpus=64 or guests.web.demand='1 ms'")
    try:
        document = tomllib.loads(f"value = {written}")
    except ValueError as error:
        if written.lstrip().startswith(("[", "{", '"', "'")):
            raise InputError(f"--set {path}: found {written!r}, which is not TOML: {error}") from error
        return path, written.strip()
    value = document["value"] if len(document) == 1 else written
    if path == "host.kernel" and isinstance(value, float):
        return path, written.strip()  # 6.10 is another kernel than 6.1
    return path, value


def parse_mask(text: str, what: str) -> int:
    """A mask as the user writes it: hexadecimal with 0x in front, or decimal, which is said; ``what`` is what a message
    calls it.
    """
    if not _MASK.fullmatch(text):
        meant = f"; did you mean 0x{text}?" if _HEXADECIMAL.fullmatch(text) else ""
        raise InputError(f"{what} {text!r}: not a number (0x1800 and 6144 are){meant}")
    mask = int(text, 0)
    if text.isdecimal() and mask > 9:
        say([f"{what} {text} is decimal, {mask:#x} (0x{text} is hexadecimal)"])
    return mask


def kernel_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A kernel as an option names it: 6.18 is v6.18."""
    from sim.kernel.releases import spelled

    return None if value is None else spelled(value)


def emit(document: Any, text: str, as_json: bool, *, err: bool = False) -> None:
    """Prints ``document`` as JSON, or ``text``, in which control characters of an input are as Python writes them."""
    click.echo(json.dumps(document, indent=1) if as_json else "\n".join(map(one_line, text.split("\n"))), err=err)


def emit_of_file(path: Path, document: Any, text: str, as_json: bool) -> None:
    """The same of a file that has been written: on standard error if that was standard output."""
    emit(document, text, as_json, err=_is_standard_output(path))


def _is_standard_output(path: Path) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):  # a stream without a descriptor, as in a notebook
        return False


def say(notes: Iterable[str]) -> None:
    """Prints notes on standard error."""
    for note in notes:
        click.echo(f"fpswitch: {one_line(note)}", err=True)


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """A plain-text table, columns aligned, nothing converted or rounded."""
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)


WIDTH = 100
"""Columns of the texts that explain something."""


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph; continued lines are indented twice as far."""
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent * 2, break_long_words=False, break_on_hyphens=False
    )


def by_text(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Names by what is said of them, so that it is said once."""
    names: dict[str, list[str]] = {}
    for name, text in pairs:
        names.setdefault(text, []).append(name)
    return names


def by_reason(refused: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Strategies by why they cannot be run, in which each is "this strategy"."""
    return by_text((name, why.replace(f"strategy {name}", "this strategy")) for name, why in refused)


def yes(value: bool) -> str:
    """yes or no."""
    return "yes" if value else "no"
