"""The SDM's Operation sections in their own order, a component at a time: what sim/xsave/unit.py is compared with.

Vol. 2, XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR and XRSTORS; vol. 1, section 13.4.2 for the header, 13.6 for XINUSE,
XMODIFIED and XRSTOR_INFO, 13.14 for IA32_XFD.  Masks are taken apart as they come.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

MXCSR_DEFAULT = 0x1F80
INITIAL = 0
COMPONENTS = range(20)
XMM, YMM, PKRU = 1, 2, 9


class Refused(Exception):
    """The instruction faults: the vector."""


@dataclass
class Memory:
    """An XSAVE area: header, MXCSR, and what lies in the place of each component."""

    address: int
    xstate_bv: int = 0
    xcomp_bv: int = 0
    header_16_to_63: int = 0
    mxcsr: int = MXCSR_DEFAULT
    component: list[object] = field(default_factory=lambda: [INITIAL for _ in COMPONENTS])


def bit(mask: int, i: int) -> bool:
    return bool(mask >> i & 1)


class Processor:
    """One logical processor.

    ``in_use`` and ``modified`` (XINUSE and XMODIFIED) may be 1 where they need not; whoever runs it sets them.
    ``must_be_modified`` is where XMODIFIED has to be 1: written since the last restore, or outside its RFBM.
    ``initialised`` is what the last restore did not load: memory may hold something else there.
    """

    def __init__(self, xcr0: int, xss: int) -> None:
        self.xcr0, self.xss = xcr0, xss
        self.xfd = self.xfd_err = 0
        self.cpl, self.nonroot = 0, False
        self.register: list[object] = [INITIAL for _ in COMPONENTS]
        self.mxcsr = MXCSR_DEFAULT
        self.in_use = [False for _ in COMPONENTS]
        self.modified = [True for _ in COMPONENTS]
        self.must_be_modified = [True for _ in COMPONENTS]
        self.initialised = [False for _ in COMPONENTS]
        self.mxcsr_modified = True
        self.xrstor_info: tuple[int, bool, int, int] | None = None

    def write(self, i: int, content: object) -> None:
        self.register[i] = content
        self.must_be_modified[i] = True

    def ldmxcsr(self, value: int) -> None:
        self.mxcsr = value
        self.mxcsr_modified = True

    def save(self, instruction: str, memory: Memory, edx_eax: int) -> set[int]:
        """Executes one of the four; returns what it stored.

        XSAVEC and XSAVES count MXCSR with the XMM registers.
        """
        supervisor, compacted = instruction == "xsaves", instruction in ("xsavec", "xsaves")
        self._check(supervisor, memory)
        enabled = self.xcr0 | self.xss if supervisor else self.xcr0
        rfbm = {i for i in COMPONENTS if bit(edx_eax & enabled, i)}
        compmask = sum(1 << i for i in rfbm) | 1 << 63 if compacted else 0
        in_use = {i for i in rfbm if self.in_use[i] and not bit(self.xfd, i)}
        stored = rfbm if instruction == "xsave" else set(in_use)
        if instruction in ("xsaveopt", "xsaves"):
            if self.xrstor_info == (self.cpl, self.nonroot, memory.address, compmask):
                stored = {i for i in stored if self.modified[i]}
            if instruction == "xsaves" and self.mxcsr_modified and XMM in in_use:
                stored.add(XMM)
        if compacted and XMM in rfbm and self.mxcsr != MXCSR_DEFAULT:
            in_use.add(XMM)
            stored.add(XMM)
        for i in stored:
            memory.component[i] = INITIAL if bit(self.xfd, i) else self.register[i]
        if XMM in stored if compacted else rfbm & {XMM, YMM}:
            memory.mxcsr = self.mxcsr
        for i in range(64):
            if i in rfbm or compacted:
                memory.xstate_bv = memory.xstate_bv & ~(1 << i) | (i in in_use) << i
        if compacted:
            memory.xcomp_bv = compmask
        return stored

    def restore(self, instruction: str, memory: Memory, edx_eax: int) -> set[int]:
        """Executes XRSTOR or XRSTORS; returns what it loaded."""
        supervisor = instruction == "xrstors"
        self._check(supervisor, memory)
        enabled = self.xcr0 | self.xss * supervisor
        compacted = bit(memory.xcomp_bv, 63)
        if any(self._header_is_refused(memory, enabled, compacted, supervisor)):
            raise Refused("#GP(0)")
        rfbm = [i for i in COMPONENTS if bit(edx_eax & enabled, i)]
        restored = [i for i in rfbm if bit(memory.xstate_bv, i)]
        if disabled := [i for i in restored if bit(self.xfd, i)]:
            self.xfd_err = sum(1 << i for i in disabled)
            raise Refused("#NM")
        for i in rfbm:
            self.register[i] = memory.component[i] if i in restored else INITIAL
        if compacted and XMM in rfbm:
            self.mxcsr = memory.mxcsr if XMM in restored else MXCSR_DEFAULT
        if not compacted and (XMM in rfbm or YMM in rfbm):
            self.mxcsr = memory.mxcsr
        self.must_be_modified = [i not in rfbm for i in COMPONENTS]
        self.initialised = [i in rfbm and i not in restored for i in COMPONENTS]
        self.mxcsr_modified = XMM not in rfbm
        self.xrstor_info = (self.cpl, self.nonroot, memory.address, memory.xcomp_bv)
        return set(restored)

    def _check(self, supervisor: bool, memory: Memory) -> None:
        if (supervisor and self.cpl) or memory.address % 64:
            raise Refused("#GP(0)")

    @staticmethod
    def _header_is_refused(memory: Memory, enabled: int, compacted: bool, supervisor: bool) -> Iterator[bool]:
        if not compacted:
            yield supervisor
            yield bool(memory.xcomp_bv or memory.header_16_to_63 % (1 << 64))  # bytes 8 to 23
            yield any(bit(memory.xstate_bv, i) and not bit(enabled, i) for i in range(64))
            return
        yield bool(memory.header_16_to_63)
        for i in range(63):
            yield bit(memory.xcomp_bv, i) and not bit(enabled, i)
            yield bit(memory.xstate_bv, i) and not bit(memory.xcomp_bv, i)
