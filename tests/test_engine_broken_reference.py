"""A rule of the reference that is deliberately broken is found, in many places; so is one of the loop
(test_engine_broken_loop)."""

import both_engines  # first of all: the loop as plain Python
import pytest
from both_engines import ASKED, GROUPED, IN_ORDER, LOCKED, NEWEST, WAKING, differ, later, never, otherwise
from hosts import RICH, SHIPPED, changed, from_text, only, shipped

from sim.host.caches import L1, Touched
from sim.host.cpu import HostCpu
from sim.host.cpu_time import CpuTime
from sim.host.eevdf import EevdfRunQueue
from sim.host.eevdf_groups import GroupedRunQueue
from sim.host.exits import ExitStream
from sim.host.guest_lock import LockingVcpu
from sim.host.guest_span import GuestSpan
from sim.host.halt_polling import GuestPolling, HaltPolling
from sim.host.halting import HaltingVcpu
from sim.host.host import Host
from sim.host.hrtick import Hrtick
from sim.host.thread import ComputeThread
from sim.host.vcpu import VcpuThread


def in_l1(function):
    """Every buffer is in the L1 cache."""
    return lambda *arguments: L1


def stays(function):
    """A thread is woken where it was."""
    return lambda host, thread, target: target


BUSY, IDLE, GUESTS, LOCKS, REQUESTS, WAITS, GROUPS = range(7)
BROKEN = [
    (EevdfRunQueue, "avg_vruntime", later, BUSY),
    (EevdfRunQueue, "_min_slice", never, BUSY),
    (EevdfRunQueue, "_update_lag", never, BUSY),
    (EevdfRunQueue, "_protect", never, BUSY),
    (EevdfRunQueue, "_requeue_delayed", never, BUSY),
    (EevdfRunQueue, "preempt_time", never, BUSY),
    (Host, "note_queue", never, IDLE),
    (Host, "pull", never, IDLE),
    (Host, "_select", stays, IDLE),
    (HostCpu, "resched_curr_lazy", never, BUSY),
    (HostCpu, "_end_tickless", never, BUSY),
    (HostCpu, "_sched_tick", never, BUSY),
    (HostCpu, "_hrtick_start_fair", never, GUESTS),
    (Hrtick, "due_after", later, GUESTS),
    (CpuTime, "tick_cycles", later, BUSY),
    (CpuTime, "absorbed", never, BUSY),
    (CpuTime, "repeat", never, BUSY),
    (Touched, "__call__", in_l1, BUSY),
    (ExitStream, "begins", later, BUSY),
    (GuestSpan, "_uses_registers", never, BUSY),
    (ComputeThread, "_writes", never, BUSY),
    (VcpuThread, "_learn", never, BUSY),
    (HaltingVcpu, "_in_guest", otherwise, BUSY),
    (HaltPolling, "end", never, IDLE),
    (GuestPolling, "has_halted", never, LOCKS),
    (HaltingVcpu, "_kick_poll", never, REQUESTS),
    (LockingVcpu, "_set_end", never, LOCKS),
    (LockingVcpu, "preempted_in_kernel", otherwise, LOCKS),
    (GroupedRunQueue, "_weigh", never, GROUPS),
]


def host_with(what):
    """A host on which a rule of this kind matters."""
    if what == BUSY:
        return changed(from_text(RICH)[0], measure=8e-3, warmup=1e-3)
    if what == IDLE:
        return shipped(next(path for path in SHIPPED if path.stem == "idle-fleet"), "8 ms", "1 ms")[0]
    if what == GUESTS:
        return changed(only(NEWEST), measure=8e-3, warmup=1e-3)
    if what == LOCKS:
        return only(LOCKED)
    if what == REQUESTS:
        return only(ASKED)
    if what == WAITS:
        return only(WAKING.format(preemption="voluntary", **IN_ORDER))
    return only(GROUPED.format(kernel="v6.18", preemption="voluntary", hrtick="false", directed="lag-credit"))


@pytest.mark.slow
@pytest.mark.parametrize(("of", "name", "how", "what"), BROKEN, ids=lambda each: getattr(each, "__name__", str(each)))
def test_a_broken_rule_of_the_reference_is_found(of, name, how, what, monkeypatch):
    case = host_with(what)
    monkeypatch.setattr(of, name, how(getattr(of, name)))
    assert differ(case)


@pytest.mark.parametrize("what", [BUSY, IDLE, GUESTS, LOCKS, REQUESTS, WAITS, GROUPS])
def test_with_no_rule_broken_there_is_nothing_to_find(what):
    assert both_engines.check(host_with(what), "xstate-guest", (), 0).same
