"""Interrupts that come to a CPU in wall time (sim.host.interrupts), and how they are served within a span."""

from __future__ import annotations

from sim.engine.draws import draw, peek_at
from sim.engine.jit import Memory, call, compiled, load
from sim.engine.layout import (
    ASK_DEVICES,
    CALLBACK,
    CONSTANT,
    DEVICE_CYCLES,
    DEVICE_FPU,
    DEVICE_INTERRUPTS,
    DEVICE_TIMES,
    DEVICES,
    DEVICES_READY,
    DUE,
    FIRST_TICK,
    HAS_DEVICES,
    HRTICK_TIME,
    INF,
    INTERRUPT,
    KERNEL_FLOW,
    NEXT_TICK,
    THREAD,
    TICK,
    TICK_DRAWS,
    TICKS,
)
from sim.engine.walking import touch


@compiled
def device_time(a: Memory, c: int, n: int) -> int:
    """When the ``n``-th device interrupt from now comes."""
    if not a.c[c, HAS_DEVICES]:
        return INF
    if a.c[c, DEVICES] + n >= a.c[c, DEVICES_READY]:
        call(a.g[CALLBACK], ASK_DEVICES, c, n, 0, 0)
    return load(a.c[c, DEVICE_TIMES], a.c[c, DEVICES] + n)


@compiled
def device_cycles(a: Memory, c: int, n: int) -> int:
    """How long the ``n``-th is served; device_time() of it must have been called."""
    return load(a.c[c, DEVICE_CYCLES], a.c[c, DEVICES] + n)


@compiled
def device_fpu(a: Memory, c: int, n: int) -> int:
    """The point of its kernel_fpu_begin(), or -1."""
    return load(a.c[c, DEVICE_FPU], a.c[c, DEVICES] + n)


@compiled
def tick_cycles(a: Memory, c: int, n: int) -> int:
    """How long the ``n``-th tick from now is served."""
    return peek_at(a, a.c[c, TICK_DRAWS], n)


@compiled
def serve_ticks(a: Memory, c: int, n: int) -> None:
    """Notes that ``n`` ticks have been served."""
    if a.c[c, TICK_DRAWS] < CONSTANT:
        for _ in range(n):
            draw(a, a.c[c, TICK_DRAWS])


@compiled
def tick_after(a: Memory, c: int, time: int) -> int:
    """The first tick of the CPU's period that is not before ``time``."""
    first, period = a.c[c, FIRST_TICK], a.g[TICK]
    return first + max(0, -(-(time - first) // period)) * period


@compiled
def note_due(a: Memory, c: int) -> None:
    """Notes when the next interrupt is due, after that has changed."""
    a.c[c, DUE] = min(a.c[c, NEXT_TICK], device_time(a, c, 0), a.c[c, HRTICK_TIME])


@compiled
def absorbed(a: Memory, c: int, ticks: int, devices: int, cycles: int) -> None:
    """Accounts for interrupts that were served within a span."""
    a.c[c, INTERRUPT] += cycles
    touch(a, c, cycles, a.t[a.c[c, THREAD], KERNEL_FLOW])
    a.c[c, TICKS] += ticks
    a.c[c, DEVICE_INTERRUPTS] += devices
    a.c[c, NEXT_TICK] += ticks * a.g[TICK]
    serve_ticks(a, c, ticks)
    a.c[c, DEVICES] += devices
    note_due(a, c)
