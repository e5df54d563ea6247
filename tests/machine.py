"""A host whose tasks can be interleaved in every way that the kernel can: where each is in its path is explicit here.

:class:`World` is one kernel and the positions of its tasks; its actions are the steps of sim.kernel, each legal only at
some positions.  Every position but USER_MODE and GUEST is one at which preemption is on: any task can be switched to.
:class:`Sequences` drives one or several worlds through the same random legal sequence.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sim.kernel import fpu, guest, kvm, process, signal
from sim.kernel.config import Config
from sim.kernel.integrity import CONSUMED, VIOLATIONS
from sim.kernel.kernel import Kernel
from sim.kernel.operations import Ledger, LedgerFactory
from sim.kernel.state import KTHREAD, USER_TASK, Context, Cpu, Task, Vcpu
from sim.xsave.area import INIT
from sim.xsave.components import AVX, AVX512, CET_U, FP, PASID, PKRU, SSE, USER, XTILE, XTILEDATA, bits

# Positions of a task in its path, whether it is on a CPU or not.
USER_MODE = "in user mode"
KERNEL = "entered the kernel"
RETURNING = "about to return to user mode"
DEAD = "exited"
NEVER_IN_USER_MODE = "kernel thread"
RUN_LOADED = "KVM_RUN: after vcpu_load"
RUN_FPU = "KVM_RUN: after kvm_load_guest_fpu"
LOOP = "KVM_RUN: in the loop, outside the guest"
GUEST = "KVM_RUN: in the guest"
INIT_OUT = "KVM_RUN: in a guest INIT, with the guest fpstate in memory"
RUN_OUT = "KVM_RUN: after the strategy's part of leaving"
RUN_PUT = "KVM_RUN: after kvm_put_guest_fpu"
IOCTL = "short ioctl: after vcpu_load"
IOCTL_FPU = "short ioctl: with the guest FPU, where the access needs it"

NOT_PREEMPTIBLE = frozenset((USER_MODE, GUEST))
"""In user mode and in the guest something else comes first: an interrupt, a VM exit."""

AT: dict[str, frozenset[str]] = {
    action: frozenset(positions)
    for action, positions in {
        "enter_kernel": {USER_MODE},
        "user_writes": {USER_MODE},
        "user_wrpkru": {USER_MODE},
        "user_ldmxcsr": {USER_MODE},
        "user_xrstor": {USER_MODE},
        "return_to_user": {KERNEL, RETURNING},
        "deliver": {KERNEL, RETURNING},
        "sigreturn": {KERNEL},
        "fork": {KERNEL},
        "exec": {KERNEL},
        "exit": {KERNEL},
        "sync_fpstate": {KERNEL, RETURNING},
        "enable_amx": {KERNEL},
        "kvm_run": {KERNEL},
        "load_guest_fpu": {RUN_LOADED},
        "run_entry": {RUN_FPU},
        "enter_guest": {LOOP},
        "cancel_entry": {LOOP},
        "init_put": {LOOP},
        "init_load": {INIT_OUT},
        "run_exit": {LOOP},
        "put_guest_fpu": {RUN_OUT},
        "vcpu_put": {RUN_PUT, IOCTL},
        "ioctl": {KERNEL},
        "ioctl_load_fpu": {IOCTL},
        "access_msr": {IOCTL_FPU},
        "ioctl_put_fpu": {IOCTL_FPU},
        "exit_guest": {GUEST},
        "guest_writes": {GUEST},
        "guest_writes_cet_u": {GUEST},
        "guest_wrpkru": {GUEST},
        "guest_ldmxcsr": {GUEST},
        "guest_writes_carried": {GUEST},
        "guest_switches_task": {GUEST},
        "guest_writes_xfd": {GUEST},
        "guest_uses_disabled_amx": {GUEST},
    }.items()
}
"""The positions of the current task at which an action is legal; :meth:`World.legal` has the rest of the rule."""

NEXT = {
    USER_MODE: "enter_kernel",
    RETURNING: "return_to_user",
    RUN_LOADED: "load_guest_fpu",
    RUN_FPU: "run_entry",
    LOOP: "enter_guest",
    INIT_OUT: "init_load",
    GUEST: "exit_guest",
    RUN_OUT: "put_guest_fpu",
    RUN_PUT: "vcpu_put",
    IOCTL: "vcpu_put",
    IOCTL_FPU: "ioctl_put_fpu",
}
"""What a task does next if nothing comes between; after KERNEL it depends on the task."""

KERNEL_FPU_USES = FP | SSE | AVX | AVX512
MOST_TASKS = 5
SLOW_EXIT = "external-interrupt"
EXITS = (SLOW_EXIT, "wrmsr-icr", "wrmsr-tsc-deadline", "preemption-timer", "hlt-event-pending", "invd")


class World:
    """A kernel, its tasks by number, and where each of them is."""

    def __init__(
        self,
        config: Config,
        *,
        cpus: int = 2,
        tasks: int = 2,
        vcpus: int = 3,
        ledger: LedgerFactory = lambda cpu: Ledger(),
    ) -> None:
        self.k = Kernel(config, cpus, ledger=ledger)
        self.cpus = self.k.cpus
        self.vcpus = [self.k.new_vcpu(f"vcpu{i}") for i in range(vcpus)]
        self.tasks = [vcpu.task for vcpu in self.vcpus]
        self.tasks += [self.k.new_task(f"task{i}") for i in range(tasks)]
        self.tasks.append(self.k.new_task("kthread", KTHREAD))
        self.position = {task: RETURNING if task.user_fpu else NEVER_IN_USER_MODE for task in self.tasks}
        self.position |= {cpu.idle: NEVER_IN_USER_MODE for cpu in self.cpus}
        self.signalled: set[Task] = set()

    # What is legal.

    def where(self, c: int) -> str:
        return self.position[self.cpus[c].current]

    def legal(self, action: str, c: int) -> bool:
        """Whether the current task of CPU ``c`` can take this step now."""
        task = self.cpus[c].current
        if self.position[task] not in AT[action]:
            return False
        match action:
            case "return_to_user" | "enter_guest":  # both handle signals first; KVM_RUN returns -EINTR for it
                return task not in self.signalled
            case "deliver":
                return task in self.signalled
            case "sigreturn":
                return bool(task.frames)
            case "fork":
                return len(self.tasks) < len(self.vcpus) + MOST_TASKS
            case "enable_amx":
                return bool(self.k.config.xfd and task.fpstate.xfd)
            case "guest_writes_xfd":
                return self.k.config.settings.guest_amx
            case "guest_uses_disabled_amx":
                return bool(self.cpus[c].unit.xfd)
            case "kvm_run" | "ioctl":
                return task.vcpu is not None
            case "exec" | "exit":
                return task.kind == USER_TASK
            case "guest_writes_carried":
                return task.vcpu is not None and self.k.guest_has_carried(task.vcpu)
            case "access_msr" | "ioctl_load_fpu":
                has_msrs = bool(self.k.carried.msrs)
                return task.vcpu is not None and has_msrs and self.k.guest_has_carried(task.vcpu)
        return True

    def preemptible(self, c: int) -> bool:
        """Whether another task can be switched to on CPU ``c``, or an interrupt use the FPU there."""
        return self.where(c) not in NOT_PREEMPTIBLE

    def switchable(self) -> list[int]:
        """The tasks that a CPU could switch to."""
        return [i for i, task in enumerate(self.tasks) if task.cpu is None and task.runnable]

    def next(self, c: int) -> str | None:
        """The next step of the current task's own path."""
        task = self.cpus[c].current
        at = self.position[task]
        if at in (KERNEL, RETURNING) and task in self.signalled:
            return "deliver"
        if at == KERNEL:
            return "kvm_run" if task.vcpu else "return_to_user"
        if at == LOOP and task in self.signalled:
            return "run_exit"
        return NEXT.get(at)

    # Actions of the scheduler and of interrupts.

    def schedule(self, c: int, task: int | None) -> None:
        """To the task with this number; None is the CPU's idle task."""
        cpu = self.cpus[c]
        process.schedule(self.k, cpu, cpu.idle if task is None else self.tasks[task])

    def kernel_fpu(self, c: int, used: int) -> None:
        cpu = self.cpus[c]
        fpu.kernel_fpu_begin(self.k, cpu, used & KERNEL_FPU_USES & self.k.config.masks.xcr0)

    def idle_c6(self, c: int) -> None:
        fpu.fpu_idle_fpregs(self.k, self.cpus[c])

    def signal(self, task: int) -> None:
        if self.position[self.tasks[task]] not in (NEVER_IN_USER_MODE, DEAD):
            self.signalled.add(self.tasks[task])

    def ptrace_write(self, task: int, components: int) -> None:
        """Only to a task that is stopped, which it is outside of ioctls and off the CPU."""
        if self.tasks[task].cpu is None and self.position[self.tasks[task]] in (KERNEL, RETURNING):
            signal.ptrace_write(self.k, self.tasks[task], components)

    # Actions of the current task: user mode.

    def _go(self, c: int, position: str) -> None:
        self.position[self.cpus[c].current] = position

    def enter_kernel(self, c: int) -> None:
        """A system call, an interrupt or an exception."""
        self._go(c, KERNEL)

    def _user_components(self, cpu: Cpu, components: int) -> int:
        available = cpu.unit.xcr0 & ~PKRU | CET_U & cpu.unit.xss
        return components & (available if cpu.unit.xfd == 0 else available & ~XTILE)

    def user_writes(self, c: int, components: int) -> None:
        cpu = self.cpus[c]
        process.user_writes(self.k, cpu, self._user_components(cpu, components))

    def user_wrpkru(self, c: int, value: int) -> None:
        process.user_wrpkru(self.cpus[c], value)

    def user_ldmxcsr(self, c: int, value: int) -> None:
        cpu = self.cpus[c]
        self._ldmxcsr(cpu, cpu.current.context, value)

    @staticmethod
    def _ldmxcsr(cpu: Cpu, context: Context, value: int) -> None:
        cpu.unit.ldmxcsr(value)
        context.mxcsr = value

    def user_xrstor(self, c: int, components: int) -> None:
        """User code runs XRSTOR on a buffer of its own that holds ``components`` and none of the other components."""
        cpu = self.cpus[c]
        unit, context = cpu.unit, cpu.current.context
        mask = self._user_components(cpu, USER)
        area = self.k.new_area()
        area.xstate_bv = components & mask
        for i in range(len(area.standard)):
            if mask >> i & 1:
                area.standard[i] = context.token() if area.xstate_bv >> i & 1 else 0
                context.regs[i] = area.standard[i]
        context.mxcsr = area.mxcsr
        unit.enter_mode(cpl=3, nonroot=False)
        unit.xrstor(area, mask)
        unit.enter_mode(cpl=0, nonroot=False)

    def return_to_user(self, c: int) -> None:
        process.return_to_user(self.k, self.cpus[c])
        self._go(c, USER_MODE)

    # Actions of the current task: system calls and exceptions.

    def deliver(self, c: int) -> None:
        self.signalled.discard(self.cpus[c].current)
        signal.deliver(self.k, self.cpus[c])
        self._go(c, RETURNING)

    def sigreturn(self, c: int) -> None:
        signal.sigreturn(self.k, self.cpus[c])
        self._go(c, RETURNING)

    def fork(self, c: int) -> None:
        child = process.fork(self.k, self.cpus[c], f"child{len(self.tasks)}")
        self.tasks.append(child)
        self.position[child] = RETURNING
        self._go(c, RETURNING)

    def exec(self, c: int) -> None:
        process.exec(self.k, self.cpus[c])
        self._go(c, RETURNING)

    def exit(self, c: int) -> None:
        process.exit(self.k, self.cpus[c])
        self.signalled.discard(self.cpus[c].current)
        self._go(c, DEAD)

    def sync_fpstate(self, c: int) -> None:
        signal.fpu_sync_fpstate(self.k, self.cpus[c])

    def enable_amx(self, c: int) -> None:
        """The #NM handler; what it returns to is LDTILECFG, which zeroes the tiles whatever was in them."""
        cpu = self.cpus[c]
        fpu.handle_xfd_event(self.k, cpu)
        cpu.unit.initialise(XTILEDATA)
        cpu.current.context.written_in_memory(XTILEDATA, INIT)
        self._go(c, RETURNING)

    # Actions of the current task: ioctls of the vCPU.

    def kvm_run(self, c: int) -> None:
        kvm.vcpu_load(self.k, self.cpus[c])
        self._go(c, RUN_LOADED)

    def load_guest_fpu(self, c: int) -> None:
        kvm.kvm_load_guest_fpu(self.k, self.cpus[c])
        self._go(c, RUN_FPU)

    def run_entry(self, c: int) -> None:
        kvm.kvm_run_entry(self.k, self.cpus[c])
        self._go(c, LOOP)

    def enter_guest(self, c: int) -> None:
        kvm.vcpu_enter_guest(self.k, self.cpus[c])
        self._go(c, GUEST)

    def exit_guest(self, c: int, reason: str = SLOW_EXIT) -> None:
        if not kvm.vm_exit(self.k, self.cpus[c], reason):
            self._go(c, LOOP)

    def cancel_entry(self, c: int) -> None:
        kvm.cancel_entry(self.k, self.cpus[c])

    def init_put(self, c: int) -> None:
        """The first half of a guest INIT; without a swap if this kernel has nothing to reset."""
        if kvm.xstate_reset_components(self.k):
            kvm.kvm_put_guest_fpu(self.k, self.cpus[c])
        self._go(c, INIT_OUT)

    def init_load(self, c: int) -> None:
        kvm.vcpu_reset(self.k, self.cpus[c])
        if kvm.xstate_reset_components(self.k):
            kvm.kvm_load_guest_fpu(self.k, self.cpus[c])
        self._go(c, LOOP)

    def run_exit(self, c: int) -> None:
        kvm.kvm_run_exit(self.k, self.cpus[c])
        self._go(c, RUN_OUT)

    def put_guest_fpu(self, c: int) -> None:
        kvm.kvm_put_guest_fpu(self.k, self.cpus[c])
        self._go(c, RUN_PUT)

    def vcpu_put(self, c: int) -> None:
        kvm.vcpu_put(self.k, self.cpus[c])
        self._go(c, RETURNING)

    def ioctl(self, c: int) -> None:
        kvm.vcpu_load(self.k, self.cpus[c])
        self._go(c, IOCTL)

    def _vcpu(self, c: int) -> Vcpu:
        vcpu = self.cpus[c].current.vcpu
        assert vcpu is not None
        return vcpu

    def ioctl_load_fpu(self, c: int) -> None:
        if kvm.msr_ioctl_loads_fpu(self.k, self._vcpu(c)):
            kvm.kvm_load_guest_fpu(self.k, self.cpus[c])
        self._go(c, IOCTL_FPU)

    def access_msr(self, c: int, index: int, write: bool) -> int:
        value = self._vcpu(c).context.token() if write else None
        return kvm.access_carried_msr(self.k, self.cpus[c], index % len(self.k.carried_names), value)

    def ioctl_put_fpu(self, c: int) -> None:
        if self._vcpu(c).fpstate.in_use:
            kvm.kvm_put_guest_fpu(self.k, self.cpus[c])
        self._go(c, IOCTL)

    # Actions of the guest.

    def guest_writes(self, c: int, components: int) -> None:
        guest.writes(self.k, self.cpus[c], components)

    def guest_writes_cet_u(self, c: int) -> None:
        """WRMSR of U_CET or PL3_SSP, which are passed through to a guest with CET."""
        cpu, vcpu = self.cpus[c], self._vcpu(c)
        if vcpu.has_cet:
            vcpu.context.write(cpu.unit, CET_U)

    def guest_wrpkru(self, c: int, value: int) -> None:
        guest.wrpkru(self.k, self.cpus[c], value)

    def guest_ldmxcsr(self, c: int, value: int) -> None:
        cpu = self.cpus[c]
        self._ldmxcsr(cpu, self._vcpu(c).context, value)

    def guest_writes_carried(self, c: int, index: int, zero: bool = False) -> None:
        guest.writes_carried(self.k, self.cpus[c], index % len(self.k.carried_names), zero)

    def guest_switches_task(self, c: int, components: int, carried: int = 0) -> None:
        guest.switches_task(self.k, self.cpus[c], components, min(carried, len(self.k.carried_names)))

    def guest_writes_xfd(self, c: int, xfd: int) -> None:
        """With its tiles in their initial configuration, as Linux does it."""
        cpu = self.cpus[c]
        if xfd:
            cpu.unit.initialise(XTILE)
            self._vcpu(c).context.written_in_memory(XTILE, INIT)
        guest.writes_xfd(self.k, cpu, xfd)

    def guest_uses_disabled_amx(self, c: int) -> None:
        guest.uses_disabled_amx(self.k, self.cpus[c])

    # Several steps at once, for sequences that are written out.

    def step(self, c: int) -> bool:
        """The next step of the current task's own path, if it has one."""
        action = self.next(c)
        if action is not None:
            getattr(self, action)(c)
        return action is not None

    def until(self, c: int, position: str) -> None:
        """Steps of the current task's own path until it is at ``position``."""
        for _ in range(20):
            if self.where(c) == position:
                return
            assert self.step(c), f"{self.cpus[c]!r} never gets to {position!r}"
        raise AssertionError(f"{self.cpus[c]!r} never gets to {position!r}")

    def to_guest(self, c: int, vcpu: int) -> None:
        """CPU ``c`` switches to the thread of this vCPU, unless it is there, and goes on into the guest."""
        task = self.vcpus[vcpu].task
        if self.cpus[c].current is not task:
            self.schedule(c, self.tasks.index(task))
        self.until(c, GUEST)

    def to_user(self, c: int, task: int) -> None:
        """CPU ``c`` switches to this task, unless it is there, and goes on into user mode."""
        if self.cpus[c].current is not self.tasks[task]:
            self.schedule(c, task)
        while self.where(c) != USER_MODE:
            at = self.where(c)
            getattr(self, "run_exit" if at == LOOP else str(self.next(c)))(c)

    # What holds after each step.

    @property
    def violations(self) -> int:
        assert self.k.integrity is not None
        return self.k.integrity.violations

    @property
    def kinds(self) -> set[str]:
        """The kinds of violations that were found."""
        assert self.k.integrity is not None
        return {kind for kind in VIOLATIONS if self.k.integrity.counts[kind]}

    def findings(self) -> list[tuple[str, str, str]]:
        """The violations: kind, who got it, what."""
        assert self.k.integrity is not None
        return [(f.kind, f.who, f.what) for f in self.k.integrity.findings if f.kind in VIOLATIONS]

    def check_owner(self) -> None:
        """Registers that a CPU says are a task's are that task's, and a task's registers are on one CPU only."""
        for cpu in self.cpus:
            owner = cpu.fpregs_owner
            if owner is None or owner.last_cpu != cpu.id:
                continue
            assert sum(other.fpregs_owner is owner and owner.last_cpu == other.id for other in self.cpus) == 1
            vcpu = owner.vcpu
            context = vcpu.context if vcpu is not None and vcpu.fpstate.in_use else owner.context
            skip = cpu.unit.xfd | (0 if context is owner.context or (vcpu and vcpu.has_cet) else CET_U | PASID)
            for i in bits[CONSUMED & ~skip]:
                assert cpu.unit.regs[i] == context.regs[i], (cpu, context, i)
            assert cpu.unit.mxcsr == context.mxcsr, (cpu, context)
        for task in self.tasks:
            if task.cpu is not None and not task.need_fpu_load and self.position[task] != DEAD:
                assert fpu.fpregs_state_valid(task.cpu, task), (task, task.cpu)


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
