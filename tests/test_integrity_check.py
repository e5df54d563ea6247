"""The integrity check finds what is wrong in kernels that are broken on purpose."""

import pytest
from machine import World
from verdicts import config, exit_to_the_vmm_and_back, finds, world

from sim.kernel import fpu, kvm, process
from sim.kernel.carried import CarriedState
from sim.kernel.integrity import CONSUMED, FOREIGN_IN_FPSTATE, WRONG_VALUE
from sim.kernel.kernel import Kernel
from sim.kernel.state import Cpu, Task
from sim.xsave.components import AVX, CET_S, CET_U, LBR, SSE, USER, XTILE, XTILEDATA, ZMM_HI256, bits

# The check itself: kernels that are broken on purpose.


def test_integrity_catches_a_kernel_fpu_begin_that_leaves_the_owner(monkeypatch):
    right = fpu.kernel_fpu_begin

    def leaves_the_owner(k: Kernel, cpu: Cpu, used: int = 0) -> None:
        owner = cpu.fpregs_owner
        right(k, cpu, used)
        cpu.fpregs_owner = owner

    monkeypatch.setattr(fpu, "kernel_fpu_begin", leaves_the_owner)
    w = world("xstate-guest")
    w.to_user(0, 3)
    w.user_writes(0, AVX)
    w.enter_kernel(0)
    w.kernel_fpu(0, AVX)
    w.return_to_user(0)
    assert w.kinds == {WRONG_VALUE}


def test_integrity_catches_a_swap_that_does_not_note_the_cpu(monkeypatch):
    right = fpu.fpu_swap_kvm_fpstate

    def does_not_note_the_cpu(k, cpu, vcpu, enter_guest):
        last = vcpu.task.last_cpu
        right(k, cpu, vcpu, enter_guest)
        vcpu.task.last_cpu = last

    monkeypatch.setattr(fpu, "fpu_swap_kvm_fpstate", does_not_note_the_cpu)
    finds([config("xstate-guest")], World.check_owner, "swap")


def test_integrity_catches_a_validity_check_that_ignores_the_last_cpu(monkeypatch):
    def restore(k: Kernel, cpu: Cpu, phase: str) -> None:
        task = cpu.current
        if cpu.fpregs_owner is not task:
            fpu.restore_fpregs_from_fpstate(k, cpu, task.fpstate, phase)
            fpu.fpregs_activate(k, cpu, task)
            task.last_cpu = cpu.id
        task.need_fpu_load = False

    monkeypatch.setattr(fpu, "switch_fpu_return", restore)
    w = world("xstate-guest")
    for c in (0, 1):
        w.to_user(c, 3)
        w.user_writes(c, AVX)
        w.enter_kernel(c)
        w.schedule(c, None)
    w.to_user(0, 3)  # CPU 0 still names the task, and holds what it had before it went to CPU 1
    assert w.findings() == [(WRONG_VALUE, "task0", "YMM")]


@pytest.mark.parametrize("value", [0, 0xFFFFFFFC])
def test_integrity_catches_a_switch_without_pkru(monkeypatch, value):
    monkeypatch.setattr(process, "x86_pkru_load", lambda cpu, next: None)
    w = world("xstate-guest")
    w.to_user(0, 3)
    w.user_wrpkru(0, value)
    w.enter_kernel(0)
    w.to_user(0, 4)
    assert w.findings() == [(WRONG_VALUE, "task1", "PKRU")]


def test_integrity_catches_a_switch_that_does_not_save(monkeypatch):
    def does_not_save(k: Kernel, cpu: Cpu, prev: Task) -> None:
        if prev.user_fpu:
            prev.need_fpu_load = True
            prev.last_cpu = cpu.id

    monkeypatch.setattr(fpu, "switch_fpu", does_not_save)
    w = world("xstate-guest")
    w.to_user(0, 3)
    w.user_writes(0, AVX)
    w.enter_kernel(0)
    w.to_user(0, 4)
    w.enter_kernel(0)
    w.to_user(0, 3)
    assert w.findings() == [(WRONG_VALUE, "task0", "YMM")]


def test_integrity_catches_a_guest_restore_without_cet_s():
    w = world("xstate-guest")
    w.k.restore_mask &= ~CET_S
    exit_to_the_vmm_and_back(w)
    assert w.kinds == {WRONG_VALUE}


def test_integrity_catches_a_ptrace_write_that_does_not_invalidate():
    w = world("xstate-guest")
    w.to_user(0, 3)
    w.enter_kernel(0)
    w.schedule(0, None)
    w.ptrace_write(3, AVX)
    w.tasks[3].last_cpu = 0
    w.to_user(0, 3)
    assert w.findings() == [(WRONG_VALUE, "task0", "YMM")]


@pytest.mark.parametrize("legacy", [True, False])
def test_a_legacy_sse_write_on_zen4_may_change_ymm_under_any_kernel(legacy):
    """What a real one does (docs/model.md): the fpstate holds an old AVX area, and ZMM_Hi256 alone is in use."""
    w = world("xstate-guest", "zen4", legacy_sse_write_marks_avx_in_use=legacy)
    w.to_user(0, 3)
    w.user_writes(0, AVX)
    w.enter_kernel(0)
    w.to_user(0, 4)  # the old area
    w.enter_kernel(0)
    w.to_user(0, 3)
    w.user_xrstor(0, ZMM_HI256)
    w.enter_kernel(0)
    w.to_user(0, 4)  # XSTATE_BV[2] = 0, and the area stays
    w.enter_kernel(0)
    w.to_user(0, 3)
    w.user_writes(0, SSE)
    w.enter_kernel(0)
    w.to_user(0, 4)
    w.enter_kernel(0)
    assert w.findings() == []
    w.to_user(0, 3)
    assert w.findings() == ([(WRONG_VALUE, "task0", "YMM")] if legacy else [])


def in_guest_with_pkru(value: int) -> World:
    w = world("xstate-guest")
    w.to_user(0, 0)
    w.enter_kernel(0)
    for step in (w.kvm_run, w.load_guest_fpu, w.run_entry, w.enter_guest):
        step(0)
    w.guest_wrpkru(0, value)
    return w


@pytest.mark.parametrize("value", [0x1234, 0xFFFFFFFC])
def test_integrity_catches_an_exit_that_leaves_the_guest_s_pkru(monkeypatch, value):
    w = in_guest_with_pkru(value)
    monkeypatch.setattr(kvm, "kvm_load_host_pkru", lambda k, cpu, vcpu: None)
    for step in (w.exit_guest, w.run_exit, w.put_guest_fpu, w.vcpu_put, w.return_to_user):
        step(0)
    assert w.findings() == [(WRONG_VALUE, "vcpu0", "PKRU")]


@pytest.mark.parametrize("value", [0x1234, 0xFFFFFFFC])
def test_integrity_catches_an_entry_without_the_guest_s_pkru(monkeypatch, value):
    w = in_guest_with_pkru(value)
    w.exit_guest(0)
    monkeypatch.setattr(kvm, "kvm_load_guest_pkru", lambda k, cpu, vcpu: None)
    w.enter_guest(0)
    assert w.findings() == [(WRONG_VALUE, "guest vcpu0", "PKRU")]


def test_integrity_catches_a_signal_frame_with_another_task_s_registers(monkeypatch):
    w = world("xstate-guest")
    w.to_user(0, 3)
    w.user_writes(0, AVX)
    w.enter_kernel(0)
    w.to_user(0, 4)
    w.user_writes(0, AVX)
    w.enter_kernel(0)
    w.schedule(0, 3)
    w.signal(3)
    monkeypatch.setattr(fpu, "fpregs_restore_userregs", lambda k, cpu, phase: None)
    w.deliver(0)
    assert w.findings() == [(FOREIGN_IN_FPSTATE, "signal frame of task0", "YMM")]


SPEC_CTRL = """
name = "spec-ctrl"
title = "an MSR that belongs to no component"
msrs = { SPEC_CTRL = 0x48 }
size_bytes = 8
per_task_msr = false
source = "a test"
"""


@pytest.mark.parametrize("mxcsr", [0x1F00, 0x9F80])
@pytest.mark.parametrize("carried", ["cet-s", SPEC_CTRL], ids=["cet-s", "spec-ctrl"])
def test_integrity_catches_another_mxcsr_once_whatever_is_carried(tmp_path, carried, mxcsr):
    if carried == SPEC_CTRL:
        path = tmp_path / "carried.toml"
        path.write_text(carried, encoding="utf-8")
        carried = str(path)
    w = world("manual-load", carried=carried)
    w.to_user(0, 3)
    w.enter_kernel(0)
    w.cpus[0].unit.ldmxcsr(mxcsr)
    for _ in range(2):
        w.return_to_user(0)
        assert w.findings() == [(WRONG_VALUE, "task0", "MXCSR")]
        w.enter_kernel(0)


@pytest.mark.parametrize("by", [-1, 1])
def test_integrity_catches_an_msr_of_each_task_that_is_not_written_at_return_to_user_once(monkeypatch, by):
    w = world("manual-load-nozero", "diamond-rapids", carried="fred-rsp0", hypothetical=True)
    w.to_user(0, 3)
    w.enter_kernel(0)
    monkeypatch.setattr(process, "update_host_msr", lambda k, cpu, phase: None)
    w.cpus[0].msrs[w.k.carried_numbers[0]] += by
    for _ in range(2):
        w.return_to_user(0)
        assert w.findings() == [(WRONG_VALUE, "task0", "FRED_RSP0")]
        w.enter_kernel(0)


@pytest.mark.parametrize("strategy", ["manual-lazy", "manual-load", "manual-exit"])
def test_an_msr_that_nobody_has_written_is_0_at_each_entry(tmp_path, strategy):
    (tmp_path / "carried.toml").write_text(SPEC_CTRL, encoding="utf-8")
    w = world(strategy, carried=str(tmp_path / "carried.toml"))
    w.to_guest(0, 0)
    for _ in range(2):
        w.exit_guest(0)
        w.enter_guest(0)
    assert w.findings() == []


def test_what_a_freed_task_left_behind_has_no_name_any_more():
    k = Kernel(config("xstate-guest"))
    task = k.new_task("A")
    token = task.context.token()
    assert k.integrity is not None
    assert k.integrity.described(token) == "A #1"
    k.forget(task)
    assert k.integrity.described(token) == f"{token:#x}"


@pytest.mark.parametrize("i", bits[USER & 0x602FF & ~(1 << 9) | CET_U])
def test_a_foreign_value_in_any_component_that_is_used_is_found_unless_ia32_xfd_disables_it(i):
    w = world("xstate-guest")
    w.to_user(0, 3)
    (cpu, _), integrity = w.cpus, w.k.integrity
    cpu.unit.regs[i] = w.tasks[4].context.token()
    integrity.consume(cpu, w.tasks[3].context, CONSUMED)
    assert len(integrity.findings) == (1 << i != XTILEDATA)


def test_a_deep_c_state_releases_tiles_that_are_in_use_and_nothing_else():
    """arch/x86/kernel/fpu/core.c, fpu_idle_fpregs(), Linux v7.3.4."""
    w = world("xstate-guest")
    cpu = w.cpus[0]
    w.to_user(0, 3)
    w.user_writes(0, AVX)
    w.enter_kernel(0)
    w.schedule(0, None)
    owner = cpu.fpregs_owner
    w.idle_c6(0)
    assert (cpu.fpregs_owner, cpu.ledger.count("TILERELEASE")) == (owner, 0)
    cpu.unit.touch(XTILE, 7)
    w.idle_c6(0)
    assert (cpu.fpregs_owner, cpu.ledger.count("TILERELEASE"), cpu.unit.xinuse & XTILE) == (None, 1, 0)
    assert cpu.ledger.count("XGETBV(1)") == 2


@pytest.mark.parametrize("mxcsr", [0x1F00, 0x9F80])
def test_integrity_catches_an_entry_with_another_mxcsr(mxcsr):
    w = world("xstate-guest")
    w.to_guest(0, 0)
    w.exit_guest(0)
    w.cpus[0].unit.ldmxcsr(mxcsr)
    w.enter_guest(0)
    assert w.findings() == [(WRONG_VALUE, "guest vcpu0", "MXCSR")]


@pytest.mark.parametrize("more", [{}, {"cpu": "diamond-rapids", "carried": "fred-rsp0", "hypothetical": True}])
def test_an_equal_value_is_none_of_another_task_or_guest_whatever_object_it_is(more):
    w = world("manual-load-nozero", **more)
    unit = w.cpus[0].unit
    w.to_guest(0, 0)
    w.guest_wrpkru(0, 0x1234)
    for step in (w.exit_guest, w.enter_guest, w.exit_guest, w.run_exit, w.put_guest_fpu, w.vcpu_put, w.return_to_user):
        unit.pkru, unit.mxcsr = int(str(unit.pkru)), int(str(unit.mxcsr))
        unit.regs = [int(str(each)) if isinstance(each, int) else each for each in unit.regs]
        step(0)
    assert w.findings() == []


@pytest.mark.parametrize(
    ("strategy", "left_out"), [("free-ssp", [8, 12, 13, 14, 15, 16]), ("xstate-guest", [8, 13, 14])]
)
def test_a_component_that_nothing_carries_is_left_out_of_the_check_at_a_vm_entry(strategy, left_out):
    w = world(strategy)
    w.to_guest(0, 0)
    w.exit_guest(0)
    for i in left_out:
        w.cpus[0].unit.regs[i] = w.tasks[4].context.token()
    w.enter_guest(0)
    assert w.findings() == []
    w.exit_guest(0)
    w.cpus[0].unit.regs[2] = w.tasks[4].context.token()
    w.enter_guest(0)
    assert w.findings() == [(WRONG_VALUE, "guest vcpu0", "YMM")]


@pytest.mark.parametrize(("value", "written"), [(0x55555554, 0), (0, 1), (0x55555550, 1), (0xFFFFFFFC, 1)])
def test_a_switch_writes_pkru_where_the_next_task_has_another_value(value, written):
    """x86_pkru_load(), arch/x86/kernel/process_64.c; init_pkru_value is 0x55555554 (arch/x86/mm/pkeys.c)."""
    w = world("xstate-guest")
    for task in (3, 4):
        w.to_user(0, task)
        w.user_wrpkru(0, value if task == 3 else int("55555554", 16))  # another object of the same value
        w.enter_kernel(0)
    ledger = w.cpus[0].ledger
    before = ledger.count("WRPKRU")
    for switches, task in enumerate((3, 4, 3), 1):
        w.to_user(0, task)
        w.enter_kernel(0)
        assert ledger.count("WRPKRU") - before == switches * written
    assert w.findings() == []


@pytest.mark.parametrize(
    ("strategy", "kernel", "carried", "guests", "of_cet"),
    [
        ("free-ssp", "v6.18", "cet-s", 0, 0),
        ("manual-load", "v6.18", "cet-s", 0, CET_S),
        ("xstate-guest", "v6.18", "cet-s", 0, CET_S),
        ("xstate-guest", "v6.18", "lbr", LBR, CET_S),  # CET_S is in its guests' fpstates besides
        ("xstate-guest", "v6.6", "lbr", LBR, 0),
        ("free-ssp", "v6.18", "lbr", 0, CET_S),
        ("manual-load", "v6.6", "spec-ctrl", 0, 0),
    ],
)
def test_a_guest_consumes_what_the_strategy_carries_and_cet_s_where_the_kernel_has_it(
    strategy, kernel, carried, guests, of_cet
):
    state = {
        "lbr": CarriedState("lbr", "t", {"LBR_CTL": 0x14CE, "LBR_DEPTH": 0x14CF}, 808, False, "a test", 15),
        "spec-ctrl": CarriedState("spec-ctrl", "t", {"SPEC_CTRL": 0x48}, 8, False, "a test"),
    }.get(carried, carried)
    k = Kernel(config(strategy, kernel=kernel, carried=state))
    assert (k.guests_consume, k.cet_guests_consume) == (guests, of_cet)


def test_the_check_keeps_the_first_hundred_findings_and_counts_all():
    w = world("xstate-guest")
    w.to_user(0, 3)
    (cpu, _), integrity = w.cpus, w.k.integrity
    for _ in range(150):
        cpu.unit.regs[2] = w.tasks[4].context.token()
        integrity.consume(cpu, w.tasks[3].context, CONSUMED)
    assert (len(integrity.findings), integrity.violations) == (100, 150)
    assert [each.got for each in integrity.findings] == [f"task1 #{k}" for k in range(1, 101)]


def test_pkru_of_a_new_task_forbids_access_by_all_keys_but_key_0():
    """init_pkru_value: PKRU_AD_KEY(1) | ... | PKRU_AD_KEY(15), two bits each (arch/x86/mm/pkeys.c)."""
    w = world("xstate-guest")
    w.to_user(0, 3)
    assert w.cpus[0].unit.pkru == w.tasks[3].pkru == sum(1 << 2 * key for key in range(1, 16))
