"""The sections of a trace, each behind a header: recordings, or ftrace's files of per_cpu one after the other."""

import numpy as np

from sim.trace.reading.chunks import Chunk

HEADED = "another recording begins"
"""Why there is a gap where a header stands behind events."""


class Sections:
    """Tells a recording's files of per_cpu from recordings.

    The former have CPUs of their own and share a span of time; recordings follow one another, or have the same CPUs.
    """

    def __init__(self) -> None:
        self._cpus: set[int] = set()
        self._first: tuple[int, int] | None = None
        self._last_ns = 0
        self._earlier: set[int] = set()
        self._spans: list[tuple[int, int]] = []
        self._late_cpu: int | None = None

    def add(self, chunk: Chunk) -> None:
        """Takes the next events."""
        begins = [gap.row for gap in chunk.gaps if gap.why == HEADED]
        for number, (start, end) in enumerate(zip([0, *begins], [*begins, len(chunk.line)], strict=True)):
            if number:
                self._end()
            if start == end:
                continue
            times, cpus = chunk.time_ns[start:end], chunk.cpu[start:end]
            row = int(times.argmin())
            first = (int(times[row]), int(cpus[row]))
            self._first = first if self._first is None else min(self._first, first)
            self._last_ns = max(self._last_ns, int(times.max()))
            self._cpus.update(np.flatnonzero(np.bincount(cpus)).tolist())

    def late_cpu(self) -> int | None:
        """A CPU whose section goes back into the span of one with other CPUs, at the end of the trace."""
        self._end()
        return self._late_cpu

    def _end(self) -> None:
        """Ends a section; one without events, of an idle CPU, is none."""
        if self._first is None:
            return
        first_ns, cpu = self._first
        if self._earlier.isdisjoint(self._cpus):
            if self._late_cpu is None and any(a < self._last_ns and first_ns < b for a, b in self._spans):
                self._late_cpu = cpu
            self._spans.append((first_ns, self._last_ns))  # no more of them than CPUs
        self._earlier |= self._cpus
        self._cpus, self._first, self._last_ns = set(), None, 0
