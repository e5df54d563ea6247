"""Which strategies are sound, in random sequences, and what shows that the others are not."""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import pytest
from machine import World
from verdicts import (
    CPUS,
    config,
    exit_to_the_vmm_and_back,
    finds,
    nothing_is_wrong,
    one_vcpu_after_another,
    preempted_in_a_short_ioctl,
    run,
    variant,
    vcpu_whose_guest_has_zeroes,
    world,
    writes_ssps,
)

from sim.errors import InputError
from sim.kernel import strategies
from sim.kernel.integrity import FOREIGN_IN_FPSTATE, GUEST_TO_GUEST, RESIDUE, WRONG_VALUE
from sim.xsave.components import CET_U, PKRU, SSE, XTILE

KERNELS = ("rfc", "v6.18", "v6.19")

OFF, FPSTATE, RETURN = "off", "fpstate", "return-to-user"
SOUND = "sound"
IMPOSSIBLE = "input error"


class Verdict(NamedTuple):
    """Whether values always reach their consumers, what is found if not, and the argument."""

    is_: str
    because: str


PASSES_NO_XRSTORS = "XRSTORS of the guest fpstate, which lacks CET_S, clears what was loaded before it"
PUT_IS_LATE = "kvm_put_guest_fpu() has loaded the host's SSP0 before vcpu_put saves"
COPIES_ARE_COMPLETE = "every entry loads all three after the last restore, and every exit saves them"
MASK_HAS_IT = "each save of a guest fpstate writes CET_S and each restore loads it, as for any other component"
SEES_ALL = "a flag says whether the guest's values are loaded; nothing is saved that is not, nothing runs without"
REWRITTEN = "; the host's SSP0 is written again whenever the MSR may have changed"

VERDICTS: dict[tuple[str, str], Verdict] = {
    ("no-cet", OFF): Verdict(SOUND, "no guest reads or writes the SSPs"),
    ("no-cet", FPSTATE): Verdict(IMPOSSIBLE, "a kernel without CET_S has no SSP0 of its own"),
    ("no-cet", RETURN): Verdict(IMPOSSIBLE, "a kernel without CET_S has no SSP0 of its own"),
    ("free-ssp", OFF): Verdict(SOUND, "the guests' SSPs are not checked, the rest is the kernel's"),
    ("free-ssp", FPSTATE): Verdict(SOUND, "normal fpstates carry the host's SSP0; the guests' are not checked"),
    ("free-ssp", RETURN): Verdict(SOUND, "the guests' SSPs are not checked" + REWRITTEN),
    ("manual-exit", OFF): Verdict(SOUND, COPIES_ARE_COMPLETE),
    ("manual-exit", FPSTATE): Verdict(SOUND, COPIES_ARE_COMPLETE + ", so between them fpstates hold the host's"),
    ("manual-exit", RETURN): Verdict(SOUND, COPIES_ARE_COMPLETE + REWRITTEN),
    ("manual-run", OFF): Verdict(WRONG_VALUE, "the notifiers of a short ioctl save what is not loaded"),
    ("manual-run", FPSTATE): Verdict(WRONG_VALUE, "the notifiers of a short ioctl save what is not loaded"),
    ("manual-run", RETURN): Verdict(WRONG_VALUE, "the notifiers of a short ioctl save what is not loaded"),
    ("manual-run-guarded", OFF): Verdict(SOUND, SEES_ALL),
    ("manual-run-guarded", FPSTATE): Verdict(WRONG_VALUE, PASSES_NO_XRSTORS),
    ("manual-run-guarded", RETURN): Verdict(SOUND, SEES_ALL + REWRITTEN),
    ("manual-load", OFF): Verdict(SOUND, SEES_ALL),
    ("manual-load", FPSTATE): Verdict(WRONG_VALUE, PUT_IS_LATE),
    ("manual-load", RETURN): Verdict(SOUND, SEES_ALL + REWRITTEN),
    ("manual-load-nozero", OFF): Verdict(SOUND, SEES_ALL + "; zeroing is for nobody"),
    ("manual-load-nozero", FPSTATE): Verdict(WRONG_VALUE, PUT_IS_LATE),
    ("manual-load-nozero", RETURN): Verdict(SOUND, SEES_ALL + REWRITTEN),
    ("manual-lazy", OFF): Verdict(GUEST_TO_GUEST, "a guest that has written nothing reads what the last one left"),
    ("manual-lazy", FPSTATE): Verdict(WRONG_VALUE, PUT_IS_LATE),
    ("manual-lazy", RETURN): Verdict(GUEST_TO_GUEST, "a guest that has written nothing reads what the last one left"),
    ("user-return", OFF): Verdict(SOUND, SEES_ALL + ", and the noted value is read from the MSR at deschedule"),
    ("user-return", FPSTATE): Verdict(WRONG_VALUE, PUT_IS_LATE),
    ("user-return", RETURN): Verdict(
        WRONG_VALUE, "the noted host value is 0, the MSR has the task's: a guest's 0 is not loaded over it"
    ),
    ("msr-autoload", OFF): Verdict(SOUND, COPIES_ARE_COMPLETE),
    ("msr-autoload", FPSTATE): Verdict(SOUND, COPIES_ARE_COMPLETE + ", so between them fpstates hold the host's"),
    ("msr-autoload", RETURN): Verdict(SOUND, COPIES_ARE_COMPLETE + REWRITTEN),
    ("xstate-all", OFF): Verdict(SOUND, MASK_HAS_IT),
    ("xstate-all", FPSTATE): Verdict(SOUND, MASK_HAS_IT + "; the same for the tasks' SSP0"),
    ("xstate-all", RETURN): Verdict(SOUND, MASK_HAS_IT + REWRITTEN),
    ("xstate-guest", OFF): Verdict(SOUND, MASK_HAS_IT),
    ("xstate-guest", FPSTATE): Verdict(SOUND, MASK_HAS_IT + "; with the tasks' SSP0 it is xstate-all"),
    ("xstate-guest", RETURN): Verdict(SOUND, MASK_HAS_IT + REWRITTEN),
    ("xstate-guest-resident", OFF): Verdict(SOUND, MASK_HAS_IT + "; no save of a normal fpstate writes CET_S"),
    ("xstate-guest-resident", FPSTATE): Verdict(WRONG_VALUE, "restores of normal fpstates do not load the SSP0"),
    ("xstate-guest-resident", RETURN): Verdict(SOUND, MASK_HAS_IT + REWRITTEN),
    ("xstate-all-resident", OFF): Verdict(FOREIGN_IN_FPSTATE, "XSAVES of a normal fpstate writes the guest's CET_S"),
    ("xstate-all-resident", FPSTATE): Verdict(WRONG_VALUE, "restores of normal fpstates do not load the SSP0"),
    ("xstate-all-resident", RETURN): Verdict(
        FOREIGN_IN_FPSTATE, "PL1 and PL2_SSP, which the host does not rewrite, are saved into the task's"
    ),
    ("independent", OFF): Verdict(SOUND, SEES_ALL),
    ("independent", FPSTATE): Verdict(IMPOSSIBLE, "an independent feature is in no fpstate"),
    ("independent", RETURN): Verdict(SOUND, SEES_ALL + REWRITTEN),
}
"""By strategy and what the host does with shadow stacks of its own; on both vendors, with a guest XSS of 1800H.

With a guest XSS of 800H only manual-lazy has a reason to differ, and does not: see its tests.
"""


@pytest.mark.parametrize(("strategy", "host"), VERDICTS)
def test_who_is_unsound_is_documented_as_that_and_nobody_else(strategy, host):
    assert bool(strategies.strategy(strategy).why_unsound(host)) == (
        VERDICTS[strategy, host].is_ not in (SOUND, IMPOSSIBLE)
    )


def possible(strategy: str, cpu: str) -> bool:
    return cpu == "sapphire-rapids" or strategies.strategy(strategy).needs != "vmx"


SOUND_PAIRS = [
    (strategy, host, cpu)
    for (strategy, host), verdict in VERDICTS.items()
    for cpu in CPUS
    if verdict.is_ == SOUND and possible(strategy, cpu)
]
HOST_OFF_SOUND = [name for name, host, cpu in SOUND_PAIRS if host == OFF and cpu == "sapphire-rapids"]
UNSOUND_PAIRS = [
    (strategy, host, cpu)
    for (strategy, host), verdict in VERDICTS.items()
    for cpu in CPUS
    if verdict.is_ not in (SOUND, IMPOSSIBLE)
]


def test_table_of_verdicts_has_every_strategy_and_mode():
    assert set(VERDICTS) == {(name, host) for name in strategies.names() for host in (OFF, FPSTATE, RETURN)}


@pytest.mark.parametrize(("strategy", "host"), [key for key, verdict in VERDICTS.items() if verdict.is_ == IMPOSSIBLE])
def test_impossible_pairs_are_input_errors(strategy, host):
    with pytest.raises(InputError):
        config(strategy, host_shadow_stacks=host)


QUICK = (("sapphire-rapids", "v6.18"), ("sapphire-rapids", "rfc"), ("zen4", "v6.19"))


@pytest.mark.parametrize(
    ("cpu", "kernel"),
    [pytest.param(*each, marks=[] if each in QUICK else pytest.mark.slow) for each in product(CPUS, KERNELS)],
)
def test_sound_strategies_have_no_violation_in_random_sequences(cpu, kernel):
    names = [name for name, host, on in SOUND_PAIRS if host == OFF and on == cpu]
    run([config(name, cpu, kernel) for name in names], nothing_is_wrong, f"{cpu} {kernel}", examples=50)


@pytest.mark.parametrize("cpu", CPUS)
def test_no_cet_on_v66_has_no_violation_in_random_sequences(cpu):
    run([config("no-cet", cpu, "v6.6")], nothing_is_wrong, f"no-cet {cpu} v6.6")


@pytest.mark.parametrize("host", [FPSTATE, RETURN])
@pytest.mark.parametrize("cpu", CPUS)
def test_sound_strategies_with_host_shadow_stacks_have_no_violation_in_random_sequences(cpu, host):
    names = [name for name, at, on in SOUND_PAIRS if (at, on) == (host, cpu)]
    configs = [config(name, cpu, host_shadow_stacks=host) for name in names]
    run(configs, nothing_is_wrong, f"{host} {cpu}", examples=15)


@pytest.mark.parametrize("cpu", CPUS)
def test_sound_strategies_are_sound_with_xss12_hidden_from_the_guest(cpu):
    names = [name for name, host, on in SOUND_PAIRS if host == OFF and on == cpu and name != "no-cet"]
    run([config(name, cpu, guest_xss=CET_U) for name in names], nothing_is_wrong, f"800H {cpu}")


@pytest.mark.parametrize("knob", ["init_optimisation", "modified_optimisation"])
def test_soundness_does_not_need_the_optimisations_of_the_processor(knob):
    names = [name for name, host, cpu in SOUND_PAIRS if host == OFF and cpu == "sapphire-rapids"]
    run([config(name, **{knob: False}) for name in names], nothing_is_wrong, knob)


@pytest.mark.parametrize(
    "kernel", ["v6.18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rfc", "v6.19"))]
)
def test_sound_strategies_are_sound_for_guests_with_amx(kernel):
    names = [name for name, host, cpu in SOUND_PAIRS if host == OFF and cpu == "sapphire-rapids"]
    run([config(name, kernel=kernel, guest_amx=True) for name in names], nothing_is_wrong, f"amx {kernel}")


@pytest.mark.parametrize("cpu", CPUS)
def test_independent_feature_is_sound_too_if_it_is_loaded_after_the_guest_fpstate(tmp_path, cpu):
    late = variant(tmp_path, "independent", "guard = true", "guard = true\nlate = true")
    run([config(late, cpu)], nothing_is_wrong, f"late {cpu}")


def kernel_fpu_before_the_next_entry(w: World) -> None:
    writes_ssps(w, 0, vcpu=0)
    w.exit_guest(0)
    w.kernel_fpu(0, SSE)  # so the next entry restores the guest fpstate
    w.to_guest(0, 0)


def task_after_a_guest(w: World) -> None:
    writes_ssps(w, 0, vcpu=0)
    w.exit_guest(0)
    w.to_user(0, 3)
    w.enter_kernel(0)
    w.schedule(0, None)


SHORTEST: dict[tuple[str, str], Callable[[World], None]] = {
    ("manual-run", OFF): preempted_in_a_short_ioctl,
    ("manual-run", FPSTATE): preempted_in_a_short_ioctl,
    ("manual-run", RETURN): preempted_in_a_short_ioctl,
    ("manual-run-guarded", FPSTATE): kernel_fpu_before_the_next_entry,
    ("manual-load", FPSTATE): exit_to_the_vmm_and_back,
    ("manual-load-nozero", FPSTATE): exit_to_the_vmm_and_back,
    ("manual-lazy", OFF): one_vcpu_after_another,
    ("manual-lazy", FPSTATE): exit_to_the_vmm_and_back,
    ("manual-lazy", RETURN): one_vcpu_after_another,
    ("user-return", FPSTATE): exit_to_the_vmm_and_back,
    ("user-return", RETURN): vcpu_whose_guest_has_zeroes,
    ("xstate-guest-resident", FPSTATE): task_after_a_guest,
    ("xstate-all-resident", OFF): task_after_a_guest,
    ("xstate-all-resident", FPSTATE): task_after_a_guest,
    ("xstate-all-resident", RETURN): task_after_a_guest,
}


@pytest.mark.parametrize(("strategy", "host", "cpu"), UNSOUND_PAIRS)
def test_unsound_strategy_is_caught_by_its_shortest_sequence(strategy, host, cpu):
    w = world(strategy, cpu, host_shadow_stacks=host)
    SHORTEST[strategy, host](w)
    assert VERDICTS[strategy, host].is_ in w.kinds, w.findings()


def test_what_a_host_with_shadow_stacks_misses_is_the_ssp_of_cpl_0():
    # SDM vol. 1, 17.2.2: a transfer to CPL 0 takes the shadow stack of IA32_PL0_SSP.
    w = world("manual-load", host_shadow_stacks=FPSTATE)
    exit_to_the_vmm_and_back(w)
    assert (WRONG_VALUE, "vcpu0", "PL0_SSP") in w.findings()
    assert w.k.integrity is not None
    written = {(each.expected, each.got) for each in w.k.integrity.findings if each.what == "CET_KERNEL"}
    assert written == {("(guest vcpu0 #1, guest vcpu0 #2, guest vcpu0 #3)", "(vcpu0 #1, initial, initial)")}


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_shortest_sequences_are_nothing_to_the_sound_strategies(kernel, cpu):
    for name in [name for name, host, on in SOUND_PAIRS if host == OFF and on == cpu]:
        for sequence in set(SHORTEST.values()):
            w = world(name, cpu, kernel)
            sequence(w)
            assert not w.violations, (name, sequence.__name__, w.findings())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["manual-run", "manual-lazy", "xstate-all-resident"])
def test_random_sequences_find_the_unsound_strategy_too(strategy):
    finds([config(strategy)], nothing_is_wrong, strategy)


# What is found and is no violation.


@pytest.mark.parametrize(
    ("strategy", "leaves"),
    [
        ("manual-load", True),  # PL1_SSP and PL2_SSP are not zeroed
        ("manual-load-nozero", True),
        ("free-ssp", True),
        ("xstate-guest-resident", True),
        ("independent", True),
        ("user-return", True),  # PL0_SSP alone is restored on return to user mode
        ("msr-autoload", False),
        ("xstate-guest", False),
        ("xstate-all", False),
    ],
)
def test_residue_is_reported_and_is_no_violation(strategy, leaves):
    w = world(strategy)
    writes_ssps(w, 0, vcpu=0)
    w.exit_guest(0)
    w.to_user(0, 3)
    assert bool(w.k.integrity.counts[RESIDUE]) == leaves
    assert not w.violations


def test_free_ssp_checks_everything_but_the_ssps():
    w = world("free-ssp")
    one_vcpu_after_another(w)
    w.exit_guest(0)
    assert not w.violations
    w.cpus[0].unit.regs[2] = 123
    w.to_guest(0, 1)
    assert [what for _, _, what in w.findings()] == ["YMM"]


def test_pkru_in_a_fpstate_is_consumed_by_nobody():
    w = world("xstate-guest")
    w.to_user(0, 3)
    w.user_wrpkru(0, 0xC)
    w.enter_kernel(0)
    w.schedule(0, None)
    area = w.tasks[3].fpstate.area
    assert area.xstate_bv & PKRU
    area.pkru = 0xBAD
    w.to_user(0, 3)
    assert w.cpus[0].unit.pkru == 0xC
    assert not w.violations


def test_tiles_of_another_task_under_xfd_are_consumed_by_nobody():
    w = world("xstate-guest")
    w.to_user(0, 3)
    w.signal(3)
    w.enter_kernel(0)
    w.to_user(0, 3)  # in the handler
    w.enter_kernel(0)
    w.to_user(0, 4)
    w.enter_kernel(0)
    w.enable_amx(0)
    w.to_user(0, 4)
    w.user_writes(0, XTILE)
    w.enter_kernel(0)
    w.schedule(0, 3)
    w.sigreturn(0)  # restores no tiles: this task has not enabled them
    w.to_user(0, 3)
    assert w.cpus[0].unit.regs[18] >> 32 == w.tasks[4].context.id
    assert not w.violations


def test_ptrace_write_of_initial_sse_leaves_mxcsr_as_the_debugger_read_it():
    w = world("xstate-guest")
    w.to_user(0, 3)
    w.user_ldmxcsr(0, 0x1FA0)
    w.enter_kernel(0)
    w.schedule(0, None)  # memory has MXCSR = 1FA0H
    w.to_user(0, 3)
    w.user_xrstor(0, 0)
    w.enter_kernel(0)
    w.schedule(0, None)  # SSE and MXCSR are initial, so memory keeps the old MXCSR
    w.ptrace_write(3, SSE)
    w.to_user(0, 3)
    assert not w.violations
    assert w.cpus[0].unit.mxcsr == 0x1F80
