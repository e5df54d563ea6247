"""The mediated vPMU: its sequences against the source, where they run, and what they cost beside the emulated one."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import shown
from hosts import changed, differences, only, simulate, with_little

from sim.costs.price import price
from sim.costs.table import current
from sim.errors import InputError
from sim.kernel import flows, kvm, process
from sim.kernel.config import Settings, boot
from sim.kernel.guests import GuestChoice
from sim.kernel.kernel import Kernel
from sim.kernel.operations import GUEST_ENTRY, GUEST_EXIT, TRANSITION, VPMU
from sim.kernel.scene import QUIET_GUEST, GuestUse, Scene
from sim.kernel.vpmu import check
from sim.verification.anchors.data import Setup
from sim.verification.anchors.experiments import operations

EMR = Settings(cpu="emerald-rapids", kernel="v7.3", strategy="xstate-guest", mitigations=False, vpmu="mediated")
TURIN = replace(EMR, cpu="zen5")

# arch/x86/kvm/pmu.c and vmx/pmu_intel.c, svm/pmu.c, v7.3.4, line by line; * n: once per counter that is exposed.

INTEL_LOAD = """perf context
WRMSR(PERF_GLOBAL_CTRL)
WRMSR(LVTPC)
8 * RDPMC WRMSR(PERFEVTSEL)
3 * RDPMC
RDMSR(PERF_GLOBAL_STATUS)
WRMSR(FIXED_CTR_CTRL)"""
INTEL_PUT = """RDMSR(PERF_GLOBAL_STATUS)
8 * RDPMC
3 * RDPMC
WRMSR(LVTPC)
perf context"""
AMD_LOAD = """perf context
WRMSR(PERF_GLOBAL_CTRL)
WRMSR(LVTPC)
6 * RDPMC WRMSR(PERFEVTSEL)
RDMSR(PERF_GLOBAL_STATUS)
WRMSR(PERF_GLOBAL_STATUS_SET)
WRMSR(PERF_GLOBAL_CTRL)"""
AMD_PUT = """WRMSR(PERF_GLOBAL_CTRL)
RDMSR(PERF_GLOBAL_STATUS)
6 * RDPMC
WRMSR(LVTPC)
perf context"""


PAGE = Path(__file__).parent.parent / "docs/questions/mediated-vpmu.md"


def test_the_page_has_what_the_mediated_vpmu_costs_at_an_exit_and_how_many_exits_a_sample_is_worth():
    printed = shown.run(
        "flow in-kernel-exit --cpu emerald-rapids --kernel v7.3 --vpmu mediated --mitigations ibpb --cost --no-trace"
    )
    value, low, high = map(int, re.search(r"vpmu (\d+) \[(\d+) to (\d+)\]", printed).groups())
    page = PAGE.read_text(encoding="utf-8")
    assert f"Outside it, {value:,} TSC cycles on Emerald Rapids ({low:,} to {high:,}, all rows at their ends)" in page
    sample = current("emerald-rapids").rows["vPMU sample/base"]
    worth = sample.value / value, sample.low / high, sample.high / low
    few, least, most = (
        int(each)
        for each in re.search(
            r"fewer than (\d+) such exits for each sample \((\d+) to (\d+)\)", " ".join(page.split())
        ).groups()
    )
    assert worth == pytest.approx((few, least, most), rel=0.04)


def test_the_page_has_what_the_flagship_costs_with_what_is_assumed_and_what_is_published_together(tmp_path):
    page = PAGE.read_text(encoding="utf-8")
    (saved,) = shown.SAVED.finditer(page)
    (command,) = (each["command"] for each in shown.SHOWN.finditer(page) if "./wrmsr-bounded.toml" in each["command"])
    assumed, published = (
        current("sapphire-rapids").rows["WRMSR(PLx_SSP)/base"],
        current("emerald-rapids").rows["WRMSR(PMU)/base"],
    )
    low, high = max(assumed.low, published.low), min(assumed.high, published.high)
    both = f"value = {(low + high) / 2:.0f}, low = {low:.0f} and high = {high:.0f}"
    text, n = re.subn(r"value = 111, low = 10, high = 212", both.replace(" and", ","), saved["text"])
    assert n == 1
    file = tmp_path / saved["name"]
    file.write_text(text, encoding="utf-8")
    printed = shown.run(command.replace("./wrmsr-bounded.toml", str(file)))
    value, spread = re.search(r"manual-load costs (\S+) cycles/s \((\S+ to \S+);", printed).groups()
    assert f"{both} in that file, it is {value} ({spread})" in " ".join(page.split())


def steps(text: str) -> list[str]:
    found = []
    for line in text.splitlines():
        times, _, each = line.rpartition(" * ")
        found += (each.replace("perf context", "perf-context").split()) * int(times or 1)
    return [each.replace("-", " ") if each == "perf-context" else each for each in found]


def ran(flow: str, settings: Settings) -> list[str]:
    return [op.operation for op in flows.run(flow, settings).operations if op.phase == VPMU]


@pytest.mark.parametrize(
    ("settings", "after", "put", "load_"),
    [
        (EMR, "VMREAD", INTEL_PUT, INTEL_LOAD),
        (TURIN, "RDMSR(PERF_GLOBAL_CTRL)", AMD_PUT, AMD_LOAD),
    ],
)
def test_an_exit_that_leaves_the_fastpath_loop_puts_and_loads_what_the_source_does(settings, after, put, load_):
    assert ran("in-kernel-exit", settings) == [after, *steps(put), *steps(load_)]
    assert ran("fastpath-exit", settings) == [after]


@pytest.mark.parametrize(("settings", "in_use"), [(EMR, 8), (EMR, 3), (TURIN, 6)])
def test_a_counter_in_use_is_loaded_and_both_its_msrs_are_cleared(settings, in_use):
    idle, busy = (Counter(ran("in-kernel-exit", replace(settings, vpmu_in_use=n))) for n in (0, in_use))
    assert busy - idle == {"WRMSR(PERFCTR)": 2 * in_use, "WRMSR(PERFEVTSEL)": in_use}
    assert idle - busy == Counter()


def test_it_lies_between_xcr0_with_xss_and_pkru_as_in_vcpu_enter_guest():
    """kvm_load_xfeatures(), kvm_mediated_pmu_load(), kvm_load_guest_pkru(), the loop; and back on the way out."""
    settings = replace(EMR, guest_xcr0=0xE7 | 0x200)
    seen = [
        op.phase if op.phase == VPMU else op.operation
        for op in flows.run("in-kernel-exit", settings).operations
        if op.phase in (VPMU, GUEST_ENTRY, GUEST_EXIT, TRANSITION, "xss")
    ]
    order = [each for i, each in enumerate(seen) if i == 0 or each != seen[i - 1]]
    assert order == [
        "VM exit", VPMU, "RDPKRU", VPMU, "XSETBV", "WRMSR(XSS)", "XSETBV", "WRMSR(XSS)", VPMU, "VM entry",
    ]  # fmt: skip


@pytest.mark.parametrize("flow", ["preempt", "userspace-exit", "halt"])
def test_nothing_else_differs_from_a_guest_without_a_vpmu(flow):
    without = flows.run(flow, replace(EMR, vpmu="none")).operations
    assert [op for op in flows.run(flow, EMR).operations if op.phase != VPMU] == list(without)
    assert list(flows.run(flow, replace(EMR, vpmu="emulated")).operations) == list(without)


def test_a_guest_whose_cpuid_has_no_pmu_pays_nothing_beside_others_that_have_one():
    kernel = Kernel(boot(EMR), 1)
    for vpmu, expected in ((True, 39), (False, 0)):
        vcpu = kernel.new_vcpu(f"V{vpmu}", GuestChoice(vpmu=vpmu))
        (cpu,) = kernel.cpus
        process.schedule(kernel, cpu, vcpu.task)
        process.return_to_user(kernel, cpu)
        kvm.kvm_run(kernel, cpu)
        kvm.kvm_load_guest_fpu(kernel, cpu)
        kvm.vcpu_enter_guest(kernel, cpu)
        cpu.ledger.restart()
        kvm.vm_exit(kernel, cpu, "cpuid")
        kvm.vcpu_enter_guest(kernel, cpu)
        assert sum(n for op, n in cpu.ledger.rows() if op.phase == VPMU) == expected
        kvm.vm_exit(kernel, cpu, "io")
        kvm.kvm_put_guest_fpu(kernel, cpu)
        kvm.vcpu_put(kernel, cpu)
        process.return_to_user(kernel, cpu)


def test_a_sample_of_perf_costs_its_emulation_with_the_emulated_vpmu_alone():
    def samples(vpmu: str) -> int:
        scene = Scene(Kernel(boot(replace(EMR, vpmu=vpmu)), 2), QUIET_GUEST)
        scene.start_in_guest()
        kvm.vm_exit(scene.k, scene.cpu, "pmu")
        return scene.cpu.ledger.count("vPMU sample")

    assert [samples(each) for each in ("none", "emulated", "mediated")] == [0, 1, 0]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (replace(EMR, kernel="v6.19"), r"came with v7\.0, and this is v6\.19 \(allowed: v7\.3\)"),
        (replace(EMR, cpu="zen3", strategy="xstate-guest"), "needs PerfMonV2, which zen3 lacks"),
        (replace(EMR, cpu="ice-lake-sp", strategy="no-cet"), "MSR-store list, which is not modelled"),
        (replace(EMR, vpmu_in_use=9), r"vpmu_in_use = 9 \(allowed on VMX: 0 to 8\)"),
        (replace(TURIN, vpmu_in_use=7), r"allowed on SVM: 0 to 6"),
        (replace(EMR, vpmu_counts_instructions=True), "with vpmu_in_use = 0 .allowed: with a counter in use"),
        (replace(EMR, vpmu="medi"), "did you mean 'mediated'"),
    ],
)
def test_what_guests_cannot_have_is_refused(settings, says):
    with pytest.raises(InputError, match=says):
        boot(settings)


# Against what was published.

STEP = {"emerald-rapids": (11, 1000, 500), "zen5": (6, 900, 100)}


@pytest.mark.parametrize("cpu", STEP)
def test_the_elided_wrmsrs_cost_what_the_commit_measured(cpu):
    """4k to 3k and 6.2k to 5.3k: one WRMSR less and one RDPMC more for each counter that is exposed."""
    counters, step, rounding = STEP[cpu]
    table = current(cpu)
    each = price(("", VPMU, "WRMSR(PERFCTR)"), table) - price(("", VPMU, "RDPMC"), table)
    assert counters * each == pytest.approx(step, abs=rounding)


def test_a_cpuid_exit_with_a_mediated_vpmu_costs_the_published_3k_on_emerald_rapids():
    """The step is an input to the rows and the level is not."""
    setup = Setup("in-kernel-exit", kernel="v7.3", guest_osxsave=False, vpmu="mediated", handler="cpuid")
    table = current("emerald-rapids")
    counted = operations("emerald-rapids", setup)
    assert sum(n * price(tuple(op), table) for op, n in counted.items()) == pytest.approx(3000, abs=500)


def test_the_break_even_rate_is_a_quotient_of_two_prices():
    """Emulated costs S per sample, mediated M per exit that leaves the loop: as much at S / M such exits a sample."""
    table = current("emerald-rapids")
    per_exit = sum(price(("", VPMU, each), table) for each in ran("in-kernel-exit", replace(EMR, vpmu_in_use=1)))
    per_sample = price(("", VPMU, "vPMU sample"), table)
    assert 30 < per_sample / per_exit < 50


# While a counter counts instructions, KVM must count those that it emulates: kvm_pmu_is_fastpath_emulation_allowed().

COUNTING = replace(EMR, vpmu_in_use=1, vpmu_counts_instructions=True)


@pytest.mark.parametrize("kernel_settings", [COUNTING, replace(COUNTING, cpu="zen5")], ids=["vmx", "svm"])
def test_a_guest_that_counts_instructions_has_the_fastpath_of_the_preemption_timer_alone(kernel_settings):
    version = boot(kernel_settings).version
    for reason in version.fastpath["svm" if kernel_settings.cpu == "zen5" else "vmx"]:
        use = GuestUse(fastpath_exit=reason)
        leaves = Counter(op.operation for op in flows.run("fastpath-exit", kernel_settings, use).operations)
        within = flows.run("in-kernel-exit", kernel_settings, use).operations
        assert (leaves == Counter(op.operation for op in within)) is (reason != "preemption-timer"), reason
        assert leaves["perf context"] == (0 if reason == "preemption-timer" else 2)


@pytest.mark.parametrize("vpmu", ["none", "emulated"])
def test_without_the_mediated_vpmu_counting_instructions_takes_no_fastpath_away(vpmu):
    counting = replace(COUNTING, vpmu=vpmu)
    plain = replace(counting, vpmu_counts_instructions=False)
    assert flows.run("fastpath-exit", counting).operations == flows.run("fastpath-exit", plain).operations


def test_beside_guests_that_count_instructions_one_without_counters_keeps_the_fastpath():
    kernel = Kernel(boot(COUNTING), 1)
    (cpu,) = kernel.cpus
    for vpmu in (True, False):
        vcpu = kernel.new_vcpu(f"V{vpmu}", GuestChoice(vpmu=vpmu))
        process.schedule(kernel, cpu, vcpu.task)
        process.return_to_user(kernel, cpu)
        kvm.kvm_run(kernel, cpu)
        kvm.kvm_load_guest_fpu(kernel, cpu)
        kvm.vcpu_enter_guest(kernel, cpu)
        assert kvm.vm_exit(kernel, cpu, "invd") is not vpmu
        if not vpmu:
            kvm.vm_exit(kernel, cpu, "io")
        kvm.kvm_put_guest_fpu(kernel, cpu)
        kvm.vcpu_put(kernel, cpu)
        process.return_to_user(kernel, cpu)


def test_one_guest_counts_instructions_and_its_neighbour_uses_other_counters():
    """The counters of each are put and loaded at its own exits, as kvm_mediated_pmu_put() and _load() have it."""
    kernel = Kernel(boot(replace(EMR, vpmu_in_use=0)), 1)
    (cpu,) = kernel.cpus
    seen = {}
    for in_use, counts in ((3, True), (2, False), (0, None)):
        vcpu = kernel.new_vcpu(f"V{in_use}", GuestChoice(vpmu_in_use=in_use, vpmu_counts_instructions=counts))
        process.schedule(kernel, cpu, vcpu.task)
        process.return_to_user(kernel, cpu)
        kvm.kvm_run(kernel, cpu)
        kvm.kvm_load_guest_fpu(kernel, cpu)
        kvm.vcpu_enter_guest(kernel, cpu)
        re_entered = kvm.vm_exit(kernel, cpu, "invd")
        if re_entered:
            kvm.vm_exit(kernel, cpu, "io")
        before = cpu.ledger.count("WRMSR(PERFCTR)")
        kvm.vcpu_enter_guest(kernel, cpu)
        seen[in_use] = re_entered, cpu.ledger.count("WRMSR(PERFCTR)") - before
        kvm.vm_exit(kernel, cpu, "io")
        kvm.kvm_put_guest_fpu(kernel, cpu)
        kvm.vcpu_put(kernel, cpu)
        process.return_to_user(kernel, cpu)
    assert seen == {3: (False, 3), 2: (True, 2), 0: (True, 0)}


TIMERS = (
    with_little("two guests with timers", "5 ms", "emerald-rapids")
    + """
kernel = ["v7.3"]
[kernel]
vpmu = "mediated"
vpmu_in_use = 1
vpmu_counts_instructions = COUNTING
[guests.counted]
exits.timer = { every = "100 us", reason = "wrmsr-tsc-deadline" }
[guests.plain]
vpmu = false
exits.timer = { every = "100 us", reason = "wrmsr-tsc-deadline" }
"""
)


def test_in_a_run_the_timers_of_guests_with_counters_leave_the_fastpath_and_take_a_handlers_time():
    records = {}
    for counting in ("false", "true"):
        case = only(TIMERS.replace("COUNTING", counting))
        times = {name: guest.exits["timer"].time.mean for name, guest in case.scenario.guests.items()}
        assert (times["counted"] > 0, times["plain"]) == (counting == "true", 0)
        one, other = (simulate(changed(case, engine=engine), "xstate-guest", 0) for engine in ("simpy", "compiled"))
        assert not differences(one, other)
        records[counting] = Counter()
        for operation, count, _ in one.ledger:
            records[counting][operation.operation] += count
    puts = {counting: found["perf context"] / 2 for counting, found in records.items()}
    timers = records["true"]["VMREAD"]  # after each exit of the guest that has counters
    assert puts["false"] < 0.2 * timers < timers * 0.9 < puts["true"]


SOME = (
    TIMERS.replace("vpmu_in_use = 1\nvpmu_counts_instructions = COUNTING\n", "")
    .replace("[guests.counted]", "[guests.counted]\nvpmu_in_use = 1\nvpmu_counts_instructions = COUNTING")
    .replace("vpmu = false\n", "")
)


def test_in_a_run_some_guests_count_instructions_and_others_with_a_vpmu_do_not():
    puts = {}
    for counting in ("false", "true"):
        case = only(SOME.replace("COUNTING", counting))
        times = [guest.exits["timer"].time.mean for guest in case.scenario.guests.values()]
        assert [time > 0 for time in times] == [counting == "true", False]
        one, other = (simulate(changed(case, engine=engine), "xstate-guest", 0) for engine in ("simpy", "compiled"))
        assert not differences(one, other)
        found = Counter()
        for operation, count, _ in one.ledger:
            found[operation.operation] += count
        puts[counting] = found["perf context"] / 2 / (found["VMREAD"] / 2)  # by exit of one of the two
    assert puts["false"] < 0.4
    assert 0.9 < puts["true"] - puts["false"] < 1.1


def test_the_page_has_what_a_timers_exit_costs_a_guest_that_counts_instructions():
    command = (
        "flow fastpath-exit --cpu emerald-rapids --kernel v7.3 --vpmu mediated --mitigations ibpb --cost --no-trace"
    )
    costs = [
        int(re.search(r"cost: (\d+) ", shown.run(command + more)).group(1))
        for more in (" --vpmu-in-use 1 --vpmu-counts-instructions", " --vpmu-in-use 1")
    ]
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"{costs[0]:,} TSC cycles in place of {costs[1]}" in page


def test_svm_needs_perfmonv2_alone_and_vmx_the_saving_of_global_ctrl():
    """Told by features that came with it: AVX-512 with Zen 4, shadow stacks with Sapphire Rapids."""
    check("mediated", "v7.3", "svm", frozenset({"AVX512F"}), "a CPU", 1, False)
    with pytest.raises(InputError, match="PerfMonV2"):
        check("mediated", "v7.3", "svm", frozenset({"SHSTK"}), "a CPU", 1, False)
    check("mediated", "v7.3", "vmx", frozenset({"SHSTK"}), "a CPU", 1, False)
    with pytest.raises(InputError, match="GLOBAL_CTRL"):
        check("mediated", "v7.3", "vmx", frozenset({"AVX512F"}), "a CPU", 1, False)
