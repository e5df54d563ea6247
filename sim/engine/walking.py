"""Flow points as all strategies walk them: the one that times the host at once, the others in blocks of points.

What the others do changes nothing in the schedule.  So flow points are noted, and the strategies walk each block one
after the other, as in sim.host.schedule: a strategy's table and states then stay in the caches.
"""

from __future__ import annotations

from sim.engine.events import log
from sim.engine.jit import Memory, call, compiled
from sim.engine.kernel_table import add_count, step
from sim.engine.layout import (
    AREAS,
    ASK_EXITS,
    CALLBACK,
    CHILD,
    CPUS,
    FAIL_TOUCHED,
    FAILED,
    K_POINT,
    K_REASON,
    KC_SLOT0,
    KC_SLOTS,
    KIND,
    MEASURING,
    MOST_NOTED,
    N_CPU,
    N_CURRENT,
    N_FOLLOWING,
    N_MEASURING,
    N_POINT,
    N_TIMES,
    N_TOUCHED,
    NOBODY,
    NOTED,
    POINT_DELIVER,
    POINT_EXITS,
    POINT_RETURN,
    POINT_SCHEDULE,
    POINT_SIGNAL,
    POINT_SIGRETURN,
    THREAD,
    TOUCHED,
    USED_OF_TASK,
    WALKERS,
)

FORGETS, TOUCHED_MUCH = -1, -2
"""Noted like flow points: a task has been freed; the bytes that a CPU's caches have seen are counted from 0 again."""
MUCH = 1 << 61


@compiled
def note(a: Memory, c: int, point: int, current: int, following: int, times: int) -> None:
    """Notes a flow point for the other strategies; ``following`` is the kind, if exits of one are counted together."""
    if a.g[WALKERS] == 1 or a.g[FAILED]:  # after a failure the block may be full
        return
    n = a.g[NOTED]
    a.noted[n, N_CPU] = c
    a.noted[n, N_POINT] = point
    a.noted[n, N_CURRENT] = current
    a.noted[n, N_FOLLOWING] = following
    a.noted[n, N_TIMES] = times
    a.noted[n, N_MEASURING] = a.c[c, MEASURING]
    a.noted[n, N_TOUCHED] = a.c[c, TOUCHED]
    a.g[NOTED] = n + 1
    if n + 1 == MOST_NOTED:
        walk(a)


@compiled
def walk(a: Memory) -> None:
    """The other strategies pass what has been noted."""
    for w in range(1, a.g[WALKERS]):
        for n in range(a.g[NOTED]):
            point, c, current = a.noted[n, N_POINT], a.noted[n, N_CPU], a.noted[n, N_CURRENT]
            if point == POINT_EXITS:
                walk_exits(a, w, n)
            elif point >= 0:
                step(a, w, c, point, current, a.noted[n, N_FOLLOWING], a.noted[n, N_MEASURING], a.noted[n, N_TOUCHED])
            elif point == FORGETS:
                forget_in(a, w, current)
            else:
                count_anew(a, w, c)
            if a.g[FAILED]:
                return
    a.g[NOTED] = 0


@compiled
def passes(a: Memory, c: int, point: int, following: int) -> int:
    """A flow point is passed on a CPU by all strategies; the row of the one that times the host."""
    current = a.c[c, THREAD]
    thread = -1
    if point == POINT_SCHEDULE:
        thread = NOBODY if a.t[following, KIND] == CHILD else following
    log(a, c, point, thread)
    note(a, c, point, current, following, 1)
    return max(step(a, 0, c, point, current, following, a.c[c, MEASURING], a.c[c, TOUCHED]), 0)


@compiled
def passes_signal(a: Memory, c: int) -> None:
    """A signal is delivered to the running thread, handled, and returned from."""
    for point in (POINT_DELIVER, POINT_RETURN, POINT_SIGRETURN, POINT_RETURN):
        log(a, c, point, -1)
    note(a, c, POINT_SIGNAL, a.c[c, THREAD], -1, 1)
    step(a, 0, c, POINT_SIGNAL, a.c[c, THREAD], -1, a.c[c, MEASURING], a.c[c, TOUCHED])


@compiled
def exits(a: Memory, c: int, kind: int, times: int) -> None:
    """Notes exits and the entries after them for all strategies except the one that times the host."""
    log(a, c, POINT_EXITS, times)
    note(a, c, POINT_EXITS, a.c[c, THREAD], kind, times)


@compiled
def walk_exits(a: Memory, w: int, n: int) -> None:
    """One of these strategies passes the exits that were noted."""
    c, current, kind = a.noted[n, N_CPU], a.noted[n, N_CURRENT], a.noted[n, N_FOLLOWING]
    times, measuring = a.noted[n, N_TIMES], a.noted[n, N_MEASURING]
    row = a.exits[w, current, a.k[kind, K_REASON]]
    if row < 0:
        point = call(a.g[CALLBACK], ASK_EXITS, a.k[kind, K_POINT], 0, 0, 0)
        row = step(a, w, c, point, current, -1, measuring, a.noted[n, N_TOUCHED])
        if row < 0:
            return
        a.exits[w, current, a.k[kind, K_REASON]] = row
        times -= 1
    add_count(a, w, row, times * measuring)


@compiled
def forget(a: Memory, task: int) -> None:
    """A task has been freed: what CPUs still hold of it belongs to no task."""
    forget_in(a, 0, task)
    note(a, 0, FORGETS, task, -1, 1)


@compiled
def forget_in(a: Memory, w: int, task: int) -> None:
    """The same in one strategy's kernel."""
    for c in range(a.g[CPUS]):
        for i in range(a.kc[w, c, KC_SLOTS]):
            if a.kc[w, c, KC_SLOT0 + i] == task:
                a.kc[w, c, KC_SLOT0 + i] = NOBODY
    a.used[w, USED_OF_TASK * task, 0] = 0


@compiled
def touch(a: Memory, c: int, cycles: int, flow: int) -> None:
    """Accounts for ``cycles`` in which ``flow`` bytes/s run through the CPU's caches, in bytes x TSC Hz."""
    if float(cycles) * float(flow) > MUCH:
        a.g[FAILED] = FAIL_TOUCHED
        return
    touched = a.c[c, TOUCHED] + cycles * flow
    if touched > MUCH:
        touched -= MUCH
        count_anew(a, 0, c)
        note(a, c, TOUCHED_MUCH, -1, -1, 1)
    a.c[c, TOUCHED] = touched


@compiled
def count_anew(a: Memory, w: int, c: int) -> None:
    """Counts what has run through a CPU's caches from 0 again, so that the number does not grow too large."""
    for i in range(a.g[AREAS]):
        if a.used[w, i, 0] == c + 1:
            a.used[w, i, 1] = max(a.used[w, i, 1] - MUCH, -MUCH)
