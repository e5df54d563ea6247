"""Awkward cases of the XSAVE instructions, worked out by hand; sections are those of the Intel SDM, vol. 1, chapter 13.

Each case says what it does, step by step, and what the text makes of it.  Masks are hexadecimal.
"""

from dataclasses import asdict

import pytest

from sim.xsave.area import Area, compacted_layout
from sim.xsave.components import COMPACTED, MXCSR_INIT
from sim.xsave.freedoms import Freedoms
from sim.xsave.profiles import profile
from sim.xsave.unit import Fault, Unit

XCR0, XSS = 0x602E7, 0x1800  # x87, SSE, AVX, AVX-512, PKRU, AMX; CET_U, CET_S
HEADER_HIGH = 1 << 64  # bytes 24-63 of the header
IA32_XFD_TILES = 0x40000


def unit(in_use=0, xcr0=XCR0, xss=XSS):
    cpu = Unit(xcr0, xss)
    cpu.touch(in_use, "live")
    return cpu


def area(xstate_bv=0, xcomp_bv=0, mxcsr=MXCSR_INIT, header_rest=0):
    memory = Area(0x1000, xcomp_bv and xcomp_bv | COMPACTED)
    memory.xstate_bv, memory.mxcsr, memory.header_rest = xstate_bv, mxcsr, header_rest
    memory.standard[:] = [f"old {i}" for i in range(len(memory.standard))]
    return memory


def restored(xstate_bv, xcomp_bv, rfbm):
    cpu, memory = unit(), area(xstate_bv, xcomp_bv)
    cpu.xrstors(memory, rfbm)
    return cpu, memory


def saved_after(steps, xstate_bv=0xE7, xcomp_bv=0x1AE7, rfbm=0x1AE7):
    """What XSAVES writes, and XSTATE_BV, after XRSTORS of an area and ``steps``."""
    cpu, memory = restored(xstate_bv, xcomp_bv, rfbm)
    for step in steps:
        step(cpu)
    return cpu.xsaves(memory, 0x1AE7), memory.xstate_bv


def fault(instruction, memory, rfbm, **cpu):
    with pytest.raises(Fault) as found:
        getattr(unit(**cpu), instruction)(memory, rfbm)
    return found.value.vector


# XRSTOR and XRSTORS: which headers are refused (13.8.1, 13.8.2, 13.12).


@pytest.mark.parametrize(
    ("instruction", "memory", "rfbm"),
    [
        # The standard form asks XSTATE_BV of all of XCR0, also for what RFBM leaves out.
        ("xrstor", area(0x800), 0x1),
        ("xrstor", area(0x1, header_rest=1), 0x1),  # byte 16
        ("xrstor", area(0x4, 0x3), 0x3),  # compacted form: XSTATE_BV not within XCOMP_BV
        ("xrstor", area(0x3, 0x803), 0x3),  # XRSTOR knows no supervisor component, whatever IA32_XSS has
        ("xrstor", area(0x3, 0x3, header_rest=HEADER_HIGH), 0x3),  # compacted form: bytes 16-63
        ("xrstors", area(0x3), 0x3),  # XCOMP_BV[63] = 0
        ("xrstors", area(0x3 | COMPACTED, 0x3), 0x3),  # XSTATE_BV[63] = 1
        ("xrstors", area(0x3, 0x8003), 0x3),  # component 15 off in IA32_XSS, and RFBM does not ask for it
        ("xrstors", area(0x200, 0x3), 0x3),
        ("xrstors", area(0x3, 0x3, header_rest=HEADER_HIGH), 0x3),
    ],
)
def test_a_header_is_refused_whatever_rfbm_asks_for(instruction, memory, rfbm):
    assert fault(instruction, memory, rfbm) == "#GP(0)"


@pytest.mark.parametrize("bit", [0, 7, 8, 62, 63, 64, 65, 127, 383])
def test_bytes_16_to_23_of_a_header_are_0_in_the_standard_form_and_all_to_63_in_the_compacted_one(bit):
    """Bits of a number that begins with byte 16 (13.8.1, 13.8.2)."""
    assert fault("xrstor", area(0x3, 0x3, header_rest=1 << bit), 0x3) == "#GP(0)"
    assert fault("xrstors", area(0x3, 0x3, header_rest=1 << bit), 0x3) == "#GP(0)"
    standard = area(0x3, header_rest=1 << bit)
    if bit < 64:
        assert fault("xrstor", standard, 0x3) == "#GP(0)"
    else:
        assert unit().xrstor(standard, 0x3) == 0x3


def test_the_standard_form_does_not_look_at_header_bytes_24_to_63():
    cpu, memory = unit(), area(0x1, header_rest=HEADER_HIGH)
    assert cpu.xrstor(memory, 0x1) == 0x1


def test_cet_s_in_xcomp_bv_is_refused_where_ia32_xss_lacks_it():
    assert fault("xrstors", area(0x1003, 0x1003), 0x3, xss=0x800) == "#GP(0)"


def test_rfbm_without_ia32_xss_leaves_cet_s_alone_and_with_it_initialises_what_xcomp_bv_lacks():
    for xss, kept in ((0x800, True), (0x1800, False)):
        cpu = unit(0x1000, xss=0x1800)
        cpu.xss = xss
        cpu.xrstors(area(0x3, 0x803), 0x1803)
        assert bool(cpu.regs[12]) is bool(cpu.xinuse & 0x1000) is kept


# MXCSR: of SSE alone, or of SSE and AVX, by form (13.8.1, 13.8.2, 13.7, 13.11).


@pytest.mark.parametrize(
    ("instruction", "xstate_bv", "xcomp_bv", "rfbm", "mxcsr"),
    [
        ("xrstor", 0x0, 0, 0x2, 0x3F80),  # standard form: from memory although XSTATE_BV[1] = 0
        ("xrstor", 0x4, 0, 0x4, 0x3F80),  # and for AVX alone
        ("xrstor", 0x7, 0, 0x1, 0x5F80),  # neither asked for: as it was
        ("xrstor", 0x0, 0x7, 0x2, MXCSR_INIT),  # compacted form: initialised with SSE
        ("xrstor", 0x4, 0x7, 0x4, 0x5F80),  # RFBM[2] does not touch it
        ("xrstors", 0x4, 0x7, 0x7, MXCSR_INIT),
        ("xrstors", 0x2, 0x7, 0x2, 0x3F80),
        ("xrstors", 0x6, 0x7, 0x4, 0x5F80),
    ],
)
def test_where_mxcsr_comes_from(instruction, xstate_bv, xcomp_bv, rfbm, mxcsr):
    cpu = unit()
    cpu.mxcsr = 0x5F80
    getattr(cpu, instruction)(area(xstate_bv, xcomp_bv, mxcsr=0x3F80), rfbm)
    assert cpu.mxcsr == mxcsr


def test_mxcsr_alone_makes_xsavec_write_sse_and_xgetbv_show_it_but_not_xsaveopt():
    cpu = unit()
    cpu.xrstor(area(0x0, mxcsr=0x3F80), 0x2)  # XMM initial, MXCSR not
    assert (cpu.xinuse & 0x2, cpu.xgetbv1()) == (0, 0x2)
    compacted, standard = area(0xFF), area(0x85)
    assert (cpu.xsavec(compacted, 0x7), compacted.xstate_bv, compacted.mxcsr) == (0x2, 0x2, 0x3F80)
    # XSAVEOPT stores MXCSR for RFBM[2], too, and XSTATE_BV[7] is not its own.
    assert (cpu.xsaveopt(standard, 0x4), standard.xstate_bv, standard.mxcsr) == (0, 0x81, 0x3F80)


# Init and modified optimisation after a restore (13.6, 13.9, 13.11).


@pytest.mark.parametrize(
    ("steps", "written", "xstate_bv"),
    [
        ([], 0x0, 0xE7),
        ([lambda cpu: cpu.touch(0x4, "new")], 0x4, 0xE7),
        ([lambda cpu: cpu.initialise(0x4)], 0x0, 0xE3),
        # Written, then initial again by the same instructions: what was a 1 in XSTATE_BV becomes a 0.
        ([lambda cpu: cpu.touch(0x40, "new"), lambda cpu: cpu.initialise(0x44)], 0x0, 0xA3),
        # MXCSR is not 1F80H: SSE is written although XMM is not modified.
        ([lambda cpu: cpu.ldmxcsr(0x3F80)], 0x2, 0xE7),
        ([lambda cpu: cpu.write_pkru(0x4)], 0x200, 0x2E7),
        ([lambda cpu: cpu.write_pkru(0x4), lambda cpu: cpu.write_pkru(0)], 0x0, 0xE7),
        # The value of PL0_SSP goes to 0: by value, component 12 is initial.
        ([lambda cpu: cpu.write(12, "ssp"), lambda cpu: cpu.write(12, 0)], 0x0, 0xE7),
        ([lambda cpu: cpu.write(12, "ssp")], 0x1000, 0x10E7),
        # RFBM = 0 from elsewhere: nothing is loaded, but it was the last restore.
        ([lambda cpu: cpu.xrstors(Area(0x9000, COMPACTED), 0)], 0xE7, 0xE7),
        ([lambda cpu: cpu.enter_mode(0, nonroot=True), lambda cpu: cpu.enter_mode(0, nonroot=False)], 0x0, 0xE7),
        # A guest's own XRSTORS in between, of an area at the same linear address.
        (
            [
                lambda cpu: cpu.enter_mode(0, nonroot=True),
                lambda cpu: cpu.xrstors(area(0xE7, 0x1AE7), 0x1AE7),
                lambda cpu: cpu.enter_mode(0, nonroot=False),
            ],
            0xE7,
            0xE7,
        ),
    ],
)
def test_what_xsaves_writes_after_a_restore_of_the_same_area(steps, written, xstate_bv):
    assert saved_after(steps) == (written, xstate_bv)


def test_what_a_partial_restore_left_out_counts_as_modified():
    cpu, memory = unit(0x200), area(0xE7, 0x1AE7)
    cpu.xrstors(memory, 0x18E7)  # Linux: all but PKRU
    assert cpu.xsaves(memory, 0x1AE7) == 0x200
    assert cpu.xsaves(memory, 0x18E7) == 0xE7  # another XCOMP_BV: no match


def test_xrstor_of_the_standard_form_lets_xsaveopt_skip_and_xsaves_not():
    cpu, memory = unit(), area(0x7)
    cpu.xrstor(memory, 0x7)
    assert cpu.xsaveopt(memory, 0x7) == 0
    assert cpu.xsaves(memory, 0x7) == 0x7
    compacted = area(0x7, 0x7)
    cpu.xrstor(compacted, 0x7)
    assert cpu.xsaves(compacted, 0x7) == 0  # XRSTOR's compacted form is as good a restore as XRSTORS
    assert cpu.xsaveopt(compacted, 0x7) == 0x7


def test_what_xcomp_bv_and_rfbm_lack_of_each_other():
    """A restore of fewer components than were in use: outside RFBM they stay, inside they are initialised."""
    cpu = unit(0xE7)
    assert cpu.xrstors(area(0x3, 0x7), 0x47) == 0x3
    assert (cpu.xinuse & XCR0, [bool(cpu.regs[i]) for i in (2, 5, 6, 7)]) == (0xA3, [False, True, False, True])


def test_a_save_of_nothing_leaves_an_area_that_initialises_everything():
    cpu, memory = unit(0x18E7), area(0xE7, 0xE7)
    assert cpu.xsaves(memory, 0) == 0
    assert (memory.xstate_bv, memory.xcomp_bv) == (0, COMPACTED)
    assert cpu.xrstors(memory, XCR0 | XSS) == 0
    assert cpu.xinuse == 0


# AMX and IA32_XFD (13.14).


def test_xfd_hides_tiles_from_saves_and_refuses_to_load_them_but_not_to_initialise_them():
    cpu = unit(0x60000)
    cpu.xfd = IA32_XFD_TILES
    memory = area(0, 0x600E7)
    assert (cpu.xsaves(memory, 0x600E7), memory.xstate_bv) == (0x20000, 0x20000)
    standard = area(0x60000)
    assert (cpu.xsave(standard, 0x60000), standard.xstate_bv, standard.standard[18]) == (0x60000, 0x20000, 0)
    cpu.xrstors(memory, 0x60000)  # XSTATE_BV[18] = 0
    assert (cpu.xinuse & 0x60000, cpu.xfd_err) == (0x20000, 0)
    memory.xstate_bv = 0x60000
    cpu.xrstors(memory, 0x20000)  # RFBM[18] = 0
    with pytest.raises(Fault, match="#NM"):
        cpu.xrstors(memory, 0x60000)
    assert cpu.xfd_err == IA32_XFD_TILES


def test_tilerelease_initialises_both_and_a_header_fault_comes_before_that_of_xfd():
    cpu = unit(0x60000)
    cpu.initialise(0x60000)
    assert cpu.xgetbv1() == 0
    cpu.xfd = IA32_XFD_TILES
    with pytest.raises(Fault, match="#GP"):
        cpu.xrstors(area(0x60000, 0x60000, header_rest=1), 0x60000)
    assert cpu.xfd_err == 0


def test_xgetbv_shows_user_components_that_xcr0_enables_alone():
    cpu = unit(0x18E7, xcr0=0x7)
    cpu.mxcsr = 0x3F80
    assert cpu.xgetbv1() == 0x7
    cpu.xcr0 = 0x1
    assert cpu.xgetbv1() == 0x1  # XCR0[1] = 0: MXCSR does not show


# The compacted format: where a component is (13.4.3).


@pytest.mark.parametrize(
    ("xcomp_bv", "offsets", "size"),
    [
        (0x3, {}, 576),
        (0x1000, {12: 576}, 600),  # the first is at 576 whatever its number
        (0x20200, {9: 576, 17: 640}, 704),  # ECX[1]: XTILECFG begins a line
        (0x61AE7, {2: 576, 9: 2432, 11: 2440, 12: 2456, 17: 2496, 18: 2560}, 10752),
        (0x61EE7, {9: 2432, 10: 2440, 11: 2448, 12: 2464, 17: 2496, 18: 2560}, 10752),
        (0x40000, {18: 576}, 8768),
    ],
)
def test_where_components_lie_on_sapphire_rapids(xcomp_bv, offsets, size):
    cpu = profile("sapphire-rapids")
    layout = cpu.compacted(xcomp_bv)
    assert layout.size == size
    assert {i: layout.offsets[i] for i in offsets} == offsets
    sizes = {2: 256, 5: 64, 6: 512, 7: 1024, 9: 8, 10: 8, 11: 16, 12: 24, 17: 64, 18: 8192}
    assert compacted_layout(xcomp_bv, sizes, 0x60000) == layout


@pytest.mark.parametrize("xstate_bv", [0, 0x1, 0x2, 0x3, 0x4, 0x7])
@pytest.mark.parametrize("rfbm", [0x1, 0x2, 0x3, 0x4, 0x5, 0x7])
def test_xrstor_of_the_standard_format_checks_mxcsr_with_sse_or_avx_in_rfbm_whatever_xstate_bv_says(xstate_bv, rfbm):
    """SDM, section 13.8.1: MXCSR is loaded if RFBM[1] or RFBM[2] is 1."""
    seen = []
    memory = area(xstate_bv)
    memory.check = lambda cpu, loaded: seen.append(loaded)
    unit().xrstor(memory, rfbm)
    assert seen[0] == rfbm & xstate_bv | (0x2 if rfbm & 0x6 else 0)


@pytest.mark.parametrize("mxcsr", [0x0, 0x1F00, 0x1F7F, 0x1F81, 0x9F80, 0xFFFF])
def test_mxcsr_is_initial_at_1f80h_and_at_no_other_value(mxcsr):
    """SDM, sections 13.10 and 13.11, and XGETBV with ECX = 1 (13.6)."""
    for value, sse in ((mxcsr, 0x2), (int("1f80", 16), 0)):  # an equal number, and not the same object
        for instruction in ("xsavec", "xsaves"):
            cpu, memory = unit(), area(0xFF, 0x7)
            cpu.ldmxcsr(value)
            assert cpu.xgetbv1() == sse
            assert (getattr(cpu, instruction)(memory, 0x7), memory.xstate_bv) == (sse, sse)


# What a save leaves as it was (13.7, 13.9-13.11): only components that it writes, and MXCSR by its own rule.


@pytest.mark.parametrize("rfbm", [0, 0x1, 0x4, 0x200, 0xE5, 0xE7, 0x2E7, 0x1AE7 & ~0x200, 0x1AE7])
@pytest.mark.parametrize("instruction", ["xsave", "xsaveopt", "xsavec", "xsaves"])
def test_a_save_leaves_in_memory_what_it_does_not_write(instruction, rfbm):
    standard = instruction in ("xsave", "xsaveopt")
    cpu, memory = unit(0x18E7), area()
    cpu.write_pkru(4)
    cpu.ldmxcsr(0x3F80)
    memory.pkru, memory.mxcsr = 8, 0x5F80
    written = getattr(cpu, instruction)(memory, rfbm)
    assert written == rfbm & (0x1AE7 if instruction == "xsaves" else 0x2E7)
    expected = [cpu.regs[i] if written >> i & 1 else f"old {i}" for i in range(len(memory.standard))]
    assert memory.standard == expected
    assert memory.pkru == (4 if rfbm & 0x200 else 8)
    assert memory.mxcsr == (0x3F80 if rfbm & (0x6 if standard else 0x2) else 0x5F80)


def test_a_processor_of_which_nothing_is_known_does_what_the_text_says():
    """SDM vol. 1, section 13.6, and the Operation of XSAVES: XINUSE of PKRU, PASID and CET follows their values."""
    settings = asdict(Freedoms())
    said = {"init_optimisation": True, "modified_optimisation": True, "loading_initial_values_sets_xinuse": True}
    assert settings == dict.fromkeys(settings, False) | said | {"xinuse_by_value": 0x1E00}
