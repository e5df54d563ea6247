"""Carried state that is memory and instructions: APX in vcpu->arch.regs[], and registers that no MSR or XSAVE has."""

from collections import Counter
from dataclasses import replace

import pytest
from test_integrity import finds, nothing_is_wrong, run

from sim.costs.price import Prices, price
from sim.costs.table import current
from sim.errors import InputError
from sim.kernel import flows, strategies
from sim.kernel.carried import INSTRUCTIONS, CarriedState, carried_state
from sim.kernel.config import Settings, boot
from sim.kernel.kernel import PLAIN_REGISTERS, Kernel
from sim.kernel.scene import GuestUse
from sim.xsave.components import APX, AVX, SSE

DIAMOND = Settings(cpu="diamond-rapids", kernel="v7.3", carried="apx", guest_amx=True, mitigations=False)
APX_STRATEGIES = ("guest-fpstate", "regs-entry-exit", "regs-outer-loop", "hardware-xcr0")
NO_APX = 0x602E7
"""XCR0 of a guest that has everything but APX."""
OWN = ("PUSH2(8)", "POP2(8)", "XOR(16)", "test of XCR0", "XSETBV")


def ran(flow: str, strategy: str, **more: object) -> dict[str, int]:
    counted = Counter(op.operation for op in flows.run(flow, replace(DIAMOND, strategy=strategy, **more)).operations)
    return {name: counted[name] for name in OWN if counted[name]}


BY_INSTRUCTIONS = {"PUSH2(8)": 1, "POP2(8)": 1, "XOR(16)": 1}


@pytest.mark.parametrize(
    ("strategy", "fastpath", "outer"),
    [
        ("free-ssp", {}, {"XSETBV": 2}),
        ("guest-fpstate", {}, {}),
        ("regs-entry-exit", BY_INSTRUCTIONS | {"test of XCR0": 2}, BY_INSTRUCTIONS | {"test of XCR0": 2}),
        ("regs-outer-loop", {}, BY_INSTRUCTIONS | {"test of XCR0": 2}),
        ("hardware-xcr0", BY_INSTRUCTIONS, BY_INSTRUCTIONS),
    ],
)
def test_what_an_exit_runs_for_a_guest_with_apx(strategy, fastpath, outer):
    assert ran("fastpath-exit", strategy) == fastpath
    assert ran("in-kernel-exit", strategy) == outer


@pytest.mark.parametrize(
    ("strategy", "fastpath", "outer"),
    [
        ("guest-fpstate", {}, {"XSETBV": 2}),
        ("regs-entry-exit", {"test of XCR0": 2}, {"test of XCR0": 2, "XSETBV": 2}),
        ("regs-outer-loop", {}, {"test of XCR0": 2, "XSETBV": 2}),
        ("hardware-xcr0", BY_INSTRUCTIONS, BY_INSTRUCTIONS),
    ],
)
def test_what_an_exit_runs_for_a_guest_without_apx_beside_others_that_have_it(strategy, fastpath, outer):
    assert ran("fastpath-exit", strategy, guest_xcr0=NO_APX) == fastpath
    assert ran("in-kernel-exit", strategy, guest_xcr0=NO_APX) == outer


def test_a_host_with_apx_pays_two_xsetbv_per_exit_while_kvm_offers_it_to_nobody_and_none_if_it_is_off():
    assert ran("in-kernel-exit", "no-cet", carried="cet-s") == {"XSETBV": 2}
    assert ran("in-kernel-exit", "no-cet", carried="cet-s", apx=False) == {}
    assert ran("in-kernel-exit", "no-cet", carried="cet-s", kernel="v6.12") == {}  # enabled since v6.16
    assert ran("fastpath-exit", "no-cet", carried="cet-s") == {}  # since v6.19 outside the fastpath loop
    assert ran("fastpath-exit", "xstate-guest", carried="cet-s", kernel="v6.18") == {"XSETBV": 2}


def test_a_guest_without_amx_pays_them_already_on_any_host_with_amx():
    assert ran("in-kernel-exit", "no-cet", carried="cet-s", apx=False, guest_amx=False) == {"XSETBV": 2}


@pytest.mark.parametrize(("strategy", "in_it"), [("guest-fpstate", True), ("regs-entry-exit", False)])
def test_guest_fpstates_have_the_component_or_memory_has_it(strategy, in_it):
    config = boot(replace(DIAMOND, strategy=strategy))
    assert bool(config.guest_xfeatures & APX) == in_it
    assert config.masks.host_default & config.masks.restore_mask & APX  # tasks of the host use it, too
    assert config.guest_xcr0 == config.masks.xcr0


@pytest.mark.parametrize("strategy", APX_STRATEGIES)
@pytest.mark.parametrize("guest_xcr0", [None, NO_APX])
def test_everybody_gets_his_own_registers(strategy, guest_xcr0):
    config = boot(replace(DIAMOND, strategy=strategy, guest_xcr0=guest_xcr0))
    run([config], nothing_is_wrong, f"apx {strategy} {guest_xcr0}", examples=12)


@pytest.mark.parametrize("strategy", APX_STRATEGIES)
@pytest.mark.parametrize("flow", ["preempt", "vcpu-switch", "userspace-exit", "fastpath-exit", "kernel-fpu"])
def test_a_guest_that_writes_r16_to_r31_finds_them_again(strategy, flow):
    use = GuestUse(registers=SSE | AVX | APX)
    assert not flows.run(flow, replace(DIAMOND, strategy=strategy), use).findings


def own_strategy(tmp_path, **changes: str) -> str:
    keys = {"save_at": '["vm_exit"]', "load_at": '["vm_entry"]'} | changes
    path = tmp_path / "own.toml"
    path.write_text(
        'name = "own"\ntitle = "t"\nmechanism = "instructions"\nsource = "a test"\n'
        + "".join(f"{key} = {value}\n" for key, value in keys.items())
    )
    return str(path)


def test_a_load_that_is_not_after_each_restore_of_the_fpstate_is_caught(tmp_path):
    config = boot(replace(DIAMOND, strategy=own_strategy(tmp_path, load_at='["kvm_run_entry"]')))
    finds([config], nothing_is_wrong, "loaded once")


def test_a_save_that_comes_after_the_restore_of_the_tasks_fpstate_is_caught(tmp_path):
    config = boot(replace(DIAMOND, strategy=own_strategy(tmp_path, save_at='["sched_out"]')))
    finds([config], nothing_is_wrong, "saved too late")


# Registers that are neither an MSR nor a state component.

DEBUG = """
name = "dr0-3"
title = "DR0 to DR3 of a guest that may access them without an exit"
msrs = {}
save_by = { MOV = 4 }
load_by = { MOV = 4 }
size_bytes = 32
per_task_msr = false
source = "a test"
"""


def test_registers_without_an_msr_or_a_component_are_carried_and_checked(tmp_path):
    state = tmp_path / "dr.toml"
    state.write_text(DEBUG)
    settings = Settings(carried=str(state), strategy=own_strategy(tmp_path))
    kept = flows.run("vcpu-switch", settings, GuestUse(ssp="wrmsr"))
    counted = Counter(op.operation for op in kept.operations)
    assert (counted["MOV(4)"], counted["test of XCR0"]) == (4, 0)  # XCR0 says nothing of them
    assert not kept.findings
    run([boot(settings)], nothing_is_wrong, "dr0-3", examples=8)
    lost = own_strategy(tmp_path, load_at='["kvm_run_entry"]')
    found = flows.run("vcpu-switch", replace(settings, strategy=lost), GuestUse(ssp="wrmsr")).findings
    assert {each.what for _, each in found} == {"dr0-3"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"save_by": "{ FXSAVE = 1 }"}, r"save_by has 'FXSAVE' \(allowed: PUSH2"),
        ({"load_by": "{ MOV = 0 }"}, "load_by.MOV = 0"),
        ({"load_by": "{}"}, "save_by without load_by"),
        ({"msrs": "{ A = 1 }"}, "save_by with msrs"),
        ({"save_by": "{}", "load_by": "{}"}, "msrs is empty"),
    ],
)
def test_a_wrong_state_is_one_message(tmp_path, changes, says):
    lines = dict(line.split(" = ", 1) for line in DEBUG.strip().splitlines())
    path = tmp_path / "wrong.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in (lines | changes).items()))
    with pytest.raises(InputError, match=says):
        carried_state(str(path))


@pytest.mark.parametrize(("count", "is_right"), [(0, False), (1, True), (1024, True), (1025, False)])
def test_registers_are_copied_by_1_to_1024_of_an_instruction(tmp_path, count, is_right):
    path = tmp_path / "dr.toml"
    lines = [line for line in DEBUG.strip().splitlines() if not line.startswith("load_by")]
    path.write_text("\n".join([*lines, f"load_by = {{ MOV = {count} }}"]))
    if is_right:
        assert carried_state(str(path)).load_by == {"MOV": count}
        return
    with pytest.raises(InputError, match=rf"load_by.MOV = {count} \(allowed: 1 to 1024\)"):
        carried_state(str(path))


def test_what_does_not_go_together_is_refused(tmp_path):
    for settings, says in (
        (Settings(strategy="regs-entry-exit"), "is about apx, and carried here is cet-s"),
        (Settings(strategy=own_strategy(tmp_path)), "cet-s does not say by which"),
        (replace(DIAMOND, strategy="guest-fpstate", apx=False), "apx = false leaves off"),
        (replace(DIAMOND, strategy="regs-entry-exit", kernel="v6.12"), r"v6\.12 does not enable APX"),
        (replace(DIAMOND, strategy="manual-load"), "copies MSRs, and apx has none"),
    ):
        with pytest.raises(InputError, match=says):
            boot(settings)
    assert not set(strategies.names()) & set(APX_STRATEGIES)
    assert set(strategies.names("apx")) >= {"free-ssp", *APX_STRATEGIES}


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_so_many_of_an_instruction_cost_so_many_times_one(instruction):
    table = current("diamond-rapids")
    row = table.rows[f"{instruction}/each"]
    for n in (1, 8, 100):
        assert price(("", "", f"{instruction}({n})"), table) == round(n * row.value / table.ratio)


# The closed form: what each choice costs per exit and per switch is linear, and the break-even is a quotient.


def cost(strategy: str, flow: str) -> int:
    prices = Prices(current("diamond-rapids"))
    use = GuestUse(registers=SSE | AVX | APX)
    operations = flows.run(flow, replace(DIAMOND, strategy=strategy), use).operations
    return sum(prices[tuple(op)] for op in operations)


def test_the_outer_loop_costs_less_than_the_fpstate_only_below_one_exit_in_a_switch():
    """Per exit P = PUSH2, POP2, XOR and two tests; per preemption W + L = one XSAVES and one XRSTORS of R16-R31."""
    per_exit = cost("regs-outer-loop", "in-kernel-exit") - cost("guest-fpstate", "in-kernel-exit")
    table = current("diamond-rapids")
    instructions = ("PUSH2(8)", "POP2(8)", "XOR(16)", "test of XCR0", "test of XCR0")
    assert per_exit == sum(price(("", "", each), table) for each in instructions)
    switch = cost("guest-fpstate", "preempt") - cost("regs-outer-loop", "preempt") + per_exit
    rows = table.rows["XSAVES/written/APX"].value + table.rows["XRSTORS/loaded/APX"].value
    initial = table.rows["XRSTORS/initialised/*"].value
    assert switch == pytest.approx((rows - initial) / table.ratio, abs=2)
    assert switch < per_exit


@pytest.mark.parametrize(
    ("state", "strategy", "numbers", "kept"),
    [
        ({"msrs": {"A": 0x100, "B": 0x101}}, "manual-load-nozero", (0x100, 0x101), (0, 0)),
        ({"msrs": {"A": 0x100}}, "manual-load-nozero", (0x100,), (0,)),
        ({"msrs": {}, "xfeature": 19, "cpu_feature": "APX"}, "xstate-guest", (), ()),
        ({"msrs": {}, "save_by": {"MOV": 4}, "load_by": {"MOV": 4}}, "no-cet", (PLAIN_REGISTERS,), (0,)),
    ],
)
def test_kvm_keeps_a_value_for_each_msr_one_for_plain_registers_and_none_for_a_component_alone(
    state, strategy, numbers, kept
):
    named = {"name": "mine", "title": "t", "size_bytes": 128, "per_task_msr": False, "source": "a test"}
    carried = CarriedState(**named | state)
    settings = replace(DIAMOND, carried=carried, strategy=strategy)
    k = Kernel(boot(settings))
    vcpu = k.new_vcpu("V")
    assert (k.carried_numbers, vcpu.carried, vcpu.context.carried) == (numbers, kept, kept)
