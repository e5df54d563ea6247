"""The event queue: what SimPy's does, in the same order (time, priority, creation)."""

from __future__ import annotations

from sim.engine.jit import Memory, comes_before, compiled, fetch, fetch_number
from sim.engine.layout import (
    BURST_DRAWS,
    CLOCK,
    CPU,
    CPU_FINGERPRINT,
    CPU_INTERRUPTED,
    CPU_WAITS,
    CPUS,
    CREATED,
    CREATED_BITS,
    D_LEFT,
    DEMAND_DRAWS,
    EVENTS,
    FACTOR,
    FAIL_EVENTS,
    FAIL_LOGGED,
    FAILED,
    FINGERPRINT,
    FIRST_EVENT,
    FIRST_FREE,
    GUEST_TIME,
    HEAP_KEY,
    HEAP_TIME,
    HEAP_WHAT,
    INF,
    INTERRUPT_KIND,
    K_POINT,
    KC_SHAPE,
    KIND,
    KT_FRAGMENT,
    L_CLOCK,
    L_CPU,
    L_POINT,
    L_THREAD,
    LINE,
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
    POSTED_HEAD,
    PRIME,
    QUEUED,
    S_GUEST,
    S_NEXT,
    S_WALL,
    SLEEP_DRAWS,
    THEN,
    THREAD,
    URGENT,
    USE_SWITCHES,
    USED_OF_TASK,
    VCPU,
    VRUNTIME,
    W_INTERRUPT,
    WAITING,
    WEIGHT,
)

MANY_CPUS = 256
"""With this many CPUs, what the next events need is prefetched; with fewer it is mostly in the core's own cache."""


@compiled
def is_before(a: Memory, i: int, at: int, key: int) -> bool:
    """Whether entry ``i`` of the heap comes before an event."""
    return comes_before(a.heap[i, HEAP_TIME], a.heap[i, HEAP_KEY], at, key)


@compiled
def put(a: Memory, i: int, at: int, key: int, what: int) -> None:
    """Writes an entry of the heap, and notes where that of a CPU is, which has no more than one.

    Threads have larger numbers than CPUs, and all of them one place; a branch could not be predicted.
    """
    a.heap[i, HEAP_TIME] = at
    a.heap[i, HEAP_KEY] = key
    a.heap[i, HEAP_WHAT] = what
    a.waits[min(what >> 8, a.g[CPUS])] = i


@compiled
def move(a: Memory, i: int, to: int) -> None:
    """Moves an entry to another place."""
    put(a, to, a.heap[i, HEAP_TIME], a.heap[i, HEAP_KEY], a.heap[i, HEAP_WHAT])


@compiled
def earliest_child(a: Memory, i: int) -> tuple[int, int, int]:
    """The earliest of the four children of an entry, its time and its key; where it has none, a place after the last.

    All four are read at once, and compared without a branch, which could not be predicted.
    """
    one, two = first_child(i), first_child(i) + 2
    time1, key1 = a.heap[one, HEAP_TIME], a.heap[one, HEAP_KEY]
    time2, key2 = a.heap[one + 1, HEAP_TIME], a.heap[one + 1, HEAP_KEY]
    time3, key3 = a.heap[one + 2, HEAP_TIME], a.heap[one + 2, HEAP_KEY]
    time4, key4 = a.heap[one + 3, HEAP_TIME], a.heap[one + 3, HEAP_KEY]
    second = comes_before(time2, key2, time1, key1)
    one = one + 1 if second else one
    time1 = time2 if second else time1
    key1 = key2 if second else key1
    second = comes_before(time4, key4, time3, key3)
    two = two + 1 if second else two
    time3 = time4 if second else time3
    key3 = key4 if second else key3
    second = comes_before(time3, key3, time1, key1)
    one = two if second else one
    time1 = time3 if second else time1
    key1 = key3 if second else key1
    return one, time1, key1


@compiled
def first_child(i: int) -> int:
    """The first of the four children of an entry."""
    return 4 * (i - FIRST_EVENT + 1)


@compiled
def parent(i: int) -> int:
    """The entry whose child one is."""
    return (i >> 2) + FIRST_EVENT - 1


@compiled
def sink(a: Memory, at: int, key: int, what: int) -> None:
    """Puts an event into the heap, whose first place is free; places after the last have the time INF."""
    n, i, moved = a.g[EVENTS], FIRST_EVENT, 0
    while first_child(i) <= n:
        child, its_time, its_key = earliest_child(a, i)
        if not comes_before(its_time, its_key, at, key):
            break
        move(a, child, i)
        moved = moved if moved else child
        i = child
    put(a, i, at, key, what)
    if moved and a.g[CPUS] >= MANY_CPUS:
        look_ahead(a, moved)


@compiled
def rise(a: Memory, i: int, at: int, key: int, what: int) -> None:
    """Puts an event into the heap, in which place ``i`` is free, or taken by one that the event replaces.

    It must come before what is behind that place.
    """
    while parent(i) >= FIRST_EVENT + a.g[FIRST_FREE] and not is_before(a, parent(i), at, key):
        move(a, parent(i), i)
        i = parent(i)
    put(a, i, at, key, what)


@compiled
def next_key(a: Memory, priority: int) -> int:
    """The key of an event that is scheduled now, which has the number of it, too."""
    created = a.g[CREATED]
    a.g[CREATED] = created + 1
    return priority << CREATED_BITS | created


@compiled
def number(key: int) -> int:
    """The number of an event."""
    return key & ((1 << CREATED_BITS) - 1)


@compiled
def push(a: Memory, at: int, priority: int, what: int, whom: int) -> int:
    """Schedules an event; returns its number."""
    key, packed = next_key(a, priority), whom << 8 | what
    if a.g[FIRST_FREE]:
        a.g[FIRST_FREE] = 0
        sink(a, at, key, packed)
        return number(key)
    n = a.g[EVENTS] + 1
    if n + 4 > a.g[MOST_EVENTS]:
        a.g[FAILED] = FAIL_EVENTS
        return -1
    a.g[EVENTS] = n
    rise(a, n, at, key, packed)
    return number(key)


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
        return a.heap[FIRST_EVENT, HEAP_TIME]
    i = first_child(FIRST_EVENT)
    return min(
        min(a.heap[i, HEAP_TIME], a.heap[i + 1, HEAP_TIME]), min(a.heap[i + 2, HEAP_TIME], a.heap[i + 3, HEAP_TIME])
    )


@compiled
def look_ahead(a: Memory, i: int) -> None:
    """Fetches from memory what entry ``i``, soon the next event, will need, while others are handled.

    With 1,024 CPUs that is in no core's own cache.
    """
    packed = a.heap[i, HEAP_WHAT]
    what, c = packed & 255, packed >> 8
    if what not in (CPU_WAITS, CPU_INTERRUPTED):
        thread = c
        look_at_thread(a, thread)
        c = a.t[thread, CPU]
        fetch(a.posted, (c, 0, W_INTERRUPT))
    look_at_thread(a, a.c[c, THREAD])
    for column in range(OPERATIONS, POSTED_HEAD + 1, LINE):
        fetch(a.c, (c, column))
    fetch(a.kc, (0, c, KC_SHAPE))
    fetch(a.kc, (0, c, KC_SHAPE + LINE))
    fetch(a.queue, (c, 0))


@compiled
def look_closer(a: Memory) -> None:
    """The same of the next event, and of what its own lines, which should have come by now, lead to."""
    packed = a.heap[earliest_child(a, FIRST_EVENT)[0], HEAP_WHAT]
    what, thread = packed & 255, packed >> 8
    if what in (CPU_WAITS, CPU_INTERRUPTED):
        c = thread
        thread = a.c[c, THREAD]
        for i in range(min(a.c[c, QUEUED], 2)):  # one of them may be switched to
            look_at_thread(a, a.queue[c, i])
    if a.t[thread, KIND] == VCPU:
        fetch_number(a.t[thread, S_GUEST], a.t[thread, S_NEXT] - 1)
        fetch_number(a.t[thread, S_WALL], a.t[thread, S_NEXT] - 1)
        fetch(a.k, (a.t[thread, INTERRUPT_KIND], K_POINT))
        fetch(a.d, (a.t[thread, USE_SWITCHES], D_LEFT))
        fetch(a.d, (a.t[thread, DEMAND_DRAWS], D_LEFT))
    else:
        fetch(a.d, (a.t[thread, BURST_DRAWS], D_LEFT))
        fetch(a.d, (a.t[thread, SLEEP_DRAWS], D_LEFT))


@compiled
def look_at_thread(a: Memory, thread: int) -> None:
    """The same of a thread: three lines, and five of a vCPU or two of another, without a branch, which would wait."""
    vcpu = a.t[thread, KIND] == VCPU
    first = GUEST_TIME if vcpu else THEN
    more = GUEST_TIME + 2 * LINE if vcpu else VRUNTIME
    fetch(a.t, (thread, VRUNTIME))
    fetch(a.t, (thread, WEIGHT))
    fetch(a.t, (thread, first))
    fetch(a.t, (thread, first + LINE))
    fetch(a.t, (thread, more))
    fetch(a.t, (thread, more + LINE))
    fetch(a.t, (thread, more + 2 * LINE))
    fetch(a.kt, (0, thread, KT_FRAGMENT))
    fetch(a.used, (0, USED_OF_TASK * thread, 0))


@compiled
def kick(a: Memory, c: int) -> None:
    """Interrupts the span in progress on a CPU, instead of its end: something has changed that it must take note of."""
    if a.c[c, WAITING]:
        a.c[c, WAITING] = 0
        rise(a, a.waits[c], a.g[NOW], next_key(a, URGENT), c << 8 | CPU_INTERRUPTED)


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
