"""The mechanisms behind strategies: what runs at the points of the flow that a strategy names.

:func:`hooks` turns a strategy and a carried state into functions by point; the flow calls whatever is at a point and
knows nothing of either.  Points are named after the kernel functions that contain them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from sim.kernel.operations import (
    GUEST_ENTRY,
    GUEST_EXIT,
    SWAP_LOAD,
    SWAP_PUT,
    TEST_XCR0,
    TRANSITION,
    VCPU_LOAD,
    VCPU_PUT,
)
from sim.kernel.state import Cpu, Vcpu
from sim.kernel.uret import kvm_set_user_return_msr, note_current
from sim.kernel.xstate import os_xrstor, os_xsave
from sim.xsave.area import INIT, Area

if TYPE_CHECKING:
    from sim.kernel.kernel import Hook, Kernel

PHASE_OF: Final = {
    "vm_exit": GUEST_EXIT,
    "vm_entry": GUEST_ENTRY,
    "loop_exit": GUEST_EXIT,
    "loop_entry": GUEST_ENTRY,
    "kvm_run_entry": SWAP_LOAD,
    "kvm_run_exit": SWAP_PUT,
    "sched_in": VCPU_LOAD,
    "sched_out": VCPU_PUT,
    "prepare_switch_to_guest": GUEST_ENTRY,
    "prepare_switch_to_host": VCPU_PUT,
    "fpu_loaded": GUEST_ENTRY,
}

NOTIFIERS: Final = ("sched_in", "sched_out")
"""Points inside the preempt notifiers: they follow the "loaded" flag of a guarded strategy and do not change it."""

Values = tuple[int, ...]


def hooks(k: Kernel) -> dict[str, tuple[Hook, ...]]:
    """What runs at each point of the flow under the kernel's strategy."""
    strategy = k.strategy
    load: Callable[[Kernel, Cpu, Vcpu, str], None]
    save: Callable[[Kernel, Cpu, Vcpu, str], None]
    match strategy.mechanism:
        case "msr":
            load, save = _load_msrs, _save_msrs
        case "msr-list":
            load, save = _load_from_msr_area, _store_to_msr_area
        case "user-return":
            load, save = _load_user_return, _save_user_return
        case "independent":
            load, save = _load_independent, _save_independent
        case "instructions":
            load, save = _load_by_instructions, _save_by_instructions
        case _:
            return {}
    load_at = ("fpu_loaded",) if strategy.late else strategy.load_at
    due: dict[str, tuple[Hook, ...]] = {point: (_when_due(load, point, saves=False),) for point in load_at}
    due.update((point, (_when_due(save, point, saves=True),)) for point in strategy.save_at)
    return due


def _when_due(access: Callable[[Kernel, Cpu, Vcpu, str], None], point: str, saves: bool) -> Hook:
    """``access`` at ``point``, under the conditions that the strategy sets."""
    phase, in_notifier = PHASE_OF[point], point in NOTIFIERS

    def hook(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
        if k.tests_xcr0:
            cpu.record((cpu.current.kind, phase, TEST_XCR0))
        if not k.guest_has_carried(vcpu) and not k.strategy.always:
            return
        if k.strategy.lazy and not vcpu.carried_active:
            return
        if k.strategy.guard:
            if vcpu.carried_loaded != (saves or in_notifier):
                return
            if not in_notifier:
                vcpu.carried_loaded = not saves
        access(k, cpu, vcpu, phase)

    return hook


def _rdmsrs(k: Kernel, cpu: Cpu, phase: str) -> Values:
    kind = cpu.current.kind
    if k.config.settings.msr_access == "msr-list":
        cpu.record((kind, phase, f"RDMSRLIST({len(k.carried_names)})"))
    else:
        for name in k.carried_names:
            cpu.record((kind, phase, f"RDMSR({name})"))
            k.trace_msr(cpu, "read", name)
    return tuple(k.carried_value(cpu, index) for index in range(len(k.carried_names)))


def _wrmsrs(k: Kernel, cpu: Cpu, values: Values, phase: str) -> None:
    if k.config.settings.msr_access == "msr-list":
        cpu.record((cpu.current.kind, phase, f"WRMSRLIST({len(values)})"))
        for index, value in enumerate(values):
            k.set_carried_value(cpu, index, value)
    else:
        for index, value in enumerate(values):
            k.wrmsr_carried(cpu, index, value, phase)


def _note_host_msr(k: Kernel, cpu: Cpu) -> None:
    """Where the host has a value per task, its cache learns what the MSR holds now, as by fred_sync_rsp0()."""
    if k.host_writes_at_user_return:
        cpu.carried_cache = k.carried_value(cpu, 0)


def _load_msrs(k: Kernel, cpu: Cpu, vcpu: Vcpu, phase: str) -> None:
    _wrmsrs(k, cpu, vcpu.carried, phase)


def _save_msrs(k: Kernel, cpu: Cpu, vcpu: Vcpu, phase: str) -> None:
    vcpu.carried = _rdmsrs(k, cpu, phase)
    if k.strategy.zero:
        _wrmsrs(k, cpu, (0,) * k.strategy.zero, phase)
    _note_host_msr(k, cpu)


def _load_from_msr_area(k: Kernel, cpu: Cpu, vcpu: Vcpu, phase: str) -> None:
    """VM-entry MSR-load area (SDM vol. 3, section 25.8.2)."""
    for index, name in enumerate(k.carried_names):
        cpu.record((cpu.current.kind, TRANSITION, f"VM-entry MSR load({name})"))
        k.set_carried_value(cpu, index, vcpu.carried[index])


def _store_to_msr_area(k: Kernel, cpu: Cpu, vcpu: Vcpu, phase: str) -> None:
    """VM-exit MSR-store area, then VM-exit MSR-load area with the host's values (SDM vol. 3, section 25.7.2)."""
    kind = cpu.current.kind
    vcpu.carried = tuple(k.carried_value(cpu, index) for index in range(len(k.carried_names)))
    for name in k.carried_names:
        cpu.record((kind, TRANSITION, f"VM-exit MSR store({name})"))
    for index, name in enumerate(k.carried_names):
        cpu.record((kind, TRANSITION, f"VM-exit MSR load({name})"))
        k.set_carried_value(cpu, index, 0)
    _note_host_msr(k, cpu)


def _load_user_return(k: Kernel, cpu: Cpu, vcpu: Vcpu, phase: str) -> None:
    for name, value in zip(k.carried_names, vcpu.carried, strict=True):
        kvm_set_user_return_msr(k, cpu, name, value, phase)


def _save_user_return(k: Kernel, cpu: Cpu, vcpu: Vcpu, phase: str) -> None:
    """The guest writes these MSRs without an exit, so the value recorded for the CPU is right again only after they
    have been read."""
    vcpu.carried = _rdmsrs(k, cpu, phase)
    if k.strategy.sets_cache:
        for name, value in zip(k.carried_names, vcpu.carried, strict=True):
            note_current(k, cpu, name, value)


def _area_of(k: Kernel, vcpu: Vcpu) -> Area:
    """The vCPU's buffer, which is allocated at its first use."""
    if vcpu.carried_area is None:
        vcpu.carried_area = k.new_area(k.carried_mask)
    return vcpu.carried_area


def _load_independent(k: Kernel, cpu: Cpu, vcpu: Vcpu, phase: str) -> None:
    """xrstors(buffer, mask): RFBM is exactly the mask (arch/x86/kernel/fpu/xstate.c)."""
    os_xrstor(k, cpu, _area_of(k, vcpu), k.carried_mask, phase)


def _save_independent(k: Kernel, cpu: Cpu, vcpu: Vcpu, phase: str) -> None:
    """xsaves(buffer, mask)."""
    os_xsave(k, cpu, _area_of(k, vcpu), k.carried_mask, phase)


def _load_by_instructions(k: Kernel, cpu: Cpu, vcpu: Vcpu, phase: str) -> None:
    """vcpu->arch.regs[] into the registers."""
    _run_instructions(k, cpu, phase, k.carried.load_by)
    _set_plain_registers(k, cpu, vcpu.carried[0])


def _save_by_instructions(k: Kernel, cpu: Cpu, vcpu: Vcpu, phase: str) -> None:
    """The registers into vcpu->arch.regs[], and zeroes into the registers if the state names the instructions for
    that."""
    _run_instructions(k, cpu, phase, k.carried.save_by)
    i = k.carried.xfeature
    vcpu.carried = (k.carried_value(cpu, 0) if i is None else cpu.unit.regs[i],)
    if k.carried.clear_by:
        _run_instructions(k, cpu, phase, k.carried.clear_by)
        _set_plain_registers(k, cpu, INIT)


def _set_plain_registers(k: Kernel, cpu: Cpu, content: Any) -> None:
    """Registers that are copied by instructions have one content, also those of a state component."""
    if k.carried.xfeature is None:
        k.set_carried_value(cpu, 0, content)
    else:
        cpu.unit.write(k.carried.xfeature, content)


def _run_instructions(k: Kernel, cpu: Cpu, phase: str, instructions: Mapping[str, int]) -> None:
    for instruction, count in instructions.items():
        cpu.record((cpu.current.kind, phase, f"{instruction}({count})"))


def update_host_msr(k: Kernel, cpu: Cpu, phase: str) -> None:
    """On return to user mode: the task's value, if the one recorded for the CPU differs (fred_update_rsp0(),
    asm/fred.h), by wrmsrns() in v6.12.117, v6.18.2 and v7.3.4."""
    want = cpu.current.host_value
    if cpu.carried_cache != want:
        k.wrmsr_carried(cpu, 0, want, phase, k.host_wrmsr)
        cpu.carried_cache = want


def reset(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """A guest INIT makes the carried state initial where the strategy keeps it; an fpstate has been cleared already."""
    if k.strategy.mechanism in ("none", "fpstate"):
        return
    vcpu.carried = (0,) * len(k.carried_names)
    if vcpu.carried_area:
        vcpu.carried_area.xstate_bv &= ~k.carried_mask
    live = vcpu.carried_loaded if k.strategy.guard else "vm_exit" not in k.strategy.save_at
    if live:
        for index in range(len(k.carried_names)):
            k.wrmsr_carried(cpu, index, 0, GUEST_EXIT)


def access_copy(k: Kernel, vcpu: Vcpu, index: int, value: int | None) -> int:
    """The VMM reads, or with ``value`` writes, a carried MSR of a vCPU that is not in KVM_RUN, in KVM's copy.

    Or plain registers that belong to no component; those of a component no ioctl for MSRs reaches.
    """
    area = _area_of(k, vcpu) if k.strategy.mechanism == "independent" else None
    i = k.carried.xfeature
    if area is not None:
        assert i is not None
        held = area.compacted[i] if area.xstate_bv & k.carried_mask else INIT
        values = list(held if isinstance(held, tuple) else (0,) * len(k.carried_names))
    else:
        values = list(vcpu.carried)
    if value is not None:
        values[index] = value
        vcpu.carried_active = True
        vcpu.carried = tuple(values)
        content = vcpu.carried if any(values) else INIT
        if area is not None and i is not None:
            area.compacted[i] = content
            area.xstate_bv |= k.carried_mask
        if i is None:
            vcpu.context.carried = vcpu.carried
        elif k.strategy.carries:
            vcpu.context.regs[i] = content
    return int(values[index])
