"""`fpswitch status`: how far a run is."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim.cli.common import emit, json_option
from sim.cli.design import status as of_design
from sim.errors import InputError
from sim.kinds import Kind, wanted

if TYPE_CHECKING:
    from sim.results.lock import Driver
    from sim.results.progress import Progress

LISTED = 4
ENDED = ("failed", "interrupted", "killed")


@click.command()
@click.argument("directory", metavar="DIR")
@json_option
def status(directory: str, as_json: bool) -> None:
    """Show what part of the run in DIR is done, running and failed, and how long the rest will take; also while it
    runs.

    Whether the process of a run is there is seen only from the same PID and time namespace, so not from another host
    or container. From elsewhere the run is "running" if its process said something in the last 10 minutes, as it does
    each second, and "silent" if not.

    The unit is a strategy in a replication of a case. The time left is estimated from what this run took so far; a run
    that goes on until it reaches a precision may need more. The exit status is 0 if the run is complete or still
    running, and 1 if it ended early or is silent.

    For a design: how many points are done, and which one is running; --json has {"directory", "scenario", "points",
    "finished", "last" (as below, of the last point that was begun)}.

    With --json: {"directory", "scenario", "status" ("running", "silent", "complete", "failed", "interrupted", or
    "killed": its process is gone), "silent_s" (since it said something; null if not silent), "finished", "in_flight"
    (done and not kept yet, those that run in part), "total", "total_is_fixed", "elapsed_s", "left_s", "per_second",
    "workers", "dashboard" (null where there is none), "process": {"pid", "host"}, "running" and "failed": [{"case",
    "timed_by", "replication"}], "error"}.

    \b
    Example:
      fpswitch status results/rfc-question
    """
    from sim.experiment.designs import NAME

    if (Path(directory) / NAME).exists():
        found = of_design(Path(directory), _document)
        emit(found, _text_of_design(found), as_json)
        return
    document = _document(directory)
    emit(document, _text(document), as_json)
    if document["status"] in (*ENDED, "silent"):
        click.get_current_context().exit(1)


def _text_of_design(document: dict[str, Any]) -> str:
    n, total, last = document["finished"], document["points"], document["last"]
    first = f"{document['directory']}: a design of {document['scenario']}: {n} of {total} points ({n / total:.0%})"
    return first if last is None or n == total else f"{first}\n{_text(last)}"


def _document(directory: str) -> dict[str, Any]:
    from sim.results import lock, progress
    from sim.results import manifest as manifests

    path = Path(directory)
    with wanted(path, Kind.RESULT):
        if not path.is_dir():
            what = "not a directory" if path.exists() else "no such directory"
            raise InputError(f"{path}: {what} (allowed: the result directory of fpswitch run)")
    manifest, said, process = _read(path)
    status = manifest["status"]
    if running := status == manifests.RUNNING:
        status = process.state if process is not None else lock.KILLED
    if status == lock.KILLED:
        process = None
    if said is not None:
        finished, total = said.finished, said.total
    else:
        finished, total = progress.on_disk(path, manifest)
    failed = [(each["case"], each["timed_by"], each["replication"]) for each in manifest.get("failed", ())]
    names = ("case", "timed_by", "replication")
    return {
        "directory": str(path),
        "scenario": manifest["scenario"],
        "status": status,
        "silent_s": round(process.silent_s) if process is not None and status == lock.SILENT else None,
        "finished": finished,
        "in_flight": said.in_flight if said is not None else 0.0,
        "total": total,
        "total_is_fixed": not running or said is None or said.fixed,
        "elapsed_s": said.elapsed_s if said is not None else manifest.get("wall_s"),
        "left_s": said.left_s if said is not None else None,
        "per_second": said.per_second if said is not None else None,
        "workers": said.workers if said is not None else None,
        "dashboard": (said.dashboard or None) if said is not None else None,
        "process": {"pid": process.pid, "host": process.host} if process is not None else None,
        "running": [dict(zip(names, each, strict=True)) for each in (said.running if said else ())],
        "failed": [dict(zip(names, each, strict=True)) for each in (said.failed if said else failed)],
        "error": None if process is not None else _last_line(manifest.get("error")),
    }


def _read(path: Path) -> tuple[dict[str, Any], "Progress | None", "Driver | None"]:
    """The manifest; and of a run that has not ended what its driver says while it runs, and which process that is.

    A run that begins has said nothing yet, but has the lock; one that ends between two looks has a new manifest.
    """
    from sim.results import lock, progress
    from sim.results import manifest as manifests

    manifest = manifests.read(path)
    if manifest["status"] != manifests.RUNNING:
        return manifest, None, None
    said = progress.read(path)
    drivers = [said.driver] if said is not None else []
    if not drivers or drivers[0].state != lock.RUNNING:
        drivers += filter(None, [lock.holder(Path(os.path.realpath(path)))])
    process = max(drivers, key=lambda each: lock.STATES.index(each.state), default=None)
    again = manifests.read(path)
    if again["status"] != manifests.RUNNING:
        return again, None, None
    is_of_it = said is not None and process == said.driver and process.state == lock.RUNNING
    return again, said if is_of_it else None, process


def _last_line(error: str | None) -> str | None:
    lines = (error or "").strip().splitlines()
    return lines[-1] if lines else None


def _text(document: dict[str, Any]) -> str:
    n, total, process = document["finished"], document["total"], document["process"]
    who = f", process {process['pid']} on {process['host']}" if process else ""
    more = "" if document["total_is_fixed"] else ", more if the precision asks for it"
    flying = f", with {document['in_flight']:.1f} in progress" if document["in_flight"] else ""
    took = f" in {duration(document['elapsed_s'])}" if document["elapsed_s"] else ""
    lines = [
        f"{document['directory']}: {document['scenario']}, {document['status']}{who}",
        f"  done       {n} of {total}{more} ({min(1, (n + document['in_flight']) / max(total, 1)):.0%}{flying}){took}",
    ]
    for what in ("running", "failed"):
        names = [f"{each['case']} timed by {each['timed_by']} #{each['replication']}" for each in document[what]]
        shown = "; ".join(names[:LISTED]) + (f"; and {len(names) - LISTED} more" if len(names) > LISTED else "")
        if names or what == "failed":
            lines.append(f"  {what:<10} {shown or 'none'}")
    if document["workers"]:
        left = "not known yet" if document["left_s"] is None else f"about {duration(document['left_s'])}"
        lines += [f"  workers    {document['workers']}", f"  left       {left}"]
    if document["dashboard"]:
        lines.append(f"  dashboard  {document['dashboard']}")
    if document["error"]:
        lines.append(f"  error      {document['error']}")
    if document["silent_s"] is not None:
        lines.append(f"  said last  {duration(document['silent_s'])} ago; whether it runs cannot be seen from here")
    if document["status"] in ENDED:
        lines.append("  the same command continues it")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
