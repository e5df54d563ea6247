"""A timer of the guest that expires while it runs is an exit: of the VMX preemption timer, or by the host's hrtimer.

arch/x86/kvm/lapic.c kvm_can_use_hv_timer(), kvm_can_post_timer_interrupt(); arch/x86/kvm/vmx/vmx.c
handle_fastpath_preemption_timer(); v6.18.2 and v7.3.4.
"""

import pytest
from both_engines import assert_the_same, differ
from hosts import changed, hosted, only, simulate, threads, value, with_little

from sim.engine import halting, loop
from sim.host.halting import GUEST_SPIN
from sim.host.vcpu import VcpuThread

POLLING = """
hz = 100
[guests.g]
idle = "haltpoll"
posted_interrupts = {posted}
guest_halt_poll = "200 us"
guest_halt_poll_grow_start = "200 us"
demand = "20 us"
sleep = "50 us"
"""
WOKEN = """
hz = 1000
{host}
[guests.g]
vcpus = 3
demand = {{ exponential = "30 us" }}
sleep = {{ exponential = "20 us" }}
{lock}
[guests.g.exits.ipi]
every = {{ exponential = "10 us" }}
effect = "ipi"
target = "random"
time = "1 us"
[threads.other]
count = 2
compute = {{ exponential = "100 us" }}
sleep = {{ exponential = "100 us" }}
"""
LOCK = 'lock = { every = "20 us", hold = "15 us" }'


def polling(cpu, posted="true"):
    return only(with_little("timers", "7 ms", cpu) + POLLING.format(posted=posted))


@pytest.mark.parametrize(
    ("cpu", "posted", "by_host"),
    [("sapphire-rapids", "true", 0), ("sapphire-rapids", "false", 0), ("zen4", "true", 1), ("zen4", "false", 1)],
)
def test_each_request_of_a_guest_that_polls_for_its_own_timer_is_an_exit(cpu, posted, by_host):
    """After the first halt the guest polls for longer than it sleeps, so that nothing else exits but for the ticks."""
    record = simulate(polling(cpu, posted), "xstate-guest", 0)
    requests, ticks = value(record, "requests"), value(record, "ticks")
    assert value(record, "halts") == 0
    assert requests > 90
    assert abs(value(record, "vm_exits") - requests - ticks) <= 1
    assert abs(value(record, "interrupts") - by_host * requests) <= 1
    latencies = [(low, count) for (low, _), count in record.latency["vcpu"].items() if count]
    assert abs(sum(count for _, count in latencies) - (0 if by_host and posted == "false" else requests)) <= 1
    assert all(100 < low < 20_000 for low, _ in latencies)  # from when it expires to the entry, in TSC cycles


INTERRUPTED = """
[interrupts.device]
every = { exponential = "15 us" }
time = { exponential = "4 us" }
[threads.other]
count = 4
compute = { exponential = "30 us" }
sleep = { exponential = "300 us" }
"""


@pytest.mark.parametrize("posted", ["true", "false"])
@pytest.mark.parametrize("latency_from", ["wakeup", "event"])
def test_a_timer_that_expires_while_a_polling_guest_is_interrupted_or_preempted_counts_from_then(latency_from, posted):
    text = with_little("timers", "7 ms").replace("[host]", f'latency_from = "{latency_from}"\n[host]')
    case = only(text + POLLING.format(posted=posted) + INTERRUPTED)
    record = simulate(case, "xstate-guest", 0)
    latencies = [low for (low, _), count in record.latency["vcpu"].items() if count]
    assert min(latencies) < 5_000
    assert max(latencies) < 1_000_000  # TSC cycles: 0.5 ms, and not the 7 ms since time 0
    assert_the_same(case)


@pytest.mark.parametrize("posted", ["true", "false"])
def test_the_preemption_timer_enters_the_guest_again_from_the_fastpath_if_interrupts_are_posted(posted):
    """Rows 8 and 9: from v6.19 on, XCR0 and IA32_XSS are left alone.  Else apic_timer_expired() makes a request."""
    text = with_little("timers", "7 ms") + 'kernel = ["v6.19"]\n' + POLLING.format(posted=posted)
    record = simulate(only(text), "xstate-guest", 0)
    counts = {}
    for key, count, _ in record.ledger:
        counts[key.operation] = counts.get(key.operation, 0) + count
    assert counts["VM entry"] == counts["VM exit"] == value(record, "vm_exits") > 90
    assert counts.get("WRMSR(XSS)", 0) == (0 if posted == "true" else 2 * counts["VM exit"])


PREEMPTED = """
[guests.g]
affinity = "pinned"
posted_interrupts = {posted}
demand = "1 s"
sleep = "1 ms"
[threads.hog]
count = 4
compute = "1 ms"
"""


@pytest.mark.parametrize("posted", ["true", "false"])
@pytest.mark.parametrize(
    ("cpu", "moved", "first"),
    [
        ("sapphire-rapids", False, "preemption-timer"),
        ("sapphire-rapids", True, "external-interrupt"),
        ("zen4", False, "external-interrupt"),
    ],
)
def test_a_timer_that_expires_while_its_vcpu_waits_for_a_cpu_exits_with_the_next_entry_or_is_pending_on_another_cpu(
    cpu, moved, first, posted, monkeypatch
):
    """The preemption timer counts in the guest only: vmx_update_hv_timer(), kvm_arch_vcpu_load()."""
    env, host = hosted(only(with_little("timers", "7 ms", cpu) + PREEMPTED.format(posted=posted)))
    vcpu, exits, exit_ = threads(host)["g/0/vcpu0"], [], VcpuThread._vm_exit
    while vcpu.cpu.thread is vcpu or vcpu.blocked or vcpu.account != "guest":
        env.run(until=env.now + 50_000)

    def noted(thread, cpu, kind):
        if thread is vcpu:
            exits.append((kind.reason, vcpu._waiting, vcpu._guest_time))
        return exit_(thread, cpu, kind)

    monkeypatch.setattr(VcpuThread, "_vm_exit", noted)
    ran = vcpu._guest_time
    vcpu._timer()
    assert len(vcpu.cpu.posted) == (cpu == "zen4")
    if moved:
        (vcpu._timer_due,) = (each for each in host.cpus if each is not vcpu.cpu)
    while not exits:
        env.run(until=env.now + 10_000)
    reason, waiting, time = exits[0]
    assert (reason, waiting) == (first, 1)
    assert (time == ran) == (first == "preemption-timer")


SPINNING = """
hz = 1000
{host}
[guests.g]
vcpus = 3
demand = {{ exponential = "30 us" }}
sleep = {{ exponential = "100 us" }}
lock = {{ every = {{ exponential = "20 us" }}, hold = {{ exponential = "80 us" }} }}
[guests.g.exits.ipi]
every = {{ exponential = "25 us" }}
effect = "ipi"
target = "random"
time = "1 us"
"""


def test_a_timer_that_expires_while_the_guest_spins_is_one_exit_and_ple_counts_from_the_entry_after_it(monkeypatch):
    text = with_little("timers", "7 ms") + "ple_window = 50_000\n[guests.g]\nvcpus = 2\naffinity = 'pinned'\n"
    env, host = hosted(only(text + 'lock = { every = "10 us", hold = "1 ms" }\n'))
    vcpus, exits = [threads(host)[f"g/0/vcpu{i}"] for i in range(2)], []
    exit_ = VcpuThread._vm_exit

    def noted(vcpu, cpu, kind):
        if vcpu.account == GUEST_SPIN:
            exits.append((kind.reason, env.now))
        return exit_(vcpu, cpu, kind)

    monkeypatch.setattr(VcpuThread, "_vm_exit", noted)
    fired = []

    def expire():
        while not fired:
            yield env.timeout(10_000)
            for vcpu in vcpus:
                if vcpu.spins_now:
                    fired.append(vcpu)
                    exits.append(("expired", env.now))
                    vcpu._timer()

    env.process(expire())
    env.run(until=400_000)
    (first, expired), (second, at), (third, then) = exits[:3]
    assert (first, second, third) == ("expired", "preemption-timer", "pause")
    assert at == expired
    assert 0 < then - at - 50_000 < 20_000
    assert fired[0]._waiting == 1


HOSTS = [
    with_little("timers", "5 ms", cpu) + WOKEN.format(host=host, lock=lock)
    for cpu, host, lock in (
        ("sapphire-rapids", 'kernel = ["v7.3"]\npreemption = "lazy"', ""),
        ("sapphire-rapids", 'preemption = "full"', LOCK),
        ("zen4", "", LOCK),
    )
] + [
    with_little("timers", "5 ms").replace("[host]", f"{run}[host]") + text
    for run, text in (
        ("", SPINNING.format(host="")),
        ("", SPINNING.format(host="ple_window = 20_000\nple_window_grow = 1").replace("vcpus = 3", "vcpus = 6")),
        ("", SPINNING.format(host="ple_gap = 0")),
        ('latency_from = "event"\n', POLLING.format(posted="true")),
        ('latency_from = "event"\n', POLLING.format(posted="false")),
        ("", WOKEN.format(host="", lock="posted_interrupts = false").replace("count = 2", "count = 5")),
    )
]


@pytest.mark.parametrize("text", HOSTS)
def test_timers_that_expire_while_guests_run_poll_or_spin_give_the_same_records_in_both_engines(text):
    assert_the_same(only(text))


HANDLED = """
preemption = "{preemption}"
[guests.g]
vcpus = 2
affinity = "pinned"
posted_interrupts = {posted}
demand = {{ exponential = "40 us" }}
sleep = {{ exponential = "15 us" }}
[guests.g.exits.plain]
every = {{ exponential = "6 us" }}
time = {{ exponential = "3 us" }}
[guests.g.exits.ipi]
every = {{ exponential = "20 us" }}
effect = "ipi"
target = "random"
time = "1 us"
"""


@pytest.mark.parametrize("preemption", ["none", "full"])
@pytest.mark.parametrize("posted", ["true", "false"])
def test_a_timer_that_expires_in_a_handler_is_an_exit_after_the_entry_batched_or_not_and_in_both_engines(
    preemption, posted
):
    case = only(with_little("timers", "5 ms") + HANDLED.format(preemption=preemption, posted=posted))
    assert_the_same(case)
    assert not differ(case)  # nor in the order of the two exits, which no sum shows
    assert simulate(case, "free-ssp", 0) == simulate(changed(case, batch=False), "free-ssp", 0)


def test_a_timer_that_expires_in_a_handler_exits_after_that_exit(monkeypatch):
    env, host = hosted(only(with_little("timers", "5 ms") + HANDLED.format(preemption="none", posted="true")))
    vcpu, exits, exit_ = threads(host)["g/0/vcpu0"], [], VcpuThread._vm_exit
    while vcpu.account != "guest" or not vcpu.cpu.waiting or vcpu.cpu.thread is not vcpu or vcpu._in_guest():
        env.run(until=env.now + 500)

    def noted(thread, cpu, kind):
        if thread is vcpu:
            exits.append(kind.name)
        return exit_(thread, cpu, kind)

    monkeypatch.setattr(VcpuThread, "_vm_exit", noted)
    vcpu._timer()
    env.run(until=env.now + 50_000)
    assert exits[:2] == ["plain", "preemption-timer"]


def test_a_timer_that_is_taken_for_a_device_is_found(monkeypatch):
    monkeypatch.setattr(loop, "guest_timer", halting.request)
    assert differ(only(HOSTS[1]))
