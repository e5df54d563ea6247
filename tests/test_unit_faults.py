"""Which restore or save faults, and what it leaves then; chapters and sections are those of the Intel SDM."""

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
    MXCSR_INIT,
    SSE,
)
from sim.xsave.unit import Fault, Unit

# Restores (vol. 1, sections 13.8 and 13.12).


def test_components_of_the_mask_that_xcomp_bv_lacks_are_initialised_without_a_fault() -> None:
    cpu, memory = restored()
    normal = area(2, (ENABLED & ~CET_S) | COMPACTED)
    normal.xstate_bv = AVX
    assert cpu.xrstors(normal, ENABLED) == AVX
    assert cpu.regs[12] == INIT
    assert cpu.xinuse == AVX
    assert cpu.info_xcomp_bv == normal.xcomp_bv
    assert memory.address != cpu.info_address


def test_components_outside_the_mask_keep_content_and_xinuse() -> None:
    cpu, _ = restored()
    cpu.xrstors(area(2), AVX)
    assert cpu.regs[0] == "old 0"
    assert cpu.regs[2] == INIT
    assert cpu.xinuse == ENABLED & ~AVX


def test_mxcsr_goes_with_component_1_in_the_compacted_format_and_with_1_or_2_in_the_standard_one() -> None:
    for mask, xstate_bv, mxcsr in ((SSE, SSE, MXCSR), (SSE, 0, MXCSR_INIT), (AVX, AVX, 0x1FA0)):
        cpu, memory = unit(), area()
        cpu.mxcsr, memory.mxcsr, memory.xstate_bv = 0x1FA0, MXCSR, xstate_bv
        cpu.xrstors(memory, mask)
        assert cpu.mxcsr == mxcsr
    for mask, mxcsr in ((SSE, MXCSR), (AVX, MXCSR), (FP, 0x1FA0)):
        cpu, memory = unit(), Area(0)
        cpu.mxcsr, memory.mxcsr = 0x1FA0, MXCSR
        cpu.xrstor(memory, mask)
        assert cpu.mxcsr == mxcsr


def test_a_check_that_refuses_leaves_every_register_and_xrstor_info() -> None:
    cpu, memory = restored()

    def refuse(_: Unit, loaded: int) -> None:
        if loaded & CET_U:
            raise Fault("#GP(0)", "refused")

    other = area(2)
    other.xstate_bv, other.check = ENABLED, refuse
    before = (list(cpu.regs), cpu.xinuse, cpu.xmodified, cpu.info_address)
    with pytest.raises(Fault, match="refused"):
        cpu.xrstors(other, ENABLED)
    assert (list(cpu.regs), cpu.xinuse, cpu.xmodified, cpu.info_address) == before
    cpu.xrstors(other, ENABLED & ~CET_U)
    assert memory.address != cpu.info_address


# Faults (vol. 2, the exceptions of each instruction; vol. 3, section 26.1.3 and 26.5.6 for VMX).

INSTRUCTIONS = [Unit.xsave, Unit.xsaveopt, Unit.xsavec, Unit.xsaves, Unit.xrstor, Unit.xrstors]
SUPERVISOR_FORMS = [Unit.xsaves, Unit.xrstors]


def fault_of(instruction, cpu: Unit, memory: Area | None = None, mask: int = XCR0) -> str | None:
    if memory is None:
        memory = area(1, XCR0 | COMPACTED)
    try:
        instruction(cpu, memory, mask)
    except Fault as fault:
        return fault.vector
    return None


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_no_instruction_faults_without_a_cause(instruction) -> None:
    assert fault_of(instruction, unit()) is None


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_without_osxsave_every_instruction_is_ud_even_with_ts(instruction) -> None:
    cpu = unit()
    cpu.cr4_osxsave = False
    cpu.cr0_ts = True
    assert fault_of(instruction, cpu) == "#UD"


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_with_ts_every_instruction_is_nm(instruction) -> None:
    cpu = unit()
    cpu.cr0_ts = True
    assert fault_of(instruction, cpu) == "#NM"


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize("offset", [1, 8, 32, 63])
def test_an_area_that_is_not_64_byte_aligned_is_gp(instruction, offset: int) -> None:
    assert fault_of(instruction, unit(), Area(0x1000 + offset, XCR0 | COMPACTED)) == "#GP(0)"


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize("cpl", [1, 2, 3])
def test_only_the_supervisor_forms_need_cpl_0(instruction, cpl: int) -> None:
    cpu = unit()
    cpu.enter_mode(cpl, False)
    assert fault_of(instruction, cpu) == ("#GP(0)" if instruction in SUPERVISOR_FORMS else None)


@pytest.mark.parametrize("nonroot", [False, True])
def test_a_fault_of_the_privilege_level_names_it_in_a_guest_as_in_the_host(nonroot: bool) -> None:
    cpu = unit()
    cpu.enter_mode(3, nonroot)
    with pytest.raises(Fault, match=r"^#GP\(0\): XSAVES at CPL 3$"):
        cpu.xsaves(area(1, XCR0 | COMPACTED), XCR0)


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_without_the_execution_control_the_supervisor_forms_are_ud_in_the_guest_only(instruction) -> None:
    cpu = unit()
    cpu.xsaves_in_guest = False
    assert fault_of(instruction, cpu) is None
    cpu.enter_mode(0, True)
    assert fault_of(instruction, cpu) == ("#UD" if instruction in SUPERVISOR_FORMS else None)


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_a_component_of_the_xss_exiting_bitmap_exits_in_the_guest_only(instruction) -> None:
    cpu = unit()
    cpu.xss_exiting = CET_S
    memory = area(1, XCR0 | COMPACTED)
    assert fault_of(instruction, cpu, memory, XCR0 | CET_S) is None
    cpu.enter_mode(0, True)
    expected = "VM exit" if instruction in SUPERVISOR_FORMS else None
    assert fault_of(instruction, cpu, area(1, XCR0 | COMPACTED), XCR0 | CET_S) == expected
    assert fault_of(instruction, cpu, area(1, XCR0 | COMPACTED), XCR0 | CET_U) is None
    cpu.xss = CET_U
    assert fault_of(instruction, cpu, area(1, XCR0 | COMPACTED), XCR0 | CET_S) is None


def header(xstate_bv: int = 0, xcomp_bv: int = 0, rest: int = 0) -> Area:
    memory = Area(0x1000, xcomp_bv)
    memory.xstate_bv, memory.header_rest = xstate_bv, rest
    return memory


HEADERS = [
    # instruction, XSTATE_BV, XCOMP_BV, header bytes 16-63, fault
    (Unit.xrstor, XCR0, 0, 0, None),
    (Unit.xrstor, CET_U, 0, 0, "#GP(0)"),
    (Unit.xrstor, COMPACTED, 0, 0, "#GP(0)"),
    (Unit.xrstor, 0, FP, 0, "#GP(0)"),
    (Unit.xrstor, 0, 0, 1 << 63, "#GP(0)"),
    (Unit.xrstor, 0, 0, 1 << 64, None),
    (Unit.xrstor, AVX, AVX | COMPACTED, 0, None),
    (Unit.xrstor, AVX, SSE | COMPACTED, 0, "#GP(0)"),
    (Unit.xrstor, 0, CET_U | COMPACTED, 0, "#GP(0)"),
    (Unit.xrstor, 0, COMPACTED, 1 << 64, "#GP(0)"),
    (Unit.xrstors, ENABLED, ENABLED | COMPACTED, 0, None),
    (Unit.xrstors, 0, 0, 0, "#GP(0)"),
    (Unit.xrstors, 0, ENABLED, 0, "#GP(0)"),
    (Unit.xrstors, AVX, SSE | COMPACTED, 0, "#GP(0)"),
    (Unit.xrstors, 0, 1 << 8 | COMPACTED, 0, "#GP(0)"),
    (Unit.xrstors, 0, 1 << 62 | COMPACTED, 0, "#GP(0)"),
    (Unit.xrstors, 0, COMPACTED, 1 << 383, "#GP(0)"),
]


@pytest.mark.parametrize(("instruction", "xstate_bv", "xcomp_bv", "rest", "fault"), HEADERS)
def test_a_bad_header_is_gp_and_a_near_miss_is_not(
    instruction, xstate_bv: int, xcomp_bv: int, rest: int, fault: str | None
) -> None:
    for mask in (ALL, 0):  # whether the mask asks for the component does not matter
        assert fault_of(instruction, unit(), header(xstate_bv, xcomp_bv, rest), mask) == fault
