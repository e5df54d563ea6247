"""The readers: how each is given a file, and files that it can read, from which damaged ones are made."""

import json
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyarrow import parquet

import sim
from sim.experiment.described import FORMAT, POINTS
from sim.experiment.described import NAME as DESIGN
from sim.experiment.points import POINTS_TABLE, point_name
from sim.kernel.operations import Operation
from sim.results import manifest, parts, progress
from sim.results.groups import Gathered, name_of
from sim.results.record import Record
from sim.scenario import shipped

MOST_OF_SEED: Final = 1 << 15
"""Length in bytes to which longer seeds are cut, so that thousands of inputs can be tried."""
HERE: Final = "INPUT"
WRITTEN: Final = "fitted.toml"
"""The scenario that a command writes."""
RESULT: Final = "results-0.1.0"
"""A result directory of the form without hashes, so that damage is not noticed by these at once."""
GROUP: Final = f"{parts.FOLDER}/*{parts.SUFFIX}"
"""A group of replications, which is named by its contents."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A command with the name of a file in it, :data:`HERE`, and the suffix of that.

    ``package`` and ``data``: patterns of such files in this package and below a directory of test data.  ``inside``:
    the file is one of a result directory, and the command gets the directory, in which a run goes on if ``running``.
    ``around`` are other files of that directory, by their place.  ``texts`` are more files, in a result directory the
    only ones.
    """

    command: tuple[str, ...]
    suffix: str
    package: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    inside: str = ""
    texts: tuple[bytes, ...] = ()
    running: bool = False
    around: Mapping[str, bytes] = field(default_factory=dict)

    def seeds(self, place: Path, data: Path) -> list[bytes]:
        """Files that it can read and that exist; puts into ``place`` what belongs around an input."""
        if not self.inside:
            found = [path.read_bytes()[:MOST_OF_SEED] for path in self._paths(data)]
            return [*found, *self.texts]
        archive = data / f"{RESULT}.tar.xz"
        if not archive.exists():
            return []
        with tarfile.open(archive) as packed:
            packed.extractall(place, filter="data")
        shutil.move(place / RESULT, place / "r")
        (place / "r" / parts.FOLDER).mkdir()
        if self.running:
            path = place / "r" / manifest.NAME
            path.write_text(json.dumps(json.loads(path.read_bytes()) | {"status": manifest.RUNNING}))
        for name, content in self.around.items():
            (place / "r" / name).parent.mkdir(parents=True, exist_ok=True)
            (place / "r" / name).write_bytes(content)
        return list(self.texts) or [(place / "r" / self.inside).read_bytes()]

    def _paths(self, data: Path) -> Iterator[Path]:
        if self.command == ("show", HERE):
            yield from map(shipped.file, shipped.names())
        for root, patterns in ((Path(sim.__file__).parent, self.package), (data, self.data)):
            for pattern in patterns:
                yield from sorted(root.glob(pattern))

    def put(self, content: bytes, place: Path) -> tuple[str, ...]:
        """Writes the input, and gives the command."""
        path = place / "r" / self.inside if self.inside else place / f"input{self.suffix}"
        if self.inside == GROUP:
            for earlier in (place / "r").glob(GROUP):
                earlier.unlink()
            path = path.with_name(f"{name_of(content)}{parts.SUFFIX}")
        path.write_bytes(content)
        if self.command[0] == "new":  # which has no --force
            (place / WRITTEN).unlink(missing_ok=True)
            shutil.rmtree(place / Path(WRITTEN).with_suffix(".samples"), ignore_errors=True)
        return tuple(word.replace(HERE, str(place / "r" if self.inside else path)) for word in self.command)


def _of_results(name: str) -> Reader:
    return Reader(("compare", HERE, "--json"), Path(name).suffix, inside=name)


RUN: Final = {"replications": 3, "strategies": ["free-ssp"]}


def _a_design(points: int = 8) -> dict[str, Any]:
    found = {"path": "host.cpus", "low": 2.0, "high": 64.0, "unit": "", "log": True, "whole": True}
    about = {"kind": "sobol", "n": points, "ranges": [found], "seed": 1}
    return {
        "format": FORMAT,
        "scenario": "a",
        "scenario_sha256": "0" * 64,
        "design": about,
        "resolved": {"run": RUN},
        "status": "failed",
        "failed": [{"point": 3, "error": "no"}, {"point": 4}],
    }


def _finished() -> dict[str, bytes]:
    """A design whose two points are finished, so that only its table can say that all is done."""
    point = {"status": "complete", "started": "2026-11-30T00:00:00+00:00", "wall_s": 1.0, "resolved": {"run": RUN}}
    files = {f"{POINTS}/{point_name(n)}/{manifest.NAME}": point for n in range(2)}
    files[DESIGN] = _a_design(2) | {"status": "complete"}
    return {name: json.dumps(found).encode() for name, found in files.items()}


def _points_table() -> bytes:
    """A row for each of two points."""
    rows = {"point": [1, 2], "host.cpus": [5, 40], "case": ["a", "a"], "strategy": ["b", "b"], "own_us": [0.5, 7.25]}
    content = pa.BufferOutputStream()
    parquet.write_table(pa.table(rows), content)
    packed: bytes = content.getvalue().to_pybytes()
    return packed


def _progress() -> dict[str, Any]:
    works = [["a", "free-ssp", 3], ["a", "free-ssp", 4]]
    said = progress.Progress(3, 12, 1, 2.5, time.time(), 0.25, running=works[:1], failed=works[1:])
    return {name: getattr(said, name) for name in said.__slots__}


def _groups() -> tuple[bytes, bytes]:
    """Two replications of two strategies, packed and plain: of a packed one most damage is found by its decoder."""
    found = Gathered()
    for n in range(2):
        for name in ("free-ssp", "manual-load"):
            ledger = [
                (Operation("vcpu", "load", "WRMSR", 0x1800, 3, level="L1"), 7 + n, 900),
                (Operation("a", "b", "c"), 1, 9),
            ]
            latency = {"wakeup": {(0, 8): 3, (8, 16): 1}}
            record = Record(
                "a", "free-ssp", name, n, ledger, {"rate": (1.5, "/s")}, latency, {"wrong-value": n}, "simpy"
            )
            found.add(name, record)
    packed = found.packed().content
    plain = pa.BufferOutputStream()
    with pa.ipc.open_file(packed) as file, pa.ipc.new_file(plain, file.schema) as copy:
        for number in range(file.num_record_batches):
            copy.write_batch(file.get_batch(number))
    return packed, plain.getvalue().to_pybytes()


DISTRIBUTION: Final = f'threads.pair.syscall={{empirical="{HERE}", column="sleep", unit="us"}}'
FORMATS: Final[Mapping[str, tuple[str, ...]]] = {
    "ftrace": ("traces/formats/ftrace.txt", "cases/trace-[!c]*.txt", "cases/trace-cl*.txt", "cases/kvm-only-trace.txt"),
    "trace-cmd": ("traces/formats/trace-cmd.txt", "cases/trace-cmd*.txt"),
    "perf": ("traces/formats/perf.txt", "cases/perf-*.txt"),
}
TRACES: Final = tuple(pattern for patterns in FORMATS.values() for pattern in patterns)
EXITS: Final = (
    "price", "--cpu", "sapphire-rapids", "--load-put", "10/s", "--duration", "9 s", "--strategies", "free-ssp",
    "--perf-kvm-stat", HERE,
)  # fmt: skip
CPU_MODEL: Final = (
    "show", "exit-storm", "--set", "guests.storm.shadow_stacks=none", "--set", f"guests.storm.cpu_model={HERE}",
)  # fmt: skip
SAMPLES: Final = b'vcpu,sleep,note\n0,12.5,a\n0,7,b\n1,1e3,c\n1,0.25,"d, e"\n'

READERS: Final[Mapping[str, Reader]] = {
    "scenario": Reader(("show", HERE), ".toml"),
    "cost table": Reader(("costs", "check", HERE), ".toml", ("costs/tables/*.toml",), ("fpswitch-bench-*.toml",)),
    "strategy": Reader(
        ("flow", "preempt", "--strategy", HERE, "--hypothetical"), ".toml", ("kernel/data/strategies/*.toml",)
    ),
    "carried state": Reader(
        ("flow", "preempt", "--carried", HERE, "--hypothetical"), ".toml", ("kernel/data/carried/*.toml",)
    ),
    "CPU profile": Reader(("cpu", "show", HERE), ".toml", ("xsave/cpus/*.toml",)),
    "CPUID dump": Reader(("cpu", "import", HERE), ".txt", data=("cases/*cpuid*.txt", "cases/nbsp.txt")),
    "CPU model in JSON": Reader(CPU_MODEL, ".json", data=("cpu-models/*.json",)),
    "CPU model in XML": Reader(CPU_MODEL, ".xml", data=("cpu-models/*.xml",)),
    "boot log": Reader(("layout", "--boot-log", HERE), ".txt", data=("bootlogs/*.txt", "cases/*.txt")),
    "vectors": Reader(("verify", "vectors", HERE), ".jsonl", data=("vectors/*.jsonl", "vectors/ring0/*.jsonl")),
    **{f"trace of {name}": Reader(("replay", HERE, "--check"), ".txt", data=files) for name, files in FORMATS.items()},
    "exits of a trace": Reader(("replay", HERE, "--exits"), ".txt", data=TRACES),
    "fit of a trace": Reader(("fit", HERE, "-o", WRITTEN, "--no-check", "--force"), ".txt", data=TRACES),
    "workload of rt-app": Reader(("new", WRITTEN, "--rt-app", HERE), ".json", data=("rt-app/*.json",)),
    "samples": Reader(("show", "context-switch1", "--set", DISTRIBUTION), ".csv", texts=(SAMPLES,)),
    "perf kvm stat": Reader(EXITS, ".txt", data=("perf/*.txt",)),
    "manifest": _of_results("manifest.json"),
    "costs.json": _of_results("costs.json"),
    "ledger": _of_results("ledger.parquet"),
    "metrics": _of_results("metrics.parquet"),
    "latency": _of_results("latency.parquet"),
    "integrity": _of_results("integrity.parquet"),
    "design.json": Reader(("status", HERE), ".json", inside=DESIGN, texts=(json.dumps(_a_design()).encode(),)),
    "points.parquet": Reader(
        ("status", HERE), ".parquet", inside=POINTS_TABLE, texts=(_points_table(),), around=_finished()
    ),
    "progress.json": Reader(
        ("status", HERE), ".json", inside=progress.NAME, texts=(json.dumps(_progress()).encode(),), running=True
    ),
    "replications": Reader(("kept", HERE), parts.SUFFIX, inside=GROUP, texts=_groups()),
}
