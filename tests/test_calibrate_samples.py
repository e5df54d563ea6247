"""From samples to numbers: which samples count, their intervals, rounds, and the terms of a price."""

import time
from contextlib import nullcontext

import numpy as np
import pytest
from no_programs import NO_PROGRAMS

from sim import calibrate
from sim.calibrate import calls, differences, fit, machine, rounds, samples
from sim.calibrate.plan import Timing, Variant, ladder, plan
from sim.calibrate.rows import Instructions, of_instructions
from sim.calibrate.samples import Interval, median_interval
from sim.costs.price import composed
from sim.costs.table import load
from sim.errors import InputError

CPU = 3


# Samples.


def made(rows, cycles, *, ratio=1.4, repetitions=40, empty=300, noise=0.0, seed=1):
    """Samples of rows that take so many core cycles on a core that runs ``ratio`` times as fast as the TSC."""
    rng = np.random.default_rng(seed)
    found = np.zeros(len(rows), samples.SAMPLE)
    found["row"] = rows
    found["chain_before"] = found["chain_after"] = round(samples.CHAIN_ADDS / ratio)
    found["empty"] = empty
    taken = np.asarray(cycles) * repetitions / ratio * (1 + noise * rng.standard_normal(len(rows)))
    found["ticks"] = np.round(empty + taken)
    found["cpu_before"] = found["cpu_after"] = CPU | 1 << 12  # node 1
    return found


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.42])
def test_core_cycles_come_out_whatever_the_ratio_of_the_clocks(ratio):
    found = made([0] * 20 + [1] * 20, [227.0] * 20 + [376.0] * 20, ratio=ratio, noise=0.01)
    reduce = rounds.by_row(2, [40, 40], core=True)
    assert reduce(found, np.ones(40, bool)) == pytest.approx([227, 376], rel=0.01)


def test_samples_that_changed_the_cpu_met_two_clocks_or_lost_their_state_do_not_count():
    found = made([0] * 6, [100.0] * 6)
    found["cpu_after"][0] = CPU + 1
    found["cpu_before"][1] = found["cpu_after"][1] = CPU + 1  # wholly on another CPU
    found["chain_after"][2] = 1.1 * found["chain_before"][2]
    found["chain_before"][3] = 30 * found["chain_after"][3]  # an interrupt in the chain
    found["in_use"][4] = 6
    calm = samples.undisturbed(found, CPU)
    assert calm.tolist() == [False, False, False, False, True, True]
    assert samples.as_wanted(found, np.array([0], np.uint64)).tolist() == [True, True, True, True, False, True]


def test_a_third_of_disturbed_blocks_leaves_the_median_within_one_percent():
    rng = np.random.default_rng(5)
    cycles = np.where(rng.random(300) < 0.33, 100 * (1 + rng.exponential(20, 300)), 100 + rng.standard_normal(300))
    reduced = rounds.by_row(1, [40], core=True)(made([0] * 300, cycles), np.ones(300, bool))
    assert reduced[0] == pytest.approx(100, rel=0.01)


def test_what_is_far_from_the_median_is_left_out_and_nothing_else():
    near = np.random.default_rng(2).normal(100, 1, 200)
    kept = samples.without_outliers(np.concatenate([near, [60.0, 140.0, 9000.0]]))
    assert kept.tolist() == near.tolist()
    assert samples.without_outliers(np.full(5, 7.0)).tolist() == [7.0] * 5


def test_a_row_with_too_few_samples_that_count_has_no_number():
    found = made([0] * 5 + [1] * 2, [100.0] * 7)
    assert np.isnan(rounds.by_row(3, [40] * 3, core=True)(found, np.ones(7, bool))).tolist() == [False, True, True]


@pytest.mark.parametrize("count", [6, 9, 15, 40])
def test_the_interval_covers_the_true_median_at_least_as_often_as_it_says(count):
    rng = np.random.default_rng(count)
    draws = rng.exponential(size=(1500, count))  # skewed, as timings are
    intervals = [median_interval(draw) for draw in draws]
    covered = np.mean([each.low <= np.log(2) <= each.high for each in intervals])
    assert covered >= samples.CONFIDENCE - 3 * np.sqrt(0.95 * 0.05 / 1500)


def test_the_interval_is_the_textbook_one():
    ten = median_interval(np.arange(1.0, 11.0))
    assert (ten.value, ten.low, ten.high) == (5.5, 2.0, 9.0)  # 97.9 %: Conover, order statistics 2 and 9 of 10
    assert median_interval(np.array([3.0, np.nan, 1.0])) == Interval(2.0, 1.0, 3.0)
    assert median_interval(np.array([np.nan])) is None


def test_a_difference_is_taken_within_a_pass_so_that_a_drift_drops_out():
    passes, sets = 50, 3
    drift = np.repeat(np.linspace(10_000, 20_000, passes), sets)
    rows = np.tile([2, 0, 1], passes)
    found = made(rows, drift + np.array([0.0, 20.0, -8.0])[rows], ratio=1.0, repetitions=40)
    counts = np.ones(len(rows), bool)
    counts[: len(rows) // 3][rows[: len(rows) // 3] == 1] = False  # row 1 counts in the later passes only
    reduced = rounds.beside_the_first(sets, 40)(found, counts)
    assert reduced[sets:] == pytest.approx([0, 20, -8], abs=0.1)


def test_a_pass_without_its_first_row_says_nothing_about_differences():
    rows = np.tile([0, 1], 8)
    counts = np.ones(16, bool)
    counts[rows == 0] = False
    assert np.isnan(rounds.beside_the_first(2, 40)(made(rows, [100.0] * 16), counts)[3])


# Rounds.


class Spent:
    """A progress bar that remembers."""

    seconds = 0.0

    def update(self, n):
        self.seconds += n


def stage(tmp_path, script, budget_s, least=6, settled=lambda _: True):
    program = tmp_path / f"program{len(list(tmp_path.iterdir()))}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    reduce = rounds.by_row(1, [40], core=True)
    return rounds.Stage(program, (), "", np.zeros(1, np.uint64), reduce, budget_s, least, settled)


def emitting(tmp_path):
    file = tmp_path / "samples"
    file.write_bytes(made([0] * 5, [100.0] * 5).tobytes())
    return f"cat {file}"


def test_measuring_ends_with_the_least_rounds_when_the_intervals_are_small(tmp_path):
    spent = Spent()
    found = rounds.measure({"a": stage(tmp_path, emitting(tmp_path), 60, settled=rounds.small)}, CPU, spent)
    assert found["a"].processes == 6
    assert found["a"].values == pytest.approx(np.full((1, 6), 100), rel=0.01)
    assert spent.seconds == pytest.approx(60)  # the bar is full


def test_measuring_ends_when_the_time_is_used_up(tmp_path):
    found = rounds.measure({"a": stage(tmp_path, emitting(tmp_path), 0.2, settled=lambda _: False)}, CPU, Spent())
    assert found["a"].processes >= rounds.FEWEST


def test_stages_take_turns(tmp_path):
    log = tmp_path / "log"
    stages = {
        name: stage(tmp_path, f"echo {name} >> {log}; {emitting(tmp_path)}", 60, least=3) for name in ("a", "b")
    }  # fmt: skip
    rounds.measure(stages, CPU, Spent())
    lines = log.read_text().split()
    assert sorted(lines) == ["a"] * 3 + ["b"] * 3
    assert {lines[0], lines[1]} == {"a", "b"}


def test_a_stage_that_cannot_run_has_its_reason_in_place_of_numbers(tmp_path):
    stages = {
        "vm": stage(tmp_path, "echo '/dev/kvm: No such file or directory' >&2; exit 3", 0.2),
        "moved": stage(tmp_path, emitting(tmp_path), 0.2),
    }
    found = rounds.measure(stages, CPU + 1, Spent())
    assert str(found["vm"]) == "/dev/kvm: No such file or directory"
    assert "every sample was disturbed" in str(found["moved"])


def test_what_a_stage_leaves_of_its_time_goes_to_one_that_has_not_settled(tmp_path):
    stages = {
        "vm": stage(tmp_path, "exit 3", 0.7),
        "never": stage(tmp_path, emitting(tmp_path), 0.1, settled=lambda _: False),
    }
    spent, begun = Spent(), time.monotonic()
    rounds.measure(stages, CPU, spent)
    assert time.monotonic() - begun >= 0.75
    assert spent.seconds == pytest.approx(0.8, abs=0.05)


def test_a_machine_that_is_too_busy_is_one_message():
    here = machine.Machine("", "", 6, 0, 0, "", "", "", "", 7, tuple(range(8)), 32768)
    timings = plan(here, False)
    values = np.full((len(timings), 6), 100.0)
    values[timings.index(Timing(Variant("XRSTOR", level="memory"), 7))] = np.nan
    found = Instructions(here, timings, rounds.Measured(values, np.ones(6), 10, 9))
    with pytest.raises(InputError, match=r"no undisturbed sample of XRSTOR \(memory\); this machine is too busy"):
        of_instructions(found)


@pytest.fixture
def flat(monkeypatch):
    """What `calibrate` makes of a machine with AMX on which all takes 100 cycles and no sample of KVM_RUN counts."""

    def found(stages, *_):
        flat = {name: np.full((len(each.in_use), 6), 100.0) for name, each in stages.items()}
        beside = {name: np.concatenate([values, 0 * values]) for name, values in flat.items()}
        numbers = {"xsave": flat["xsave"], "hand-off": beside["hand-off"], "vm": np.full_like(beside["vm"], np.nan)}
        found = {name: rounds.Measured(values, np.ones(6), 100, 0) for name, values in numbers.items()}
        return found | {name: rounds.Unavailable("no such call") for name in calls.WHERE}

    here = machine.Machine("", "GenuineIntel", 6, 0x8F, 0, "", "", "", "kvm_intel", 0x600E7, (), 32768)
    monkeypatch.setattr(calibrate, "this_machine", lambda _: here)
    monkeypatch.setattr(calibrate, "refuse_other_machines", lambda: None)
    monkeypatch.setattr(calibrate, "compiled", lambda: nullcontext(NO_PROGRAMS))
    monkeypatch.setattr(rounds, "measure", found)
    return calibrate.calibrate(CPU, 1, True, "", lambda _: nullcontext(Spent()))


def test_a_stage_without_one_undisturbed_sample_is_left_out_and_the_table_says_why(flat):
    """As on a machine where something brings SSE into use within every round trip."""
    why = "every sample of exit to KVM (CPUID) was disturbed, or left other components in use"
    assert flat.left_out == {"vm": why} | dict.fromkeys(calls.WHERE, "no such call")
    assert list(flat.processes) == ["xsave", "hand-off"]
    assert f"# No rows of KVM_RUN: {why}.\n" in flat.table
    rows = [line for line in flat.table.splitlines() if line.startswith("  {")]
    assert any("pipe hand-off" in line for line in rows)
    assert not any("KVM" in line for line in rows)


def test_no_row_that_is_inherited_adds_to_what_was_measured(flat, tmp_path):
    """Sapphire Rapids' table has terms of AMX tiles, also of XSAVE."""
    path = tmp_path / "flat.toml"
    path.write_text(flat.table)
    table = load(path, checked=False)
    assert table.derived_from == "sapphire-rapids"
    whole = [row for row in table.rows.values() if row.term == "total"]
    assert {row.operation for row in whole} == {"XSAVE", "XSAVEC", "XSAVEOPT", "XRSTOR"}
    assert [composed(row, table) for row in whole] == pytest.approx([100] * len(whole))


def test_exits_that_cost_what_nested_ones_do_are_said_to_be_in_every_row():
    here = machine.Machine("", "", 6, 0, 0, "", "", "", "", 7, tuple(range(8)), 32768)
    plan_ = differences.vm_plan(here)
    exits = next(row.cpuids for row in plan_ if row.cpuids)
    for cost, nested in ((1500.0, False), (9000.0, True)):
        values = np.full((2 * len(plan_), 6), exits * cost)
        lines = differences.of_vm(plan_, rounds.Measured(values, np.ones(6), 100, 0))
        assert {"nested" in line.conditions for line in lines} == {nested}


# The terms of a price.

SETS = tuple(range(32))


def instruction(base, presence, absence=(0,) * 5, *, processes=12, noise=0.003, seed=3):
    rng = np.random.default_rng(seed)
    exact = [
        base + sum(presence[i] if each >> i & 1 else absence[i] for i in range(5)) for each in SETS
    ]  # fmt: skip
    return np.array(exact)[:, None] * (1 + noise * rng.standard_normal((len(SETS), processes)))


def test_the_terms_of_a_save_are_recovered():
    truth = (19, 0, 7, 18, 31)
    found = fit.warm(SETS, instruction(139, truth))
    assert found.base.value == pytest.approx(139, rel=0.01)
    assert [found.components[i].value for i in range(5)] == pytest.approx(truth, abs=1)
    assert all(found.components[i].low <= truth[i] <= found.components[i].high for i in range(5))
    assert found.misfit < 0.02


def test_components_that_a_restore_initialises_more_slowly_than_it_loads_become_terms_of_their_absence():
    found = fit.warm(SETS, instruction(370, (0, 0, 0, 9, 30), (17, 8, 5, 0, 0)), None)
    assert found.base_set == 0b00111
    assert found.base.value == pytest.approx(370, rel=0.01)
    assert [found.components[i].value for i in range(5)] == pytest.approx((17, 8, 5, 9, 30), abs=2)


def test_a_set_without_a_number_does_not_disturb_the_fit():
    values = instruction(139, (19, 0, 7, 18, 31))
    values[[5, 9]] = np.nan
    found = fit.warm(SETS, values)
    assert found.components[4].value == pytest.approx(31, abs=1)


def test_what_a_level_adds_is_never_negative():
    warm = instruction(200, (10,) * 5)
    found = fit.colder(SETS, warm * 0.99, warm)
    assert found.base.value >= 0
    assert all(each.value >= 0 and each.low >= 0 for each in found.components.values())


def test_nested_sets_are_those_that_programs_leave():
    assert [f"{each:x}" for each in fit.nested(ladder(0xE7)) if each] == ["2", "3", "7", "27", "67", "e7"]
    assert 0xE6 in fit.nested([each for each in range(256) if not each & ~0xE7])


def test_the_ladder_tells_every_component_apart():
    for xcr0 in (0x7, 0xE7, 0x602E7):
        rungs = ladder(xcr0)
        numbers = [i for i in range(20) if xcr0 >> i & 1]
        matrix = [[1, *(each >> i & 1 for i in numbers)] for each in rungs]
        assert np.linalg.matrix_rank(matrix) == len(numbers) + 1
