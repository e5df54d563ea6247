"""Threads that are alike, as one entry of a scenario: how many, where, and the samples of what they do."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from sim.trace.fit.censored import whole_times
from sim.trace.fit.entries import ENOUGH, FULL_NS, Charges, Group, Key, Kind, key_of
from sim.trace.fit.families import by_groups, by_nice, family_names, series
from sim.trace.fit.handled import Waited, exit_wakes, handled_exits
from sim.trace.fit.handovers import passed_over, sharing
from sim.trace.fit.ipis import set_ipis
from sim.trace.fit.locks import lock_of, spinning
from sim.trace.fit.order import order, whole
from sim.trace.fit.pins import IDLE, Places, pins
from sim.trace.fit.stays import parts
from sim.trace.fit.thread_times import Burst, Life, slots
from sim.trace.fit.ticks import MAINLY, Ticks
from sim.trace.fit.waking import Member, Waiting, waiting
from sim.trace.fit.weights import set_families, set_weights
from sim.trace.reading.report import times

ENOUGH_HANDOFFS: Final = 50
ABSENT: Final = 0.05
"""The share of a trace for which a vCPU, or a thread that never sleeps, may be absent without that being modelled."""
LIGHT: Final = 0.01
"""Threads that were on a CPU for less of the trace than this do not show their weight: they wait for other reasons."""
LEAST_NS: Final = 100
"""A burst has at least this much CPU time of its own."""

GOES_ON_NS: Final = 2000
"""A burst that lasts no longer after a wake-up is over: to go to sleep takes 1 us, in the simulated host, too.  It is
the median that counts: now and then a timer wakes one of those that the thread wakes, in the middle of its burst."""


def grouped(
    lives: Iterable[Life], first_ns: int, last_ns: int, charges: Charges, ticks: Ticks | None = None,
    idle: float = 0.0, interrupts: float = 250.0,
) -> list[Group]:  # fmt: skip
    """All threads of a trace as groups, those with the most time on the CPU first; ``ticks`` None: not known.

    ``idle`` is the share of the time for which CPUs are idle, ``interrupts`` are ticks and others of each per second.
    """
    whole_lives = [life for life in lives if life.bursts]
    cut = parts(whole_lives, idle)
    lives = [each for life in whole_lives for each in cut.get(id(life), [life])]
    place = pins(lives, idle)
    found: list[Group] = []
    members: dict[Key, Member] = {}
    rest = [life for life in lives if life.vcpu is None]
    for pair in _pairs(rest):
        found.append(_pipe(*pair, place, charges))
        rest = [life for life in rest if life not in pair]
    children = [life for life in rest if life.forked_ns >= 0 and life.execs and life.bursts]
    if len(children) >= ENOUGH:
        firsts = {id(child): child.bursts.pop(0) for child in children}  # which may fork, too
        forking = _forking(rest, charges)
        for pinned, there in _by_cpu(children, idle).items():
            bursts = {id(child): [firsts[id(child)]] for child in there}
            found.append(_forks(there, bursts, pinned, forking, first_ns, last_ns, charges))
            members[found[-1].key] = Member(there, bursts, waits=False)
        rest = [life for life in rest if life.bursts]
    steady_ns = (1 - ABSENT) * (last_ns - first_ns)
    locked = _with_locks(lives, place)
    spin = {id(life) for alike in locked.values() for life in alike}
    vcpus = locked | _by_key(
        [life for life in lives if life.vcpu is not None and id(life) not in spin], "vcpu", place, steady_ns
    )
    threads = _thread_groups(rest, LIGHT * (last_ns - first_ns), place, steady_ns, ticks)
    members |= {
        key: Member(alike, {id(life): life.bursts for life in alike}, is_vcpu=True) for key, alike in vcpus.items()
    }
    members |= {key: Member(alike, {id(life): life.bursts for life in alike}) for key, alike in threads.items()}
    waits = dict(zip(members, waiting(list(members.values())), strict=True))
    found += [_vcpus(key, alike, first_ns, last_ns, charges, waits[key]) for key, alike in vcpus.items()]
    found += [_threads(key, alike, first_ns, last_ns, charges, ticks, waits[key]) for key, alike in threads.items()]
    keys = list(members)
    for group in found:
        if group.key in vcpus:
            woken = {
                key: Waited({life.tid for life in members[key].lives}, waits[key].begins, waits[key].ends)
                for key in (keys[number] for number in waits[group.key].wakes)
            }
            own = [life.vcpu for life in vcpus[group.key] if life.vcpu is not None]
            group.exits = handled_exits(own, charges, interrupts, woken, spin=group.key in locked, yields=bool(locked))
            group.exit_wakes = exit_wakes(own, group.exits, woken)
            set_ipis(group, vcpus[group.key])
        elif group.key in waits:
            group.wakes = {keys[number]: mean for number, mean in waits[group.key].wakes.items()}
    found = [_locked(each, vcpus, last_ns - first_ns, charges) if each.key in locked else each for each in found]
    shared = sharing(whole_lives, last_ns - first_ns)
    host_has_groups = bool(shared) or by_groups(whole_lives, last_ns - first_ns)
    if host_has_groups:
        shared += passed_over(whole_lives, last_ns - first_ns)
    pairs = [
        (each, another)
        for one, other in shared
        for each in cut.get(id(one), [one])
        for another in cut.get(id(other), [other])
    ]
    as_nice = not pairs and by_nice(whole_lives, last_ns - first_ns)
    most = set_weights(found, LIGHT * (last_ns - first_ns), steady_ns, by_nice=as_nice)
    entries = {key: member.lives for key, member in members.items()}
    if host_has_groups:
        set_families(found, family_names(lives, entries, pairs), most, last_ns - first_ns)
    return sorted(found, key=lambda group: -sum(group.compute))


def _thread_groups(
    lives: Sequence[Life], enough_ns: float, place: Places, steady_ns: float, ticks: Ticks | None
) -> dict[Key, list[Life]]:
    """Threads that are alike; those that do too little for an entry of their own are put together.

    One that has something to do all the time does little because others get the CPU (SCHED_IDLE).
    Those of them that ticks wake are apart: a tick is where the slice under way ends, too.
    """
    groups: dict[Key, list[Life]] = defaultdict(list)
    kinds: tuple[tuple[Kind, str, list[Life]], ...] = (
        ("compute", "others", [life for life in lives if life.user]),
        ("kthread", "kernel-others", [life for life in lives if not life.user]),
    )
    for kind, others, members in kinds:
        for key, alike in _by_key(members, kind, place, steady_ns).items():
            always = any(burst.end_ns - burst.ready_ns > steady_ns for life in alike for burst in life.bursts)
            if always or sum(len(life.bursts) for life in alike) >= ENOUGH or _on_ns(alike) > enough_ns:
                groups[key] += alike
                continue
            for life in alike:
                groups[kind, others + ("-at-ticks" if _at_ticks(kind, (life,), ticks) else ""), 0, ()].append(life)
    return groups


def _at_ticks(kind: Kind, lives: Iterable[Life], ticks: Ticks | None) -> bool:
    """Whether ticks wake these threads: hardly any of user space, as nanosleep(), poll() and futexes have hrtimers.

    Of kernel threads few samples do, if most of them say so: delayed works, and softirqs, begin at ticks.
    """
    woken = [burst.ready_ns for life in lives for burst in life.bursts[1:]]
    if ticks is None:
        return False
    return ticks.wake(woken, MAINLY) if kind == "kthread" else len(woken) >= ENOUGH and ticks.wake(woken)


def _share_out(group: Group, lives: Iterable[Life]) -> None:
    for life in lives:
        group.cycles += len(life.bursts)
        for burst in life.bursts:
            group.on_ns += burst.on_ns
            group.wanted_ns += burst.end_ns - burst.ready_ns


def _on_ns(lives: Iterable[Life]) -> int:
    return sum(burst.on_ns for life in lives for burst in life.bursts)


def _by_key(lives: Sequence[Life], kind: Kind, place: Places, steady_ns: float) -> dict[Key, list[Life]]:
    """Threads of one name, nice and CPU.

    Those with something to do all the time, in a burst of ``steady_ns`` or more, are not like others of that name.
    """
    names: dict[str, set[str]] = defaultdict(set)
    for life in lives:
        names[series(life.name)].add(life.name)
    found: dict[Key, list[Life]] = defaultdict(list)
    for life in lives:
        stem = series(life.name)
        found[kind, key_of(stem if len(names[stem]) > 1 else life.name), life.nice, place[id(life)]].append(life)
    for key, alike_lives in list(found.items()):
        steady = [life for life in alike_lives if max(each.end_ns - each.ready_ns for each in life.bursts) > steady_ns]
        if 0 < len(steady) < len(alike_lives):
            found[kind, f"{key[1]}-busy", *key[2:]] = steady
            found[key] = [life for life in alike_lives if life not in steady]
    return found


def _with_locks(lives: Iterable[Life], place: Places) -> dict[Key, list[Life]]:
    """The VMs whose vCPUs spin for each other, each an entry of its own.

    Where threads stay on a CPU, these stay on those that their VM was on: they move among them when they wake.
    """
    found: dict[Key, list[Life]] = {}
    names: Counter[str] = Counter()
    for vm in spinning(lives):
        stems = {key_of(series(life.name)) for life in vm}
        stem = stems.pop() if len(stems) == 1 else "vm"
        names[stem] += 1
        name = stem if names[stem] == 1 else f"{stem}-vm{names[stem]}"
        at_ns = sum((life.at_ns for life in vm), Counter[int]())
        on = {cpu for cpu, ns in at_ns.items() if ns >= ABSENT * at_ns.total()} if all(place[id(x)] for x in vm) else ()
        found["vcpu", name, min(life.nice for life in vm), tuple(sorted(on))] = vm
    return found


def _locked(group: Group, vcpus: Mapping[Key, Sequence[Life]], ns: int, charges: Charges) -> Group:
    """With the lock for which its vCPUs spin, and their own work, which is less than their guest time."""
    own = [life.vcpu for life in vcpus[group.key] if life.vcpu is not None]
    lock, working = lock_of(own, ns * 1e-9, charges.exit, charges.handler)
    pauses = sum(len(vcpu.spins.spans) for vcpu in own)
    group.notes.append(f"{pauses} PAUSE exits, as of a lock with exponential times")
    return replace(group.works(working), lock=lock)


def _own(burst: Burst, charges: Charges) -> float:
    return max(LEAST_NS, burst.on_ns - burst.stints * charges.stint - burst.wakes * charges.wakeup)


def _threads(
    key: Key, lives: Sequence[Life], first_ns: int, last_ns: int, charges: Charges, ticks: Ticks | None,
    waiting: Waiting,
) -> Group:  # fmt: skip
    """Each row is one simulated thread.  Between two lives of a row it sleeps; the time before the first and after the
    last is one sleep.

    A sleep that ends at a tick was over somewhere in the period before it; the middle is taken.
    """
    rows = slots([life for life in lives if life.bursts])
    group = Group(key, len(lives), len(rows), _saves(lives), names=_names(lives))
    _share_out(group, lives)
    after = sorted(on_ns for on_ns, _ in waiting.after.values())
    goes_on = key[0] == "compute" and after and after[len(after) // 2] > GOES_ON_NS
    for row in rows:
        bursts = [(id(life), burst) for life in row for burst in life.bursts]
        for life, burst in bursts:
            own = _own(burst, charges)
            if goes_on and (life, burst.end_ns) in waiting.after:
                on_ns, stints = waiting.after[life, burst.end_ns]
                group.after.append(max(0.0, min(own - LEAST_NS, on_ns - stints * charges.stint)))
                own -= group.after[-1]
            group.compute.append(own)
        group.sleep += [
            max(0, after.ready_ns - before.end_ns)
            for (life, before), (_, after) in pairwise(bursts)
            if (life, before.end_ns) not in waiting.ended
        ]
        first, last = bursts[0][1], bursts[-1][1]
        around = first.ready_ns - first_ns + last_ns - last.end_ns
        if around > ABSENT * (last_ns - first_ns) or len(bursts) > 1:
            group.sleep.append(around)
    if waiting.ended and not sum(group.sleep):  # it was runnable at both ends of the trace: others end all its sleeps
        group.sleep.clear()
    _set_waits(group, len(waiting.ended), len(waiting.ended) + len(group.sleep), waiting)
    if ticks is not None and _at_ticks(key[0], lives, ticks):
        group.at_ticks = True
        group.sleep = [max(0.0, each - ticks.period_ns / 2) for each in group.sleep]
    if group.waits is None:
        full = last_ns - first_ns >= FULL_NS
        group.order = (full and whole(group.compute, group.sleep)) or order(group.compute, group.sleep)
    return group


def _set_waits(group: Group, ended: int, sleeps: int, waiting: Waiting) -> None:
    """``ended`` are the sleeps or halts that another thread ended."""
    if ended:
        group.waits = ended / sleeps, float(waiting.longest_ns)
        group.any_order = waiting.any_order


def _vcpus(key: Key, lives: Sequence[Life], first_ns: int, last_ns: int, charges: Charges, waiting: Waiting) -> Group:
    """A vCPU counts as halted while it is not there."""
    group = Group(key, len(lives), len(lives), _saves(lives), names=_names(lives))
    _share_out(group, lives)
    for life in lives:
        vcpu = life.vcpu
        assert vcpu is not None
        # With kvm_exit the guest time is known, without it only the time inside KVM_RUN.
        own, away = (charges.exit, 0.0) if vcpu.exits else (charges.guest, charges.guest + charges.away)
        group.compute += [
            max(LEAST_NS, each - exits * own - breaks * away)
            for each, exits, breaks in zip(vcpu.guest, vcpu.guest_exits, vcpu.guest_breaks, strict=True)
        ]
        group.vmm += [max(LEAST_NS, each - charges.vmm) for each in vcpu.vmm]
        halted = len(vcpu.halt)
        absent = max(0, life.bursts[0].ready_ns - first_ns) + last_ns - life.bursts[-1].end_ns
        if is_away := absent > ABSENT * (last_ns - first_ns) or halted > 0:
            vcpu.end_demand()
        group.demand += [
            max(LEAST_NS, each - returns * own - breaks * away)
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
        group.amx |= vcpu.amx
        if is_away:
            group.halts += 1
            group.halt.append(absent)
        if vcpu.blocked_outside:
            group.notes.append(slept_outside(life.name, vcpu.blocked_outside))
    _set_waits(group, group.halts - len(group.halt), group.halts, waiting)
    return group


def slept_outside(name: str, number: int) -> str:
    """The note on the sleeps of a vCPU thread that were neither halts nor in the guest."""
    return f"{name} slept {times(number)} outside KVM_RUN, which is left out"


def _pairs(lives: Sequence[Life]) -> list[tuple[Life, Life]]:
    """Pairs of threads that wake each other and are hardly woken by others."""
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


def _pipe(one: Life, other: Life, place: Places, charges: Charges) -> Group:
    pinned = place[id(one)]
    key: Key = ("pipe", key_of(one.name), one.nice, pinned if pinned == place[id(other)] else ())
    group = Group(key, 2, 1, _saves((one, other)), names=_names((one, other)))
    group.on_ns = _on_ns((one, other))
    group.wanted_ns = max(one.last_ns, other.last_ns) - min(one.first_ns, other.first_ns)
    wakes = sum(burst.wakes for life in (one, other) for burst in life.bursts)
    handoffs = one.handoffs + other.handoffs
    wakeup = charges.wakeup * wakes / max(1, len(handoffs))
    group.compute = [max(LEAST_NS, each - charges.stint - wakeup) for each in handoffs]
    return group


def _by_cpu(children: Iterable[Life], idle: float) -> dict[tuple[int, ...], list[Life]]:
    """Children by the CPU on which they were most of the time; together if CPUs are idle at times, and draw them."""
    found: dict[tuple[int, ...], list[Life]] = defaultdict(list)
    for child in sorted(children, key=lambda child: child.forked_ns):
        found[() if idle > IDLE or not child.at_ns else (max(child.at_ns, key=child.at_ns.__getitem__),)].append(child)
    return found


def _forking(lives: Sequence[Life], charges: Charges) -> list[float]:
    """The bursts in which parents fork, per child; they are removed from the parents'."""
    found: list[float] = []
    for life in lives:
        found += [_own(burst, charges) / burst.forks for burst in life.bursts if burst.forks]
        life.bursts = [burst for burst in life.bursts if not burst.forks]
    return found


def _forks(
    children: Sequence[Life], bursts: Mapping[int, Sequence[Burst]], pinned: tuple[int, ...], forking: list[float],
    first_ns: int, last_ns: int, charges: Charges,
) -> Group:  # fmt: skip
    """What children do up to their first sleep (``bursts``, by id()), and the bursts in which parents fork; a row for
    each parent that forks all the time, as after a short sleep its registers are still in its CPU.

    A child that the end of the trace cuts off had more to do.  A simulated child ends with its first sleep; what it
    does later is in the entry of the threads of its name.
    """
    rows = _by_parent(children)
    group = Group(("fork", "forks", 0, pinned), len(children), len(rows), _saves(children), names=_names(children))
    group.cycles, group.syscall = len(children), forking
    is_cut = []
    for child, burst in ((each, burst) for row in rows for each in row for burst in bursts[id(each)]):
        group.compute.append(_own(burst, charges))
        is_cut.append(not child.ended and burst.end_ns >= last_ns)
        group.on_ns += burst.on_ns
        group.wanted_ns += burst.end_ns - burst.ready_ns
    group.compute = whole_times(group.compute, is_cut)
    for row in rows:
        times = [child.forked_ns for child in row]
        group.sleep += [after - before for before, after in pairwise(times)]
        group.sleep.append(times[0] - first_ns + last_ns - times[-1])
    group.order = whole(group.compute, group.sleep) if last_ns - first_ns >= FULL_NS else None
    return group


def _by_parent(children: Sequence[Life]) -> list[list[Life]]:
    """The children by parent, if each parent forked enough of them: parents do so side by side."""
    found: dict[int, list[Life]] = defaultdict(list)
    for child in children:
        found[child.parent].append(child)
    return list(found.values()) if all(len(each) >= ENOUGH for each in found.values()) else [list(children)]


def _saves(lives: Iterable[Life]) -> Counter[int]:
    total: Counter[int] = Counter()
    for life in lives:
        total += life.saves
    return total


def _names(lives: Iterable[Life]) -> list[str]:
    return sorted({life.name for life in lives})
