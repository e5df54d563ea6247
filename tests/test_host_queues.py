"""Where the simulated host reduces to a queue with a closed form, it gives that form's numbers.

Means over replications are held against the theory within four standard errors, which are themselves small enough to
tell it from a wrong one; `make verify` (sim/verification/theory) looks closer.
"""

import math
from statistics import mean, stdev

import pytest
from hosts import hosted, on_host, only, simulate, threads, value
from scipy import stats
from test_host_cpus import FOUR

from sim.host.halting import POLLING
from sim.host.vcpu import VcpuThread
from sim.scenario.distribution import Distribution

BASE = """
title = "a queue"
[run]
measure = "{measure}"
warmup = "{warmup}"
strategies = ["{strategy}"]
reference = "{strategy}"
integrity = false
[host]
cpus = {cpus}
cpu = ["sapphire-rapids"]
tsc = "1 GHz"
hz = 1000
scheduler = "{scheduler}"
base_slice = "{slice}"
interrupt_time = "0 ns"
wakeup_time = "0 ns"
buffer_level = "L1"
"""


def queue(rest, measure="2 s", warmup="100 ms", cpus=1, scheduler="round-robin", slice="1 ms", strategy="no-cet"):
    text = BASE.format_map({**locals(), "rest": ""})
    return only(
        text + 'halt_poll = "0 ns"\n' + rest + ("\n[kernel]\nhypothetical = true\n" if strategy == "no-cet" else "")
    )


REPLICATIONS = 10
FAR = stats.t.ppf(1 - 1e-4 / 2, REPLICATIONS - 1)


def observed(case, *measures, replications=REPLICATIONS):
    """Mean of each ``measure(record)`` over replications, and its standard error."""
    records = [simulate(case, case.reference, n) for n in range(replications)]
    values = [[measure(record) for record in records] for measure in measures]
    return [(mean(each), stdev(each) / math.sqrt(replications)) for each in values]


def near(seen, theory, least_power):
    """Within what one sample in ten thousand leaves; one standard error is below ``least_power`` of the theory."""
    found, error = seen
    assert error < least_power * theory, f"{found} +- {error} says little about {theory}"
    assert abs(found - theory) <= FAR * error, f"{found} +- {error}, not {theory}"


# The machine repairman, M/M/c//N.


def repairman(threads, compute, sleep, cpus=1):
    """Bursts per second of N threads on c CPUs: the birth and death process of the number that want a CPU."""
    weights = [1.0]
    for n in range(threads):
        weights.append(weights[-1] * (threads - n) / sleep * compute / min(n + 1, cpus))
    return sum(min(n, cpus) * weight for n, weight in enumerate(weights)) / sum(weights) / compute


def repair(compute, sleep, count, **host):
    return queue(f"[threads.t]\ncount = {count}\ncompute = {compute}\nsleep = {sleep}\n", **host)


def per_second(case, metric="bursts"):
    return lambda record: value(record, metric) / case.scenario.run.measure


def utilisation(record):
    return 1 - value(record, "idle_cycles") / value(record, "elapsed_cycles")


@pytest.mark.parametrize(
    ("count", "scheduler"),
    [
        (4, "eevdf"),
        (1, "round-robin"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((4, "round-robin"), (1, "eevdf"))),
    ],
)
def test_threads_with_exponential_bursts_and_sleeps_are_the_machine_repairman_model(count, scheduler):
    case = repair('{ exponential = "4 ms" }', '{ exponential = "8 ms" }', count, scheduler=scheduler, measure="2.5 s")
    theory = repairman(count, 4e-3, 8e-3)
    both = observed(case, per_second(case), utilisation)
    near(both[0], theory, 0.035)
    near(both[1], theory * 4e-3, 0.035)


@pytest.mark.parametrize("scheduler", ["eevdf", pytest.param("round-robin", marks=pytest.mark.slow)])
def test_two_cpus_with_idle_balancing_are_one_queue_with_two_servers(scheduler):
    case = repair(
        '{ exponential = "4 ms" }', '{ exponential = "6 ms" }', 5, cpus=2, scheduler=scheduler, measure="1.5 s"
    )
    theory = repairman(5, 4e-3, 6e-3, cpus=2)
    both = observed(case, per_second(case), utilisation)
    near(both[0], theory, 0.035)
    near(both[1], theory * 4e-3 / 2, 0.035)


def test_without_balancing_two_cpus_are_two_queues():
    one = repairman(3, 4e-3, 6e-3)
    text = "".join(
        f'[threads.t{cpu}]\naffinity = [{cpu}]\ncount = 3\ncompute = {{ exponential = "4 ms" }}\n'
        f'sleep = {{ exponential = "6 ms" }}\n'
        for cpu in (0, 1)
    )
    case = queue(text, cpus=2, measure="1.5 s")
    near(*observed(case, per_second(case)), 2 * one, 0.028)
    assert 2 * one < 0.97 * repairman(6, 4e-3, 6e-3, cpus=2)


def test_a_small_quantum_makes_throughput_independent_of_the_distribution_of_bursts_and_a_long_one_does_not():
    bursts, sleeps = '{ lognormal = "10 ms", sigma = 1.3 }', '{ exponential = "30 ms" }'
    theory = repairman(4, 10e-3, 30e-3)
    rates = [
        [per_second(case)(simulate(case, case.reference, n)) for n in range(6)]
        for case in (repair(bursts, sleeps, 4, measure="12 s", slice=slice) for slice in ("1 ms", "10 s"))
    ]
    shared, whole = ((mean(each), stdev(each) / math.sqrt(6)) for each in rates)
    near(shared, theory, 0.025)
    lost = [mine - theirs for mine, theirs in zip(*rates, strict=True)]
    assert whole[0] < theory
    assert mean(lost) > 4 * stdev(lost) / math.sqrt(6)  # first come, first served: the long hold up the short


# Always busy threads.


@pytest.mark.parametrize(("slice_ms", "hz"), [(1, 1000), (3, 1000), (3, 250)])
def test_busy_threads_take_turns_of_a_quantum_rounded_up_to_the_tick_after_it(slice_ms, hz):
    case = queue('[threads.t]\ncount = 3\ncompute = "1 s"\n', slice=f"{slice_ms} ms", measure="1 s", warmup="10 ms")
    case = on_host(case, hz=hz, interrupt_time=Distribution(kind="constant", mean=1e-6))
    record = simulate(case, case.reference, 0)
    tick = 1000 // hz
    turn = (slice_ms // tick + 1) * tick  # in ms; it begins just after a tick, whose fellow finds it not quite over
    assert abs(value(record, "context_switches") - 1000 / turn) <= 1
    assert value(record, "preemptions") == value(record, "context_switches")
    assert value(record, "idle_cycles") == 0
    assert value(record, "ticks") == pytest.approx(hz, abs=1)


def test_busy_threads_get_equal_shares():
    case = queue('[threads.t]\ncount = 3\ncompute = "1 s"\n')
    env, host = hosted(case)
    env.run(until=case.cycles(1.0))
    shares = [thread.sum_exec_runtime for thread in threads(host).values()]
    assert max(shares) - min(shares) <= case.cycles(2e-3)  # a turn
    assert sum(shares) == pytest.approx(case.cycles(1.0), rel=0.01)


# A guest as a queue: M/M/1 and M/G/1.


def guest(demand, arrivals, **host):
    return queue(
        f'[guests.g]\ndemand = {demand}\narrivals = "{arrivals}"\naffinity = "pinned"\n',
        strategy="xstate-guest",
        **host,
    )


@pytest.mark.parametrize("demand", ['{ exponential = "2 ms" }', '"2 ms"'])
def test_a_guest_serves_its_poisson_arrivals_is_busy_for_their_demand_and_halts_when_none_is_left(demand):
    """A departure leaves the queue empty with probability 1 - rho, whatever the distribution; each is one HLT."""
    case = guest(demand, "300 Hz", measure="2.5 s", warmup="300 ms")
    served, halts, busy = observed(
        case,
        per_second(case, "requests"),
        per_second(case, "halts"),
        lambda record: value(record, "guest_cycles") / value(record, "elapsed_cycles"),
    )
    near(served, 300, 0.028)
    near(busy, 0.6, 0.028)
    near(halts, 300 * (1 - 0.6), 0.04)


@pytest.mark.parametrize(("demand", "scv"), [('{ exponential = "2 ms" }', 1.0), ('"2 ms"', 0.0)])
def test_the_mean_number_of_its_requests_is_that_of_pollaczek_and_khinchine(demand, scv, monkeypatch):
    """Poisson arrivals see time averages."""
    found = []
    request = VcpuThread.request

    def arrives(vcpu):
        found.append(vcpu._waiting + (vcpu.account != POLLING))
        request(vcpu)

    monkeypatch.setattr(VcpuThread, "request", arrives)
    case = guest(demand, "300 Hz")
    means = []
    for replication in range(REPLICATIONS):
        found.clear()
        env, _host = hosted(case, replication=replication)
        env.run(until=case.cycles(4))
        means.append(mean(found[100:]))
    rho = 0.6
    near((mean(means), stdev(means) / math.sqrt(REPLICATIONS)), rho + rho**2 * (1 + scv) / 2 / (1 - rho), 0.085)


# Exits.


def test_exits_come_at_their_rate_in_guest_time_as_a_poisson_process():
    kinds = {"msr": ("20 kHz", 'reason = "msr-write"\ntime = "300 ns"'),
             "io": ("1 kHz", 'handled = "userspace"\nreason = "io"\nvmm = "3 us"'),
             "timer": ("3 kHz", 'reason = "wrmsr-tsc-deadline"')}  # fmt: skip
    text = "[guests.g]\n" + "".join(
        f'[guests.g.exits.{k}]\nevery = "{rate}"\n{rest}\n' for k, (rate, rest) in kinds.items()
    )
    case = queue(text, strategy="xstate-guest", measure="400 ms")
    record = simulate(case, case.reference, 0)
    seconds = value(record, "guest_cycles") / case.tsc_hz
    expected = 24_000 * seconds
    others = value(record, "ticks")  # each takes the CPU from the guest
    assert abs(value(record, "vm_exits") - others - expected) <= 4 * math.sqrt(expected) + 2
    assert abs(value(record, "kvm_run_round_trips") - 1000 * seconds) <= 4 * math.sqrt(1000 * seconds)
    assert value(record, "vmm_cycles") == pytest.approx(3000 * value(record, "kvm_run_round_trips"), rel=0.01)


def test_pinned_threads_go_round_the_cpus_and_the_two_of_a_pipe_stay_together():
    text = '[threads.{}]\ncount = 6\ncompute = "1 ms"\naffinity = "pinned"\n'
    _env, host = hosted(only(FOUR + text.format("t") + text.format("p") + 'kind = "pipe"\n'))
    names = [task.name for task in host.schedule.timing.tasks.values()]
    assert {name for name in names if name.startswith("p/")} == {f"p/{n}/{side}" for n in range(6) for side in (0, 1)}
    allowed = {name: thread.allowed for name, thread in threads(host).items()}
    assert {name: cpus for name, cpus in allowed.items() if name.startswith("t/")} == {
        f"t/{n}": 1 << cpu for n, cpu in enumerate((0, 1, 2, 3, 0, 1))
    }
