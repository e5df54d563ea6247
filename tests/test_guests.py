"""Guests as they are: what their CPUID lacks or has beside the host's, in operations per exit."""

from collections import Counter
from dataclasses import replace

import pytest
from hosts import only, simulate

from sim.errors import InputError
from sim.kernel import fpu, guest, kvm, process
from sim.kernel.config import Settings, boot
from sim.kernel.guests import GuestChoice, features
from sim.kernel.kernel import Kernel
from sim.xsave.components import AVX, FP, PKRU, SSE, XTILE, XTILEDATA
from sim.xsave.unit import Fault

NO_PKU = GuestChoice(pku=False)


def in_guest(settings, choice):
    """A guest that has just been entered for the first time, on its CPU."""
    k = Kernel(boot(settings))
    cpu, vcpu = k.cpus[0], k.new_vcpu("V", choice)
    process.schedule(k, cpu, vcpu.task)
    process.return_to_user(k, cpu)
    kvm.kvm_run(k, cpu)
    kvm.kvm_load_guest_fpu(k, cpu)
    kvm.kvm_run_entry(k, cpu)
    kvm.vcpu_enter_guest(k, cpu)
    guest.boots(k, cpu)
    return k, cpu


def per_exit(settings, choice):
    """The operations of an exit that KVM handles and of the entry after it."""
    k, cpu = in_guest(settings, choice)
    guest.writes(k, cpu, SSE | AVX)
    before = Counter(cpu.ledger.counts)
    kvm.vm_exit(k, cpu, "cpuid")
    kvm.vcpu_enter_guest(k, cpu)
    assert not k.integrity.findings
    return Counter(key[2] for key in (Counter(cpu.ledger.counts) - before).elements())


ICE_LAKE = Settings(cpu="ice-lake-sp", kernel="v6.6", strategy="no-cet", mitigations=False)
SPR = Settings(cpu="sapphire-rapids", kernel="v6.18", mitigations=False)
TRANSITION = {"VM exit": 1, "VM entry": 1}


@pytest.mark.parametrize(
    ("settings", "choice", "operations"),
    [
        (ICE_LAKE, GuestChoice(), {"RDPKRU": 1}),
        (ICE_LAKE, NO_PKU, {"XSETBV": 2}),  # neither XCR0[9] nor CR4.PKE: KVM leaves PKRU alone
        (ICE_LAKE, GuestChoice(xcr0=0xE7), {"XSETBV": 2}),
        (ICE_LAKE, GuestChoice(xcr0=0xE7, pku=True), {"XSETBV": 2, "RDPKRU": 1}),  # CR4.PKE alone
        (ICE_LAKE, GuestChoice(xcr0=0x207), {"XSETBV": 2, "RDPKRU": 1}),  # no AVX-512
        (SPR, GuestChoice(), {"XSETBV": 2, "RDPKRU": 1, "WRMSR(XSS)": 2}),  # no AMX
        (SPR, GuestChoice(amx=True), {"RDPKRU": 1, "WRMSR(XSS)": 2, "RDMSR(XFD)": 1}),
        (SPR, GuestChoice(amx=True, pku=False), {"XSETBV": 2, "WRMSR(XSS)": 2, "RDMSR(XFD)": 1}),
    ],
)  # fmt: skip
def test_what_a_guest_lacks_costs_xsetbv_and_spares_what_belongs_to_it(settings, choice, operations):
    assert per_exit(settings, choice) == TRANSITION | operations


def test_amx_makes_the_fpstate_of_one_guest_larger_and_lacking_components_makes_none_smaller():
    config = boot(SPR)
    plain, small, amx = (features(config, each) for each in (GuestChoice(), GuestChoice(xcr0=7), GuestChoice(amx=True)))
    assert (plain.xfeatures, plain.fpstate_size) == (small.xfeatures, small.fpstate_size) == (0x21EE7, 2560)
    assert (amx.xfeatures, amx.fpstate_size, amx.xcr0) == (0x61EE7, 10752, 0x602E7)
    assert features(boot(Settings(guest_amx=True)), GuestChoice(amx=False)) == plain


def test_a_guest_without_pku_has_none_after_an_init_either():
    k, cpu = in_guest(ICE_LAKE, NO_PKU)
    kvm.vm_exit(k, cpu, "external-interrupt")
    kvm.guest_init(k, cpu)
    kvm.vcpu_enter_guest(k, cpu)
    guest.boots(k, cpu)
    assert (cpu.guest.cr4_osxsave, cpu.guest.cr4_pke, k.pkru_switched(cpu.guest)) == (True, False, False)
    guest.wrpkru(k, cpu, 0xC)  # which such a guest cannot run
    assert cpu.unit.pkru != 0xC


@pytest.mark.parametrize(
    ("settings", "choice", "message"),
    [
        (SPR, GuestChoice(xcr0=0x6), "guest xcr0: found 0x6; allowed are bit 0"),
        (SPR, GuestChoice(xcr0=0x100001), "bits of 0x602e7"),
        (SPR, GuestChoice(xcr0=0x602E7), "needs amx = true"),
        (SPR, GuestChoice(xcr0=0x2E7, pku=False), r"PKRU \(bit 9\) beside pku = false"),
        (SPR, GuestChoice(xcr0=0xE7, pku=False), ""),
        (SPR, GuestChoice(xcr0=0x600E7, pku=False, amx=True), ""),
        (SPR, GuestChoice(xss=0x8000), "allowed: bits of 0x1800"),
        (ICE_LAKE, GuestChoice(amx=True), "ice-lake-sp has no AMX"),
        (SPR, GuestChoice(vpmu_in_use=9), "guest vpmu_in_use: found 9; allowed on VMX: 0 to 8"),
        (Settings(cpu="zen5"), GuestChoice(vpmu_in_use=7), "allowed on SVM: 0 to 6"),
        (SPR, GuestChoice(vpmu=False, vpmu_in_use=1), "vpmu_in_use: found 1 beside vpmu = false"),
        (SPR, GuestChoice(vpmu_counts_instructions=True), "found true with vpmu_in_use = 0"),
        (SPR, GuestChoice(vpmu=False, vpmu_counts_instructions=True), "found true beside vpmu = false"),
        (Settings(cpu="skylake-sp", strategy="no-cet"), GuestChoice(pku=True), ""),
    ],
)
def test_a_guest_that_cannot_be_is_refused_and_one_that_can_is_not(settings, choice, message):
    config = boot(settings)
    if not message:
        assert features(config, choice).pku == choice.pku
        return
    with pytest.raises(InputError, match=message):
        features(config, choice)


SCENARIO = """
title = "a guest"
[run]
measure = "10 ms"
warmup = "10 ms"
strategies = ["xstate-guest"]
[host]
cpus = 1
cpu = ["sapphire-rapids"]
tsc = "2.6 GHz"
[guests.g]
{g}
[guests.g.exits.x]
every = "10 kHz"
reason = "cpuid"
"""
OTHER = """
[guests.other]
{g}
[guests.other.exits.x]
every = "10 kHz"
reason = "cpuid"
"""


def counts(text):
    found = Counter()
    for operation, n, _ in simulate(only(text), "xstate-guest", 0).ledger:
        found[operation.operation] += n
    return found


def test_different_guests_on_one_host_each_pay_for_their_own():
    amx, plain = counts(SCENARIO.format(g="amx = true")), counts(SCENARIO.format(g=""))
    assert (amx["XSETBV"], amx["RDMSR(XFD)"]) == (0, amx["VM exit"])
    assert (plain["XSETBV"], plain["RDMSR(XFD)"]) == (2 * plain["VM exit"], 0)
    both = counts(SCENARIO.format(g="amx = true") + OTHER.format(g="amx = true\npku = false"))
    assert both["RDMSR(XFD)"] == both["VM exit"]
    assert 0 < both["XSETBV"] < 2 * both["VM exit"]


def test_the_pages_of_a_component_that_a_guest_lacks_are_refused_in_a_scenario():
    for g, says in (
        ("xcr0 = 0x602e7", "guests.g.xcr0"),
        ("xcr0 = 0x4", "guests.g.xcr0"),
        ("pku = true\nxcr0 = 0x100007", "guests.g.xcr0"),
        ('xcr0 = 0x7\nfpu = { components = ["OPMASK"], every = "1 ms" }', "guests.g.fpu.components"),
        ('fpu = { components = ["XTILEDATA"], every = "1 ms" }', "kernel.guest_amx"),
        ('amx = false\nfpu = { components = ["XTILEDATA"], every = "1 ms" }', "guests.g.amx"),
    ):
        with pytest.raises(InputError) as error:
            only(SCENARIO.format(g=g))
        assert says in str(error.value)


def test_tiles_of_an_amx_guest_beside_one_without_are_its_own():
    k = Kernel(boot(SPR))
    tiles, other = k.new_vcpu("tiles", GuestChoice(amx=True)), k.new_vcpu("other")
    cpu = k.cpus[0]
    for vcpu in (tiles, other, tiles):
        if cpu.guest:
            kvm.vm_exit(k, cpu, "external-interrupt")
        process.schedule(k, cpu, vcpu.task)
        if vcpu.task.notifier is None:
            process.return_to_user(k, cpu)
            kvm.kvm_run(k, cpu)
            kvm.kvm_load_guest_fpu(k, cpu)
            kvm.kvm_run_entry(k, cpu)
        kvm.vcpu_enter_guest(k, cpu)
        guest.writes(k, cpu, FP | SSE | XTILE)
    assert cpu.unit.regs[18] == tiles.context.regs[18] != 0
    assert not other.fpstate.xfeatures & XTILEDATA
    assert not k.integrity.findings
    assert fpu.fpregs_state_valid(cpu, tiles.task)
    assert k.pku
    assert tiles.xcr0 & PKRU


def test_pku_for_a_guest_needs_a_cpu_that_has_it():
    with pytest.raises(InputError, match="guest pku: found true, and zen2 has no PKU"):
        features(boot(Settings(cpu="zen2", strategy="no-cet")), GuestChoice(pku=True))


def disables_amx_in_use(kernel):
    """A guest disables AMX while its tiles are in use, and an interrupt uses the FPU before KVM handles the exit."""
    k, cpu = in_guest(Settings(kernel=kernel, guest_amx=True), GuestChoice(amx=True))
    guest.writes(k, cpu, XTILE)
    assert cpu.unit.regs[18]
    vcpu = cpu.guest
    kvm.vm_exit(k, cpu, "wrmsr")
    fpu.kernel_fpu_begin(k, cpu, SSE)
    fpu.fpu_update_guest_xfd(k, cpu, vcpu, XTILEDATA)
    return k, cpu, vcpu


def test_a_guest_that_disables_amx_in_use_makes_the_host_fault_before_v6_19():
    # Linux commit b45f721775947 ("x86/fpu: Clear XSTATE_BV[i] in guest XSAVE state whenever XFD[i]=1").
    k, cpu, _ = disables_amx_in_use("v6.18")
    with pytest.raises(Fault, match="#NM") as error:
        kvm.vcpu_enter_guest(k, cpu)
    assert "IA32_XFD disables: 0x40000" in str(error.value)


def test_since_v6_19_the_disabled_component_is_initial_in_memory():
    k, cpu, vcpu = disables_amx_in_use("v6.19")
    assert not vcpu.fpstate.area.xstate_bv & XTILEDATA
    kvm.vcpu_enter_guest(k, cpu)
    assert not k.integrity.findings
    cpu.unit.xfd = 0
    assert not cpu.unit.regs[18]


@pytest.mark.parametrize("has", [*({i} for i in range(20)), {0, 1, 2}, {0, 1, 11, 12}, set(range(20))])
def test_a_guest_lacks_the_supervisor_components_that_its_model_does_not_have(has):
    """Those of IA32_XSS: Intel SDM vol. 1, section 13.1."""
    lacks = features(boot(SPR), GuestChoice(components=sum(1 << i for i in has))).lacks
    assert lacks == sum(1 << i for i in {8, 10, 11, 12, 13, 14, 15, 16} - has)
    assert features(boot(SPR)).lacks == 0


@pytest.mark.parametrize("xss", [0, 0x800, 0x1000, 0x1800])
def test_a_guest_may_be_given_a_part_of_what_guests_are_offered_in_ia32_xss(xss):
    assert features(boot(SPR), GuestChoice(xss=xss)).xss == xss


@pytest.mark.parametrize(("settings", "most"), [(SPR, 8), (Settings(cpu="zen5"), 6)])
def test_a_guest_may_use_any_number_of_the_counters_that_there_are(settings, most):
    used = [features(boot(settings), GuestChoice(vpmu_in_use=number)).vpmu_in_use for number in range(most + 1)]
    assert used == list(range(most + 1))
    for number in (-1, most + 1):
        with pytest.raises(InputError, match=f"found {number}; allowed"):
            features(boot(settings), GuestChoice(vpmu_in_use=number))


@pytest.mark.parametrize("pku", [True, False])
@pytest.mark.parametrize("xcr0", [0x7, 0xE7, 0x207, 0x2E7])
@pytest.mark.parametrize("cr4_pke", [True, False])
def test_kvm_switches_pkru_where_xcr0_or_cr4_lets_the_guest_use_it(pku, xcr0, cr4_pke):
    """kvm_load_guest_pkru(), arch/x86/kvm/x86.c, Linux v6.18."""
    k = Kernel(boot(replace(SPR, cpu="sapphire-rapids" if pku else "zen2", strategy="no-cet")))
    vcpu = k.new_vcpu("V")
    vcpu.xcr0, vcpu.cr4_pke = xcr0, cr4_pke
    assert k.pkru_switched(vcpu) == (pku and (cr4_pke or xcr0 in (0x207, 0x2E7)))


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("cpu", ["sapphire-rapids", "diamond-rapids"])
def test_a_guest_writes_ia32_xfd_as_it_boots_where_it_has_amx(cpu, amx):
    """fpu__init_cpu_xstate(), arch/x86/kernel/fpu/xstate.c, Linux v6.18; Diamond Rapids has APX above AMX."""
    _, on = in_guest(Settings(cpu=cpu, kernel="v6.18", mitigations=False), GuestChoice(amx=amx))
    assert (on.unit.xfd, on.guest.xfd_passthrough) == ((XTILEDATA, True) if amx else (0, False))
    assert on.ledger.count("VM exit") == amx  # that write is intercepted


def test_after_an_init_a_guest_writes_x87_and_sse_at_once_and_sets_cr4_osxsave_before_avx():
    k, cpu = in_guest(ICE_LAKE, GuestChoice())
    kvm.vm_exit(k, cpu, "external-interrupt")
    kvm.guest_init(k, cpu)
    kvm.vcpu_enter_guest(k, cpu)
    for components in (FP, SSE, FP | SSE):
        guest.writes(k, cpu, components)
        assert not cpu.guest.cr4_osxsave
    guest.writes(k, cpu, AVX)
    assert cpu.guest.cr4_osxsave
