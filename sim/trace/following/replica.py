"""A walker that is led along a trace: flow points in, operations and tracepoints out.

The follower (:mod:`sim.trace.following.follow`) leads one replica to check the trace, and what-if replicas, one per
strategy, through the same flow points.  Threads are named by the follower's numbers; a replica makes its own tasks for
them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from sim.kernel import fpu, guest, kvm
from sim.kernel.config import Config
from sim.kernel.operations import GUEST_ENTRY, Ledger, LedgerFactory
from sim.kernel.state import IDLE_TASK, KTHREAD, USER_TASK, VCPU_TASK, Cpu, Fpstate, Task, Vcpu
from sim.kernel.walker import Walker
from sim.xsave.area import INIT
from sim.xsave.components import ALL, AVX, CET_S, PKRU, SSE, XTILE, XTILEDATA, bits


class PassedEvent(NamedTuple):
    """An x86_fpu event that the model passed."""

    event: str
    load: int


class Passed(Ledger):
    """A ledger that counts nothing and keeps the x86_fpu events that the model passed, for the follower to compare."""

    __slots__ = ("passed",)

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[PassedEvent] = []

    def trace(self, event: str, **fields: Any) -> None:
        """A tracepoint was passed."""
        if event.startswith("x86_fpu:"):
            self.passed.append(PassedEvent(event[8:], fields["load"]))


def passed(cpu: int) -> Ledger:
    """The ledger of a CPU of the model that the follower compares with."""
    return Passed()


def counting(cpu: int) -> Ledger:
    """The ledger of a CPU of a what-if model."""
    return Ledger()


Uses = Callable[[int, int, bool], int]
"""Which components somebody writes while running: those in use before and at the save, and whether it is a guest."""


def changed_and_common(before: int, after: int, is_guest: bool) -> int:
    """What became in use, and SSE and AVX (YMM) where they are in use: what code without intrinsics touches."""
    return after & ~before | after & (SSE | AVX)


class Replica(Walker):
    """A walker on the CPUs of a trace, which are made as they appear; what the trace does not show it fills in.

    ``entries_recorded``: the trace has kvm_entry and kvm_exit.  Without them, each time that the guest fpstate gets
    into the registers counts as one VM entry, and each time that the thread leaves the CPU or KVM_RUN as one VM exit.
    ``vcpus``: how many vCPUs the trace has shown.  ``shown``: the components for which xfeatures of the trace counts;
    all others are as the model has them.
    """

    def __init__(
        self,
        config: Config,
        *,
        ledger: LedgerFactory = counting,
        tracing: bool = False,
        uses: Uses = changed_and_common,
        ssp: str = "constant",
        shown: int = ALL,
    ) -> None:
        super().__init__(config, ledger=ledger, integrity=False, tracing=tracing)
        self._uses = uses
        self._ssp = ssp
        self._shown = shown
        self.entries_recorded = False
        self.vcpus = 0
        self._in_fastpath: dict[int, str] = {}
        self._has_written: set[int] = set()

    # What there is.

    def thread(self, number: int, name: str, tid: int) -> Task:
        """A thread, which counts as one without user FPU state until an event shows that it has some."""
        return self.new_task(number, name, KTHREAD)

    def idle(self, number: int, cpu: int) -> None:
        """A thread that is the idle task of a CPU."""
        self.tasks[number] = self.cpu(cpu).idle

    def forget(self, number: int) -> None:
        """The thread is gone."""
        task = self.tasks.pop(number, None)
        if task is not None:
            self.kernel.contexts.pop(task.context.id, None)
            if task.vcpu is not None:
                self.kernel.contexts.pop(task.vcpu.context.id, None)
                self._has_written.discard(task.vcpu.context.id)
                for cpu in self.cpus.values():
                    if cpu.last_vcpu is task.vcpu:
                        cpu.last_vcpu = None

    def is_user(self, number: int) -> None:
        """The thread has user FPU state."""
        task = self.tasks[number]
        if not task.user_fpu and task.kind != IDLE_TASK:
            task.kind = USER_TASK
            task.user_fpu = True

    def _vcpu(self, task: Task) -> Vcpu:
        if task.vcpu is None:
            self.vcpus += 1
            vcpu = self.kernel.new_vcpu(task.name)
            self.kernel.contexts.pop(vcpu.task.context.id, None)
            vcpu.task = task
            task.vcpu = vcpu
            task.kind = VCPU_TASK
        return task.vcpu

    # What the follower knows better than the model: states that began before the recording, or in a gap of it.

    def runs(self, cpu: int, number: int) -> None:
        """The thread is on this CPU, however it got there."""
        here, task = self.cpu(cpu), self.tasks[number]
        self._leave_guest(here)
        if here.current is not task:
            self._leave_cpu(task)
            here.current.cpu = None
            here.current = task
            task.cpu = here

    def _leave_cpu(self, task: Task) -> None:
        """It was on a CPU, and how it left that was not seen."""
        if (elsewhere := task.cpu) is not None:
            self._leave_guest(elsewhere)
            task.cpu = None
            elsewhere.current = elsewhere.idle
            elsewhere.idle.cpu = elsewhere

    def set_load(self, number: int, need_fpu_load: bool) -> None:
        """TIF_NEED_FPU_LOAD of a thread."""
        self.tasks[number].need_fpu_load = need_fpu_load

    def owns(self, cpu: int, number: int | None) -> None:
        """The registers of this CPU hold the thread's state, or nobody's."""
        here = self.cpu(cpu)
        task = None if number is None else self.tasks[number]
        here.fpregs_owner = task
        if task is not None:
            task.last_cpu = here.id

    def in_kvm_run(self, number: int, inside: bool) -> None:
        """The thread is inside or outside KVM_RUN, with the guest fpstate or its own active.

        What KVM_RUN does at its beginning has been done inside it: a strategy that notes so has the guest's values.
        """
        task = self.tasks[number]
        vcpu = self._vcpu(task)
        if vcpu.fpstate.in_use == inside:
            return
        if inside:
            task.saved_fpstate, task.fpstate = task.fpstate, vcpu.fpstate
            task.notifier = vcpu
        else:
            assert task.saved_fpstate is not None
            if task.cpu is not None:
                self._leave_guest(task.cpu)
            task.fpstate, task.saved_fpstate = task.saved_fpstate, None
            task.notifier = None
        vcpu.fpstate.in_use = vcpu.carried_loaded = inside

    def memory_holds(self, number: int, guest_fpstate: bool, xstate_bv: int) -> None:
        """What an event shows of an fpstate in memory."""
        task = self.tasks[number]
        fpstate = self._fpstate(task, guest_fpstate)
        if guest_fpstate and self._vcpu(task).xfd_passthrough:
            fpstate.xfd = XTILEDATA & ~xstate_bv
        wanted = xstate_bv & self._shown & fpstate.xfeatures | fpstate.area.xstate_bv & ~self._shown
        if fpstate.area.xstate_bv != wanted:
            fpstate.area.xstate_bv = wanted
            for i in bits[wanted]:
                if fpstate.area.compacted[i] == INIT:
                    fpstate.area.compacted[i] = fpstate.context.token()

    def enlarged(self, number: int, guest_fpstate: bool, mask: int) -> None:
        """The fpstate has grown by what AMX needs, where this CPU has it: IA32_XFD does not disable that any more
        (fpstate_realloc(), arch/x86/kernel/fpu/xstate.c).  All else is as the strategy has it.

        A guest fpstate grows if the guest's CPUID has AMX, and not before (kvm_check_cpuid(), arch/x86/kvm/cpuid.c).
        Such a guest counts as a Linux that has booted: AMX in XCR0, and IA32_XFD written, which is not intercepted
        from then on (vmx_set_msr(), arch/x86/kvm/vmx/vmx.c), and is 0 only for tasks that have tiles.
        """
        fpstate = self._fpstate(self.tasks[number], guest_fpstate)
        grown = mask & XTILEDATA & self.kernel.config.masks.max_features
        fpstate.xfeatures |= grown
        fpstate.xfd &= ~grown
        fpstate.area.xcomp_bv |= grown
        if guest_fpstate and grown:
            vcpu = self._vcpu(self.tasks[number])
            vcpu.xcr0 |= XTILE & self.kernel.config.offered_xcr0
            vcpu.xfd_passthrough = True
            fpstate.xfd = XTILEDATA

    def _fpstate(self, task: Task, guest_fpstate: bool) -> Fpstate:
        if guest_fpstate:
            return self._vcpu(task).fpstate
        return task.saved_fpstate or task.fpstate

    def holds(self, cpu: int, xstate_bv: int) -> None:
        """The registers of this CPU, which the current task or its guest has used, have these components in use."""
        here = self.cpu(cpu)
        task, unit = here.current, here.unit
        context = task.fpstate.context
        if task.fpstate.is_guest and self._vcpu(task).xfd_passthrough:
            here.xfd_state = unit.xfd = task.fpstate.xfd = XTILEDATA & ~xstate_bv
        enabled = task.fpstate.xfeatures & self._shown & ~PKRU
        before, after = unit.xinuse & enabled, xstate_bv & enabled
        if gone := before & ~after:
            unit.initialise(gone)
            context.written_in_memory(gone, INIT)
        if written := self._uses(before, after, task.fpstate.is_guest) & after & ~CET_S:
            context.write(unit, written)

    # Flow points.

    def switch(self, cpu: int, number: int) -> None:
        """__schedule() to the thread."""
        here, task = self.cpu(cpu), self.tasks[number]
        self._leave_guest(here)
        if task is not here.current:
            self._leave_cpu(task)
            self.schedule(here, number)

    def returns(self, cpu: int) -> None:
        """Return to user mode, or inside KVM_RUN on to the guest."""
        here = self.cpu(cpu)
        if here.current.fpstate.is_guest:
            if not self.entries_recorded:
                self._enter_guest(here)
            elif here.current.need_fpu_load:
                fpu.switch_fpu_return(self.kernel, here, GUEST_ENTRY)
        else:
            self.return_to_user(here)

    def loads_guest_fpu(self, cpu: int) -> None:
        """KVM_RUN up to the run loop."""
        here = self.cpu(cpu)
        self._vcpu(here.current)
        if here.current.notifier is None:
            kvm.kvm_run(self.kernel, here)
        kvm.kvm_load_guest_fpu(self.kernel, here)
        kvm.kvm_run_entry(self.kernel, here)
        if not self.entries_recorded:
            self._enter_guest(here)

    def puts_guest_fpu(self, cpu: int) -> None:
        """From the run loop to the end of KVM_RUN."""
        here = self.cpu(cpu)
        self._leave_guest(here)
        self.leave_kvm_run(here)

    def uses_kernel_fpu(self, cpu: int) -> None:
        """kernel_fpu_begin() and kernel_fpu_end()."""
        here = self.cpu(cpu)
        self._leave_guest(here)
        self.kernel_fpu(here)

    def forks(self, cpu: int, number: int, name: str) -> None:
        """The current task forks a thread."""
        self.fork(self.cpu(cpu), number, name)

    def execs(self, number: int) -> None:
        """execve(), which the thread may have begun on another CPU."""
        task = self.tasks[number]
        if task.cpu is not None:
            self.exec(task.cpu)
        else:
            task.fpstate.area.xstate_bv = 0
            self.kernel.host_ssp0_into_fpstate(task)
            task.last_cpu = -1
            task.need_fpu_load = True

    def drops(self, cpu: int) -> None:
        """do_exit() of the current task, up to fpu__drop()."""
        fpu.fpu__drop(self.kernel, self.cpu(cpu))

    def delivers(self, cpu: int) -> None:
        """A signal is delivered to the current task."""
        self.deliver_signal(self.cpu(cpu))

    def sigreturns(self, cpu: int) -> None:
        """The handler of the current task returns."""
        self.sigreturn(self.cpu(cpu))

    def enters_guest(self, cpu: int) -> None:
        """A VM entry that the trace shows."""
        here = self.cpu(cpu)
        self.entries_recorded = True
        if here.guest is not None and (reason := self._in_fastpath.pop(cpu, None)) is not None:
            self.vm_exit(here, reason)
            return
        self._leave_guest(here)
        self._enter_guest(here)

    def leaves_guest(self, cpu: int, reason: str) -> None:
        """A VM exit that the trace shows.

        After one that the fastpath handles, the next event says whether it has entered the guest again: it has not if
        there was a request to reschedule, a lazy one for the most part.
        """
        here = self.cpu(cpu)
        if here.guest is not None and reason in self.kernel.fastpath:
            self._in_fastpath[cpu] = reason
        elif here.guest is not None:
            self.vm_exit(here, reason)

    def userspace_exit(self, cpu: int, reason: str) -> None:
        """KVM_RUN has returned."""
        kvm.kvm_userspace_exit(self.kernel, self.cpu(cpu), reason)

    def _enter_guest(self, here: Cpu) -> None:
        vcpu = here.current.vcpu
        if vcpu is None or here.guest is not None:
            return
        self.vm_entry(here)
        once = self._ssp == "constant" and vcpu.context.id not in self._has_written
        if once or self._ssp == "rewritten":
            self._has_written.add(vcpu.context.id)
            for index in range(len(self.kernel.carried_names)):
                guest.writes_carried(self.kernel, here, index)
            if self._ssp == "constant":
                self._long_ago(here)

    def _long_ago(self, here: Cpu) -> None:
        """What it has written once it wrote before the trace: memory has it, and registers are as restored."""
        fpstate = here.current.fpstate
        if carried := here.unit.xinuse & fpstate.xfeatures & CET_S:
            for i in bits[carried]:
                fpstate.area.compacted[i] = here.unit.regs[i]
            here.unit.xmodified &= ~carried

    def _leave_guest(self, here: Cpu) -> None:
        reason = self._in_fastpath.pop(here.id, None)
        if here.guest is not None:
            self.vm_exit(here, reason or "external-interrupt", exit_request=True)
