"""The order of steps is the kernel's: what no kernel does is refused, before anything has been counted."""

from collections import Counter

import pytest

from sim.errors import InputError
from sim.kernel import flows, guest, kvm, process
from sim.kernel.config import Settings, boot
from sim.kernel.kernel import IllegalFlow, Kernel
from sim.xsave.components import AVX

RUN = (kvm.kvm_run, kvm.kvm_load_guest_fpu, kvm.kvm_run_entry)


def access(k, cpu):
    kvm.access_carried_msr(k, cpu, 0)


def writes(k, cpu):
    guest.writes(k, cpu, AVX)


def exits(k, cpu):
    kvm.vm_exit(k, cpu, "cpuid")


def to_idle(k, cpu):
    process.schedule(k, cpu, cpu.idle)


USER = "<cpu 0 runs V fpregs_owner=V>"
LOADED = "<vcpu guest V loaded=1 guest_state_loaded=0>"


@pytest.mark.parametrize(
    ("steps", "wrong", "says"),
    [
        ((), kvm.kvm_load_guest_fpu, f"{USER}, <vcpu guest V loaded=0 guest_state_loaded=0>: expected loaded=True"),
        ((), kvm.vcpu_enter_guest, "expected loaded=True, in guest=False"),
        ((), exits, "expected loaded=True, in guest=True"),
        ((), writes, f"{USER} is not in a guest"),
        ((kvm.vcpu_load,), kvm.vcpu_load, f"{LOADED}: expected loaded=False"),
        ((kvm.vcpu_load,), access, f"{LOADED}: CET MSR access without the guest FPU"),
        ((kvm.kvm_run,), kvm.vcpu_enter_guest, f"{LOADED}: VM entry outside KVM_RUN"),
        ((kvm.kvm_run,), kvm.cancel_entry, f"{LOADED}: VM entry outside KVM_RUN"),
        ((kvm.kvm_run,), kvm.kvm_put_guest_fpu, "the guest fpstate is not loaded"),
        (RUN, kvm.kvm_load_guest_fpu, "the guest fpstate is loaded already"),
        ((*RUN, kvm.vcpu_enter_guest), to_idle, "<cpu 0 runs V guest=guest V fpregs_owner=V> cannot switch to <idle "),
        ((*RUN, kvm.vcpu_enter_guest), kvm.vcpu_enter_guest, "expected loaded=True, in guest=False"),
    ],
)
def test_a_step_that_no_kernel_takes_there_is_refused_and_counts_nothing(steps, wrong, says):
    k = Kernel(boot(Settings()))
    cpu, vcpu = k.cpus[0], k.new_vcpu("V")
    process.schedule(k, cpu, vcpu.task)
    process.return_to_user(k, cpu)
    for step in steps:
        step(k, cpu)
    before = Counter(cpu.ledger.counts)
    with pytest.raises(IllegalFlow) as error:
        wrong(k, cpu)
    assert says in str(error.value)
    assert Counter(cpu.ledger.counts) == before


def test_a_task_that_runs_or_has_exited_is_not_switched_to():
    k = Kernel(boot(Settings()), 2)
    here, there = k.cpus
    task = k.new_task("A")
    process.schedule(k, here, task)
    with pytest.raises(IllegalFlow, match=r"<cpu 1 runs \S+ .*> cannot switch to <user A cpu 0 "):
        process.schedule(k, there, task)
    process.exit(k, here)
    process.schedule(k, here, here.idle)
    with pytest.raises(IllegalFlow, match="cannot switch to <user A off "):
        process.schedule(k, here, task)


def test_contexts_say_in_a_traceback_whose_they_are():
    k = Kernel(boot(Settings()))
    vcpu = k.new_vcpu("V")
    assert repr(vcpu.context) == "<guest context guest V>"
    assert repr(vcpu.task.context) == "<task context V>"


def test_a_flow_that_there_is_not_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="unknown flow 'premept'; did you mean 'preempt'"):
        flows.run("premept", Settings())
