"""Estimates the entries of a scenario from a trace, and the figures that the simulated scenario has to show."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import IO, Any, Final

from sim.costs.price import Prices
from sim.costs.table import load_for
from sim.errors import InputError
from sim.kernel.config import Config
from sim.kernel.operations import (
    CONTEXT_SWITCH,
    GUEST_ENTRY,
    GUEST_EXIT,
    MITIGATION,
    SIGNAL,
    SWAP_LOAD,
    SWAP_PUT,
    SWITCH,
    TRANSITION,
    URET,
    USER_RETURN,
    VCPU_LOAD,
    VCPU_PUT,
    VPMU,
    XSAVE,
    XSS_PHASE,
    Operation,
)
from sim.trace.fit import guests
from sim.trace.fit.entries import ENOUGH, Charges, Group
from sim.trace.fit.groups import grouped
from sim.trace.fit.handled import PAUSE
from sim.trace.fit.lives import Seen, Watcher
from sim.trace.fit.locks import SHARE
from sim.trace.fit.tally import Counted, Tally
from sim.trace.fit.thread_times import Life
from sim.trace.fit.ticks import EXPIRED, WITNESSES, Ticks, config_hz, ticks
from sim.trace.following.replay import TELLING, Progress, Recorded, Replay, Replayed, missing_events
from sim.trace.following.replica import Replica
from sim.trace.following.verdict import ELSEWHERE
from sim.trace.reading.report import times
from sim.trace.whatif import Choices, replicas
from sim.xsave.components import CET_S
from sim.xsave.profiles import names, profile

WAKEUP_NS: Final = 500.0
"""The default of host.wakeup_time."""
ASSUMED_TSC_HZ: Final = 2.5e9
ASSUMED_HZ: Final = 250
FOLLOWED: Final = 20_000
"""How many events the model follows if no costs are asked for."""
BY_KERNEL: Final = 0.005
"""The share of x86_fpu events that only kernel_fpu_begin() explains from which on the twin has it, too; in the sample
traces of more than a thousand events it is 0.002 and less."""
WAITS: Final = 200
"""Waits below which a lock is known roughly."""
UNKNOWN: Final = "not known: the kernel's default"
LONGEST_S: Final = 3600
"""The longest run.measure of a scenario."""

_AT_GUEST: Final = (GUEST_ENTRY, GUEST_EXIT, TRANSITION, XSS_PHASE, MITIGATION, VPMU)
"""Phases of each VM exit and entry; one of each per return of KVM_RUN, and per time that the vCPU leaves its CPU."""
_AT_RETURN: Final = (USER_RETURN, URET, SWAP_LOAD)
"""Phases outside ``kvm_fpu`` load and unload, once per KVM_RUN; SWAP_PUT is inside."""
_AT_LOAD: Final = (VCPU_PUT, VCPU_LOAD)
"""Phases of vcpu_put() and vcpu_load(): around KVM_RUN, and where the vCPU leaves its CPU."""

WOKEN: Final = ("sched_wakeup", "sched_waking", "sched_wakeup_new")


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a trace was found to be: the machine, the entries of a scenario, and what was counted, to compare with.

    ``unsure`` is by how much the utilisation may be above or below, given the trace; ``events`` are those that it has.
    ``preemption`` is the kernel's preemption model, and ``preemption_from`` how that is known.  ``kernel_fpu`` is how
    often the kernel itself used the FPU per second of a CPU on which user threads run, 0 if that hardly ever was so.
    """

    name: str
    replayed: Replayed
    seen: Seen
    groups: tuple[Group, ...]
    counted: Counted
    unsure: float
    events: frozenset[str]
    preemption: str
    preemption_from: str
    cpu: str
    costs: str | None
    strategy: str
    tsc_hz: float
    cpus: tuple[int, ...]
    hz: int
    kernel_fpu: float
    notes: tuple[str, ...]

    @property
    def kernel(self) -> str:
        """The modelled kernel that is nearest to the recorded one."""
        return self.replayed.recorded.config.version.name


def fit(
    stream: IO[bytes],
    name: str,
    *,
    cpu: str | None = None,
    costs: str | None = None,
    preemption: str | None = None,
    all_strategies: bool = False,
    progress: Progress = iter,
) -> Fitted:
    """Estimates from the trace in ``stream``, which errors call ``name``.

    ``preemption`` is the preemption model of the recorded kernel, by default what the trace says, or else the default
    of that kernel.

    ``all_strategies``: the counts include the cost of every strategy that the CPU can have.  Otherwise the kernel model
    follows only as much of the trace as it takes to know what its own operations cost.  ``progress`` counts events.

    ``cpu`` is the CPU profile of the scenario, by default the shipped one whose state components exceed those of the
    trace the least; ``costs`` the cost table, by default that of the profile.  Raises
    :class:`~sim.errors.InputError` if the trace lacks the events that this needs.
    """
    if cpu:
        load_for(profile(cpu).name, costs)  # before anything is read
    notes: list[str] = []
    found: dict[str, Any] = {}
    watcher = Watcher()

    def make(recorded: Recorded) -> list[Replica]:
        config = recorded.config
        watcher.of_guests = config.masks.guest_default & CET_S
        notes.extend(recorded.notes)
        chosen = found["cpu"] = profile(cpu).name if cpu else _nearest(config)
        if not cpu:
            notes.append(f"the trace does not name its CPU; {chosen} is the nearest by its state components (--cpu)")
        as_recorded = replicas(recorded, Choices(strategies=(config.strategy.name,)))[config.strategy.name]
        on_cpu = found["on cpu"] = _on(recorded, chosen)
        if (simulated := on_cpu.kernel.config.strategy.name) != config.strategy.name:
            notes.append(f"{chosen} cannot have the recorded strategy, {config.strategy.name}: {simulated} instead")
        priced = {simulated: on_cpu}
        if all_strategies:
            priced = {**replicas(recorded, Choices(chosen)), simulated: on_cpu}
        found["tally"] = Tally(watcher, as_recorded, priced, Prices(load_for(chosen, costs)))
        return [as_recorded, *priced.values()]

    replay = Replay(stream, name, make_replicas=make, as_recorded=True, most=None if all_strategies else FOLLOWED)
    around = seen_events = 0
    for step in progress(replay.steps()):
        if all_strategies or seen_events < FOLLOWED:
            seen_events += 1
            found["tally"].see(step)
            watcher.see(step)
            around = watcher.seen.round_trips
        else:
            watcher.see(step)
    watcher.finish()
    replayed = replay.result
    assert replayed is not None
    report, seen = replayed.report, watcher.seen
    if report.recordings > 1:
        raise InputError(f"{name} holds {report.recordings} recordings, one after the other; allowed: one")
    if report.steps_back:
        raise InputError(
            f"{name}: the clock of a CPU steps back {times(report.steps_back)}, and a fit needs the order of events; "
            "allowed: events in order on each CPU, as the tools print them"
        )
    seconds = (seen.last_ns - seen.first_ns) * 1e-9
    if not 0 < seconds <= LONGEST_S:
        raise InputError(f"{name} covers {seconds:g} s; allowed: more than 0 and at most {LONGEST_S} s")
    if seen.switches > TELLING and not any(report.events[event] for event in WOKEN):
        raise missing_events(name, WOKEN[:1], report)
    tsc_hz = replayed.recorded.header.tsc_hz
    if replay.reader.dialect.cycles and tsc_hz is None:
        raise InputError(
            f"{name} has times in cycles (trace_clock x86-tsc), and a fit is in seconds; allowed: a comment with the "
            "TSC's frequency, such as # TSC 2400 MHz"
        )
    if tsc_hz is None:
        tsc_hz = ASSUMED_TSC_HZ
        notes.append("the trace does not say the TSC frequency: 2.5 GHz is assumed")
    if replayed.verdict.found:
        notes.append(
            f"{replayed.verdict.found} contradictions (fpswitch replay --check): shares of restores may be wrong"
        )
    if report.lost_times:
        notes.append(f"events were lost {times(report.lost_times)}; bursts and sleeps across them are wrong")
    if report.truncated:
        notes.append("the end of the trace is cut off; what comes before it is fitted")
    on_cpu, chosen = found["on cpu"], found["cpu"]
    model, model_from = _preemption(replayed.recorded, preemption)
    if model_from == UNKNOWN:
        notes.append(
            f"the trace does not say the kernel's preemption model: {model}, the default of "
            f"{on_cpu.kernel.version.name}, is assumed (--recorded-preemption)"
        )
    charges = _charges(on_cpu.counts(), Prices(load_for(chosen, costs)), tsc_hz, around)
    if report.events["kvm_exit"]:
        of_exits = guests.charges(chosen, on_cpu.kernel.config.version.name, costs, tsc_hz)
        charges = replace(charges, exit=of_exits.guest, handler=of_exits.handler)
    tick = _ticks(watcher.lives)
    hz = _hz(seen, watcher.lives, tick, notes)
    cpus = tuple(sorted(report.cpus))
    idle = seen.idle_ns / (max(1, seen.last_ns - seen.first_ns) * len(cpus))
    kernel_fpu = _kernel_fpu(replayed, watcher.lives)
    groups = grouped(watcher.lives, seen.first_ns, seen.last_ns, charges, tick, idle, hz + kernel_fpu)
    _say_spins(watcher.lives, groups, notes)
    counted = found["tally"].finish(len(cpus))
    unsure = seen.unknown_idle_ns / 2 / (max(1, seen.last_ns - seen.first_ns) * len(cpus))
    if seen.missing > 0.01 * seen.switches:
        notes.append(
            f"{seen.missing} of {seen.switches} context switches are not in the trace, and were inferred from who ran "
            "next; CPU utilisation is known to within "
            f"{unsure:.1%}"
        )
    return Fitted(
        name=name,
        replayed=replayed,
        seen=seen,
        groups=tuple(groups),
        counted=counted,
        unsure=unsure,
        events=frozenset(report.events),
        preemption=model,
        preemption_from=model_from,
        cpu=chosen,
        costs=costs,
        strategy=on_cpu.kernel.config.strategy.name,
        tsc_hz=tsc_hz,
        cpus=cpus,
        hz=hz,
        kernel_fpu=kernel_fpu,
        notes=tuple(notes),
    )


def _preemption(recorded: Recorded, asked: str | None) -> tuple[str, str]:
    """The preemption model, and how it is known."""
    version = recorded.config.version
    said = recorded.header.preemption
    for model, how in ((asked, "as --recorded-preemption says"), (said, "as the trace says")):
        if model is not None:
            if model not in version.preemption_models:
                allowed = ", ".join(version.preemption_models)
                option = "--recorded-preemption" if model == asked else "the comments of the trace"
                raise InputError(f"{option}: found {model!r}; allowed with Linux {version.name}: {allowed}")
            return model, how
    return version.preemption_default, UNKNOWN


def _on(recorded: Recorded, cpu: str) -> Replica:
    """The recorded strategy on ``cpu``; empty if that CPU cannot have it."""
    strategy = recorded.config.strategy.name
    try:
        return replicas(recorded, Choices(cpu, strategies=(strategy,)))[strategy]
    except InputError:
        return replicas(recorded, Choices(cpu, strategies=("no-cet",)))["no-cet"]


def _nearest(config: Config) -> str:
    wanted = config.masks.max_features
    real = [each for each in names() if not profile(each).synthetic]
    excess = {each: (profile(each).components & ~wanted).bit_count() for each in real}
    fitting = [each for each in real if not wanted & ~profile(each).components & ~(1 << 12)]
    # Of CPUs that fit equally well, one with costs of its own.
    return min(fitting or ["zen4"], key=lambda each: (excess[each], bool(load_for(each).derived_from)))


def _charges(ledger: Mapping[tuple[Any, ...], int], prices: Prices, tsc_hz: float, round_trips: int) -> Charges:
    """The time of the model's own operations on the recorded schedule, divided among what they belong to."""
    cycles: Counter[tuple[str, bool]] = Counter()
    switches = vcpu_switches = signals = 0
    for key, count in ledger.items():
        operation = Operation(*key)
        is_vcpu = operation.thread_kind == "vcpu"
        if operation.operation == CONTEXT_SWITCH:
            switches += count
            vcpu_switches += count if is_vcpu else 0
        signals += count if (operation.phase, operation.operation) == (SIGNAL, XSAVE) else 0
        cycles[operation.phase, is_vcpu] += count * prices[key]
    ns = 1e9 / tsc_hz

    def of_vcpus(phases: Iterable[str], times: int) -> float:
        return sum(cycles[phase, True] for phase in phases) * ns / max(1, times)

    around = round_trips + vcpu_switches
    load = of_vcpus(_AT_LOAD, around)
    vmm = of_vcpus(_AT_RETURN, round_trips) + load
    own = cycles[SWITCH, True] + cycles[SWITCH, False]
    return Charges(
        stint=(own + cycles[USER_RETURN, False]) * ns / max(1, switches),
        wakeup=WAKEUP_NS,
        guest=of_vcpus(_AT_GUEST, around) + of_vcpus((SWAP_PUT,), round_trips),
        away=of_vcpus((SWITCH,), vcpu_switches) + load - of_vcpus((SWAP_PUT,), round_trips),
        vmm=vmm,
        signal=vmm + sum(cycles[SIGNAL, kind] for kind in (False, True)) * ns / max(1, signals),
    )


def _say_spins(lives: Iterable[Life], groups: Sequence[Group], notes: list[str]) -> None:
    """Says whether guests spin for what is not fitted, or for a lock that few waits show."""
    exits = sum(life.vcpu.exits for life in lives if life.vcpu is not None)
    spins = sum(each.counted for group in groups for each in group.exits if each.reason == PAUSE)
    if spins > SHARE * exits:
        notes.append(
            f"guests spin ({spins} PAUSE exits), for what is not fitted: in the twin these exits yield to nobody, so "
            "that vCPUs leave their CPUs at other times"
        )
    for group in groups:
        if group.lock is not None and group.lock.waits < WAITS:
            notes.append(
                f"{group.key[1]}: {group.lock.waits} waits for its guest's lock last longer than a PLE window, which "
                "hardly says how long it is held at once"
            )


def _kernel_fpu(replayed: Replayed, lives: Iterable[Life]) -> float:
    """kernel_fpu_begin() per second of user threads, by the restores and missing saves that nothing else explains."""
    verdict, events = replayed.verdict, replayed.report.events
    times = verdict.inferred["kernel_fpu_begin"] + verdict.assumed[ELSEWHERE]
    if times < max(ENOUGH, BY_KERNEL * verdict.events):
        return 0.0
    all_of_them = sum(count for event, count in events.items() if event.startswith("x86_fpu"))
    on_ns = sum(life.at_ns.total() for life in lives if life.user)
    return times * all_of_them / max(1, verdict.events) / max(1e-9, on_ns * 1e-9)


def _ticks(lives: Iterable[Life]) -> Ticks | None:
    for life in lives:
        woken = [burst.ready_ns for burst in life.bursts[1:]]
        if life.name in WITNESSES and len(woken) >= ENOUGH and (found := ticks(woken)) is not None:
            return found
    return None


def _hz(seen: Seen, lives: Iterable[Life], tick: Ticks | None, notes: list[str]) -> int:
    """CONFIG_HZ by slices, or else by the kernel's timers on each CPU: ticks of CPUs may be apart (skew_tick=1)."""
    woken: dict[int, list[int]] = defaultdict(list)
    for life in lives:
        if life.name in WITNESSES:
            cpus, since = life.moves[::4], life.moves[1::4]
            for before, burst in pairwise(life.bursts):  # its timer is on the CPU on which it went to sleep
                woken[cpus[bisect_right(since, before.end_ns) - 1]].append(burst.ready_ns)
    hz = config_hz(seen.expired_ns.values()) or config_hz(woken.values()) or (None if tick is None else tick.hz)
    if hz is None:
        notes.append(f"fewer than {EXPIRED} slices end at a tick, too few to tell CONFIG_HZ: {ASSUMED_HZ} is assumed")
    return hz or ASSUMED_HZ
