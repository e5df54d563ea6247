"""What `calibrate --guest` measures becomes rows and a table."""

import re

import pytest
from guest_plan import EXIT, LOADED, PARTS, PLAN, RESTORE, SAVE, cost, found

from sim.calibrate import guest, machine, rounds, rows, writing
from sim.calibrate.samples import Interval
from sim.costs.check import check
from sim.costs.price import Prices
from sim.costs.rows import RATIO
from sim.costs.table import load
from sim.xsave.components import CET_S, CET_U, bits


def by_id(lines):
    assert len({line.id for line in lines}) == len(lines)
    return {line.id: line for line in lines}


def test_whole_instructions_and_their_terms_come_out_within_two_cycles_whatever_interrupts():
    here = found()
    lines, terms = by_id(here.lines), by_id(here.terms)
    assert lines["XSAVES/total"].number.value == pytest.approx(SAVE, abs=2)
    everything = machine.components(0xE7 | CET_U | CET_S)
    assert lines[f"XSAVES/total/{everything}"].number.value == pytest.approx(SAVE + sum(PARTS.values()), abs=2)
    assert lines[f"XSAVES/total/{everything}"].requested == everything
    assert lines[f"XSAVES, same area/reference/{everything}"].number.value == pytest.approx(SAVE, abs=2)
    assert terms["XSAVES/base"].number.value == pytest.approx(SAVE, abs=2)
    assert terms["XSAVES/written/CET_KERNEL"].number.value == pytest.approx(PARTS[12], abs=2)
    assert terms["XSAVES/unmodified/Hi16_ZMM"].number.value == pytest.approx(0, abs=2)
    assert terms["XRSTORS/loaded/CET_KERNEL"].number.value == pytest.approx(LOADED[12], abs=2)
    assert terms["XRSTORS/initialised/FP"].number.value == pytest.approx(-LOADED[0], abs=2)
    assert here.restore_of_nothing.value == pytest.approx(RESTORE, abs=2)
    assert here.exits_left_out == ""


def test_what_has_an_exit_each_time_is_named_an_exit_and_is_never_the_price_of_an_msr():
    lines = by_id(found().lines)
    priced = {line.operation for line in lines.values() if line.priced}
    assert priced == {f"{name}({msr})" for name in ("RDMSR", "WRMSR", "WRMSRNS")
                      for msr in ("FS_BASE", "U_CET", "PL0_SSP", "PL1_SSP", "PL2_SSP")}  # fmt: skip
    assert lines["WRMSR(PL0_SSP)/base"].number.value == pytest.approx(70, abs=1)
    assert lines["WRMSR(XSS), an exit to KVM/reference"].number.value == pytest.approx(EXIT + 100, abs=2)
    exits = [line.operation for line in lines.values() if line.operation.startswith("exit from a guest")]
    assert len(exits) == len(guest.EXITS)
    assert "interrupt controller" in lines["exit from a guest (HLT)/reference"].conditions


def test_an_exit_that_kvm_counts_is_one_however_little_it_costs():
    lines = by_id(found(lambda row: (90.0, 1) if row.msr == 0xC0000100 else cost(row)).lines)
    assert "RDMSR(FS_BASE)/base" not in lines
    assert lines["RDMSR(FS_BASE), an exit to KVM/reference"].number.value == pytest.approx(90, abs=2)


def test_an_msr_that_an_outer_hypervisor_intercepts_has_no_price_though_kvm_counts_no_exit():
    lines = by_id(found(lambda row: (1100.0, 0) if row.msr == 0xC0000100 else cost(row)).lines)
    assert "RDMSR(FS_BASE)/base" not in lines
    assert lines["RDMSR(FS_BASE), an exit to an outer hypervisor/reference"].number.value == pytest.approx(1100, abs=2)


def test_where_kvm_is_nested_no_exit_has_a_row_and_all_others_say_so():
    here = found(lambda row: cost(row, 9000.0))
    assert re.fullmatch(
        r"an exit takes 9\d{3} TSC cycles, so KVM is nested and it is not one of .*", here.exits_left_out
    )
    assert not any("exit" in line.operation for line in here.lines)
    assert all("; nested, or without VMX and SVM" in line.conditions for line in here.lines)
    assert "WRMSR(PL0_SSP)/base" in by_id(here.lines)


@pytest.mark.parametrize(("vector", "name"), [(6, "#UD"), (13, "#GP"), (14, "exception 14")])
def test_an_instruction_that_faults_is_one_reason(vector, name):
    def faults(one):
        one["fault"][[PLAN[i].operation == "XRSTORS" for i in one["row"]]] = vector + 1

    with pytest.raises(rounds.Unavailable, match=f"^XRSTORS of nothing met {name} in the guest$"):
        found(change=faults)


def test_without_a_calm_block_of_everything_there_is_one_reason():
    def loses(one):
        one["in_use"][[PLAN[i].in_use == max(row.in_use for row in PLAN) for i in one["row"]]] = 0

    with pytest.raises(
        rounds.Unavailable, match=r"^no block of XSAVES in the guest was without an exit and left in use"
    ):
        found(change=loses)


def test_a_row_of_the_same_area_says_whether_the_processor_skipped_what_was_not_modified():
    def writes(one):
        one["kept"] = 0

    key = "XSAVES, same area/reference/FP SSE YMM"
    assert "what was not modified was skipped" in by_id(found().lines)[key].conditions
    assert "what was not modified was written all the same" in by_id(found(change=writes).lines)[key].conditions


# The table.


def test_a_table_with_a_guest_passes_the_check_and_prices_cet_s_as_it_was_measured(tmp_path):
    here = found()
    text = "measured by `fpswitch calibrate`; CPU: x; kernel: y; method: z"
    ratio = rows.Line(*RATIO.rsplit("/", 1), Interval(1.4, 1.4, 1.4), "measured", "{own}", clock="tsc")
    user = [
        rows.Line(name, "total", Interval(200, 199, 201), "measured", "{own}", machine.components(0xE7), requested="")
        for name in ("XSAVEC", "XRSTOR")
    ]
    forms = rows.supervisor_forms(user, list(here.terms))
    header = writing.Header([], "t", "2026-11-28", "zen4", 0, "", {"own": text, "guest": text})
    path = tmp_path / "mine.toml"
    path.write_text(writing.table(header, [ratio, *user, *here.lines, *forms]))
    table = load(path, checked=False)
    assert check(table) == []
    prices = Prices(table)
    assert prices["vcpu", "switch", "WRMSR(PL0_SSP)"] == 70
    save, restore = (
        [prices["vcpu", "switch", name, 0x18E7, mask, 0x18E7 & ~mask] * 1.4 for mask in (0, 0x10E7)]
        for name in ("XSAVES", "XRSTORS")
    )
    assert save == pytest.approx([SAVE, SAVE + sum(PARTS[i] for i in bits[0x10E7])], abs=3)
    assert restore == pytest.approx([RESTORE, RESTORE + sum(LOADED.get(i, 3.0) for i in bits[0x10E7])], abs=3)


def test_terms_in_place_come_before_those_of_the_guest_and_cet_s_stays():
    line = rows.Line("XSAVES", "written", Interval(6, 5, 7), "derived", "in place", "FP", origin=("x",))
    merged = by_id(rows.first_of_each([line, *found().terms]))
    assert merged["XSAVES/written/FP"].conditions == "in place"
    assert "in a guest" in merged["XSAVES/written/CET_KERNEL"].conditions
