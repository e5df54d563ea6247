"""XSAVES and XRSTORS in place: calls in which the kernel executes them, and the terms that follow from differences."""

import os
import shutil
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path

import native
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.calibrate import calls, in_place, machine, rounds, rows, samples, writing
from sim.calibrate.calls import LOADED, TOUCHED, WRITTEN, CallRow
from sim.calibrate.samples import Interval
from sim.costs.check import check
from sim.costs.price import Prices
from sim.costs.rows import RATIO
from sim.costs.table import load
from sim.xsave.components import bits

CPU = 3
SETS = (1, 2, 4, 0x20, 3, 7, 0x27)
WRITING, PARTS = 10.0, {0: 6.0, 1: 0.0, 2: 5.0, 5: 3.0}
LOADING = {0: -7.0, 1: 2.0, 2: -3.0, 5: 1.0}


def saving(in_use):
    return (WRITING + sum(PARTS[i] for i in bits[in_use])) if in_use else 0.0


def loading(in_use):
    return sum(LOADING[i] for i in bits[in_use])


def exact(cost, error=0.0):
    return {each: Interval(cost(each), cost(each) - error, cost(each) + error) for each in SETS}


measures = pytest.mark.skipif(bool(native.refusal()), reason=native.refusal())


# The terms.


def test_the_terms_of_a_save_with_one_that_counts_once_are_recovered():
    terms = in_place.of_saves([exact(saving)])
    assert terms.writing.value == pytest.approx(WRITING, abs=0.01)
    assert {i: term.value for i, term in terms.components.items()} == pytest.approx(PARTS, abs=0.01)
    assert (terms.sets, terms.misfit) == (len(SETS), pytest.approx(0, abs=0.01))


def test_the_terms_of_a_restore_may_be_negative():
    terms = in_place.of_restores([exact(loading)])
    assert terms.writing is None
    assert {i: term.value for i, term in terms.components.items()} == pytest.approx(LOADING, abs=0.01)


def test_the_values_are_those_of_the_first_series_and_the_range_is_of_all():
    other = {each: Interval(saving(each) + 5, saving(each) + 4, saving(each) + 6) for each in SETS}
    few = {7: Interval(saving(7) + 9, saving(7) + 8, saving(7) + 10)}
    terms = in_place.of_saves([exact(saving), other, few])
    assert terms.writing.value == pytest.approx(WRITING, abs=0.01)
    sums = {end: getattr(terms.writing, end) + sum(getattr(terms.components[i], end) for i in (0, 1, 2))
            for end in ("low", "high")}  # fmt: skip
    assert sums["low"] <= saving(7)
    assert sums["high"] >= saving(7) + 10 - 1e-6


cycles = st.floats(-20, 60)
series = st.fixed_dictionaries({each: st.tuples(cycles, st.floats(0, 9), st.floats(0, 9)) for each in SETS})


@settings(max_examples=60, deadline=None)
@given(st.lists(series, min_size=1, max_size=3), st.booleans())
def test_whatever_was_measured_lies_in_the_range_of_its_terms(drawn, restores):
    """Of a save as far as that can be: none of its terms is negative."""
    found = [{each: Interval(v, v - down, v + up) for each, (v, down, up) in one.items()} for one in drawn]
    terms = (in_place.of_restores if restores else in_place.of_saves)(found)
    for each in [*terms.components.values(), *([terms.writing] if terms.writing else [])]:
        assert each.low <= each.value <= each.high
        assert restores or each.low >= 0
    for one in found:
        for in_use, number in one.items():
            ends = [
                sum(getattr(terms.components[i], end) for i in bits[in_use])
                + (getattr(terms.writing, end) if terms.writing else 0)
                for end in ("low", "high")
            ]
            assert ends[0] <= (number.low if restores else max(number.low, 0)) + 1e-3
            assert ends[1] >= number.high - 1e-3


def test_the_rows_of_a_restore_are_never_negative_and_cost_what_xrstor_does_with_nothing_in_use():
    terms = in_place.of_restores([exact(loading, error=1.5)])
    lines = in_place.restore_lines(terms, 1.25, Interval(400, 396, 404), "how", ("XRSTOR/total",), "XRSTOR/total")
    by_id = {line.id: line.number for line in lines}
    assert all(0 <= each.low <= each.value <= each.high for each in by_id.values())
    nothing = by_id["XRSTORS/base"].value + sum(
        by_id[f"XRSTORS/initialised/{n}"].value for n in ("FP", "SSE", "YMM", "OPMASK")
    )
    assert nothing == pytest.approx(400)
    assert by_id["XRSTORS/initialised/FP"].value == pytest.approx(7 * 1.25, abs=0.01)
    assert by_id["XRSTORS/loaded/SSE"].value == pytest.approx(2 * 1.25, abs=0.01)
    assert by_id["XRSTORS/loaded/SSE"].high > by_id["XRSTORS/loaded/SSE"].value


def test_what_a_farther_level_adds_is_taken_from_the_same_call():
    warm, far = (
        exact(loading, 1),
        {each: Interval(loading(each) + 10, loading(each) + 9, loading(each) + 12) for each in SETS},
    )
    found = in_place.added(far, warm)
    assert {each.value for each in found.values()} == {10.0}
    assert found[1] == Interval(10, 8, 13)


# From samples to differences.

PLAN = calls.call_plan(SETS)


def test_the_plan_has_nothing_in_use_twice_and_with_the_tracking_lost_and_three_rows_for_each_set():
    assert PLAN[:3] == (CallRow(0), CallRow(0), CallRow(0, lost=True))
    assert PLAN[3:6] == (CallRow(1), CallRow(1, lost=True), CallRow(1, touched=True))
    assert len(PLAN) == 3 + 3 * len(SETS)


def taken(row, base):
    """TSC cycles of a call whose kernel skips what was neither touched nor lost."""
    written = saving(row.in_use) if row.lost or row.touched else 0
    return base + written + loading(row.in_use)


def process(passes, seed, plan=PLAN, before=7.0):
    """Samples of a process, in random order and with a drift; what is done before a call is in ``empty``, too."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(plan)) for _ in range(passes)])
    found = np.zeros(len(order), samples.SAMPLE)
    drift = np.repeat(np.linspace(1000, 1400, passes), len(plan))
    extra = np.array([before * (plan[i].lost + plan[i].touched) for i in order])
    cycles = np.array([taken(plan[i], base) for i, base in zip(order, drift, strict=True)])
    noise = rng.standard_normal(len(order))
    found["row"], found["in_use"] = order, [plan[i].in_use for i in order]
    found["chain_before"] = found["chain_after"] = samples.CHAIN_ADDS
    found["empty"] = np.round(calls.CALLS * (50 + extra))
    found["ticks"] = np.round(calls.CALLS * (cycles + 50 + extra + noise))
    found["cpu_before"] = found["cpu_after"] = CPU
    return found


def measured(processes=12):
    reduce = calls._by_process(len(PLAN))
    values = np.array(
        [reduce(one, np.ones(len(one), bool)) for one in (process(60, seed) for seed in range(processes))]
    )
    return rounds.Measured(values.T, np.ones(processes), 100, 0)


def test_differences_come_out_within_a_cycle_whatever_drifts_and_whatever_is_done_before_a_call():
    found = calls.of_calls("urandom", SETS, measured())
    for in_use in SETS:
        assert found.series[LOADED][in_use].value == pytest.approx(loading(in_use), abs=1)
        assert found.series[WRITTEN][in_use].value == pytest.approx(saving(in_use), abs=1)
        assert found.series[TOUCHED][in_use].value == pytest.approx(saving(in_use), abs=1)
    control = next(line for line in found.lines if line.operation == calls.name(calls.CONTROL, "urandom"))
    assert control.number.value == pytest.approx(0, abs=0.5)
    assert found.shows_writing
    assert found.between_runs < 1
    assert 0 < found.widest <= calls.NARROW


def test_what_two_halves_of_the_processes_differ_by_is_told():
    seen = measured()
    seen.values[2, 6:] += 9.0
    found = calls.of_calls("urandom", SETS, seen)
    assert found.between_runs == pytest.approx(9, abs=1)
    assert found.widest == pytest.approx(4.5, abs=1)


def test_a_set_without_a_number_has_no_row_and_leaves_the_others():
    seen = measured()
    seen.values[2] = np.nan
    found = calls.of_calls("urandom", SETS, seen)
    assert SETS[0] not in found.series[LOADED]
    assert len(found.series[LOADED]) == len(SETS) - 1


def test_without_a_sample_with_nothing_in_use_there_is_one_reason():
    values = np.full((2 + 3 * len(SETS), 6), np.nan)
    with pytest.raises(rounds.Unavailable, match="every sample of a switch between threads was disturbed"):
        calls.of_calls("switch", SETS, rounds.Measured(values, np.ones(6), 10, 0))


@pytest.mark.parametrize("written", [0.0, 0.4])
def test_a_call_in_which_writing_cannot_be_told_from_skipping_gives_no_terms(written):
    """A kernel that does not use the FPU there, or a processor that skips nothing."""
    rng = np.random.default_rng(4)
    values = written + rng.standard_normal((2 + 3 * len(SETS), 12))
    assert not calls.of_calls("urandom", SETS, rounds.Measured(values, np.ones(12), 10, 0)).shows_writing


def supervisor_table(tmp_path, terms):
    user = [
        rows.Line("XSAVEC", "base", Interval(117, 116, 118), "derived", "x", origin=("XSAVEC/total",)),
        rows.Line("XSAVEC", "written", Interval(19, 18, 20), "derived", "x", "FP", origin=("XSAVEC/total",)),
        rows.Line("XSAVEC", "total", Interval(117, 116, 118), "measured", "{own}"),
        rows.Line("XRSTOR", "base", Interval(372, 371, 373), "derived", "x", origin=("XSAVEC/total",)),
        rows.Line("XRSTOR", "initialised", Interval(16, 15, 17), "derived", "x", "FP", origin=("XSAVEC/total",)),
        rows.Line("XRSTOR", "loaded", Interval(0, 0, 1), "derived", "x", "FP", origin=("XSAVEC/total",)),
        rows.Line("XRSTOR", "loaded", Interval(9, 8, 10), "derived", "x", "FP", "L2", origin=("XSAVEC/total",)),
    ]
    ratio = rows.Line(*RATIO.rsplit("/", 1), Interval(1, 1, 1), "measured", "{own}", clock="tsc")
    texts = {"own": "measured by `fpswitch calibrate`; CPU: x; kernel: y; method: z"}
    header = writing.Header([], "t", "2026-11-27", "zen4", 0, "", texts)
    path = tmp_path / "mine.toml"
    path.write_text(writing.table(header, [ratio, *user, *rows.supervisor_forms(user, terms)]))
    return load(path, checked=False)


def test_without_terms_in_place_all_rows_of_the_supervisor_forms_stand_on_the_user_forms_of_this_cpu(tmp_path):
    """Also in a table derived from Zen 4's, whose own are no stand-ins."""
    table = supervisor_table(tmp_path, [])
    assert check(table) == []
    assert table.rows["XSAVES/writing"].value == 0
    assert [table.rows[f"XSAVES/{each}"].value for each in ("base", "written/FP")] == [117, 19]
    assert [table.rows[f"XRSTORS/{each}"].value for each in ("base", "initialised/FP", "loaded/FP@L2")] == [372, 16, 9]
    assert all("stands in for" in table.rows[f"XRSTORS/{each}"].conditions for each in ("base", "initialised/FP"))


def test_terms_in_place_take_the_place_of_stand_ins_and_leave_the_rest(tmp_path):
    terms = in_place.save_lines(in_place.of_saves([exact(saving)]), 1.0, "in place", ("XSAVEC/total",))
    table = supervisor_table(tmp_path, terms)
    assert check(table) == []
    assert (table.rows["XSAVES/writing"].value, table.rows["XSAVES/written/FP"].value) == (10, 6)
    assert table.rows["XSAVES/base"].conditions.startswith("XSAVEC stands in for XSAVES")
    prices = Prices(table)
    save = [prices["vcpu", "switch", "XSAVES", 7, mask, 7 & ~mask] for mask in (0, 1, 3, 7)]
    # Each time the parent's cycle for a component that is initial goes.
    assert [b - a for a, b in pairwise(save)] == [15, -1, 4]


# This machine.


@measures
def test_a_write_to_dev_urandom_needs_no_privilege_and_a_switch_between_threads_says_what_it_needs(made):
    """As nobody, where this runs as root."""
    user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp())
    try:
        program = shutil.copy(made.in_place, folder)
        folder.chmod(0o755)
        command = [program, str(max(os.sched_getaffinity(0)))]
        wrote = subprocess.run(
            [*command, "urandom", "2"], input=b"0 0 0\n2 0 1\n", capture_output=True, check=False, **user
        )
        yielded = subprocess.run([*command, "switch", "1"], input=b"0 0 0\n", capture_output=True, check=False, **user)
    finally:
        shutil.rmtree(folder)
    assert (wrote.returncode, wrote.stderr) == (0, b"")
    assert sorted(np.frombuffer(wrote.stdout, samples.SAMPLE)["row"]) == [0, 0, 1, 1]
    assert (yielded.returncode, yielded.stdout) == (3, b"")
    said = yielded.stderr.decode()
    assert said.count("\n") == 1
    assert said.startswith("a switch between two SCHED_FIFO threads needs CAP_SYS_NICE: ")


@measures
def test_a_plan_for_another_call_is_refused(made):
    done = subprocess.run([made.in_place, "0", "getppid", "1"], input=b"", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")


@measures
def test_what_the_kernel_saves_and_restores_shows_in_a_write_to_dev_urandom(made):
    """To write everything costs more than to skip it, and nothing in use differs from nothing by next to nothing."""
    here = machine.this_machine(made)
    stage = calls.call_stage(made, here, "urandom", 2.0, True)
    cpu = max(os.sched_getaffinity(0))
    seen = rounds.measure({"urandom": stage}, cpu, Bar())["urandom"]
    assert isinstance(seen, rounds.Measured)
    found = calls.of_calls("urandom", calls.call_sets(here), seen)
    if not found.shows_writing:
        pytest.skip("this kernel does not use the FPU there, or this processor skips nothing")
    everything = max(found.series[WRITTEN])
    control = next(line for line in found.lines if line.operation == calls.name(calls.CONTROL, "urandom"))
    assert abs(control.number.value) < 0.25 * found.series[WRITTEN][everything].value


class Bar:
    """A progress bar that nobody sees."""

    def update(self, n):
        """``n`` more seconds."""
