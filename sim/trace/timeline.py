"""Writes a timeline for the Perfetto UI (https://ui.perfetto.dev), from plain records of a replay or a simulated run.

Format: protos/perfetto/trace/track_event/track_event.proto and track_descriptor.proto of Perfetto.  There is one track
per CPU with who runs, one beside it with the operations that ran there, and one per vCPU with its states.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, Final, Literal, NamedTuple

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TrackDescriptor, TrackEvent
from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

from sim.kernel.operations import Operation
from sim.xsave.components import names as component_names

State = Literal["guest", "exit", "VMM", "blocked", "woken", "preempted"]
"""A vCPU thread runs its guest; runs in KVM; runs in user space or another system call; sleeps; waits for a CPU after a
wake-up (a replay says blocked until it runs); waits for a CPU after it was preempted."""


class Runs(NamedTuple):
    """From now on this thread runs on the CPU; ``thread`` is what the track shows."""

    time_ns: int
    cpu: int
    thread: str


class VcpuState(NamedTuple):
    """From now on a vCPU is in this state; ``vcpu`` names its track."""

    time_ns: int
    vcpu: str
    state: State


class Ran(NamedTuple):
    """An operation that ran on a CPU; ``duration_ns`` is None if it has no price."""

    time_ns: int
    cpu: int
    operation: Operation
    duration_ns: int | None = None


class GuestRuns(NamedTuple):
    """From now on a guest runs this thread on a CPU of its own; ``track`` names that."""

    time_ns: int
    track: str
    thread: str


Record = Runs | VcpuState | Ran | GuestRuns

UNPRICED_NS: Final = 50
"""The width in which an operation without a price is drawn, which means nothing."""

_SEQUENCE: Final = 1
_CPUS, _VCPUS, _GUESTS = 1, 2, 3
_ROOTS: Final = {_CPUS: "CPUs", _VCPUS: "vCPUs"}
_OF_GUESTS: Final = "guests' CPUs"


@dataclass(slots=True)
class _Track:
    """A track: whether a slice is open, and where its last slice ended."""

    uuid: int
    open: bool = False
    until_ns: int = 0


@dataclass(slots=True)
class _Writer:
    builder: StreamingTraceProtoBuilder
    tracks: dict[tuple[str, str], _Track] = field(default_factory=dict)
    last_ns: int = 0

    def describe(self, uuid: int, name: str, parent: int | None) -> None:
        packet = self.builder.create_packet()
        packet.trusted_packet_sequence_id = _SEQUENCE
        packet.track_descriptor.uuid = uuid
        packet.track_descriptor.name = name
        if parent is None:
            packet.track_descriptor.child_ordering = TrackDescriptor.LEXICOGRAPHIC
        else:
            packet.track_descriptor.parent_uuid = parent
        self.builder.write_packet(packet)

    def track(self, parent: int, kind: str, name: str) -> _Track:
        key = kind, name
        if key not in self.tracks:
            self.tracks[key] = _Track(len(self.tracks) + 16)
            self.describe(self.tracks[key].uuid, name, parent)
        return self.tracks[key]

    def begin(self, track: _Track, time_ns: int, name: str, notes: Iterable[tuple[str, str]] = ()) -> None:
        packet = self.builder.create_packet()
        packet.timestamp = time_ns
        packet.trusted_packet_sequence_id = _SEQUENCE
        event = packet.track_event
        event.type = TrackEvent.TYPE_SLICE_BEGIN
        event.track_uuid = track.uuid
        event.name = name
        for key, value in notes:
            note = event.debug_annotations.add()
            note.name, note.string_value = key, value
        self.builder.write_packet(packet)
        track.open = True

    def end(self, track: _Track, time_ns: int) -> None:
        packet = self.builder.create_packet()
        packet.timestamp = time_ns
        packet.trusted_packet_sequence_id = _SEQUENCE
        packet.track_event.type = TrackEvent.TYPE_SLICE_END
        packet.track_event.track_uuid = track.uuid
        self.builder.write_packet(packet)
        track.open = False
        track.until_ns = time_ns

    def follows(self, track: _Track, time_ns: int, name: str) -> None:
        """A slice that ends when the next one of its track begins; time does not go back on a track."""
        time_ns = max(time_ns, track.until_ns)
        if track.open:
            self.end(track, time_ns)
        self.begin(track, time_ns, name)
        track.until_ns = time_ns


def write(records: Iterable[Record], stream: IO[bytes], until_ns: int | None = None) -> int:
    """Writes the records, which are in the order of time on each track; the number of them.

    What goes on in the end ends at ``until_ns``, or with the last record.
    """
    writer = _Writer(StreamingTraceProtoBuilder(stream))
    for uuid, name in _ROOTS.items():
        writer.describe(uuid, name, None)
    count = 0
    for record in records:
        count += 1
        writer.last_ns = max(writer.last_ns, record.time_ns)
        match record:
            case Runs(time_ns, cpu, thread):
                writer.follows(writer.track(_CPUS, "runs", f"CPU {cpu}"), time_ns, thread)
            case VcpuState(time_ns, vcpu, state):
                writer.follows(writer.track(_VCPUS, "vcpu", vcpu), time_ns, state)
            case GuestRuns(time_ns, name, thread):
                if not any(kind == "guest" for kind, _ in writer.tracks):
                    writer.describe(_GUESTS, _OF_GUESTS, None)
                writer.follows(writer.track(_GUESTS, "guest", name), time_ns, thread)
            case Ran(time_ns, cpu, operation, duration_ns):
                track = writer.track(_CPUS, "ran", f"CPU {cpu} operations")
                start = max(time_ns, track.until_ns)
                writer.begin(track, start, operation.operation, _notes(operation))
                writer.end(track, start + (UNPRICED_NS if duration_ns is None else duration_ns))
    last_ns = writer.last_ns if until_ns is None else until_ns
    for track in writer.tracks.values():
        if track.open:
            writer.end(track, max(last_ns, track.until_ns))
    return count


def _notes(operation: Operation) -> Iterable[tuple[str, str]]:
    yield "phase", operation.phase
    if operation.rfbm:
        saves = operation.operation.startswith("XSAVE")
        yield "rfbm", f"{operation.rfbm:#x}"
        yield "written" if saves else "loaded", component_names(operation.components)
        yield "initial" if saves else "initialised", component_names(operation.initialised)
        rest = operation.rfbm & ~operation.components & ~operation.initialised
        if saves and rest:
            yield "unmodified", component_names(rest)
