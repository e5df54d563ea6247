"""In which control group a thread is that vCPUs wake: a simulated host knows it, and its recording has to show it.

With the weights of groups of v6.13 to v6.19, a group that runs keeps the CPU by other rules, and 3 s do not show it.
"""

import io

import pytest
from hosts import only

from sim.analysis.recorded_run import RecordedRun
from sim.trace.fit.entries import Charges
from sim.trace.fit.groups import grouped
from sim.trace.fit.handovers import sharing
from sim.trace.fit.lives import Watcher
from sim.trace.fit.thread_times import Burst, Life, VcpuTimes
from sim.trace.following.replay import REGS
from sim.trace.reading.chunks import steps
from sim.trace.reading.reader import Reader

MS = 1_000_000
EVENTS = frozenset(("sched_switch", "sched_wakeup", "kvm_fpu", "kvm_entry", "kvm_exit", *REGS))
HOST = """
title = "a thread that vCPUs wake"
[run]
measure = "600 ms"
warmup = "0 ns"
[host]
cpus = 2
cpu = ["zen4"]
{kernel}
[groups.machine]
weight = 1024
[groups.batch]
weight = 512
[guests.vm]
group = "machine"
vcpus = 2
[guests.vm.exits.kick]
every = {{ exponential = "300 us" }}
reason = "ept-misconfig"
wakes = {{ vhost = 1.0 }}
[threads.vhost]
{kind}
compute = {{ exponential = "60 us" }}
waits = {{ share = 1.0 }}
[threads.hog]
group = "batch"
count = 3
compute = "1 ms"
[threads.other]
compute = "1 ms"
"""


V6_18 = 'kernel = ["v6.18"]\npreemption = "none"'
V7_3 = 'kernel = ["v7.3"]\npreemption = "full"'


def families(kind, kernel):
    """By entry, apart from its CPU, the control groups of its threads."""
    case = only(HOST.format(kind=kind, kernel=kernel))
    watcher, text = Watcher(), "\n".join(RecordedRun(case, "free-ssp", 0, only=EVENTS).lines()) + "\n"
    reader = Reader(io.BytesIO(text.encode()), "recording")
    for chunk in reader.chunks():
        for each in steps(chunk, reader.names):
            watcher.see(each)
    watcher.finish()
    found = {}
    for group in grouped(watcher.lives, watcher.seen.first_ns, watcher.seen.last_ns, Charges()):
        found.setdefault(group.key[1], set()).add(group.family)
    return found


@pytest.mark.parametrize("kind", ['kind = "kthread"', 'fpu = { components = ["SSE"] }'], ids=["vhost", "I/O thread"])
@pytest.mark.parametrize(("kernel", "inside"), [(V7_3, True), (V7_3, False), (V6_18, False)])
def test_a_thread_that_vcpus_wake_is_in_their_group_or_not(kind, kernel, inside):
    found = families(kind + ('\ngroup = "machine"' if inside else ""), kernel)
    (vhost,) = found["vhost-0"]
    assert bool(vhost) == inside
    assert not inside or vhost in found["vm-0-vcpu"]
    assert found["other-0"] == {""}


def busy(name, tid, share):
    """A thread that has this share of CPU 0 for two seconds, in one burst."""
    found = Life(tid, name, 0, user=True, last_ns=2000 * MS)
    found.bursts.append(Burst(0, 2000 * MS, round(share * 2000 * MS), 100, 0, 0, -1))
    found.cpus[0], found.at_ns[0] = 100, round(share * 2000 * MS)
    return found


@pytest.mark.parametrize(
    ("vcpu", "hog", "by_idle", "together"),
    [(45, 5, 0, {1, 2}), (15, 35, 0, set()), (9, 1, 0, set()), (45, 5, 400, set())],
    ids=["of its group", "as often as they run", "too few", "vCPUs seldom wake it"],
)
def test_only_bursts_that_others_began_say_to_whom_a_thread_leaves_its_waker_s_cpu(vcpu, hog, by_idle, together):
    """vCPU 2 wakes it 200 times and gets the CPU back; vCPU 4, on another CPU, begins the bursts that are given."""
    threads = [busy("vcpu", 2, 0.3), busy("hog", 3, 0.6), Life(4, "vcpu", 0)]
    threads[0].vcpu = threads[2].vcpu = VcpuTimes()
    worker = Life(1, "vhost", 0, last_ns=2000 * MS)
    worker.bursts += [Burst(ms * MS, ms * MS + 50_000, 50_000, 1, 0, 0, 2) for ms in range(0, 2000, 8)]
    worker.cpus[0], worker.at_ns[0] = 250, 250 * 50_000
    worker.wakers.update({2: 200, 4: vcpu + hog, 0: by_idle})
    worker.handed_after.update({(0, 2, 2): 200, (0, 2, 4): vcpu, (0, 3, 4): hog})
    worker.handed.update({(0, 2): 200 + vcpu, (0, 3): hog})
    assert {each.tid for pair in sharing([worker, *threads], 2000 * MS) for each in pair} == together
