"""Reading traces: how many times as fast as a loop of re.match, and how much memory ten million lines take.

The loop does what one writes first: one compiled ``re.match`` for the header, one for the payload, ``int()`` for the
numbers, and an append for each column.  Both yield the same columns, from uncompressed text in memory.  Machines are
noisy, so both are timed in turn, and the median ratio counts.
"""

import gzip
import io
import re
import resource
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

from sim.trace.reading.events import TABLE_OF
from sim.trace.reading.reader import Reader

LIMIT = 3.0
ROUNDS = 5
LINES = 10_000_000
GROWTH_MIB = 100
TRACES = Path(__file__).parent.parent / "tests" / "data" / "traces"

HEADER = re.compile(rb" *(.*?) +(-?\d+) \[(\d+)\] +(\d+)\.(\d+): +\w+:(\w+): +(.*)", re.ASCII)
CONVERT = {"decimal": int, "hex": lambda text: int(text, 16), "name": bytes, "letter": ord}


class Repeated(io.RawIOBase):
    """A stream that yields a text again and again, up to a number of lines, without holding it all."""

    def __init__(self, text: bytes, lines: int) -> None:
        self.text, self.left, self.at = text, len(text) * lines // text.count(b"\n"), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), self.left, len(self.text) - self.at)
        buffer[:size] = self.text[self.at : self.at + size]
        self.left -= size
        self.at = (self.at + size) % len(self.text)
        return size


def loop(text: bytes) -> int:
    """The columns by a loop over lines; the number of events."""
    common: list[list[object]] = [[] for _ in range(6)]
    tables: dict[str, list[list[object]]] = {}
    for number, line in enumerate(text.split(b"\n"), 1):
        header = HEADER.match(line)
        if header is None:
            continue
        comm, tid, cpu, seconds, fraction, event, payload = header.groups()
        table = TABLE_OF.get(event.decode())
        match = table and table.pattern.match(payload)
        if not match:
            continue
        time_ns = int(seconds) * 1_000_000_000 + int(fraction) * 1000
        for column, value in zip(common, (number, time_ns, int(cpu), int(tid), comm, event), strict=True):
            column.append(value)
        columns = tables.setdefault(table.name, [[] for _ in table.fields])
        for column, (_, kind), group in zip(columns, table.fields, match.groups(), strict=True):
            column.append(CONVERT[kind](group))
    return len(common[0])


def read(stream: io.RawIOBase | io.BytesIO) -> int:
    """The columns by the reader; the number of events."""
    return sum(len(chunk.line) for chunk in Reader(stream, "benchmark").chunks())


def peak_mib() -> float:
    """The largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(text: bytes) -> tuple[float, float, float]:
    """Peak MiB after a first million lines and after all, and seconds per line."""
    read(Repeated(text, 1_000_000))
    first, start = peak_mib(), perf_counter()
    read(Repeated(text, LINES))
    return first, peak_mib(), (perf_counter() - start) / LINES


def main() -> int:
    """Prints ratio and memory; exit status 1 if one is over its limit."""
    texts = {path.name.split(".")[0]: gzip.decompress(path.read_bytes()) for path in sorted(TRACES.glob("*.txt.gz"))}
    everything = b"".join(texts.values())
    first, peak, seconds = memory(everything)
    grown = peak - first
    print(
        f"ten million lines: peak RSS {peak:.0f} MiB, {grown:.0f} MiB more than for one million (limit {GROWTH_MIB}); "
        f"{seconds * 1e6:.2f} us per line"
    )
    ratios, loops, reads = [], [], []
    for _ in range(ROUNDS):
        start = perf_counter()
        events = loop(everything)
        middle = perf_counter()
        assert read(io.BytesIO(everything)) == events, "the two do not read the same"
        end = perf_counter()
        ratios.append((middle - start) / (end - middle))
        loops.append((middle - start) / events)
        reads.append((end - middle) / events)
    ratio = median(ratios)
    print(
        f"reading is {ratio:.1f} times as fast as a loop of re.match (limit {LIMIT:g}): "
        f"{median(reads) * 1e6:.2f} us and {median(loops) * 1e6:.2f} us per line"
    )
    return int(ratio < LIMIT or grown > GROWTH_MIB)


if __name__ == "__main__":
    sys.exit(main())
