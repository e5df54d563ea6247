"""One or several worlds of :mod:`machine`, driven through the same random legal sequence."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from machine import World
from positions import (
    EXITS,
    GUEST,
    NEXT,
    NOT_PREEMPTIBLE,
    USER_MODE,
)

from sim.kernel.config import Config
from sim.kernel.operations import Ledger, LedgerFactory
from sim.kernel.state import USER_TASK
from sim.xsave.components import AVX, AVX512, CET_U, FP, SSE, XTILE, XTILEDATA

masks = st.sampled_from((SSE, AVX, FP | SSE | AVX, AVX512, XTILE | SSE, CET_U, CET_U | SSE, FP | SSE | AVX | AVX512))
pkrus = st.sampled_from((0, 0x55555554, 0x3, 0xC))
mxcsrs = st.sampled_from((0x1F80, 0x1FA0, 0x9FC0))
pick = st.integers(0, 11)
"""Which one of those that there are: taken modulo their number."""


def on_some_cpu(action: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A rule's precondition: the action is legal on some CPU."""
    return precondition(lambda self: any(self.world.legal(action, c) for c in range(len(self.world.cpus))))


class Sequences(RuleBasedStateMachine):
    """Drives ``configs`` through the same sequence; they must agree in what is legal and which exits are fast."""

    configs: ClassVar[Sequence[Config]] = ()
    exits: ClassVar[tuple[str, ...]] = EXITS
    msr_ioctls: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.worlds = [World(config, ledger=self.ledger(i)) for i, config in enumerate(self.configs)]
        self.world = self.worlds[0]
        self.c = range(len(self.world.cpus))

    def ledger(self, number: int) -> LedgerFactory:
        """The ledgers of world ``number``."""
        return lambda cpu: Ledger()

    def check(self) -> None:
        """What must hold after each action."""

    def do(self, action: str, *arguments: object) -> None:
        """The same action in all worlds."""
        for world in self.worlds:
            getattr(world, action)(*arguments)
        self.check()

    def cpu(self, action: str, number: int) -> int:
        """One of the CPUs on which the action is legal."""
        cpus = [c for c in self.c if self.world.legal(action, c)]
        return cpus[number % len(cpus)]

    def go_on(self, c: int, steps: int, until: str = "") -> None:
        """Up to ``steps`` steps of the current task's own path."""
        for _ in range(steps):
            action = self.world.next(c)
            if action is None or self.world.where(c) == until:
                return
            self.do(action, c)

    @initialize(first=pick, second=pick)
    def start(self, first: int, second: int) -> None:
        self.schedule(0, first)
        self.schedule(1, second)

    @rule(cpu=st.integers(0, 1), task=pick)
    def schedule(self, cpu: int, task: int) -> None:
        """A switch at a point with preemption on; after user mode or the guest, via the interrupt that causes it."""
        if self.world.where(cpu) in NOT_PREEMPTIBLE:
            self.do(NEXT[self.world.where(cpu)], cpu)
        choices = self.world.switchable()
        if not self.world.cpus[cpu].current.runnable or task < len(choices):
            self.do("schedule", cpu, choices[task % len(choices)])
        elif self.world.cpus[cpu].current is not self.world.cpus[cpu].idle:
            self.do("schedule", cpu, None)

    @rule(cpu=st.integers(0, 1), vcpu=pick, index=st.integers(0, 3), zero=st.booleans())
    def another_vcpu_runs(self, cpu: int, vcpu: int, index: int, zero: bool) -> None:
        """Switched to, into the guest, and a write there: the steps that matter most, in one rule."""
        if self.world.where(cpu) in NOT_PREEMPTIBLE:
            self.do(NEXT[self.world.where(cpu)], cpu)
        choices = [i for i in self.world.switchable() if self.world.tasks[i].vcpu]
        if choices:
            self.do("schedule", cpu, choices[vcpu % len(choices)])
            self.go_on(cpu, 8, until=GUEST)
            if index < 3 and self.world.legal("guest_writes_carried", cpu):
                self.do("guest_writes_carried", cpu, index, zero)

    @rule(cpu=st.integers(0, 1), task=pick, components=masks)
    def another_task_runs(self, cpu: int, task: int, components: int) -> None:
        """Switched to, into user mode, and a write there."""
        if self.world.where(cpu) in NOT_PREEMPTIBLE:
            self.do(NEXT[self.world.where(cpu)], cpu)
        choices = [i for i in self.world.switchable() if self.world.tasks[i].kind == USER_TASK]
        if choices:
            self.do("schedule", cpu, choices[task % len(choices)])
            self.go_on(cpu, 3, until=USER_MODE)
            if self.world.legal("user_writes", cpu):
                self.do("user_writes", cpu, components)

    @rule(cpu=st.integers(0, 1), steps=st.integers(1, 3))
    def advance(self, cpu: int, steps: int) -> None:
        self.go_on(cpu, steps)

    @rule(cpu=st.integers(0, 1))
    def advance_into_guest(self, cpu: int) -> None:
        self.go_on(cpu, 8, until=GUEST)

    @precondition(lambda self: any(map(self.world.preemptible, self.c)))
    @rule(cpu=pick, used=masks)
    def kernel_fpu(self, cpu: int, used: int) -> None:
        cpus = [c for c in self.c if self.world.preemptible(c)]
        self.do("kernel_fpu", cpus[cpu % len(cpus)], used)

    @precondition(lambda self: any(self.world.cpus[c].current is self.world.cpus[c].idle for c in self.c))
    @rule()
    def idle_c6(self) -> None:
        for c in self.c:
            if self.world.cpus[c].current is self.world.cpus[c].idle:
                self.do("idle_c6", c)

    @rule(task=pick)
    def signal(self, task: int) -> None:
        self.do("signal", task % len(self.world.tasks))

    @rule(task=pick, components=masks)
    def ptrace_write(self, task: int, components: int) -> None:
        self.do("ptrace_write", task % len(self.world.tasks), components)

    @on_some_cpu("user_writes")
    @rule(cpu=pick, components=masks)
    def user_writes(self, cpu: int, components: int) -> None:
        self.do("user_writes", self.cpu("user_writes", cpu), components)

    @on_some_cpu("user_writes")
    @rule(cpu=pick, value=pkrus, mxcsr=mxcsrs)
    def user_writes_control_registers(self, cpu: int, value: int, mxcsr: int) -> None:
        self.do("user_wrpkru", self.cpu("user_wrpkru", cpu), value)
        self.do("user_ldmxcsr", self.cpu("user_ldmxcsr", cpu), mxcsr)

    @on_some_cpu("user_xrstor")
    @rule(cpu=pick, components=masks)
    def user_xrstor(self, cpu: int, components: int) -> None:
        self.do("user_xrstor", self.cpu("user_xrstor", cpu), components)

    @on_some_cpu("return_to_user")
    @rule(cpu=pick)
    def return_to_user(self, cpu: int) -> None:
        self.do("return_to_user", self.cpu("return_to_user", cpu))

    @on_some_cpu("sigreturn")
    @rule(cpu=pick)
    def sigreturn(self, cpu: int) -> None:
        self.do("sigreturn", self.cpu("sigreturn", cpu))

    @on_some_cpu("fork")
    @rule(cpu=pick)
    def fork(self, cpu: int) -> None:
        self.do("fork", self.cpu("fork", cpu))

    @on_some_cpu("exec")
    @rule(cpu=pick)
    def exec(self, cpu: int) -> None:
        self.do("exec", self.cpu("exec", cpu))

    @on_some_cpu("exit")
    @rule(cpu=pick)
    def exit(self, cpu: int) -> None:
        self.do("exit", self.cpu("exit", cpu))

    @on_some_cpu("sync_fpstate")
    @rule(cpu=pick)
    def core_dump(self, cpu: int) -> None:
        self.do("sync_fpstate", self.cpu("sync_fpstate", cpu))

    @on_some_cpu("enable_amx")
    @rule(cpu=pick)
    def enable_amx(self, cpu: int) -> None:
        """The first use of AMX, and tiles written, unless a signal comes first."""
        c = self.cpu("enable_amx", cpu)
        self.do("enable_amx", c)
        if self.world.legal("return_to_user", c):
            self.do("return_to_user", c)
            self.do("user_writes", c, XTILE)

    @on_some_cpu("ioctl")
    @rule(cpu=pick)
    def short_ioctl(self, cpu: int) -> None:
        self.do("ioctl", self.cpu("ioctl", cpu))

    @precondition(lambda self: self.msr_ioctls)
    @on_some_cpu("ioctl_load_fpu")
    @rule(cpu=pick)
    def msr_ioctl(self, cpu: int) -> None:
        self.do("ioctl_load_fpu", self.cpu("ioctl_load_fpu", cpu))

    @on_some_cpu("access_msr")
    @rule(cpu=pick, index=st.integers(0, 2), write=st.booleans())
    def access_msr(self, cpu: int, index: int, write: bool) -> None:
        self.do("access_msr", self.cpu("access_msr", cpu), index, write)

    @on_some_cpu("init_put")
    @rule(cpu=pick)
    def init_put(self, cpu: int) -> None:
        self.do("init_put", self.cpu("init_put", cpu))

    @on_some_cpu("cancel_entry")
    @rule(cpu=pick)
    def cancel_entry(self, cpu: int) -> None:
        self.do("cancel_entry", self.cpu("cancel_entry", cpu))

    @on_some_cpu("run_exit")
    @rule(cpu=pick, steps=st.integers(0, 4))
    def leave_kvm_run(self, cpu: int, steps: int) -> None:
        c = self.cpu("run_exit", cpu)
        self.do("run_exit", c)
        self.go_on(c, steps, until=USER_MODE)

    @on_some_cpu("exit_guest")
    @rule(cpu=pick, reason=pick)
    def exit_guest(self, cpu: int, reason: int) -> None:
        self.do("exit_guest", self.cpu("exit_guest", cpu), self.exits[reason % len(self.exits)])

    @on_some_cpu("guest_writes")
    @rule(cpu=pick, components=masks)
    def guest_writes(self, cpu: int, components: int) -> None:
        self.do("guest_writes", self.cpu("guest_writes", cpu), components)

    @on_some_cpu("guest_writes")
    @rule(cpu=pick, value=pkrus, mxcsr=mxcsrs)
    def guest_writes_control_registers(self, cpu: int, value: int, mxcsr: int) -> None:
        c = self.cpu("guest_wrpkru", cpu)
        self.do("guest_wrpkru", c, value)
        self.do("guest_ldmxcsr", c, mxcsr)
        self.do("guest_writes_cet_u", c)

    @on_some_cpu("guest_writes_carried")
    @rule(cpu=pick, index=st.integers(0, 2), zero=st.sampled_from((False, False, True)))
    def guest_writes_carried(self, cpu: int, index: int, zero: bool) -> None:
        self.do("guest_writes_carried", self.cpu("guest_writes_carried", cpu), index, zero)

    @on_some_cpu("guest_switches_task")
    @rule(cpu=pick, components=masks, carried=st.integers(0, 3))
    def guest_switches_task(self, cpu: int, components: int, carried: int) -> None:
        self.do("guest_switches_task", self.cpu("guest_switches_task", cpu), components, carried)

    @on_some_cpu("guest_writes_xfd")
    @rule(cpu=pick, xfd=st.sampled_from((0, XTILEDATA)))
    def guest_writes_xfd(self, cpu: int, xfd: int) -> None:
        self.do("guest_writes_xfd", self.cpu("guest_writes_xfd", cpu), xfd)

    @on_some_cpu("guest_uses_disabled_amx")
    @rule(cpu=pick)
    def guest_uses_disabled_amx(self, cpu: int) -> None:
        c = self.cpu("guest_uses_disabled_amx", cpu)
        self.do("guest_uses_disabled_amx", c)
        self.do("guest_writes", c, XTILE)
