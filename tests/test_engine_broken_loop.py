"""A rule of the loop that is deliberately broken is found, in many places; test_engine_broken_reference breaks the
reference's."""

import pytest
from both_engines import (  # first of all: the loop as plain Python
    ASKED,
    GROUPED,
    IN_ORDER,
    LOCKED,
    MOVING,
    NEWEST,
    STORM,
    WAKING,
    differ,
    later,
    never,
    nobody,
    otherwise,
)
from hosts import RICH, SHIPPED, changed, from_text, only, shipped

from sim.engine import (
    directed_yield,
    eevdf_groups,
    exits,
    guest,
    guest_lock,
    halting,
    host,
    kernel_table,
    kernel_work,
    loop,
    preempting,
    process,
    rescheduling,
    scheduler,
    spans,
    threads,
    vcpus,
    waiting,
    walking,
)

BROKEN = [
    (scheduler, "avg_vruntime", later),
    (scheduler, "min_slice", never),
    (scheduler, "update_lag", never),
    (host, "wakeup_preempts", otherwise),
    (host, "next_idle", never),
    (host, "pull", never),
    (host, "note_queue", never),
    (spans, "preempt_time", never),
    (kernel_work, "tick_cycles", later),
    (kernel_work, "device_cycles", later),
    (guest, "begins", later),
    (guest, "uses_registers", never),
    (guest, "absorbed", never),
    (guest, "repeat", never),
    (halting, "end_polling", never),
    (host, "end_tickless", never),
    (threads, "writes", never),
    (halting, "in_guest", otherwise),
    (kernel_table, "level_of", never),
    (process, "charge", never),
    (scheduler, "set_protect_slice", never),
    (scheduler, "requeue_delayed", never),
    (preempting, "wakeup_preempt", never),
    (rescheduling, "due_after", later),
    (host, "hrtick_start_fair", never),
    (host, "resched_curr_lazy", never),
    (kernel_work, "sched_tick", never),
    (threads, "is_preempted", otherwise),
    (vcpus, "handles", never),
    (halting, "begin_polling", never),
    (halting, "passes_signal", never),
    (threads, "tick_after", later),
    (loop, "wakes_at_tick", never),
    (halting, "has_halted", never),
    (halting, "kick_poll", never),
    (spans, "polls_until", later),
    (vcpus, "finds_work", never),
    (vcpus, "grow", never),
    (guest_lock, "shrink", never),
    (guest_lock, "set_end", never),
    (guest_lock, "release", never),
    (guest_lock, "runs_again", never),
    (spans, "spins_until", later),
    (guest_lock, "on_spin", never),
    (directed_yield, "is_ready", otherwise),
    (directed_yield, "preempted_in_kernel", otherwise),
    (directed_yield, "nominate", never),
    (halting, "join", never),
    (threads, "prepares_to_wait", never),
    (loop, "times_out", never),
    (halting, "limit_wait", never),
    (threads, "limit_wait", never),
    (waiting, "ends_wait", otherwise),
    (directed_yield, "forfeit", never),
    (scheduler, "list_first", never),
    (vcpus, "learn", never),
    (guest, "exits", never),
    (eevdf_groups, "weigh", never),
    (eevdf_groups, "reweight", never),
    (eevdf_groups, "put_previous", never),
    (eevdf_groups, "need_resched", otherwise),
    (eevdf_groups, "level", nobody),
    (eevdf_groups, "preempt_time", never),
]


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name", "how"), BROKEN, ids=lambda each: getattr(each, "__name__", each))
def test_a_broken_rule_is_found(module, name, how, monkeypatch):
    monkeypatch.setattr(module, name, how(getattr(module, name)))
    busy = changed(from_text(RICH)[0], measure=8e-3, warmup=1e-3)
    idle = shipped(SHIPPED[[path.stem for path in SHIPPED].index("idle-fleet")], "8 ms", "1 ms")[0]
    waking = only(WAKING.format(preemption="voluntary", **IN_ORDER))
    grouped = only(GROUPED.format(kernel="v6.18", preemption="voluntary", hrtick="false", directed="lag-credit"))
    cases = (busy, idle, changed(only(NEWEST), measure=8e-3, warmup=1e-3), only(LOCKED), only(ASKED), waking, grouped)
    assert any(map(differ, cases)), f"nobody has noticed that {name} is broken"


@pytest.mark.slow
def test_what_a_task_left_on_a_cpu_before_it_moved_is_told_from_what_it_has_now(monkeypatch):
    case = only(MOVING)
    assert not differ(case, "user-return")
    monkeypatch.setattr(kernel_table, "note_equal", never(kernel_table.note_equal))
    try:
        found = differ(case, "user-return")
    except AssertionError as contradiction:  # with states that other tests of this process have asked for
        found = str(contradiction) == "a CPU that knows of a content which its task does not have"
    assert found


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), [(exits, "load_byte"), (walking, "walk_exits"), (loop, "walk")])
def test_exits_that_are_drawn_ahead_again_and_again_give_the_same_records(module, name, monkeypatch):
    case = only(STORM)
    assert not differ(case, "manual-exit")
    monkeypatch.setattr(module, name, never(getattr(module, name)))
    assert differ(case, "manual-exit")
