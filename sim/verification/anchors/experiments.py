"""Published experiments as sequences of the kernel model: which operations one round of each runs.

Every experiment runs one round before the one that is counted, so that what runs only the first time is not included.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from sim.errors import InputError, unknown
from sim.kernel import guest, kvm, process
from sim.kernel.config import Settings, boot
from sim.kernel.kernel import Kernel
from sim.kernel.operations import (
    GUEST_EXIT,
    KVM_RUN,
    RDPKRU,
    VMENTRY,
    VMEXIT,
    VMLOAD,
    VMSAVE,
    WRPKRU,
    XRSTORS,
    XSAVES,
    Operation,
)
from sim.kernel.state import Cpu, Task
from sim.verification.anchors.data import Setup
from sim.xsave.components import AVX, COMPONENTS, SSE

Counts = Counter[Operation]

USER: Final = SSE | AVX
"""What user code writes between two system calls: memcpy() and the like."""
GUEST_PKRU: Final = 0
"""Not Linux's default, so that PKRU has to be switched."""


class Bench:
    """A vCPU thread in its guest on one CPU, and two user tasks that take turns on another."""

    def __init__(self, cpu: str, setup: Setup) -> None:
        settings = Settings(
            cpu=cpu,
            kernel=setup.kernel,
            strategy=setup.strategy,
            guest_xcr0=setup.guest_xcr0,
            guest_xss=setup.guest_xss,
            mitigations=setup.mitigations,
            vpmu=setup.vpmu,
            guest_spec_ctrl="unwritten",
            hypothetical=True,
        )
        self.k = Kernel(boot(settings), 2)
        self.cpu, self.other = self.k.cpus
        self.vcpu = self.k.new_vcpu("V")
        self.vcpu.cr4_osxsave, self.vcpu.cr4_pke = setup.guest_osxsave, setup.guest_pke
        self.tasks = [self.k.new_task(name) for name in "AB"]
        self.switch_to(self.cpu, self.vcpu.task)
        self.kvm_run_in()
        kvm.vcpu_enter_guest(self.k, self.cpu)
        if setup.guest_pkru_differs:
            guest.wrpkru(self.k, self.cpu, GUEST_PKRU)
        for task in self.tasks:
            self.switch_to(self.other, task)

    def switch_to(self, cpu: Cpu, task: Task) -> None:
        """``task`` is switched in and returns to user mode."""
        process.schedule(self.k, cpu, task)
        self.back_to_user(cpu)

    def back_to_user(self, cpu: Cpu) -> None:
        """The return to user mode, and the registers that user code writes there."""
        process.return_to_user(self.k, cpu)
        process.user_writes(self.k, cpu, USER)

    def kvm_run_in(self) -> None:
        """ioctl(KVM_RUN) up to the run loop."""
        kvm.kvm_run(self.k, self.cpu)
        kvm.kvm_load_guest_fpu(self.k, self.cpu)
        kvm.kvm_run_entry(self.k, self.cpu)

    def kvm_run_out(self) -> None:
        """From the run loop to the end of ioctl(KVM_RUN)."""
        kvm.kvm_run_exit(self.k, self.cpu)
        kvm.kvm_put_guest_fpu(self.k, self.cpu)
        kvm.vcpu_put(self.k, self.cpu)

    def counts(self) -> Counts:
        """What has run so far, on both CPUs and in all threads."""
        found: Counts = Counter()
        for cpu in self.k.cpus:
            for operation, count in cpu.ledger.rows():
                found[operation._replace(thread_kind="")] += count
        return found


def _fastpath(bench: Bench) -> None:
    if not kvm.vm_exit(bench.k, bench.cpu, "invd"):
        raise InputError(f"kernel {bench.k.config.settings.kernel} has no fastpath for INVD")


def _in_kernel(bench: Bench) -> None:
    kvm.vm_exit(bench.k, bench.cpu, "cpuid")
    kvm.vcpu_enter_guest(bench.k, bench.cpu)


def _userspace(bench: Bench) -> None:
    kvm.vm_exit(bench.k, bench.cpu, "io")
    bench.kvm_run_out()
    bench.back_to_user(bench.cpu)
    bench.kvm_run_in()
    kvm.vcpu_enter_guest(bench.k, bench.cpu)


def _hand_off(bench: Bench) -> None:
    running = bench.other.current
    bench.switch_to(bench.other, next(task for task in bench.tasks if task is not running))


TRANSITION: Final = (VMLOAD, VMENTRY, VMEXIT, VMSAVE)


def _round(run: Callable[[Bench], None], cpu: str, setup: Setup) -> Counts:
    bench = Bench(cpu, setup)
    run(bench)
    before = bench.counts()
    run(bench)
    return bench.counts() - before


def _fastpath_pkru_inside(cpu: str, setup: Setup) -> Counts:
    """XCR0 and XSS outside the run loop, PKRU still in it: the kernel between the two changes of v6.19."""
    both = _round(_fastpath, cpu, replace(setup, kernel="v6.18"))
    pkru = Counter({key: n for key, n in both.items() if key.operation in (RDPKRU, WRPKRU)})
    return _round(_fastpath, cpu, replace(setup, kernel="v6.19")) + pkru


def _kvm_run_halves(cpu: str, setup: Setup) -> tuple[Counts, Counts]:
    bench = Bench(cpu, setup)
    _userspace(bench)
    kvm.vm_exit(bench.k, bench.cpu, "io")
    start = bench.counts()
    bench.kvm_run_out()
    out = bench.counts() - start
    bench.back_to_user(bench.cpu)
    start = bench.counts()
    bench.kvm_run_in()
    kvm.vcpu_enter_guest(bench.k, bench.cpu)
    into = bench.counts() - start
    # The model records KVM_RUN once, at the entry; the rows of the cost table say which half counts.
    out += Counter({key: n for key, n in into.items() if key.operation == KVM_RUN})
    return Counter({key: n for key, n in into.items() if key.operation not in (VMLOAD, VMENTRY)}), out


def _vmrun_leg(cpu: str, setup: Setup) -> Counts:
    whole = _round(_in_kernel, cpu, setup)
    return Counter({key: n for key, n in whole.items() if key.operation in TRANSITION})


def _without_kvm_run(cpu: str, setup: Setup) -> Counts:
    """The VMRUN leg and the way out, without KVM_RUN, which belongs to the way in."""
    out = Counter({key: n for key, n in _kvm_run_halves(cpu, setup)[1].items() if key.operation != KVM_RUN})
    return out + _vmrun_leg(cpu, setup)


def _instruction(setup: Setup) -> Counts:
    names = {component.name: component.mask for component in COMPONENTS}
    for name in (*setup.components, *setup.requested):
        if name not in names:
            raise unknown("component", name, names)
    written = sum(names[name] for name in setup.components)
    requested = sum(names[name] for name in setup.requested) or written
    return Counter([Operation("", "", setup.operation, requested, written, requested & ~written)])


def _save_restore(setup: Setup) -> Counts:
    save, restore = (replace(setup, operation=operation) for operation in (XSAVES, XRSTORS))
    return _instruction(save) + _instruction(restore)


EXPERIMENTS: Final[dict[str, Callable[[str, Setup], Counts]]] = {
    "fastpath-exit": lambda cpu, setup: _round(_fastpath, cpu, setup),
    "fastpath-exit-pkru-inside": _fastpath_pkru_inside,
    "in-kernel-exit": lambda cpu, setup: _round(_in_kernel, cpu, setup),
    "userspace-exit": lambda cpu, setup: _round(_userspace, cpu, setup),
    "kvm-run-in": lambda cpu, setup: _kvm_run_halves(cpu, setup)[0],
    "kvm-run-out": lambda cpu, setup: _kvm_run_halves(cpu, setup)[1],
    "vmrun-leg": _vmrun_leg,
    "kvm-run": lambda cpu, setup: _kvm_run_halves(cpu, setup)[0] + _without_kvm_run(cpu, setup),
    "hand-off": lambda cpu, setup: _round(_hand_off, cpu, setup),
    "instruction": lambda _, setup: _instruction(setup),
    "save-restore-twice": lambda _, setup: _save_restore(setup) + _save_restore(setup),
}
"""By name: the operations of one round on a CPU profile with a set-up."""


def operations(cpu: str, setup: Setup) -> Counts:
    """What one round of the experiment runs, without what the set-up leaves out."""
    if setup.experiment not in EXPERIMENTS:
        raise unknown("experiment", setup.experiment, EXPERIMENTS)
    found = EXPERIMENTS[setup.experiment](cpu, setup)
    if setup.handler:
        found[Operation("", GUEST_EXIT, f"exit handler({setup.handler})")] += 1
    return Counter({key: n for key, n in found.items() if not {key.phase, key.operation} & set(setup.without)})
