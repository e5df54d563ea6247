"""The tests that the RFC names in its cover letter, as flows: what each does to register state, not what it prints.

"Basic tests done": the selftests amx_64 and test_fpu of x86; amx_test, smm_test and state_test of KVM; a guest whose
PL0-2_SSP host and guest read and write; live migration (cover of 14 Sep 2023, 20230914032334.75212-1).  The last is
`fpswitch snapshot`, which has a second host.

Source: tools/testing/selftests/kvm/x86/{amx_test,smm_test,state_test}.c, Linux v7.3.4; in torvalds/linux,
tools/testing/selftests/x86/amx.c test_context_switch() and test_fork() at 0f6d91a327db, lib/test_fpu_glue.c at
25768de50b1f.
"""

from collections.abc import Callable
from typing import Final

from sim.kernel import fpu, kvm, process, smm, snapshot
from sim.kernel.scene import Scene, Steps, calls_kvm_run, enters, exits, runs, switches
from sim.kernel.state import Task
from sim.xsave.components import FP, SSE, XTILE


def test_fpu(s: Scene) -> Steps:
    """A system call computes with the FPU, in a task that has preempted a vCPU."""
    s.start_in_guest()
    yield from exits(s, "external interrupt")
    yield from switches(s, s.a)
    yield from runs(s)
    yield "A reads test_fpu: kernel_fpu_begin(), arithmetic, kernel_fpu_end()"
    fpu.kernel_fpu_begin(s.k, s.cpu, FP | SSE)
    yield from runs(s)
    yield from switches(s, s.v)
    yield from enters(s)


def _uses_tiles(s: Scene, task: Task) -> Steps:
    yield f"{task.name} uses AMX for the first time: #NM"
    fpu.handle_xfd_event(s.k, s.cpu)
    process.user_writes(s.k, s.cpu, XTILE)


def amx_64(s: Scene) -> Steps:
    """Two tasks with tiles share a CPU with a vCPU, and one of them has a child, which inherits no tiles."""
    s.start_in_guest()
    kvm.vm_exit(s.k, s.cpu, "external-interrupt")
    yield from switches(s, s.a)
    yield from runs(s)
    yield from _uses_tiles(s, s.a)
    yield from switches(s, s.n)
    yield from runs(s)
    yield from _uses_tiles(s, s.n)
    yield from switches(s, s.a)
    yield from runs(s)
    yield "A forks"
    child = process.fork(s.k, s.cpu, "C")
    yield from switches(s, child)
    yield from runs(s)
    yield from switches(s, s.v)
    yield from enters(s)
    yield from exits(s, "external interrupt")
    yield from switches(s, s.n)
    yield from runs(s)


def _goes_to_the_vmm(s: Scene) -> Steps:
    yield from exits(s, "I/O (GUEST_SYNC)", "io")
    yield "KVM_RUN returns"
    s.leave_kvm_run("KVM_EXIT_IO")
    yield from runs(s, "the VMM")


def _is_saved_and_restored(s: Scene) -> Steps:
    """From a VMM in user mode to R's first entry; V is not run again."""
    vmm = snapshot.VMMS[0]
    yield "KVM_GET_XSAVE2, KVM_GET_XCRS, KVM_GET_MSRS"
    saved = snapshot.save(s.k, s.cpu, vmm)
    yield "a new vCPU: KVM_SET_XSAVE, KVM_SET_XCRS, KVM_SET_MSRS"
    snapshot.restore(s.k, s.cpu, "R", saved, vmm)
    yield "R calls KVM_RUN and enters the guest"
    s.enter_kvm_run()
    kvm.vcpu_enter_guest(s.k, s.cpu)


def amx_test(s: Scene) -> Steps:
    """A guest with tiles exits to its VMM, and is restored into a new vCPU."""
    s.start_in_guest()
    yield from _goes_to_the_vmm(s)
    yield from calls_kvm_run(s)
    yield from _goes_to_the_vmm(s)
    yield from _is_saved_and_restored(s)


def state_test(s: Scene) -> Steps:
    """A guest is saved and restored into a new vCPU of this host, while another guest runs beside it."""
    s.run_first(s.w)
    kvm.vm_exit(s.k, s.cpu, "external-interrupt")
    s.start_in_guest()
    yield from _goes_to_the_vmm(s)
    yield from switches(s, s.w)
    yield from enters(s)
    yield from exits(s, "external interrupt")
    yield from switches(s, s.v)
    yield from runs(s, "the VMM")
    yield from _is_saved_and_restored(s)


def smm_test(s: Scene) -> Steps:
    """A guest that has written its SSPs enters SMM, is preempted there, saved and restored, and executes RSM."""
    s.start_in_guest()
    yield from exits(s, "SMI")
    yield "enter_smm(): CR4 = 0, so that XCR0 and IA32_XSS stay the host's"
    smram = smm.enter_smm(s.vcpu)
    yield "V enters the guest, in SMM"
    kvm.vcpu_enter_guest(s.k, s.cpu)
    yield from exits(s, "external interrupt")
    yield from switches(s, s.n)
    yield from runs(s)
    yield from switches(s, s.v)
    yield "V enters the guest, in SMM"
    kvm.vcpu_enter_guest(s.k, s.cpu)
    yield from _goes_to_the_vmm(s)
    yield from _is_saved_and_restored(s)
    yield from exits(s, "RSM", "rsm")
    restored = s.cpu.current.vcpu
    assert restored is not None
    yield "emulator_leave_smm(): CR4 as it was"
    smm.leave_smm(restored, smram)
    yield from enters(s)


def ssp_test(s: Scene) -> Steps:
    """Two guests, and a VMM that reads and writes PL0-2_SSP, through everything that happens to a vCPU thread."""
    s.run_first(s.w)
    kvm.vm_exit(s.k, s.cpu, "external-interrupt")
    s.start_in_guest()
    yield from exits(s, "external interrupt")
    yield from switches(s, s.n)
    yield from runs(s)
    for task in (s.w, s.v):
        yield from switches(s, task)
        yield from enters(s)
        yield from exits(s, "HLT", "hlt")
    yield from switches(s, s.cpu.idle)
    yield from switches(s, s.v)
    yield from enters(s)
    yield from _goes_to_the_vmm(s)
    yield "KVM_GET_MSRS and KVM_SET_MSRS of the carried MSRs, with new values"
    with snapshot.vcpu_ioctl(s.k, s.cpu) as vcpu, snapshot.guest_fpu_for_msrs(s.k, s.cpu, vcpu):
        if s.k.carried_numbers and s.k.guest_has_carried(vcpu):
            for index in range(len(s.k.carried_names)):
                kvm.access_carried_msr(s.k, s.cpu, index)
                kvm.access_carried_msr(s.k, s.cpu, index, vcpu.context.token())
    yield from calls_kvm_run(s)
    yield from exits(s, "external interrupt")
    yield "schedule: V -> N on CPU 0"
    process.schedule(s.k, s.cpu, s.n)
    s.back_to_user()
    yield "V is switched in on CPU 1, and enters the guest there"
    process.schedule(s.k, s.other_cpu, s.v)
    s.run_guest(s.other_cpu)


SELFTESTS: Final[dict[str, Callable[[Scene], Steps]]] = {
    "test-fpu": test_fpu,
    "amx-64": amx_64,
    "amx-test": amx_test,
    "state-test": state_test,
    "smm-test": smm_test,
    "ssp-test": ssp_test,
}

NEEDS_AMX: Final = ("amx-64", "amx-test")
GUEST_NEEDS_AMX: Final = ("amx-test",)
