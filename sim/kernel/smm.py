"""System management mode of a guest, which KVM emulates: the entry at an SMI, and RSM.

Source: arch/x86/kvm/smm.c enter_smm(), emulator_leave_smm() and rsm_load_state_64(), read in v6.6.0, v6.12.117, v6.18.2
and v7.3.4.  SMRAM holds neither XSAVE state nor XCR0, IA32_XSS or PL0-2_SSP (since v6.18 it holds SSP, which is the
VMCS's): they stay where they are, and CR4.OSXSAVE = 0 means that KVM swaps neither XCR0 nor IA32_XSS meanwhile.
"""

from typing import NamedTuple

from sim.kernel.state import Vcpu


class Smram(NamedTuple):
    """The part of the state-save area that the model needs: bits of CR4 and EFER."""

    cr4_osxsave: bool
    cr4_pke: bool
    efer_sce: bool


def enter_smm(vcpu: Vcpu) -> Smram:
    """State into SMRAM, then CR4 = 0 and EFER = 0, between a VM exit and the next entry."""
    smram = Smram(vcpu.cr4_osxsave, vcpu.cr4_pke, vcpu.efer_sce)
    _set(vcpu, Smram(False, False, False))
    return smram


def leave_smm(vcpu: Vcpu, smram: Smram) -> None:
    """RSM, which KVM emulates: CR4 and EFER as they were."""
    _set(vcpu, smram)


def _set(vcpu: Vcpu, state: Smram) -> None:
    vcpu.cr4_osxsave, vcpu.cr4_pke, vcpu.efer_sce = state
    vcpu.guest_uret_msrs_loaded = False  # vmx_set_efer(): vmx_setup_uret_msrs()
