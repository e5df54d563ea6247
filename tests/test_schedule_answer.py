"""What a schedule comes to: the numbers, the sentences and the figure."""

from dataclasses import replace

import pytest

import sim
from sim import experiment
from sim.analysis.outcomes import Outcome, outcomes
from sim.report import schedule_answer, schedule_figure
from sim.report.names import titles
from sim.scenario.reading import read

TEXT = """
title = "polling"
[run]
measure = "20 ms"
warmup = "5 ms"
replications = 2
strategies = ["xstate-guest"]
reference = "xstate-guest"
timed_by = "xstate-guest"
asks = ["schedule"]
[host]
cpus = 2
cpu = ["sapphire-rapids"]
tsc = "2 GHz"
[guests.g]
vms = 3
demand = "50 us"
sleep = "40 us"
[sweep]
"host.halt_poll" = ["0 ns", "200 us"]
"guests.g.vms" = [1, 3]
"""


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenario") / "polling.toml"
    path.write_text(TEXT)
    return sim.compare(experiment.run(read(path), jobs=1))


def test_shares_are_of_vcpu_time_and_requests_per_vcpu_second(comparison):
    raw = comparison.results.metrics.groupby(["case", "metric"])["value"].sum().unstack()
    for each in outcomes(comparison):
        case = each.case
        of_vcpus = raw.loc[case["case"], "elapsed_cycles"] / case["cpus"] * case["vcpus"]
        for name, metric in (("work", "guest"), ("polling", "halt_poll"), ("steal", "steal")):
            assert getattr(each, name) == pytest.approx(
                100 * raw.loc[case["case"], f"{metric}_cycles"] / of_vcpus, rel=1e-3
            )
        assert each.requests == pytest.approx(raw.loc[case["case"], "requests"] / of_vcpus * case["tsc_hz"], rel=1e-3)
        idle = raw.loc[case["case"], "idle_cycles"] / raw.loc[case["case"], "elapsed_cycles"]
        assert each.busy == pytest.approx(100 * (1 - idle), rel=1e-3)


@pytest.mark.parametrize("kind", ["constant", "exponential", "lognormal", "empirical"])
def test_a_swept_distribution_is_called_by_what_has_it(kind):
    cases = [
        {"case": text, "cpu": "zen4", "kernel": "v6.18", "sweep": {f"guests.vm.sleep.{kind}": text, "host.hz": 250}}
        for text in ("20 us", "1 ms")
    ]
    found = titles(cases)
    assert (found.heading, found.full["1 ms"]) == ("sleep", "sleep = 1 ms")


def test_the_first_screen_has_a_line_for_each_case_and_says_from_where_to_where(comparison):
    text = str(comparison)
    assert "ANSWER" in text
    for label in ("0 ns, 1", "0 ns, 3", "200 us, 1", "200 us, 3"):
        assert sum(line.startswith(f"  {label} ") for line in text.splitlines()) == 1
    assert "of vCPU time" in text


def test_only_what_there_is_to_compare_is_drawn(comparison):
    assert set(comparison._figures()) == {"categories", "schedule"}
    left, right = comparison.plot_schedule().axes
    assert [line.get_label() for line in left.get_lines()] == ["halt_poll = 0 ns", "halt_poll = 200 us"]
    assert left.get_xlabel().startswith("polling")
    assert right.get_ylabel() or right.texts
    assert left.figure.get_suptitle().startswith("Polling takes 0 to ")


def outcome(vms, p99, how):
    case = {"case": f"{how} {vms}", "sweep": {"host.directed_yield": how, "guests.g.vms": vms}}
    return Outcome(case, work=0, polling=0, spinning=0, steal=0, busy=0, mean=0, p50=0, p99=p99, requests=0)


def test_the_title_speaks_of_what_is_drawn():
    few, many = outcome(1, 4.9, "none"), replace(outcome(8, 3830, "none"), steal=45, spinning=1.7)
    said = schedule_figure._finding([few, many], ["p99", "steal", "requests"])
    assert said == "P99 of the wake-up 4.90 to 3830 us; steal 0 to 45.0 % of vCPU time"


def test_a_p99_that_has_doubled_is_told_once_for_all_and_else_by_group():
    same = [outcome(vms, p99, how) for how in ("a", "b") for vms, p99 in ((1, 10), (2, 20), (4, 21))]
    assert list(schedule_answer._doublings(same)) == ["p99 is more than twice that of vms = 1 from vms = 4 on."]
    other = [*same[:3], outcome(1, 10, "b"), outcome(2, 30, "b"), outcome(4, 90, "b")]
    assert list(schedule_answer._doublings(other)) == [
        "p99 is more than twice that of vms = 1 from vms = 4 on with directed_yield = a.",
        "p99 is more than twice that of vms = 1 from vms = 2 on with directed_yield = b.",
    ]
    assert not list(schedule_answer._doublings([outcome(1, 10, "a"), outcome(2, 20, "a")]))
