"""`fpswitch report`: a result directory as one HTML file."""

from pathlib import Path

import click

from sim.cli.common import emit_of_file, json_option, say
from sim.errors import InputError


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("-o", "--out", default="report.html", show_default=True, metavar="FILE", help="The file to write.")
@click.option("--reference", metavar="STRATEGY", help="The strategy from which differences are taken.")
@json_option
def report(directory: str, out: str, reference: str | None, as_json: bool) -> None:
    """Write the results in DIR as one HTML file: answer, figures, tables, costs, scenario, how to reproduce.

    The file needs and loads nothing else, so that it can be sent to a colleague or kept with a mail. Figures are drawn
    anew, from the tables. An existing FILE is replaced.

    With --json: {"report": path, "bytes"}.

    \b
    Examples:
      fpswitch report results/rfc-question -o report.html
      fpswitch report results/rfc-question --reference manual-load
    """
    from sim.report.comparison import compare
    from sim.results import files, load

    path = Path(out)
    if path.is_dir():
        raise InputError(f"{out}: a directory (allowed: a file to write)")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{out}: no such directory: {path.absolute().parent}")
    results = load(directory)
    say(results.notes)
    page = compare(results, reference).report()
    files.write(path, page.encode())
    size = len(page.encode())
    emit_of_file(path, {"report": out, "bytes": size}, f"{out}: {size / 1e6:.1f} MB", as_json)
