"""From the table of ``perf kvm stat`` to a scenario: exit rates and handler times by reason, and halts.

The table sums up all vCPUs.  What the vCPUs did not spend between an exit and the next entry, they spent in the guest:
so the time that was recorded, and how many vCPUs there were, give the rates per second of guest time.
"""

from itertools import groupby
from typing import Final

from sim.errors import InputError
from sim.trace.fit.entries import ExitEntry, Times
from sim.trace.fit.guests import (
    DEFAULT_CPU,
    HALT,
    LEAST_NS,
    Charges,
    FittedExits,
    GuestEntry,
    charges,
    reason_of,
    ticks,
)
from sim.trace.reading.perf_kvm_stat import KvmStat
from sim.xsave.profiles import profile

DEFAULT_KERNEL: Final = "v6.18"
IO: Final = "io"
NO_DISTRIBUTION: Final = "the table has only means: times between exits are exponential, handlers take their mean"
ASSUMED: Final = "all port I/O goes to user space, and no other exit does; who shares the CPUs is not in the table"


def fit(
    counted: KvmStat,
    name: str,
    *,
    seconds: float | None = None,
    vcpus: int | None = None,
    cpu: str | None = None,
    costs: str | None = None,
    kernel: str | None = None,
) -> FittedExits:
    """A scenario of ``vcpus`` vCPUs, each on a CPU of its own, that exit as they were ``counted`` in ``seconds``.

    Raises :class:`~sim.errors.InputError` if it is not known how long the recording took, or if exits took longer.
    """
    notes = []
    seconds = seconds or counted.recorded_s
    if not seconds:
        raise InputError(f"{name} does not say how long perf recorded (needed: --duration, such as '10 s')")
    number = vcpus or 1
    if vcpus is None:
        notes.append("one vCPU is assumed (--vcpus)")
    handled_s = max(counted.handled_s or 0.0, sum(counted.took_s.values()))
    if handled_s >= number * seconds:
        raise InputError(
            f"the exits in {name} took {handled_s:g} s, from exit to entry, and {number} vCPUs in {seconds:g} s have "
            f"{number * seconds:g} s in all (allowed: --vcpus of {int(handled_s / seconds) + 1} or more, or a longer "
            "--duration)"
        )
    if cpu is None:
        cpu = DEFAULT_CPU[counted.vendor]
        notes.append(f"the table does not name the CPU: {cpu} is assumed, by the vendor of its exit reasons (--cpu)")
    chosen = profile(cpu)
    kernel = kernel or DEFAULT_KERNEL
    if counted.lost:
        notes.append(f"perf lost {counted.lost} events")
    if counted.others:
        notes.append(f"{counted.others} exits whose rows are cut off are exits by other")
    notes += [NO_DISTRIBUTION, ASSUMED]
    own = charges(chosen.name, kernel, costs, 0.0)
    guest_ns = max((number * seconds - handled_s) * 1e9 - counted.total * own.guest, counted.total * LEAST_NS)
    entries, demand, sleep = _entries(counted, handled_s, guest_ns, own)
    per_second = sum(each.counted for each in entries if each.reason == "external-interrupt") * 1e9 / guest_ns
    hz, entries, interrupt = ticks(per_second, entries)
    comment = f"{counted.total} exits in {seconds:g} s, of which {handled_s:.3f} s until the next entry"
    guest = GuestEntry("vm", number, tuple(entries), demand, sleep, (comment,))
    return FittedExits(
        name=name, seconds=0.0, cpus=number, cpu=cpu, costs=costs, kernel=kernel, tsc_hz=0.0, hz=hz,
        interrupt_ns=interrupt, polls=True, guests=(guest,), notes=notes, per_second=counted.total / seconds,
    )  # fmt: skip


def _entries(
    counted: KvmStat, handled_s: float, guest_ns: float, own: Charges
) -> tuple[list[ExitEntry], Times | None, Times | None]:
    """The kinds of exits, and the guest time between halts and their length, if there are any."""
    rows = [(reason_of(reason), n, counted.took_s[reason]) for reason, n in counted.exits.items() if n]
    if counted.others:
        rows.append(("other", counted.others, max(0.0, handled_s - sum(counted.took_s.values()))))
    entries: list[ExitEntry] = []
    demand = sleep = None
    for reason, several in groupby(sorted(rows), key=lambda row: row[0]):
        alike = list(several)
        number, took_s = sum(n for _, n, _ in alike), sum(took for _, _, took in alike)
        every, mean_ns = Times(guest_ns / number), took_s * 1e9 / number
        if reason == HALT:
            demand, sleep = every, Times(max(0.0, mean_ns - own.halt))
            continue
        user = reason == IO
        time = Times(max(0.0, mean_ns - (own.user if user else own.handler)))
        entries.append(ExitEntry(reason, reason, number, every, time, userspace=user))
    return entries, demand, sleep
