"""vCPUs that wake each other: a simulated host knows its IPIs, its timers and its guests' work; its recording has to
show them."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from hosts import only

from sim.analysis.recorded_run import RecordedRun
from sim.trace.fit.entries import Charges, ExitEntry, Times
from sim.trace.fit.groups import grouped
from sim.trace.fit.ipis import set_ipis
from sim.trace.fit.lives import Watcher
from sim.trace.fit.thread_times import VcpuTimes
from sim.trace.following.replay import REGS
from sim.trace.reading.chunks import steps
from sim.trace.reading.reader import Reader

EVENTS = frozenset(("sched_switch", "sched_wakeup", "kvm_fpu", "kvm_entry", "kvm_exit", *REGS))
HOST = """
title = "vCPUs that wake each other"
[run]
measure = "900 ms"
warmup = "0 ns"
[host]
cpus = 4
cpu = ["sapphire-rapids"]
preemption = "none"
halt_poll = "0 ns"
[guests.vm]
vcpus = 6
demand = {{ exponential = "250 us" }}
sleep = {{ exponential = "1 ms" }}
[guests.vm.exits.msr]
every = {{ exponential = "200 us" }}
reason = "{reason}"
{effect}
"""


def fitted(reason, effect):
    """The entry of the vCPUs."""
    case = only(HOST.format(reason=reason, effect=effect))
    watcher, text = Watcher(), "\n".join(RecordedRun(case, "free-ssp", 0, only=EVENTS).lines()) + "\n"
    reader = Reader(io.BytesIO(text.encode()), "recording")
    for chunk in reader.chunks():
        for each in steps(chunk, reader.names):
            watcher.see(each)
    watcher.finish()
    (group,) = grouped(watcher.lives, watcher.seen.first_ns, watcher.seen.last_ns, Charges(), idle=0.3)
    return group


@pytest.mark.parametrize("reason", ["wrmsr-icr", "msr-write"])
def test_exits_that_wake_vcpus_send_ipis_beside_the_guest_s_timers(reason):
    group = fitted(reason, 'effect = "ipi"')
    (sends,) = group.exits  # neither those of timers, nor interrupts for the host
    assert sends.ipi
    assert sends.reason == "wrmsr-icr"
    assert np.mean(group.demand) == pytest.approx(250_000, rel=0.15)
    assert np.mean(group.halt) == pytest.approx(1_000_000, rel=0.25)


def test_exits_without_ipis_send_none():
    group = fitted("msr-write", "")
    assert not any(each.ipi for each in group.exits)
    assert np.mean(group.demand) == pytest.approx(250_000, rel=0.1)


def test_vcpus_that_wake_each_other_and_never_halt_in_kvm_send_no_ipis():
    """Blocked outside KVM_RUN, as in a lock of the VMM's, no halt tells a request's work."""
    woken, waker = (SimpleNamespace(tid=tid, vcpu=VcpuTimes()) for tid in (7, 8))
    waker.vcpu.woke["msr_write", woken.tid] = 1000
    entry = SimpleNamespace(
        waits=None,
        halts=0,
        demand=[],
        halt=[],
        exits=[ExitEntry("msr-write", "msr-write", 1000, Times(1.0), Times(1.0))],
    )
    set_ipis(entry, [woken, waker])
    assert not entry.exits[0].ipi
