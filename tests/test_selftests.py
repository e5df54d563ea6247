"""The tests that the RFC names in its cover letter, as flows, under every strategy."""

import json

import pytest
from click.testing import CliRunner

from sim.cli import cli
from sim.kernel import flows, kvm, smm, strategies
from sim.kernel.config import Settings, boot
from sim.kernel.integrity import VIOLATIONS
from sim.kernel.kernel import Kernel
from sim.kernel.scene import GuestUse, Scene
from sim.kernel.selftests import NEEDS_AMX, SELFTESTS
from sim.xsave.components import XTILEDATA

SOUND = [name for name in strategies.names() if not strategies.strategy(name).unsound]
HOSTS = [("sapphire-rapids", "v6.18"), ("sapphire-rapids", "v7.3"), ("sapphire-rapids", "rfc"), ("zen4", "v6.18")]
USES = [GuestUse(), GuestUse(xrstors=True, ssp="rewritten"), GuestUse(ssp="none")]


def violations(flow, settings, use):
    run = flows.run(flow, settings, use)
    return {finding.kind for _, finding in run.findings if finding.kind in VIOLATIONS}


@pytest.mark.parametrize("use", USES, ids=["wrmsr", "rewritten", "none"])
@pytest.mark.parametrize(("cpu", "kernel"), HOSTS)
def test_every_sound_strategy_passes_every_test_of_the_rfc(cpu, kernel, use):
    for name in SOUND:
        settings = Settings(cpu=cpu, kernel=kernel, strategy=name, hypothetical=True)
        for flow in SELFTESTS:
            if cpu == "sapphire-rapids" or flow not in NEEDS_AMX:
                assert (name, flow, violations(flow, settings, use)) == (name, flow, set())


# Patch 7 puts the guest-only features into the guest fpstate: without it nothing carries the SSPs.
@pytest.mark.parametrize(("flow", "found"), [("test-fpu", True), ("state-test", True), ("amx-64", True)])
def test_they_would_have_found_a_series_without_patch_7(flow, found):
    settings = Settings(kernel="rfc", patches=frozenset((3, 4, 5)))
    assert bool(violations(flow, settings, GuestUse())) == found


@pytest.mark.parametrize(
    ("strategy", "flow", "kind"),
    [
        ("manual-lazy", "ssp-test", "guest-to-guest"),
        ("manual-lazy", "state-test", "guest-to-guest"),
        ("xstate-all-resident", "test-fpu", "foreign-in-fpstate"),
    ],
)
def test_they_find_what_is_unsound_about(strategy, flow, kind):
    assert violations(flow, Settings(strategy=strategy), GuestUse()) == {kind}


def steps(flow, **more):
    run = flows.run(flow, Settings(mitigations=False, **more), GuestUse())
    return [(step.name, [op.operation for op in step.operations]) for step in run.steps]


def test_kvm_swaps_neither_xcr0_nor_ia32_xss_while_the_guest_is_in_smm_and_both_after_rsm():
    swaps = [
        (name, [op for op in operations if op in ("XSETBV", "WRMSR(XSS)")])
        for name, operations in steps("smm-test")
        if {"VM entry", "VM exit"} & set(operations)
    ]
    both = ["XSETBV", "WRMSR(XSS)"]
    assert [found for _, found in swaps] == [both, [], [], [], [], [], [], both]
    assert [name for name, found in swaps if found] == ["VM exit: SMI", "R enters the guest"]


def test_a_system_call_that_uses_the_fpu_saves_the_task_s_registers_first_and_the_return_to_user_mode_restores_them():
    names = dict(steps("test-fpu"))
    reads = "A reads test_fpu: kernel_fpu_begin(), arithmetic, kernel_fpu_end()"
    assert names[reads] == ["XSAVES", "LDMXCSR"]
    run = steps("test-fpu")
    after = run[[name for name, _ in run].index(reads) + 1]
    assert after == ("A returns to user mode and runs", ["XRSTORS"])


def test_a_child_inherits_no_tiles_and_each_task_with_tiles_has_its_own():
    run = flows.run("amx-64", Settings(), GuestUse())
    child = next(context for context in run.kernel.contexts.values() if context.name == "C")
    parent = next(context for context in run.kernel.contexts.values() if context.name == "A")
    assert parent.regs[18]
    assert not child.regs[18]
    assert run.findings == ()


def test_the_amx_test_gives_its_guest_amx_and_needs_a_cpu_with_it():
    run = flows.run("amx-test", Settings())
    assert run.kernel.config.settings.guest_amx
    assert any(op.components & XTILEDATA for op in run.operations if op.operation == "XSAVES")
    done = CliRunner().invoke(cli, ["flow", "amx-64", "--cpu", "zen4"])
    assert "amx-64 is about AMX, and zen4 has none" in str(done.exception)


def test_the_command_gives_a_verdict_for_every_strategy():
    done = CliRunner().invoke(cli, ["flow", "rfc-tests", "--every-strategy", "--json"])
    document = json.loads(done.stdout)
    assert document["flows"] == list(SELFTESTS)
    assert [row["strategy"] for row in document["rows"]] == strategies.names()
    bad = {row["strategy"] for row in document["rows"] if not all(each["sound"] for each in row["verdicts"])}
    assert bad == {"manual-lazy", "xstate-all-resident"}
    text = CliRunner().invoke(cli, ["flow", "rfc-tests", "--every-strategy", "--cpu", "zen4"]).stdout
    assert "not run: amx-64, amx-test: zen4 has no AMX" in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["rfc-tests"], "--every-strategy"),
        (["preempt", "--every-strategy", "--strategy", "no-cet"], "--strategy"),
        (["preempt", "--every-strategy", "--kernel", "v6.14"], "v6.12 is nearest"),
        (["preempt", "--every-strategy", "--carried", "nobody.toml"], "nobody.toml"),
        (["preempt", "--every-strategy", "--guest-xss", "0xffff"], "guest IA32_XSS 0xffff: allowed are bits of 0x1800"),
    ],
)
def test_what_makes_no_sense_is_refused(options, says):
    done = CliRunner().invoke(cli, ["flow", *options])
    assert done.exit_code != 0
    assert says in str(done.exception)
    assert done.stdout == ""


def test_smm_entry_and_rsm_write_efer_so_the_user_return_msrs_are_loaded_anew():
    # vmx_set_efer() ends in vmx_setup_uret_msrs(), which clears guest_uret_msrs_loaded.
    vcpu = Kernel(boot(Settings())).new_vcpu("V")
    vcpu.guest_uret_msrs_loaded = True
    smram = smm.enter_smm(vcpu)
    assert not vcpu.guest_uret_msrs_loaded
    vcpu.guest_uret_msrs_loaded = True
    smm.leave_smm(vcpu, smram)
    assert not vcpu.guest_uret_msrs_loaded


def test_a_guest_s_xfd_err_is_taken_from_the_register_and_the_host_s_is_0_after_the_exit():
    scene = Scene(Kernel(boot(Settings(guest_amx=True)), 2), GuestUse())
    scene.start_in_guest()
    scene.cpu.unit.xfd_err = XTILEDATA
    kvm.vm_exit(scene.k, scene.cpu, "nm")
    assert (scene.vcpu.xfd_err, scene.cpu.unit.xfd_err) == (XTILEDATA, 0)


@pytest.mark.parametrize("command", [["flow", "rfc-tests", "--every-strategy"], ["snapshot"]])
def test_why_strategies_cannot_be_run_is_said_once_for_all_of_them(command):
    text = " ".join(CliRunner().invoke(cli, [*command, "--kernel", "v6.12"]).stdout.split())
    assert text.count("its KVM has no CET for guests") == 1
    assert "this strategy on v6.12" in text
    assert "(free-ssp, manual-exit, manual-run" in text
