"""Whether a host fits into the memory of the machine that simulates it."""

from __future__ import annotations

import os
import resource
from typing import Final

from sim.errors import InputError
from sim.scenario.cases import Case

CPU_BYTES, CPU_STATE_BYTES = 4_500, 2_800
"""What a CPU takes at least, and its state under each strategy: measured (Python 3.11), rounded down."""
THREAD_BYTES, THREAD_STATE_BYTES = 4_000, 1_200
"""The same of a thread without anything that a scenario can leave out."""
_GB: Final = 1e9


def memory_bytes() -> int:
    """What a process may have: the machine's memory, or a lower limit on its address space (``ulimit -v``)."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return machine if limit == resource.RLIM_INFINITY else min(machine, limit)


def size_text(case: Case) -> str:
    """How large the host is, in words."""
    return f"{case.scenario.host.cpus:,} CPUs and {_threads(case):,} threads and vCPUs"


def check_room(case: Case, strategies: int) -> None:
    """Raises :class:`~sim.errors.InputError` if the host, under so many strategies, surely needs more than there is."""
    least = _least_bytes(case, strategies)
    if least > memory_bytes():
        raise too_large(case, f"at least {least / _GB:,.1f} GB with {strategies} strategies")


def too_large(case: Case, needs: str = "more than there is") -> InputError:
    """The error for a host that does not fit."""
    there_is = f"{memory_bytes() / _GB:,.1f} GB"
    return InputError(
        f"host.cpus: found {size_text(case)}, which take {needs}; "
        f"allowed: what fits into the {there_is} that a process may have here (case {case.name!r})"
    )


def ran_out(case: Case, strategies: int, replication: int) -> str:
    """What is known where memory ran out after the host had been made, which may be the fault of anything here."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (
        f"memory ran out in replication {replication} of case {case.name!r}, after its host had been made: this "
        f"process had {peak / _GB:,.1f} GB at most and may have {memory_bytes() / _GB:,.1f} GB, if others leave "
        f"it that; {size_text(case)} take at least {_least_bytes(case, strategies) / _GB:,.1f} GB, "
        "the rest is for what happens on them and for what the process holds otherwise"
    )


def _least_bytes(case: Case, strategies: int) -> int:
    of_cpus = case.scenario.host.cpus * (CPU_BYTES + strategies * CPU_STATE_BYTES)
    return of_cpus + _threads(case) * (THREAD_BYTES + strategies * THREAD_STATE_BYTES)


def _threads(case: Case) -> int:
    entries = case.scenario.threads.values()
    number = sum(each.count * (2 if each.kind == "pipe" else 1) for each in entries)
    return number + sum(each.vms * each.vcpus for each in case.scenario.guests.values())
