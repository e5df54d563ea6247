"""vCPU threads: the guest, its exits, HLT, the VMM between two KVM_RUNs."""

from typing import TYPE_CHECKING, Any

from sim.host.exits import INF, ExitCost, ExitKind
from sim.host.guest_span import GUEST
from sim.host.halting import GUEST_POLL, HANDLER, POLLING, VMM, HaltingVcpu
from sim.host.preemption import TO_USER
from sim.host.streams import Draws
from sim.host.thread import Steps
from sim.host.waiting import wake
from sim.kernel.operations import Keys
from sim.kernel.walker import Walker

if TYPE_CHECKING:
    from sim.host.cpu import HostCpu


class VcpuThread(HaltingVcpu):
    """A vCPU thread, from its first KVM_RUN on."""

    __slots__ = (
        "_begun", "_exit_keys", "_handled", "_hlt", "_learning", "_signal_times", "_signalled", "_vmm_components",
        "others", "vm",
    )  # fmt: skip

    def __init__(
        self, *args: Any, vm: "list[VcpuThread]", vmm_components: int, hlt: ExitKind, others: Draws,
        signalled: Draws | None, signal_times: Draws | None, **given: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, **given)
        self.vm = vm
        self._vmm_components = vmm_components
        self._hlt = hlt
        self.others = others
        self._signalled = signalled
        self._signal_times = signal_times
        self._begun = False
        self._learning: ExitKind | None = None
        self._handled = hlt
        self._exit_keys: Keys = ()

    # Into the span.

    def enter(self, cpu: "HostCpu") -> None:
        if self._timer_due is not cpu:  # kvm_arch_vcpu_load() on another CPU: kvm_lapic_restart_hv_timer()
            self._timer_is_pending()
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
        elif self.account == GUEST_POLL and self._take_pending():
            self._does(GUEST)
        learning, clean = self._learning, self.vcpu.guest_state_loaded and not self.task.need_fpu_load
        before = cpu.ledger.mark
        cpu.passes(Walker.vm_entry)
        if learning is not None:
            self._learning = None
            if clean:
                self._learn(cpu, learning, cpu.ledger.recorded_since(before))
        if self.woken_at >= 0 and self.account != GUEST_POLL:  # else the timer's exit comes first
            self._has_woken(cpu, "vcpu")
        if not self._begun:
            self._begin(cpu)

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
        self._stream.begin()
        cpu.passes(Walker.guest_boots)
        if self._use.constant:
            cpu.passes(Walker.guest_writes_carried)

    # Out of the span.

    def leave(self, cpu: "HostCpu") -> None:
        if self.account == GUEST_POLL:
            self._vm_exit(cpu, self._interrupt)
            return
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

        A lazy request, or one of KVM's own, is not seen by the fastpath itself, but by the kvm_vcpu_exit_request()
        before the guest is entered again, so that the exit leaves vcpu_enter_guest()'s loop.
        """
        ledger = cpu.ledger
        before = ledger.mark
        request = cpu.need_resched_lazy or kind.requests
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
        if self._timer_ends_span:
            return self._timer_exits(cpu)
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
        if self.account == GUEST_POLL:
            return self._finds_work(cpu) or (yield from self._halts(cpu))
        if self._guest_time == self._demand_end:
            return (yield from self._request_done(cpu))
        return (yield from self._exit(cpu))

    def _timer_exits(self, cpu: "HostCpu") -> bool:
        """handle_fastpath_preemption_timer(): the interrupt is pending, and the fastpath enters the guest again.

        Without APICv it does not, since apic_timer_expired() makes a request (KVM_REQ_UNBLOCK).
        """
        assert self._hv_timer is not None, "else an hrtimer"
        if self._ongoing is not None:  # one of many exits is being handled, and the timer's follows the entry after it
            self.leave(cpu)
            return False
        self._timer_is_pending()
        return self._vm_exit(cpu, self._hv_timer)

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
        if kind.wakes:
            yield from cpu.sync()
            yield from wake(cpu, kind.wakes)
        return again

    def _to_user_space(self, cpu: "HostCpu", kind: ExitKind) -> None:
        assert kind.vmm is not None
        cpu.passes(Walker.leave_kvm_run)
        cpu.count_round_trips += 1
        self._does(VMM)
        self.left = kind.vmm.next()

    def _request_done(self, cpu: "HostCpu") -> Steps:
        cpu.count_requests += 1
        self._renew_demand()
        if self._take_pending():
            return True
        if self._polls_in_guest(cpu):
            yield from cpu.sync()
            self._arm_timer(cpu)
            return True
        return (yield from self._halts(cpu))

    def _renew_demand(self) -> None:
        """The next request's work begins now."""
        assert self._requests.demand is not None
        self._demand_end += self._requests.demand.next()

    def _halts(self, cpu: "HostCpu") -> Steps:
        """The guest runs HLT."""
        self._vm_exit(cpu, self._hlt)
        cpu.count_halts += 1
        yield from cpu.sync()
        self._arm_timer(cpu)
        self._timer_is_pending()
        self._does(POLLING)
        self.left = INF
        if cpu.need_resched or cpu.need_resched_lazy:  # vcpu_run() looks at both before it calls vcpu_block()
            self.place = TO_USER
        elif not self._halt(cpu) and not self._is_pending:
            self._block(cpu)
        return False
