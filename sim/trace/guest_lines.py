"""The lines of a guest in a merged report of trace-cmd: who runs on its CPUs, as records of a timeline."""

from collections.abc import Iterator
from typing import IO

from sim.errors import InputError
from sim.trace.reading.chunks import steps
from sim.trace.reading.events import SWITCH
from sim.trace.reading.reader import Reader
from sim.trace.timeline import GuestRuns


def records(stream: IO[bytes], name: str, guest: str) -> Iterator[GuestRuns]:
    """What the file ``guest`` of a merged report shows of its CPUs, on the report's clock.

    Raises :class:`~sim.errors.InputError` if the report in ``stream``, which errors call ``name``, has no
    sched_switch of that file.
    """
    reader, count = Reader(stream, name, follow=guest), 0
    for chunk in reader.chunks():
        for step in steps(chunk, reader.names):
            if step.event == SWITCH:
                count += 1
                _, _, _, comm, tid, _ = step.values
                yield GuestRuns(step.time_ns, f"{guest} CPU {step.cpu}", f"{comm} ({tid})" if tid else "idle")
    if not count:
        there = ", ".join(sorted(reader.dialect.left_out)) or "none"
        raise InputError(f"--guest: {name} has no sched:sched_switch events of {guest!r} (files in it: {there})")
