"""Flow points by table: every strategy's kernel goes from state to state, and what it runs is counted by row.

A row is looked up by what :class:`sim.engine.transitions.Asked` says, packed into two numbers; one that is not there
yet is asked of Python.
"""

from __future__ import annotations

from sim.engine.jit import Memory, call, compiled, load, store
from sim.engine.layout import (
    AREAS,
    ASK_EQUAL,
    ASK_PRICE,
    ASK_RENEW,
    ASK_ROW,
    CALLBACK,
    CLOCK,
    F_COLUMNS,
    F_CPU_TOKENS,
    F_IN_GUEST,
    F_JOINED,
    F_LIKE,
    F_NOTIFIER,
    F_OWNER,
    F_TASK_TOKENS,
    FRAGMENT_SHIFT,
    FROM_CPU,
    FROM_NEXT,
    HAS_FOUND,
    HAS_LEVELS,
    HAS_RENEWED,
    HAS_SLOTS,
    HAS_TOKENS,
    INIT_AREA,
    KC_SHAPE,
    KC_SLOT0,
    KC_SLOTS,
    KC_STAMP0,
    KC_TOKEN0,
    KT_FRAGMENT,
    KT_LAST,
    KT_TOKEN0,
    KT_VERSION,
    KT_VMCS,
    KW_FLAGS,
    KW_HASH,
    KW_KEPT,
    KW_KEY1,
    KW_KEY2,
    KW_LEVEL_COUNTS,
    KW_LEVELS,
    KW_MASK,
    KW_NEXT_TOKEN,
    KW_ROWS,
    L1_BYTES,
    L2_BYTES,
    LEVEL,
    LEVEL_COLUMNS,
    LEVEL_COUNT0,
    LEVEL_PRICE0,
    NEW_TOKEN,
    NEXT_PLACES_SHIFT,
    NEXT_SHIFT,
    OPERATIONS,
    PENDING,
    POINT_ENTER_RUN,
    POINT_EQUAL,
    POINT_FORK,
    POINT_SHIFT,
    R_CALLED,
    R_COLUMNS,
    R_COUNT,
    R_CPU_TOKENS,
    R_FLAGS,
    R_FRAGMENT,
    R_FRAGMENT2,
    R_KEY1,
    R_KEY2,
    R_LEVELS,
    R_NEW,
    R_PLACES,
    R_PRICE,
    R_SHAPE,
    R_SLOTS,
    R_TIMES,
    R_TOKENS,
    R_TOKENS2,
    SHAPE_SHIFT,
    SLOTS,
    TOKENS_IN_WORD,
    USED_OF_TASK,
)

LOW = (1 << 31) - 1


@compiled
def of_row(a: Memory, w: int, n: int, column: int) -> int:
    """The number in a column of row ``n``."""
    return load(a.kw[w, KW_ROWS], n * R_COLUMNS + column)


@compiled
def flag_of(a: Memory, w: int, number: int, flag: int) -> int:
    """A flag of a fragment or a shape, by its number."""
    return load(a.kw[w, KW_FLAGS], number * F_COLUMNS + flag)


@compiled
def find(a: Memory, w: int, key1: int, key2: int) -> int:
    """The row with these keys; -1: there is none."""
    table, rows, mask = a.kw[w, KW_HASH], a.kw[w, KW_ROWS], a.kw[w, KW_MASK]
    mixed = ((key1 ^ key1 >> 31) & LOW) * 0x5E3779B1 ^ ((key2 ^ key2 >> 31) & LOW) * 0x3F58476D
    i = (mixed >> 16) & mask
    while True:
        n = load(table, i) - 1
        if n < 0:
            a.kw[w, KW_KEY1] = key1
            a.kw[w, KW_KEY2] = key2
            return -1
        row = rows + n * R_COLUMNS * 8
        if load(row, R_KEY1) == key1 and load(row, R_KEY2) == key2:
            return n
        i = (i + 1) & mask


@compiled
def note_equal(a: Memory, w: int, c: int, slot: int, task: int) -> None:
    """A task's contents have changed since the CPU last saw it, so the CPU's shape becomes another one."""
    shape = a.kc[w, c, KC_SHAPE]
    tokens, theirs = flag_of(a, w, shape, F_CPU_TOKENS), flag_of(a, w, a.kt[w, task, KT_FRAGMENT], F_TASK_TOKENS)
    equal = 0
    for i in range(tokens):
        token, found = a.kc[w, c, KC_TOKEN0 + i], 0
        for j in range(theirs):
            if a.kt[w, task, KT_TOKEN0 + j] == token:
                found = j + 1
        equal |= found << 4 * i
    n = find(a, w, POINT_EQUAL << POINT_SHIFT | shape << SHAPE_SHIFT | slot, equal)
    if n < 0:
        n = call(a.g[CALLBACK], ASK_EQUAL, w, shape, slot, tokens)
    if n >= 0:
        a.kc[w, c, KC_SHAPE] = of_row(a, w, n, R_SHAPE)
    a.kc[w, c, KC_STAMP0 + slot] = a.kt[w, task, KT_VERSION]


@compiled
def place_of(counts: bool, here: int, where: int) -> int:
    """NOWHERE, HERE or ELSEWHERE; UNREAD if that does not count."""
    return 3 if not counts else 0 if where < 0 else 1 if where == here else 2


@compiled
def row_of(a: Memory, w: int, c: int, point: int, current: int, following: int) -> int:
    """The number of the row; -1 if Python has refused it."""
    pattern = 0
    for i in range(a.kc[w, c, KC_SLOTS]):
        task = a.kc[w, c, KC_SLOT0 + i]
        whom = 0
        if task in (current, following):
            whom = 1 if task == current else 2
            if a.kc[w, c, KC_STAMP0 + i] != a.kt[w, task, KT_VERSION]:
                note_equal(a, w, c, i, task)
        pattern = pattern * 3 + whom
    shape = a.kc[w, c, KC_SHAPE]
    owner = flag_of(a, w, shape, F_OWNER) - 1
    if owner >= 0:
        owner = a.kc[w, c, KC_SLOT0 + owner]
    key1 = a.alike[point] << POINT_SHIFT | shape << SHAPE_SHIFT | pattern
    # Where a task ran last is looked at if the registers are its own, and where its VMCS is, when it is loaded.
    key2 = a.kt[w, current, KT_FRAGMENT] << FRAGMENT_SHIFT
    key2 |= place_of(owner == current, c, a.kt[w, current, KT_LAST]) << 2
    key2 |= place_of(point == POINT_ENTER_RUN, c, a.kt[w, current, KT_VMCS])
    if following >= 0:
        fragment = a.kt[w, following, KT_FRAGMENT]
        loads = flag_of(a, w, fragment, F_NOTIFIER) != 0
        if not flag_of(a, w, shape, F_JOINED):
            fragment = flag_of(a, w, fragment, F_LIKE)
        places = place_of(owner == following, c, a.kt[w, following, KT_LAST]) << 2
        places |= place_of(loads, c, a.kt[w, following, KT_VMCS])
        key2 |= (fragment + 1) << NEXT_SHIFT | places << NEXT_PLACES_SHIFT
    n = find(a, w, key1, key2)
    return n if n >= 0 else call(a.g[CALLBACK], ASK_ROW, w, c, point, following)


@compiled
def settle_task(a: Memory, w: int, c: int, task: int, fragment: int, places: int) -> None:
    """What has become of a task; a fragment below 0 is what it was."""
    if fragment >= 0:
        a.kt[w, task, KT_FRAGMENT] = fragment
    last, vmcs = places >> 2, places & 3
    if last != 2:
        a.kt[w, task, KT_LAST] = c if last else -1
    if vmcs != 2:
        a.kt[w, task, KT_VMCS] = c if vmcs else -1


@compiled
def level_of(a: Memory, w: int, c: int, area: int, touched: int) -> int:
    """Where an area is, 0 L1, 1 L2, 2 memory, now that it is used (sim.host.caches)."""
    if a.g[LEVEL] >= 0:
        return a.g[LEVEL]
    where, before = a.used[w, area, 0], a.used[w, area, 1]
    a.used[w, area, 0] = c + 1
    a.used[w, area, 1] = touched
    if where != c + 1:
        return 2
    since = touched - before
    return 0 if since < a.g[L1_BYTES] else 1 if since < a.g[L2_BYTES] else 2


@compiled
def add_levels(
    a: Memory, w: int, c: int, levels: int, current: int, following: int, measuring: int, touched: int
) -> int:
    """Counts operations whose price depends on where their buffer is; returns their cycles under the first strategy."""
    price, columns = 0, a.kw[w, KW_LEVEL_COUNTS]
    for i in range(levels >> 8, (levels >> 8) + (levels & 255)):
        whose, operation = load(a.kw[w, KW_LEVELS], 2 * i), load(a.kw[w, KW_LEVELS], 2 * i + 1)
        area = (current if whose < INIT_AREA // 2 else following) * USED_OF_TASK + whose % 3
        if whose == INIT_AREA:
            area = a.g[AREAS] - 1
        level = level_of(a, w, c, area, touched)
        count = operation * LEVEL_COLUMNS + LEVEL_COUNT0 + level
        store(columns, count, load(columns, count) + measuring)
        if w == 0:
            price += load(columns, operation * LEVEL_COLUMNS + LEVEL_PRICE0 + level)
    return price


@compiled
def set_tokens(a: Memory, w: int, c: int, row: int, current: int, following: int) -> None:
    """Sets which contents tasks and the CPU have after a flow point; ``row`` is the row's address."""
    new, counts = a.kw[w, KW_NEXT_TOKEN], load(row, R_NEW)
    a.kw[w, KW_NEXT_TOKEN] = new + (counts & 255)
    for i in range(counts >> 8 & 255):  # contents come from old ones by number, so those are kept aside
        a.kw[w, KW_KEPT + i] = a.kt[w, current, KT_TOKEN0 + i]
    for i in range(counts >> 16 & 255):
        a.kw[w, KW_KEPT + FROM_NEXT + i] = a.kt[w, following, KT_TOKEN0 + i]
    for i in range(counts >> 24):
        a.kw[w, KW_KEPT + FROM_CPU + i] = a.kc[w, c, KC_TOKEN0 + i]
    for which in range(3):
        column = R_TOKENS if which == 0 else R_TOKENS2 if which == 1 else R_CPU_TOKENS
        words = load(row, column)
        for i in range((words & 63) - 1):
            words = load(row, column + 1) if i + 1 == TOKENS_IN_WORD else words >> 6
            source = words & 63
            token = new + source - NEW_TOKEN if source >= NEW_TOKEN else a.kw[w, KW_KEPT + source]
            if which == 0:
                a.kt[w, current, KT_TOKEN0 + i] = token
            elif which == 1:
                a.kt[w, following, KT_TOKEN0 + i] = token
            else:
                a.kc[w, c, KC_TOKEN0 + i] = token
    if load(row, R_TOKENS):
        a.kt[w, current, KT_VERSION] += 1
    if load(row, R_TOKENS2):
        a.kt[w, following, KT_VERSION] += 1


@compiled
def set_slots(a: Memory, w: int, c: int, row: int, current: int, following: int) -> None:
    """Sets of which tasks the CPU's new shape speaks."""
    for i in range(a.kc[w, c, KC_SLOTS]):
        a.kw[w, KW_KEPT + i] = a.kc[w, c, KC_SLOT0 + i]
        a.kw[w, KW_KEPT + 16 + i] = a.kc[w, c, KC_STAMP0 + i]
    word = load(row, R_SLOTS)
    a.kc[w, c, KC_SLOTS] = word & 15
    for i in range(word & 15):
        word >>= 4
        source = word & 15
        if source < SLOTS:
            a.kc[w, c, KC_SLOT0 + i] = a.kw[w, KW_KEPT + source]
            a.kc[w, c, KC_STAMP0 + i] = a.kw[w, KW_KEPT + 16 + source]
        else:
            task = current if source == -2 & 15 else following
            a.kc[w, c, KC_SLOT0 + i] = task
            a.kc[w, c, KC_STAMP0 + i] = a.kt[w, task, KT_VERSION]


@compiled
def step(a: Memory, w: int, c: int, point: int, current: int, following: int, measuring: int, touched: int) -> int:
    """One strategy's kernel passes a flow point; the row's number, or -1.  A forked child exists only afterwards."""
    n = row_of(a, w, c, point, current, -1 if point == POINT_FORK else following)
    if n < 0:
        return n
    row = a.kw[w, KW_ROWS] + n * R_COLUMNS * 8
    store(row, R_COUNT, load(row, R_COUNT) + measuring)
    flags = load(row, R_FLAGS)
    if w == 0:
        if load(row, R_PRICE) < 0:
            call(a.g[CALLBACK], ASK_PRICE, n, 0, 0, 0)
        a.c[c, PENDING] += load(row, R_PRICE)
    if flags & HAS_LEVELS:
        price = add_levels(a, w, c, load(row, R_LEVELS), current, following, measuring, touched)
        if w == 0:
            a.c[c, PENDING] += price
    places = load(row, R_PLACES)
    settle_task(a, w, c, current, load(row, R_FRAGMENT), places >> 4)
    if following >= 0:
        settle_task(a, w, c, following, load(row, R_FRAGMENT2), places & 15)
    a.kc[w, c, KC_SHAPE] = load(row, R_SHAPE)
    if flags & HAS_TOKENS:
        set_tokens(a, w, c, row, current, following)
    if flags & (HAS_SLOTS | HAS_TOKENS):
        set_slots(a, w, c, row, current, following)
    if flags & (HAS_FOUND | HAS_RENEWED):
        store(row, R_TIMES, load(row, R_TIMES) + 1)
        if flags & HAS_RENEWED:
            call(a.g[CALLBACK], ASK_RENEW, w, n, c, current)
    return n


@compiled
def called(a: Memory, row: int) -> bool:
    """Whether the row asks another CPU for a VMCLEAR."""
    return of_row(a, 0, row, R_CALLED) != 0


@compiled
def runs_guest(a: Memory, c: int) -> bool:
    """Whether the CPU is between VM entry and VM exit."""
    return flag_of(a, 0, a.kc[0, c, KC_SHAPE], F_IN_GUEST) != 0


@compiled
def add_count(a: Memory, w: int, n: int, times: int) -> None:
    """Counts a row ``times`` more times."""
    column = n * R_COLUMNS + R_COUNT
    store(a.kw[w, KW_ROWS], column, load(a.kw[w, KW_ROWS], column) + times)


@compiled
def charge(a: Memory, c: int) -> None:
    """Moves a CPU's clock on by the operations since the last call."""
    cycles = a.c[c, PENDING]
    if cycles:
        a.c[c, PENDING] = 0
        a.c[c, CLOCK] += cycles
        a.c[c, OPERATIONS] += cycles
