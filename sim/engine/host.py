"""What CPUs do for each other: wake-ups, balancing, posted work, context switches (sim.host.host, sim.host.cpu)."""

from __future__ import annotations

from sim.engine.draws import draw
from sim.engine.events import kick
from sim.engine.interrupts import note_due, tick_after
from sim.engine.jit import Memory, compiled, trailing_zeros
from sim.engine.kernel_table import called, charge, flag_of
from sim.engine.layout import (
    ACCOUNT,
    BLOCKED,
    CHILD,
    CPU,
    DELAYED,
    ENDED,
    F_NOTIFIER,
    FLOW,
    FREE_AFTER,
    FREE_THREAD,
    FROM_EVENT,
    GUEST,
    GUEST_FLOW,
    GUEST_POLL,
    GUEST_SPIN,
    HALT_POLL,
    HANDLER,
    HRTICK_TIME,
    IDLE_BALANCING,
    IDLE_CPUS,
    IDLE_THREAD,
    IN_KERNEL,
    INF,
    INTERRUPTS,
    IPI_PENDING,
    KERNEL_CODE,
    KIND,
    KT_FRAGMENT,
    KT_VMCS,
    LOADS,
    MASK,
    MIGRATIONS,
    NEED_RESCHED,
    NEED_RESCHED_LAZY,
    NEXT_TICK,
    NOTHING,
    NOW,
    POINT_SCHEDULE,
    POLL_OVER,
    POLLS,
    PREEMPTIONS,
    QUEUED_AT,
    RUNNING,
    SLEPT,
    STEAL,
    SWITCHES,
    TASK_KIND,
    THREAD,
    TO_USER,
    VCPU,
    VMM_FLOW,
    WAITING_REQUESTS,
    WAKEUP_PREEMPTION,
    WAKEUPS_DONE,
    WHERE,
    WOKEN_AT,
    WORDS,
)
from sim.engine.rescheduling import hrtick_start_fair, hrtick_update, post, resched_curr_lazy
from sim.engine.run_queue import (
    catch_up_ticks,
    dequeue,
    enqueue,
    need_resched,
    pick_next,
    waiting,
    wakeup_preempts,
)
from sim.engine.walking import forget, passes

# Masks of CPUs, 32 in a word.


@compiled
def has(mask: int, c: int) -> bool:
    """Whether a CPU's bit is set in a word."""
    return (mask >> (c & 31)) & 1 != 0


@compiled
def next_idle(a: Memory, thread: int, after: int) -> int:
    """The next idle CPU after ``after``, by number, on which the thread may run, or else the lowest; -1: none."""
    if a.g[IDLE_CPUS] == 0:
        return -1
    words, allowed = a.g[WORDS], a.t[thread, MASK]
    word = after >> 5
    mask = a.idle[word] & a.allowed[allowed, word] & ~((2 << (after & 31)) - 1)
    for _ in range(words + 1):
        if mask:
            return word * 32 + trailing_zeros(mask)
        word = word + 1 if word + 1 < words else 0
        mask = a.idle[word] & a.allowed[allowed, word]
    return -1


# Wake-ups.


@compiled
def note_queue(a: Memory, c: int) -> None:
    """Keeps the masks of idle CPUs and of those from which a thread could be pulled."""
    word, bit = c >> 5, 1 << (c & 31)
    idle = a.idle[word] & ~bit if a.c[c, RUNNING] else a.idle[word] | bit
    if idle != a.idle[word]:
        a.g[IDLE_CPUS] += 1 if idle > a.idle[word] else -1
        a.idle[word] = idle
    if a.c[c, RUNNING] > 1 and waiting(a, c, -1) >= 0:
        a.overloaded[word] |= bit
    else:
        a.overloaded[word] &= ~bit


@compiled
def select(a: Memory, thread: int, target: int) -> int:
    """select_idle_sibling(): the first that is idle of target, previous CPU and those after it; else the target."""
    was = a.t[thread, CPU]
    if has(a.idle[target >> 5], target):
        return target
    found = next_idle(a, thread, target)
    if found < 0:
        return target
    if has(a.idle[was >> 5] & a.allowed[a.t[thread, MASK], was >> 5], was):
        return was
    return found


@compiled
def enqueue_on(a: Memory, thread: int, waker: int, initial: bool) -> None:
    """Host._enqueue()."""
    c, now, requeued = a.t[thread, CPU], a.g[NOW], a.t[thread, DELAYED]
    a.t[thread, QUEUED_AT] = now
    was_idle = a.c[c, THREAD] == a.c[c, IDLE_THREAD] and a.c[c, RUNNING] == 0
    catch_up_ticks(a, c, now)
    enqueue(a, c, now, thread, initial)
    note_queue(a, c)
    if was_idle:
        a.c[c, NEED_RESCHED] = 1
        kick(a, c)
    elif (a.g[WAKEUP_PREEMPTION] and wakeup_preempts(a, c, now, thread, initial)) or need_resched(a, c):
        resched_curr_lazy(a, c, waker)
    else:
        kick(a, c)
    if not requeued:
        hrtick_update(a, c, waker)


@compiled
def wake(a: Memory, thread: int, waker: int, sync: bool) -> None:
    """try_to_wake_up() on ``waker``."""
    t = a.t
    a.c[waker, WAKEUPS_DONE] += 1
    t[thread, BLOCKED] = 0
    if not (a.g[FROM_EVENT] and t[thread, WOKEN_AT] >= 0):
        t[thread, WOKEN_AT] = a.g[NOW]
    was = t[thread, CPU]
    if not t[thread, DELAYED] and a.c[was, THREAD] != thread:
        target = was
        if sync and a.c[waker, RUNNING] == 1 and has(a.allowed[t[thread, MASK], waker >> 5], waker):
            target = waker
        c = select(a, thread, target)
        if c != was:
            a.c[waker, MIGRATIONS] += 1
            t[thread, CPU] = c
    enqueue_on(a, thread, waker, False)


@compiled
def start(a: Memory, thread: int, c: int) -> None:
    """A new thread is runnable: on an idle CPU if there is one, else on ``c``."""
    a.t[thread, CPU] = c
    a.t[thread, CPU] = select(a, thread, c)
    a.t[thread, BLOCKED] = 0
    enqueue_on(a, thread, c, True)


@compiled
def block(a: Memory, c: int, thread: int) -> None:
    """The running thread goes to sleep."""
    dequeue(a, c, a.g[NOW], thread, True)
    a.t[thread, BLOCKED] = 1
    a.c[c, NEED_RESCHED] = 1


@compiled
def pull_from(a: Memory, other: int, c: int, now: int) -> bool:
    """Takes the first waiting thread of another CPU that may run here (detach_tasks())."""
    thread = waiting(a, other, c)
    if thread < 0:
        return False
    dequeue(a, other, now, thread, False)
    note_queue(a, other)
    if need_resched(a, other):
        resched_curr_lazy(a, other, c)
    kick(a, other)
    a.t[thread, CPU] = c
    a.c[c, MIGRATIONS] += 1
    enqueue(a, c, now, thread, False)
    return True


@compiled
def pull(a: Memory, c: int, now: int) -> bool:
    """sched_balance_newidle(): pulls from the next overloaded CPU, by number, with a thread that may run here."""
    if not a.g[IDLE_BALANCING]:
        return False
    words = a.g[WORDS]
    word = c >> 5
    mask = a.overloaded[word] & ~((2 << (c & 31)) - 1)
    for i in range(words + 1):
        while mask:
            if pull_from(a, word * 32 + trailing_zeros(mask), c, now):
                return True
            mask &= mask - 1
        word = word + 1 if word + 1 < words else 0
        mask = a.overloaded[word]
        if i + 1 == words:
            mask &= (1 << (c & 31)) - 1
    return False


# Context switches.


@compiled
def end_tickless(a: Memory, c: int, now: int) -> None:
    """The tick starts again, in step with its period."""
    a.c[c, NEXT_TICK] = tick_after(a, c, now)
    note_due(a, c)


@compiled
def ask_elsewhere(a: Memory, c: int, row: int, where: int) -> None:
    """Posts to another CPU, with an interrupt, what a flow point asks of it."""
    if called(a, row):
        kind = a.t[a.c[where, THREAD], TASK_KIND]
        post(a, where, draw(a, a.g[INTERRUPTS]), 0, NOTHING, 0, kind, False)


@compiled
def switch(a: Memory, c: int) -> None:
    """__schedule(): picks, pulls from another CPU before going idle, and switches."""
    a.c[c, NEED_RESCHED] = a.c[c, NEED_RESCHED_LAZY] = 0
    prev, now, idle = a.c[c, THREAD], a.g[NOW], a.c[c, IDLE_THREAD]
    thread = pick_next(a, c, now)
    if thread < 0 and pull(a, c, now):
        thread = pick_next(a, c, now)
    note_queue(a, c)
    if thread < 0:
        thread = idle
    if thread == prev:
        return
    a.c[c, SWITCHES] += 1
    if not a.t[prev, BLOCKED] and prev != idle:
        a.c[c, PREEMPTIONS] += 1
        a.t[prev, QUEUED_AT] = now
    if a.t[thread, KIND] == VCPU:
        a.c[c, STEAL] += now - a.t[thread, QUEUED_AT]
    if prev == idle:
        end_tickless(a, c, now)
    elif thread == idle:
        a.c[c, NEXT_TICK] = a.c[c, HRTICK_TIME] = INF
        note_due(a, c)
    charge(a, c)
    where = a.kt[0, thread, KT_VMCS]
    ask_elsewhere(a, c, passes(a, c, POINT_SCHEDULE, thread), where)
    a.c[c, LOADS] += flag_of(a, 0, a.kt[0, thread, KT_FRAGMENT], F_NOTIFIER)
    a.c[c, THREAD] = thread
    hrtick_start_fair(a, c)
    if a.t[prev, KIND] == CHILD and a.t[prev, ENDED]:
        a.t[prev, ENDED] = 0
        forget(a, prev)
        a.t[prev, FREE_AFTER] = a.g[FREE_THREAD]
        a.g[FREE_THREAD] = prev


# Guests.


@compiled
def does(a: Memory, thread: int, account: int) -> None:
    """The next span of a vCPU thread is in the guest, polls, handles an exit, or is the VMM's."""
    a.t[thread, ACCOUNT] = account
    a.t[thread, WHERE] = KERNEL_CODE if account == HANDLER else POLLS if account == HALT_POLL else TO_USER
    flow = 0
    if account == GUEST:
        flow = a.t[thread, GUEST_FLOW]
    elif account not in (HALT_POLL, GUEST_POLL, GUEST_SPIN):
        flow = a.t[thread, VMM_FLOW]
    a.t[thread, FLOW] = flow


@compiled
def is_pending(a: Memory, thread: int) -> bool:
    """Whether an interrupt is pending for the guest."""
    return a.t[thread, WAITING_REQUESTS] > 0 or a.t[thread, IPI_PENDING] != 0


@compiled
def take_pending(a: Memory, thread: int) -> bool:
    """The guest takes a request that waits, or the IPIs that are pending as one."""
    if a.t[thread, WAITING_REQUESTS]:
        a.t[thread, WAITING_REQUESTS] -= 1
    elif a.t[thread, IPI_PENDING]:
        a.t[thread, IPI_PENDING] = 0
    else:
        return False
    return True


@compiled
def before_switch(a: Memory, c: int) -> None:
    """kvm_vcpu_can_poll() is false when the CPU is wanted: a vCPU that polls blocks, unless it is preempted."""
    thread = a.c[c, THREAD]
    if a.t[thread, WHERE] != POLLS or a.t[thread, BLOCKED] or is_pending(a, thread):
        return
    if a.t[thread, POLL_OVER] or not a.g[IN_KERNEL]:
        block_vcpu(a, c, thread)


@compiled
def block_vcpu(a: Memory, c: int, thread: int) -> None:
    """kvm_vcpu_block()."""
    a.t[thread, SLEPT] = 1
    block(a, c, thread)
