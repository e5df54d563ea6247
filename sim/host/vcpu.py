"""vCPU threads: the guest, its exits, HLT and polling, the VMM between two KVM_RUNs."""

from typing import TYPE_CHECKING, Any, Final

from sim.host.events import Work
from sim.host.exits import INF, ExitCost, ExitKind
from sim.host.guest_span import GUEST, GuestSpan
from sim.host.halt_polling import HaltPolling
from sim.host.preemption import KERNEL, POLLS, TO_USER
from sim.host.streams import Draws
from sim.host.thread import Steps
from sim.kernel.operations import Keys
from sim.kernel.walker import Walker

if TYPE_CHECKING:
    from sim.host.cpu import HostCpu


POLLING: Final = "halt_poll"
VMM: Final = "vmm"
HANDLER: Final = "handler"
"""The accounts of a vCPU thread's spans that are not in the guest; they say what it is doing."""
PLACES: Final = {GUEST: TO_USER, VMM: TO_USER, POLLING: POLLS, HANDLER: KERNEL}
"""Where each is for :mod:`sim.host.preemption`; a vCPU that has halted and not yet begun to poll is on its way."""


class Requests:
    """When a guest has something to do: ``demand`` of guest CPU time a request; None: always.

    They come ``arrivals`` apart in wall time (open) or ``sleeps`` after HLT (closed).
    """

    __slots__ = ("arrivals", "demand", "sleeps")

    def __init__(self, demand: Draws | None, arrivals: Draws | None, sleeps: Draws | None) -> None:
        self.demand = demand
        self.arrivals = arrivals
        self.sleeps = sleeps


class VcpuThread(GuestSpan):
    """A vCPU thread, from its first KVM_RUN on."""

    __slots__ = (
        "_armed", "_begun", "_exit_keys", "_guest_flow", "_halted_at", "_handled", "_hlt", "_ipi_pending", "_learning",
        "_poll_over", "_polling", "_posted_interrupts", "_requests", "_signal_times", "_signalled", "_slept",
        "_vmm_components", "_vmm_flow", "_waiting", "others", "vm",
    )  # fmt: skip

    def __init__(
        self, *args: Any, vm: "list[VcpuThread]", requests: Requests, polling: HaltPolling, posted_interrupts: bool,
        vmm_components: int, vmm_flow: int, hlt: ExitKind, others: Draws, signalled: Draws | None,
        signal_times: Draws | None, **given: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, demand_end=requests.demand.next() if requests.demand else INF, **given)
        self.vm = vm
        self._requests = requests
        self._polling = polling
        self._posted_interrupts = posted_interrupts
        self._vmm_components = vmm_components
        self._guest_flow = self.flow
        self.kernel_flow = self._vmm_flow = vmm_flow
        self._hlt = hlt
        self.others = others
        self._signalled = signalled
        self._signal_times = signal_times
        self._begun = self._slept = self._armed = self._ipi_pending = self._poll_over = False
        self._waiting = 0
        self._halted_at = 0
        self._learning: ExitKind | None = None
        self._handled = hlt
        self._exit_keys: Keys = ()
        self._does(VMM)

    # Into the span.

    def plan(self, cpu: "HostCpu", begin: int, limit: int) -> tuple[int, bool]:
        """Polling goes on for the window, in wall time, and as long as nobody else is queued (kvm_vcpu_can_poll())."""
        if self.account != POLLING:
            return super().plan(cpu, begin, limit)
        over = max(begin, self._halted_at + self._polling.window if cpu.rq.alone else cpu.env.now)
        end, _ = super().plan(cpu, begin, min(limit, over))
        return end, end >= over

    def enter(self, cpu: "HostCpu") -> None:
        if self.account == VMM:
            super().enter(cpu)
            cpu.passes(Walker.user_writes, self._vmm_components)
            return
        if self.account == HANDLER:
            return
        if self.account == POLLING:
            if not self._has_event(cpu):
                return
            if self._signalled is not None and self._signalled.next():
                self._handles_signal(cpu)
                return
        learning, clean = self._learning, self.vcpu.guest_state_loaded and not self.task.need_fpu_load
        before = cpu.ledger.mark
        cpu.passes(Walker.vm_entry)
        if learning is not None:
            self._learning = None
            if clean:
                self._learn(cpu, learning, cpu.ledger.recorded_since(before))
        if self.woken_at >= 0:
            self._has_woken(cpu, "vcpu")
        if not self._begun:
            self._begin(cpu)

    def _has_event(self, cpu: "HostCpu") -> bool:
        """vcpu_block(), when it is called and again while it polls: True, and on to the guest, if it need not block."""
        called = self.place == TO_USER
        if called:
            self._halt(cpu)
        if not self._take_pending():
            return False
        if not called:
            polled = self._polling.window > 0 and not self._slept
            cpu.count_polled += polled
            if self.host.listener is not None:
                self.host.listener.halt_is_over(self, cpu, cpu.clock - self._halted_at, polled=polled)
            self._slept = False
            self._polling.end(cpu.clock - self._halted_at)
        self._does(GUEST)
        return True

    def _handles_signal(self, cpu: "HostCpu") -> None:
        """A signal has ended the halt: out of KVM_RUN without a VM entry, the handler, and the VMM's next span."""
        if self.woken_at >= 0:
            self._has_woken(cpu, "vcpu")
        cpu.passes(Walker.leave_kvm_run)
        cpu.count_round_trips += 1
        for what in (Walker.deliver_signal, Walker.return_to_user, Walker.sigreturn, Walker.return_to_user):
            cpu.passes(what)
        cpu.passes(Walker.user_writes, self._vmm_components)
        self._does(VMM)
        assert self._signal_times is not None, "scenarios are checked"
        self.left = self._signal_times.next()

    def _learn(self, cpu: "HostCpu", kind: ExitKind, entry: Keys) -> None:
        """An exit and the entry after it have been run with nothing between: what one of this kind takes."""
        keys, price = self._exit_keys + entry, cpu.ledger.price
        kind.cost = ExitCost(keys, price(keys), price(entry))
        if kind is not self._interrupt:
            self._stream.learn()

    def _begin(self, cpu: "HostCpu") -> None:
        """The guest's first instructions."""
        self._begun = True
        cpu.passes(Walker.guest_boots)
        if self._use.constant:
            cpu.passes(Walker.guest_writes_carried)

    # Out of the span.

    def leave(self, cpu: "HostCpu") -> None:
        if self.account != GUEST:
            self._poll_over = self.account == POLLING and not cpu.rq.alone
            return
        kind = self._ongoing
        if kind is None:
            self._vm_exit(cpu, self._interrupt)
            return
        self._ongoing = None
        self._vm_exit(cpu, kind)
        stream = self._stream
        n = stream.next
        if self.host.preemption.in_kernel:
            self._handles(kind, stream.time(n))
            self._catches_up(cpu)
        else:
            cpu.spend(HANDLER, stream.time(n))
        stream.skip(n)
        self._wall = stream.wall[n]

    def _handles(self, kind: ExitKind, cycles: int) -> None:
        """A preemptible kernel: the handler is a span, before which vcpu_enter_guest() ends with preempt_enable()."""
        self._does(HANDLER)
        self._handled = kind
        self.left = cycles

    def _catches_up(self, cpu: "HostCpu") -> None:
        """The handler has run until now, when something ended a span in which its exit was one of many."""
        cpu.charge()
        passed = min(self.left, cpu.env.now - cpu.clock)
        if passed > 0:
            cpu.spend(HANDLER, passed)
            self.left -= passed
            if cpu.boundary and not (cpu.posted or cpu.preempts()):
                cpu.pass_boundary()

    def _vm_exit(self, cpu: "HostCpu", kind: ExitKind) -> bool:
        """The VM exit; True if the fastpath has entered the guest again.

        A lazy request is not seen by the fastpath itself, but by the kvm_vcpu_exit_request() before the guest is
        entered again, so that the exit leaves vcpu_enter_guest()'s loop.
        """
        ledger = cpu.ledger
        before = ledger.mark
        request = cpu.need_resched_lazy
        again: bool = cpu.passes(Walker.vm_exit, kind.reason, request)
        cpu.count_exits += 1
        if kind.cost is None and not kind.effect and cpu.host.batch and not request:
            keys = ledger.recorded_since(before)
            if again:
                cycles = ledger.price(keys)
                kind.cost = ExitCost(keys, cycles, cycles, fastpath=True)
            else:
                self._learning, self._exit_keys = kind, keys
        return again

    def event(self, cpu: "HostCpu") -> Steps:
        if self.account == VMM:
            if cpu.vmcs_is_elsewhere(self.vcpu):
                yield from cpu.sync()
            cpu.passes(Walker.enter_kvm_run)
            cpu.count_loads += 1
            self._does(GUEST)
            return False
        if self.account == POLLING:
            yield from cpu.sync()
            if not self._is_pending:
                self._block(cpu)
            return False
        if self.account == HANDLER:
            self._does(GUEST)
            return (yield from self._exit_handled(cpu, self._handled, again=False))
        if self._guest_time == self._demand_end:
            return (yield from self._request_done(cpu))
        return (yield from self._exit(cpu))

    def _exit(self, cpu: "HostCpu") -> Steps:
        """An exit of the stream, for itself."""
        stream = self._stream
        n = stream.next
        kind, time, uses_fpu = stream.kind(n), stream.time(n), stream.uses_fpu(n)
        again = self._vm_exit(cpu, kind)
        if uses_fpu and not again:
            cpu.use_kernel_fpu(cpu.host.exit_fpu_components)
        stream.skip(n)
        self._wall = stream.wall[n]
        stream.refill()
        if again and kind.cost is not None and not kind.effect:
            stream.learn()
        if self.host.preemption.in_kernel and not again:
            self._handles(kind, time)
            return False
        cpu.spend(HANDLER, time)
        return (yield from self._exit_handled(cpu, kind, again))

    def _exit_handled(self, cpu: "HostCpu", kind: ExitKind, again: bool) -> Steps:
        """What the exit does to others, or the return from KVM_RUN."""
        if kind.target:
            yield from cpu.sync()
            target = cpu.host.ipi_target(self, kind)
            if target.deliver_ipi():
                cpu.spend("wakeup", cpu.host.wakeup_cycles())
                yield from cpu.sync()
                target.wake_up(cpu)
        elif kind.userspace:
            self._to_user_space(cpu, kind)
        return again

    def _to_user_space(self, cpu: "HostCpu", kind: ExitKind) -> None:
        assert kind.vmm is not None
        cpu.passes(Walker.leave_kvm_run)
        cpu.count_round_trips += 1
        self._does(VMM)
        self.left = kind.vmm.next()

    # Requests, HLT and interrupts for the guest.

    def _request_done(self, cpu: "HostCpu") -> Steps:
        demand = self._requests.demand
        assert demand is not None
        cpu.count_requests += 1
        self._demand_end += demand.next()
        if self._take_pending():
            return True
        self._vm_exit(cpu, self._hlt)
        cpu.count_halts += 1
        yield from cpu.sync()
        if self._requests.sleeps is not None and not self._armed:
            self._armed = True
            cpu.host.after(self._requests.sleeps.next(), self._timer)
        self._does(POLLING)
        self.left = INF
        if cpu.need_resched_lazy:  # vcpu_run() looks at it before it calls vcpu_block()
            self.place = TO_USER
        elif not self._halt(cpu) and not self._is_pending:
            self._block(cpu)
        return False

    def _halt(self, cpu: "HostCpu") -> int:
        """kvm_vcpu_halt(): for how long it polls."""
        self.place = POLLS
        self._halted_at = cpu.clock
        return self._polling.begin()

    def before_switch(self, cpu: "HostCpu") -> None:
        """kvm_vcpu_can_poll() says no when the CPU is wanted: the vCPU blocks instead.

        A preemptible kernel preempts it in an interrupt that asks for the CPU itself; what another CPU queues is seen
        by single_task_running() before its IPI comes.
        """
        if self.place != POLLS or self.blocked or self._is_pending:
            return
        if self._poll_over or not self.host.preemption.in_kernel:
            self._block(cpu)

    def _block(self, cpu: "HostCpu") -> None:
        self._slept = True
        cpu.block(self)

    def _does(self, account: str) -> None:
        """The next span is in the guest, polls, handles an exit, or is the VMM's."""
        self.account = account
        self.place = PLACES[account]
        self.flow = self._guest_flow if account == GUEST else 0 if account == POLLING else self._vmm_flow

    @property
    def _is_pending(self) -> bool:
        return self._waiting > 0 or self._ipi_pending

    def _take_pending(self) -> bool:
        """The guest takes a request that waits, or the IPIs that are pending as one; False: nothing is pending."""
        if self._waiting:
            self._waiting -= 1
        elif self._ipi_pending:
            self._ipi_pending = False
        else:
            return False
        return True

    def _deliver(self) -> bool:
        """An interrupt has become pending for the guest: ends its polling or kicks it; True: it has to be woken up."""
        if self.blocked:
            return True
        if self.account == POLLING:
            if self.woken_at < 0:
                self.woken_at = self.host.env.now
            if self.cpu.thread is self:
                self.cpu.post(Work(0))
        elif not self._posted_interrupts and self._in_guest():
            self.cpu.post(Work(self.host.interrupt_cycles()))
        return False

    def deliver_ipi(self) -> bool:
        """An IPI from another vCPU; those that are pending together are one (a bit of the IRR).  True as above."""
        self._ipi_pending = True
        return self._deliver()

    def wake_up(self, cpu: "HostCpu") -> None:
        """kvm_vcpu_wake_up() on ``cpu``, unless another CPU was faster."""
        if self.blocked:
            self.host.wake(self, cpu)

    def _in_guest(self) -> bool:
        """Whether the guest runs right now (IN_GUEST_MODE), and KVM is not handling one of its exits."""
        cpu = self.cpu
        if cpu.cpu.guest is not self.vcpu:
            return False
        if not cpu.waiting:
            return True
        now = self.host.env.now
        return self._follow_guest(cpu, cpu.span_begin, now, soft=False).end >= now

    def request(self) -> None:
        """A request arrives for the guest: a device interrupt, which the host need not see while the guest runs."""
        if self._posted_interrupts and self._in_guest():
            self._waiting += 1
        else:
            self.cpu.post(Work(self.host.interrupt_cycles(), action=self._requested))

    def _requested(self, cpu: "HostCpu") -> Work | None:
        self._waiting += 1
        return Work(0, self.host.wakeup_cycles(), self.wake_up) if self._deliver() else None

    def _timer(self) -> None:
        """The guest's timer, which it arms at HLT if it is not armed yet."""
        self._armed = False
        self.request()
