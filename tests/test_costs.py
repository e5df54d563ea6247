"""Prices: composed from rows, compared with what was measured, and drawn."""

import random
from dataclasses import replace

import numpy as np
import pytest
from cost_keys import E7, MEASURED_ALONE, ZEN4, in_place, key, mask_of, of_all_flows

from sim.calibrate import calls
from sim.costs.check import EVIDENCE_LEVEL, check
from sim.costs.price import Prices, composed, design_matrix, in_tsc, price, terms
from sim.costs.rows import RATIO
from sim.costs.table import current, names
from sim.errors import InputError
from sim.kernel import flows
from sim.kernel.config import Settings
from sim.xsave import profiles
from sim.xsave.components import CET_S, COMPONENTS

REPEATABILITY = 0.10
"""Of the measured rows, as they state themselves."""
TIMER_STEP = 36
"""Core cycles; the single-shot method cannot see less."""


def core(table, key):
    """A composed price in core cycles, not rounded."""
    return sum(n * table.rows[row].value for row, n in terms(key, table).items())


# The composition against what was measured.


HALF_IN_THE_STORE_BUFFER = {f"XSAVEC/total/{x87}SSE YMM OPMASK ZMM_Hi256@memory" for x87 in ("", "FP ")}
"""174 cycles without x87 and 623 with it, where the store buffer is full: no linear composition has both."""


@pytest.mark.parametrize("row", [r for r in current("zen4").rows.values() if r.term == "total"], ids=lambda r: r.id)
def test_composed_prices_reproduce_the_measured_instructions(row):
    if row.id in HALF_IN_THE_STORE_BUFFER:
        pytest.skip("a save that the store buffer takes in for the most part is not linear")
    tolerance = REPEATABILITY * row.value
    if row.level:
        tolerance = max(tolerance, TIMER_STEP)
    assert composed(row, current("zen4")) == pytest.approx(row.value, abs=tolerance)


def test_from_the_last_level_cache_there_are_differences_between_l2_and_memory_and_no_price():
    """Of everything; and a priced row, or one of an instruction, cannot have the level."""
    rows = [row for row in ZEN4.rows.values() if row.level == EVIDENCE_LEVEL]
    assert len(rows) == 9
    assert {(row.term, row.priced) for row in rows} == {("difference", False)}
    measured = {mask_of(row): row.value for row in in_place(calls.LOADED, "urandom", EVIDENCE_LEVEL)}
    near, far = (
        Prices(ZEN4)[key("XRSTORS", E7, E7, 0, level)] - Prices(ZEN4)[key("XRSTORS", E7, 0, E7, level)]
        for level in ("L2", "memory")
    )
    assert near < measured[E7] < far / 20
    for row in (ZEN4.rows["XRSTOR/base@L2"], ZEN4.rows["XRSTOR/total@L2"]):
        moved = {**ZEN4.rows, row.id: replace(row, level=EVIDENCE_LEVEL)}
        assert any("unknown level 'L3' (allowed: L2, memory;" in each for each in check(replace(ZEN4, rows=moved)))


def test_zen4_has_measured_instructions_to_compare_with_at_every_level():
    totals = [r for r in current("zen4").rows.values() if r.term == "total"]
    assert {(r.operation, r.level) for r in totals} >= {
        ("XSAVEC", ""), ("XSAVEC", "memory"), ("XRSTOR", ""), ("XRSTOR", "L2"), ("XRSTOR", "memory"),
    }  # fmt: skip
    assert len([r for r in totals if r.operation == "XSAVEC" and not r.level]) >= 10


def test_a_restore_from_memory_costs_eight_times_a_warm_one_on_zen4():
    table = current("zen4")
    warm, cold = (core(table, key("XRSTORS", E7, E7, level=level)) for level in ("L1", "memory"))
    assert cold / warm == pytest.approx(8.5, rel=REPEATABILITY)


def test_a_save_on_skylake_with_x87_and_sse_in_use_costs_what_agner_fog_published():
    table = current("skylake-sp")
    assert core(table, key("XSAVEC", 3, 3)) == table.rows["XSAVEC, Skylake-X/reference"].value
    assert core(table, key("XRSTOR", 3, 3)) == table.rows["XRSTOR, Skylake-X/reference"].value
    assert core(table, key("XSAVE", 3, 3)) == table.rows["XSAVE, Skylake-X/reference"].value


@pytest.mark.parametrize(("cpu", "round_trip", "pkru"), [("emerald-rapids", 770, 40), ("zen5", 1500, 60)])
def test_the_fastpath_exit_and_the_pkru_swap_compose_to_the_published_round_trips(cpu, round_trip, pkru):
    table = current(cpu)
    prices = Prices(table)
    settings = Settings(cpu=cpu, kernel="v6.19", strategy="no-cet", mitigations=False)
    assert sum(prices[tuple(op)] for op in flows.run("fastpath-exit", settings).operations) == round_trip
    assert prices[key("RDPKRU")] + 2 * prices[key("WRPKRU")] == pkru
    assert table.rows["fastpath round trip/reference"].value == round_trip
    assert table.rows["PKRU swap/reference"].value == pkru


def test_the_parts_of_a_round_trip_are_drawn_as_one_and_their_ranges_add_up_to_that_of_the_sum():
    for cpu in ("emerald-rapids", "zen5"):
        rows = current(cpu).rows
        parts = [rows[f"VM {way}/{term}"] for way in ("entry", "exit") for term in ("base", "software")]
        whole = rows["fastpath round trip/reference"]
        around = 240 if cpu == "zen5" else 0  # VMSAVE and two VMLOADs
        assert {part.factor for part in parts} == {whole.id}
        assert sum(part.low for part in parts) == pytest.approx(whole.low - around, abs=2)
        assert sum(part.high for part in parts) == pytest.approx(whole.high - around, abs=2)


def test_the_kvm_run_halves_of_the_amd_breakdown_come_out_with_the_fpstate_swap():
    table = current("zen4")
    prices = Prices(table)
    swap = prices[key("XSAVES", 0x2E7, 0x206, 0xE1)] + prices[key("XRSTORS", 0xE7, 6, 0xE1)]
    halves = {term: table.rows[f"KVM_RUN/{term}"].value for term in ("in", "out")}
    entry = halves["in"] + swap + prices[key("RDPKRU")] + prices[key("VMSAVE")]
    assert entry == pytest.approx(table.rows["KVM_RUN to VMRUN/reference"].value, abs=2)
    assert halves["out"] + swap == pytest.approx(table.rows["#VMEXIT to user space/reference"].value, abs=2)
    assert prices[key("KVM_RUN")] == sum(halves.values())


# What prices are.


@pytest.mark.parametrize("name", names())
def test_a_price_is_the_rounded_product_of_coefficients_and_values(name):
    table = current(name)
    keys = sorted(of_all_flows(Settings(cpu=name, kernel="v6.19", strategy="no-cet")))
    values = np.array([float(row.value) for row in table.rows.values()])
    prices = Prices(table)
    expected = design_matrix(keys, table) @ in_tsc(table, values)
    assert [prices[each] for each in keys] == [pytest.approx(x, abs=0.5 + 1e-9) for x in expected]
    assert [prices[each] for each in keys] == [price(each, table) for each in keys]


def test_draws_are_priced_as_one_matrix_product_with_the_ratio_of_each_draw():
    table = current("zen4")
    keys = [key("XSAVES", E7, 7, 0xE0), key("WRMSR(XSS)")]
    draws = np.tile([float(row.value) for row in table.rows.values()], (2, 1))
    draws[1, list(table.rows).index(RATIO)] = 1.0
    priced = in_tsc(table, draws) @ design_matrix(keys, table).T
    assert priced[0].round().tolist() == [Prices(table)[each] for each in keys]
    assert priced[1, 0] == pytest.approx(core(table, keys[0]))  # one TSC cycle is one core cycle
    assert priced[1, 1] == priced[0, 1]  # counted in TSC cycles


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("operation", ["XSAVES", "XRSTORS", "XSAVE", "XRSTOR"])
def test_one_more_component_never_makes_an_instruction_cheaper(name, operation):
    prices, rng = Prices(current(name)), random.Random(1)
    of_cpu = profiles.profile(MEASURED_ALONE.get(name, name)).components
    mine = of_cpu & (0xFFFFF if operation.endswith("S") else 0xC02E7)
    numbers = [c.number for c in COMPONENTS if c.mask & mine]
    for _ in range(200):
        *chosen, more = rng.sample(numbers, rng.randint(1, len(numbers)))
        used = sum(1 << i for i in chosen if rng.random() < 0.7)
        rfbm = sum(1 << i for i in chosen)
        for level in ("", "L2", "memory"):
            before = prices[key(operation, rfbm, used, rfbm & ~used, level)]
            after = prices[key(operation, rfbm | 1 << more, used | 1 << more, rfbm & ~used, level)]
            initial = prices[key(operation, rfbm | 1 << more, used, (rfbm | 1 << more) & ~used, level)]
            assert before <= after
            assert before <= initial


@pytest.mark.parametrize("name", names())
def test_a_farther_buffer_never_makes_an_instruction_cheaper(name):
    prices = Prices(current(name))
    for operation in ("XSAVES", "XRSTORS", "XSAVE", "XRSTOR"):
        warm, l2, memory = (prices[key(operation, E7, E7, 0, level)] for level in ("", "L2", "memory"))
        assert warm <= l2 <= memory


@pytest.mark.parametrize("name", names())
def test_cet_s_requested_but_initial_costs_a_few_cycles_at_most(name):
    prices = Prices(current(name))
    without = prices[key("XSAVES", E7, 7, 0xE0)]
    initial = prices[key("XSAVES", E7 | CET_S, 7, 0xE0 | CET_S)]
    written = prices[key("XSAVES", E7 | CET_S, 7 | CET_S, 0xE0)]
    assert 0 <= initial - without <= 4
    assert initial < written


def test_a_key_without_masks_or_level_counts_as_one_with_their_defaults():
    prices = Prices(current("zen4"))
    assert prices[("vcpu", "switch", "RDPKRU")] == prices[("task", "exit", "RDPKRU", 0, 0, 0, "")]
    assert prices[key("XSAVES", E7, 7, 0xE0)[:6]] == prices[key("XSAVES", E7, 7, 0xE0, "L1")]


def test_an_msr_is_priced_by_its_name_then_its_kind_then_as_any_other():
    table = current("zen4")
    assert terms(key("WRMSR(XSS)"), table) == {"WRMSR(XSS)/base": 1}
    assert terms(key("WRMSR(PL1_SSP)"), table) == {"WRMSR(PLx_SSP)/base": 1}
    assert terms(key("WRMSR(LBR_SELECT)"), table) == {"WRMSR(*)/base": 1}
    assert terms(key("RDMSRLIST(3)"), table) == {"RDMSRLIST/base": 1, "RDMSRLIST/msr": 3}


def test_amx_tiles_dominate_a_save_that_writes_them():
    prices = Prices(current("sapphire-rapids"))
    tiles = prices[key("XSAVES", 0x600E7, 0x60007, 0xE0)] - prices[key("XSAVES", 0x600E7, 7, 0x600E0)]
    assert 128 / 1.3 <= tiles <= 520 / 1.3


@pytest.mark.parametrize("operation", ["XSAVEZ", "WRMSR", "WRMSR()", "vm exit", "VMPTRLD"])
def test_an_operation_without_a_price_is_named(operation):
    with pytest.raises(InputError, match=operation.replace("(", r"\(").replace(")", r"\)")):
        price(key(operation), current("zen4"))


def test_a_component_without_a_price_is_named():
    with pytest.raises(InputError, match="XRSTOR/loaded/XTILE_DATA"):
        price(key("XRSTOR", 1 << 18, 1 << 18), current("zen4"))
