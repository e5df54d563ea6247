"""What holds of the processor model under any masks and any of the processor's choices."""

from contextlib import suppress
from dataclasses import replace
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st
from xsave_unit import ENABLED, MXCSR, XCR0, XSS, area, restored, unit

from sim.xsave.area import INIT, Area
from sim.xsave.components import (
    ALL,
    AVX,
    CET_S,
    COMPACTED,
    MXCSR_INIT,
    PKRU,
    SSE,
    SUPERVISOR,
    XTILECFG,
    ZMM_HI256,
    bits,
)
from sim.xsave.freedoms import Freedoms
from sim.xsave.unit import Fault, Unit

masks = st.integers(0, ALL)
freedoms = st.builds(
    Freedoms,
    init_optimisation=st.booleans(),
    xinuse_by_value=masks,
    xinuse_always=masks,
    loading_initial_values_sets_xinuse=st.booleans(),
    mxcsr_sets_xstate_bv=st.booleans(),
    mxcsr_apart_from_xmm=st.booleans(),
    zmm_write_group=st.sampled_from([0, SSE | AVX | ZMM_HI256]),
    ymm_write_group=st.sampled_from([0, SSE | AVX]),
    restore_group=st.sampled_from([0, SSE | AVX | ZMM_HI256]),
    xmodified_always=st.sampled_from([0, XTILECFG]),
    zeroing_idioms_set_xinuse=st.sampled_from([0, SSE]),
    ldmxcsr_sets_xinuse=st.booleans(),
    vzeroupper_marks_group_modified=st.booleans(),
)


def content(cpu: Unit, i: int) -> object:
    """What component i holds, MXCSR and PKRU among it."""
    return {1: (cpu.regs[1], cpu.mxcsr), 9: cpu.pkru}.get(i, cpu.regs[i])


def held(memory: Area, i: int) -> object:
    return {1: (memory.compacted[1], memory.mxcsr), 9: memory.pkru}.get(i, memory.compacted[i])


def load_mxcsr(cpu: Unit, value: int) -> None:
    cpu.mxcsr = value
    cpu.xmodified |= SSE


@given(
    freedoms, masks, masks, st.sampled_from([(Unit.xsaves, Unit.xrstors), (Unit.xsavec, Unit.xrstor)]), st.booleans()
)
def test_a_compacted_save_then_restore_returns_every_component(choice, written, mask, forms, mxcsr) -> None:
    save, restore = forms
    cpu, memory = unit(choice), area()
    cpu.touch(written & ENABLED & ~PKRU, "mine")
    cpu.write_pkru(4 if written & PKRU else 0)
    load_mxcsr(cpu, MXCSR if mxcsr else MXCSR_INIT)
    rfbm = mask & (ENABLED if save is Unit.xsaves else XCR0)
    before = {i: content(cpu, i) for i in bits[rfbm]}
    save(cpu, memory, mask)
    cpu.touch(ENABLED & ~PKRU, "other")
    cpu.write_pkru(8)
    load_mxcsr(cpu, 0x1FA0)
    restore(cpu, memory, mask)
    assert {i: content(cpu, i) for i in bits[rfbm]} == before
    assert all(cpu.regs[i] == "other" for i in bits[ENABLED & ~rfbm & ~PKRU])


@given(freedoms, masks, masks, st.sampled_from([Unit.xsave, Unit.xsaveopt]), st.booleans())
def test_a_standard_save_then_restore_returns_every_component(choice, written, mask, save, mxcsr) -> None:
    cpu, memory = unit(choice), Area(0x1000)
    cpu.touch(written & XCR0 & ~PKRU, "mine")
    cpu.write_pkru(4 if written & PKRU else 0)
    load_mxcsr(cpu, MXCSR if mxcsr else MXCSR_INIT)
    rfbm = mask & XCR0
    before = {i: content(cpu, i) for i in bits[rfbm]}
    save(cpu, memory, mask)
    cpu.touch(XCR0 & ~PKRU, "other")
    cpu.write_pkru(8)
    load_mxcsr(cpu, 0x1FA0)
    cpu.xrstor(memory, mask)
    assert {i: content(cpu, i) for i in bits[rfbm]} == before


EVENTS = (
    "touch",
    "write",
    "initialise",
    "pkru",
    "mxcsr",
    "mode",
    "saveopt",
    "rstor",
    "clear",
    *["save", "restore"] * 4,
)
events = st.lists(
    st.tuples(
        st.sampled_from(EVENTS),
        st.sampled_from([ENABLED, ENABLED, XCR0, AVX, CET_S]) | masks,
        st.sampled_from([0, 0, 0, 1]),
    ),
    min_size=4,
    max_size=25,
)


def play(cpu: Unit, memory: list[Area], event: tuple[str, int, int], token: str) -> None:
    """One event; areas 0 and 1 are for the compacted format, 2 and 3 for the standard one."""
    what, mask, number = event
    compacted, standard = memory[number], memory[number + 2]
    components = mask & ENABLED & ~PKRU
    with suppress(Fault):  # at other privilege levels and in areas of other components
        match what:
            case "touch":
                cpu.touch(components, token)
            case "write":
                for i in bits[components]:
                    cpu.write(i, token if number else INIT)
            case "initialise":
                cpu.initialise(components)
            case "pkru":
                cpu.write_pkru(mask & 12)
            case "mxcsr":
                load_mxcsr(cpu, MXCSR if number else MXCSR_INIT)
            case "mode":
                cpu.enter_mode(3 * number, bool(mask & 1))
            case "save":
                cpu.xsaves(compacted, mask)
            case "restore":
                cpu.xrstors(compacted, mask)
            case "saveopt":
                cpu.xsaveopt(standard, mask)
            case "rstor":
                cpu.xrstor(standard, mask)
            case "clear":  # software clears bits of XSTATE_BV, as Linux does to initialise components
                compacted.xstate_bv &= ~mask
                standard.xstate_bv &= ~mask


def test_what_a_restore_initialised_but_counts_as_in_use_is_written_though_not_modified() -> None:
    """XSTATE_BV[i] becomes 1 with the save, so memory must hold the initial value and not what it held before."""
    cpu, memory = unit(Freedoms(init_optimisation=False)), area()
    memory.compacted[2] = "stale"
    cpu.xrstors(memory, ENABLED)
    cpu.xsaves(memory, ENABLED)
    assert memory.xstate_bv & AVX
    assert memory.compacted[2] == INIT


def test_an_initialisation_of_what_is_always_in_use_is_a_modification() -> None:
    cpu, memory = restored(freedoms=Freedoms(init_optimisation=False))
    cpu.initialise(AVX)
    assert cpu.xsaves(memory, ENABLED) == AVX
    assert memory.compacted[2] == INIT


@settings(max_examples=300)
@given(freedoms, events)
def test_skipping_what_is_unmodified_never_loses_content(choice, sequence) -> None:
    """After any events, areas and registers are those of a processor without the modified optimisation."""
    lazy, eager = unit(choice), unit(replace(choice, modified_optimisation=False))
    lazy_memory = [area(1), area(2), Area(0x3000), Area(0x4000)]
    eager_memory = [area(1), area(2), Area(0x3000), Area(0x4000)]
    for number, event in zip(count(), sequence, strict=False):
        play(lazy, lazy_memory, event, f"token {number}")
        play(eager, eager_memory, event, f"token {number}")
        assert [content(lazy, i) for i in bits[ALL]] == [content(eager, i) for i in bits[ALL]]
        assert lazy.xinuse == eager.xinuse
        for mine, theirs in zip(lazy_memory, eager_memory, strict=True):
            assert mine.xstate_bv == theirs.xstate_bv
            assert [held(mine, i) for i in bits[mine.xstate_bv]] == [held(theirs, i) for i in bits[mine.xstate_bv]]


@given(freedoms, events)
def test_a_component_that_is_not_in_use_is_initial(choice, sequence) -> None:
    cpu, memory = unit(choice), [area(1), area(2), Area(0x3000), Area(0x4000)]
    for number, event in enumerate(sequence):
        play(cpu, memory, event, f"token {number}")
        assert all(cpu.regs[i] == INIT for i in bits[ALL & ~cpu.xinuse])
        assert cpu.xinuse & PKRU or cpu.pkru == 0


@given(events)
def test_a_user_instruction_never_changes_a_supervisor_component(sequence) -> None:
    cpu, memory = unit(), [area(1, XCR0 | COMPACTED), Area(0x2000)]
    cpu.touch(XSS, "supervisor")
    cpu.enter_mode(3, False)
    for what, mask, number in sequence:
        instruction = {"save": Unit.xsavec, "restore": Unit.xrstor, "saveopt": Unit.xsaveopt}.get(what, Unit.xsave)
        with suppress(Fault):
            instruction(cpu, memory[number], mask)
        assert [cpu.regs[i] for i in bits[SUPERVISOR & XSS]] == ["supervisor"] * 2


def test_xsaves_writes_sse_if_mxcsr_became_initial_since_the_restore():
    cpu = Unit(xcr0=7)
    area = Area(0x1000)
    cpu.touch(2, "xmm")
    cpu.ldmxcsr(0x1FA0)
    cpu.xsaves(area, 7)
    cpu.xrstors(area, 7)
    cpu.ldmxcsr(0x1F80)
    assert cpu.xsaves(area, 7) == 2
    assert area.mxcsr == 0x1F80


def test_an_area_says_its_format_and_its_header_in_a_traceback():
    memory = area(2, COMPACTED | CET_S)
    memory.xstate_bv = CET_S
    assert repr(memory) == "<compacted area 0x2000 xstate_bv=0x1000 xcomp_bv=0x8000000000001000>"
    assert repr(area(1, 0)) == "<standard area 0x1000 xstate_bv=0x0 xcomp_bv=0x0>"
