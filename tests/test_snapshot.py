"""A guest saved by KVM's ioctls and restored: what travels how, what a VMM may leave out, and who loses what."""

import json
from collections import Counter

import pytest
from click.testing import CliRunner

from sim.cli import cli
from sim.kernel import kvm, process, snapshot, strategies
from sim.kernel.config import Settings, boot
from sim.kernel.kernel import Kernel
from sim.kernel.operations import KVM_FPU_GET
from sim.kernel.scene import QUIET_GUEST, GuestUse, Scene
from sim.kernel.snapshot import VMMS
from sim.report import snapshots
from sim.xsave.area import INIT
from sim.xsave.components import AVX, FP, MXCSR_INIT, OPMASK, PKRU, SSE, SUPERVISOR, USER, XTILEDATA, bits

ALL, MSRS_FIRST, NO_XSS, NO_CARRIED, OLD_XSAVE = VMMS
SPR, GENOA = Settings(cpu="sapphire-rapids", kernel="v7.3"), Settings(cpu="zen4", kernel="v6.18")
SOUND = [name for name in strategies.names() if not strategies.strategy(name).unsound]
CARRY = [name for name in SOUND if strategies.strategy(name).carries]


def with_strategy(settings, name, **more):
    return boot(Settings(cpu=settings.cpu, kernel=settings.kernel, strategy=name, hypothetical=True, **more))


def outcome(config, vmm, there=None):
    return snapshots.run(config, there or config, vmm)


@pytest.mark.parametrize("vmm", [ALL, MSRS_FIRST], ids=["all", "msrs-first"])
@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("settings", [SPR, GENOA], ids=["spr", "genoa"])
def test_a_guest_finds_all_it_had_whatever_carries_its_ssps_and_whichever_ioctl_comes_first(settings, name, vmm):
    config = with_strategy(settings, name)
    found = outcome(config, vmm)
    assert (found.refused, found.findings, found.fault) == ((), (), "")


@pytest.mark.parametrize("name", CARRY)
def test_without_the_msrs_every_strategy_s_guest_loses_its_ssps_since_kvm_get_xsave2_has_user_components_alone(name):
    found = outcome(with_strategy(SPR, name), NO_CARRIED)
    assert {finding.what for finding in found.findings} == {"CET_KERNEL"}


def test_no_supervisor_component_is_in_what_kvm_get_xsave2_returns():
    config = boot(Settings())
    assert config.guest_xfeatures & SUPERVISOR
    saved = snapshots._save(config, ALL, [])
    assert saved.xsave is not None
    assert saved.xsave.xstate_bv
    assert not saved.xsave.xstate_bv & SUPERVISOR


@pytest.mark.parametrize("name", CARRY)
def test_without_ia32_xss_the_guest_s_next_xrstors_raises_gp(name):
    # firecracker pull request 5972: "triggers #GP when it encounters supervisor components"
    found = outcome(with_strategy(SPR, name), NO_XSS)
    assert found.fault.startswith("#GP(0)")
    assert found.findings == ()


@pytest.mark.parametrize("more", [{"guest_cet": False}, {"guest_xss": 0}], ids=["no CET", "XSS 0"])
def test_a_guest_whose_ia32_xss_is_0_does_not_miss_it(more):
    assert outcome(with_strategy(SPR, "xstate-guest", **more), NO_XSS).sound


@pytest.mark.parametrize(("amx", "verdict"), [(False, "sound"), (True, "fails")])
def test_kvm_get_xsave_has_too_few_bytes_for_a_guest_with_amx(amx, verdict):
    assert outcome(with_strategy(SPR, "xstate-guest", guest_amx=amx), OLD_XSAVE).verdict == verdict


def test_tiles_travel_by_kvm_get_xsave2():
    assert outcome(with_strategy(SPR, "xstate-guest", guest_amx=True), ALL).sound


def test_a_restored_guest_whose_ssps_were_not_restored_gets_another_guest_s_under_the_lazy_strategy():
    # Nothing was ever written, so nothing is loaded: the guest runs on what the registers hold.
    found = outcome(with_strategy(SPR, "manual-lazy"), NO_CARRIED)
    assert {finding.kind for finding in found.findings} == {"guest-to-guest"}


def operations(found, what):
    return [op.operation for op in getattr(found, what) if op.phase == "msr-ioctl"]


def test_kvm_reads_ssps_that_it_keeps_itself_from_its_copy_and_others_from_the_loaded_guest_fpu():
    xstate, manual = (outcome(with_strategy(SPR, name), ALL) for name in ("xstate-guest", "manual-load"))
    cet_u = ["RDMSR(U_CET)", "RDMSR(PL3_SSP)"]
    assert operations(manual, "saving") == cet_u
    assert operations(xstate, "saving") == cet_u + [f"RDMSR(PL{i}_SSP)" for i in range(3)]
    assert operations(xstate, "restoring") == [op.replace("RDMSR", "WRMSR") for op in operations(xstate, "saving")]


@pytest.mark.parametrize(
    ("more", "to", "ioctls"),
    [
        ({}, {"cpu": "zen2"}, ["KVM_SET_SREGS", "KVM_SET_XSAVE", "KVM_SET_XCRS"]),
        ({"guest_xcr0": 0x7}, {"cpu": "zen2"}, []),
        ({"guest_xcr0": 0x7}, {"cpu": "skylake-sp"}, []),
    ],
)
def test_a_host_that_lacks_what_the_guest_has_refuses_it_and_one_with_a_smaller_xcr0_goes_anywhere(more, to, ioctls):
    found = outcome(with_strategy(SPR, "no-cet", **more), ALL, boot(Settings(strategy="no-cet", **to)))
    assert [text.partition(":")[0] for text in found.refused] == ioctls


@pytest.mark.parametrize(("vmm", "name"), [(ALL, "XSS"), (NO_XSS, "CET_U")])
def test_a_kernel_without_cet_for_guests_takes_neither_ia32_xss_nor_a_cet_msr_that_is_not_0(vmm, name):
    there = boot(Settings(kernel="v6.12", strategy="no-cet"))
    found = outcome(boot(Settings()), vmm, there)
    assert found.refused == (f"KVM_SET_MSRS: {name} is refused, this guest is not offered it here",)


def test_a_guest_moves_between_strategies_and_between_vendors():
    there = with_strategy(GENOA, "xstate-guest")
    assert outcome(with_strategy(SPR, "manual-load"), ALL, there).sound


def test_the_command_says_the_same_as_the_runs():
    done = CliRunner().invoke(cli, ["snapshot", "--strategy", "xstate-guest", "--cost", "--json"])
    row = json.loads(done.stdout)["rows"][0]
    verdicts = {each["vmm"]: each["verdict"] for each in row["outcomes"]}
    assert verdicts == {
        "all": "sound",
        "msrs-first": "sound",
        "no-xss": "#GP",
        "no-carried": "loses CET_KERNEL",
        "old-xsave": "sound",
    }
    assert row["outcomes"][0]["saving_cost"]["cycles"] > 0
    text = CliRunner().invoke(cli, ["snapshot", "--strategy", "xstate-guest"]).stdout
    assert "the MSRs of PL0-2_SSP are not saved" in text


def test_the_command_refuses_an_unknown_host():
    done = CliRunner().invoke(cli, ["snapshot", "--to-kernel", "v6.13"])
    assert done.exit_code != 0


def ready_to_save(settings=SPR, use=QUIET_GUEST, name="V"):
    """V has run, its guest has written its SSPs once, and its VMM is in user mode."""
    scene = Scene(Kernel(boot(settings), 2), use)
    scene.start_in_guest()
    kvm.vm_exit(scene.k, scene.cpu, "io")
    scene.leave_kvm_run("KVM_EXIT_IO")
    scene.back_to_user()
    return scene


def test_a_kernel_without_cet_for_guests_takes_a_cet_msr_that_is_0_and_refuses_the_first_that_is_not():
    scene = ready_to_save()
    saved = snapshot.save(scene.k, scene.cpu, NO_XSS)
    assert (saved.msrs["CET_U"], bool(saved.msrs["PL0_SSP"])) == (0, True)
    there = Kernel(boot(Settings(kernel="v6.12", strategy="no-cet")))
    _, refused = snapshot.restore(there, there.cpus[0], "V", saved, NO_XSS)
    assert refused == ("KVM_SET_MSRS: PL0_SSP is refused, this guest is not offered it here",)


def test_a_host_without_amx_refuses_ia32_xfd_that_is_not_0():
    guest_of_amx = with_strategy(SPR, "no-cet", guest_amx=True)
    saved = ready_to_save(Settings(strategy="no-cet", guest_amx=True), GuestUse(xrstors=True))
    state = snapshot.save(saved.k, saved.cpu, ALL)
    assert state.msrs["XFD"] == XTILEDATA
    for there, refuses in ((guest_of_amx, False), (with_strategy(GENOA, "no-cet"), True)):
        k = Kernel(there)
        _, refused = snapshot.restore(k, k.cpus[0], "V", state, ALL)
        assert ("KVM_SET_MSRS: XFD is refused, this guest is not offered it here" in refused) == refuses


@pytest.mark.parametrize("kernel", ["v6.6", "v6.18", "v7.3"])
@pytest.mark.parametrize("vmm", [ALL, MSRS_FIRST], ids=["all", "msrs-first"])
def test_ia32_xfd_is_set_in_memory_before_the_cet_msrs_load_the_guest_fpu(kernel, vmm):
    """__msr_io() loads the fpstate at the first MSR that lives there, so the guest's XFD is the task's by then.

    fpu_update_guest_xfd() writes no MSR for an fpstate that is not in use, and the swap none where both are equal.
    """
    strategy = "no-cet" if kernel == "v6.6" else "xstate-guest"
    settings = Settings(kernel=kernel, strategy=strategy, guest_amx=True)
    source = ready_to_save(settings, GuestUse(xrstors=True))
    saved = snapshot.save(source.k, source.cpu, vmm)
    assert saved.msrs["XFD"] == XTILEDATA
    there = Kernel(boot(settings))
    _, refused = snapshot.restore(there, there.cpus[0], "V", saved, vmm)
    assert refused == ()
    ran = Counter(op.operation for op, _ in there.cpus[0].ledger.rows())
    assert (ran["WRMSR(XFD)"], ran["WRMSR(PL3_SSP)"]) == (0, int(kernel != "v6.6"))


def test_a_vcpu_that_has_not_run_is_restored_as_one_that_has_not_run():
    config = boot(SPR)
    k = Kernel(config)
    process.schedule(k, k.cpus[0], k.new_vcpu("V").task)
    process.return_to_user(k, k.cpus[0])
    saved = snapshot.save(k, k.cpus[0], ALL)
    assert saved.xsave is not None
    assert (saved.xsave.xstate_bv, saved.xsave.mxcsr) == (0, MXCSR_INIT)
    there = Kernel(config)
    vcpu, refused = snapshot.restore(there, there.cpus[0], "V", saved, ALL)
    assert refused == ()
    area = vcpu.fpstate.area
    # The XSAVES of the MSR ioctl notes the VMM's PKRU, which is not the guest's: KVM keeps that apart.
    assert (area.xstate_bv & USER & ~PKRU, area.mxcsr, vcpu.pkru) == (0, MXCSR_INIT, 0)


def test_a_vmm_that_goes_on_after_kvm_get_xsave_has_failed_loses_the_registers():
    scene = ready_to_save(Settings(guest_amx=True), GuestUse(registers=AVX))
    saved = snapshot.save(scene.k, scene.cpu, OLD_XSAVE)
    assert saved.xsave is None
    there = Kernel(boot(Settings(guest_amx=True)))
    vcpu, refused = snapshot.restore(there, there.cpus[0], "V", saved, OLD_XSAVE)
    assert refused == ()
    assert not vcpu.fpstate.area.xstate_bv & AVX
    for step in (kvm.kvm_run, kvm.kvm_load_guest_fpu, kvm.kvm_run_entry, kvm.vcpu_enter_guest):
        step(there, there.cpus[0])
    assert scene.k.integrity is not None
    assert there.integrity is not None
    written = scene.k.integrity.described(saved.vcpu.context.regs[2])
    assert ("YMM", written) in {(finding.what, finding.expected) for finding in there.integrity.findings}


def test_what_the_guest_wrote_and_nothing_else_is_the_new_guest_s():
    contents = (5 << 32 | 7, 4 << 32 | 7, 6 << 32 | 7, 7, INIT)
    assert snapshot._moved(contents, 5, 9) == (9 << 32 | 7, *contents[1:])


def test_an_msr_ioctl_that_was_preempted_loads_the_guest_s_registers_before_it_reads():
    # kvm_fpu_get(): fpregs_assert_state_consistent(), switch_fpu_return() if TIF_NEED_FPU_LOAD.
    scene = ready_to_save()
    k, cpu = scene.k, scene.cpu
    kvm.vcpu_load(k, cpu)
    kvm.kvm_load_guest_fpu(k, cpu)
    before = kvm.access_carried_msr(k, cpu, 0)
    process.schedule(k, cpu, scene.n)
    scene.back_to_user()
    process.schedule(k, cpu, scene.v)
    assert cpu.current.need_fpu_load
    assert kvm.access_carried_msr(k, cpu, 0) == before != 0
    assert Counter(key[2] for key in cpu.ledger.counts if key[1] == KVM_FPU_GET)["XRSTORS"] == 1


WITHOUT_A_COMPONENT = {
    "SPEC_CTRL": ("msrs = { SPEC_CTRL = 0x48 }", "manual-load"),
    "dr0-3": ("msrs = {}\nsave_by = { MOV = 4 }\nload_by = { MOV = 4 }", None),
}
BY_INSTRUCTIONS = """
name = "own"
title = "t"
mechanism = "instructions"
save_at = ["vm_exit"]
load_at = ["vm_entry"]
source = "a test"
"""


@pytest.mark.parametrize("what", WITHOUT_A_COMPONENT)
def test_a_state_without_a_component_travels_by_kvms_copy_and_is_lost_where_the_vmm_leaves_it_out(tmp_path, what):
    state, how = tmp_path / "state.toml", tmp_path / "how.toml"
    lines, strategy = WITHOUT_A_COMPONENT[what]
    state.write_text(f'name = "{what}"\ntitle = "t"\n{lines}\nsize_bytes = 8\nper_task_msr = false\nsource = "s"\n')
    how.write_text(BY_INSTRUCTIONS)
    config = boot(Settings(kernel="v7.3", carried=str(state), strategy=strategy or str(how)))
    assert outcome(config, ALL).sound
    assert {finding.what for finding in outcome(config, NO_CARRIED).findings} == {what}


@pytest.mark.parametrize(
    ("vmm", "order"),
    [(ALL, ["sregs", "xsave", "xcrs", "msrs"]), (MSRS_FIRST, ["sregs", "msrs", "xsave", "xcrs"])],
    ids=["all", "msrs-first"],
)
def test_a_vmm_calls_each_ioctl_once_and_the_msrs_where_it_says(vmm, order, monkeypatch):
    called = []

    def noted(name, step):
        return lambda *given: called.append(name) or step(*given)

    for name in order:
        monkeypatch.setattr(snapshot, f"_set_{name}", noted(name, getattr(snapshot, f"_set_{name}")))
    scene = ready_to_save()
    there = Kernel(boot(SPR))
    snapshot.restore(there, there.cpus[0], "V", snapshot.save(scene.k, scene.cpu, vmm), vmm)
    assert called == order


def test_sse_and_x87_travel_whatever_the_guest_s_xcr0():
    scene = ready_to_save()
    scene.vcpu.fpstate.area.xstate_bv |= FP | SSE | AVX
    scene.vcpu.xcr0 = FP
    saved = snapshot.save(scene.k, scene.cpu, ALL)
    assert saved.xsave is not None
    assert saved.xsave.xstate_bv == FP | SSE


@pytest.mark.parametrize("in_use", [FP, SSE, AVX, OPMASK])
def test_mxcsr_is_saved_only_where_sse_or_avx_is_in_use(in_use):
    # SDM vol. 1, 13.4.2: MXCSR is of the legacy region, and is read where XSTATE_BV[1] or [2] is set.
    scene = ready_to_save()
    area = scene.vcpu.fpstate.area
    area.mxcsr = MXCSR_INIT | 1
    area.xstate_bv = in_use
    saved = snapshot.save(scene.k, scene.cpu, ALL)
    assert saved.xsave is not None
    assert saved.xsave.mxcsr == MXCSR_INIT | bool(in_use & (SSE | AVX))


@pytest.mark.parametrize("i", bits[FP | SSE | AVX | OPMASK | PKRU])
def test_mxcsr_is_restored_where_x87_sse_or_avx_is_in_use_and_pkru_where_it_is(i):
    # copy_uabi_to_xstate(), arch/x86/kernel/fpu/xstate.c, Linux v6.18: "Validate MXCSR when any of the related features
    # is in use".
    scene = ready_to_save()
    saved = snapshot.save(scene.k, scene.cpu, NO_CARRIED)
    assert saved.xsave is not None
    saved.xsave.xstate_bv, saved.xsave.mxcsr, saved.xsave.pkru = 1 << i, MXCSR_INIT | 1, 0xC
    there = Kernel(boot(SPR))
    vcpu, refused = snapshot.restore(there, there.cpus[0], "V", saved, NO_CARRIED)
    assert refused == ()
    assert vcpu.fpstate.area.mxcsr == MXCSR_INIT | bool(1 << i & (FP | SSE | AVX))
    assert vcpu.pkru == (0xC if 1 << i == PKRU else 0)


def test_a_guest_that_switches_tasks_loads_all_that_its_ia32_xss_and_xcr0_have():
    scene = ready_to_save()
    saved = snapshot.save(scene.k, scene.cpu, ALL)
    scene.enter_kvm_run()
    scene.run_guest()
    ymm = AVX.bit_length() - 1
    assert scene.cpu.unit.regs[ymm] != INIT
    assert snapshot.guest_switches_task(scene.k, scene.cpu, saved) == ""
    assert scene.cpu.unit.regs[ymm] == INIT


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--strategy", "nope"], "unknown strategy 'nope'"),
        (["--to-strategy", "nope"], "unknown strategy 'nope'"),
        (["--guest-xss", "0xffff"], "allowed are bits of 0x1800"),
        (["--kernel", "v6.6", "--strategy", "xstate-guest"], "its KVM has no CET for guests"),
    ],
)
def test_a_snapshot_that_no_strategy_can_have_is_an_error_and_no_empty_table(options, says):
    done = CliRunner().invoke(cli, ["snapshot", *options])
    assert says in str(done.exception)
    assert done.stdout == ""


def test_a_state_without_msrs_has_none_that_could_be_left_out():
    titles = {vmm.name: vmm.title for vmm in snapshots.vmms(Settings(carried="apx"))}
    assert titles["no-carried"] == "as all: APX has no MSRs"
    assert "PL0-2_SSP" in {vmm.name: vmm.title for vmm in snapshots.vmms(Settings())}["no-carried"]


@pytest.mark.parametrize("options", [[], ["--cost"]])
def test_the_tables_fit_into_a_hundred_columns(options):
    lines = CliRunner().invoke(cli, ["snapshot", *options]).output.splitlines()
    assert any("xstate-guest-resident" in line for line in lines)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("kernel", "strategy", "loads"),
    [
        ("v6.12", "no-cet", False),
        ("rfc", "no-cet", False),  # kvm_caps.supported_xss = 0
        ("rfc", "manual-load", True),
        ("v6.18", "no-cet", False),
        ("v6.18", "manual-load", True),
    ],
)
def test_an_ioctl_of_the_cet_msrs_loads_the_guest_fpu_where_kvm_supports_ia32_xss(kernel, strategy, loads):
    """KVM v6 14/25 of 2023; arch/x86/kvm/x86.c, __msr_io(), Linux v6.18."""
    k = Kernel(boot(Settings(kernel=kernel, strategy=strategy)))
    assert kvm.msr_ioctl_loads_fpu(k, k.new_vcpu("V")) == loads
