"""Threads that are alike, as one entry of a scenario: how many, where, and the samples of what they do."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

from sim.trace.fit.families import CONTENDED, LONG_NS, by_groups, family_names
from sim.trace.fit.order import Order, order
from sim.trace.fit.thread_times import Burst, Life, slots
from sim.trace.fit.ticks import Ticks
from sim.trace.fit.waking import Member, Waiting, waiting

Kind = Literal["compute", "kthread", "pipe", "fork", "vcpu"]
Key = tuple[Kind, str, int, tuple[int, ...]]
"""Kind, name, nice, and the CPUs to which it is pinned (none: any)."""

ENOUGH: Final = 10
"""Samples from which on an entry has a distribution of its own."""
ENOUGH_STINTS: Final = 5
"""Stints on one CPU and no other from which on a thread counts as pinned."""
ALWAYS: Final = 1.0
MAINLY: Final = 0.85
"""The share of those on one CPU, on a host whose CPUs are never idle: there the simulated one moves nobody."""
IDLE: Final = 0.02
"""Of the CPUs' time; with less of it they are never idle."""
ENOUGH_HANDOFFS: Final = 50
ABSENT: Final = 0.05
"""The share of a trace for which a vCPU, or a thread that never sleeps, may be absent without that being modelled."""
LIGHT: Final = 0.01
"""Threads that were on a CPU for less of the trace do not show their weight: they wait for other reasons."""
NICE_0_LOAD: Final = 1024
LEAST_WEIGHT: Final = 15
"""Of nice 19."""
LEAST_NS: Final = 100
"""A burst has at least so much that is its own."""

_NUMBERED: Final = re.compile(r"[-_:/.]?\d+$")
"""What the numbered threads of a series differ in."""
_ANONYMOUS: Final = re.compile(r"task-\d+$")
_ON_A_CPU: Final = re.compile(r"/(\d+)(?!\d)")


@dataclass(frozen=True, slots=True)
class Charges:
    """What the simulated host itself takes, in ns: for each stint, each wake-up of another, each side of KVM_RUN.

    ``away`` is that of a vCPU that leaves its CPU inside KVM_RUN and comes back, beside the exit and the entry, which
    are ``guest``'s; ``signal`` is that of the VMM's side and of a signal there.
    """

    stint: float = 0.0
    wakeup: float = 0.0
    guest: float = 0.0
    away: float = 0.0
    vmm: float = 0.0
    signal: float = 0.0


@dataclass(slots=True)
class Group:
    """An entry of the scenario; samples in ns.

    ``rows`` threads are simulated for ``threads`` in the trace, where they went to sleep ``cycles`` times.  ``sleep``
    of a group that never sleeps is empty.  For vCPUs ``compute`` is the guest time between returns to user space, and
    ``demand``, ``halt``, ``vmm`` are theirs, ``signalled`` the times outside KVM_RUN after a signal that ended a halt.
    ``entry`` is its name in the scenario.  ``weight`` None is that of its nice value; ``at_ticks``: its sleeps end at
    ticks.  ``waits`` are the share of its sleeps or halts that somebody ends, which are not among ``sleep`` and
    ``halt``, and the longest of them in ns; ``wakes`` says whom it wakes, with means per burst.  ``halts`` is how many
    there were.  ``order`` None: bursts and sleeps are independent.  ``family`` is its control group, if there are such,
    of so much weight.
    """

    key: Key
    threads: int
    rows: int
    saves: Counter[int]
    on_ns: int = 0
    wanted_ns: int = 0
    weight: int | None = None
    at_ticks: bool = False
    compute: list[float] = field(default_factory=list)
    sleep: list[float] = field(default_factory=list)
    syscall: list[float] = field(default_factory=list)
    vmm: list[float] = field(default_factory=list)
    demand: list[float] = field(default_factory=list)
    halt: list[float] = field(default_factory=list)
    signalled: list[float] = field(default_factory=list)
    vmm_saves: Counter[int] = field(default_factory=Counter)
    cycles: int = 0
    halts: int = 0
    order: Order | None = None
    family: str = ""
    family_weight: int = 0
    waits: tuple[float, float] | None = None
    wakes: dict[Key, float] = field(default_factory=dict)
    entry: str = ""
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_long(self) -> bool:
        """Whether a burst takes several slices."""
        return self.on_ns >= LONG_NS * max(1, self.cycles)

    @property
    def share(self) -> float:
        """How much of its runnable time it was on a CPU."""
        return self.on_ns / max(1, self.wanted_ns)


def grouped(
    lives: Iterable[Life], first_ns: int, last_ns: int, charges: Charges, ticks: Ticks | None = None, idle: float = 0.0
) -> list[Group]:
    """All threads of a trace as groups, those with the most time on the CPU first; ``ticks`` None: not known.

    ``idle`` is the share of the time of CPUs: where there is some, threads that moved may move.
    """
    mainly = ALWAYS if idle > IDLE else MAINLY
    lives = [life for life in lives if life.bursts]
    found: list[Group] = []
    members: dict[Key, Member] = {}
    rest = [life for life in lives if life.vcpu is None]
    for pair in _pairs(rest):
        found.append(_pipe(*pair, charges))
        rest = [life for life in rest if life not in pair]
    children = [life for life in rest if life.forked_ns >= 0 and life.execs and life.bursts]
    if len(children) >= ENOUGH:
        firsts = {id(child): child.bursts[:1] for child in children}
        found.append(_forks(children, rest, first_ns, last_ns, charges))
        members[found[-1].key] = Member(children, firsts, waits=False)
        rest = [life for life in rest if life.bursts]
    vcpus = _by_key([life for life in lives if life.vcpu is not None], "vcpu", mainly)
    threads = _thread_groups(rest, LIGHT * (last_ns - first_ns), mainly)
    members |= {
        key: Member(alike, {id(life): life.bursts for life in alike}, wakes=False) for key, alike in vcpus.items()
    }
    members |= {key: Member(alike, {id(life): life.bursts for life in alike}) for key, alike in threads.items()}
    waits = dict(zip(members, waiting(list(members.values())), strict=True))
    found += [_vcpus(key, alike, first_ns, last_ns, charges, waits[key]) for key, alike in vcpus.items()]
    found += [_threads(key, alike, first_ns, last_ns, charges, ticks, waits[key]) for key, alike in threads.items()]
    keys = list(members)
    for group in found:
        if group.key in waits:
            group.wakes = {keys[number]: mean for number, mean in waits[group.key].wakes.items()}
    _set_weights(found, LIGHT * (last_ns - first_ns))
    if by_groups(lives, last_ns - first_ns):
        _set_families(found, family_names(lives, vcpus | threads))
    return sorted(found, key=lambda group: -sum(group.compute))


def _thread_groups(lives: Sequence[Life], enough_ns: float, mainly: float) -> dict[Key, list[Life]]:
    """Threads that are alike; those that do too little to be an entry go together."""
    groups: dict[Key, list[Life]] = defaultdict(list)
    kinds: tuple[tuple[Kind, str, list[Life]], ...] = (
        ("compute", "others", [life for life in lives if life.user]),
        ("kthread", "kernel-others", [life for life in lives if not life.user]),
    )
    for kind, others, members in kinds:
        few: list[Life] = []
        for key, alike in _by_key(members, kind, mainly).items():
            if sum(len(life.bursts) for life in alike) >= ENOUGH or _on_ns(alike) > enough_ns:
                groups[key] += alike
            else:
                few += alike
        if few:
            groups[kind, others, 0, ()] += few
    return groups


def _set_weights(groups: Sequence[Group], least_ns: float) -> None:
    """Where threads had to wait, weights are those with which the CPU would be shared out as it was.

    The thread's own nice says little on a host that schedules by control groups, which the simulated one does not.
    How much of the CPU a thread gets shows in bursts that last for several slices.  A shorter one waits for the slice
    under way, whatever its weight; it gets what those have on average.
    """
    contended = [group for group in groups if group.on_ns >= least_ns and group.share < CONTENDED]
    long = [group for group in contended if group.is_long]
    most = max((group.share for group in long), default=1.0)
    for group in long:
        group.weight = max(LEAST_WEIGHT, round(NICE_0_LOAD * group.share / most))
    on = sum(group.on_ns for group in long)
    mean = round(sum(group.on_ns * (group.weight or 0) for group in long) / on) if on else NICE_0_LOAD
    for group in contended:
        if group.weight is None:
            group.weight = mean


def _set_families(groups: Sequence[Group], families: Mapping[Key, str]) -> None:
    """Families compete as control groups: by what their busy threads weigh together, or as one thread."""
    for family in sorted(set(families.values())):
        members = [group for group in groups if families.get(group.key) == family]
        weighed = [group for group in members if group.weight is not None]
        busy = [group.rows * group.weight for group in weighed if group.weight and group.is_long]
        if not weighed:
            continue
        weight = sum(busy) if busy else max(group.weight or 0 for group in weighed)
        for group in members:
            group.family, group.family_weight, group.weight = _key(family), weight, None


def _share_out(group: Group, lives: Iterable[Life]) -> None:
    for life in lives:
        group.cycles += len(life.bursts)
        for burst in life.bursts:
            group.on_ns += burst.on_ns
            group.wanted_ns += burst.end_ns - burst.ready_ns


def _on_ns(lives: Iterable[Life]) -> int:
    return sum(burst.on_ns for life in lives for burst in life.bursts)


def _by_key(lives: Sequence[Life], kind: Kind, mainly: float) -> dict[Key, list[Life]]:
    series: dict[str, set[str]] = defaultdict(set)
    for life in lives:
        series[_NUMBERED.sub("", life.name)].add(life.name)
    found: dict[Key, list[Life]] = defaultdict(list)
    for life in lives:
        stem = _NUMBERED.sub("", life.name)
        alike = len(series[stem]) > 1 and not _ANONYMOUS.match(life.name)
        found[kind, _key(stem if alike else life.name), life.nice, _pinned(life, mainly)].append(life)
    return found


def _key(name: str) -> str:
    """The name in letters that a key of the scenario takes."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name.replace("+", "p")).strip("-_") or "unnamed"


def _pinned(life: Life, mainly: float = ALWAYS) -> tuple[int, ...]:
    if not life.user and (match := _ON_A_CPU.search(life.name)):
        return (int(match[1]),)
    if life.cpus.total() >= ENOUGH_STINTS:
        cpu, stints = life.cpus.most_common(1)[0]
        if stints >= mainly * life.cpus.total():
            return (cpu,)
    return ()


def _own(burst: Burst, charges: Charges) -> float:
    return max(LEAST_NS, burst.on_ns - burst.stints * charges.stint - burst.wakes * charges.wakeup)


def _threads(
    key: Key, lives: Sequence[Life], first_ns: int, last_ns: int, charges: Charges, ticks: Ticks | None,
    waiting: Waiting,
) -> Group:  # fmt: skip
    """Each row is one simulated thread; what lies between two lives in it counts as sleep, at its ends as one.

    A sleep that ends at a tick does so wherever in the period before it would be over: the middle of that is taken.
    """
    rows = slots([life for life in lives if life.bursts])
    group = Group(key, len(lives), len(rows), _saves(lives), names=_names(lives))
    _share_out(group, lives)
    for row in rows:
        bursts = [(id(life), burst) for life in row for burst in life.bursts]
        group.compute += [_own(burst, charges) for _, burst in bursts]
        group.sleep += [
            max(0, after.ready_ns - before.end_ns)
            for (life, before), (_, after) in pairwise(bursts)
            if (life, before.end_ns) not in waiting.ended
        ]
        first, last = bursts[0][1], bursts[-1][1]
        around = first.ready_ns - first_ns + last_ns - last.end_ns
        if around > ABSENT * (last_ns - first_ns) or len(bursts) > 1:
            group.sleep.append(around)
    _set_waits(group, len(waiting.ended), len(waiting.ended) + len(group.sleep), waiting)
    woken = [burst.ready_ns for life in lives for burst in life.bursts[1:]]
    if ticks is not None and len(woken) >= ENOUGH and ticks.wake(woken):
        group.at_ticks = True
        group.sleep = [max(0.0, each - ticks.period_ns / 2) for each in group.sleep]
    if group.waits is None:
        group.order = order(group.compute, group.sleep)
    return group


def _set_waits(group: Group, ended: int, sleeps: int, waiting: Waiting) -> None:
    """``ended`` are those of the sleeps or halts that somebody has ended."""
    if ended:
        group.waits = ended / sleeps, float(waiting.longest_ns)


def _vcpus(key: Key, lives: Sequence[Life], first_ns: int, last_ns: int, charges: Charges, waiting: Waiting) -> Group:
    """A vCPU that is not there all the time counts as halted meanwhile."""
    group = Group(key, len(lives), len(lives), _saves(lives), names=_names(lives))
    _share_out(group, lives)
    for life in lives:
        vcpu = life.vcpu
        assert vcpu is not None
        group.compute += [
            max(LEAST_NS, each - charges.guest - breaks * (charges.guest + charges.away))
            for each, breaks in zip(vcpu.guest, vcpu.guest_breaks, strict=True)
        ]
        group.vmm += [max(LEAST_NS, each - charges.vmm) for each in vcpu.vmm]
        halted = len(vcpu.halt)
        absent = max(0, life.bursts[0].ready_ns - first_ns) + last_ns - life.bursts[-1].end_ns
        if is_away := absent > ABSENT * (last_ns - first_ns) or halted > 0:
            vcpu.end_demand()
        group.demand += [
            max(LEAST_NS, each - returns * charges.guest - breaks * (charges.guest + charges.away))
            for each, breaks, returns in zip(vcpu.demand, vcpu.demand_breaks, vcpu.demand_returns, strict=True)
        ]
        group.halts += halted
        group.halt += [
            float(ns)
            for ns, begin in zip(vcpu.halt, vcpu.halt_from, strict=True)
            if (id(life), begin) not in waiting.ended
        ]
        group.signalled += [max(LEAST_NS, each - charges.signal) for each in vcpu.signalled]
        group.vmm_saves += vcpu.vmm_saves
        if is_away:
            group.halts += 1
            group.halt.append(absent)
        if vcpu.blocked_outside:
            group.notes.append(f"{life.name} slept {vcpu.blocked_outside} times outside KVM_RUN, which is left out")
    _set_waits(group, group.halts - len(group.halt), group.halts, waiting)
    return group


def _pairs(lives: Sequence[Life]) -> list[tuple[Life, Life]]:
    """Pairs that wake each other, and nearly nobody else wakes them."""
    by_tid = {life.tid: life for life in lives}
    found, used = [], set()
    for life in lives:
        if life.tid in used or not life.wakers or life.wakers.total() < ENOUGH_HANDOFFS:
            continue
        tid, count = life.wakers.most_common(1)[0]
        other = by_tid.get(tid)
        if other is None or other is life or other.wakers.get(life.tid, 0) < 0.8 * other.wakers.total():
            continue
        if count >= 0.8 * life.wakers.total() and other.wakers.total() >= ENOUGH_HANDOFFS:
            found.append((life, other))
            used |= {life.tid, tid}
    return found


def _pipe(one: Life, other: Life, charges: Charges) -> Group:
    pinned = _pinned(one)
    key: Key = ("pipe", _key(one.name), one.nice, pinned if pinned == _pinned(other) else ())
    group = Group(key, 2, 1, _saves((one, other)), names=_names((one, other)))
    group.on_ns = _on_ns((one, other))
    group.wanted_ns = max(one.last_ns, other.last_ns) - min(one.first_ns, other.first_ns)
    wakes = sum(burst.wakes for life in (one, other) for burst in life.bursts)
    handoffs = one.handoffs + other.handoffs
    wakeup = charges.wakeup * wakes / max(1, len(handoffs))
    group.compute = [max(LEAST_NS, each - charges.stint - wakeup) for each in handoffs]
    return group


def _forks(children: Sequence[Life], lives: Sequence[Life], first_ns: int, last_ns: int, charges: Charges) -> Group:
    """What children do up to their first sleep, and the bursts in which their parents fork, which are taken from them.

    A simulated child ends with its first sleep; what it does later is left to the threads of its name.
    """
    group = Group(("fork", "forks", 0, ()), len(children), 1, _saves(children), names=_names(children))
    group.cycles = len(children)
    for child in children:
        burst = child.bursts.pop(0)
        group.compute.append(_own(burst, charges))
        group.on_ns += burst.on_ns
        group.wanted_ns += burst.end_ns - burst.ready_ns
    for life in lives:
        group.syscall += [_own(burst, charges) / burst.forks for burst in life.bursts if burst.forks]
        life.bursts = [burst for burst in life.bursts if not burst.forks]
    times = sorted(child.forked_ns for child in children)
    group.sleep = [after - before for before, after in pairwise(times)]
    group.sleep.append(times[0] - first_ns + last_ns - times[-1])
    return group


def _saves(lives: Iterable[Life]) -> Counter[int]:
    total: Counter[int] = Counter()
    for life in lives:
        total += life.saves
    return total


def _names(lives: Iterable[Life]) -> list[str]:
    return sorted({life.name for life in lives})
