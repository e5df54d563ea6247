"""What is found by running a snapshot: a guest is saved on one host, restored on another, and enters there.

Nothing here is looked up: two kernels are booted, the ioctls run on both, and the integrity check looks for wrong
values at the first entry.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sim.errors import InputError
from sim.kernel import guest, kvm, process, snapshot, strategies
from sim.kernel.carried import carried_state
from sim.kernel.config import Config, Settings, boot
from sim.kernel.integrity import FOREIGN_IN_FPSTATE, VIOLATIONS, Finding
from sim.kernel.kernel import Kernel
from sim.kernel.operations import Log, Operation, TracePoint
from sim.kernel.scene import GuestUse, Scene
from sim.kernel.snapshot import VMMS, Saved, Vmm
from sim.kernel.versions import version
from sim.xsave.components import AVX512, CET_U, USER
from sim.xsave.profiles import profile

UNMASKED: Final = 0x1F00
"""MXCSR with SIMD floating-point exceptions for invalid operations and denormals, which is not its initial value."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One VMM's snapshot: which ioctls failed, what was found at the first entry, and the guest's own XRSTORS there.

    ``fault`` is what that XRSTORS raised, or empty.  The guest was entered only if no ioctl failed.
    """

    vmm: Vmm
    refused: tuple[str, ...]
    findings: tuple[Finding, ...]
    fault: str
    saving: tuple[Operation, ...]
    restoring: tuple[Operation, ...]

    @property
    def sound(self) -> bool:
        """Whether the guest runs on and finds what it had."""
        return not (self.refused or self.findings or self.fault)

    @property
    def verdict(self) -> str:
        """The outcome in a word or two."""
        if self.refused:
            return "fails"
        lost = dict.fromkeys(each.what for each in self.findings if each.kind != FOREIGN_IN_FPSTATE)
        foreign = any(each.kind == FOREIGN_IN_FPSTATE for each in self.findings)
        parts = [f"loses {', '.join(lost)}"] if lost else []
        parts += [FOREIGN_IN_FPSTATE] if foreign else []
        parts += ["#GP"] if self.fault else []
        return ", ".join(parts) or "sound"


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """A strategy with the outcome of each VMM's snapshot; ``impossible`` says why it cannot be run, if it cannot."""

    strategy: str
    carries: bool = True
    outcomes: tuple[Outcome, ...] = ()
    impossible: str = ""


def vmms(settings: Settings) -> list[Vmm]:
    """The VMMs, with titles that name what is carried."""
    what = carried_state(settings.carried)

    def title(vmm: Vmm) -> str:
        return vmm.title.replace("{carried}", what.called) if vmm.saves_carried or what.msrs else as_all

    as_all = f"as all: {what.called} has no MSRs"
    return [replace(vmm, title=title(vmm)) for vmm in VMMS]


def rows(source: Settings, target: Settings, names: Sequence[str] = (), there: str | None = None) -> list[SnapshotRow]:
    """Every strategy on both hosts, or those in ``names``; the row of one that is impossible says so.

    ``there`` is the strategy on the target, by default the same.  Raises :class:`~sim.errors.InputError` for an unknown
    name, and if no strategy can run.
    """
    for settings in (source, target):
        profile(settings.cpu), version(settings.kernel)
    for name in (*names, *([] if there is None else [there])):
        strategies.strategy(name)
    found = [_row(source, target, name, there or name) for name in names or strategies.names()]
    if all(row.impossible for row in found):
        raise InputError(Counter(row.impossible for row in found).most_common(1)[0][0])
    return found


def _row(source: Settings, target: Settings, name: str, there_name: str) -> SnapshotRow:
    try:
        here = boot(replace(source, strategy=name))
        there = boot(replace(target, strategy=there_name))
    except InputError as error:
        return SnapshotRow(name, impossible=str(error))
    return SnapshotRow(name, here.strategy.carries, tuple(run(here, there, vmm) for vmm in VMMS))


def run(source: Config, target: Config, vmm: Vmm) -> Outcome:
    """One VMM's snapshot of a guest that has used all its components."""
    saving: list[tuple[int, Operation | TracePoint]] = []
    restoring: list[tuple[int, Operation | TracePoint]] = []
    saved = _save(source, vmm, saving)
    if saved.problems:
        return Outcome(vmm, saved.problems, (), "", _operations(saving), ())
    refused, findings, fault = _restore(target, saved, vmm, restoring)
    return Outcome(vmm, refused, findings, fault, _operations(saving), _operations(restoring))


def _operations(events: list[tuple[int, Operation | TracePoint]]) -> tuple[Operation, ...]:
    return tuple(event for _, event in events if isinstance(event, Operation))


def _used(config: Config) -> GuestUse:
    """A guest that uses all its user components, tiles included, and whose kernel switches tasks by XRSTORS."""
    return GuestUse(registers=USER & (AVX512 | config.guest_xcr0), xrstors=True, tiles=config.settings.guest_amx)


def _save(config: Config, vmm: Vmm, events: list[tuple[int, Operation | TracePoint]]) -> Saved:
    """V has run and exited to its VMM, and other threads have used its CPU since."""
    kernel = Kernel(config, 2, ledger=lambda cpu: Log(cpu, events))
    scene = Scene(kernel, _used(config))
    scene.start_in_guest()
    if scene.vcpu.has_cet:
        scene.vcpu.context.write(scene.cpu.unit, CET_U)
    guest.wrpkru(kernel, scene.cpu, 0x55555550)
    scene.vcpu.context.mxcsr = UNMASKED
    scene.cpu.unit.ldmxcsr(UNMASKED)
    kvm.vm_exit(kernel, scene.cpu, "io")
    scene.leave_kvm_run("KVM_EXIT_IO")
    scene.back_to_user()
    scene.run_user(scene.n)
    scene.run_user(scene.v)
    events.clear()
    return snapshot.save(kernel, scene.cpu, vmm)


def _restore(
    config: Config, saved: Saved, vmm: Vmm, events: list[tuple[int, Operation | TracePoint]]
) -> tuple[tuple[str, ...], tuple[Finding, ...], str]:
    """Restores on a host where another guest has run; a busy task runs between the last ioctl and KVM_RUN."""
    kernel = Kernel(config, 2, ledger=lambda cpu: Log(cpu, events))
    scene = Scene(kernel, _used(config))
    scene.run_first(scene.w)
    kvm.vm_exit(kernel, scene.cpu, "external-interrupt")
    scene.run_user(scene.n)
    events.clear()
    vcpu, refused = snapshot.restore(kernel, scene.cpu, "R", saved, vmm)
    if refused:
        return refused, (), ""
    scene.run_user(scene.n)
    process.schedule(kernel, scene.cpu, vcpu.task)
    scene.enter_kvm_run()
    kvm.vcpu_enter_guest(kernel, scene.cpu)
    integrity = kernel.integrity
    assert integrity is not None
    findings = tuple(each for each in integrity.findings if each.kind in VIOLATIONS)
    return (), findings, snapshot.guest_switches_task(kernel, scene.cpu, saved)
