"""vCPUs that wait: halt polling of KVM and of guests, the way out of idle, steal; against closed forms and source."""

import math
from collections import Counter

import pytest
from hosts import MS, RICH, changed, from_text, only, simulate
from hypothesis import given
from hypothesis import strategies as st
from test_host_cpus import FOUR, LONE, latencies
from test_host_runs import differences

from sim.host.guest_span import GUEST as RUNS
from sim.host.halt_polling import GuestPolling, HaltPolling
from sim.host.halting import GUEST_POLL, HaltingVcpu

QUIET = FOUR.replace(
    "cpus = 4", 'cpus = 1\nbuffer_level = "L1"\ninterrupt_time = "0 ns"\nwakeup_time = "0 ns"\n{host}'
).replace("50 ms", "{measure}")
GUEST = '[guests.g]\ndemand = "20 us"\nsleep = {{ {gap} }}\n{guest}\n'
ASKED = GUEST.replace("sleep", "arrivals")
"""A guest whose requests come from a device, and not by a timer of its own (test_guest_timers.py)."""
SIGMAS = 4


def metrics(record):
    return {name: value for name, (value, _) in record.metrics.items()}


def one_guest(host="", gap='exponential = "100 us"', guest="", measure="500 ms", run="", entry=GUEST):
    text = (QUIET + entry).format(host=host, gap=gap, guest=guest, measure=measure)
    return only(text.replace("[host]", f"{run}\n[host]"))


def fixed(window):
    """A window that neither grows nor shrinks once it is there."""
    return f'halt_poll = "{window}"\nhalt_poll_grow_start = "{window}"\nhalt_poll_shrink = 1\n'


# KVM's polling.


@pytest.mark.parametrize("window_us", [100, *(pytest.param(us, marks=pytest.mark.slow) for us in (30, 250))])
def test_a_fixed_window_against_an_exponential_gap_burns_and_hits_as_the_formula_says(window_us):
    """With mean gap g: a halt is polled with probability p = 1 - exp(-w/g), and burns min(gap, w), g p in the mean."""
    gap_us = 100
    case = one_guest(fixed(f"{window_us} us"))
    found = metrics(simulate(case, "xstate-guest", 0))
    n, p = found["halts"], 1 - math.exp(-window_us / gap_us)
    assert n > 3000
    assert abs(found["halts_polled"] / n - p) < SIGMAS * math.sqrt(p * (1 - p) / n)
    w = window_us / gap_us  # in units of the mean gap: E min = p, E min^2 = 2 (1 - exp(-w) (1 + w))
    deviation = math.sqrt(2 * (1 - math.exp(-w) * (1 + w)) - p * p)
    burnt = found["halt_poll_cycles"] / n / case.cycles(gap_us * 1e-6)
    assert abs(burnt - p) < SIGMAS * deviation / math.sqrt(n)


def test_a_vcpu_that_is_alone_polls_under_round_robin_as_under_eevdf():
    window = fixed("100 us")
    eevdf, turns = (
        metrics(simulate(one_guest(f'{window}scheduler = "{name}"\n', measure="50 ms"), "xstate-guest", 0))
        for name in ("eevdf", "round-robin")
    )
    assert turns["halts_polled"] > 0.4 * turns["halts"] > 100
    assert (turns["halts"], turns["halts_polled"], turns["halt_poll_cycles"]) == (
        eevdf["halts"], eevdf["halts_polled"], eevdf["halt_poll_cycles"]
    )  # fmt: skip


def mean_latency(record):
    buckets = record.latency["vcpu"]
    return sum(n * (low + high - 1) / 2 for (low, high), n in buckets.items()) / sum(buckets.values())


def test_the_mean_latency_is_that_of_hits_and_misses_in_their_shares():
    """Hits alone and misses alone have latencies of their own; with a window they mix by p = 1 - exp(-w/g)."""
    run, idle = 'latency_from = "event"', 'idle_exit = "50 us"\n'
    hit = mean_latency(
        simulate(one_guest(idle + fixed("100 us"), 'constant = "20 us"', run=run, measure="50 ms"), "xstate-guest", 0)
    )
    miss = mean_latency(simulate(one_guest(idle + 'halt_poll = "0 ns"', run=run, measure="50 ms"), "xstate-guest", 0))
    found = simulate(one_guest(idle + fixed("100 us"), run=run), "xstate-guest", 0)
    n, p = metrics(found)["halts"], 1 - math.exp(-1)
    assert miss - hit > 50e-6 * 2e9
    tolerance = SIGMAS * (miss - hit) * math.sqrt(p * (1 - p) / n) + miss / 16
    assert abs(mean_latency(found) - (p * hit + (1 - p) * miss)) < tolerance


def test_a_window_that_may_not_grow_stays_0():
    found = metrics(simulate(one_guest("halt_poll_grow = 0", measure="20 ms"), "xstate-guest", 0))
    assert (found["halt_poll_cycles"], found["halts_polled"]) == (0, 0)


def test_kvm_cap_halt_poll_stands_in_for_the_parameter():
    of_host = simulate(one_guest('halt_poll = "50 us"', measure="20 ms"), "xstate-guest", 0)
    of_vm = simulate(one_guest(guest='halt_poll = "50 us"', measure="20 ms"), "xstate-guest", 0)
    other = simulate(one_guest(measure="20 ms"), "xstate-guest", 0)
    assert metrics(of_host) == metrics(of_vm) != metrics(other)


def grow_and_shrink(window, halted, most, start, grow, shrink):
    """kvm_vcpu_halt()'s end, grow_halt_poll_ns() and shrink_halt_poll_ns() line by line (kvm_main.c, Linux 7.3.4)."""
    if most:
        if halted <= window:
            pass
        elif window and halted > most:
            val = 0 if shrink == 0 else window // shrink
            window = 0 if val < start else val
        elif window < most and halted < most and grow:
            val = window * grow
            window = start if val < start else val
    else:
        window = 0
    return window


@given(
    st.lists(st.integers(0, 400), max_size=40), st.sampled_from([0, 50, 200]), st.sampled_from([0, 10, 50]),
    st.integers(0, 3), st.integers(0, 3),
)  # fmt: skip
def test_the_window_is_what_the_source_makes_of_any_halts(halts, most, start, grow, shrink):
    poll, window = HaltPolling(most, start, grow, shrink), 0
    for halted in halts:
        window = min(window, most)
        assert poll.begin() == window
        poll.end(halted)
        window = grow_and_shrink(window, halted, most, start, grow, shrink)
        assert poll.window == window


# The guest's polling.


def adjust_poll_limit(limit, block, most, start):
    """adjust_poll_limit() line by line (drivers/cpuidle/governors/haltpoll.c, Linux v7.1.5), with its defaults."""
    if limit < block <= most:
        return min(max(limit * 2, start), most)
    if block > most:
        val = limit // 2
        return 0 if val < start else val
    return limit


@given(st.lists(st.integers(0, 400), max_size=40), st.sampled_from([0, 50, 200]), st.sampled_from([0, 10, 50]))
def test_the_guests_window_is_what_the_source_makes_of_any_halts(halts, most, start):
    poll, window = GuestPolling(most, start), 0
    for halted in halts:
        poll.has_halted(halted)
        window = adjust_poll_limit(window, halted, most, start)
        assert poll.window == window


@pytest.mark.parametrize("window_us", [60, 150])
def test_a_guest_that_polls_is_a_chain_of_two_states(window_us):
    """With grow_start = most = w the window is w or 0.  From w it ends if the gap is longer than w and what is left of
    it is, too (q^2, q = exp(-w/g)); from 0 it begins if the gap is not longer (p = 1 - q)."""
    gap_us = 100
    guest = f'idle = "haltpoll"\nguest_halt_poll = "{window_us} us"\nguest_halt_poll_grow_start = "{window_us} us"'
    case = one_guest(guest=guest)
    found = metrics(simulate(case, "xstate-guest", 0))
    q = math.exp(-window_us / gap_us)
    polls = (1 - q) / (1 - q + q * q)
    n = found["requests"]
    assert n > 3000
    halts, burnt = found["halts"] / n, found["guest_poll_cycles"] / n / case.cycles(gap_us * 1e-6)
    within = 2 * SIGMAS / math.sqrt(n)  # successive gaps are correlated through the state; a halt's exit takes a us
    assert abs(halts - (1 - polls * (1 - q))) < within
    assert abs(burnt - polls * (1 - q)) < within
    assert found["halt_poll_cycles"] == 0


@pytest.mark.parametrize(
    ("gap_us", "start_us", "windows_us"),
    [(90, 10, (0, 10, 20, 40, 80)), (70, 10, (0, 10, 20, 40)), (90, 60, (0, 60)), (30, 40, (0, 40)), (300, 40, (0,))],
)
def test_a_guests_window_grows_until_what_is_left_of_a_constant_gap_is_shorter(gap_us, start_us, windows_us):
    """By hand, with at most 200 us: from w the guest halts for gap - w, and while that is longer than w it doubles.  So
    every window but the last is met once, and a poll takes its window, or the gap if that is shorter."""
    guest = f'idle = "haltpoll"\nguest_halt_poll = "200 us"\nguest_halt_poll_grow_start = "{start_us} us"'
    case = one_guest(gap=f'constant = "{gap_us} us"', guest=guest, measure="20 ms")
    found = metrics(simulate(changed(case, warmup=0.0), "xstate-guest", 0))
    *grows, last = windows_us
    n = found["requests"]
    assert n > 50
    assert found["halts"] in ((n - 1, n) if last < gap_us else (len(grows),))  # the last request may still poll
    polled = [*grows, *[min(last, gap_us)] * (n - len(grows))]
    in_full, one = case.cycles(sum(polled) * 1e-6), case.cycles(polled[-1] * 1e-6)
    assert in_full - one <= found["guest_poll_cycles"] <= in_full  # that may be in progress


@pytest.mark.parametrize("posted", ["true", "false"])
def test_a_polling_guest_is_reached_without_an_exit_if_interrupts_are_posted(posted):
    guest = f'idle = "haltpoll"\nguest_halt_poll_grow_start = "150 us"\nposted_interrupts = {posted}\n'
    case = one_guest("hz = 100", 'constant = "120 us"', guest, "50 ms", 'latency_from = "event"', ASKED)
    record = simulate(case, "xstate-guest", 0)
    found = metrics(record)
    assert found["halts"] == 0
    assert found["requests"] > 300
    per_request = found["vm_exits"] / found["requests"]
    assert per_request < 0.05 if posted == "true" else 1 <= per_request < 1.05


def test_a_guest_that_polls_sees_what_is_posted_in_the_cycle_in_which_it_comes():
    text = (QUIET + ASKED).format(
        host="hz = 100", gap='constant = "50 us"', measure="50 ms",
        guest='idle = "haltpoll"\nguest_halt_poll = "40 us"\nguest_halt_poll_grow_start = "40 us"',
    )  # fmt: skip
    seen, _ = latencies(text, "vcpu")
    assert set(seen) == {0}
    assert len(seen) > 900


def test_who_polls_and_is_preempted_has_been_woken_by_the_first_of_what_comes_meanwhile():
    """A hog has the CPU for a slice of 3 ms at a time, a request comes every 0.93 ms, and none ends a halt."""
    text = (QUIET + ASKED + '[threads.hog]\ncompute = "10 ms"\n').format(
        host='hz = 1000\nbase_slice = "3 ms"', gap='constant = "930 us"', measure="100 ms",
        guest='idle = "haltpoll"\nguest_halt_poll = "50 ms"\nguest_halt_poll_grow_start = "50 ms"',
    )  # fmt: skip
    seen, _ = latencies(text, "vcpu")
    assert max(seen) > 2 * MS * 2e9


@pytest.mark.parametrize("posted", ["true", "false"])
def test_an_ipi_to_a_polling_guest_is_an_exit_unless_it_is_posted(posted, monkeypatch):
    """kvm_vcpu_kick() of a vCPU in IN_GUEST_MODE; what is posted ends the polling by itself, and only that is noted."""
    text = (QUIET.replace("cpus = 1", "cpus = 2") + GUEST).format(
        host="hz = 100", gap='exponential = "200 us"', measure="20 ms",
        guest=f'vcpus = 2\nidle = "haltpoll"\nposted_interrupts = {posted}\n'
        '[guests.g.exits.ipi]\nevery = { exponential = "60 us" }\neffect = "ipi"\nreason = "wrmsr-icr"\n',
    )  # fmt: skip
    exits, deliver = Counter(), HaltingVcpu.deliver_ipi

    def delivering(self):
        in_guest, before = self.cpu.cpu.guest is self.vcpu, len(self.cpu.posted)
        noted = self.woken_at
        to_wake = deliver(self)
        if in_guest:
            exits[self.account, len(self.cpu.posted) - before, noted != self.woken_at] += 1
        return to_wake

    monkeypatch.setattr(HaltingVcpu, "deliver_ipi", delivering)
    simulate(only(text), "xstate-guest", 0)
    exits_each, is_posted = posted == "false", posted == "true"
    assert exits.keys() == {(RUNS, exits_each, False), (GUEST_POLL, exits_each, is_posted)}
    assert min(exits.values()) > 20


def test_each_tick_and_each_timer_of_its_own_is_an_exit_of_a_guest_that_polls():
    guest = 'idle = "haltpoll"\nguest_halt_poll = "10 ms"\nguest_halt_poll_grow_start = "10 ms"'
    found = metrics(simulate(one_guest("hz = 1000", 'constant = "5 ms"', guest, "200 ms"), "xstate-guest", 0))
    assert found["guest_poll_cycles"] > 0.98 * found["elapsed_cycles"]
    assert found["ticks"] >= 199
    assert 0 <= found["vm_exits"] - found["ticks"] - found["requests"] <= 1


def test_kvm_stops_polling_when_another_thread_is_queued():
    """kvm_vcpu_can_poll(): with a thread that always wants the CPU nothing is polled, and alone nearly all is."""
    busy = '[threads.t]\naffinity = [0]\ncompute = "1 ms"\n'
    text = (QUIET + GUEST).format(host=fixed("100 us"), gap='constant = "50 us"', guest="", measure="50 ms")
    shared, alone = (metrics(simulate(only(each), "xstate-guest", 0)) for each in (text + busy, text))
    assert alone["halts_polled"] > 0.9 * alone["halts"] > 500
    assert shared["halt_poll_cycles"] < 0.001 * shared["elapsed_cycles"]


HALTPOLL = (
    RICH.replace("[guests.web]\n", '[guests.web]\nidle = "haltpoll"\n')
    .replace("[guests.open]\n", '[guests.open]\nidle = "haltpoll"\nposted_interrupts = false\n')
    .replace("cpus = 3", 'cpus = 3\nidle_exit = "3 us"\nkernel = ["v6.18", "v7.3"]')
)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("number", [0, 3])
def test_batched_equals_one_by_one_where_guests_poll(number, seed):
    case = from_text(HALTPOLL, seed=seed)[number]
    batched = simulate(case, "xstate-guest", 0)
    one_by_one = from_text(HALTPOLL, seed=seed, batch=False)[number]
    assert differences(batched, simulate(one_by_one, "xstate-guest", 0)) == []
    assert metrics(batched)["guest_poll_cycles"] > 0


# The way out of idle.


def test_counted_from_the_event_a_wake_up_has_the_way_out_of_idle_the_interrupt_and_the_wake_up_in_it():
    quick = LONE + '[guests.g]\ndemand = "500 us"\nsleep = "2 ms"\n'
    text = quick.replace("cpus = 1", 'cpus = 1\nidle_exit = "30 us"').replace(
        "[host]", 'latency_from = "event"\n[host]'
    )
    (plain,), (seen,) = (set(latencies(each, "vcpu")[0]) for each in (quick, text))
    assert seen - plain == (30_000 + 1_000 + 500) * 2


@pytest.mark.parametrize("posted", ["true", "false"])
def test_a_request_to_a_guest_that_polls_is_counted_from_its_event_alone_unless_it_is_posted(posted):
    guest = f'[guests.g]\nidle = "haltpoll"\nposted_interrupts = {posted}\ndemand = "20 us"\narrivals = "2 kHz"\n'
    from_wakeup = latencies(LONE + guest, "vcpu")[0]
    from_event = latencies((LONE + guest).replace("[host]", 'latency_from = "event"\n[host]'), "vcpu")[0]
    if posted == "true":
        assert len(from_event) == len(from_wakeup)
        assert from_event.count(0) == from_wakeup.count(0) > 2
    else:
        assert len(from_event) > len(from_wakeup) + 2
        assert min(from_event) > 1_000 * 2  # the host's interrupt, in cycles


def test_a_way_out_of_idle_is_idle_time():
    text = (
        LONE.replace("cpus = 1", 'cpus = 1\nidle_exit = "30 us"') + '[threads.t]\ncompute = "500 us"\nsleep = "2 ms"\n'
    )
    found = metrics(simulate(only(text), "xstate-guest", 0))
    assert found["user_cycles"] + found["idle_cycles"] > 0.98 * found["elapsed_cycles"]


# Steal.


@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_of_n_busy_vcpus_on_a_cpu_each_waits_all_but_an_nth_of_the_time(vcpus):
    text = FOUR.replace("cpus = 4", "cpus = 1").replace("50 ms", "400 ms") + f"[guests.g]\nvms = {vcpus}\n"
    found = metrics(simulate(only(text), "xstate-guest", 0))
    assert found["steal_cycles"] / found["elapsed_cycles"] == pytest.approx(vcpus - 1, rel=0.05)


def test_steal_is_of_vcpus_and_not_of_other_threads():
    text = FOUR.replace("cpus = 4", "cpus = 1") + '[threads.t]\ncount = 3\ncompute = "1 ms"\n'
    assert metrics(simulate(only(text), "xstate-guest", 0))["steal_cycles"] == 0
