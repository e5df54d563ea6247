"""Flow points by table: every strategy's kernel goes from state to state, and what it runs is counted by row.

A row is looked up by what :class:`sim.engine.transitions.Asked` says, packed into two numbers; one that is not there
yet is asked of Python.
"""

from __future__ import annotations

from sim.engine.events import log
from sim.engine.jit import Memory, call, compiled
from sim.engine.layout import (
    AREAS,
    ASK_EXITS,
    ASK_RENEW,
    ASK_ROW,
    CALLBACK,
    CHILD,
    CLOCK,
    CPUS,
    FAILED,
    HASH_MASK,
    K_POINT,
    K_REASON,
    KC_SHAPE,
    KC_SLOTS,
    KIND,
    KT_FRAGMENT,
    KT_LAST,
    KT_VERSION,
    KT_VMCS,
    L1_BYTES,
    L2_BYTES,
    LEVEL,
    MEASURING,
    NOBODY,
    OPERATIONS,
    PENDING,
    POINT_EXITS,
    POINT_FORK,
    POINT_SCHEDULE,
    R_CALLED,
    R_CHANGED,
    R_CHANGED2,
    R_FIRST_LEVEL,
    R_FRAGMENT,
    R_FRAGMENT2,
    R_LAST,
    R_LAST2,
    R_LEVELS,
    R_PRICE,
    R_RENEWS,
    R_SHAPE,
    R_SLOT0,
    R_SLOTS,
    R_VMCS,
    R_VMCS2,
    SLOTS,
    THREAD,
    TOUCHED,
    WALKERS,
)

MUCH = 1 << 61
HALF = 1 << 31


@compiled
def touch(a: Memory, c: int, amount: int) -> None:
    """So much runs through the CPU's caches (bytes x TSC Hz)."""
    touched = a.c[c, TOUCHED] + amount
    if touched > MUCH:
        touched -= MUCH
        for w in range(a.g[WALKERS]):
            for i in range(a.g[AREAS]):
                if a.used[w, i, 0] == c + 1:
                    a.used[w, i, 1] = max(a.used[w, i, 1] - MUCH, -MUCH)
    a.c[c, TOUCHED] = touched


@compiled
def place_of(here: int, where: int) -> int:
    """NOWHERE, HERE or ELSEWHERE."""
    return 0 if where < 0 else 1 if where == here else 2


@compiled
def row_of(a: Memory, w: int, c: int, point: int, current: int, following: int) -> int:
    """The number of the row; -1 if Python has refused it."""
    pattern = 0
    for i in range(a.kc[w, c, KC_SLOTS]):
        task = a.slots[w, c, i]
        whom = 0
        if task in (current, following):
            whom = 1 if task == current else 2
            if a.stamps[w, c, i] == a.kt[w, task, KT_VERSION]:
                whom += 2
        pattern = pattern * 5 + whom
    key1 = point << 48 | a.kc[w, c, KC_SHAPE] << 28 | pattern
    key2 = a.kt[w, current, KT_FRAGMENT] << 8
    key2 |= place_of(c, a.kt[w, current, KT_LAST]) * 3 + place_of(c, a.kt[w, current, KT_VMCS])
    if following >= 0:
        key2 |= (a.kt[w, following, KT_FRAGMENT] + 1) << 32
        key2 |= (place_of(c, a.kt[w, following, KT_LAST]) * 3 + place_of(c, a.kt[w, following, KT_VMCS])) << 4
    mask = a.g[HASH_MASK]
    mixed = (key1 ^ key1 >> 31) % HALF * 0x5E3779B1 ^ (key2 ^ key2 >> 31) % HALF * 0x3F58476D
    i = (mixed >> 16) & mask
    while a.found[w, i]:
        if a.key1[w, i] == key1 and a.key2[w, i] == key2:
            return a.found[w, i] - 1
        i = (i + 1) & mask
    row = call(a.g[CALLBACK], ASK_ROW, w << 32 | i, c << 32 | point, current, following)
    if row >= 0:
        a.key1[w, i] = key1
        a.key2[w, i] = key2
        a.found[w, i] = row + 1
    return row


@compiled
def settle_task(a: Memory, w: int, c: int, task: int, fragment: int, last: int, vmcs: int, changed: int) -> None:
    """What has become of a task."""
    a.kt[w, task, KT_FRAGMENT] = fragment
    if last != 2:
        a.kt[w, task, KT_LAST] = c if last else -1
    if vmcs != 2:
        a.kt[w, task, KT_VMCS] = c if vmcs else -1
    a.kt[w, task, KT_VERSION] += changed


@compiled
def level_of(a: Memory, w: int, c: int, area: int) -> int:
    """Where an area is, 0 L1, 1 L2, 2 memory, now that it is used (sim.host.caches)."""
    if a.g[LEVEL] >= 0:
        return a.g[LEVEL]
    where, before, touched = a.used[w, area, 0], a.used[w, area, 1], a.c[c, TOUCHED]
    a.used[w, area, 0] = c + 1
    a.used[w, area, 1] = touched
    if where != c + 1:
        return 2
    since = touched - before
    return 0 if since < a.g[L1_BYTES] else 1 if since < a.g[L2_BYTES] else 2


@compiled
def step(a: Memory, w: int, c: int, point: int, current: int, following: int) -> int:
    """One strategy's kernel passes a flow point; the row's number, or -1.  A child is only there afterwards."""
    n = row_of(a, w, c, point, current, -1 if point == POINT_FORK else following)
    if n < 0:
        return n
    measuring = a.c[c, MEASURING]
    a.counts[w, n] += measuring
    a.times[w, n] += 1
    price = a.rows[w, n, R_PRICE]
    first = a.rows[w, n, R_FIRST_LEVEL]
    for i in range(first, first + a.rows[w, n, R_LEVELS]):
        whose, operation = a.levels[w, i, 0], a.levels[w, i, 1]
        task = current if whose < 3 else following
        level = level_of(a, w, c, task * 3 + whose % 3)
        a.level_counts[w, operation, level] += measuring
        if w == 0:
            price += a.level_prices[operation, level]
    if w == 0:
        a.c[c, PENDING] += price
    before = a.kc[w, c, KC_SLOTS]
    settle_task(a, w, c, current, a.rows[w, n, R_FRAGMENT], a.rows[w, n, R_LAST], a.rows[w, n, R_VMCS],
                a.rows[w, n, R_CHANGED])  # fmt: skip
    if following >= 0:
        settle_task(a, w, c, following, a.rows[w, n, R_FRAGMENT2], a.rows[w, n, R_LAST2], a.rows[w, n, R_VMCS2],
                    a.rows[w, n, R_CHANGED2])  # fmt: skip
    a.kc[w, c, KC_SHAPE] = a.rows[w, n, R_SHAPE]
    slots = a.rows[w, n, R_SLOTS]
    a.kc[w, c, KC_SLOTS] = slots
    # New slots come from old ones by number, so those are kept aside beyond the most that there can be.
    for i in range(before):
        a.slots[w, c, SLOTS + i] = a.slots[w, c, i]
        a.stamps[w, c, SLOTS + i] = a.stamps[w, c, i]
    for i in range(slots):
        source = a.rows[w, n, R_SLOT0 + i]
        if source >= 0:
            a.slots[w, c, i] = a.slots[w, c, SLOTS + source]
            a.stamps[w, c, i] = a.stamps[w, c, SLOTS + source]
        else:
            task = current if source == -2 else following
            a.slots[w, c, i] = task
            a.stamps[w, c, i] = a.kt[w, task, KT_VERSION]
    if a.rows[w, n, R_RENEWS]:
        call(a.g[CALLBACK], ASK_RENEW, w, n, c, current)
    return n


@compiled
def passes(a: Memory, c: int, point: int, following: int) -> int:
    """A flow point is passed on a CPU by all strategies; the row of the one that times the host."""
    current = a.c[c, THREAD]
    thread = -1
    if point == POINT_SCHEDULE:
        thread = NOBODY if a.t[following, KIND] == CHILD else following
    log(a, c, point, thread)
    row = step(a, 0, c, point, current, following)
    for w in range(1, a.g[WALKERS]):
        step(a, w, c, point, current, following)
    return max(row, 0)


@compiled
def called(a: Memory, row: int) -> bool:
    """Whether the row asks another CPU for a VMCLEAR."""
    return a.rows[0, row, R_CALLED] != 0


@compiled
def exits(a: Memory, c: int, kind: int, times: int) -> None:
    """So many exits with the entries after them, for all strategies but the one that times the host."""
    current, reason, measuring = a.c[c, THREAD], a.k[kind, K_REASON], a.c[c, MEASURING]
    log(a, c, POINT_EXITS, times)
    for w in range(1, a.g[WALKERS]):
        more = times
        row = a.exits[w, current, reason]
        if row < 0:
            point = call(a.g[CALLBACK], ASK_EXITS, a.k[kind, K_POINT], 0, 0, 0)
            row = step(a, w, c, point, current, -1)
            if row < 0:
                return
            a.exits[w, current, reason] = row
            more -= 1
        a.counts[w, row] += more * measuring


@compiled
def charge(a: Memory, c: int) -> None:
    """The operations since the last call take their time."""
    cycles = a.c[c, PENDING]
    if cycles:
        a.c[c, PENDING] = 0
        a.c[c, CLOCK] += cycles
        a.c[c, OPERATIONS] += cycles


@compiled
def failed(a: Memory) -> bool:
    """Whether the replication cannot go on."""
    return a.g[FAILED] != 0


@compiled
def forget(a: Memory, task: int) -> None:
    """A task has been freed: what CPUs have of it is nobody's any more."""
    for w in range(a.g[WALKERS]):
        for c in range(a.g[CPUS]):
            for i in range(a.kc[w, c, KC_SLOTS]):
                if a.slots[w, c, i] == task:
                    a.slots[w, c, i] = NOBODY
        a.used[w, 3 * task, 0] = 0
