"""The state of a replication as arrays: which column is what.  All numbers are 64-bit; times are TSC cycles."""

from __future__ import annotations

from typing import Final

from sim.host.accounts import ACCOUNTS, COUNTS, TIMES

INF: Final = 1 << 62


LINE: Final = 8
"""Numbers in a line of the caches."""


def whole_lines(columns: int) -> int:
    """The number of columns, rounded up to an odd number of cache lines, with one of which each row begins.

    With an even number the same line of all rows would fall into half of a cache's sets, or fewer.
    """
    return (-(-columns // LINE) | 1) * LINE


# Of the replication.
(
    NOW, EVENTS, CREATED, CPUS, WALKERS, WORDS, CALLBACK, FAILED, BATCH, WAKEUP_PREEMPTION, IDLE_BALANCING,
    INTERRUPTS, WAKEUPS, BASE_SLICE, TICK, SAME_WEIGHT, BOUNDARY_IS, LEFT, ELAPSED, LEVEL, L1_BYTES, L2_BYTES,
    ALL_EVENTS, ROUND_ROBIN, MOST_EVENTS, MOST_QUEUED, AREAS, FREE_THREAD, THREADS, LOGS, LOGGED,
    LOG_FROM, LOG_UNTIL, MARK_EVERY, MARKS, FINGERPRINT, V7_3, HRTICK, HRTICK_LEAST, HRTICK_SLACK, LAZY,
    KERNEL_POINTS, IN_KERNEL, BUDGET, PAUSED_CPU, IDLE_EXIT, FROM_EVENT, PLE_EXITS, PLE_UNIT, PLE_BASE, PLE_GROW,
    PLE_SHRINK, PLE_MOST, YIELDS, LAG_CREDIT, FORCED_EVERY, FIRST_FREE, GROUPED, GROUPS, ENTITIES,
    NOTED, LISTINGS, COUNTS_STEPS, IDLE_CPUS, G_COLUMNS,
) = range(65)  # fmt: skip

# Of a CPU: its accounts and counts come first, then what is used most; a line here is a cache line.  If run queues are
# grouped (sim.engine.eevdf_groups), rows of further queues follow those of the CPUs.
(
    OPERATIONS, GUEST, GUEST_POLL, GUEST_SPIN, USER, VMM, HANDLER, SYSCALL, INTERRUPT, WAKEUP, HALT_POLL, IDLE,
) = range(len(ACCOUNTS))  # fmt: skip
(
    SWITCHES, PREEMPTIONS, MIGRATIONS, WAKEUPS_DONE, EXITS, ROUND_TRIPS, LOADS, HALTS, POLLED, REQUESTS, HANDOFFS,
    BURSTS, FORKS, GUEST_SWITCHES, TICKS, DEVICE_INTERRUPTS, KERNEL_FPU, STEAL,
) = range(len(ACCOUNTS), len(ACCOUNTS) + len(COUNTS) + len(TIMES))  # fmt: skip
TALLIES: Final = len(ACCOUNTS) + len(COUNTS) + len(TIMES)
(
    W_ACTION, W_THREAD,
    CLOCK, PENDING, THREAD, TOUCHED, IDLE_THREAD, PLACE, WAITING, POSTED,
    CURRENT_ENTITY, QUEUED, RUNNING, RQ_RESCHED, NEED_RESCHED, NEED_RESCHED_LAZY, BUDDY, NEXT_TICK,
    SPAN_BEGIN, SPAN_END, SPAN_REACHED, SPAN_LONGEST, BOUNDARY, MEASURING, DUE, HAS_DEVICES,
    PLANNED, P_END, P_UNTIL, P_SELF, P_LEFT, P_TICKS, P_DEVICES, P_SERVED,
    P_WALL, P_LAST, P_ONGOING, P_HITS, EXIT_REQUEST, POSTED_HEAD, HRTICK_TIME, FIRST_TICK,
    TICK_DRAWS, DEVICES, DEVICE_TIMES, DEVICE_CYCLES, DEVICE_FPU, DEVICES_READY,
    BEGUN_AT, SLICE_END, AGAIN, TARGET, HRTICK_ASKED, FORCED_AT, CPU_FINGERPRINT, WAKES_NOW,
    WAKES_STOP, WAKES_LEFT, HAS_WOKEN, LOAD, _C_END,
) = range(TALLIES, TALLIES + 61)  # fmt: skip
C_COLUMNS: Final = whole_lines(_C_END)

P_COLUMNS: Final = P_HITS - PLANNED + 1
"""The plan of a span is a part of a CPU's row, from PLANNED on."""

# Of a thread: a line here is a cache line, for those that are used again and again.  Three are of any thread, and the
# first has what the run queue knows of it, which a forked child does not inherit; then five of a vCPU, two of others.
(
    VRUNTIME, DEADLINE, DELAYED, SLICE, VLAG, VPROT, EXEC_START, REL_DEADLINE,
    KIND, BLOCKED, CPU, ACCOUNT, REMAINING, WHERE, WOKEN_AT, QUEUED_AT,
    WEIGHT, CUSTOM_SLICE, INV_WEIGHT, MASK, SEVERAL_CPUS, KERNEL_FLOW, FLOW, LISTED,
    GUEST_TIME, WALL, DEMAND_END, ONGOING, S_NEXT, S_LEN, S_WALL, S_GUEST,
    S_EFFECT, S_EFFECTS, S_N_EFFECTS, TIMER_DUE, WAITING_REQUESTS, LOCKS, INTERRUPT_KIND, USE_SWITCHES,
    HALTED_AT, WINDOW, ARMED, GUEST_WINDOW, IPI_PENDING, SLEPT, REQUEST_SLEEPS, POLL_MOST,
    BEGUN, USE_WRITES, GUEST_FLOW, DEMAND_DRAWS, HLT_KIND, SIGNALLED_DRAWS, POSTS, POLL_GROW,
    POLL_START, POLL_SHRINK, POLL_OVER, GUEST_MOST, GUEST_START, USE_FPU_DRAWS, LEARNING, TIMER_KIND,
    THEN, WROTE, SLEEP_DRAWS, BURST_DRAWS, SYSCALL_DRAWS, FPU_DRAWS, WRITES_POINT, HAS_FPU,
    WAKES_FIRST, WAKES_END, PREPARED, AT_TICKS, EXECS, LEFT_THEN, AFTER_DRAWS, WAIT_QUEUE,
    ON_QUEUE, TASK_KIND, OTHER_END, BYTES, EXIT_ROW, ARRIVAL_DRAWS, P_SWITCH_FPU, P_SWITCH_NONE,
    VMM_POINT, VMM_FLOW, FIRST_KIND, KINDS, VM_FIRST, VM_SIZE, VM_INDEX, OTHERS_DRAWS,
    S_KIND, S_TIME, S_HANDLED, FREE_AFTER, FORKED_CHILD, HANDLED, SIGNAL_TIMES,
    POLLS_UNTIL, LOCK_GAPS, LOCK_HOLDS, LOCK_HOLDER, BOOSTED, TURN, REQUEST_END, OUT_SINCE, SPINS_SINCE, SPINS_FROM,
    IN_SPIN_LOOP, DY_ELIGIBLE, PLE_WINDOW, PLE_DRAWS, PAUSE_KIND, WAITS_DRAWS, AT_MOST, WAIT_TIMEOUT, NEXT_WAITER,
    PREV_WAITER, GROUP, ON_RQ, VRUNTIME_HIGH, DEADLINE_HIGH, VLAG_HIGH, VPROT_HIGH, ENDED,
    USE_CONSTANT, P_GUEST_WRITES, _T_END,
) = range(133)  # fmt: skip
T_COLUMNS: Final = whole_lines(_T_END)
HIGH: Final = {
    VRUNTIME: VRUNTIME_HIGH, DEADLINE: DEADLINE_HIGH, VLAG: VLAG_HIGH, VPROT: VPROT_HIGH, INV_WEIGHT: INV_WEIGHT,
}  # fmt: skip
"""The second word of what has 128 bits where virtual times do (sim.engine.wide); an inverse is one of 64 bits."""

IDLE_KIND, COMPUTE, KTHREAD_KIND, PIPE, FORK, CHILD, VCPU = range(7)
"""Kinds of threads."""

TO_USER, POLLS, KERNEL_CODE = range(3)
"""Where a thread is (sim.host.preemption)."""

# Of a kind of exit of one vCPU.
(
    K_POINT, K_REASON, K_EFFECT, K_USERSPACE, K_TARGET, K_VMM, K_KNOWN, K_CYCLES, K_ENTRY, K_FASTPATH, K_ROW, K_ROW2,
    K_COUNTS, K_POINT_REQUEST, K_DRAWN, K_DRAWN_TIME, K_DRAWN_FPU, K_PART, K_POS, K_HEAD,
    K_WAKES_FIRST, K_WAKES_END, _K_END,
) = range(23)  # fmt: skip
K_COLUMNS: Final = whole_lines(_K_END)
USES_FPU: Final = 1 << 16
"""A flag beside the kind of an exit: an interrupt during it runs kernel_fpu_begin()."""

# Of an entry of the event heap.  The first is in row FIRST_EVENT, so that the four children of an entry are two cache
# lines which follow each other.
FIRST_EVENT: Final = 3
HEAP_TIME, HEAP_KEY, HEAP_WHAT, HEAP_COLUMNS = 0, 1, 2, 4

# Of a control group: its weight, and that of all its threads that are queued.
GROUP_WEIGHT, GROUP_LOAD, GROUP_COLUMNS = range(3)

# Of a wait queue: who has waited longest, and who came last, -1: nobody; and the stream that draws whose turn it is,
# -1: the one that has waited longest is next.  Then of those whom a thread or an exit wakes.
Q_FIRST, Q_LAST, Q_PLACES, Q_COLUMNS = range(4)
WK_QUEUE, WK_WHOLE, WK_MORE, WK_COLUMNS = range(4)

# Of a stream of numbers, a cache line: how many of its next numbers are in the row, at its end; where those after them
# are, and where these end.
D_LEFT, D_NEXT, D_END, D_FIRST, D_COLUMNS = 0, 1, 2, 3, 8
CONSTANT: Final = 1 << 61
"""In place of a stream's number, plus the number: a stream in which all numbers are the same."""

# Of a strategy: where its table is (sim.engine.table), the number of the next token, and the keys of a row not found.
(
    KW_HASH, KW_MASK, KW_ROWS, KW_LEVELS, KW_LEVEL_COUNTS, KW_FLAGS, KW_NEXT_TOKEN, KW_KEY1, KW_KEY2, KW_KEPT,
) = range(10)  # fmt: skip
SLOTS: Final = 12
TOKENS: Final = 15
KW_COLUMNS: Final = KW_KEPT + 3 * 16
"""After the columns there is room for old slots or tokens, while new ones are written."""

# Of a task, and of a CPU, under one strategy; tokens are numbers, each of one content.
KT_FRAGMENT, KT_LAST, KT_VMCS, KT_VERSION, KT_TOKEN0 = range(5)
KT_COLUMNS: Final = whole_lines(KT_TOKEN0 + TOKENS)
KC_SHAPE, KC_SLOTS, KC_SLOT0 = range(3)
KC_STAMP0: Final = KC_SLOT0 + SLOTS
KC_TOKEN0: Final = KC_STAMP0 + SLOTS
KC_COLUMNS: Final = whole_lines(KC_TOKEN0 + TOKENS)

# Of a transition, three cache lines: its keys, what becomes of everything, then the rest.  The price is that of the
# operations whose price does not depend on a buffer's level.
(
    R_KEY1, R_KEY2, R_COUNT, R_FLAGS, R_SHAPE, R_FRAGMENT, R_FRAGMENT2, R_PLACES,
    R_SLOTS, R_LEVELS, R_TOKENS, R_TOKENS2, R_CPU_TOKENS, R_NEW,
    R_PRICE, R_TIMES, R_RESULT, R_CALLED, R_COLUMNS,
) = (*range(11), 12, 14, 16, 17, 18, 19, 20, 24)  # fmt: skip
HAS_LEVELS, HAS_TOKENS, HAS_SLOTS, HAS_FOUND, HAS_RENEWED = 1, 2, 4, 8, 16
"""Flags of a row: operations whose price depends on a level; contents, or slots, that change; findings; new areas."""
TOKENS_IN_WORD: Final = 10
"""Tokens are in two words, 6 bits each: one more than how many there are (0: all as they were), then where each comes
from.  Slots are in one word, 4 bits each: how many there are, then which old one each was; the highest values stand for
~CURRENT and ~NEXT.
"""
FROM_NEXT, FROM_CPU, NEW_TOKEN = 16, 32, 48
"""Where a token comes from: numbers below 16 are current's; those of next, of the CPU and of new ones begin here.
R_NEW has, in a byte each, how many are new, and how many old ones of current, next and the CPU are needed.
"""

# Of an operation whose price depends on a level, and of a fragment and a shape.
LEVEL_COUNT0, LEVEL_PRICE0, LEVEL_COLUMNS = 0, 3, 6
(
    F_NOTIFIER, F_CLEAN, F_TASK_TOKENS, F_LIKE, F_IN_GUEST, F_CPU_TOKENS, F_OWNER, F_JOINED, F_COLUMNS,
) = range(9)  # fmt: skip
"""F_LIKE is the first of the fragments that do the same when they come, F_OWNER 1 + the slot of the task whose
registers they are (fpregs_owner), 0: nobody's, F_JOINED whether two tasks have contents in common.
"""

INIT_AREA: Final = 6
"""In place of a task's area: init_fpstate."""
MOST_POINTS: Final = 1 << 14
POINT_SHIFT, SHAPE_SHIFT = 48, 28
"""Where the point and the shape are in the first key of a row; below, whom its slots stand for, a digit of base 3 each.
"""
FRAGMENT_SHIFT, NEXT_SHIFT, NEXT_PLACES_SHIFT = 8, 32, 4
"""Where the current task's fragment and the next task's (F_LIKE), plus 1, are in the second key; places, 2 bits each,
are those where a task ran last and where its VMCS is: the current task's come first.
"""

NOBODY: Final = -2
"""In a slot, in place of a task that is gone."""

# Of an event, if events are logged: those of a window one by one, all of them in fingerprints.
L_CPU, L_CLOCK, L_POINT, L_THREAD, L_COLUMNS = range(5)
MOST_MARKS: Final = 1024
"""The most marks, and the most events, that are kept."""
PRIME: Final = (1 << 40) - 87
FACTOR: Final = (1 << 22) - 3
"""A fingerprint is a polynomial modulo a prime, so that nothing overflows; both numbers are prime."""

# Of a flow point that is noted for the strategies that do not time the host.
N_CPU, N_POINT, N_CURRENT, N_FOLLOWING, N_TIMES, N_MEASURING, N_TOUCHED, N_COLUMNS = range(8)
MOST_NOTED: Final = 4096

# Points that every replication has, by number.
(
    POINT_SCHEDULE, POINT_RETURN, POINT_ENTER_RUN, POINT_LEAVE_RUN, POINT_ENTRY, POINT_BOOTS, POINT_CARRIED,
    POINT_EXIT_FPU, POINT_FORK, POINT_EXEC, POINT_EXIT,
    POINT_BEGIN, POINT_END, POINT_SERVE, POINT_EXITS, POINT_DELIVER, POINT_SIGRETURN, POINT_SIGNAL, POINT_EQUAL,
) = range(19)  # fmt: skip

# Events.
(
    STOP, CPU_WAITS, CPU_INTERRUPTED, CPU_STARTS, WAKE_TIMER, GUEST_TIMER, ARRIVAL, TIMEOUT, PATIENCE, OVER, PAUSED,
) = range(11)  # fmt: skip

# What a posted piece of work is.
W_INTERRUPT, W_WAKEUP, W_WHAT, W_WHOM, W_CALL, W_COLUMNS = range(6)
NOTHING, WAKE, REQUESTED, WAKE_VCPU, START_HRTICK = range(5)

# What the loop asks of Python.
ASK_ROW, ASK_EQUAL, ASK_PRICE, ASK_DRAWS, ASK_DEVICES, ASK_EXITS, ASK_RENEW, ASK_REFILL = range(8)

POSTED_MOST: Final = 520
"""The most pieces of posted work that may wait on a CPU; an odd number of cache lines (:func:`whole_lines`)."""

(
    FAIL_EVENTS, FAIL_POSTED, FAIL_QUEUE, FAIL_VRUNTIME, FAIL_CHILDREN, FAIL_PYTHON, FAIL_LOGGED, FAIL_EXITS,
    FAIL_TOUCHED,
) = range(1, 10)  # fmt: skip
"""Why a replication cannot go on."""

URGENT, NORMAL, TIMER, FIRST_CPU = 0, 1, 1, 2
LATE: Final = 1 << 20
CREATED_BITS: Final = 40

SPAN: Final = 1 << 24

BUCKETS: Final = 64 * 32
"""In a histogram."""
USED_COLUMNS: Final = 2
USED_OF_TASK: Final = 4
"""Rows for the areas of a task, of which it has three: a cache line."""


_ANY: Final = 0
SHAPES: Final = {
    "g": (G_COLUMNS,), "c": (_ANY, C_COLUMNS), "t": (_ANY, T_COLUMNS), "k": (_ANY, K_COLUMNS), "d": (_ANY, D_COLUMNS),
    "heap": (_ANY, HEAP_COLUMNS), "waits": (_ANY,), "waiters": (_ANY, Q_COLUMNS), "wakes": (_ANY, WK_COLUMNS),
    "queue": (_ANY, _ANY), "groups": (_ANY, GROUP_COLUMNS), "posted": (_ANY, POSTED_MOST, W_COLUMNS),
    "allowed": (_ANY, _ANY), "idle": (_ANY,), "overloaded": (_ANY,),
    "kw": (_ANY, KW_COLUMNS), "kt": (_ANY, _ANY, KT_COLUMNS), "kc": (_ANY, _ANY, KC_COLUMNS),
    "used": (_ANY, _ANY, USED_COLUMNS), "exits": (_ANY, _ANY, _ANY),
    "noted": (MOST_NOTED, N_COLUMNS), "alike": (_ANY,),
    "log": (_ANY, L_COLUMNS), "marks": (_ANY,), "calls": (_ANY,), "call_prices": (_ANY,),
    "histograms": (_ANY, BUCKETS), "totals": (TALLIES,), "plans": (P_COLUMNS,),
}  # fmt: skip
"""The arrays: ``g`` of the replication; ``c`` by CPU; ``t`` by thread, of which the first are idle; ``k`` kinds of
exits; ``d`` streams; the event heap, and where in it each CPU's wait is; wait queues, and whom threads wake; run
queues; posted work; masks of CPUs; and, by strategy, its table, what its kernel has of tasks and CPUs, where areas were
used last, and the rows of exits that are counted together, flow points that are noted, and as which point each is
looked up.  A length that is 0 here depends on the host.
"""
NAMES: Final = tuple(SHAPES)
