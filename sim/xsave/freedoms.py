"""What the architecture leaves to a processor, and where a processor departs from it: settings of a CPU profile."""

from dataclasses import dataclass

from sim.xsave.components import CET_S, CET_U, PASID, PKRU


@dataclass(frozen=True, slots=True)
class Freedoms:
    """What the architecture leaves to a processor (SDM vol. 1, section 13.6: XINUSE and XMODIFIED "may" be 1).

    Masks are of state components.  No vendor documents its choices; the defaults are the ones that the text of the
    SDM's Operation sections describes, with XINUSE of the small MSR-like components following their value.  The
    settings of Zen 4 were recorded on one, at CPL 3 and at CPL 0, those of Intel at CPL 3 on a server processor with
    AMX (tests/data/vectors).
    """

    init_optimisation: bool = True
    """False: XINUSE is always 1, so nothing is ever skipped because it is initial."""
    modified_optimisation: bool = True
    """False: XMODIFIED is always 1, so nothing is ever skipped because it is unmodified."""
    xinuse_by_value: int = PKRU | PASID | CET_U | CET_S
    """Components whose XINUSE a write of initial values clears; the others stay in use until they are initialised."""
    xinuse_always: int = 0
    """Components whose XINUSE is always 1."""
    xmodified_always: int = 0
    """Components whose XMODIFIED is always 1: the modified optimisation never skips them (Intel: TILECFG)."""
    loading_initial_values_sets_xinuse: bool = True
    """False: a restore that loads initial values from memory clears XINUSE, as if it had initialised them."""
    loading_initial_values_clears_xinuse: int = 0
    """Components that it clears although the others stay in use (Intel: TILECFG)."""
    zeroing_idioms_set_xinuse: int = 0
    """Components that XORPS, KXORQ or VPXORQ of their registers brings into use, as any write does (Intel: SSE, which
    only VZEROALL and restores initialise, opmask and Hi16_ZMM, which only restores do); the others are initialised by
    it (Zen 4: all)."""
    ldmxcsr_sets_xinuse: bool = False
    """LDMXCSR of any value is a write of SSE (Intel); else XGETBV(1) alone shows it, and only while it is not 1F80H."""
    mxcsr_sets_xstate_bv: bool = False
    """XSAVE and XSAVEOPT store XSTATE_BV[1] = 1 when of SSE only MXCSR is not initial (Bochs does, Zen 4 does not)."""
    mxcsr_apart_from_xmm: bool = False
    """XSAVES stores MXCSR whenever it stores XSTATE_BV[1] = 1, and skips unmodified XMM whatever MXCSR is (Zen 4).

    False: MXCSR is stored with XMM, and XMM whenever MXCSR is not 1F80H (SDM vol. 2, XSAVES, Operation).
    """
    zmm_write_group: int = 0
    """Components that a write of ZMM0-15 also marks in use and modified (Zen 4, Intel: SSE, AVX and ZMM_Hi256; a
    256-bit write does not: kernel traces of a Zen 4 show AVX in use without ZMM_Hi256)."""
    ymm_write_group: int = 0
    """Components that a 256-bit write also marks in use and modified (Zen 4, Intel: SSE and AVX)."""
    vex_write_initialises_above: bool = False
    """A write of all registers with a VEX prefix clears XINUSE of what lies above its width (Zen 4); else that stays in
    use where it was (Intel).  Only the verification of vectors writes so."""
    upper_registers_apart: bool = False
    """What is in use is tracked for registers 8-15 apart (Intel: :mod:`sim.verification.vectors.halves`).  Contents of
    the model are whole components, so that nothing but the verification of vectors can show it."""
    vzeroupper_marks_group_modified: bool = False
    """VZEROUPPER marks all of ``zmm_write_group`` modified (Zen 4), not only what it initialises."""
    restore_group: int = 0
    """A restore of any of these components sets XINUSE of all of them by value, also of those outside RFBM.

    Zen 4: SSE, AVX and ZMM_Hi256, which so lose a 1 that a write of zeros or of a neighbour left.
    """
    legacy_sse_write_marks_avx_in_use: bool = False
    """A legacy SSE write while ZMM_Hi256 is in use sets XINUSE[2], and XMODIFIED[2] stays 0 (Zen 4).

    So a save to the area of the last restore may store XSTATE_BV[2] = 1 and leave there what the registers do not hold:
    against the architecture.
    """
    vm_transition_clears_xrstor_info: bool = False
    """The SDM does not say that VM entry or VM exit changes XRSTOR_INFO."""
    outer_exit_disturbs: bool = False
    """An exit to a hypervisor underneath clears XRSTOR_INFO and brings SSE into use, and AVX with ZMM_Hi256.

    A property of the host and not of the processor: the one on which the Zen 4 was recorded does that.
    """


DEFAULT_FREEDOMS = Freedoms()
