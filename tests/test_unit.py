"""Rules of the processor model that recorded vectors do not cover; chapters and sections are those of the Intel SDM."""

import pytest
from xsave_unit import ENABLED, MXCSR, XCR0, area, restored, unit

from sim.xsave.area import INIT, Area
from sim.xsave.components import (
    ALL,
    AVX,
    CET_S,
    CET_U,
    COMPACTED,
    FP,
    HI16_ZMM,
    MXCSR_INIT,
    PKRU,
    SSE,
    USER,
    XTILE,
    XTILECFG,
    XTILEDATA,
    ZMM_HI256,
)
from sim.xsave.freedoms import Freedoms
from sim.xsave.unit import Fault, Unit

# XSAVES: the modified optimisation and XRSTOR_INFO (vol. 1, sections 13.6 and 13.11).


def test_xsaves_to_the_restored_area_writes_only_what_was_modified() -> None:
    cpu, memory = restored()
    cpu.touch(AVX, "new")
    assert cpu.xsaves(memory, ENABLED) == AVX
    assert memory.compacted[2] == "new"
    assert memory.compacted[0] == "old 0"


def test_a_component_skipped_as_unmodified_is_in_xstate_bv_and_one_skipped_as_initial_is_not() -> None:
    cpu, memory = restored()
    cpu.initialise(AVX)
    assert cpu.xsaves(memory, ENABLED) == 0
    assert memory.xstate_bv == ENABLED & ~AVX


def test_saving_again_skips_again_because_a_save_changes_no_tracking() -> None:
    cpu, memory = restored()
    cpu.touch(AVX, "new")
    before = (cpu.xinuse, cpu.xmodified, cpu.info_address, cpu.info_mode, cpu.info_xcomp_bv)
    assert [cpu.xsaves(memory, ENABLED), cpu.xsaves(memory, ENABLED)] == [AVX, AVX]
    assert (cpu.xinuse, cpu.xmodified, cpu.info_address, cpu.info_mode, cpu.info_xcomp_bv) == before


def test_another_address_writes_all_that_is_in_use() -> None:
    cpu, _ = restored()
    assert cpu.xsaves(area(2), ENABLED) == ENABLED


def test_another_set_of_components_writes_all_that_is_in_use() -> None:
    cpu, memory = restored()
    assert cpu.xsaves(memory, ENABLED & ~CET_S) == ENABLED & ~CET_S


def test_the_set_compared_is_the_enabled_part_of_the_mask() -> None:
    cpu, memory = restored()
    assert cpu.xsaves(memory, ALL) == 0


@pytest.mark.parametrize("instruction", [Unit.xsaves, Unit.xrstors])
def test_compacted_areas_of_a_narrower_xcr0_or_xss_are_another_set(instruction: object) -> None:
    cpu, memory = restored()
    cpu.xss = CET_U
    if instruction is Unit.xsaves:
        assert cpu.xsaves(memory, ENABLED) == ENABLED & ~CET_S
    else:
        with pytest.raises(Fault, match="XCOMP_BV"):
            cpu.xrstors(memory, ENABLED)


@pytest.mark.parametrize(("cpl", "nonroot"), [(0, True), (3, True)])
def test_another_mode_writes_all_that_is_in_use(cpl: int, nonroot: bool) -> None:
    cpu, memory = restored()
    cpu.enter_mode(cpl, nonroot)
    memory.xstate_bv = memory.xcomp_bv = 0
    cpu.info_xcomp_bv = 0  # as after a standard-format XRSTOR from the same address, so that only the mode differs
    assert cpu.xsaveopt(memory, USER) == XCR0


def test_another_privilege_level_writes_all_that_is_in_use() -> None:
    cpu, memory = unit(), Area(1 << 12)
    memory.xstate_bv, memory.pkru = XCR0, 4
    cpu.xrstor(memory, XCR0)
    assert cpu.xsaveopt(memory, XCR0) == 0
    cpu.enter_mode(3, False)
    assert cpu.xsaveopt(memory, XCR0) == XCR0


def test_a_restore_in_the_guest_ends_the_hosts_match_and_one_only_entered_does_not() -> None:
    cpu, memory = restored()
    cpu.enter_mode(0, True)
    cpu.enter_mode(0, False)
    assert cpu.xsaves(memory, ENABLED) == 0
    cpu.enter_mode(0, True)
    guest = area(1)  # even at the same linear address
    guest.xstate_bv, guest.pkru = ENABLED, 4
    cpu.xrstors(guest, ENABLED)
    assert cpu.xsaves(guest, ENABLED) == 0
    cpu.enter_mode(0, False)
    assert cpu.xsaves(memory, ENABLED) == ENABLED


def test_a_vm_transition_clears_xrstor_info_where_the_processor_does_that() -> None:
    cpu, memory = restored(freedoms=Freedoms(vm_transition_clears_xrstor_info=True))
    cpu.enter_mode(0, False)
    assert cpu.xsaves(memory, ENABLED) == 0
    cpu.enter_mode(0, True)
    cpu.enter_mode(0, False)
    assert cpu.xsaves(memory, ENABLED) == ENABLED


def test_a_compacted_restore_is_no_match_for_xsaveopt_and_a_standard_one_none_for_xsaves() -> None:
    cpu, memory = restored()
    assert cpu.xsaveopt(memory, XCR0) == XCR0
    memory.xcomp_bv, memory.xstate_bv = 0, XCR0
    cpu.xrstor(memory, XCR0)
    assert cpu.xsaves(memory, XCR0) == XCR0


def test_components_outside_the_restores_mask_count_as_modified() -> None:
    cpu, memory = restored()
    cpu.xrstors(memory, AVX)
    assert cpu.xsaves(memory, ENABLED) == ENABLED & ~AVX


def test_xsavec_and_xsave_have_no_modified_optimisation() -> None:
    cpu, memory = unit(), area(1, XCR0 | COMPACTED)
    memory.xstate_bv, memory.pkru = XCR0, 4
    cpu.xrstor(memory, XCR0)
    assert cpu.xsavec(memory, XCR0) == XCR0
    assert cpu.xsave(memory, XCR0) == XCR0


def test_with_mxcsr_not_initial_xsaves_writes_sse_though_it_is_unmodified() -> None:
    cpu, memory = restored()
    cpu.mxcsr = MXCSR
    assert cpu.xsaves(memory, ENABLED) == SSE
    assert memory.mxcsr == MXCSR
    assert cpu.xsaves(memory, ENABLED & ~SSE) == ENABLED & ~SSE


def test_with_mxcsr_not_initial_xsaves_and_xsavec_store_sse_though_it_is_not_in_use() -> None:
    for save in (Unit.xsaves, Unit.xsavec):
        cpu, memory = unit(), area()
        cpu.mxcsr = MXCSR
        assert save(cpu, memory, ENABLED) == SSE
        assert [memory.xstate_bv, memory.mxcsr] == [SSE, MXCSR]


def test_xsaveopt_always_stores_mxcsr_with_sse_or_avx_and_never_without() -> None:
    for mask, stored in ((SSE, MXCSR), (AVX, MXCSR), (FP, MXCSR_INIT)):
        cpu, memory = unit(), Area(0)
        cpu.mxcsr = MXCSR
        assert cpu.xsaveopt(memory, mask) == 0
        assert memory.mxcsr == stored


@pytest.mark.parametrize("stores", [False, True])
def test_xstate_bv_of_sse_while_only_mxcsr_is_not_initial_is_the_processors_choice(stores: bool) -> None:
    cpu, memory = unit(Freedoms(mxcsr_sets_xstate_bv=stores)), Area(0)
    cpu.mxcsr = MXCSR
    cpu.xsave(memory, XCR0)
    assert memory.xstate_bv == (SSE if stores else 0)
    assert cpu.xgetbv1() == SSE


# XFD (vol. 1, section 13.14).


def tiles_disabled() -> Unit:
    cpu = unit()
    cpu.touch(XTILE, "tile")
    cpu.xfd = XTILEDATA
    return cpu


@pytest.mark.parametrize("save", [Unit.xsaveopt, Unit.xsavec, Unit.xsaves])
def test_optimised_saves_act_as_if_a_disabled_component_were_not_in_use(save) -> None:
    cpu, memory = tiles_disabled(), area()
    assert save(cpu, memory, ENABLED) == XTILECFG
    assert memory.xstate_bv & XTILE == XTILECFG
    assert memory.compacted[18] == INIT


def test_xsave_writes_the_initial_values_of_a_disabled_component() -> None:
    cpu, memory = tiles_disabled(), Area(0)
    memory.standard[18] = "stale"
    cpu.xsave(memory, XCR0)
    assert memory.standard[18] == INIT
    assert memory.xstate_bv & XTILE == XTILECFG
    assert cpu.regs[18] == "tile"


@pytest.mark.parametrize("restore", [Unit.xrstor, Unit.xrstors])
def test_a_restore_that_loads_a_disabled_component_is_nm_and_sets_xfd_err(restore) -> None:
    cpu, memory = tiles_disabled(), area(1, XCR0 | COMPACTED)
    memory.xstate_bv = AVX | XTILEDATA
    memory.compacted[2] = "loaded"
    with pytest.raises(Fault) as fault:
        restore(cpu, memory, ENABLED)
    assert fault.value.vector == "#NM"
    assert cpu.xfd_err == XTILEDATA
    assert cpu.regs[2] == INIT


def test_a_restore_that_initialises_a_disabled_component_is_no_fault() -> None:
    cpu, memory = tiles_disabled(), area()
    cpu.xrstors(memory, ENABLED)
    assert cpu.regs[18] == INIT
    assert cpu.xfd_err == 0


def test_a_disabled_component_outside_the_mask_is_neither_loaded_nor_a_fault() -> None:
    cpu, memory = tiles_disabled(), area()
    memory.xstate_bv = XTILEDATA
    cpu.xrstors(memory, ENABLED & ~XTILEDATA)
    assert cpu.regs[18] == "tile"


# XINUSE and XMODIFIED: the processor's choices (vol. 1, section 13.6).


def test_without_the_init_optimisation_everything_enabled_is_written() -> None:
    cpu, memory = unit(Freedoms(init_optimisation=False)), area()
    assert cpu.xgetbv1() == XCR0
    assert cpu.xsaves(memory, ENABLED) == ENABLED
    assert memory.xstate_bv == ENABLED
    cpu.initialise(AVX)
    cpu.xrstors(area(2), ENABLED)
    assert cpu.xgetbv1() == XCR0


def test_without_the_modified_optimisation_everything_in_use_is_written() -> None:
    cpu, memory = restored(freedoms=Freedoms(modified_optimisation=False))
    assert cpu.xsaves(memory, ENABLED) == ENABLED


@pytest.mark.parametrize("component", [2, 12])
def test_xinuse_of_a_zero_that_was_written_depends_on_the_component(component: int) -> None:
    cpu = unit()
    cpu.write(component, "value")
    assert cpu.xinuse == 1 << component
    cpu.write(component, INIT)
    assert cpu.xinuse == (AVX if component == 2 else 0)


def test_xinuse_may_be_1_always() -> None:
    cpu = unit(Freedoms(xinuse_always=AVX | CET_S))
    cpu.write(12, INIT)
    cpu.initialise(AVX)
    cpu.xrstors(area(), ENABLED)
    assert cpu.xinuse == AVX | CET_S


@pytest.mark.parametrize("sets", [False, True])
def test_loading_initial_values_sets_xinuse_or_not(sets: bool) -> None:
    cpu, memory = unit(Freedoms(loading_initial_values_sets_xinuse=sets)), area()
    memory.xstate_bv = AVX | HI16_ZMM
    memory.compacted[7] = "loaded"
    cpu.xrstors(memory, ENABLED)
    assert cpu.xinuse == (AVX | HI16_ZMM if sets else HI16_ZMM)


@pytest.mark.parametrize(("written", "marked"), [(ZMM_HI256, SSE | AVX | ZMM_HI256), (AVX, AVX), (SSE, SSE)])
def test_a_write_of_zmm_hi256_marks_the_group_of_the_processor(written: int, marked: int) -> None:
    cpu, memory = restored(freedoms=Freedoms(zmm_write_group=SSE | AVX | ZMM_HI256))
    cpu.touch(written, "new")
    assert cpu.xsaves(memory, ENABLED) == marked
    assert cpu.regs[0] == "old 0"


def test_vzeroupper_initialises_avx_and_zmm_hi256_and_counts_as_a_modification() -> None:
    cpu, memory = restored()
    cpu.initialise(AVX | ZMM_HI256)
    assert cpu.xinuse == ENABLED & ~(AVX | ZMM_HI256)
    assert cpu.regs[1] == "old 1"
    cpu.touch(AVX, "again")
    assert cpu.xsaves(memory, ENABLED) == AVX
    assert memory.xstate_bv == ENABLED & ~ZMM_HI256


def test_vzeroupper_modifies_the_group_where_the_processor_has_it_so() -> None:
    for marks, written in ((True, SSE), (False, 0)):
        free = Freedoms(zmm_write_group=SSE | AVX | ZMM_HI256, vzeroupper_marks_group_modified=marks)
        cpu, memory = restored(freedoms=free)
        cpu.initialise(AVX | ZMM_HI256)
        assert cpu.xsaves(memory, ENABLED) == written


# What a Zen 4 does at CPL 0 (tests/data/vectors/ring0).

GROUP = SSE | AVX | ZMM_HI256


def test_mxcsr_apart_from_xmm_is_stored_with_xstate_bv_and_xmm_only_if_modified() -> None:
    cpu, memory = restored(freedoms=Freedoms(mxcsr_apart_from_xmm=True))
    cpu.ldmxcsr(MXCSR)
    assert cpu.xsaves(memory, ENABLED) == 0
    assert (memory.mxcsr, memory.xstate_bv & SSE) == (MXCSR, SSE)
    cpu.ldmxcsr(MXCSR_INIT)
    assert cpu.xsaves(memory, ENABLED) == 0
    assert memory.mxcsr == MXCSR_INIT


def test_mxcsr_apart_from_xmm_brings_initial_xmm_registers_along() -> None:
    cpu, memory = unit(Freedoms(mxcsr_apart_from_xmm=True)), area()
    memory.compacted[1] = "stale"
    cpu.xrstors(memory, ENABLED)
    cpu.ldmxcsr(MXCSR)
    assert cpu.xsaves(memory, ENABLED) == SSE
    assert (memory.compacted[1], memory.mxcsr) == (INIT, MXCSR)


@pytest.mark.parametrize("mask", [SSE, AVX, ZMM_HI256, GROUP])
def test_a_restore_of_any_of_the_group_sets_xinuse_of_all_by_value(mask: int) -> None:
    cpu = unit(Freedoms(zmm_write_group=GROUP, restore_group=GROUP))
    cpu.touch(ZMM_HI256, "value")
    assert cpu.xinuse == GROUP
    cpu.xrstors(area(), FP)
    assert cpu.xinuse == GROUP
    cpu.xrstors(area(), mask)
    assert cpu.xinuse == ZMM_HI256 & ~mask


@pytest.mark.parametrize("legacy", [False, True])
def test_the_stale_avx_area_is_zen4s_and_no_architecture(legacy: bool) -> None:
    """XINUSE[2] without XMODIFIED[2]: the save leaves the area alone, and the next restore loads what lies there."""
    cpu, memory = unit(Freedoms(legacy_sse_write_marks_avx_in_use=legacy)), area()
    memory.compacted[2], memory.compacted[6] = "another's", "mine"
    memory.xstate_bv = ZMM_HI256
    cpu.xrstors(memory, ENABLED)
    cpu.touch(SSE, "mine, too")
    cpu.xsaves(memory, ENABLED)
    assert memory.xstate_bv == (GROUP if legacy else SSE | ZMM_HI256)
    cpu.xrstors(memory, ENABLED)
    assert cpu.regs[2] == ("another's" if legacy else INIT)


@pytest.mark.parametrize(
    "write",
    [
        lambda cpu: cpu.write(1, "value"),
        lambda cpu: cpu.write(1, INIT),
        lambda cpu: cpu.touch(SSE, "value"),
        lambda cpu: cpu.initialise(SSE),
    ],
)
def test_only_legacy_sse_with_zmm_hi256_in_use_marks_avx(write) -> None:
    for zmm, marked in ((0, 0), (ZMM_HI256, AVX)):
        cpu = unit(Freedoms(legacy_sse_write_marks_avx_in_use=True))
        cpu.touch(zmm, "value")
        write(cpu)
        assert cpu.xinuse & AVX == marked
    for other in (
        lambda cpu: cpu.initialise(SSE | ZMM_HI256),
        lambda cpu: cpu.ldmxcsr(MXCSR),
        lambda cpu: cpu.touch(FP, "value"),
    ):
        cpu = unit(Freedoms(legacy_sse_write_marks_avx_in_use=True))
        cpu.touch(ZMM_HI256, "value")
        other(cpu)
        assert not cpu.xinuse & AVX


def test_an_exit_to_a_hypervisor_underneath_disturbs_only_where_the_host_does_that() -> None:
    cpu, memory = restored()
    cpu.exit_to_outer_hypervisor()
    assert cpu.xsaves(memory, ENABLED) == 0
    cpu, memory = restored(freedoms=Freedoms(outer_exit_disturbs=True))
    cpu.exit_to_outer_hypervisor()
    assert cpu.xsaves(memory, ENABLED) == ENABLED
    for held, found in ((0, SSE), (AVX, SSE | AVX), (ZMM_HI256, GROUP), (FP, FP | SSE)):
        cpu = unit(Freedoms(outer_exit_disturbs=True))
        cpu.touch(held, "value")
        cpu.exit_to_outer_hypervisor()
        assert cpu.xinuse == found


def test_tilerelease_initialises_both_tile_components() -> None:
    cpu, memory = restored()
    cpu.initialise(XTILE)
    assert [cpu.regs[17], cpu.regs[18]] == [INIT, INIT]
    cpu.xsaves(memory, ENABLED)
    assert memory.xstate_bv == ENABLED & ~XTILE


def test_pkru_is_in_use_while_it_is_not_zero_and_is_saved_and_restored_as_a_value() -> None:
    cpu, memory = unit(), area()
    cpu.write_pkru(0x55555554)
    assert cpu.xgetbv1() == PKRU
    cpu.xsaves(memory, ENABLED)
    cpu.write_pkru(0)
    assert cpu.xgetbv1() == 0
    cpu.xrstors(memory, ENABLED)
    assert cpu.pkru == 0x55555554
    cpu.xrstors(area(2), ENABLED)
    assert cpu.pkru == 0


def test_xgetbv1_shows_user_components_only_and_sse_while_mxcsr_is_not_initial() -> None:
    cpu = unit()
    cpu.touch(AVX | CET_U, "value")
    assert cpu.xgetbv1() == AVX
    cpu.mxcsr = MXCSR
    assert cpu.xgetbv1() == AVX | SSE
    assert Unit(FP).xgetbv1() == 0
