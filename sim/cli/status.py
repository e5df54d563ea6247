"""`fpswitch status`: how far a run is."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim.cli.common import emit, json_option, say
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

    For a design the unit is a point, whatever the order in which they are run, and the time left is that of all points,
    by what those took that this driver has finished. --json has {"directory", "scenario", "status", "silent_s",
    "points", "finished", "in_flight", "elapsed_s", "left_s", "workers", "dashboard", "process", "error" (as below),
    "running": [{"point", "finished", "total" (null if it says nothing)}], "failed" (numbers of points), "last" (as
    below, of the last point that was begun; null if that cannot be read)}.

    With --json: {"directory", "scenario", "status" ("running", "silent", "complete", "failed", "interrupted", or
    "killed": its process is gone), "silent_s" (since it said something; null if not silent), "finished", "in_flight"
    (done and not kept yet, those that run in part), "total", "total_is_fixed", "before" (that were there when the run
    began; null if it has ended), "elapsed_s", "left_s", "per_second", "workers", "dashboard" (null where there is
    none), "process": {"pid", "host"}, "running" and "failed": [{"case", "timed_by", "replication"}], "error"}.

    \b
    Example:
      fpswitch status results/rfc-question
    """
    from sim.experiment.described import NAME

    notes: list[str] = []
    if (Path(directory) / NAME).exists():
        from sim.experiment import design_status

        document = design_status.document(Path(directory), _document, notes)
        text = _text_of_design(document)
    else:
        document = _document(directory, notes)
        text = _text(document)
    say(dict.fromkeys(notes))
    emit(document, text, as_json)
    if document["status"] in (*ENDED, "silent"):
        click.get_current_context().exit(1)


def _document(directory: str, notes: list[str]) -> dict[str, Any]:
    from sim.results import lock, progress
    from sim.results import manifest as manifests

    path = Path(directory)
    with wanted(path, Kind.RESULT):
        if not path.is_dir():
            what = "not a directory" if path.exists() else "no such directory"
            raise InputError(f"{path}: {what} (allowed: the result directory of fpswitch run)")
    manifest, said, process = _read(path, notes)
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
        "before": said.before if said is not None else None,
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


def _read(path: Path, notes: list[str]) -> tuple[dict[str, Any], "Progress | None", "Driver | None"]:
    """The manifest; and of a run that has not ended what its driver says while it runs, and which process that is.

    A run that begins has said nothing yet, but has the lock; one that ends between two looks has a new manifest.
    """
    from sim.results import lock, progress
    from sim.results import manifest as manifests

    manifest = manifests.read(path)
    if manifest["status"] != manifests.RUNNING:
        return manifest, None, None
    try:
        said = progress.read(path)
    except InputError as error:
        said = None
        notes.append(f"{error}; it is ignored")
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
    n, total = document["finished"], document["total"]
    more = "" if document["total_is_fixed"] else ", more if the precision asks for it"
    lines = [
        _first(document, document["scenario"]),
        f"  done       {n} of {total}{more} ({_share(document, total)}){_took(document)}",
        *_listed("running", [_name(each) for each in document["running"]]),
        *_listed("failed", [_name(each) for each in document["failed"]]),
    ]
    if document["workers"] is not None:
        lines += [*_workers(document), _left(document)]
    return "\n".join([*lines, *_last(document)])


def _text_of_design(document: dict[str, Any]) -> str:
    n, total, elapsed_s = document["finished"], document["points"], document["elapsed_s"]
    took = f"; this driver began {duration(elapsed_s)} ago" if elapsed_s is not None else ""
    running = [
        f"point {each['point']}" + (f" ({each['finished']} of {each['total']})" if each["total"] else "")
        for each in document["running"]
    ]
    lines = [
        _first(document, f"a design of {document['scenario']}"),
        f"  done       {n} of {total} points ({_share(document, total)}){took}",
        *_listed("running", running),
        *_listed("failed", [f"point {number}" for number in document["failed"]]),
    ]
    if document["process"]:
        lines += [*_workers(document), _left(document)]
    return "\n".join([*lines, *_last(document)])


def _first(document: dict[str, Any], what: str) -> str:
    process = document["process"]
    who = f", process {process['pid']} on {process['host']}" if process else ""
    return f"{document['directory']}: {what}, {document['status']}{who}"


def _share(document: dict[str, Any], total: int) -> str:
    flying = f", with {document['in_flight']:.1f} in progress" if document["in_flight"] else ""
    return f"{min(1, (document['finished'] + document['in_flight']) / max(total, 1)):.0%}{flying}"


def _took(document: dict[str, Any]) -> str:
    """How long the run took, of which earlier ones may have done a part."""
    if not document["elapsed_s"]:
        return ""
    took, before = duration(document["elapsed_s"]), document["before"]
    if before is None:
        return f"; the last run took {took}"
    return f"; {before} were there {took} ago, when this run began" if before else f" in {took}"


def _name(work: dict[str, Any]) -> str:
    return f"{work['case']} timed by {work['timed_by']} #{work['replication']}"


def _listed(what: str, names: list[str]) -> list[str]:
    shown = "; ".join(names[:LISTED]) + (f"; and {len(names) - LISTED} more" if len(names) > LISTED else "")
    return [f"  {what:<10} {shown or 'none'}"] if names or what == "failed" else []


def _workers(document: dict[str, Any]) -> list[str]:
    page = [f"  dashboard  {document['dashboard']}"] if document["dashboard"] else []
    if document["workers"] is None:
        return page
    return [f"  workers    {document['workers'] or 'none: it waits for one'}", *page]


def _left(document: dict[str, Any]) -> str:
    left_s = document["left_s"]
    return f"  left       {'not known yet' if left_s is None else f'about {duration(left_s)}'}"


def _last(document: dict[str, Any]) -> list[str]:
    lines = []
    if document["error"]:
        lines.append(f"  error      {document['error']}")
    if document["silent_s"] is not None:
        lines.append(f"  said last  {duration(document['silent_s'])} ago; whether it runs cannot be seen from here")
    if document["status"] in ENDED:
        lines.append("  the same command continues it")
    return lines


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
