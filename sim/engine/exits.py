"""A vCPU's exits, drawn ahead in guest CPU time by Python, and how many of them a span holds (sim.host.exits)."""

from __future__ import annotations

from sim.engine.jit import Memory, call, compiled, load
from sim.engine.layout import (
    ASK_REFILL,
    CALLBACK,
    FIRST_KIND,
    S_EFFECTS,
    S_FPU,
    S_GUEST,
    S_KIND,
    S_LEN,
    S_N_EFFECTS,
    S_NEXT,
    S_TIME,
    S_WALL,
)


@compiled
def stop_of(a: Memory, t: int) -> int:
    """The number of the next exit that ends a span, or one past the last that is drawn."""
    low, high, wanted = 0, a.t[t, S_N_EFFECTS], a.t[t, S_NEXT]
    while low < high:
        middle = (low + high) >> 1
        if load(a.t[t, S_EFFECTS], middle) < wanted:
            low = middle + 1
        else:
            high = middle
    return load(a.t[t, S_EFFECTS], low) if low < a.t[t, S_N_EFFECTS] else a.t[t, S_LEN]


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
    return a.t[t, FIRST_KIND] + load(a.t[t, S_KIND], n)


@compiled
def exit_time(a: Memory, t: int, n: int) -> int:
    """Cycles of KVM's handler of exit ``n``, beside operations."""
    return load(a.t[t, S_TIME], n)


@compiled
def exit_fpu(a: Memory, t: int, n: int) -> int:
    """Whether an interrupt during exit ``n`` runs kernel_fpu_begin()."""
    return load(a.t[t, S_FPU], n)


@compiled
def exit_over(a: Memory, t: int, n: int) -> int:
    """When exit ``n`` is over, on the wall clock."""
    return load(a.t[t, S_WALL], n)


@compiled
def refill(a: Memory, t: int) -> None:
    """Draws more if there is no exit left that could end a span."""
    if a.t[t, S_NEXT] >= a.t[t, S_LEN]:
        call(a.g[CALLBACK], ASK_REFILL, t, 0, 0, 0)
