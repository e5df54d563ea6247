"""A host whose tasks can be interleaved in every way that the kernel can: where each is in its path is explicit here.

:class:`World` is one kernel and the positions of its tasks; its actions are the steps of sim.kernel, each legal only at
some positions.  Every position but USER_MODE and GUEST is one at which preemption is on: any task can be switched to.
The Sequences of :mod:`random_machine` drive one or several worlds through the same random legal sequence.
"""

from positions import (
    AT,
    DEAD,
    GUEST,
    INIT_OUT,
    IOCTL,
    IOCTL_FPU,
    KERNEL,
    KERNEL_FPU_USES,
    LOOP,
    MOST_TASKS,
    NEVER_IN_USER_MODE,
    NEXT,
    NOT_PREEMPTIBLE,
    RETURNING,
    RUN_FPU,
    RUN_LOADED,
    RUN_OUT,
    RUN_PUT,
    SLOW_EXIT,
    USER_MODE,
)

from sim.kernel import fpu, guest, kvm, process, signal
from sim.kernel.config import Config
from sim.kernel.integrity import CONSUMED, VIOLATIONS
from sim.kernel.kernel import Kernel
from sim.kernel.operations import Ledger, LedgerFactory
from sim.kernel.state import KTHREAD, USER_TASK, Context, Cpu, Task, Vcpu
from sim.xsave.area import INIT
from sim.xsave.components import CET_U, PASID, PKRU, USER, XTILE, XTILEDATA, bits


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
