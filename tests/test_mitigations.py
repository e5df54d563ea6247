"""Mitigations at VM entry and exit: what runs on which CPU, and that nothing is counted twice."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

import sim
from sim.cli import main
from sim.costs.price import price
from sim.costs.table import current, names
from sim.errors import InputError
from sim.kernel import flows, guest, kvm, process, versions
from sim.kernel.config import Settings, boot
from sim.kernel.kernel import Kernel
from sim.kernel.mitigations import KINDS
from sim.kernel.operations import MITIGATION
from sim.scenario.cases import cases
from sim.scenario.reading import read
from sim.verification.anchors.data import Setup
from sim.verification.anchors.experiments import operations
from sim.xsave.profile_data import MITIGATIONS
from sim.xsave.profiles import names as cpus
from sim.xsave.profiles import profile


def at_one_exit(cpu: str, **settings: object) -> Counter[str]:
    """What mitigations run from the VM exit to the end of the next VM entry, for a Linux guest."""
    run = flows.run("in-kernel-exit", Settings(cpu=cpu, strategy="no-cet", **{"kernel": "v7.3", **settings}))
    return Counter(op.operation for op in run.operations if op.phase == MITIGATION)


@pytest.mark.parametrize(
    ("cpu", "runs"),
    [
        # KERNEL_IBRS writes the MSR at each exit whatever the guest had (arch/x86/kvm/vmenter.h, v7.3.4).
        ("skylake-sp", {"RDMSR(SPEC_CTRL)": 1, "WRMSR(SPEC_CTRL)": 1, "RSB fill": 1, "VERW": 1}),
        ("ice-lake-sp", {"RDMSR(SPEC_CTRL)": 1, "RSB one call": 1, "BHB clear": 1}),
        ("emerald-rapids", {"RDMSR(SPEC_CTRL)": 1, "RSB one call": 1}),
        ("granite-rapids", {"RDMSR(SPEC_CTRL)": 1}),
        ("zen3", {"RSB fill": 1, "untrain RET": 1, "VERW": 1}),
        ("zen4", {"untrain RET": 1, "VERW": 1}),
        ("zen5", {}),
    ],
)
def test_an_exit_runs_what_the_cpu_needs(cpu, runs):
    assert at_one_exit(cpu) == runs


def test_a_guest_that_has_not_written_spec_ctrl_costs_two_writes_and_no_read():
    setup = Setup("in-kernel-exit", kernel="v6.12", guest_osxsave=False, mitigations=True)
    counted = Counter({op.operation: n for op, n in operations("emerald-rapids", setup).items()})
    assert (counted["WRMSR(SPEC_CTRL)"], counted["RDMSR(SPEC_CTRL)"]) == (2, 0)


@pytest.mark.parametrize(
    ("spec_ctrl", "read", "written"),
    # vmx_spec_ctrl_restore_host() and vmenter.S, v6.18.2: read where it is passed through, written where it differs.
    [("host", 1, 0), ("other", 1, 2), ("unwritten", 0, 2)],
)
def test_spec_ctrl_is_read_where_it_is_passed_through_and_written_where_it_differs(spec_ctrl, read, written):
    runs = at_one_exit("sapphire-rapids", kernel="v6.18", guest_spec_ctrl=spec_ctrl, mitigations=("spec-ctrl",))
    assert (runs["RDMSR(SPEC_CTRL)"], runs["WRMSR(SPEC_CTRL)"]) == (read, written)
    assert not at_one_exit("zen4", guest_spec_ctrl=spec_ctrl, mitigations=("spec-ctrl",))  # V_SPEC_CTRL


def test_the_rsb_is_filled_before_spec_ctrl_is_read_and_written_and_branch_history_is_cleared_after():
    """vmx/vmenter.S at vmx_vmexit: FILL_RETURN_BUFFER, vmx_spec_ctrl_restore_host(), CLEAR_BRANCH_HISTORY_VMEXIT."""
    run = flows.run("in-kernel-exit", Settings(cpu="ice-lake-sp", strategy="no-cet", guest_spec_ctrl="other"))
    order = [op.operation for op in run.operations if op.phase == MITIGATION]
    assert order == ["RSB one call", "RDMSR(SPEC_CTRL)", "WRMSR(SPEC_CTRL)", "BHB clear", "WRMSR(SPEC_CTRL)"]


def test_an_unknown_value_of_spec_ctrl_is_refused():
    with pytest.raises(InputError, match=r"guest_spec_ctrl = 'hots' .allowed: host, other, unwritten"):
        boot(Settings(guest_spec_ctrl="hots"))


def test_an_init_of_the_guest_brings_its_spec_ctrl_back_to_0_until_it_has_booted_again():
    kernel = Kernel(boot(Settings(cpu="emerald-rapids", strategy="no-cet")))
    vcpu = kernel.new_vcpu("V")
    cpu = kernel.cpus[0]
    process.schedule(kernel, cpu, vcpu.task)
    process.return_to_user(kernel, cpu)
    kvm.kvm_run(kernel, cpu)
    kvm.kvm_load_guest_fpu(kernel, cpu)
    kvm.guest_init(kernel, cpu)
    assert vcpu.spec_ctrl == "unwritten"
    kvm.vcpu_enter_guest(kernel, cpu)
    guest.boots(kernel, cpu)
    assert vcpu.spec_ctrl == "host"


@pytest.mark.parametrize(("spec_ctrl", "read"), [("host", 1), ("other", 1), ("unwritten", 0)])
def test_after_an_init_spec_ctrl_is_still_passed_through(spec_ctrl, read):
    """vmx_vcpu_reset() sets vmx->spec_ctrl to 0 and leaves the MSR bitmap alone (v6.6.0, 6.12.117, 6.18.2, 7.3.4)."""
    settings = Settings(cpu="emerald-rapids", guest_spec_ctrl=spec_ctrl, mitigations=("spec-ctrl",))
    kernel = Kernel(boot(settings))
    vcpu, cpu = kernel.new_vcpu("V"), kernel.cpus[0]
    process.schedule(kernel, cpu, vcpu.task)
    kvm.kvm_run(kernel, cpu)
    kvm.kvm_load_guest_fpu(kernel, cpu)
    kvm.guest_init(kernel, cpu)
    kvm.vcpu_enter_guest(kernel, cpu)
    before = cpu.ledger.count("RDMSR(SPEC_CTRL)"), cpu.ledger.count("WRMSR(SPEC_CTRL)")
    kvm.vm_exit(kernel, cpu, "cr-access")
    assert cpu.ledger.count("RDMSR(SPEC_CTRL)") - before[0] == read
    assert cpu.ledger.count("WRMSR(SPEC_CTRL)") - before[1] == 1


def test_two_writes_of_spec_ctrl_cost_what_a_toggle_took_on_sapphire_rapids():
    """Jon Kohler, KVM list, 13 September 2024: tscdeadline_immed took 3,878 cycles with a guest whose value differs and
    3,153 with one that has the host's.  The 17-18 % of v2 of that series are a TSX abort (3,294) for the toggle.
    """
    toggled, equal, tsx_abort = 3878, 3153, 3294
    table = current("sapphire-rapids")
    assert 2 * price(("", MITIGATION, "WRMSR(SPEC_CTRL)"), table) == pytest.approx(toggled - equal, abs=1)
    assert 0.17 < toggled / tsx_abort - 1 < 0.18
    row = table.rows["SPEC_CTRL toggled/reference"]
    assert (row.grade, row.value) == ("published", toggled - equal)
    assert row.low <= toggled - equal <= row.high


def test_clearing_a_long_branch_history_costs_what_it_added_to_an_exit_of_a_sapphire_rapids():
    """Jon Kohler, the same mail: tscdeadline_immed took 3,629 cycles with the long sequence at VM exit, and 3,153 with
    BHI_DIS_S in host and guest.
    """
    for cpu in ("sapphire-rapids", "emerald-rapids"):
        row = current(cpu).rows["BHB long clear/base"]
        assert (row.grade, row.value) == ("derived", 3629 - 3153)
        assert row.low <= (3629 - 3153) / 2  # if a round has two exits
        assert row.high > row.value  # BHI_DIS_S costs something too


def test_kernels_before_bhi_rfds_and_tsa_have_nothing_against_them():
    assert at_one_exit("ice-lake-sp", kernel="v6.6") == {"RDMSR(SPEC_CTRL)": 1, "RSB one call": 1}
    assert at_one_exit("alder-lake", kernel="v6.6") == {"RDMSR(SPEC_CTRL)": 1, "RSB one call": 1}
    assert at_one_exit("zen4", kernel="v6.6") == {"untrain RET": 1}
    for cpu in ("ice-lake-sp", "alder-lake", "zen4"):
        assert sum(at_one_exit(cpu, kernel="v6.12").values()) == sum(at_one_exit(cpu, kernel="v6.6").values()) + 1


def test_up_to_v6_6_the_flush_of_l1d_stands_for_verw_on_skylake():
    """vmx_vcpu_enter_exit(): if (vmx_l1d_should_flush), else if (mds_user_clear); since v6.8 VERW is in vmenter.S."""
    without = {"RDMSR(SPEC_CTRL)": 1, "WRMSR(SPEC_CTRL)": 1, "RSB fill": 1}
    for kernel in versions.names():
        verw = {} if kernel in ("v6.6", "rfc") else {"VERW": 1}
        assert at_one_exit("skylake-sp", kernel=kernel) == without | verw


def test_a_kernel_knows_mitigations_that_there_are_and_no_later_one_forgets_any():
    known = [frozenset(each.mitigations) for each in versions.kernels().values()]
    assert known[-1] == frozenset(MITIGATIONS)
    assert all(earlier <= later for earlier, later in pairwise(known))


@pytest.mark.parametrize("kernel", versions.names())
@pytest.mark.parametrize("cpu", cpus())
def test_what_runs_at_an_exit_is_what_the_cpu_needs_and_the_kernel_knows(cpu, kernel):
    needed = set(profile(cpu).mitigations) & set(versions.version(kernel).mitigations)
    runs = at_one_exit(cpu, kernel=kernel)
    assert ("VERW" in runs) == any(each.startswith("CLEAR_CPU_BUF_VM") for each in needed)
    assert ("BHB clear" in runs) == ("CLEAR_BHB_VMEXIT" in needed)
    assert ("untrain RET" in runs) == ("UNRET" in needed)


@pytest.mark.parametrize("cpu", cpus())
def test_the_kinds_are_disjoint_and_together_all(cpu):
    everything = at_one_exit(cpu)
    each = [at_one_exit(cpu, mitigations=(kind,)) for kind in KINDS]
    assert sum(each, Counter()) == everything
    assert at_one_exit(cpu, mitigations=KINDS) == everything
    assert at_one_exit(cpu, mitigations=False) == at_one_exit(cpu, mitigations=()) == Counter()


def test_mitigations_are_all_that_differs_with_and_without_them():
    on, off = (
        Counter(flows.run("userspace-exit", Settings(cpu="skylake-sp", strategy="no-cet", mitigations=each)).operations)
        for each in (True, False)
    )
    assert {op.operation for op in (on - off)} == {
        "IBPB", "RDMSR(SPEC_CTRL)", "WRMSR(SPEC_CTRL)", "RSB fill", "VERW", "L1D flush",
    }  # fmt: skip
    assert off - on == Counter()


def test_a_kind_that_there_is_not_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"'verv'.*verw"):
        boot(replace(Settings(), mitigations=("verv",)))


PAIR = Setup("in-kernel-exit", kernel="v6.12", guest_osxsave=False, handler="cpuid")


def test_a_cpuid_exit_costs_the_published_pair_without_and_with_mitigations():
    """About 1,020 and "1,600 and more"; what the writes of IA32_SPEC_CTRL take is from another measurement."""
    table = current("emerald-rapids")

    def costs(mitigations: bool) -> int:
        counted = operations("emerald-rapids", replace(PAIR, mitigations=mitigations))
        return sum(n * price(tuple(op), table) for op, n in counted.items())

    assert costs(False) == pytest.approx(1020, abs=5)
    assert 1600 <= costs(True) <= 1800


@pytest.mark.parametrize("table", names())
def test_the_handler_of_every_reason_has_a_price(table):
    for reason in ("cpuid", "vmcall", "io", "msr-write", "other"):
        assert price(("", "", f"exit handler({reason})"), current(table)) > 0


def storm(tmp_path, text: str):
    file = tmp_path / "x.toml"
    file.write_text(
        'title = "x"\n[run]\nmeasure = "1 ms"\nstrategies = ["no-cet"]\nreplications = 2\n[host]\ncpus = 1\n'
        f'cpu = ["emerald-rapids"]\nkernel = ["v6.18"]\n[guests.g]\nvcpus = 1\n[guests.g.exits]\n{text}\n'
    )
    return cases(read(str(file)))[0]


def test_an_exit_without_a_time_takes_that_of_its_reason_and_one_that_the_fastpath_re_enters_from_takes_none(tmp_path):
    case = storm(
        tmp_path,
        'a = { every = "1 kHz", reason = "cpuid" }\nb = { every = "1 kHz", reason = "wrmsr-tsc-deadline" }\n'
        'c = { every = "1 kHz", reason = "cpuid", time = "0 ns" }',
    )
    exits = case.scenario.guests["g"].exits
    assert [case.cycles(exits[each].time.mean) for each in "abc"] == [245, 0, 0]


def test_a_scenario_may_choose_kinds(tmp_path):
    case = storm(tmp_path, 'a = { every = "1 kHz", reason = "cpuid" }\n[kernel]\nmitigations = ["rsb"]')
    assert boot(case.settings("no-cet")).mitigations == {"rsb"}


def test_flow_takes_kinds_and_its_help_has_them_all(capsys):
    run_command("flow", "--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{', '.join(KINDS)}." in shown
    run_command("flow", "in-kernel-exit", "--cpu", "skylake-sp", "--strategy", "no-cet", "--mitigations", "rsb,verw")
    shown = capsys.readouterr().out
    assert "RSB fill" in shown
    assert "SPEC_CTRL" not in shown
    assert run_command("flow", "in-kernel-exit", "--no-mitigations", "--mitigations", "rsb") == 2


def run_command(*arguments: str) -> object:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return stop.value.code


def test_a_result_whose_times_came_from_the_cost_table_is_read_and_run_again_to_the_same_bytes(tmp_path):
    case = storm(tmp_path, 'a = { every = "10 kHz", reason = "cpuid" }')
    first = sim.run(tmp_path / "x.toml", jobs=1, out=tmp_path / "first")
    again = sim.run(tmp_path / "first" / "manifest.json", jobs=1, out=tmp_path / "again")
    assert sim.load(tmp_path / "first").ledger.equals(first.ledger)
    assert again.ledger.equals(first.ledger)
    assert case.cycles(case.scenario.guests["g"].exits["a"].time.mean) == 245


# Where the two IBPBs go, and what may take the place of one: series that are not merged.

EMR = Settings(cpu="emerald-rapids", kernel="v7.3", strategy="xstate-guest")


def barriers(flow: str, **settings: object) -> list[tuple[str, str]]:
    operations = flows.run(flow, replace(EMR, **settings)).operations
    return [(op.phase, op.operation) for op in operations if op.operation in ("IBPB", "BHB long clear")]


def test_the_bhb_loop_runs_where_the_ibpb_of_vmscape_did():
    assert barriers("userspace-exit") == [("return-to-user", "IBPB")]
    assert barriers("userspace-exit", vmscape_by="bhb-clear") == [("return-to-user", "BHB long clear")]
    assert barriers("userspace-exit", vmscape_by="bhb-clear", mitigations=("ibpb",)) == []


def test_a_deferred_ibpb_is_at_the_entry_and_not_at_a_load_without_one():
    assert barriers("vcpu-switch", mitigations=("ibpb",)) == [("vcpu-load", "IBPB")] * 2
    assert barriers("vcpu-switch", mitigations=("ibpb",), ibpb_at="vcpu_enter_guest") == [("guest-entry", "IBPB")] * 2
    assert barriers("in-kernel-exit", mitigations=("ibpb",), ibpb_at="vcpu_enter_guest") == []
    kernel = Kernel(boot(replace(EMR, mitigations=("ibpb",), ibpb_at="vcpu_enter_guest")))
    (cpu,) = kernel.cpus
    for name in "VW":  # an ioctl of each, and no entry
        vcpu = kernel.new_vcpu(name)
        process.schedule(kernel, cpu, vcpu.task)
        kvm.vcpu_load(kernel, cpu)
        kvm.vcpu_put(kernel, cpu)
    assert cpu.ledger.count("IBPB") == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("vmscape_by", "bhb-clear"), ("ibpb_at", "vcpu_enter_guest")],
)
def test_what_no_kernel_does_yet_is_said(option, value):
    assert not boot(EMR).hypothetical
    for kernel in ("v6.18", "v6.19", "v7.3"):
        (note,) = boot(replace(EMR, kernel=kernel, **{option: value})).hypothetical
        assert note == f"{option} = {value!r}: no kernel up to v7.3 does that; the series is not merged"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cpu": "zen5", "vmscape_by": "bhb-clear"}, "zen5 has no BHI_DIS_S"),
        ({"kernel": "v6.17", "strategy": "no-cet", "vmscape_by": "bhb-clear"}, "v6.17 is older"),
        ({"kernel": "v6.6", "strategy": "no-cet", "vmscape_by": "bhb-clear"}, "and v6.6 has no mitigation of VMSCAPE"),
        ({"kernel": "rfc", "vmscape_by": "bhb-clear"}, "and rfc has no mitigation of VMSCAPE"),
        ({"kernel": "v6.12", "strategy": "no-cet", "ibpb_at": "vcpu_enter_guest"}, "for v6.17 and later"),
        ({"ibpb_at": "exit"}, "vcpu_enter_guest"),
    ],
)
def test_a_place_that_a_series_does_not_have_is_refused(changes, says):
    with pytest.raises(InputError, match=says):
        boot(replace(EMR, **changes))


# The conditional L1D flush against L1TF: Skylake-SP, of the CPUs that are shipped.


def flushes(flow: str, **settings: object) -> list[str]:
    """In which steps of a flow L1D is flushed."""
    run = flows.run(flow, Settings(**{"cpu": "skylake-sp", "kernel": "v6.18", "strategy": "no-cet", **settings}))
    return [
        step.name for step in run.steps for _, event in step.events if getattr(event, "operation", "") == "L1D flush"
    ]


@pytest.mark.parametrize("kernel", ["v6.6", "v6.18", "v7.3"])
def test_l1d_is_flushed_at_the_first_entry_after_a_vcpu_load_and_not_after_an_exit_that_kvm_handles(kernel):
    assert flushes("in-kernel-exit", kernel=kernel) == []
    assert flushes("userspace-exit", kernel=kernel) == ["V enters the guest"]
    assert flushes("preempt", kernel=kernel) == ["V enters the guest"]
    assert len(flushes("vcpu-switch", kernel=kernel)) == 2


def test_an_external_interrupt_or_a_page_fault_makes_the_next_entry_flush_l1d_once():
    kernel = Kernel(boot(Settings(cpu="skylake-sp", strategy="no-cet")))
    (cpu,) = kernel.cpus
    process.schedule(kernel, cpu, kernel.new_vcpu("V").task)
    for step in (kvm.kvm_run, kvm.kvm_load_guest_fpu, kvm.kvm_run_entry, kvm.vcpu_enter_guest):
        step(kernel, cpu)
    seen = []
    for reason in ("cpuid", "external-interrupt", "cpuid", "ept-violation", "ept-misconfig", "msr-write"):
        before = cpu.ledger.count("L1D flush")
        kvm.vm_exit(kernel, cpu, reason)
        kvm.vcpu_enter_guest(kernel, cpu)
        seen.append(cpu.ledger.count("L1D flush") - before)
    assert seen == [0, 1, 0, 1, 1, 0]


def test_l1d_is_flushed_before_the_guests_spec_ctrl_and_the_entry():
    run = flows.run("userspace-exit", Settings(cpu="skylake-sp", kernel="v6.18", strategy="no-cet"))
    order = [op.operation for op in run.operations]
    assert order[order.index("L1D flush") :] == ["L1D flush", "VERW", "VM entry"]


@pytest.mark.parametrize(
    "settings", [{"mitigations": False}, {"mitigations": ("verw",)}, {"cpu": "cascade-lake"}, {"cpu": "zen3"}]
)
def test_without_the_mitigation_or_the_bug_l1d_is_never_flushed(settings):
    assert flushes("vcpu-switch", **settings) == []
    assert len(flushes("vcpu-switch", mitigations=("l1d-flush",))) == 2
