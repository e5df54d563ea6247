"""Mitigations on the way between host and guest: their kinds, and what a CPU needs of each.  The assembly around
VMRESUME and VMRUN tests X86_FEATURE_* that arch/x86/kernel/cpu/bugs.c sets by CPU; a profile
(:mod:`sim.xsave.profiles`) has them.  Source: arch/x86/kvm/vmx/vmenter.S, arch/x86/kvm/svm/vmenter.S,
arch/x86/kvm/vmenter.h, read in v7.3.4.  Which of them a kernel knows is row 22 of docs/kernel-versions.md; the IBPBs
are rows 17 and 18.  Guests are assumed to have booted with the mitigations of their host, but for IA32_SPEC_CTRL, which
may differ (:data:`SpecCtrl`).
"""

from typing import Final, Literal, get_args

from sim.errors import unknown
from sim.kernel.operations import BHB_CLEAR, RSB_FILL, RSB_ONE_CALL, UNTRAIN_RET, VERW
from sim.kernel.versions import KernelVersion
from sim.xsave.profiles import CpuProfile

MitigationKind = Literal["ibpb", "vmscape", "spec-ctrl", "verw", "rsb", "bhb", "unret", "l1d-flush"]
"""ibpb: at a vCPU switch.  vmscape: an IBPB at return to user mode after a guest.  spec-ctrl: IA32_SPEC_CTRL of host
and guest.  verw: clears CPU buffers before each VM entry.  rsb, bhb, unret: what makes the return predictor and
the branch history safe after each VM exit.  l1d-flush: clears L1D before a VM entry that follows something unsafe."""

SpecCtrl = Literal["host", "other", "unwritten"]
"""IA32_SPEC_CTRL of a guest: the host's value; another that is not 0, such as 1 (IBRS) where the host has 1025
(BHI_DIS_S, too) and the guest's CPUID no BHI_CTRL (Jon Kohler, 20240913184241.1528972-1-jon@nutanix.com); or 0, and
KVM intercepts the MSR until the guest has written it (vmx_set_msr(), VMX_RUN_SAVE_SPEC_CTRL, v6.18)."""

VmscapeBy = Literal["ibpb", "bhb-clear"]
"""What runs at return to user mode after a guest: an IBPB, as up to v7.3; or the long BHB clearing loop, where eIBRS
keeps branch targets apart and only the history is shared (Pawan Gupta, "[PATCH v12 00/12] VMSCAPE optimization for BHI
variant", 22 Jun 2026, 20260622-vmscape-bhb-v12-0-76cbda0ae3e5@linux.intel.com, on v7.1; not in v7.3.4)."""

IbpbAt = Literal["vcpu_load", "vcpu_enter_guest"]
"""Where the IBPB between vCPUs is: in kvm_arch_vcpu_load(), as up to v7.3; or at the first entry after it (Sean
Christopherson, "[PATCH 1/2] KVM: x86: Defer IBPBs for vCPU and nested transitions until core run loop", 27 Jan 2026,
https://lkml.iu.edu/hypermail/linux/kernel/2601.3/04820.html, not merged)."""

VMSCAPE_SERIES_SINCE: Final = (6, 18)
"""The release on which the series was first rebased: v2 of 15 Oct 2025, on v6.18-rc1, says its v12."""

LONG_CLEAR_ON: Final = "BHI_DIS_S"
"""The feature of Alder Lake and later for which the series has the long loop; older CPUs and AMD's keep the IBPB."""

L1TF: Final = "L1TF"
"""The bug for which KVM flushes L1D (vmentry_l1d_flush = cond, the default)."""
UNSAFE_EXITS: Final = frozenset(("external-interrupt", "ept-violation", "ept-misconfig"))
"""VM exits after which the next entry flushes: interrupt handlers set the CPU's flag, kvm_handle_page_fault() and
x86_emulate_instruction() the vCPU's, as kvm_arch_vcpu_load() does (arch/x86/kvm/x86.c, mmu.c, vmx/vmx.c
vmx_l1d_flush(), v6.18 and the patch that makes one flag of the two, 13 Oct 2025; in v6.6 vcpu_run() sets it)."""

KINDS: Final[tuple[MitigationKind, ...]] = get_args(MitigationKind)

AT_ENTRY: Final = dict.fromkeys(
    ("CLEAR_CPU_BUF_VM", "CLEAR_CPU_BUF_VM by RFDS", "CLEAR_CPU_BUF_VM by TSA"), ("verw", VERW)
)
RSB_AT_EXIT: Final = {"RSB_VMEXIT": ("rsb", RSB_FILL), "RSB_VMEXIT_LITE": ("rsb", RSB_ONE_CALL)}
AT_EXIT: Final = {"CLEAR_BHB_VMEXIT": ("bhb", BHB_CLEAR), "UNRET": ("unret", UNTRAIN_RET)}
"""What runs at each VM entry and exit, by feature, and of which kind it is.  IA32_SPEC_CTRL, which depends on the
guest, comes between what fills the RSB and the rest (vmenter.S of VMX and SVM; v6.10.0, v6.12.117, v6.18.2, v7.3.4)."""


def chosen(setting: bool | tuple[str, ...]) -> frozenset[str]:
    """The kinds that are on; :class:`~sim.errors.InputError` for an unknown kind."""
    if isinstance(setting, bool):
        return frozenset(KINDS if setting else ())
    for kind in setting:
        if kind not in KINDS:
            raise unknown("mitigation", kind, KINDS)
    return frozenset(setting)


def features(cpu: CpuProfile, kernel: KernelVersion, kinds: frozenset[str]) -> frozenset[str]:
    """The features of ``cpu`` that ``kernel`` sets and that belong to one of ``kinds``."""
    known = frozenset(cpu.mitigations) & frozenset(kernel.mitigations)
    of_kind = {feature for feature, (kind, _) in (AT_ENTRY | RSB_AT_EXIT | AT_EXIT).items() if kind in kinds}
    if "spec-ctrl" in kinds:
        of_kind |= {"IBRS_ENHANCED", "KERNEL_IBRS"}
    return known & of_kind


def operations(on: frozenset[str], table: dict[str, tuple[str, str]]) -> tuple[str, ...]:
    """The operations of ``table`` that run with the features ``on``, in its order."""
    return tuple(operation for feature, (_, operation) in table.items() if feature in on)
