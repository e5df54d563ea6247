"""The rows of the shipped cost tables: grades, ranges, and what was measured in place."""

import functools

import numpy as np
import pytest
from cost_keys import E7, MEASURED_ALONE, ZEN4, in_place, key, mask_of, of_all_flows
from scipy.optimize import nnls

from sim.calibrate import calls
from sim.calibrate import in_place as rule
from sim.calibrate.samples import Interval
from sim.costs.check import check
from sim.costs.price import Prices, terms
from sim.costs.table import current, load, names
from sim.kernel import strategies, versions
from sim.kernel.config import Settings
from sim.xsave import profiles
from sim.xsave.area import Area
from sim.xsave.components import COMPACTED
from sim.xsave.unit import Unit


@functools.cache
def emitted(cpu):
    """The ledger keys of every flow, strategy and kernel, with either carried state and each way of MSR access."""
    variants = [{}, {"msr_access": "wrmsrns"}, {"msr_access": "msr-list", "carried": "fred-rsp0"}]
    if profiles.profile(cpu).xfd_supported:
        variants.append({"guest_amx": True})
    keys = set()
    for kernel in versions.names():
        for strategy in strategies.names():
            for variant in variants:
                keys |= of_all_flows(Settings(cpu=cpu, kernel=kernel, strategy=strategy, hypothetical=True, **variant))
    return frozenset(keys)


# The shipped tables.


@pytest.mark.parametrize("name", names())
def test_every_shipped_table_passes_the_check(name):
    assert check(load(name, checked=False)) == []


def test_every_cpu_profile_has_a_table():
    assert set(names()) - set(profiles.names()) == set(MEASURED_ALONE)


@pytest.mark.parametrize(
    "cpu",
    [
        pytest.param(cpu, marks=[] if cpu in ("sapphire-rapids", "zen4") else pytest.mark.slow)
        for cpu in profiles.names()
    ],
)
def test_every_operation_of_the_kernel_model_has_a_price_which_is_a_whole_non_negative_number_at_every_level(cpu):
    prices = Prices(current(cpu))
    keys = emitted(cpu)
    assert len(keys) > 30
    for each in keys:
        for level in ("", "L1", "L2", "memory"):
            value = prices[(*each[:6], level if each[3] else "")]
            assert type(value) is int
            assert value >= 0


@pytest.mark.parametrize("name", names())
def test_measured_rows_are_of_the_cpu_of_the_table_and_say_how_they_were_measured(name):
    for row in current(name).rows.values():
        if row.grade == "measured":
            assert row.table == name
            assert all(label in row.conditions for label in ("CPU: ", "kernel: ", "method: "))


def test_what_an_intel_server_showed_is_in_the_range_that_was_assumed_but_for_amx_memory_and_a_few():
    assumed, measured = (load(name).rows for name in ("sapphire-rapids", "intel-amx"))
    both = [each for each in assumed if assumed[each].grade == "assumed" and each in measured]
    new = [each for each in both if measured[each].grade in ("measured", "derived")]
    out = [each for each in new if not assumed[each].low <= measured[each].value <= assumed[each].high]
    assert (len(new), len(out)) == (116, 26)
    near = [each for each in out if "XTILE" not in each and "@" not in each]
    assert all(each.rpartition("/")[2] in ("FP", "SSE", "YMM") for each in near)


@pytest.mark.parametrize("name", names())
def test_what_nobody_has_published_about_cet_s_and_its_msrs_is_graded_assumed_and_has_a_range(name):
    table = current(name)
    rows = [r for r in table.rows.values() if r.component == "CET_KERNEL" or "PLx_SSP" in r.operation]
    assert {(r.operation, r.term) for r in rows} >= {
        ("XSAVES", "written"), ("XSAVES", "initial"), ("XSAVES", "unmodified"), ("XRSTORS", "loaded"),
        ("XRSTORS", "initialised"), ("RDMSR(PLx_SSP)", "base"), ("WRMSR(PLx_SSP)", "base"),
        ("WRMSRNS(PLx_SSP)", "base"),
    }  # fmt: skip
    assert all(r.grade == "assumed" and r.low < r.high and r.distribution == "uniform" for r in rows)


@pytest.mark.parametrize("name", names())
def test_the_supervisor_forms_are_nowhere_graded_measured_or_published(name):
    grades = {r.grade for r in current(name).rows.values() if r.operation in ("XSAVES", "XRSTORS")}
    assert grades <= {"derived", "assumed"}


def test_the_bases_of_the_supervisor_forms_on_zen4_stand_on_the_measured_user_mode_forms_and_say_so():
    rows = current("zen4").rows
    for mine, measured in (("XSAVES", "XSAVEC"), ("XRSTORS", "XRSTOR")):
        row = rows[f"{mine}/base"]
        assert row.origin == (f"{measured}/base",)
        assert f"{measured} stands in for {mine}" in row.conditions
        assert rows[row.factor].grade == "measured"  # the two are one uncertainty


SWITCH_WITHIN = 4
"""TSC cycles between a price in a context switch and what was measured there."""


def written_less_skipped(mask):
    save, skip = terms(key("XSAVES", E7, mask, E7 & ~mask), ZEN4), terms(key("XSAVES", E7, 0, E7 & ~mask), ZEN4)
    return save, skip


def loaded_less_initialised(mask, level=""):
    """Less the same with nothing in use, from the same level."""
    return terms(key("XRSTORS", E7, mask, E7 & ~mask, level), ZEN4), terms(key("XRSTORS", E7, 0, E7, level), ZEN4)


def in_tsc_cycles(both, end="value"):
    """The value of a difference, or its lowest or highest: where a term costs most in one and least in the other."""
    more, less = both
    other = {"value": "value", "low": "high", "high": "low"}[end]
    worth = {row: n - less.get(row, 0) for row, n in (dict.fromkeys(less, 0) | more).items()}
    rows = ((ZEN4.rows[row], n) for row, n in worth.items() if n)
    return sum(n * getattr(row, end if n > 0 else other) * ZEN4.scale(row) for row, n in rows)


PRICED = {
    calls.WRITTEN: written_less_skipped,
    calls.TOUCHED: written_less_skipped,
    calls.LOADED: loaded_less_initialised,
}


def by_id(row):
    return row.id


@pytest.mark.parametrize(
    ("kind", "row"), [(kind, row) for kind in (calls.WRITTEN, calls.LOADED) for row in in_place(kind, "switch")]
)
def test_a_price_in_a_context_switch_is_the_one_measured_there(kind, row):
    prices, mask = Prices(ZEN4), mask_of(row)
    assert in_tsc_cycles(PRICED[kind](mask)) == pytest.approx(row.value, abs=SWITCH_WITHIN)
    operation = kind.partition(",")[0]  # and so in whole cycles, as the ledger is priced
    zero = key(operation, E7, 0, E7 & ~mask if kind == calls.WRITTEN else E7)
    whole = prices[key(operation, E7, mask, E7 & ~mask)] - prices[zero]
    assert whole == pytest.approx(row.value, abs=SWITCH_WITHIN)


def test_every_in_use_set_that_was_measured_is_in_the_table_for_both_calls():
    kinds = (calls.WRITTEN, calls.LOADED)
    sets = [{mask_of(row) for row in in_place(kind, where)} for kind in kinds for where in calls.WHERE]
    assert sets[0] == sets[1] == sets[2] == sets[3]
    assert len(sets[0]) == 11
    assert len(in_place(calls.TOUCHED, "urandom")) == 10
    assert len(in_place(calls.LOADED, "urandom", "L2")) == 9


@pytest.mark.parametrize(
    ("kind", "row"),
    [(kind, row) for kind in PRICED for where in calls.WHERE for row in in_place(kind, where)],
)
def test_the_range_of_a_price_spans_both_calls_and_both_runs(kind, row):
    both = PRICED[kind](mask_of(row))
    assert in_tsc_cycles(both, "low") <= row.low
    assert in_tsc_cycles(both, "high") >= row.high


@pytest.mark.parametrize("row", in_place(calls.LOADED, "urandom", "L2"), ids=by_id)
def test_what_l2_adds_to_a_restore_was_measured_in_the_same_call(row):
    warm = next(each for each in in_place(calls.LOADED, "urandom") if each.component == row.component)
    added = (
        ZEN4.rows[each] for each in loaded_less_initialised(mask_of(row), "L2")[0] if "loaded" in each and "@" in each
    )
    assert sum(each.value * ZEN4.scale(each) for each in added) == pytest.approx(row.value - warm.value, abs=1.5)


def test_without_a_term_that_counts_once_no_sum_would_be_within_four_cycles():
    """Non-negative least squares of the components alone, on the same eleven sets."""
    rows = in_place(calls.WRITTEN, "switch")
    columns = np.array([[mask_of(row) >> i & 1 for i in (0, 1, 2, 5, 6, 7)] for row in rows], float)
    measured = np.array([row.value for row in rows])
    assert np.abs(columns @ nnls(columns, measured)[0] - measured).max() > 2 * SWITCH_WITHIN


def test_the_terms_in_the_table_are_those_that_the_rule_gives_for_its_differences():
    def series(kind, where, level=""):
        return {mask_of(row): Interval(row.value, row.low, row.high) for row in in_place(kind, where, level)}

    found = [
        calls.Found(where, (), {k: series(k, where) for k in calls.KINDS}, 0, 0) for where in ("switch", "urandom")
    ]
    nothing = ZEN4.rows["XRSTOR/total"]
    ratio = 1.4114  # in that run
    lines = calls.term_lines(found, ratio, Interval(nothing.value, nothing.low, nothing.high), "XRSTOR/base")
    warm = series(calls.LOADED, "urandom")
    added = rule.of_levels([rule.added(series(calls.LOADED, "urandom", "L2"), warm)])
    lines += rule.level_lines(added, ratio, "L2", "", ())
    assert len(lines) == 7 + 13 + 6
    for line in lines:
        row, rounded = ZEN4.rows[line.id], 0.6 if abs(ZEN4.rows[line.id].value) >= 100 else 0.06
        assert (row.value, row.low) == pytest.approx((line.number.value, line.number.low), abs=rounded + 0.05)
        # The table's ratio of the clocks is 0.7 % higher than that of the run: as many TSC cycles are more core cycles.
        assert line.number.high - rounded <= row.high <= line.number.high * ZEN4.ratio / ratio + max(rounded, 0.1)


def test_on_zen4_unmodified_xmm_costs_nothing_whatever_mxcsr_is():
    """Measured: 0.0 [-1.1, 0.0] TSC cycles in a write to /dev/urandom, 0.0 [0.0, 1.1] in a context switch."""
    prices, saves = Prices(ZEN4), []
    for mxcsr in (0x1F80, 0x3F80):
        unit, area = Unit(E7, freedoms=profiles.profile("zen4").freedoms), Area(0x1000, E7 | COMPACTED)
        area.xstate_bv, area.mxcsr = 2, mxcsr
        area.compacted[1] = "value"
        unit.xrstors(area, E7)
        saves.append(key("XSAVES", E7, unit.xsaves(area, E7), E7 & ~area.xstate_bv))
    assert prices[saves[0]] == prices[saves[1]]


def test_xsaves_and_xrstors_with_nothing_in_use_are_below_the_bound_that_was_measured():
    """485 TSC cycles: with what a write to /dev/urandom does once however much is written."""
    prices = Prices(ZEN4)
    assert prices[key("XSAVES", E7, 0, E7)] + prices[key("XRSTORS", E7, 0, E7)] <= 485


@pytest.mark.parametrize("name", ["zen3", "zen5"])
def test_a_table_derived_from_zen4s_keeps_its_differences_and_widens_them(name):
    """Zen 3 has no AVX-512."""
    child = current(name)
    prices, own = Prices(child), Prices(ZEN4)
    every = [mask_of(row) for row in in_place(calls.WRITTEN, "switch")]
    masks = [mask for mask in every if name == "zen5" or not mask & 0xE0]
    for mask in masks:
        save, skip = (key("XSAVES", E7, components, E7 & ~mask) for components in (mask, 0))
        assert prices[save] - prices[skip] == pytest.approx(own[save] - own[skip], abs=2)
    for row in ("XSAVES/writing", "XSAVES/written/FP", "XRSTORS/initialised/FP"):
        assert (child.rows[row].grade, child.rows[row].table) == ("derived", "zen4")
        assert child.rows[row].low <= 0.7 * ZEN4.rows[row].value


@pytest.mark.parametrize("name", names())
def test_the_value_of_an_assumed_row_is_the_median_of_its_range(name):
    """So the answer at the table's values lies in the middle of the answers over the draws, and not at their edge."""
    for row in current(name).rows.values():
        if row.grade == "assumed" and row.distribution == "uniform":
            assert row.value == pytest.approx((row.low + row.high) / 2), row.id
