"""Fastpath exits, XFD, signals, INIT and what differs from kernel to kernel, instruction by instruction."""

from collections import Counter
from dataclasses import replace

import pytest
from flow_lines import QUIET, SPR, sequence, written

from sim.errors import InputError
from sim.kernel import flows, fpu, guest, kvm, process, signal
from sim.kernel.config import Settings, boot
from sim.kernel.kernel import MSRS, Kernel
from sim.kernel.operations import Log, Operation, TracePoint
from sim.kernel.scene import GuestUse, Scene
from sim.xsave.area import INIT
from sim.xsave.components import AVX, CET_U, PKRU, SSE, XTILE, XTILEDATA


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("rfc", ["VM exit", "RDPKRU", "XSETBV", "WRMSR(XSS)", "XSETBV", "WRMSR(XSS)", "VM entry"]),
        ("v6.18", ["VM exit", "RDPKRU", "XSETBV", "WRMSR(XSS)", "XSETBV", "WRMSR(XSS)", "VM entry"]),
        ("v6.19", ["VM exit", "VM entry"]),
    ],
)
def test_a_fastpath_exit_pays_for_xcr0_xss_and_pkru_until_v6_19(kernel, expected):
    assert sequence("fastpath-exit", replace(SPR, kernel=kernel)) == expected


@pytest.mark.parametrize(("name", "loads"), [("zen2", []), ("zen3", [CET_U])])
def test_after_a_switch_sigreturn_loads_the_supervisor_components_that_there_are_and_nothing_where_there_are_none(
    name, loads
):
    # __restore_fpregs_from_user(), arch/x86/kernel/fpu/signal.c: if (... && xfeatures_mask_supervisor())
    k = Kernel(boot(Settings(cpu=name, strategy="no-cet")))
    (cpu,), task = k.cpus, k.new_task("T")
    process.schedule(k, cpu, task)
    process.return_to_user(k, cpu)
    signal.deliver(k, cpu)
    process.schedule(k, cpu, cpu.idle)
    process.schedule(k, cpu, task)
    cpu.ledger.restart()
    signal.sigreturn(k, cpu)
    assert [op.rfbm for op, _ in cpu.ledger.rows() if op.operation == "XRSTORS"] == loads


def test_svm_of_v6_6_has_no_fastpath_that_re_enters():
    names = [
        step.name for step in flows.run("fastpath-exit", Settings(cpu="zen4", kernel="v6.6", strategy="no-cet")).steps
    ]
    assert len(names) == 2


@pytest.mark.parametrize(
    ("kernel", "vendor_re_enters"), [("v6.6", (1, 0)), ("v6.12", (1, 0)), ("v6.17", (1, 0)), ("v7.3", (1, 1))]
)
def test_a_tsc_deadline_write_re_enters_on_vmx_and_on_svm_since_v6_18(kernel, vendor_re_enters):
    strategy = "no-cet" if kernel in ("v6.6", "v6.12") else "xstate-guest"
    runs = [
        flows.run("fastpath-exit", Settings(cpu=cpu, kernel=kernel, strategy=strategy))
        for cpu in ("sapphire-rapids", "zen4")
    ]
    assert tuple(int(len(run.steps) == 1) for run in runs) == vendor_re_enters


def test_v6_17_carries_a_cet_s_that_no_guest_has_and_its_host_pays_for_xss_12():
    run = flows.run("preempt", Settings(cpu="zen4", kernel="v6.17", mitigations=False))
    assert not run.kernel.config.guest_has_cet
    assert [op.rfbm for op in run.operations if op.operation == "XRSTORS"] == [0x18E7, 0x18E7]
    assert sum(op.phase == "xss" for op in run.operations) == 2  # host 1800H, guest 0
    older = flows.run("preempt", Settings(cpu="zen4", kernel="v6.12", strategy="no-cet", mitigations=False))
    assert [op.rfbm for op in older.operations if op.operation == "XRSTORS"] == [0x8E7, 0x8E7]
    assert sum(op.phase == "xss" for op in older.operations) == 2  # host 800H, guest 0


AMX = Settings(cpu="sapphire-rapids", kernel="v6.18", guest_amx=True)


def xfd_accesses(flow: str, settings: Settings, use: GuestUse) -> tuple[int, int]:
    ran = Counter(op.operation for op in flows.run(flow, settings, use).operations)
    return ran["RDMSR(XFD)"], ran["WRMSR(XFD)"]


@pytest.mark.parametrize("kernel", ["v6.6", "v6.18", "v6.19"])
@pytest.mark.parametrize("flow", ["in-kernel-exit", "userspace-exit", "preempt", "halt", "kernel-preempt"])
def test_a_guest_with_amx_has_xfd_read_at_each_exit_and_written_at_no_switch(flow, kernel):
    # fpu__init_cpu_xstate() of the guest wrote 40000H, which is the host's value too: fpu_swap_kvm_fpstate() finds
    # nothing to write, and fpu_sync_guest_vmexit_xfd_state() reads at every exit that leaves the fastpath loop.
    strategy = "no-cet" if kernel == "v6.6" else "xstate-guest"
    assert xfd_accesses(flow, replace(AMX, kernel=kernel, strategy=strategy), QUIET) == (1, 0)


@pytest.mark.parametrize(
    ("flow", "writes"), [("in-kernel-exit", 0), ("halt", 0), ("preempt", 2), ("userspace-exit", 2)]
)
@pytest.mark.parametrize("xrstors", [False, True])
def test_while_a_guests_task_has_tiles_its_xfd_is_0_and_the_hosts_is_not(flow, writes, xrstors):
    assert xfd_accesses(flow, AMX, GuestUse(tiles=True, xrstors=xrstors)) == (1, writes)


def test_a_fastpath_exit_does_not_read_xfd():
    assert xfd_accesses("fastpath-exit", AMX, QUIET) == (0, 0)


def test_a_guest_without_amx_leaves_xfd_alone_and_the_host_writes_its_own():
    assert xfd_accesses("userspace-exit", replace(AMX, guest_amx=False), QUIET) == (0, 2)


@pytest.mark.parametrize(
    ("settings", "use", "in_c6", "restores"),
    [
        (AMX, GuestUse(tiles=True), ["XGETBV(1)", "TILERELEASE"], 1),
        (AMX, QUIET, ["XGETBV(1)"], 0),
        (Settings(cpu="zen4"), QUIET, [], 0),
    ],
)
def test_a_halt_in_c6_releases_the_tiles_of_a_guest_which_its_next_entry_restores(settings, use, in_c6, restores):
    """fpu_idle_fpregs(): without an owner, fpregs_state_valid() is false.  No other guest pays a restore."""
    run = flows.run("halt-c6", settings, use)
    assert [op.operation for op in run.operations if op.phase == "idle"] == in_c6
    assert [op.operation for op in run.operations].count("XRSTORS") == restores
    assert not run.findings


def test_tiles_need_a_guest_with_amx():
    with pytest.raises(InputError, match="--guest-amx"):
        flows.run("halt", replace(AMX, guest_amx=False), GuestUse(tiles=True))


def test_xfd_goes_with_a_guests_tasks_by_passed_through_writes():
    scene = Scene(Kernel(boot(AMX), 2), QUIET)
    scene.start_in_guest()
    k, cpu = scene.k, scene.cpu
    before = Counter(cpu.ledger.counts)
    for components, xfd in ((SSE, XTILEDATA), (SSE | XTILE, 0), (SSE | AVX, XTILEDATA), (XTILE, 0)):
        guest.switches_task(k, cpu, components)
        assert cpu.unit.xfd == xfd
    guest.switches_task(k, cpu, SSE)
    guest.writes(k, cpu, XTILE)  # by a task that has tiles
    assert cpu.unit.xfd == 0
    assert Counter(cpu.ledger.counts) == before  # none of them is an exit
    guest.switches_task(k, cpu, SSE)
    guest.uses_disabled_amx(k, cpu)  # by a task that had none: #NM, then WRMSR(XFD_ERR), which is intercepted
    assert [key[2] for key in (Counter(cpu.ledger.counts) - before).elements()].count("VM exit") == 2
    assert cpu.unit.xfd == 0
    assert k.integrity is not None
    assert not k.integrity.findings


@pytest.mark.parametrize(
    ("settings", "tiles", "reads"),
    [(AMX, False, 1), (AMX, True, 0), (replace(AMX, guest_amx=False), False, 0), (Settings(cpu="zen4"), False, 0)],
)
def test_a_nm_exit_reads_xfd_err_only_if_the_guests_xfd_is_not_0(settings, tiles, reads):
    """handle_nm_fault_irqoff(), arch/x86/kvm/vmx/vmx.c in v6.6.0, v6.12.117, v6.18.2 and v7.3.4."""
    scene = Scene(Kernel(boot(settings), 2), QUIET)
    scene.start_in_guest()
    if tiles:
        guest.writes(scene.k, scene.cpu, XTILE)
    kvm.vm_exit(scene.k, scene.cpu, "nm")
    assert scene.cpu.ledger.count("RDMSR(XFD_ERR)") == reads


def test_a_guest_that_boots_again_after_an_init_writes_xfd_without_an_exit():
    scene = Scene(Kernel(boot(AMX), 2), QUIET)
    scene.start_in_guest()
    k, cpu = scene.k, scene.cpu
    kvm.vm_exit(k, cpu, "external-interrupt")
    kvm.guest_init(k, cpu)
    kvm.vcpu_enter_guest(k, cpu)
    before = Counter(cpu.ledger.counts)
    guest.boots(k, cpu)
    assert [key[2] for key in (Counter(cpu.ledger.counts) - before).elements()].count("VM exit") == 1  # CR4
    assert (scene.vcpu.cr4_osxsave, cpu.unit.xfd) == (True, XTILEDATA)


def test_a_guest_that_uses_xfd_costs_a_read_at_every_exit_and_two_writes_around_user_space():
    scene = Scene(Kernel(boot(Settings(cpu="sapphire-rapids", kernel="v6.19", guest_amx=True)), 2), QUIET)
    scene.start_in_guest()
    k, cpu = scene.k, scene.cpu
    before = Counter(cpu.ledger.counts)
    kvm.vm_exit(k, cpu, "io")
    kvm.vcpu_enter_guest(k, cpu)
    ran = Counter(key[2] for key in (Counter(cpu.ledger.counts) - before).elements())
    assert (ran["RDMSR(XFD)"], ran["WRMSR(XFD)"]) == (1, 0)  # the guest's value stays, as all registers do
    guest.uses_disabled_amx(k, cpu)
    guest.writes(k, cpu, XTILE)
    kvm.vm_exit(k, cpu, "io")
    assert (scene.vcpu.fpstate.xfd, cpu.unit.xfd) == (0, 0)
    scene.leave_kvm_run("KVM_EXIT_IO")
    assert cpu.unit.xfd == XTILEDATA
    assert scene.vcpu.fpstate.area.xstate_bv & XTILE == XTILE
    scene.back_to_user()
    scene.enter_kvm_run()
    scene.run_guest()
    assert k.integrity is not None
    assert not k.integrity.findings


def test_sigreturn_is_one_xrstor_of_all_user_features():
    # save_sw_bytes() notes user_xfeatures, not what XGETBV(1) let the XSAVE leave out.
    run = flows.run("signal", SPR)
    back = next(step for step in run.steps if step.name == "sigreturn")
    assert [written(op) for op in back.operations[:1]] == ["XRSTOR 202e7 207"]
    assert [op.operation for op in back.operations if op.rfbm] == ["XRSTOR"]


def test_opening_pkru_for_the_signal_frame_reads_it_twice_since_v6_18():
    def delivered(kernel: str, **more: str) -> list[str]:
        run = flows.run("signal", Settings(cpu="zen4", kernel=kernel, mitigations=False, **more))
        return [op.operation for step in run.steps if "delivered" in step.name for op in step.operations]

    assert delivered("v6.18") == ["RDPKRU", "RDPKRU", "WRPKRU", "XSAVE", "XRSTORS", "WRPKRU"]
    assert delivered("v6.6", strategy="no-cet") == ["XSAVE", "XRSTORS", "WRPKRU"]


@pytest.mark.parametrize(("kernel", "reads"), [("v6.6", 3), ("v6.18", 1)])
def test_kvm_reads_pkru_again_before_each_write_in_v6_6(kernel, reads):
    scene = Scene(Kernel(boot(Settings(cpu="zen4", kernel=kernel, strategy="no-cet")), 2), QUIET)
    scene.start_in_guest()
    k, cpu = scene.k, scene.cpu
    guest.wrpkru(k, cpu, 0)
    before = Counter(cpu.ledger.counts)
    kvm.vm_exit(k, cpu, "io")
    kvm.vcpu_enter_guest(k, cpu)
    ran = Counter(key[2] for key in (Counter(cpu.ledger.counts) - before).elements())
    assert (ran["RDPKRU"], ran["WRPKRU"]) == (reads, 2)


@pytest.mark.parametrize(("kernel", "evicted"), [("v6.6", True), ("v6.18", False)])
def test_a_task_killed_in_its_sleep_evicts_whoever_owns_the_registers_only_in_v6_6(kernel, evicted):
    scene = Scene(Kernel(boot(Settings(cpu="zen4", kernel=kernel, strategy="no-cet")), 2), QUIET)
    scene.run_user(scene.a)
    scene.run_user(scene.b)
    process.schedule(scene.k, scene.cpu, scene.a)  # woken by the signal, it never returns to user mode
    process.exit(scene.k, scene.cpu)
    assert scene.cpu.ledger.count("FWAIT") == evicted
    process.schedule(scene.k, scene.cpu, scene.b)
    process.return_to_user(scene.k, scene.cpu)
    assert scene.cpu.ledger.count("restore skipped") == (not evicted)


def test_no_cet_on_a_kernel_that_would_carry_cet_s_is_hypothetical():
    assert boot(Settings(cpu="zen4", kernel="v6.18", strategy="no-cet")).hypothetical
    assert not boot(Settings(cpu="zen4", kernel="v6.6", strategy="no-cet")).hypothetical
    assert not boot(Settings(cpu="ice-lake-sp", kernel="v6.18", strategy="no-cet")).hypothetical


@pytest.mark.parametrize(("kernel", "loaded"), [("v6.6", False), ("v6.18", True)])
def test_a_pkru_of_0_is_initial_in_the_signal_frame_of_v6_6_and_patched_in_since_v6_18(kernel, loaded):
    scene = Scene(Kernel(boot(Settings(kernel=kernel, strategy="no-cet")), 2), QUIET)
    scene.run_user(scene.a)
    process.user_wrpkru(scene.cpu, 0)
    signal.deliver(scene.k, scene.cpu)
    assert bool(scene.a.frames[-1].area.xstate_bv & PKRU) == loaded


def test_after_an_init_a_vmx_guest_s_syscall_msrs_wait_until_it_is_in_long_mode_again():
    scene = Scene(Kernel(boot(SPR), 2), QUIET)
    scene.start_in_guest()
    k, cpu = scene.k, scene.cpu
    kvm.vm_exit(k, cpu, "external-interrupt")
    kvm.guest_init(k, cpu)
    process.schedule(k, cpu, scene.n)
    scene.back_to_user()
    process.schedule(k, cpu, scene.v)
    before = cpu.ledger.count("WRMSR(LSTAR)")
    kvm.vcpu_enter_guest(k, cpu)
    assert cpu.ledger.count("WRMSR(LSTAR)") == before
    guest.writes(k, cpu, AVX)
    assert cpu.ledger.count("WRMSR(LSTAR)") == before + 1


@pytest.mark.parametrize(("kernel", "loads"), [("rfc", True), ("v6.18", False)])
def test_the_msr_ioctl_of_the_rfc_loads_the_fpu_whatever_the_guest_s_cpuid(kernel, loads):
    k = Kernel(boot(Settings(kernel=kernel, guest_cet=False)))
    assert kvm.msr_ioctl_loads_fpu(k, k.new_vcpu("V")) == loads


def test_a_violation_while_the_scene_is_set_is_not_lost():
    # The RFC's patches 3-5 without 7: V was preempted once before the first step that is shown, and lost its SSPs.
    run = flows.run("preempt", Settings(kernel="rfc", patches=frozenset((3, 4, 5))))
    assert [(step, finding.kind) for step, finding in run.findings] == [(flows.SCENE_SETTING, "wrong-value")]


@pytest.mark.parametrize("ssp", ["none", "wrmsr"])
def test_a_guest_that_loads_no_new_ssps_keeps_those_it_has_when_it_switches_tasks(ssp):
    scene = Scene(Kernel(boot(SPR), 2), GuestUse(xrstors=True, ssp=ssp))
    scene.start_in_guest()
    had = scene.cpu.unit.regs[12]
    scene.guest_works()
    assert (scene.cpu.unit.regs[12], had == INIT) == (had, ssp == "none")


def test_tiles_that_a_handler_was_the_first_to_use_are_initial_after_sigreturn():
    # fpu__restore_sig(): what the frame has no features for comes from init_fpstate.
    scene = Scene(Kernel(boot(SPR), 2), QUIET)
    k, cpu = scene.k, scene.cpu
    scene.run_user(scene.a)
    signal.deliver(k, cpu)
    fpu.handle_xfd_event(k, cpu)
    process.user_writes(k, cpu, XTILEDATA)
    assert cpu.unit.regs[18]
    signal.sigreturn(k, cpu)
    assert not cpu.unit.regs[18]
    assert [key[3] for key in cpu.ledger.counts if key[1] == "signal" and len(key) > 3].count(XTILEDATA) == 1
    process.return_to_user(k, cpu)
    assert not k.integrity.findings


def test_ptrace_is_traced_before_and_after_its_save_also_where_there_is_none_to_do():
    events: list[tuple[int, Operation | TracePoint]] = []
    scene = Scene(Kernel(boot(SPR), 2, ledger=lambda cpu: Log(cpu, events), tracing=True), QUIET)
    scene.run_user(scene.a)
    seen = []
    for _ in range(2):
        events.clear()
        signal.fpu_sync_fpstate(scene.k, scene.cpu)
        seen.append([event.event if isinstance(event, TracePoint) else event.operation for _, event in events])
        scene.a.need_fpu_load = True
    traced = ["x86_fpu:x86_fpu_before_save", "x86_fpu:x86_fpu_after_save"]
    assert seen == [[traced[0], "XSAVES", traced[1]], traced]


def test_an_msr_has_its_number_in_tracepoints():
    """arch/x86/include/asm/msr-index.h."""
    assert {name: f"{number:x}" for name, number in MSRS.items()} == {
        "EFER": "c0000080", "STAR": "c0000081", "LSTAR": "c0000082", "CSTAR": "c0000083", "SYSCALL_MASK": "c0000084",
        "KERNEL_GS_BASE": "c0000102", "TSC_AUX": "c0000103", "TSX_CTRL": "122", "XFD": "1c4", "XFD_ERR": "1c5",
        "XSS": "da0", "U_CET": "6a0", "PL3_SSP": "6a7",
    }  # fmt: skip


@pytest.mark.parametrize("reason", ["wrmsr-icr", "preemption-timer"])
def test_an_exit_is_handled_in_the_fastpath_unless_there_is_a_request(reason):
    k = Kernel(boot(Settings(kernel="v6.18")))
    assert kvm.exit_path(k, reason).fastpath
    assert not kvm.exit_path(k, reason, exit_request=True).fastpath


def test_what_is_no_save_or_restore_has_no_masks_in_the_ledger():
    others = [op for op in flows.run("preempt", SPR).operations if op.operation not in ("XSAVES", "XRSTORS")]
    assert len(others) > 10
    assert {op[3:] for op in others} == {(0, 0, 0, "")}
    assert Operation(*others[0][:3]) == others[0]
