"""The event queue: what SimPy's does, in the same order (time, priority, creation)."""

from __future__ import annotations

from sim.engine.jit import Memory, compiled
from sim.engine.layout import (
    CLOCK,
    CPU_FINGERPRINT,
    CPU_INTERRUPTED,
    CREATED,
    CREATED_BITS,
    EVENTS,
    FACTOR,
    FAIL_EVENTS,
    FAIL_LOGGED,
    FAILED,
    FINGERPRINT,
    INF,
    L_CLOCK,
    L_CPU,
    L_POINT,
    L_THREAD,
    LOG_FROM,
    LOG_UNTIL,
    LOGGED,
    LOGS,
    MARK_EVERY,
    MARKS,
    MOST_EVENTS,
    MOST_MARKS,
    NOW,
    PRIME,
    URGENT,
    WAITING,
)


@compiled
def push(a: Memory, at: int, priority: int, what: int, whom: int) -> int:
    """Schedules an event; its number, by which a CPU knows what it waits for."""
    n = a.g[EVENTS]
    if n >= a.g[MOST_EVENTS]:
        a.g[FAILED] = FAIL_EVENTS
        return -1
    created = a.g[CREATED]
    a.g[CREATED] = created + 1
    key = priority << CREATED_BITS | created
    a.g[EVENTS] = n + 1
    times, keys = a.heap_time, a.heap_key
    while n > 0:
        parent = (n - 1) >> 1
        if times[parent] < at or (times[parent] == at and keys[parent] < key):
            break
        times[n] = times[parent]
        keys[n] = keys[parent]
        a.heap_what[n] = a.heap_what[parent]
        n = parent
    times[n] = at
    keys[n] = key
    a.heap_what[n] = whom << 8 | what
    return created


@compiled
def pop(a: Memory) -> None:
    """Takes the first event off, which the caller has read."""
    n = a.g[EVENTS] - 1
    a.g[EVENTS] = n
    times, keys, whats = a.heap_time, a.heap_key, a.heap_what
    at, key, what = times[n], keys[n], whats[n]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        other = child + 1
        if other < n and (times[other] < times[child] or (times[other] == times[child] and keys[other] < keys[child])):
            child = other
        if at < times[child] or (at == times[child] and key < keys[child]):
            break
        times[i] = times[child]
        keys[i] = keys[child]
        whats[i] = whats[child]
        i = child
    times[i] = at
    keys[i] = key
    whats[i] = what


@compiled
def peek(a: Memory) -> int:
    """When the next event is."""
    return a.heap_time[0] if a.g[EVENTS] else INF


@compiled
def kick(a: Memory, c: int) -> None:
    """Something has changed that a span in progress must take note of."""
    if a.c[c, WAITING]:
        a.c[c, WAITING] = 0
        push(a, a.g[NOW], URGENT, CPU_INTERRUPTED, c)


@compiled
def log(a: Memory, c: int, point: int, thread: int) -> None:
    """An event of a CPU, where somebody compares them with the reference's."""
    if not a.g[LOGS] or a.g[LOGGED] >= a.g[LOG_UNTIL]:
        return
    n, clock, value, own = a.g[LOGGED], a.c[c, CLOCK], a.g[FINGERPRINT], a.c[c, CPU_FINGERPRINT]
    for each in (c, clock, point, thread):
        value = (value * FACTOR + each) % PRIME
        own = (own * FACTOR + each) % PRIME
    a.g[FINGERPRINT] = value
    a.c[c, CPU_FINGERPRINT] = own
    a.g[LOGGED] = n + 1
    i = n - a.g[LOG_FROM]
    if 0 <= i < MOST_MARKS:
        a.log[i, L_CPU] = c
        a.log[i, L_CLOCK] = clock
        a.log[i, L_POINT] = point
        a.log[i, L_THREAD] = thread
    if i >= 0 and (i + 1) % a.g[MARK_EVERY] == 0:
        mark(a, value)
    if n + 1 >= a.g[LOG_UNTIL]:
        a.g[FAILED] = FAIL_LOGGED


@compiled
def mark(a: Memory, value: int) -> None:
    """Keeps a fingerprint; where all marks are used, every other one is enough from now on."""
    n = a.g[MARKS]
    a.marks[n] = value
    n += 1
    if n == MOST_MARKS:
        n = MOST_MARKS // 2
        for i in range(n):
            a.marks[i] = a.marks[2 * i + 1]
        a.g[MARK_EVERY] *= 2
    a.g[MARKS] = n
