"""Where cycles go: each operation of the ledger belongs to exactly one category.

FPU: the instructions that save and restore register state, what steers them (IA32_XFD, XGETBV), and PKRU outside KVM.
MSR: accesses to the MSRs of the carried state and to user-return MSRs, by software or by the MSR areas of VMX; copies
of other carried registers by plain instructions.
XSS: writes of IA32_XSS at VM entry and VM exit, apart because strategies change who differs from the host there.
virtualisation: VM entry and exit, KVM_RUN, VMCS and VMCB, and what KVM switches beside the fpstate (XCR0, PKRU,
KERNEL_GS_BASE), with the mitigations and the vPMU that exist because of guests.
scheduling: the context switch itself, and IPIs that are not sent for a VMCS.
"""

import re
from typing import Final

from sim.errors import unknown
from sim.kernel import operations as op
from sim.kernel.carried import INSTRUCTIONS

FPU: Final = "FPU"
MSR: Final = "MSR"
XSS: Final = "XSS"
VIRTUALISATION: Final = "virtualisation"
SCHEDULING: Final = "scheduling"
CATEGORIES: Final = (FPU, MSR, XSS, VIRTUALISATION, SCHEDULING)

CARRYING: Final = (FPU, MSR, XSS)
"""The categories in which strategies differ by design."""

_BY_OPERATION: Final = {
    **dict.fromkeys(
        (
            op.XSAVES, op.XSAVE, op.XRSTORS, op.XRSTOR, op.RESTORE_SKIPPED, op.XGETBV1, op.LDMXCSR, op.FWAIT,
            op.TILERELEASE, op.WRMSR_XFD, op.RDMSR_XFD, op.RDMSR_XFD_ERR, op.WRMSR_XFD_ERR,
        ),
        FPU,
    ),
    op.WRMSR_XSS: XSS,
    **dict.fromkeys(
        (
            op.VMENTRY, op.VMEXIT, op.VMLOAD, op.VMSAVE, op.VMPTRLD, op.VMCLEAR, op.KVM_RUN, op.XSETBV, op.IBPB,
            op.RDMSR_KERNEL_GS_BASE, op.WRMSR_KERNEL_GS_BASE, op.VERW, op.RSB_FILL, op.RSB_ONE_CALL, op.BHB_CLEAR,
            op.BHB_LONG_CLEAR, op.UNTRAIN_RET, op.L1D_FLUSH, op.RDPMC, op.VMREAD, op.PERF_CONTEXT, op.VPMU_SAMPLE,
        ),
        VIRTUALISATION,
    ),
    op.CONTEXT_SWITCH: SCHEDULING,
}  # fmt: skip

_BY_PHASE: Final = {
    op.RDPKRU: ((op.VCPU_LOAD, op.GUEST_ENTRY, op.GUEST_EXIT), VIRTUALISATION, FPU),
    op.WRPKRU: ((op.VCPU_LOAD, op.GUEST_ENTRY, op.GUEST_EXIT), VIRTUALISATION, FPU),
    op.IPI: ((op.VCPU_LOAD,), VIRTUALISATION, SCHEDULING),
    # By KVM a mitigation; by a strategy that carries the MSR, anywhere else.
    op.RDMSR_SPEC_CTRL: ((op.MITIGATION,), VIRTUALISATION, MSR),
    op.WRMSR_SPEC_CTRL: ((op.MITIGATION,), VIRTUALISATION, MSR),
}
"""Operations that depend on the phase: in these phases the first category, in others the second."""

_MSR_ACCESS: Final = re.compile(
    rf"(?:{'|'.join(INSTRUCTIONS)})\(\d+\)|{op.TEST_XCR0}|"
    r"(RDMSR|WRMSR|WRMSRNS|VM-entry MSR load|VM-exit MSR load|VM-exit MSR store|RDMSRLIST|WRMSRLIST)\(\w+\)"
)


def category(phase: str, operation: str) -> str:
    """The category of ``operation`` in ``phase``; :class:`~sim.errors.InputError` for one that is unknown."""
    if phase == op.VPMU:
        return VIRTUALISATION
    if operation in _BY_OPERATION:
        return _BY_OPERATION[operation]
    if operation in _BY_PHASE:
        phases, there, elsewhere = _BY_PHASE[operation]
        return there if phase in phases else elsewhere
    if _MSR_ACCESS.fullmatch(operation):
        return MSR
    raise unknown("operation", operation, (*_BY_OPERATION, *_BY_PHASE, "RDMSR(...)", "WRMSR(...)"))


def instructions(phase: str, operation: str) -> int:
    """Whether the operation counts in "operations per event": one that carries state, and not one that was avoided."""
    return int(operation != op.RESTORE_SKIPPED and category(phase, operation) in CARRYING)
