"""The worked sequences: one preemption, one halt, one exit to user space, one ping-pong, operation for operation.

The expected lists are written down from Linux's source order (v6.19: __schedule, __switch_to, vcpu_enter_guest,
fpu_swap_kvm_fpstate), not from the model.  Notation: a save is NAME RFBM written, a restore NAME RFBM loaded.
"""

from collections import Counter
from dataclasses import replace

import pytest
from flow_lines import QUIET, SPR, sequence, written

from sim.kernel import flows, process
from sim.kernel.config import Settings, boot
from sim.kernel.kernel import Kernel
from sim.kernel.operations import Operation, TracePoint
from sim.kernel.scene import GuestUse, Scene

GENOA = Settings(cpu="zen4", kernel="v6.19", mitigations=False)


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


EXIT_SPR = "VM exit\nRDPKRU\nXSETBV\nWRMSR(XSS)\n"
ENTRY_SPR = "XSETBV\nWRMSR(XSS)\nVM entry\n"
PUT_SPR = "RDMSR(KERNEL_GS_BASE)\nWRMSR(KERNEL_GS_BASE)\n"
LOAD_SPR = "WRMSR(LSTAR)\nWRMSR(TSC_AUX)\nWRMSR(KERNEL_GS_BASE)\n"

W1_SPR = (
    EXIT_SPR
    + "context switch\n"
    + PUT_SPR
    + "XSAVES 21ee7 {guest}\nRDPKRU\n"
    + "WRMSR(LSTAR)\nWRMSR(TSC_AUX)\nWRMSR(XFD)\nXRSTORS 61ce7 6\n"
    + "context switch\nXSAVES 20ee7 206\nRDPKRU\nRDPKRU\n"
    + LOAD_SPR
    + "WRMSR(XFD)\nXRSTORS 61ce7 {loaded}\n"
    + ENTRY_SPR
)


def test_w1_preemption_by_a_busy_user_task_with_a_guest_that_ran_no_xrstors():
    # XRSTOR_INFO still names the guest fpstate: CET_S (12) is in use and unmodified, so it is not written again.
    assert sequence("preempt", SPR) == lines(W1_SPR.format(guest="206", loaded="1006"))


def test_w1_preemption_with_a_guest_that_switched_tasks_writes_all_in_use_components():
    # XRSTOR_INFO has x = 1: no match, so everything with XINUSE = 1 is written, CET_S included.
    assert sequence("preempt", SPR, GuestUse(xrstors=True)) == lines(W1_SPR.format(guest="1207", loaded="1007"))


def test_w1_saves_of_the_preempting_task_use_the_modified_optimisation():
    settings = Settings(cpu="sapphire-rapids", kernel="v6.19", mitigations=False, modified_optimisation=False)
    expected = lines(W1_SPR.format(guest="1206", loaded="1006"))
    assert sequence("preempt", settings) == expected


def test_w1_preemption_by_a_kernel_thread_has_no_restore_no_xfd_and_no_user_return_msrs():
    assert sequence("kernel-preempt", SPR) == lines(
        EXIT_SPR
        + "context switch\n"
        + PUT_SPR
        + "XSAVES 21ee7 206\nRDPKRU\n"
        + "context switch\nRDPKRU\nRDPKRU\n"
        + "WRMSR(KERNEL_GS_BASE)\nrestore skipped\n"
        + ENTRY_SPR
    )


def test_w1_on_svm_has_vmload_vmsave_and_no_kernel_gs_base():
    assert sequence("preempt", GENOA) == lines(
        """VM exit
        VMSAVE
        VMLOAD
        RDPKRU
        context switch
        XSAVES 1ae7 206
        RDPKRU
        WRMSR(TSC_AUX)
        XRSTORS 18e7 6
        context switch
        XSAVES ae7 206
        RDPKRU
        RDPKRU
        VMSAVE
        WRMSR(TSC_AUX)
        XRSTORS 18e7 1006
        VMLOAD
        VM entry"""
    )


MANUAL_SAVE = "RDMSR(PL0_SSP)\nRDMSR(PL1_SSP)\nRDMSR(PL2_SSP)\nWRMSR(PL0_SSP)\n"
MANUAL_LOAD = "WRMSR(PL0_SSP)\nWRMSR(PL1_SSP)\nWRMSR(PL2_SSP)\n"


def with_strategy(settings: Settings, strategy: str) -> Settings:
    return Settings(cpu=settings.cpu, kernel=settings.kernel, mitigations=False, strategy=strategy)


def test_w1_manual_load_adds_three_reads_and_a_write_after_kernel_gs_base_and_three_writes_before_entry():
    expected = W1_SPR.format(guest="206", loaded="6").replace("21ee7", "20ee7").replace("61ce7", "60ce7")
    expected = expected.replace(PUT_SPR, PUT_SPR + MANUAL_SAVE).replace(LOAD_SPR, LOAD_SPR + MANUAL_LOAD)
    assert sequence("preempt", with_strategy(SPR, "manual-load")) == lines(expected)


def ssp_accesses(run: flows.FlowRun) -> list[str]:
    return [f"{step.name}: {op.operation}" for step in run.steps for op in step.operations if "SSP" in op.operation]


@pytest.mark.parametrize(("strategy", "reads", "writes"), [("manual-load", 3, 4), ("manual-lazy", 0, 0)])
def test_a_guest_that_never_wrote_its_ssps_pays_for_v5_09_19_and_not_with_15_19(strategy, reads, writes):
    run = flows.run("preempt", with_strategy(SPR, strategy), GuestUse(ssp="none"))
    accesses = Counter(each.rsplit(": ", 1)[1][:5] for each in ssp_accesses(run))
    assert (accesses["RDMSR"], accesses["WRMSR"]) == (reads, writes)


def test_user_return_restores_pl0_ssp_alone_and_loads_it_alone_where_this_guest_ran_last():
    # Christopherson, 19 Jul 2023: it "should only ever touch PL0_SSP", Linux runs nothing at CPL 1 or 2.
    run = flows.run("userspace-exit", with_strategy(SPR, "user-return"))
    reads = [f"KVM_RUN returns: RDMSR(PL{i}_SSP)" for i in range(3)]
    assert ssp_accesses(run) == [
        *reads,
        "the VMM returns to user mode and runs: WRMSR(PL0_SSP)",
        "V enters the guest: WRMSR(PL0_SSP)",
    ]


def test_user_return_loads_all_three_after_another_guest_and_restores_none_if_no_task_returns_to_user_mode():
    run = flows.run("vcpu-switch", with_strategy(SPR, "user-return"))
    assert ssp_accesses(run) == [
        *(f"schedule: V -> W: RDMSR(PL{i}_SSP)" for i in range(3)),
        *(f"W enters the guest: WRMSR(PL{i}_SSP)" for i in range(3)),
        *(f"schedule: W -> V: RDMSR(PL{i}_SSP)" for i in range(3)),
        *(f"V enters the guest: WRMSR(PL{i}_SSP)" for i in range(3)),
    ]
    assert not [each for each in ssp_accesses(flows.run("halt", with_strategy(SPR, "user-return"))) if "WRMSR" in each]


def test_w1_manual_run_has_the_same_accesses_in_the_notifiers():
    expected = W1_SPR.format(guest="206", loaded="6").replace("21ee7", "20ee7").replace("61ce7", "60ce7")
    # sched_out: before kvm_arch_vcpu_put; sched_in: before kvm_arch_vcpu_load, whose RDPKRU is the second.
    expected = expected.replace("context switch\n" + PUT_SPR, "context switch\n" + MANUAL_SAVE + PUT_SPR)
    expected = expected.replace("RDPKRU\nRDPKRU\n", "RDPKRU\n" + MANUAL_LOAD + "RDPKRU\n")
    assert sequence("preempt", with_strategy(SPR, "manual-run")) == lines(expected)


def test_w2_halt_on_an_idle_cpu_saves_once_and_restores_nothing():
    expected = (
        EXIT_SPR
        + "context switch\n"
        + PUT_SPR
        + "XSAVES 21ee7 206\nRDPKRU\n"
        + "context switch\nRDPKRU\nRDPKRU\n"
        + "WRMSR(KERNEL_GS_BASE)\nrestore skipped\n"
        + ENTRY_SPR
    )
    assert sequence("halt", SPR) == lines(expected)


def test_w2_halt_on_svm():
    assert sequence("halt", GENOA) == lines(
        """VM exit
        VMSAVE
        VMLOAD
        RDPKRU
        context switch
        XSAVES 1ae7 206
        RDPKRU
        context switch
        RDPKRU
        RDPKRU
        VMSAVE
        restore skipped
        VMLOAD
        VM entry"""
    )


def test_w3_exit_to_user_space_and_back():
    expected = (
        EXIT_SPR
        + "XSAVES 21ee7 206\nWRMSR(XFD)\nXRSTORS 61ce7 6\n"
        + PUT_SPR
        + "WRMSR(LSTAR)\nWRMSR(TSC_AUX)\n"
        + "KVM_RUN\nRDPKRU\nXSAVES 20ee7 206\nWRMSR(XFD)\nXRSTORS 61ce7 1006\n"
        + LOAD_SPR
        + ENTRY_SPR
    )
    assert sequence("userspace-exit", SPR) == lines(expected)


def test_w3_exit_to_user_space_on_svm():
    assert sequence("userspace-exit", GENOA) == lines(
        """VM exit
        VMSAVE
        VMLOAD
        RDPKRU
        XSAVES 1ae7 206
        XRSTORS 18e7 6
        WRMSR(TSC_AUX)
        KVM_RUN
        RDPKRU
        XSAVES ae7 206
        XRSTORS 18e7 1006
        VMSAVE
        WRMSR(TSC_AUX)
        VMLOAD
        VM entry"""
    )


W4 = """context switch
XSAVES {save} 206
RDPKRU
{xfd}XRSTORS {restore} 6
context switch
XSAVES {save} 206
RDPKRU
{xfd}XRSTORS {restore} 6
"""


@pytest.mark.parametrize(
    ("strategy", "save", "restore"),
    [
        ("no-cet", "20ee7", "60ce7"),
        ("xstate-guest", "20ee7", "61ce7"),
        ("xstate-all", "21ee7", "61ce7"),
        ("xstate-guest-resident", "20ee7", "60ce7"),
        ("xstate-all-resident", "21ee7", "60ce7"),
    ],
)
def test_w4_ping_pong_runs_the_same_instructions_whatever_the_strategy(strategy, save, restore):
    # Both tasks have XFD = 40000H, so it is not written between them.
    assert sequence("ping-pong", with_strategy(SPR, strategy)) == lines(W4.format(save=save, restore=restore, xfd=""))


def test_w4_on_svm():
    assert sequence("ping-pong", GENOA) == lines(W4.format(save="ae7", restore="18e7", xfd=""))


def test_a_signal_to_a_vcpu_that_was_scheduled_out_leaves_kvm_run_without_a_save_of_the_guest_fpstate():
    run = flows.run("signal", SPR)
    leave = next(step for step in run.steps if step.name.startswith("KVM_RUN returns"))
    # No VM entry since vcpu_load, so there is no KERNEL_GS_BASE to put back either.
    assert [written(op) for op in leave.operations] == ["XRSTORS 61ce7 6"]


def test_after_a_signal_the_next_save_cannot_use_the_modified_optimisation():
    # XRSTOR_INFO names the user's frame, or init_fpstate: everything in use is written though unmodified.
    run = flows.run("signal", GENOA)
    save = next(op for step in run.steps if step.name == "KVM_RUN is called" for op in step.operations if op.rfbm)
    assert save.operation == "XSAVES"
    assert save.components == save.rfbm & ~save.initialised


def test_kernel_fpu_begin_between_exit_and_entry_costs_a_save_and_a_restore():
    assert sequence("kernel-fpu", SPR) == lines(
        EXIT_SPR + "XSAVES 21ee7 206\nLDMXCSR\nXRSTORS 61ce7 1006\n" + ENTRY_SPR
    )


def test_fork_saves_the_parent_into_the_child_and_the_child_restores_what_it_got():
    assert sequence("fork", GENOA) == lines(
        """XSAVES ae7 206
        RDPKRU
        context switch
        XSAVES ae7 206
        RDPKRU
        XRSTORS 18e7 6"""
    )


def test_a_guest_init_costs_two_swaps_and_loads_zeroes_into_cet_s():
    # fpstate_clear_xstate_component() zeroes the bytes and leaves XSTATE_BV[12] = 1.
    run = flows.run("init", SPR)
    reset = next(step for step in run.steps if step.name == "kvm_vcpu_reset()")
    assert [written(op) for op in reset.operations] == [
        "XSAVES 21ee7 206", "WRMSR(XFD)", "XRSTORS 61ce7 6", "XSAVES 20ee7 200", "WRMSR(XFD)", "XRSTORS 61ce7 1006",
    ]  # fmt: skip
    assert not run.findings


def test_after_an_init_the_guest_is_entered_without_xcr0_and_xss_because_cr4_osxsave_is_0():
    entry = flows.run("init", SPR).steps[-1]
    assert [written(op) for op in entry.operations] == ["WRMSR(KERNEL_GS_BASE)", "restore skipped", "VM entry"]


def test_a_guest_init_costs_nothing_where_neither_cet_nor_mpx_is_supported():
    run = flows.run("init", Settings(cpu="zen4", kernel="v6.6", strategy="no-cet"))
    assert [step.operations for step in run.steps if step.name == "kvm_vcpu_reset()"] == [()]


def test_a_short_ioctl_swaps_no_fpstate():
    run = flows.run("short-ioctl", SPR)
    ioctl = [step for step in run.steps if step.name.startswith("KVM_GET_REGS")]
    assert [written(op) for step in ioctl for op in step.operations] == ["RDPKRU"]


def test_a_migrated_vcpu_is_cleared_where_it_was_and_restored_where_it_goes():
    run = flows.run("migrate", SPR)
    events = [
        (cpu, event.operation) for step in run.steps for cpu, event in step.events if isinstance(event, Operation)
    ]
    assert (0, "VMCLEAR") in events
    assert (1, "VMPTRLD") in events
    assert (1, "XRSTORS") in events
    assert (1, "restore skipped") not in events


@pytest.mark.parametrize("kernel", ["rfc", "v6.18", "v6.19"])
def test_kvm_exit_is_traced_before_the_xss_write_only_since_v6_19(kernel):
    step = flows.run("preempt", Settings(kernel=kernel)).steps[0]
    events = [event.event for _, event in step.events if isinstance(event, TracePoint)]
    expected = ["kvm:kvm_exit", "msr:write_msr"]
    assert events == (expected if kernel == "v6.19" else expected[::-1])


def test_the_tracepoints_of_one_preemption_come_in_the_order_of_a_real_trace():
    events = [
        f"{event.event.split(':')[1]} {event.fields.get('msr', event.fields.get('load', ''))}".strip()
        for step in flows.run("preempt", SPR).steps
        for _, event in step.events
        if isinstance(event, TracePoint)
    ]
    assert events == [
        "kvm_exit", "write_msr da0", "sched_switch", "read_msr c0000102", "write_msr c0000102",
        "x86_fpu_regs_deactivated 1", "write_msr c0000082", "write_msr c0000103", "write_msr 1c4",
        "x86_fpu_regs_activated 1", "sched_switch", "x86_fpu_regs_deactivated 1",
        "write_msr c0000082", "write_msr c0000103", "write_msr c0000102", "write_msr 1c4",
        "x86_fpu_regs_activated 1", "write_msr da0", "kvm_entry",
    ]  # fmt: skip


def test_the_load_field_of_the_tracepoint_is_0_before_v6_16_and_1_after():
    def loads(kernel: str) -> set[object]:
        run = flows.run("ping-pong", Settings(cpu="zen4", kernel=kernel, strategy="no-cet"))
        return {
            event.fields["load"]
            for step in run.steps
            for _, event in step.events
            if isinstance(event, TracePoint) and event.event.endswith("regs_deactivated")
        }

    assert (loads("v6.6"), loads("v6.18")) == ({0}, {1})


def test_vmscape_adds_an_ibpb_at_the_first_return_to_user_mode_after_a_guest_and_nothing_else():
    plain, mitigated = (sequence("preempt", replace(SPR, mitigations=each)) for each in (False, ("vmscape",)))
    assert [op for op in mitigated if op != "IBPB"] == plain
    assert mitigated.count("IBPB") == 1


def test_wrmsr_xss_vanishes_on_zen4_for_a_guest_with_1800h_and_appears_for_one_with_800h():
    def xss(strategy: str, guest_xss: int) -> int:
        settings = Settings(cpu="zen4", kernel="v6.19", strategy=strategy, guest_xss=guest_xss)
        return sum(op.phase == "xss" for op in flows.run("preempt", settings).operations)

    assert {strategy: (xss(strategy, 0x1800), xss(strategy, 0x800)) for strategy in ("free-ssp", "xstate-guest")} == {
        "free-ssp": (2, 0),
        "xstate-guest": (0, 2),
    }


def test_exec_restores_initial_state_and_saves_nothing():
    scene = Scene(Kernel(boot(Settings(cpu="zen4", kernel="v6.18")), 2), QUIET)
    scene.run_user(scene.a)
    before = Counter(scene.cpu.ledger.counts)
    process.exec(scene.k, scene.cpu)
    process.return_to_user(scene.k, scene.cpu)
    ran = {key[2:] for key in (Counter(scene.cpu.ledger.counts) - before)}
    assert ran == {("WRPKRU",), ("XRSTORS", 0x18E7, 0, 0x18E7)}


def test_an_exit_that_kvm_handles_runs_no_save_and_no_restore():
    assert sequence("in-kernel-exit", SPR) == lines(EXIT_SPR + ENTRY_SPR)


def test_two_vcpus_on_a_cpu_save_and_restore_each_and_load_no_normal_fpstate():
    one_way = """VM exit
        VMSAVE
        VMLOAD
        RDPKRU
        context switch
        XSAVES 1ae7 206
        RDPKRU
        IBPB
        RDPKRU
        VMSAVE
        WRMSR(TSC_AUX)
        XRSTORS 18e7 1006
        VMLOAD
        VM entry"""
    assert sequence("vcpu-switch", replace(GENOA, mitigations=("ibpb",))) == 2 * lines(one_way)


def test_a_guest_without_cet_on_a_kernel_with_guest_only_cet_s_has_its_masks_and_no_guest_xss():
    config = boot(Settings(cpu="zen4", kernel="v6.18", guest_cet=False))
    assert (config.masks.xss, config.guest_xfeatures, config.guest_xss) == (0x1800, 0x1AE7, 0)
    assert not config.hypothetical
