"""One logical processor's XSAVE feature set: what it tracks, and its save and restore instructions.

Intel SDM vol. 1, chapter 13 "Managing State Using the XSAVE Feature Set", and the Operation sections of XSAVE,
XSAVEOPT, XSAVEC, XSAVES, XRSTOR and XRSTORS in vol. 2.  AMD documents the same behaviour (APM vol. 4, XRSTOR); where
the texts leave a choice to the hardware, the choice is a field of :class:`~sim.xsave.freedoms.Freedoms`.
"""

from typing import Any

from sim.xsave.area import ALIGNMENT, CONTENTS, INIT, Area
from sim.xsave.components import ALL, AVX, COMPACTED, MXCSR_INIT, PKRU, SSE, ZMM_HI256, bits
from sim.xsave.freedoms import DEFAULT_FREEDOMS, Freedoms


class Fault(Exception):
    """An instruction that did not complete: ``vector`` as "#GP(0)", "#UD", "#NM", "#AC" or "VM exit", and why."""

    def __init__(self, vector: str, why: str) -> None:
        super().__init__(f"{vector}: {why}")
        self.vector = vector


CPL = 3
NONROOT = 4
UNALIGNED = ALIGNMENT - 1
_VECTORS = SSE | AVX | ZMM_HI256
QUADWORD = (1 << 64) - 1


class Unit:
    """The XSAVE state of one logical processor.

    ``regs[i]`` is the content of component i: :data:`~sim.xsave.area.INIT` or any value that stands for what was
    written.  MXCSR and PKRU are kept as the 32-bit values that they are.  ``mode`` is CPL | non-root << 2.  XRSTOR_INFO
    (SDM vol. 1, section 13.6) is held as ``info_mode`` (w and x), ``info_address`` (y) and ``info_xcomp_bv`` (z).

    A save returns the mask of components that it wrote, a restore the mask of those that it loaded; RFBM, XSTATE_BV and
    XCOMP_BV are then in the area or follow from the arguments.
    """

    __slots__ = (
        "_by_value",
        "_loaded_by_value",
        "_mxcsr_apart",
        "_restore_group",
        "_sse_marks",
        "_xinuse_floor",
        "_xmodified_floor",
        "_ymm_write_group",
        "_zmm_write_group",
        "cr0_ts",
        "cr4_osxsave",
        "freedoms",
        "info_address",
        "info_mode",
        "info_xcomp_bv",
        "mode",
        "mxcsr",
        "mxcsr_written",
        "pkru",
        "regs",
        "xcr0",
        "xfd",
        "xfd_err",
        "xinuse",
        "xmodified",
        "xsaves_in_guest",
        "xss",
        "xss_exiting",
    )

    def __init__(self, xcr0: int, xss: int = 0, freedoms: Freedoms = DEFAULT_FREEDOMS) -> None:
        self.freedoms = freedoms
        self._by_value = freedoms.xinuse_by_value
        self._loaded_by_value = (
            freedoms.loading_initial_values_clears_xinuse if freedoms.loading_initial_values_sets_xinuse else ALL
        )
        self._mxcsr_apart = freedoms.mxcsr_apart_from_xmm
        self._restore_group = freedoms.restore_group
        self._sse_marks = AVX if freedoms.legacy_sse_write_marks_avx_in_use else 0
        self._zmm_write_group = freedoms.zmm_write_group
        self._ymm_write_group = freedoms.ymm_write_group
        self._xinuse_floor = freedoms.xinuse_always if freedoms.init_optimisation else ALL
        self._xmodified_floor = freedoms.xmodified_always if freedoms.modified_optimisation else ALL
        self.xcr0 = xcr0
        self.xss = xss
        self.xfd = 0
        self.xfd_err = 0
        self.mode = 0
        self.cr0_ts = False
        self.cr4_osxsave = True
        self.xsaves_in_guest = True
        self.xss_exiting = 0
        self.regs: list[Any] = [INIT] * CONTENTS
        self.mxcsr = MXCSR_INIT
        self.mxcsr_written = False
        self.pkru = 0
        self.xinuse = self._xinuse_floor
        self.xmodified = ALL
        self._forget_restore()

    def _forget_restore(self) -> None:
        """XRSTOR_INFO is of no restore: nothing matches."""
        self.info_mode = self.info_address = self.info_xcomp_bv = -1

    def xgetbv1(self) -> int:
        """XGETBV with ECX = 1: XCR0 & XINUSE, and bit 1 also while MXCSR is not 1F80H (SDM vol. 1, section 13.6)."""
        in_use = self.xcr0 & self.xinuse
        return in_use | SSE & self.xcr0 if self.mxcsr != MXCSR_INIT else in_use

    # Writes of registers by software that runs on this processor.

    def touch(self, components: int, content: object) -> None:
        """Non-initial values are written to all of ``components``: XINUSE and XMODIFIED become 1."""
        regs = self.regs
        for i in bits[components]:
            regs[i] = content
        self.mark_written(components)

    def mark_written(self, components: int) -> None:
        """XINUSE and XMODIFIED of ``components`` become 1, whose contents the caller has set.

        SSE without AVX is a legacy SSE write: one with a VEX prefix clears the upper halves.
        """
        marked = components
        if components & ZMM_HI256:
            marked |= self._zmm_write_group
        elif components & AVX:
            marked |= self._ymm_write_group
        if self.xinuse & ZMM_HI256 and marked & _VECTORS == SSE:
            self.xinuse |= self._sse_marks
        self.xinuse |= marked
        self.xmodified |= marked

    def write(self, i: int, content: object) -> None:
        """Component ``i`` gets ``content``, which may be initial; XINUSE then follows the processor's freedoms.

        SSE is written by legacy SSE instructions.
        """
        component = 1 << i
        self.regs[i] = content
        self.xmodified |= component
        if component == SSE and self.xinuse & ZMM_HI256:
            self.xinuse |= self._sse_marks
        if content != INIT or not self._by_value & component:
            self.xinuse |= component
        else:
            self.xinuse &= ~component | self._xinuse_floor

    def write_with_vex(self, components: int) -> None:
        """SSE, or AVX with or without it, is written with a VEX prefix; the caller has set the contents.

        What lies above the width of the instruction is zeroed: AVX and ZMM_Hi256 are modified where they are in use.
        """
        marked = components | (self.freedoms.ymm_write_group if components & AVX else 0)
        self.xinuse |= marked
        self.xmodified |= marked | AVX | ZMM_HI256

    def ldmxcsr(self, value: int) -> None:
        """LDMXCSR; XINUSE[1] and XMODIFIED[1] are about the XMM registers: what becomes of them is a freedom."""
        self.mxcsr = value
        self.mxcsr_written = True
        if self.freedoms.ldmxcsr_sets_xinuse:
            self.mark_written(SSE)

    def write_pkru(self, value: int) -> None:
        """WRPKRU; XINUSE[9] is whether the value is not 0."""
        self.pkru = value
        self.xmodified |= PKRU
        if value:
            self.xinuse |= PKRU
        else:
            self.xinuse &= ~PKRU | self._xinuse_floor

    def initialise(self, components: int) -> None:
        """VZEROUPPER, TILERELEASE and other instructions that put whole components into their initial configuration.

        SSE alone is XORPS of each register, a legacy SSE instruction.
        """
        regs = self.regs
        for i in bits[components]:
            regs[i] = INIT
        if components == SSE and self.xinuse & ZMM_HI256:
            self.xinuse |= self._sse_marks
        self.xmodified |= components
        if components & ZMM_HI256 and self.freedoms.vzeroupper_marks_group_modified:
            self.xmodified |= self.freedoms.zmm_write_group
        self.xinuse &= ~components | self._xinuse_floor

    def zero(self, components: int) -> None:
        """XORPS, KXORQ or VPXORQ of every register of ``components`` with itself."""
        written = components & self.freedoms.zeroing_idioms_set_xinuse
        for i in bits[written]:
            self.write(i, INIT)
        self.initialise(components & ~written)

    def enter_mode(self, cpl: int, nonroot: bool) -> None:
        """The privilege level and VMX/SVM mode in which the next instructions run."""
        if nonroot != bool(self.mode & NONROOT) and self.freedoms.vm_transition_clears_xrstor_info:
            self._forget_restore()
        self.mode = cpl | NONROOT * nonroot

    def exit_to_outer_hypervisor(self) -> None:
        """The processor is that of a guest, and exits from it to the hypervisor underneath and comes back."""
        if self.freedoms.outer_exit_disturbs:
            self._forget_restore()
            self.xinuse |= SSE | AVX if self.xinuse & ZMM_HI256 else SSE

    # Save instructions.

    def xsave(self, area: Area, mask: int) -> int:
        """XSAVE: standard format, no optimisation (SDM vol. 1, section 13.7)."""
        self._check(area, "XSAVE", mask)
        rfbm = self.xcr0 & mask
        self._store(area.standard, area, rfbm, mxcsr=rfbm & (SSE | AVX))
        for i in bits[rfbm & self.xfd]:
            area.standard[i] = INIT
        self._merge_xstate_bv(area, rfbm)
        return rfbm

    def xsaveopt(self, area: Area, mask: int) -> int:
        """XSAVEOPT: standard format, init and modified optimisation; neither applies to MXCSR (section 13.9)."""
        self._check(area, "XSAVEOPT", mask)
        rfbm = self.xcr0 & mask
        written = rfbm & self.xinuse & ~self.xfd
        if self._restored_from(area, 0):
            written &= self.xmodified
        self._store(area.standard, area, written, mxcsr=rfbm & (SSE | AVX))
        self._merge_xstate_bv(area, rfbm)
        return written

    def xsavec(self, area: Area, mask: int) -> int:
        """XSAVEC: compacted format, init optimisation only (section 13.10)."""
        self._check(area, "XSAVEC", mask)
        rfbm = self.xcr0 & mask
        written = rfbm & self.xinuse & ~self.xfd
        if self.mxcsr != MXCSR_INIT:
            written |= rfbm & SSE
        area.xcomp_bv = rfbm | COMPACTED
        area.xstate_bv = written
        self._store(area.compacted, area, written, mxcsr=written & SSE)
        return written

    def xsaves(self, area: Area, mask: int) -> int:
        """XSAVES: compacted format, supervisor components too, init and modified optimisation (section 13.11)."""
        if self.mode or area.address & UNALIGNED or self.cr0_ts or not self.cr4_osxsave:
            self._check(area, "XSAVES", mask)
        rfbm = (self.xcr0 | self.xss) & mask
        in_use = rfbm & self.xinuse
        if self.xfd:
            in_use &= ~self.xfd
        written = in_use
        xcomp_bv = rfbm | COMPACTED
        if self.info_address == area.address and self.info_xcomp_bv == xcomp_bv and self.info_mode == self.mode:
            written &= self.xmodified
        mxcsr_in_use = rfbm & SSE if self.mxcsr != MXCSR_INIT else 0
        if self._mxcsr_apart:
            if mxcsr_in_use and not in_use & SSE:  # XMM registers that are initial are stored with it
                in_use |= SSE
                written |= SSE
            stores_mxcsr = in_use & SSE
        else:
            # After the modified optimisation: with MXCSR not initial all of SSE is written (SDM vol. 2, Operation).
            # The text leaves out that it may have become 1F80H since the restore: memory has the old value.
            if mxcsr_in_use or self.mxcsr_written:
                in_use |= mxcsr_in_use
                written |= in_use & SSE
            stores_mxcsr = written & SSE
        area.xcomp_bv = xcomp_bv
        area.xstate_bv = in_use
        contents, regs = area.compacted, self.regs  # as _store(); open-coded like the test above, for speed
        for i in bits[written]:
            contents[i] = regs[i]
        if stores_mxcsr:
            area.mxcsr = self.mxcsr
        if written & PKRU:
            area.pkru = self.pkru
        return written

    # Restore instructions.

    def xrstor(self, area: Area, mask: int) -> int:
        """XRSTOR: either format, user components only (section 13.8)."""
        self._check(area, "XRSTOR", mask)
        rfbm = self.xcr0 & mask
        loaded = rfbm & area.xstate_bv
        if area.xcomp_bv >= COMPACTED:
            self._check_compacted_header(area, self.xcr0)
            return self._restore(area, area.compacted, rfbm, area.xcomp_bv)
        if area.xstate_bv & ~self.xcr0:
            raise Fault("#GP(0)", "standard format: XSTATE_BV has a bit that XCR0 lacks")
        if area.xcomp_bv or area.header_rest & QUADWORD:
            raise Fault("#GP(0)", "standard format: header bytes 8-23 are not all zero")
        if area.check and rfbm & (SSE | AVX):
            area.check(self, loaded | SSE)
        self._restore(area, area.standard, rfbm, 0)
        if rfbm & (SSE | AVX):
            self.mxcsr = area.mxcsr  # whatever XSTATE_BV says
        return loaded

    def xrstors(self, area: Area, mask: int) -> int:
        """XRSTORS: compacted format, supervisor components too (section 13.12).

        RFBM may hold components that XCOMP_BV lacks; they are initialised.  That is how an fpstate without CET_S clears
        the one that the registers hold.
        """
        if self.mode or area.address & UNALIGNED or self.cr0_ts or not self.cr4_osxsave:
            self._check(area, "XRSTORS", mask)
        enabled = self.xcr0 | self.xss
        xcomp_bv = area.xcomp_bv
        components = xcomp_bv ^ COMPACTED
        if components & ~enabled or area.xstate_bv & ~components or area.header_rest:
            self._check_compacted_header(area, enabled)
        return self._restore(area, area.compacted, enabled & mask, xcomp_bv)

    # What the instructions share.

    def _check(self, area: Area, instruction: str, mask: int) -> None:
        """Raises the fault that comes before any access to memory (SDM vol. 2, exceptions of each instruction)."""
        supervisor = instruction in ("XSAVES", "XRSTORS")
        nonroot = self.mode & NONROOT
        if not self.cr4_osxsave:
            raise Fault("#UD", f"{instruction} with CR4.OSXSAVE = 0")
        if supervisor and nonroot and not self.xsaves_in_guest:
            raise Fault("#UD", f'{instruction} in non-root operation with "enable XSAVES/XRSTORS" = 0')
        if self.cr0_ts:
            raise Fault("#NM", f"{instruction} with CR0.TS = 1")
        if supervisor and self.mode & CPL:
            raise Fault("#GP(0)", f"{instruction} at CPL {self.mode & CPL}")
        if supervisor and nonroot and mask & self.xss & self.xss_exiting:
            raise Fault("VM exit", f"{instruction} of a component in the XSS-exiting bitmap")
        if area.address & UNALIGNED:
            raise Fault("#GP(0)", f"{instruction} of an area that is not 64-byte aligned")

    @staticmethod
    def _check_compacted_header(area: Area, enabled: int) -> None:
        components = area.xcomp_bv & ~COMPACTED
        if area.xcomp_bv < COMPACTED:
            raise Fault("#GP(0)", "XRSTORS of an area with XCOMP_BV[63] = 0")
        if components & ~enabled:
            raise Fault("#GP(0)", "XCOMP_BV has a bit that is not enabled in XCR0 (XRSTORS: nor in IA32_XSS)")
        if area.xstate_bv & ~components:
            raise Fault("#GP(0)", "XSTATE_BV has a bit that XCOMP_BV lacks")
        if area.header_rest:
            raise Fault("#GP(0)", "header bytes 16-63 are not all zero")

    def _restored_from(self, area: Area, xcomp_bv: int) -> bool:
        """Whether XRSTOR_INFO matches, so that the modified optimisation may skip components."""
        return self.info_address == area.address and self.info_xcomp_bv == xcomp_bv and self.info_mode == self.mode

    def _store(self, contents: list[Any], area: Area, written: int, mxcsr: int) -> None:
        for i in bits[written]:
            contents[i] = self.regs[i]
        if mxcsr:
            area.mxcsr = self.mxcsr
        if written & PKRU:
            area.pkru = self.pkru

    def _merge_xstate_bv(self, area: Area, rfbm: int) -> None:
        in_use = self.xinuse & ~self.xfd
        if self.freedoms.mxcsr_sets_xstate_bv and self.mxcsr != MXCSR_INIT:
            in_use |= SSE
        area.xstate_bv = area.xstate_bv & ~rfbm | in_use & rfbm

    def _restore(self, area: Area, contents: list[Any], rfbm: int, xcomp_bv: int) -> int:
        """Loads and initialises, then updates XINUSE, XMODIFIED and XRSTOR_INFO (section 13.8 and 13.12)."""
        loaded = rfbm & area.xstate_bv
        if loaded & self.xfd:
            self.xfd_err = loaded & self.xfd
            raise Fault("#NM", f"a restore loads components that IA32_XFD disables: {loaded & self.xfd:#x}")
        if area.check:
            area.check(self, loaded)
        regs, in_use = self.regs, self.xinuse
        initialised = rfbm ^ loaded
        for i in bits[loaded]:
            regs[i] = contents[i]
        for i in bits[initialised & in_use]:  # XINUSE[i] = 0: known to be initial already
            regs[i] = INIT
        if rfbm & SSE:
            self.mxcsr = area.mxcsr if loaded & SSE else MXCSR_INIT
            self.mxcsr_written = False
        if rfbm & PKRU:
            self.pkru = area.pkru if loaded & PKRU else 0
        floor = self._xinuse_floor
        in_use = in_use & ~rfbm | loaded | floor
        by_value = loaded & self._loaded_by_value
        if rfbm & self._restore_group:
            by_value |= self._restore_group
        if by_value:
            for i in bits[by_value & in_use & ~floor]:
                if regs[i] == INIT:
                    in_use ^= 1 << i
            if self.pkru:  # a value, and not a content
                in_use |= PKRU
        self.xinuse = in_use
        # Memory may hold something else than what was initialised: where XINUSE stays 1, XMODIFIED must be 1 as well.
        self.xmodified = ALL ^ rfbm | initialised & floor | self._xmodified_floor
        self.info_mode = self.mode
        self.info_address = area.address
        self.info_xcomp_bv = xcomp_bv
        return loaded
