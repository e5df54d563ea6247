"""What an event costs, in the reader's own units, and the command for one's own rates."""

import json
import math
import re

import numpy as np
import pytest
from command import run as run_command
from screens import flat

import sim
from sim.analysis import answers
from sim.analysis.event_costs import event_costs
from sim.analysis.pricing import with_tables
from sim.analysis.uncertainty.draws import Ranges, draw
from sim.costs import table as cost_tables
from sim.report import amounts, units
from sim.report.shown import shown

pytestmark = pytest.mark.usefixtures("few_draws")


def test_in_ones_own_units_manual_load_is_three_rdmsr_and_four_wrmsr(ran):
    results = ran()
    case = results.cases[0]
    load = sim.compare(results).answers.load(case["case"])
    [pair] = event_costs(case, "manual-load", "free-ssp", with_tables(results)[case["case"]], load)
    table = cost_tables.current("sapphire-rapids")
    rows = table.rows
    rdmsr, wrmsr = rows["RDMSR(PLx_SSP)/base"], rows["WRMSR(PLx_SSP)/base"]
    assert pair.event == "vcpu load + put"
    assert pair.own.cycles == pytest.approx(3 * rdmsr.value + 4 * wrmsr.value)
    assert pair.own.low == pytest.approx(3 * rdmsr.low + 4 * wrmsr.low)
    text = flat(sim.compare(results).answer())
    draws = draw(Ranges(table, (True,) * len(rows), "table"), answers.DRAWS, answers.SEED).rows
    cycles = draws[:, [list(rows).index(f"{each}(PLx_SSP)/base") for each in ("RDMSR", "WRMSR")]] @ [3, 4]
    low, high = (
        amounts.three_digits(end) for end in np.quantile(cycles, (0.025, 0.975))
    )  # as all ranges of the screen
    assert f"by MSRs load/put (09/19) (3 RDMSR, 4 WRMSR; {low} to {high})" in text
    assert f"Here: {load.load_puts:.0f} load+puts per vCPU-second" in text


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kernel.guest_xss": 0x800},
        {"guests.web.shadow_stacks": "constant", "guests.web.vcpus": 16},
        {"kernel.guest_amx": True, "kernel.guest_xcr0": 0x600E7},
    ],
)
def test_the_command_for_ones_own_rates_prints_the_units_of_the_screen(ran, capsys, changes):
    results = ran(**changes)
    case = results.cases[0]
    comparison = sim.compare(results)
    command = re.search(r"fpswitch (price .*? --between \S+)", flat(comparison.answer()))[1]
    status, out, err = run_command(capsys, *command.split(), "--json")
    assert (status, err) == (0, "")
    priced = json.loads(out)["strategies"]
    load = comparison.answers.load(case["case"])
    for name in ("manual-load", "xstate-guest"):
        here = event_costs(case, name, "free-ssp", with_tables(results)[case["case"]], load)
        pair = next(each for each in here if each.event == "vcpu load + put")
        assert priced[name]["per_load_put"]["cycles"] == pytest.approx(pair.own.cycles, rel=0.02)
    rates = json.loads(out)["load"]
    per_cpu = case["vcpus"] / case["cpus"]
    assert rates["load_put"] == round(per_cpu * load.load_puts)
    assert rates["switches"] == math.ceil(per_cpu * load.switches)
    assert rates["vm_entries"] == pytest.approx(per_cpu * load.exits, abs=1)


def test_the_command_for_ones_own_rates_is_taken_whatever_was_realised(ran, capsys):
    comparison = sim.compare(ran())
    screen = shown(comparison, comparison.answers)
    case = screen.cases[0]
    rng = np.random.default_rng(1)
    for _ in range(8):
        puts, exits, runs, switches = (float(each) for each in rng.random(4) * (1000, 5000, 1200, 2500))
        command = units.command(screen, case, answers.Load(exits, switches, runs, 0.0, puts, 1.0))
        status, _, err = run_command(capsys, *command.split()[1:], "--strategies", "manual-load")
        assert (status, err) == (0, ""), command


def test_a_word_of_the_command_that_is_longer_than_a_line_is_never_broken(ran, monkeypatch):
    word = ",".join(f"./strategies/idea-{n}.toml" for n in range(5))
    monkeypatch.setattr(units, "command", lambda *_: f"fpswitch price --strategies {word}")
    comparison = sim.compare(ran())
    answer = comparison.answer()
    assert "With your own rates: " in answer
    assert "fpswitch price" not in answer
    assert max(map(len, answer.splitlines())) <= 72
    assert word in comparison.summary()
