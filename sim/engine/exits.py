"""A vCPU's exits, drawn ahead in guest CPU time by Python, and how many of them a span holds (sim.host.exits)."""

from __future__ import annotations

from sim.engine.jit import Memory, call, compiled, load, load_byte, store
from sim.engine.kernel_table import of_row
from sim.engine.layout import (
    ASK_REFILL,
    BATCH,
    CALLBACK,
    FAIL_EXITS,
    FAILED,
    FIRST_KIND,
    HAS_LEVELS,
    INF,
    INTERRUPT_KIND,
    K_COUNTS,
    K_CYCLES,
    K_DRAWN,
    K_DRAWN_FPU,
    K_DRAWN_TIME,
    K_EFFECT,
    K_ENTRY,
    K_FASTPATH,
    K_HEAD,
    K_KNOWN,
    K_PART,
    K_POS,
    K_ROW,
    K_ROW2,
    KIND,
    KINDS,
    R_FLAGS,
    R_PRICE,
    S_EFFECT,
    S_EFFECTS,
    S_GUEST,
    S_HANDLED,
    S_KIND,
    S_LEN,
    S_N_EFFECTS,
    S_NEXT,
    S_TIME,
    S_WALL,
    THREADS,
    USES_FPU,
    VCPU,
)

# Drawing ahead.


@compiled
def head(a: Memory, kind: int, n: int) -> None:
    """Makes exit ``n`` of a kind the next of those that have been drawn."""
    a.k[kind, K_POS] = n
    a.k[kind, K_HEAD] = load(a.k[kind, K_DRAWN], n) if n < a.k[kind, K_PART] else INF


@compiled
def merge(a: Memory, t: int) -> None:
    """ExitStream._fill(): the exits of all kinds in order of guest time; of several at once the first kind's first."""
    first, kinds = a.t[t, FIRST_KIND], a.t[t, KINDS]
    guests, whats, times = a.t[t, S_GUEST], a.t[t, S_KIND], a.t[t, S_TIME]
    for i in range(kinds):
        head(a, first + i, 0)
    for n in range(1, a.t[t, S_LEN]):
        kind = first
        for i in range(1, kinds):
            if a.k[first + i, K_HEAD] < a.k[kind, K_HEAD]:
                kind = first + i
        at = a.k[kind, K_POS]
        store(guests, n, a.k[kind, K_HEAD])
        store(times, n, load(a.k[kind, K_DRAWN_TIME], at))
        store(whats, n, kind - first + (USES_FPU if load_byte(a.k[kind, K_DRAWN_FPU], at) else 0))
        head(a, kind, at + 1)


@compiled
def lay_out(a: Memory, t: int) -> None:
    """ExitStream._lay_out(): the exit before the next becomes number 0, and those ahead are counted from there."""
    over = 8 * (a.t[t, S_NEXT] - 1)
    first, kinds, length = a.t[t, FIRST_KIND], a.t[t, KINDS], a.t[t, S_LEN] - a.t[t, S_NEXT] + 1
    for column in (S_GUEST, S_WALL, S_KIND, S_TIME, S_HANDLED):
        a.t[t, column] += over
    for i in range(kinds):
        a.k[first + i, K_COUNTS] += over
        store(a.k[first + i, K_COUNTS], 0, 0)
    guests, walls, whats, times = a.t[t, S_GUEST], a.t[t, S_WALL], a.t[t, S_KIND], a.t[t, S_TIME]
    handled, effects = a.t[t, S_HANDLED], a.t[t, S_EFFECTS]
    store(handled, 0, 0)
    ahead = load(walls, 0) - load(guests, 0)
    found = total = 0
    for n in range(1, length):
        what = load(whats, n)
        kind = first + (what & (USES_FPU - 1))
        counts = -1
        if kinds == 0 or what >= USES_FPU or a.k[kind, K_EFFECT] or not a.k[kind, K_KNOWN] or not a.g[BATCH]:
            store(effects, found, n)
            found += 1
        else:
            time = load(times, n)
            total += time
            ahead += time + a.k[kind, K_CYCLES]
            counts = kind
        store(walls, n, load(guests, n) + ahead)
        store(handled, n, total)
        for i in range(kinds):
            column = a.k[first + i, K_COUNTS]
            store(column, n, load(column, n - 1) + (1 if counts == first + i else 0))
    a.t[t, S_NEXT] = 1
    a.t[t, S_LEN] = length
    a.t[t, S_N_EFFECTS] = found
    a.t[t, S_EFFECT] = 0


@compiled
def lay_out_all(a: Memory) -> None:
    """The same for all vCPUs, when the simulation begins."""
    for t in range(a.g[THREADS]):
        if a.t[t, KIND] == VCPU:
            if a.t[t, KINDS]:
                merge(a, t)
            lay_out(a, t)


@compiled
def refill(a: Memory, t: int) -> None:
    """Draws more if there is no exit left that could end a span."""
    n = a.t[t, S_NEXT]
    if n >= a.t[t, S_LEN]:
        guest, wall = load(a.t[t, S_GUEST], n - 1), load(a.t[t, S_WALL], n - 1)
        drawn = call(a.g[CALLBACK], ASK_REFILL, t, 0, 0, 0)
        if drawn >= 0:
            store(a.t[t, S_GUEST], 0, guest)
            store(a.t[t, S_WALL], 0, wall)
            a.t[t, S_NEXT] = 1
            a.t[t, S_LEN] = drawn + 1
            merge(a, t)
            lay_out(a, t)


@compiled
def learn(a: Memory, t: int, kind: int, out: int, back: int) -> None:
    """Notes what an exit of a kind costs, now that the rows of the exit and of the entry after it are known."""
    last = back if back >= 0 else out
    if (of_row(a, 0, out, R_FLAGS) | of_row(a, 0, last, R_FLAGS)) & HAS_LEVELS:
        a.g[FAILED] = FAIL_EXITS
        return
    cycles, entry = of_row(a, 0, out, R_PRICE), of_row(a, 0, last, R_PRICE)
    a.k[kind, K_KNOWN] = 1
    a.k[kind, K_CYCLES] = cycles if back < 0 else cycles + entry
    a.k[kind, K_ENTRY] = entry
    a.k[kind, K_FASTPATH] = 1 if back < 0 else 0
    a.k[kind, K_ROW] = out
    a.k[kind, K_ROW2] = back
    if back >= 0 and kind != a.t[t, INTERRUPT_KIND]:  # a fastpath exit's stream is laid out once the exit is over
        lay_out(a, t)


# Asking.


@compiled
def stop_of(a: Memory, t: int) -> int:
    """The number of the next exit that ends a span, or one past the last that is drawn."""
    n, found, wanted = a.t[t, S_EFFECT], a.t[t, S_N_EFFECTS], a.t[t, S_NEXT]
    while n < found and load(a.t[t, S_EFFECTS], n) < wanted:
        n += 1
    a.t[t, S_EFFECT] = n
    return load(a.t[t, S_EFFECTS], n) if n < found else a.t[t, S_LEN]


@compiled
def last_over(a: Memory, t: int, wall: int, stop: int) -> int:
    """ExitStream.passed(): the number of the last exit before ``stop`` that is over at ``wall``."""
    low, high, column = a.t[t, S_NEXT], stop, a.t[t, S_WALL]
    while low < high:
        middle = (low + high) >> 1
        if load(column, middle) <= wall:
            low = middle + 1
        else:
            high = middle
    return low - 1


@compiled
def wall_at(a: Memory, t: int, guest: int, stop: int) -> int:
    """ExitStream.wall_at(), with -1 for None."""
    low, high, column = a.t[t, S_NEXT], stop, a.t[t, S_GUEST]
    while low < high:
        middle = (low + high) >> 1
        if load(column, middle) < guest:
            low = middle + 1
        else:
            high = middle
    n = low - 1
    if n == stop - 1 and (stop == a.t[t, S_LEN] or guest > load(column, stop)):
        return -1
    return load(a.t[t, S_WALL], n) + guest - load(column, n)


@compiled
def begins(a: Memory, t: int, n: int) -> int:
    """When exit ``n`` leaves the guest, on the wall clock."""
    return load(a.t[t, S_WALL], n - 1) + load(a.t[t, S_GUEST], n) - load(a.t[t, S_GUEST], n - 1)


@compiled
def kind_of(a: Memory, t: int, n: int) -> int:
    """The kind of exit ``n``."""
    return a.t[t, FIRST_KIND] + (load(a.t[t, S_KIND], n) & (USES_FPU - 1))


@compiled
def exit_time(a: Memory, t: int, n: int) -> int:
    """Cycles of KVM's handler of exit ``n``, beside operations."""
    return load(a.t[t, S_TIME], n)


@compiled
def exit_fpu(a: Memory, t: int, n: int) -> int:
    """Whether an interrupt during exit ``n`` runs kernel_fpu_begin()."""
    return load(a.t[t, S_KIND], n) & USES_FPU


@compiled
def exit_over(a: Memory, t: int, n: int) -> int:
    """When exit ``n`` is over, on the wall clock."""
    return load(a.t[t, S_WALL], n)
