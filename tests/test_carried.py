"""Carried states that are not CET_S: other xfeatures, and texts that name what is carried."""

from dataclasses import replace
from pathlib import Path

import engine_mode  # first of all: the loop as plain Python  # noqa: F401
import pytest
from test_integrity import HOST_OFF_SOUND
from verdicts import nothing_is_wrong, run, world

import sim
from sim.engine.simulation import simulate as compiled
from sim.errors import InputError
from sim.kernel import carriers, flows, fpu, kvm, process, strategies
from sim.kernel.carried import UINTR_NUMBER
from sim.kernel.config import Settings, boot, strategy_of
from sim.kernel.kernel import Kernel
from sim.kernel.scene import GuestUse
from sim.xsave.components import APX, AVX, CET_S, CET_U, LBR, UINTR
from sim.xsave.profiles import profile
from sim.xsave.unit import NONROOT, Unit

STATES = {
    "lbr": ("msrs = { LBR_CTL = 0x14ce, LBR_DEPTH = 0x14cf }", 808, 15, "ARCH_LBR"),
    "uintr": ("msrs = { RR = 0x985, HANDLER = 0x986 }", 48, 14, "UINTR"),
    "uinv": ("msrs = { RR = 0x985, MISC = 0x988 }", 48, 14, "UINTR"),
    "apx": ("msrs = {}", 128, 19, "APX"),
    "spec-ctrl": ("msrs = { SPEC_CTRL = 0x48 }", 8, None, ""),
}
MASK = {"lbr": LBR, "uintr": UINTR, "apx": APX}


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    folder = tmp_path_factory.mktemp("carried")
    paths = {}
    for name, (msrs, size, xfeature, feature) in STATES.items():
        lines = [f'name = "{name}"', 'title = "t"', msrs, f"size_bytes = {size}", "per_task_msr = false"]
        lines += [f"xfeature = {xfeature}"] if xfeature else []
        lines += [f'cpu_feature = "{feature}"'] if feature else []
        path = folder / f"{name}.toml"
        path.write_text("\n".join([*lines, 'source = "a test"']))
        paths[name] = str(path)
    return paths


def config(carried, name, strategy, kernel="v6.18", **more):
    hypothetical = name == "apx"  # Sapphire Rapids has the others
    return boot(Settings(kernel=kernel, strategy=strategy, carried=carried[name], hypothetical=hypothetical, **more))


# Where the component is: enabled, in normal fpstates, in guest fpstates, outside all.
PLACES = {
    "xstate-guest": (1, 0, 1, 0),
    "xstate-all": (1, 1, 1, 0),
    "xstate-guest-resident": (1, 0, 1, 0),
    "independent": (0, 0, 0, 1),
    "manual-load": (0, 0, 0, 0),
    "free-ssp": (0, 0, 0, 0),
}


@pytest.mark.parametrize("strategy", PLACES)
@pytest.mark.parametrize("name", ["lbr", "uintr"])
@pytest.mark.parametrize("kernel", ["v6.6", "v6.18"])
def test_a_supervisor_component_is_where_the_strategy_puts_it_and_cet_s_where_the_kernel_has_it(
    carried, name, strategy, kernel
):
    masks, own = config(carried, name, strategy, kernel).masks, MASK[name]
    enabled, normal, guest, independent = PLACES[strategy]
    assert bool(masks.max_features & own) == bool(enabled)
    assert bool(masks.restore_mask & own) == bool(enabled)
    assert (bool(masks.host_default & own), bool(masks.guest_default & own)) == (bool(normal), bool(guest))
    arch_lbr = name == "lbr"  # perf's own use of it: an independent feature on any kernel
    assert bool(masks.independent & own) == bool(independent or arch_lbr)
    assert bool(masks.xss & own) == bool(enabled or independent or arch_lbr)
    by_kernel = CET_S if kernel == "v6.18" else 0
    assert (masks.max_features & CET_S, masks.host_default & CET_S, masks.guest_default & CET_S) == (
        by_kernel,
        0,
        by_kernel,
    )


def test_apx_is_in_all_fpstates_and_in_the_guests_xcr0_if_the_strategy_carries_it(carried):
    carries, not_carried = config(carried, "apx", "xstate-guest"), config(carried, "apx", "free-ssp")
    for each in (carries, not_carried):
        assert each.masks.host_default & each.masks.guest_default & each.masks.xcr0 & APX
    assert (carries.guest_xcr0 & APX, not_carried.guest_xcr0 & APX) == (APX, 0)
    says = "no KVM up to v7.3 offers APX to guests"
    assert (says in carries.hypothetical, says in not_carried.hypothetical) == (True, False)
    with pytest.raises(InputError, match=r"v6\.12 does not enable APX"):
        config(carried, "apx", "xstate-guest", "v6.12")


@pytest.mark.parametrize(
    ("name", "strategy", "message"),
    [
        ("apx", "manual-load", "copies MSRs, and apx has none"),
        ("apx", "independent", "APX is a user component"),
        ("spec-ctrl", "xstate-guest", "needs an xfeature"),
    ],
)
def test_what_a_state_cannot_be_carried_by_is_refused(carried, name, strategy, message):
    with pytest.raises(InputError, match=message):
        config(carried, name, strategy)


@pytest.mark.parametrize("strategy", PLACES)
def test_that_lbren_is_not_modelled_is_said_where_xsaves_saves_lbr(carried, strategy):
    notes = "".join(config(carried, "lbr", strategy).hypothetical)
    assert ("LBREn" in notes) == (strategy in ("xstate-guest", "xstate-all", "xstate-guest-resident", "independent"))
    assert "LBREn" not in "".join(config(carried, "uintr", strategy).hypothetical)


def test_a_component_that_the_cpu_lacks_needs_hypothetical(carried):
    with pytest.raises(InputError, match="--hypothetical overrides"):
        boot(Settings(carried=carried["apx"]))
    with pytest.raises(InputError, match="--hypothetical overrides"):
        boot(Settings(cpu="zen4", carried=carried["lbr"]))
    masks = boot(Settings(cpu="zen4", carried=carried["lbr"], hypothetical=True)).masks
    assert (masks.xss, masks.guest_default) == (LBR | CET_S | CET_U, 0x1AE7 | LBR)
    assert masks.guest_size == 2480 + 808


def test_a_component_that_cpuid_does_not_enumerate_is_told_by_its_number_where_no_feature_is_named(carried, tmp_path):
    path = tmp_path / "lbr.toml"
    path.write_text(Path(carried["lbr"]).read_text().replace('cpu_feature = "ARCH_LBR"', ""))
    boot(Settings(carried=str(path)))
    with pytest.raises(InputError, match=r"on zen4: CPUID does not enumerate state component 15, LBR"):
        boot(Settings(cpu="zen4", carried=str(path)))


def test_a_host_that_writes_another_msr_per_task_has_no_shadow_stacks_of_its_own():
    with pytest.raises(InputError, match="shadow stacks are about CET_S; carrying fred-rsp0 leaves them off"):
        boot(Settings(carried="fred-rsp0", strategy="manual-load", host_shadow_stacks="return-to-user"))


@pytest.mark.parametrize("strategy", HOST_OFF_SOUND)
def test_who_is_sound_with_cet_s_is_sound_with_lbr(carried, strategy):
    run([config(carried, "lbr", strategy)], nothing_is_wrong, f"lbr {strategy}", examples=8)


@pytest.mark.parametrize("strategy", ["xstate-guest", "xstate-all"])
def test_apx_in_fpstates_is_sound(carried, strategy):
    run([config(carried, "apx", strategy)], nothing_is_wrong, f"apx {strategy}", examples=8)


@pytest.mark.parametrize(("strategy", "saves"), [("xstate-guest", [0x29EE7]), ("independent", [0x8000, 0x21EE7])])
def test_a_vcpu_switch_saves_lbr_with_the_guest_fpstate_or_alone(carried, strategy, saves):
    shown = flows.run("vcpu-switch", Settings(strategy=strategy, carried=carried["lbr"]))
    assert [op.rfbm for op in shown.operations if op.operation == "XSAVES"] == saves * 2
    assert not shown.findings


@pytest.mark.parametrize(("cpu", "instruction"), [("diamond-rapids", "WRMSRNS"), ("granite-rapids", "WRMSR")])
def test_the_host_writes_fred_rsp0_by_wrmsrns_where_the_cpu_has_it(cpu, instruction):
    """fred_update_rsp0(), asm/fred.h in v6.12.117, v6.18.2, v7.3.4; wrmsrns(), asm/msr.h."""
    fred = Settings(cpu=cpu, carried="fred-rsp0", strategy="manual-load-nozero", hypothetical=True)
    done = [(op.phase, op.operation) for op in flows.run("preempt", fred).operations if "RSP0" in op.operation]
    assert done == [
        ("vcpu-put", "RDMSR(FRED_RSP0)"),
        ("return-to-user", f"{instruction}(FRED_RSP0)"),
        ("guest-entry", "WRMSR(FRED_RSP0)"),
    ]


def test_the_host_writes_fred_rsp0_only_where_another_task_or_a_guest_has_run():
    """fred_update_rsp0(): nothing where the value recorded for the CPU is the task's, whatever XRSTORS has loaded."""
    w = world("manual-load-nozero", "diamond-rapids", carried="fred-rsp0", hypothetical=True)
    (cpu, _), counts = w.cpus, []
    for task, kernel_fpu in ((3, False), (3, True), (4, False), (4, True), (3, False)):
        w.to_user(0, task)
        w.enter_kernel(0)
        if kernel_fpu:
            w.kernel_fpu(0, AVX)
        w.return_to_user(0)
        counts.append((cpu.ledger.count("XRSTORS"), cpu.ledger.count("WRMSRNS(FRED_RSP0)")))
        w.enter_kernel(0)
    assert counts == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)]


def test_a_cpu_without_cet_gives_guests_none_whatever_is_carried(carried):
    """kvm_cpu_caps of SHSTK and IBT: arch/x86/kvm/cpuid.c, Linux v6.18."""
    spr = profile("sapphire-rapids")
    for cpu, has in ((spr, True), (replace(spr, features=spr.features - {"SHSTK"}), False)):
        for name in ("lbr", "uintr", "spec-ctrl"):
            assert boot(Settings(strategy="manual-load", carried=carried[name]), cpu).guest_has_cet == has


@pytest.mark.parametrize(("kernel", "notes"), [("v6.6", 1), ("v6.12", 0), ("v7.3", 0)])
def test_that_a_kernel_does_not_write_fred_rsp0_is_said(kernel, notes):
    fred = Settings(cpu="diamond-rapids", kernel=kernel, carried="fred-rsp0", strategy="manual-load")
    assert ["has no fred_update_rsp0" in note for note in boot(fred).hypothetical].count(True) == notes


# XSAVES of UINTR clears UINV in IA32_UINTR_MISC (intel/uintr-linux-kernel, switch_uintr_return()).

SKIP_THE_RESTORE = ("kernel-preempt", "halt")
FLOWS = (*SKIP_THE_RESTORE, "preempt", "vcpu-switch", "migrate", "userspace-exit", "kernel-fpu", "short-ioctl")


@pytest.mark.parametrize("strategy", ["xstate-guest", "xstate-all"])
@pytest.mark.parametrize("flow", FLOWS)
def test_a_guest_loses_uinv_in_an_fpstate_where_its_restore_is_skipped(carried, flow, strategy):
    done = flows.run(flow, Settings(strategy=strategy, carried=carried["uinv"]))
    lost = flow in SKIP_THE_RESTORE
    assert [(found.kind, found.what) for _, found in done.findings] == [("wrong-value", "UINTR")] * lost
    if lost:
        [(_, found)] = done.findings
        assert found.expected.removesuffix(")").split(", ")[0] == found.got.split(", ")[0]  # RR is as it was
        assert found.got.endswith(", initial)")
    assert not flows.run(flow, Settings(strategy=strategy, carried=carried["uintr"])).findings
    loaded = flows.run(flow, Settings(strategy=strategy, carried=carried["uinv"]), GuestUse(ssp="xrstors"))
    assert [found.kind for _, found in loaded.findings] == ["wrong-value"] * lost


@pytest.mark.parametrize("strategy", ["independent", "manual-load", "manual-exit", "msr-autoload"])
def test_uinv_is_safe_in_a_buffer_that_is_always_loaded_and_in_msrs(carried, strategy):
    run([config(carried, "uinv", strategy)], nothing_is_wrong, f"uinv {strategy}", examples=8)


@pytest.mark.parametrize("simulate", [None, compiled], ids=["simpy", "compiled"])
def test_a_run_finds_the_lost_uinv_and_says_why(carried, simulate):
    chosen = {"host.cpu": ["sapphire-rapids"], "kernel.carried": carried["uinv"], "run.measure": "20 ms"}
    some = ["free-ssp", "manual-load", "xstate-guest", "independent"]
    results = sim.run("rfc-question", overrides=chosen, strategies=some, replications=1, simulate=simulate)
    wrong = results.integrity.query("kind == 'wrong-value'").groupby("strategy")["count"].sum()
    assert wrong.keys().tolist() == ["xstate-guest"]
    assert sim.compare(results).unsound("sapphire-rapids v6.18")["xstate-guest"].startswith("XSAVES clears UINV")


@pytest.mark.parametrize("strategy", ["xstate-guest", "xstate-all", "independent"])
def test_linux_restores_uintr_only_where_uinv_has_been_saved(carried, strategy, monkeypatch):
    """Else XRSTORS causes #GP (SDM volume 1, 13.5.11)."""
    xrstors, restored = Unit.xrstors, []

    def checked(unit, area, mask, *rest):
        if mask & UINTR and not unit.mode & NONROOT:
            restored.append(unit.regs[UINTR_NUMBER])
        return xrstors(unit, area, mask, *rest)

    monkeypatch.setattr(Unit, "xrstors", checked)
    for flow in flows.FLOWS:
        flows.run(flow, Settings(strategy=strategy, carried=carried["uinv"]), GuestUse(ssp="rewritten"))
    assert len(restored) > 20
    assert not any(isinstance(each, tuple) and each[1] for each in restored)


def test_a_second_save_writes_the_lost_uinv_to_memory(carried):
    k = Kernel(config(carried, "uinv", "xstate-guest"))
    cpu, vcpu = k.cpus[0], k.new_vcpu("V")
    process.schedule(k, cpu, vcpu.task)
    process.return_to_user(k, cpu)
    kvm.kvm_run(k, cpu)
    kvm.kvm_load_guest_fpu(k, cpu)
    for index, value in enumerate((5, 7)):
        k.set_carried_value(cpu, index, value)
    for left in (7, 0):
        assert k.carried_value(cpu, 1) == left
        fpu.save_fpregs_to_fpstate(k, cpu, vcpu.fpstate, "switch")
        assert vcpu.fpstate.area.compacted[14] == (5, left)
    assert k.carried_value(cpu, 0) == 5


def test_the_size_of_a_component_is_that_of_cpuid(carried, tmp_path):
    path = tmp_path / "uintr.toml"
    path.write_text(Path(carried["uintr"]).read_text().replace("size_bytes = 48", "size_bytes = 24"))
    with pytest.raises(InputError, match=r"uintr: size_bytes = 24 \(allowed on sapphire-rapids, by CPUID: 48\)"):
        boot(Settings(carried=str(path)))
    assert boot(Settings(cpu="zen4", carried=str(path), hypothetical=True)).masks.guest_size == 2480 + 24


# Texts.


@pytest.mark.parametrize(
    ("name", "says"), [("spec-ctrl", "no kernel leaves SPEC_CTRL uncarried"), ("apx", "no kernel leaves APX uncarried")]
)
def test_a_strategys_texts_name_what_is_carried(carried, name, says):
    notes = config(carried, name, "free-ssp").hypothetical
    assert f"free-ssp: {says}" in notes
    assert not any("SSP" in note.removeprefix("free-ssp") for note in notes)


@pytest.mark.parametrize("strategy", strategies.names())
def test_no_text_of_a_shipped_strategy_is_left_with_a_placeholder(strategy):
    how = strategy_of(Settings(strategy=strategy))
    assert not any(mark in how.title + how.hypothetical + how.unsound for mark in "{}")
    assert strategy_of(Settings(strategy="free-ssp")).hypothetical == "no kernel leaves PL0-2_SSP uncarried"


# What is switched already, by a component or by KVM itself, cannot be carried once more.


def state_of(tmp_path, msrs, more=""):
    path = tmp_path / "mine.toml"
    path.write_text(
        f'name = "mine"\ntitle = "t"\nmsrs = {{ {msrs} }}\nsize_bytes = 8\nper_task_msr = false\nsource = "s"\n{more}'
    )
    return str(path)


@pytest.mark.parametrize(
    ("msrs", "says"),
    [
        ("SSP = 0x6a4", "msrs.SSP = 0x6a4 is in state component 12, CET_KERNEL (allowed: with xfeature = 12)"),
        ("A = 0x6a7", "msrs.A = 0x6a7 is in state component 11, CET_USER (which Linux handles by itself)"),
        ("PASID = 0xd93", "msrs.PASID = 0xd93 is in state component 10, PASID (which Linux handles by itself)"),
        ("MINE = 0x1, XSS = 0xda0", "msrs.XSS = 0xda0 is IA32_XSS, which KVM switches by itself"),
        ("XFD = 0x1c4", "msrs.XFD = 0x1c4 is IA32_XFD, which KVM switches by itself"),
        ("ERR = 0x1c5", "msrs.ERR = 0x1c5 is IA32_XFD_ERR, which KVM switches by itself"),
        ("SSP = 0x6a5", "msrs.SSP = 0x6a5 is in state component 12, CET_KERNEL"),
        ("SSP = 0x6a6", "msrs.SSP = 0x6a6 is in state component 12, CET_KERNEL"),
        ("U_CET = 0x6a0", "msrs.U_CET = 0x6a0 is in state component 11, CET_USER"),
        ("GS = 0xc0000102", "msrs.GS = 0xc0000102 is IA32_KERNEL_GS_BASE, which KVM switches by itself"),
        ("AUX = 0xc0000103", "carries AUX, which is a user-return MSR of these guests already"),
    ],
)
def test_an_msr_that_is_switched_already_cannot_be_carried_again(msrs, says, tmp_path):
    with pytest.raises(InputError) as error:
        boot(Settings(strategy="manual-load", carried=state_of(tmp_path, msrs)))
    assert says in str(error.value)


def test_a_user_return_msr_may_be_carried_in_place_of_that(tmp_path):
    settings = Settings(
        strategy="manual-load", carried=state_of(tmp_path, "AUX = 0xc0000103"), guest_uret_msrs=("LSTAR",)
    )
    operations = [op.operation for op in flows.run("preempt", settings).operations]
    assert "WRMSR(LSTAR)" in operations
    assert "WRMSR(TSC_AUX)" not in operations
    assert (operations.count("RDMSR(AUX)"), operations.count("WRMSR(AUX)")) == (1, 2)


def test_what_the_mitigations_do_with_spec_ctrl_runs_besides_a_strategy_that_carries_it_and_is_said(carried):
    note = "KVM switches IA32_SPEC_CTRL as a mitigation already, and that runs besides"
    assert note in config(carried, "spec-ctrl", "manual-load").hypothetical
    assert note not in config(carried, "spec-ctrl", "manual-load", mitigations=("ibpb",)).hypothetical


@pytest.mark.parametrize("how_many", [1, 30, 200])
def test_a_list_of_any_length_is_read_once_and_written_twice_at_a_preemption(how_many, tmp_path):
    """manual-load: the guest's values are saved, the host's 0 goes into the first alone, and all are loaded again."""
    msrs = ", ".join(f"M{i} = {0x1200 + i:#x}" for i in range(how_many))
    done = flows.run("preempt", Settings(strategy="manual-load", carried=state_of(tmp_path, msrs)))
    operations = [op.operation for op in done.operations]
    assert sum(op.startswith("RDMSR(M") for op in operations) == how_many
    assert sum(op.startswith("WRMSR(M") for op in operations) == how_many + 1
    assert done.findings == ()


@pytest.mark.parametrize(
    ("strategy", "loads"), [("xstate-guest", True), ("independent", False), ("manual-load", False)]
)
def test_the_ioctl_of_msrs_loads_the_fpu_for_a_state_other_than_cet_only_where_that_is_in_the_fpstate(
    carried, strategy, loads
):
    k = Kernel(config(carried, "uintr", strategy, guest_cet=False))
    assert kvm.msr_ioctl_loads_fpu(k, k.new_vcpu("V")) == loads


@pytest.mark.parametrize("patches", [(3,), (1, 2, 3), (1, 2, 3, 4, 5), (3, 5)])
def test_the_series_of_the_rfc_moves_cet_s_and_no_other_component(carried, patches):
    masks = config(carried, "uintr", "xstate-guest", "rfc", patches=frozenset(patches)).masks
    assert (masks.host_default & UINTR, masks.guest_default & UINTR) == (0, UINTR)


def test_kvm_s_copy_of_a_component_is_initial_where_xstate_bv_lacks_it(carried):
    """XRSTORS initialises what XSTATE_BV lacks, whatever the bytes hold (Intel SDM vol. 1, section 13.12)."""
    k = Kernel(config(carried, "lbr", "independent"))
    vcpu = k.new_vcpu("V")
    assert [carriers.access_copy(k, vcpu, index, None) for index in (0, 1)] == [0, 0]
    assert [carriers.access_copy(k, vcpu, index, value) for index, value in enumerate((7, 8))] == [7, 8]
    area = vcpu.carried_area
    assert (area.compacted[15], area.xstate_bv) == ((7, 8), LBR)
    area.xstate_bv = 0
    assert [carriers.access_copy(k, vcpu, index, None) for index in (0, 1)] == [0, 0]
    assert carriers.access_copy(k, vcpu, 1, 9) == 9
    assert (area.compacted[15], area.xstate_bv) == ((0, 9), LBR)
