"""The event queue: what SimPy's does, in the same order (time, priority, creation)."""

from __future__ import annotations

from sim.engine.jit import Memory, compiled, fetch
from sim.engine.layout import (
    AREAS_OF_TASK,
    BEGUN,
    BURST_DRAWS,
    CLOCK,
    CPU_FINGERPRINT,
    CPU_INTERRUPTED,
    CPU_WAITS,
    CPUS,
    CREATED,
    CREATED_BITS,
    CURRENT_ENTITY,
    DEMAND_DRAWS,
    EVENTS,
    FACTOR,
    FAIL_EVENTS,
    FAIL_LOGGED,
    FAILED,
    FINGERPRINT,
    FIRST_FREE,
    GUEST_TIME,
    HALTED_AT,
    HEAP_KEY,
    HEAP_TIME,
    HEAP_WHAT,
    HLT_KIND,
    INF,
    INTERRUPT_KIND,
    KC_SHAPE,
    KC_TOKEN0,
    KIND,
    KT_FRAGMENT,
    KT_TOKEN0,
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
    OPERATIONS,
    OTHER_SHIFT,
    P_WALL,
    PLANNED,
    PRIME,
    S_EFFECT,
    SLEEP_DRAWS,
    SPAN_BEGIN,
    THREAD,
    TOKENS,
    URGENT,
    USE_SWITCHES,
    USE_WRITES,
    VCPU,
    VRUNTIME,
    WAITING,
    WEIGHT,
    WHAT_BITS,
    WHAT_MASK,
)

MANY_CPUS = 256
"""With this many CPUs, what the next events need is prefetched; with fewer it is mostly in the core's own cache."""
CHILDREN = 4
"""Of each entry of the heap."""


@compiled
def is_before(a: Memory, i: int, at: int, key: int) -> bool:
    """Whether entry ``i`` of the heap comes before an event; without a branch, which could not be predicted."""
    time = a.heap[i, HEAP_TIME]
    return (time < at) | ((time == at) & (a.heap[i, HEAP_KEY] < key))


@compiled
def put(a: Memory, i: int, at: int, key: int, what: int) -> None:
    """Writes an entry of the heap."""
    a.heap[i, HEAP_TIME] = at
    a.heap[i, HEAP_KEY] = key
    a.heap[i, HEAP_WHAT] = what


@compiled
def move(a: Memory, i: int, to: int) -> None:
    """Moves an entry to another place."""
    put(a, to, a.heap[i, HEAP_TIME], a.heap[i, HEAP_KEY], a.heap[i, HEAP_WHAT])


@compiled
def sink(a: Memory, at: int, key: int, what: int) -> None:
    """Puts an event into the heap, whose first place is free; places after the last have the time INF."""
    n, i, child = a.g[EVENTS], 1, 2
    many = a.g[CPUS] >= MANY_CPUS
    while child <= n:
        first = child
        for j in range(first + 1, first + CHILDREN):
            child = j if is_before(a, j, a.heap[child, HEAP_TIME], a.heap[child, HEAP_KEY]) else child
        if not is_before(a, child, at, key):
            break
        if many and first <= CHILDREN + 2:
            if i == 1:
                look_further(a, a.heap[child, HEAP_WHAT])
            else:
                look_ahead(a, a.heap[child, HEAP_WHAT])
        move(a, child, i)
        i = child
        child = first_child(i)
    put(a, i, at, key, what)


@compiled
def first_child(i: int) -> int:
    """The first of an entry's children, which are in two cache lines that follow each other."""
    return 4 * i - 2


@compiled
def parent(i: int) -> int:
    """The entry above another one."""
    return (i + 2) >> 2


@compiled
def beside(whom: int, other: int) -> int:
    """Whom an event concerns, and what else it will need: of a CPU its thread, of a timer's thread its CPU."""
    return whom | other << OTHER_SHIFT


@compiled
def whom_of(packed: int) -> int:
    """The CPU or the thread that an event concerns."""
    return packed >> WHAT_BITS & (1 << OTHER_SHIFT) - 1


@compiled
def push(a: Memory, at: int, priority: int, what: int, whom: int) -> int:
    """Schedules an event; returns its number, by which a CPU knows what it waits for."""
    created = a.g[CREATED]
    a.g[CREATED] = created + 1
    key, packed = priority << CREATED_BITS | created, whom << WHAT_BITS | what
    if a.g[FIRST_FREE]:
        a.g[FIRST_FREE] = 0
        sink(a, at, key, packed)
        return created
    n = a.g[EVENTS] + 1
    if n + CHILDREN > a.g[MOST_EVENTS]:
        a.g[FAILED] = FAIL_EVENTS
        return -1
    a.g[EVENTS] = n
    while n > 1 and not is_before(a, parent(n), at, key):
        move(a, parent(n), n)
        n = parent(n)
    put(a, n, at, key, packed)
    return created


@compiled
def pop(a: Memory) -> None:
    """Takes off the first event, which the caller has read.  Its place is left for the event that mostly follows."""
    a.g[FIRST_FREE] = 1


@compiled
def fill(a: Memory) -> None:
    """If no event has followed from the last one, the last entry of the heap gets the first place.

    There always is one: the STOP or the PATIENCE that ends the run.
    """
    if a.g[FIRST_FREE]:
        a.g[FIRST_FREE] = 0
        n = a.g[EVENTS]
        a.g[EVENTS] = n - 1
        at = a.heap[n, HEAP_TIME]
        a.heap[n, HEAP_TIME] = INF
        sink(a, at, a.heap[n, HEAP_KEY], a.heap[n, HEAP_WHAT])


@compiled
def peek(a: Memory) -> int:
    """When the next event is; INF: there is none."""
    if a.g[FIRST_FREE] == 0:
        return a.heap[1, HEAP_TIME]
    return min(min(a.heap[2, HEAP_TIME], a.heap[3, HEAP_TIME]), min(a.heap[4, HEAP_TIME], a.heap[5, HEAP_TIME]))


@compiled
def of_cpu(packed: int) -> bool:
    """Whether an event is a CPU's."""
    what = packed & WHAT_MASK
    return (what == CPU_WAITS) | (what == CPU_INTERRUPTED)


@compiled
def look_ahead(a: Memory, packed: int) -> None:
    """Fetches from memory what one of the next events will need: with 1,024 CPUs that is in no core's own cache."""
    whom, other = whom_of(packed), packed >> WHAT_BITS + OTHER_SHIFT
    c, thread = (whom, other) if of_cpu(packed) else (other, whom)
    fetch(a.c, (c, CLOCK))
    fetch(a.c, (c, CURRENT_ENTITY))
    fetch(a.c, (c, SPAN_BEGIN))
    fetch(a.c, (c, PLANNED))
    fetch(a.c, (c, P_WALL))
    fetch(a.c, (c, OPERATIONS))
    fetch(a.kc, (0, c, KC_SHAPE))
    fetch(a.kc, (0, c, KC_TOKEN0))
    fetch(a.queue, (c, 0))
    fetch(a.posted, (c, 0, 0))
    fetch_thread(a, thread)


@compiled
def fetch_thread(a: Memory, thread: int) -> None:
    """What is used of a thread."""
    fetch(a.t, (thread, VRUNTIME))
    fetch(a.t, (thread, KIND))
    fetch(a.t, (thread, WEIGHT))
    fetch(a.t, (thread, GUEST_TIME))
    fetch(a.t, (thread, S_EFFECT))
    fetch(a.t, (thread, HALTED_AT))
    fetch(a.t, (thread, BEGUN))
    fetch(a.kt, (0, thread, KT_FRAGMENT))
    fetch(a.kt, (0, thread, KT_TOKEN0 + TOKENS // 2))
    fetch(a.used, (0, AREAS_OF_TASK * thread, 0))


@compiled
def look_further(a: Memory, packed: int) -> None:
    """The same of the very next event, where :func:`look_ahead` has fetched what says what else it will need."""
    other = packed >> WHAT_BITS + OTHER_SHIFT
    if not of_cpu(packed):
        fetch_thread(a, a.c[other, THREAD])
    elif a.t[other, KIND] == VCPU:
        fetch(a.k, (a.t[other, INTERRUPT_KIND], 0))
        fetch(a.k, (a.t[other, HLT_KIND], 0))
        fetch(a.d, (a.t[other, USE_SWITCHES], 0))
        fetch(a.d, (a.t[other, USE_WRITES], 0))
        fetch(a.d, (a.t[other, DEMAND_DRAWS], 0))
    else:
        fetch(a.d, (a.t[other, BURST_DRAWS], 0))
        fetch(a.d, (a.t[other, SLEEP_DRAWS], 0))


@compiled
def kick(a: Memory, c: int) -> None:
    """Interrupts the span in progress on a CPU: something has changed that it must take note of."""
    if a.c[c, WAITING]:
        a.c[c, WAITING] = 0
        push(a, a.g[NOW], URGENT, CPU_INTERRUPTED, beside(c, a.c[c, THREAD]))


@compiled
def log(a: Memory, c: int, point: int, thread: int) -> None:
    """Records an event of a CPU, if the engines are being compared."""
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
    """Keeps a fingerprint; when all marks are used, drops every other one, and comes half as often from now on."""
    n = a.g[MARKS]
    a.marks[n] = value
    n += 1
    if n == MOST_MARKS:
        n = MOST_MARKS // 2
        for i in range(n):
            a.marks[i] = a.marks[2 * i + 1]
        a.g[MARK_EVERY] *= 2
    a.g[MARKS] = n
