"""The command line: options in, one call into the model, text or one JSON document out."""

import importlib
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from sim import __version__
from sim.errors import InputError, Interrupted, RunError, nearest

COMMANDS = {
    "run": ("sim.cli.run:run", "Simulate a scenario and compare its strategies."),
    "compare": ("sim.cli.run:compare", "Print the answer again, from a result directory."),
    "status": ("sim.cli.status:status", "Show the progress of a run, also while it runs."),
    "report": ("sim.cli.report:report", "Write a result directory as one HTML file."),
    "uncertainty": ("sim.cli.uncertainty:uncertainty", "Say how sure a ranking is, and which cost decides it."),
    "show": ("sim.cli.show:show", "Check a scenario and show all its values."),
    "scenarios": ("sim.cli.scenarios:scenarios", "List the shipped scenarios, and what each asks."),
    "new": ("sim.cli.scenarios:new", "Write a scenario to start from."),
    "price": ("sim.cli.price:price", "Price each strategy at your own rates."),
    "flow": ("sim.cli.flow:flow", "Show the operations of a sequence, in kernel order, and why."),
    "snapshot": ("sim.cli.snapshot:snapshot", "Save and restore a guest: which strategies lose what."),
    "kernels": ("sim.cli.kernels:kernels", "List the kernels of the model, and their differences."),
    "strategies": ("sim.cli.strategies:strategies", "Show each strategy on each kernel: masks, what KVM offers."),
    "patches": ("sim.cli.patches:patches", "Show what each of the RFC's eight patches does, and its fate."),
    "layout": ("sim.cli.layout:layout", "Show where components are in an XSAVE area."),
    "cpu": ("sim.cli.cpu:cpu", "Show and make CPU profiles."),
    "verify": ("sim.cli.verify:verify", "Check the model against recordings and published numbers."),
    "costs": ("sim.cli.costs:costs", "Show what operations cost, and where the numbers come from."),
    "calibrate": ("sim.cli.calibrate:calibrate", "Measure this machine and write a cost table."),
    "replay": ("sim.cli.replay:replay", "Check a recorded trace, and ask what-if."),
    "fit": ("sim.cli.fit:fit", "Write a scenario that behaves like a recorded host."),
    "export": ("sim.cli.export:export", "Write a simulated run in the form of a recorded trace."),
    "timeline": ("sim.cli.timeline:timeline", "Write a trace or a simulated run for the Perfetto UI."),
}
"""Each command's place, and its line in the help, for which nothing is imported."""


STDERR = 2
"""The number of standard error."""

INTERRUPTED_STATUS = 130
"""128 + SIGINT, as a shell has it."""


class _LazyGroup(click.Group):
    """Imports a command's module only when that command is used, so that the command line answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        command.short_help = COMMANDS[name][1]  # what completion shows
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """With the command that may have been meant: click looks among those that are imported."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and (near := nearest(name, COMMANDS)):
            ctx.fail(f"No such command {name!r}. Did you mean {near!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Click itself would make "Aborted!" and exit status 1 of an interrupt, also of one during imports."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            click.echo("fpswitch: interrupted", err=True)
            ctx.exit(INTERRUPTED_STATUS)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fpswitch")
def cli() -> None:
    """What does carrying FPU and CET state across vCPU context switches cost on x86 Linux/KVM?

    Exit status: 0 done, 1 a check failed, 2 the input is wrong, 130 interrupted.

    \b
    Examples:
      fpswitch run rfc-question
      fpswitch flow preempt --strategy xstate-guest --cpu sapphire-rapids --kernel v6.18
    """


def main(arguments: list[str] | None = None) -> Any:
    """Runs the command line; a wrong input is one message on standard error and exit status 2.

    A broken pipe ends it quietly (click sees to that); if the output cannot be written for another reason, that is one
    message and exit status 1.  What cannot be written to standard error changes nothing.
    """
    _open_standard_streams()
    if sys.stderr is sys.__stderr__:  # as it is without a test or a notebook around
        sys.stderr = _standard_error()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal's encoding lacks is no reason to end
    with messages():
        return cli.main(args=arguments, prog_name="fpswitch")


def _open_standard_streams() -> None:
    """A socket or a file that got the number of a stream that was closed would be taken for that stream."""
    with suppress(OSError):  # a bare container need not have the device
        while (opened := os.open(os.devnull, os.O_RDWR)) <= STDERR:
            os.set_inheritable(opened, True)
        os.close(opened)


class _Lossy(io.FileIO):
    """What cannot be written to it is lost."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _standard_error() -> io.TextIOWrapper:
    """Standard error, which may have been closed from the start, or may be a pipe that nobody reads any more."""
    before = sys.stderr
    if before is None:
        with suppress(OSError):
            return open(os.devnull, "w")
        return io.TextIOWrapper(io.BytesIO())
    with suppress(OSError):
        before.flush()
    buffer = io.BufferedWriter(_Lossy(before.fileno(), "w", closefd=False))
    return io.TextIOWrapper(buffer, encoding=before.encoding, errors="backslashreplace", line_buffering=True)


@contextmanager
def messages() -> Iterator[None]:
    """Makes of an error one message, and the exit status that goes with it."""
    try:
        yield
    except InputError as error:
        click.echo(f"fpswitch: {error}", err=True)
        sys.exit(2)
    except RunError as error:
        click.echo(f"fpswitch: {error}", err=True)
        sys.exit(INTERRUPTED_STATUS if isinstance(error, Interrupted) else 1)
    except OSError as error:
        why = error.strerror or str(error)
        if error.filename is not None:
            click.echo(f"fpswitch: {error.filename}: {why}", err=True)
        elif not isinstance(error, FileNotFoundError):
            click.echo(f"fpswitch: cannot write the output: {why}", err=True)
            _drop_output()
        elif _is_nowhere():
            click.echo("fpswitch: the current directory is gone (allowed: one that exists)", err=True)
            sys.exit(2)
        else:  # of a library, which has the name of the file in its text
            click.echo(f"fpswitch: {why}", err=True)
        sys.exit(1)


def _is_nowhere() -> bool:
    """Whether the current directory is gone."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _drop_output() -> None:
    """What standard output still holds goes nowhere, so that Python does not try to write it once more at its end."""
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
