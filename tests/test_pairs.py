"""Which strategy can carry which state, and what is said of a pair that no kernel has: all pairs, with the reasons."""

from dataclasses import replace

import pytest

from sim.errors import InputError
from sim.kernel.carried import CarriedState
from sim.kernel.config import Settings, boot
from sim.kernel.strategies import names, strategy
from sim.kernel.uret import URET_MSRS
from sim.kernel.versions import names as kernels
from sim.xsave.profiles import profile


def state(name, msrs=(), size=16, xfeature=None, feature="", per_task_msr=False, **by):
    numbered = {f"M{k}": number for k, number in enumerate(msrs)}
    return CarriedState(name, "t", numbered, size, per_task_msr, "a test", xfeature, feature, **by)


STATES = {
    "cet-s": Settings(strategy="no-cet").carried,
    "two MSRs": state("two MSRs", (0x100, 0x101)),
    "four MSRs": state("four MSRs", (0x100, 0x101, 0x102, 0x103), 32),
    "spec-ctrl": state("spec-ctrl", (0x48,), 8),
    "lbr": state("lbr", (0x14CE, 0x14CF), 808, 15, "ARCH_LBR"),
    "uintr": state("uintr", (0x985, 0x986), 48, 14, "UINTR"),
    "apx": state("apx", (), 128, 19, "APX"),
    "plain": state("plain", (), 64, save_by={"MOV": 8}, load_by={"MOV": 8}),
    "rsp0": state("rsp0", (0x1CC,), 8, None, "FRED", True),
}
WITH = {name: {each for each in names() if strategy(each).mechanism == name} for name in
        ("none", "msr", "msr-list", "user-return", "fpstate", "independent")}  # fmt: skip
OF_MSRS = WITH["msr"] | WITH["msr-list"] | WITH["user-return"]
"""Strategies that copy MSRs, one by one; the others move a component, or nothing."""
IN_COMPONENTS, IN_MSRS = {"cet-s", "lbr", "uintr", "apx"}, set(STATES) - {"apx", "plain"}


def pairs(strategies, states):
    return {(each, one) for each in strategies for one in states}


REFUSED = {
    "needs an xfeature": pairs(WITH["fpstate"] | WITH["independent"], set(STATES) - IN_COMPONENTS),
    "copies MSRs, and": pairs(OF_MSRS, set(STATES) - IN_MSRS),
    "is a user component, and independent": pairs(WITH["independent"], {"apx"}),
    "leaves a guest's rsp0 to the host": pairs(WITH["none"], {"rsp0"}),
    # manual-exit, manual-run and others set the first two MSRs to 0.
    "zero = ": {(each, one) for each in OF_MSRS for one in IN_MSRS
                if strategy(each).zero > len(getattr(STATES[one], "msrs", "123"))},
}  # fmt: skip


def every_pair():
    return pairs(names(), STATES)


def of(name, one, **settings):
    return Settings(**{"cpu": "diamond-rapids", "kernel": "v6.18", "strategy": name, "carried": STATES[one]} | settings)


def test_a_strategy_takes_all_states_but_those_that_its_mechanism_cannot_carry():
    found = {why: set() for why in REFUSED}
    for name, one in every_pair():
        try:
            boot(of(name, one, guest_uret_msrs=()))
        except InputError as error:
            (why,) = (why for why in REFUSED if why in str(error))
            found[why].add((name, one))
    assert found == REFUSED


# What is said of a pair that goes together, on the newest kernels and a CPU that has all components.

CARRIES = set(names()) - WITH["none"]
SAID = {
    "nothing carries the state": pairs({"free-ssp"}, set(STATES)),
    "no KVM up to v7.3 offers": pairs(WITH["fpstate"] | WITH["independent"], {"apx"}),
    "no KVM up to v7.3 offers APX to guests": pairs(WITH["fpstate"] | WITH["independent"], {"apx"}),
    "no kernel up to v7.3 has": pairs(WITH["fpstate"], {"lbr", "uintr"}),
    "has LBR in an fpstate": pairs(WITH["fpstate"], {"lbr"}),
    "has UINTR in an fpstate": pairs(WITH["fpstate"], {"uintr"}),
    "what XSAVES of LBR does besides": pairs(WITH["fpstate"] | WITH["independent"], {"lbr"}),
    "KVM switches IA32_SPEC_CTRL as a mitigation already": pairs(names(), {"spec-ctrl"}),
    "gives rsp0 to guests; the series": pairs(OF_MSRS, {"rsp0"}),
}


def notes_of(name, one, **settings):
    return boot(of(name, one, guest_uret_msrs=(), **settings)).hypothetical


def test_what_no_kernel_does_is_said_of_each_pair_and_of_no_other():
    found = {note: set() for note in SAID}
    refused = set().union(*REFUSED.values())
    for name, one in every_pair() - refused:
        for note in SAID:
            if any(note in each for each in notes_of(name, one, mitigations=("spec-ctrl",))):
                found[note].add((name, one))
    assert found == {note: each - refused for note, each in SAID.items()}
    assert not any("IA32_SPEC_CTRL" in each for each in notes_of("manual-load", "spec-ctrl", mitigations=()))


SINCE = {
    "v6.6": (6, 6),
    "rfc": (6, 6),
    "v6.12": (6, 12),
    "v6.17": (6, 17),
    "v6.18": (6, 18),
    "v6.19": (6, 19),
    "v7.3": (7, 3),
}
"""The series of the RFC is on v6.6-rc1."""


def refusal(settings, cpu=None):
    try:
        boot(settings, cpu)
    except InputError as error:
        return str(error)
    return ""


def test_a_cpu_without_a_component_or_its_msrs_cannot_carry_them():
    """Skylake-SP has none of these features, and none of these components."""
    for name, one in pairs(names(), {"lbr", "uintr", "apx", "rsp0"}) - set().union(*REFUSED.values()):
        assert f"CPUID does not enumerate {STATES[one].cpu_feature}" in refusal(of(name, one, cpu="skylake-sp")), name
        if one != "apx":  # which lies where MPX of this CPU does
            assert not refusal(of(name, one, cpu="skylake-sp", hypothetical=True)), name
    for name in names():
        assert ("no supervisor shadow stacks" in refusal(of(name, "cet-s", cpu="skylake-sp"))) == (name != "no-cet")


@pytest.mark.parametrize("kernel", kernels())
def test_patches_can_be_chosen_of_the_rfc_alone_and_of_what_it_does(kernel):
    for name in names():
        said = refusal(of(name, "cet-s", kernel=kernel, cpu="sapphire-rapids", patches=frozenset(range(1, 9))))
        is_rfc = (kernel, name) == ("rfc", "xstate-guest")
        assert ("needs kernel rfc and strategy xstate-guest" in said) == (not is_rfc), name


@pytest.mark.parametrize(("number", "refused"), [
    (0xC0000081, "STAR"), (0xC0000082, "LSTAR"), (0xC0000083, "CSTAR"), (0xC0000084, "SYSCALL_MASK"),
    (0xC0000103, "TSC_AUX"), (0xC0010015, ""), (0x122, "TSX_CTRL"), (0x100, ""),
])  # fmt: skip
def test_an_msr_is_not_carried_beside_kvms_user_return_msrs(number, refused):
    """kvm_uret_msrs_list[] and MSR_* of arch/x86/include/asm/msr-index.h, Linux v6.18."""
    one = state("one", (number,), 8)
    said = refusal(replace(of("manual-load", "cet-s"), carried=one, guest_uret_msrs=tuple(URET_MSRS)))
    assert (f"allowed: guest_uret_msrs without {refused})" in said) if refused else not said


def test_apx_that_is_off_cannot_be_carried_and_nothing_else_minds():
    for name, one in every_pair() - set().union(*REFUSED.values()):
        said = refusal(of(name, one, apx=False, guest_uret_msrs=()))
        assert ("which apx = false leaves off" in said) == (one == "apx" and name in CARRIES), (name, one)


def test_a_component_that_is_not_enumerated_can_be_carried_by_its_msrs_alone_if_it_is_cet_s():
    without = {"cet-s": 12, "lbr": 15}
    for name, one in pairs(names(), without) - set().union(*REFUSED.values()):
        cpu = profile("sapphire-rapids")
        cpu = replace(cpu, xss_supported=cpu.xss_supported & ~(1 << without[one]))
        said = refusal(of(name, one), cpu)
        needs = name in WITH["fpstate"] | WITH["independent"] or one == "lbr"
        assert ("does not enumerate state component" in said) == needs, (name, one, said)


def test_msr_lists_of_vmx_are_intels_and_instructions_for_msrs_those_of_the_cpu():
    for cpu in ("zen4", "zen5", "sapphire-rapids", "diamond-rapids"):
        for name in CARRIES:
            lists = name in WITH["msr-list"] and cpu.startswith("zen")
            assert ("SVM has no MSR load and store lists" in refusal(of(name, "two MSRs", cpu=cpu))) == lists
            for access, feature in (("wrmsrns", "WRMSRNS"), ("msr-list", "MSRLIST"), ("rdmsr-wrmsr", "")):
                by_software = name in WITH["msr"] | WITH["user-return"] and feature not in {"", *profile(cpu).features}
                said = refusal(of(name, "two MSRs", cpu=cpu, msr_access=access, guest_uret_msrs=()))
                assert (f"does not enumerate {feature} " in said) == by_software, (cpu, name, access)


@pytest.mark.parametrize("kernel", kernels())
def test_a_kernel_gives_cet_to_guests_since_v6_18_and_v6_17_has_its_fpstates_already(kernel):
    """KVM: the merge for v6.18; XFEATURE_CET_KERNEL in guest fpstates alone: Linux commit 8b05b3c98816, for v6.17."""
    for name in names():
        said = refusal(of(name, "cet-s", kernel=kernel, cpu="sapphire-rapids"))
        by_kernel = kernel == "rfc" or SINCE[kernel] >= (6, 18) or (kernel == "v6.17" and name == "xstate-guest")
        assert ("its KVM has no CET for guests" in said) == (name != "no-cet" and not by_kernel), name


@pytest.mark.parametrize("kernel", kernels())
def test_series_that_are_not_merged_are_for_the_kernels_they_were_written_for(kernel):
    """VMSCAPE's by BHB clearing on v6.18, the IBPB at another place on v6.17."""
    since = SINCE[kernel]
    said = refusal(of("no-cet", "cet-s", kernel=kernel, cpu="sapphire-rapids", vmscape_by="bhb-clear"))
    assert ("the series is for v6.18 and later" in said) == (since < (6, 18)), said
    said = refusal(of("no-cet", "cet-s", kernel=kernel, cpu="sapphire-rapids", ibpb_at="vcpu_enter_guest"))
    assert ("the series is for v6.17 and later" in said) == (since < (6, 17)), said


@pytest.mark.parametrize("stacks", ["off", "fpstate", "return-to-user"])
def test_host_shadow_stacks_need_cet_s_in_the_kernel_and_a_place_for_it(stacks):
    for name, one in pairs(names(), {"cet-s", "rsp0"}) - set().union(*REFUSED.values()):
        said = refusal(of(name, one, host_shadow_stacks=stacks, guest_uret_msrs=()))
        on = stacks != "off"
        assert ("carrying rsp0 leaves them off" in said) == (on and one == "rsp0"), (name, one)
        assert ("no-cet is one without" in said) == (on and name == "no-cet" and one == "cet-s"), (name, one)
        independent = stacks == "fpstate" and name in WITH["independent"]
        assert ("an independent feature is in no fpstate" in said) == independent, (name, one)
        if not said:
            notes = boot(of(name, one, host_shadow_stacks=stacks, guest_uret_msrs=())).hypothetical
            assert any("no kernel uses supervisor shadow stacks" in each for each in notes) == on


@pytest.mark.parametrize(("option", "values"), [
    ("host_shadow_stacks", ("off", "fpstate", "return-to-user")),
    ("msr_access", ("rdmsr-wrmsr", "wrmsrns", "msr-list")),
    ("vmscape_by", ("ibpb", "bhb-clear")), ("guest_spec_ctrl", ("host", "other", "unwritten")),
    ("ibpb_at", ("vcpu_load", "vcpu_enter_guest")),
])  # fmt: skip
def test_an_option_has_one_of_its_values_and_what_no_kernel_does_by_it_is_said(option, values):
    said = refusal(of("no-cet", "cet-s", **{option: "wrong"}))
    assert f"{option} = 'wrong' (allowed: {', '.join(values)})" in said
    for value in values:
        notes = boot(
            of("manual-load", "cet-s", cpu="sapphire-rapids", hypothetical=True, **{option: value})
        ).hypothetical
        not_merged = value in ("bhb-clear", "vcpu_enter_guest")
        assert (f"{option} = {value!r}: no kernel up to v7.3 does that" in " ".join(notes)) == not_merged
