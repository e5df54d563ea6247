"""Who is sound: every strategy, under every kernel, in random legal sequences; and who is not, and is caught."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from machine import Sequences, World

from sim.errors import InputError
from sim.kernel import fpu, kvm, process, strategies
from sim.kernel.config import Config, Settings, boot
from sim.kernel.integrity import FOREIGN_IN_FPSTATE, GUEST_TO_GUEST, RESIDUE, WRONG_VALUE
from sim.kernel.kernel import Kernel
from sim.kernel.state import Cpu, Task
from sim.xsave.components import AVX, CET_S, CET_U, PKRU, SSE, XTILE, ZMM_HI256

CPUS = ("sapphire-rapids", "zen4")
KERNELS = ("rfc", "v6.18", "v6.19")

FIXED = settings(
    max_examples=25,
    stateful_step_count=50,
    deadline=None,
    database=None,
    print_blob=False,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
"""The same sequences in every run; which ones is the seed's."""

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


def config(strategy: str, cpu: str = "sapphire-rapids", kernel: str = "v6.18", **more) -> Config:
    """A kernel to judge a strategy by: on a processor that keeps to the architecture."""
    keeps = {"legacy_sse_write_marks_avx_in_use": False}
    return boot(Settings(cpu=cpu, kernel=kernel, strategy=strategy, **(keeps | more)))


def world(strategy: str, cpu: str = "sapphire-rapids", kernel: str = "v6.18", **more) -> World:
    return World(config(strategy, cpu, kernel, **more))


def run(
    configs: list[Config],
    check: Callable[[World], None],
    name: str,
    examples: int = FIXED.max_examples,
    phases: tuple[Phase, ...] = (Phase.generate, Phase.shrink),
) -> None:
    """Random sequences from the seed ``name``; ``check`` after each action."""

    class Checked(Sequences):
        def check(self) -> None:
            for each in self.worlds:
                check(each)

    Checked.configs = configs
    chosen = settings(FIXED, max_examples=examples, phases=phases)
    run_state_machine_as_test(seed(crc32(name.encode()))(Checked), settings=chosen)


def finds(configs: list[Config], check: Callable[[World], None], name: str) -> None:
    """Random sequences find something; which one is not of interest, so it is not made shorter."""
    with pytest.raises(AssertionError):
        run(configs, check, name, examples=500, phases=(Phase.generate,))


def nothing_is_wrong(each: World) -> None:
    assert not each.violations, (each.k.strategy.name, each.findings())


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


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("cpu", CPUS)
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


@pytest.mark.parametrize("kernel", KERNELS)
def test_sound_strategies_are_sound_for_guests_with_amx(kernel):
    names = [name for name, host, cpu in SOUND_PAIRS if host == OFF and cpu == "sapphire-rapids"]
    run([config(name, kernel=kernel, guest_amx=True) for name in names], nothing_is_wrong, f"amx {kernel}")


def variant(tmp_path: Path, name: str, old: str, new: str) -> str:
    """The path of a strategy file that is the shipped ``name`` but for one replacement."""
    text = (Path(strategies.__file__).parent / "data" / "strategies" / f"{name}.toml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "variant.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("cpu", CPUS)
def test_independent_feature_is_sound_too_if_it_is_loaded_after_the_guest_fpstate(tmp_path, cpu):
    late = variant(tmp_path, "independent", "guard = true", "guard = true\nlate = true")
    run([config(late, cpu)], nothing_is_wrong, f"late {cpu}")


# The unsound ones: the shortest sequence that shows it.


def writes_ssps(w: World, c: int, vcpu: int) -> None:
    """The guest of this vCPU writes all three SSPs."""
    w.to_guest(c, vcpu)
    for index in range(len(w.k.carried_names)):
        w.guest_writes_carried(c, index)


def preempted_in_a_short_ioctl(w: World) -> None:
    writes_ssps(w, 0, vcpu=0)
    w.to_user(0, 0)
    w.enter_kernel(0)
    w.ioctl(0)  # nothing is loaded, and the sched-out notifier saves
    w.schedule(0, None)
    w.to_guest(0, 0)


def kernel_fpu_before_the_next_entry(w: World) -> None:
    writes_ssps(w, 0, vcpu=0)
    w.exit_guest(0)
    w.kernel_fpu(0, SSE)  # so the next entry restores the guest fpstate
    w.to_guest(0, 0)


def exit_to_the_vmm_and_back(w: World) -> None:
    writes_ssps(w, 0, vcpu=0)
    w.to_user(0, 0)
    w.to_guest(0, 0)


def one_vcpu_after_another(w: World) -> None:
    writes_ssps(w, 0, vcpu=0)
    w.exit_guest(0)
    w.to_guest(0, 1)


def vcpu_whose_guest_has_zeroes(w: World) -> None:
    w.to_user(0, 3)
    w.enter_kernel(0)
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


# manual-lazy, in detail.


def test_lazy_loses_what_the_guest_loads_by_xrstors():
    w = world("manual-lazy", guest_xss=CET_U | CET_S)
    w.to_guest(0, 0)
    w.guest_switches_task(0, 0, carried=3)  # no interception sees it
    w.exit_guest(0)
    w.schedule(0, None)
    w.to_guest(1, 0)
    assert w.findings() == [(WRONG_VALUE, "guest vcpu0", "CET_KERNEL")]


@pytest.mark.parametrize("cpu", CPUS)
def test_lazy_shows_pl1_and_pl2_to_a_guest_that_has_written_nothing_even_with_xss12_hidden(cpu):
    w = world("manual-lazy", cpu, guest_xss=CET_U)
    one_vcpu_after_another(w)
    assert w.findings() == [(GUEST_TO_GUEST, "guest vcpu1", "CET_KERNEL")]
    assert w.cpus[0].unit.regs[12][0] == 0, "PL0_SSP has been zeroed"
    assert w.cpus[0].unit.regs[12][1] >> 32 == w.vcpus[0].context.id, "PL1_SSP has not"


def test_lazy_would_be_sound_with_xss12_hidden_if_all_three_were_zeroed(tmp_path):
    path = variant(tmp_path, "manual-lazy", "zero = 1", "zero = 3")
    run([config(path, guest_xss=CET_U)], nothing_is_wrong, "zeroes-all", examples=40)


# user-return without its cache.


def forgetful() -> Config:
    booted = config("user-return")
    return replace(booted, strategy=replace(booted.strategy, sets_cache=False))


def test_user_return_that_forgets_to_set_its_cache_is_caught():
    w = World(forgetful())
    one_vcpu_after_another(w)  # vCPU 1 has zeroes, and the CPU is noted to have them
    assert w.kinds == {GUEST_TO_GUEST}


def test_random_sequences_find_a_user_return_that_forgets_to_set_its_cache():
    finds([forgetful()], nothing_is_wrong, "forgetful")


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


# The RFC's patches.


@pytest.mark.parametrize(
    ("patches", "sound"),
    [
        ({1, 2, 3}, True),
        ({1, 2, 3, 4}, True),
        ({1, 2, 3, 4, 5}, False),
        ({1, 2, 3, 4, 5, 6}, False),
        ({1, 2, 3, 4, 5, 7}, True),
        ({1, 2, 3, 4, 5, 6, 7}, True),
        ({1, 2, 3, 4, 5, 6, 7, 8}, True),
    ],
)
def test_guests_lose_their_ssps_where_the_patches_take_cet_s_out_and_do_not_put_it_back(patches, sound):
    w = world("xstate-guest", kernel="rfc", patches=frozenset(patches))
    exit_to_the_vmm_and_back(w)
    assert w.kinds == (set() if sound else {WRONG_VALUE})


# A second carried state: FRED's RSP0, which has no xfeature and a host value per task.

FRED = {"carried": "fred-rsp0", "kernel": "v6.19", "hypothetical": True}


@pytest.mark.parametrize(
    "strategy", ["manual-exit", "manual-run-guarded", "manual-load", "manual-load-nozero", "msr-autoload"]
)
def test_fred_rsp0_is_sound_with_the_strategies_that_copy_msrs(strategy):
    run([config(strategy, **FRED)], nothing_is_wrong, f"fred {strategy}", examples=25)


def test_fred_rsp0_is_caught_under_user_return_because_the_host_value_is_per_task():
    w = world("user-return", **FRED)
    vcpu_whose_guest_has_zeroes(w)
    assert w.findings() == [(WRONG_VALUE, "guest vcpu0", "FRED_RSP0")]


def test_fred_rsp0_is_caught_under_manual_run_in_a_short_ioctl():
    w = world("manual-run", **FRED)
    preempted_in_a_short_ioctl(w)
    assert WRONG_VALUE in w.kinds


def test_fred_rsp0_under_manual_lazy_shows_the_host_value_to_a_guest_that_has_written_nothing():
    w = world("manual-lazy", **FRED)
    vcpu_whose_guest_has_zeroes(w)
    assert w.findings() == [(WRONG_VALUE, "guest vcpu0", "FRED_RSP0")]


@pytest.mark.parametrize(
    "strategy", ["xstate-all", "xstate-guest", "xstate-guest-resident", "xstate-all-resident", "independent"]
)
def test_fred_rsp0_has_no_xfeature_for_the_strategies_that_need_one(strategy):
    with pytest.raises(InputError, match="needs an xfeature"):
        config(strategy, **FRED)


# The check itself: kernels that are broken on purpose.


def test_integrity_catches_a_kernel_fpu_begin_that_leaves_the_owner(monkeypatch):
    right = fpu.kernel_fpu_begin

    def leaves_the_owner(k: Kernel, cpu: Cpu, used: int = 0) -> None:
        owner = cpu.fpregs_owner
        right(k, cpu, used)
        cpu.fpregs_owner = owner

    monkeypatch.setattr(fpu, "kernel_fpu_begin", leaves_the_owner)
    w = world("xstate-guest")
    w.to_user(0, 3)
    w.user_writes(0, AVX)
    w.enter_kernel(0)
    w.kernel_fpu(0, AVX)
    w.return_to_user(0)
    assert w.kinds == {WRONG_VALUE}


def test_integrity_catches_a_swap_that_does_not_note_the_cpu(monkeypatch):
    right = fpu.fpu_swap_kvm_fpstate

    def does_not_note_the_cpu(k, cpu, vcpu, enter_guest):
        last = vcpu.task.last_cpu
        right(k, cpu, vcpu, enter_guest)
        vcpu.task.last_cpu = last

    monkeypatch.setattr(fpu, "fpu_swap_kvm_fpstate", does_not_note_the_cpu)
    finds([config("xstate-guest")], World.check_owner, "swap")


def test_integrity_catches_a_validity_check_that_ignores_the_last_cpu(monkeypatch):
    def restore(k: Kernel, cpu: Cpu, phase: str) -> None:
        task = cpu.current
        if cpu.fpregs_owner is not task:
            fpu.restore_fpregs_from_fpstate(k, cpu, task.fpstate, phase)
            fpu.fpregs_activate(k, cpu, task)
            task.last_cpu = cpu.id
        task.need_fpu_load = False

    monkeypatch.setattr(fpu, "switch_fpu_return", restore)
    w = world("xstate-guest")
    for c in (0, 1):
        w.to_user(c, 3)
        w.user_writes(c, AVX)
        w.enter_kernel(c)
        w.schedule(c, None)
    w.to_user(0, 3)  # CPU 0 still names the task, and holds what it had before it went to CPU 1
    assert w.findings() == [(WRONG_VALUE, "task0", "YMM")]


def test_integrity_catches_a_switch_without_pkru(monkeypatch):
    monkeypatch.setattr(process, "x86_pkru_load", lambda cpu, next: None)
    w = world("xstate-guest")
    w.to_user(0, 3)
    w.user_wrpkru(0, 0)
    w.enter_kernel(0)
    w.to_user(0, 4)
    assert w.findings() == [(WRONG_VALUE, "task1", "PKRU")]


def test_integrity_catches_a_switch_that_does_not_save(monkeypatch):
    def does_not_save(k: Kernel, cpu: Cpu, prev: Task) -> None:
        if prev.user_fpu:
            prev.need_fpu_load = True
            prev.last_cpu = cpu.id

    monkeypatch.setattr(fpu, "switch_fpu", does_not_save)
    w = world("xstate-guest")
    w.to_user(0, 3)
    w.user_writes(0, AVX)
    w.enter_kernel(0)
    w.to_user(0, 4)
    w.enter_kernel(0)
    w.to_user(0, 3)
    assert w.findings() == [(WRONG_VALUE, "task0", "YMM")]


def test_integrity_catches_a_guest_restore_without_cet_s():
    w = world("xstate-guest")
    w.k.restore_mask &= ~CET_S
    exit_to_the_vmm_and_back(w)
    assert w.kinds == {WRONG_VALUE}


def test_integrity_catches_a_ptrace_write_that_does_not_invalidate():
    w = world("xstate-guest")
    w.to_user(0, 3)
    w.enter_kernel(0)
    w.schedule(0, None)
    w.ptrace_write(3, AVX)
    w.tasks[3].last_cpu = 0
    w.to_user(0, 3)
    assert w.findings() == [(WRONG_VALUE, "task0", "YMM")]


@pytest.mark.parametrize("legacy", [True, False])
def test_a_legacy_sse_write_on_zen4_may_change_ymm_under_any_kernel(legacy):
    """What a real one does (docs/model.md): the fpstate holds an old AVX area, and ZMM_Hi256 alone is in use."""
    w = world("xstate-guest", "zen4", legacy_sse_write_marks_avx_in_use=legacy)
    w.to_user(0, 3)
    w.user_writes(0, AVX)
    w.enter_kernel(0)
    w.to_user(0, 4)  # the old area
    w.enter_kernel(0)
    w.to_user(0, 3)
    w.user_xrstor(0, ZMM_HI256)
    w.enter_kernel(0)
    w.to_user(0, 4)  # XSTATE_BV[2] = 0, and the area stays
    w.enter_kernel(0)
    w.to_user(0, 3)
    w.user_writes(0, SSE)
    w.enter_kernel(0)
    w.to_user(0, 4)
    w.enter_kernel(0)
    assert w.findings() == []
    w.to_user(0, 3)
    assert w.findings() == ([(WRONG_VALUE, "task0", "YMM")] if legacy else [])


def in_guest_with_pkru(value: int) -> World:
    w = world("xstate-guest")
    w.to_user(0, 0)
    w.enter_kernel(0)
    for step in (w.kvm_run, w.load_guest_fpu, w.run_entry, w.enter_guest):
        step(0)
    w.guest_wrpkru(0, value)
    return w


def test_integrity_catches_an_exit_that_leaves_the_guest_s_pkru(monkeypatch):
    w = in_guest_with_pkru(0x1234)
    monkeypatch.setattr(kvm, "kvm_load_host_pkru", lambda k, cpu, vcpu: None)
    for step in (w.exit_guest, w.run_exit, w.put_guest_fpu, w.vcpu_put, w.return_to_user):
        step(0)
    assert w.findings() == [(WRONG_VALUE, "vcpu0", "PKRU")]


def test_integrity_catches_an_entry_without_the_guest_s_pkru(monkeypatch):
    w = in_guest_with_pkru(0x1234)
    w.exit_guest(0)
    monkeypatch.setattr(kvm, "kvm_load_guest_pkru", lambda k, cpu, vcpu: None)
    w.enter_guest(0)
    assert w.findings() == [(WRONG_VALUE, "guest vcpu0", "PKRU")]


def test_integrity_catches_a_signal_frame_with_another_task_s_registers(monkeypatch):
    w = world("xstate-guest")
    w.to_user(0, 3)
    w.user_writes(0, AVX)
    w.enter_kernel(0)
    w.to_user(0, 4)
    w.user_writes(0, AVX)
    w.enter_kernel(0)
    w.schedule(0, 3)
    w.signal(3)
    monkeypatch.setattr(fpu, "fpregs_restore_userregs", lambda k, cpu, phase: None)
    w.deliver(0)
    assert w.findings() == [(FOREIGN_IN_FPSTATE, "signal frame of task0", "YMM")]


SPEC_CTRL = """
name = "spec-ctrl"
title = "an MSR that belongs to no component"
msrs = { SPEC_CTRL = 0x48 }
size_bytes = 8
per_task_msr = false
source = "a test"
"""


@pytest.mark.parametrize("carried", ["cet-s", SPEC_CTRL], ids=["cet-s", "spec-ctrl"])
def test_integrity_catches_another_mxcsr_once_whatever_is_carried(tmp_path, carried):
    if carried == SPEC_CTRL:
        path = tmp_path / "carried.toml"
        path.write_text(carried, encoding="utf-8")
        carried = str(path)
    w = world("manual-load", carried=carried)
    w.to_user(0, 3)
    w.enter_kernel(0)
    w.cpus[0].unit.ldmxcsr(0x1F00)
    for _ in range(2):
        w.return_to_user(0)
        assert w.findings() == [(WRONG_VALUE, "task0", "MXCSR")]
        w.enter_kernel(0)


def test_what_a_freed_task_left_behind_has_no_name_any_more():
    k = Kernel(config("xstate-guest"))
    task = k.new_task("A")
    token = task.context.token()
    assert k.integrity is not None
    assert k.integrity.described(token) == "A #1"
    k.forget(task)
    assert k.integrity.described(token) == f"{token:#x}"
