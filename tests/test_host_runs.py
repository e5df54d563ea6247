"""Whole runs of the simulated host: cycles are conserved, and nothing but the strategy makes a difference."""

import functools
import re
from importlib import resources

import pytest
from hosts import CASES, MS, RICH, changed, differences, from_text, shipped, short, simulate, value
from test_host_cpus import FOUR

import sim.kernel
from sim.costs.price import price
from sim.costs.table import current
from sim.host.accounts import ACCOUNTS


def three(case):
    """The reference and two others, as different as they come."""
    others = [name for name in case.strategies if name != case.reference]
    return [case.reference, *dict.fromkeys([others[0], others[-1]] if others else [])]


# Conservation.


@pytest.mark.parametrize(("path", "number"), CASES)
def test_every_cycle_of_every_cpu_is_in_one_account_and_every_operation_is_paid_at_its_price(path, number):
    case = shipped(path)[number]
    table = current(case.costs)
    window = case.cycles(case.scenario.run.measure) * case.scenario.host.cpus
    for strategy in three(case):
        record = short(path, number, strategy)
        assert sum(value(record, metric) for metric in ACCOUNTS.values()) == value(record, "elapsed_cycles")
        assert all(value(record, metric) >= 0 for metric in record.metrics)
        for operation, count, cycles in record.ledger:
            assert cycles == count * price(tuple(operation), table)
        assert sum(cycles for *_, cycles in record.ledger) == value(record, "operations_cycles")
        assert value(record, "elapsed_cycles") == pytest.approx(window, rel=1e-2)


# Determinism.


def test_the_same_arguments_give_the_same_record_whatever_ran_before():
    case = changed(from_text(RICH)[0], measure=5 * MS)
    first = simulate(case, "xstate-guest", 3)
    simulate(case, "manual-exit", 0)
    assert simulate(case, "xstate-guest", 3) == first


@pytest.mark.parametrize("name", ["xstate-guest", "manual-lazy", "manual-exit"])
def test_a_strategy_under_another_name_gives_the_identical_record(name, tmp_path):
    text = (resources.files(sim.kernel) / f"data/strategies/{name}.toml").read_text()
    copy = tmp_path / "copy.toml"
    copy.write_text(text.replace(f'name = "{name}"', 'name = "copy"'))
    case = changed(from_text(RICH, strategies=[name, str(copy)])[0], measure=5 * MS)
    a, b = simulate(case, name, 0), simulate(case, str(copy), 0)
    assert differences(a, b) == []
    assert (a.strategy, b.strategy) == (name, str(copy))


# Batch against event per exit.


@pytest.mark.parametrize(
    ("path", "number"), [param for param in CASES if shipped(param.values[0])[param.values[1]].scenario.guests]
)
def test_batched_exits_give_the_ledger_of_an_event_per_exit_in_every_shipped_scenario(path, number):
    for strategy in three(shipped(path)[number])[-2:]:
        assert differences(short(path, number, strategy), short(path, number, strategy, batch=False)) == []


NOT_WHEN_FULL = (
    "idle_cycles", "migrations", "halt_poll_cycles", "halts_polled", "guest_poll_cycles", "guest_spin_cycles"
)  # fmt: skip
"""A CPU that others want is neither idle nor polled on; ipi-storm, above, has all of these."""

RICH_STRATEGIES = {
    "sapphire-rapids": ("manual-exit", "manual-lazy", "independent", "msr-autoload", "xstate-guest"),
    "zen4": ("manual-exit", "manual-lazy", "independent", "manual-load", "xstate-all"),
}

QUICK_ON_THE_OTHER = {"sapphire-rapids": ("independent",), "zen4": ("manual-exit", "manual-lazy")}


@functools.cache
def rich(seed):
    return {case.cpu: changed(case, seed=seed) for case in from_text(RICH)}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize(
    ("cpu", "strategy"),
    [
        pytest.param(cpu, each, marks=pytest.mark.slow if each in QUICK_ON_THE_OTHER[cpu] else [])
        for cpu, all in RICH_STRATEGIES.items()
        for each in all
    ],
)
def test_batched_exits_give_the_ledger_of_an_event_per_exit_on_a_host_with_everything(cpu, strategy, seed):
    case = rich(seed)[cpu]
    batched = simulate(case, strategy, 0)
    assert differences(batched, simulate(changed(case, batch=False), strategy, 0)) == []
    assert min(value(batched, metric) for metric in batched.metrics if metric not in NOT_WHEN_FULL) > 0


CLOCKWORK = (
    FOUR.replace("cpus = 4", "cpus = {cpus}")
    + '[guests.g]\n{guest}\n[guests.g.exits.a]\nevery = "10 us"\ntime = "1 us"\n'
)
AT_ONCE = {
    "exits alone": (1, "", ""),
    "two vCPUs on a CPU": (1, "vcpus = 2", ""),
    "a request ends at an exit": (1, 'demand = "100 us"\nsleep = "100 us"', ""),
    "a request ends at two exits": (1, 'demand = "100 us"\narrivals = { constant = "150 us" }',
                                    '[guests.g.exits.b]\nevery = "20 us"\ntime = "3 us"\n'),
    "requests arrive as exits do": (1, 'demand = "100 us"\narrivals = { constant = "150 us" }', ""),
    "two vCPUs halt at once": (2, 'vcpus = 2\ndemand = "100 us"\nsleep = "100 us"', ""),
    "user space and an exit": (2, "vcpus = 2",
                               '[guests.g.exits.u]\nevery = "50 us"\nhandled = "userspace"\nvmm = "5 us"\n'),
    "IPIs to and fro": (2, "vcpus = 2\nposted_interrupts = false",
                        '[guests.g.exits.i]\nevery = "50 us"\neffect = "ipi"\nreason = "wrmsr-icr"\n'),
    "fastpath exits and IPIs": (2, "vcpus = 2\nposted_interrupts = false",
                                '[guests.g.exits.i]\nevery = "50 us"\neffect = "ipi"\ntime = "0 ns"\n'
                                '[guests.g.exits.f]\nevery = "20 us"\nreason = "wrmsr-tsc-deadline"\n'
                                '[kernel]\nmitigations = ["ibpb", "vmscape"]\n'),
    "devices": (1, "", '[interrupts.n]\nevery = { constant = "100 us" }\ntime = "1 us"\nkernel_fpu = 0.5\n'),
    "threads that sleep": (2, "vcpus = 2", '[threads.t]\ncount = 2\ncompute = "100 us"\nsleep = "1 ms"\n'),
    "a pipe": (2, "vcpus = 2", '[threads.t]\nkind = "pipe"\ncompute = "1 us"\nsyscall = "1 us"\n'),
    "forks": (2, "vcpus = 2", '[threads.t]\nkind = "fork"\ncompute = "100 us"\nsleep = "300 us"\n'),
}  # fmt: skip


TIE = pytest.mark.xfail(
    strict=True,
    reason="an IPI in the very cycle in which the handler of a counted exit ends: a batch serves it before the entry, "
    "one event per exit by the order of the CPUs (docs/host.md)",
)


@pytest.mark.parametrize(
    "what", [pytest.param(each, marks=TIE) if each == "fastpath exits and IPIs" else each for each in AT_ONCE]
)
def test_batched_exits_give_the_ledger_of_an_event_per_exit_also_where_things_happen_at_the_same_cycle(what):
    cpus, guest, rest = AT_ONCE[what]
    (case,) = from_text(CLOCKWORK.replace("{cpus}", str(cpus)).replace("{guest}", guest) + rest)
    case = changed(case, measure=15 * MS, warmup=3 * MS)
    batched = simulate(case, "xstate-guest", 0)
    assert differences(batched, simulate(changed(case, batch=False), "xstate-guest", 0)) == []


@pytest.mark.parametrize("every", ["50 us", "100 us"])
@pytest.mark.parametrize("strategy", ["xstate-guest", "manual-load"])
def test_batched_exits_give_the_ledger_of_an_event_per_exit_on_a_host_with_everything_at_constant_times(
    strategy, every
):
    text = re.sub(r'\{ (?:exponential|lognormal) = ("[^"]+")[^}]*\}', r"\1", RICH)
    text = re.sub(r'every = ("[^"]*Hz")', f'every = {{ constant = "{every}" }}', text)
    for case in from_text(text):
        case = changed(case, measure=8 * MS, warmup=2 * MS)
        batched = simulate(case, strategy, 0)
        assert differences(batched, simulate(changed(case, batch=False), strategy, 0)) == []
