"""How far repricing is from simulating again, on the simulated host itself."""

import pytest

from sim.analysis.uncertainty.coefficients import values
from sim.analysis.uncertainty.report import read_cases
from sim.analysis.uncertainty.resimulation import departure, resimulate
from sim.costs.price import in_tsc
from sim.experiment.runs import run_cases
from sim.scenario.cases import cases
from sim.scenario.reading import read

BUSY = """
title = "three busy vCPUs of one CPU"
[run]
measure = "40 ms"
replications = 1
strategies = ["free-ssp", "manual-load", "xstate-guest"]
reference = "free-ssp"
[host]
cpus = 1
cpu = ["zen4"]
kernel = ["v6.18"]
tsc = "2.596 GHz"
base_slice = "700 us"
hz = 1000
[guests.busy]
vcpus = 3
shadow_stacks = "rewritten"
task_switch = "500 us"
fpu = { components = ["SSE", "AVX"], share = 1.0 }
[guests.busy.exits]
io = { every = "200 us", reason = "io", handled = "userspace", time = "500 ns", vmm = "2 us" }
other = { every = "50 us", reason = "msr-write", time = "400 ns" }
"""
VCPUS = 3


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """The coefficients of the run, and what came of two draws that were simulated."""
    folder = tmp_path_factory.mktemp("draws")
    (folder / "busy.toml").write_text(BUSY)
    scenario = read(folder / "busy.toml")
    (case,) = cases(scenario)
    (coefficients,) = read_cases(run_cases(scenario, [case], jobs=1))

    def rerun(drawn):
        return run_cases(scenario, [drawn], jobs=1).ledger

    return case, coefficients, resimulate(coefficients, case, rerun, folder, draws=2, seed=1)


def test_on_a_full_cpu_more_expensive_operations_leave_time_for_as_many_fewer_of_them(again):
    # A full CPU: what operations take more, guests get less, and all that is counted is drawn in guest time. So a
    # share of the CPU that grows from s to s' makes the counts shrink by (s' - s) / (1 - s).  Switches come with the
    # ticks, in wall time, and do not shrink with the rest: up to half of it, and one of them is 0.3 % of the cost.
    case, coefficients, feedback = again
    table = coefficients.table
    per_cpu = VCPUS / case.tsc_hz
    run = coefficients.priced(in_tsc(table, values(table))).mean(axis=1) * per_cpu
    seen = []
    for one in feedback:
        before = run[coefficients.strategies.index(one.strategy)]
        shrinks = (one.cost_repriced * per_cpu - before) / (1 - before)
        seen.append((-shrinks, one.cost_simulated / one.cost_repriced - 1))
    assert min(expected for expected, _ in seen) < -0.01  # or there is nothing to see
    for expected, found in seen:
        assert found == pytest.approx(expected, abs=0.5 * abs(expected) + 0.003)


def test_repricing_is_within_a_tenth_of_a_difference_and_turns_no_order(again):
    # All times in this scenario are constant, so that nothing of this is noise.
    found = departure(again[2])
    assert found.largest_difference_percent < 10
    assert found.largest_cost_percent < 3
    assert (found.turned, found.pairs) == (0, 6)
