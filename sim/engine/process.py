"""Where the process of a CPU waits, and what its thread receives when it continues."""

from __future__ import annotations

from sim.engine.events import log, push
from sim.engine.jit import Memory, compiled
from sim.engine.kernel_table import charge
from sim.engine.layout import (
    BEGUN_AT,
    BOUNDARY,
    BOUNDARY_IS,
    CLOCK,
    CPU_WAITS,
    CPUS,
    ELAPSED,
    FIRST_CPU,
    KERNEL_FPU,
    LATE,
    LEFT,
    MEASURING,
    NORMAL,
    NOW,
    OVER,
    PLACE,
    POINT_BEGIN,
    POINT_END,
    TALLIES,
    WOKEN_AT,
)
from sim.engine.walking import passes

(
    STARTS, TOP, KERNEL, KERNEL_SYNCED, KERNEL_LATER, KERNEL_ACTION, SPAN_BEGINS, SPAN_GOES_ON, SPAN_WAITS, EVENT,
    AFTER_BURST, PIPE_SYNCED, PIPE_WAKES, PIPE_READS, RUN_ENTERED, POLLED_OUT, HALTED, IPI_SENT, IPI_WAKES, FORKED,
    EXITED, EXIT_HANDLED, GUEST_POLLS, LOCK_TURN, HAS_SPUN, PLE_EXITED, SLEEPS, WAKES_ONE, EXIT_WAKES, EXIT_WAKES_ONE,
) = range(30)  # fmt: skip
"""Where a CPU's process is."""


@compiled
def wait_until(a: Memory, c: int, at: int, place: int, late: bool) -> None:
    """The process waits, and continues at ``place``."""
    push(a, at, FIRST_CPU + c + (LATE if late else 0), CPU_WAITS, c)
    a.c[c, PLACE] = place


@compiled
def synced(a: Memory, c: int, place: int) -> bool:
    """HostCpu.sync(): False if the process has to wait for its clock first."""
    charge(a, c)
    if a.c[c, CLOCK] > a.g[NOW]:
        wait_until(a, c, a.c[c, CLOCK], place, False)
        return False
    return True


@compiled
def has_woken(a: Memory, c: int, thread: int, histogram: int) -> None:
    """Records the latency of a wake-up, if the CPU is measuring, and that the wake-up is over."""
    charge(a, c)
    if a.c[c, MEASURING]:
        value = a.c[c, CLOCK] - a.t[thread, WOKEN_AT]
        shift = 0
        while value >> shift >= 32:
            shift += 1
        a.histograms[histogram, (shift << 5) + (value >> shift)] += 1
    a.t[thread, WOKEN_AT] = -1


@compiled
def use_kernel_fpu(a: Memory, c: int, point: int) -> None:
    """kernel_fpu_begin() in an interrupt."""
    a.c[c, KERNEL_FPU] += 1
    passes(a, c, point, -1)


@compiled
def pass_boundary(a: Memory, c: int) -> None:
    """Warm-up (1) or measurement (2) is over on this CPU."""
    a.c[c, BOUNDARY] = 0
    if a.g[BOUNDARY_IS] == 1 or a.c[c, BEGUN_AT] < 0:
        for i in range(TALLIES):
            a.c[c, i] = 0
        log(a, c, POINT_BEGIN, -1)
        a.c[c, MEASURING] = 1
        a.c[c, BEGUN_AT] = a.c[c, CLOCK]
    if a.g[BOUNDARY_IS] == 2:
        log(a, c, POINT_END, -1)
        a.c[c, MEASURING] = 0
        a.g[ELAPSED] += a.c[c, CLOCK] - a.c[c, BEGUN_AT]
        for i in range(TALLIES):
            a.totals[i] += a.c[c, i]
        a.g[LEFT] -= 1
        if a.g[LEFT] == 0:
            push(a, a.g[NOW], NORMAL, OVER, a.g[CPUS])
