"""What holds in every sequence: which operations run, with which masks, and whose registers a CPU holds."""

from dataclasses import replace
from itertools import product
from typing import ClassVar
from zlib import crc32

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from machine import World
from positions import GUEST, LOOP, RETURNING, SLOW_EXIT
from random_machine import Sequences
from verdicts import FIXED

from sim.kernel import strategies
from sim.kernel.config import Config, Settings, boot
from sim.kernel.operations import SIGNAL, WRMSR_XSS, XRSTORS, XSAVES, Log, Operation
from sim.xsave import profiles
from sim.xsave.components import APX, AVX, CET_S, CET_U, MPX, PKRU, SSE, SUPERVISOR, XTILEDATA

CPUS = ("sapphire-rapids", "zen4")
KERNELS = ("rfc", "v6.18", "v6.19")
QUICK = (("sapphire-rapids", "v6.18"), ("sapphire-rapids", "rfc"), ("zen4", "v6.19"))
PAIRS = [pytest.param(*each, marks=[] if each in QUICK else pytest.mark.slow) for each in product(CPUS, KERNELS)]
SSPS = ("PL0_SSP", "PL1_SSP", "PL2_SSP")

MORE = settings(FIXED, max_examples=40)


def config(strategy: str, cpu: str = "sapphire-rapids", kernel: str = "v6.18", **more) -> Config:
    return boot(Settings(cpu=cpu, kernel=kernel, strategy=strategy, **more))


def logged(booted: Config) -> tuple[World, list[tuple[int, Operation]]]:
    events: list = []
    return World(booted, ledger=lambda cpu: Log(cpu, events)), events


class Logged(Sequences):
    """Sequences with what each world has done, in order; :meth:`did` sees what is new after each action."""

    def __init__(self) -> None:
        self.events: list[list] = [[] for _ in self.configs]
        super().__init__()

    def ledger(self, number: int):
        return lambda cpu: Log(cpu, self.events[number])

    def do(self, action: str, *arguments: object) -> None:
        before = [len(events) for events in self.events]
        super().do(action, *arguments)
        new = [events[start:] for events, start in zip(self.events, before, strict=True)]
        self.did(action, arguments, new)

    def did(self, action: str, arguments: tuple, new: list[list[tuple[int, Operation]]]) -> None:
        raise NotImplementedError


def run(machine: type[Sequences], name: str, examples: int = MORE.max_examples, **attributes: object) -> None:
    made = type(machine.__name__, (machine,), attributes)
    run_state_machine_as_test(seed(crc32(name.encode()))(made), settings=settings(FIXED, max_examples=examples))


def on_cet_s(operation: Operation) -> bool:
    return bool(operation.rfbm & CET_S) or any(name in operation.operation for name in SSPS)


# Between a VM exit and the next entry of the same vCPU.


class ExitToEntry(Logged):
    """Operations from a VM exit to the next entry, unless something else happens on the CPU between."""

    names: ClassVar[list[str]]
    msr_ioctls = False

    def __init__(self) -> None:
        super().__init__()
        self.between: dict[int, list[list[Operation]]] = {}

    def did(self, action, arguments, new):
        c = arguments[0]
        if action in ("guest_writes_carried", "signal", "ptrace_write"):  # the first is what the guest does
            return
        if action == "exit_guest":
            self.between[c] = [[] for _ in new]
        if c in self.between:
            for operations, events in zip(self.between[c], new, strict=True):
                operations += [operation for cpu, operation in events if cpu == c]
        if action == "enter_guest" or (action == "exit_guest" and self.world.where(c) == GUEST):
            for name, operations in zip(self.names, self.between.pop(c, []), strict=False):
                assert not any(map(on_cet_s, operations)), (name, operations)
        elif action != "exit_guest":  # a task switch, kernel_fpu_begin, an INIT, an exit to the VMM
            self.between.pop(c, None)


@pytest.mark.parametrize(("cpu", "kernel"), PAIRS)
def test_no_operation_on_cet_s_between_a_vm_exit_and_the_next_entry(cpu, kernel):
    names = [name for name in strategies.names() if name not in ("manual-exit", "msr-autoload")]
    configs = [config(name, cpu, kernel) for name in names]
    run(ExitToEntry, f"exit to entry {cpu} {kernel}", 15, configs=configs, names=names)


@pytest.mark.parametrize("strategy", ["manual-exit", "msr-autoload"])
def test_the_two_strategies_at_vm_exits_do_run_operations_on_cet_s_there(strategy):
    w, events = logged(config(strategy))
    w.to_guest(0, 0)
    events.clear()
    w.exit_guest(0)
    w.enter_guest(0)
    assert [operation.operation for _, operation in events if on_cet_s(operation)] == (
        [f"RDMSR({name})" for name in SSPS] + ["WRMSR(PL0_SSP)"] + [f"WRMSR({name})" for name in SSPS]
        if strategy == "manual-exit"
        else [f"VM-exit MSR store({name})" for name in SSPS]
        + [f"VM-exit MSR load({name})" for name in SSPS]
        + [f"VM-entry MSR load({name})" for name in SSPS]
    )


# A KVM_RUN round trip.


@pytest.mark.parametrize("strategy", ["manual-run-guarded", "manual-load"])
@pytest.mark.parametrize(
    ("cpu", "kernel"), [("sapphire-rapids", "rfc"), ("zen4", "v6.18"), ("sapphire-rapids", "v6.19")]
)
@settings(FIXED, max_examples=15, derandomize=True)
@given(
    inside=st.lists(
        st.sampled_from(("exit and enter", "fast exit", "kernel_fpu", "writes", "switches task", "signal")), max_size=12
    )
)
def test_round_trip_without_scheduling_costs_3_rdmsr_and_4_wrmsr(strategy, cpu, kernel, inside):
    w, events = logged(config(strategy, cpu, kernel))
    w.to_user(0, 0)
    w.enter_kernel(0)
    events.clear()
    w.to_guest(0, 0)
    for what in inside:
        match what:
            case "exit and enter":
                w.exit_guest(0)
                w.enter_guest(0)
            case "fast exit":
                w.exit_guest(0, "wrmsr-tsc-deadline")
                if w.where(0) == LOOP:
                    w.enter_guest(0)
            case "kernel_fpu":
                w.exit_guest(0)
                w.kernel_fpu(0, AVX)
                w.enter_guest(0)
            case "writes":
                w.guest_writes_carried(0, 1)
            case "switches task":
                w.guest_switches_task(0, SSE, carried=2)
            case "signal":
                w.signal(0)
    w.exit_guest(0)
    w.run_exit(0)
    w.until(0, RETURNING)
    operations = [operation.operation for _, operation in events]
    assert sum(operation.startswith("RDMSR(PL") for operation in operations) == 3
    assert sum(operation.startswith("WRMSR(PL") for operation in operations) == 4


# free-ssp, xstate-guest and xstate-all.


def without_cet_s(operation: Operation) -> Operation:
    return operation._replace(
        rfbm=operation.rfbm & ~CET_S,
        components=operation.components & ~CET_S,
        initialised=operation.initialised & ~CET_S,
    )


class SameButForCetS(Logged):
    msr_ioctls = False  # free-ssp does not load the guest FPU to access MSRs that it does not carry

    def did(self, action, arguments, new):
        swapped = {len([op for _, op in events if op.operation == WRMSR_XSS]) for events in new}
        equal = {c.guest_xss == c.masks.xss for c in self.configs}
        assert len(equal) == 2 or len(swapped) == 1
        first, *others = [
            [(cpu, without_cet_s(op)) for cpu, op in events if op.operation != WRMSR_XSS] for events in new
        ]
        for other in others:
            assert other == first


@pytest.mark.parametrize("guest_xss", [CET_U | CET_S, CET_U])
@pytest.mark.parametrize(("cpu", "kernel"), PAIRS)
def test_xstate_strategies_run_what_free_ssp_runs_but_for_mask_bits_and_wrmsr_xss(cpu, kernel, guest_xss):
    names = ("free-ssp", "xstate-guest", "xstate-all")
    configs = [config(name, cpu, kernel, guest_xss=guest_xss) for name in names]
    run(SameButForCetS, f"free {cpu} {kernel} {guest_xss}", 20, configs=configs)


@pytest.mark.parametrize(
    ("guest_xss", "strategy", "swaps"),
    [
        (CET_U | CET_S, "free-ssp", True),
        (CET_U | CET_S, "xstate-guest", False),
        (CET_U, "free-ssp", False),
        (CET_U, "xstate-guest", True),
    ],
)
def test_wrmsr_xss_on_zen4_follows_the_equality_of_guest_and_host_xss(guest_xss, strategy, swaps):
    w, events = logged(config(strategy, "zen4", guest_xss=guest_xss))
    w.to_guest(0, 0)
    w.exit_guest(0)
    assert [op.operation for _, op in events].count(WRMSR_XSS) == (2 if swaps else 0)


# Masks.


class Masks(Logged):
    """RFBM of every save and restore: the fpstate's xfeatures, and all but PKRU."""

    def did(self, action, arguments, new):
        masks = self.configs[0].masks
        guest = self.configs[0].guest_xfeatures
        for _, operation in new[0]:
            if operation.operation == XSAVES:
                assert operation.rfbm in (masks.host_default, masks.host_default | XTILEDATA, guest)
                assert not operation.components & ~operation.rfbm
            elif operation.operation == XRSTORS and operation.phase != SIGNAL:
                assert operation.rfbm == masks.restore_mask == masks.max_features & ~PKRU
            elif operation.operation == XRSTORS:  # all, the supervisor part, or what the frame lacks
                supervisor = operation.rfbm & SUPERVISOR
                assert not operation.rfbm & ~masks.restore_mask
                assert supervisor in (0, masks.restore_mask & SUPERVISOR)

    def do(self, action, *arguments):
        cpu = self.world.cpus[arguments[0]] if action in ("schedule", "kernel_fpu", "load_guest_fpu") else None
        loaded = cpu.current.fpstate if cpu else None
        before = len(self.events[0])
        super().do(action, *arguments)
        if loaded is not None:  # whose save it was is known
            for _, operation in self.events[0][before:]:
                if operation.operation == XSAVES:
                    assert operation.rfbm == loaded.xfeatures
                    assert bool(operation.rfbm & CET_S) == loaded.is_guest


@pytest.mark.parametrize(("cpu", "kernel"), PAIRS)
def test_saves_have_the_mask_of_the_fpstate_and_restores_all_but_pkru(cpu, kernel):
    booted = config("xstate-guest", cpu, kernel)
    assert not booted.masks.host_default & CET_S
    assert booted.masks.restore_mask & CET_S
    run(Masks, f"masks {cpu} {kernel}", configs=[booted])


# The version of the TIF protocol.


class SameOperations(Logged):
    exits = (SLOW_EXIT,)

    def did(self, action, arguments, new):
        assert all(events == new[0] for events in new[1:])


@pytest.mark.parametrize("cpu", CPUS)
def test_flag_set_on_the_next_or_on_the_previous_task_makes_no_difference_to_operations(cpu):
    on_prev = config("xstate-guest", cpu)
    on_next = replace(on_prev, version=replace(on_prev.version, need_fpu_load_set_on="next"))
    assert on_prev.version.need_fpu_load_set_on == "prev"
    run(SameOperations, f"tif {cpu}", configs=[on_prev, on_next])


# Whose registers a CPU holds.


class Owners(Sequences):
    def check(self) -> None:
        for world in self.worlds:
            world.check_owner()


@pytest.mark.parametrize(
    ("cpu", "kernel"),
    [*PAIRS, ("sapphire-rapids", "v6.6"), pytest.param("zen4", "v6.6", marks=pytest.mark.slow)],
)
def test_registers_of_a_cpu_are_those_of_the_task_that_it_names(cpu, kernel):
    names = ["no-cet"] if kernel == "v6.6" else ["no-cet", "xstate-guest", "xstate-all", "manual-load", "independent"]
    run(Owners, f"owners {cpu} {kernel}", 25, configs=[config(name, cpu, kernel) for name in names])


# 24 bytes.

LAYOUTS = [
    pytest.param(cpu, mask, id=f"{cpu.name}-{mask:x}")
    for cpu in map(profiles.profile, profiles.names())
    if cpu.xss_supported & CET_S
    for mask in sorted(
        {
            boot(Settings(cpu=cpu.name, kernel=kernel, strategy=strategy, pasid=pasid)).masks.host_default
            for kernel in KERNELS
            for strategy in (("no-cet", "xstate-guest") if "SHSTK" in cpu.features else ("no-cet",))
            for pasid in (True, False)
        }
    )
]


@pytest.mark.parametrize("xtiledata", [0, XTILEDATA])
@pytest.mark.parametrize(("cpu", "mask"), LAYOUTS)
def test_24_bytes_add_no_cache_line_and_no_page(cpu, mask, xtiledata):
    without = mask & ~CET_S | xtiledata & cpu.xcr0_supported
    before, after = cpu.compacted(without), cpu.compacted(without | CET_S)
    header = 64
    for unit in (64, 4096):
        assert -(-(header + before.size) // unit) == -(-(header + after.size) // unit)
    assert all(after.offsets[i] == at for i, at in before.offsets.items())
    assert after.offsets[12] // 64 == (after.offsets[12] + 23) // 64, "CET_S itself lies in one line"


@pytest.mark.parametrize("cpu", [cpu for cpu in profiles.names() if "SHSTK" in profiles.profile(cpu).features])
def test_strategies_take_the_same_memory_per_task_and_per_guest(cpu):
    masks = [config(name, cpu).masks for name in ("no-cet", "xstate-guest", "xstate-all")]
    assert len({each.task_bytes for each in masks}) == 1
    assert len({each.guest_bytes for each in masks}) == 1


def test_layouts_are_those_of_several_cpus():
    assert len({param.values[0].name for param in LAYOUTS}) >= 4
    assert not any(param.values[1] & APX and param.values[1] & MPX for param in LAYOUTS)
