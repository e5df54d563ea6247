"""The arrays of a replication, all empty."""

from __future__ import annotations

from typing import Final

from sim.engine import layout as at
from sim.engine.jit import Memory
from sim.engine.table import zeros
from sim.kernel.state import TASK_KINDS

BITS: Final = 32
"""In a word of a mask of CPUs."""


def empty(cpus: int, n: int, kinds: int, walkers: int, queues: int, entities: int, most_queued: int) -> Memory:
    """Arrays for ``cpus`` CPUs, ``n`` threads (idle ones too), ``kinds`` kinds of exits and ``walkers`` strategies.

    ``queues`` are all rows of run queues, the CPUs' among them, with room for ``most_queued`` entities each;
    ``entities`` are those of groups, beside the threads.
    Those of length 1 are replaced once their length is known (sim.engine.build).
    """
    words = -(-cpus // BITS)
    events = 1024 + 64 * cpus + 4 * n
    heap = zeros(events, at.HEAP_COLUMNS)
    heap[:, at.HEAP_TIME] = at.INF
    kt = zeros(walkers, n, at.KT_COLUMNS)
    kt[:, :, at.KT_LAST] = kt[:, :, at.KT_VMCS] = -1
    return Memory(
        {
            "g": zeros(at.G_COLUMNS),
            "c": zeros(queues, at.C_COLUMNS),
            "t": zeros(n + entities, at.T_COLUMNS),
            "k": zeros(max(kinds, 1), at.K_COLUMNS),
            "d": zeros(1, at.D_COLUMNS),
            "heap": heap,
            "waits": zeros(cpus + 1),
            "waiters": zeros(1, at.Q_COLUMNS),
            "wakes": zeros(1, at.WK_COLUMNS),
            "queue": zeros(queues, most_queued),
            "groups": zeros(1, at.GROUP_COLUMNS),
            "posted": zeros(cpus, at.POSTED_MOST, at.W_COLUMNS),
            "allowed": zeros(1, words),
            "idle": zeros(words),
            "overloaded": zeros(words),
            "kw": zeros(walkers, at.KW_COLUMNS),
            "kt": kt,
            "kc": zeros(walkers, cpus, at.KC_COLUMNS),
            "used": zeros(walkers, at.USED_OF_TASK * n + 1, at.USED_COLUMNS),
            "exits": zeros(1, 1, 1),
            "noted": zeros(at.MOST_NOTED, at.N_COLUMNS),
            "alike": zeros(at.MOST_POINTS),
            "log": zeros(1, at.L_COLUMNS),
            "marks": zeros(1),
            "calls": zeros(len(TASK_KINDS)),
            "call_prices": zeros(len(TASK_KINDS)) - 1,
            "histograms": zeros(2, at.BUCKETS),
            "totals": zeros(at.TALLIES),
            "plans": zeros(at.P_COLUMNS),
        }
    )
