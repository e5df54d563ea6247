"""A spinlock inside a guest: its vCPUs take it, hold it for a while, and spin while another one holds it.

It is a test-and-set lock, as virt_spin_lock() (arch/x86/include/asm/qspinlock.h, Linux v7.3), which guests have whose
hypervisor offers no paravirtual spinlocks: whoever runs when it becomes free takes it, of several the one that has spun
longest.  Critical sections and spinning are at CPL 0, all else that a guest does at CPL 3.
"""

from typing import TYPE_CHECKING, Any

from sim.host.directed_yield import Boosted, on_spin, runs_again, yield_to
from sim.host.exits import INF, ExitKind
from sim.host.guest_span import GUEST
from sim.host.halting import GUEST_SPIN, VMM
from sim.host.ple import PleWindow
from sim.host.preemption import TO_USER
from sim.host.streams import Draws
from sim.host.thread import Steps
from sim.host.vcpu import VcpuThread

if TYPE_CHECKING:
    from sim.host.cpu import HostCpu


class GuestLock:
    """The lock of a VM, with its vCPUs; ``boosted`` is what KVM remembers of the VM."""

    __slots__ = ("boosted", "holder", "vcpus")

    def __init__(self, boosted: Boosted) -> None:
        self.holder: LockingVcpu | None = None
        self.vcpus: list[LockingVcpu] = []
        self.boosted = boosted

    def release(self) -> None:
        """It goes to the vCPU that spins at this moment, or is free."""
        spinning = [vcpu for vcpu in self.vcpus if vcpu.spins_now]
        self.holder = min(spinning, key=lambda vcpu: vcpu.spins_since, default=None)
        if self.holder is not None:
            self.holder.cpu.kick()


class Pausing:
    """What KVM does when a guest spins: PLE with its window in TSC cycles per unit, and directed yield.

    ``exits``: whether PLE is on; ``handler`` gives the cycles of its handler, beside operations.
    """

    __slots__ = ("credit", "exits", "handler", "unit", "yields")

    def __init__(self, exits: bool, unit: int, handler: Draws, yields: bool, credit: bool) -> None:
        self.exits = exits
        self.unit = unit
        self.handler = handler
        self.yields = yields
        self.credit = credit


class LockingVcpu(VcpuThread):
    """A vCPU whose guest has critical sections: every ``gaps`` of guest CPU time one of ``holds``.

    ``_request_end`` is when its request is done, ``_turn`` when it takes or releases the lock, both in guest CPU time.
    """

    __slots__ = (
        "_gaps", "_holds", "_lock", "_out_since", "_pause", "_pausing", "_ple", "_request_end", "_spins_from", "_turn",
        "dy_eligible", "in_spin_loop", "spins_since",
    )  # fmt: skip

    def __init__(
        self, *args: Any, lock: GuestLock, gaps: Draws, holds: Draws, ple: PleWindow, pausing: Pausing,
        pause: ExitKind, **given: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, **given)
        self._lock = lock
        lock.vcpus.append(self)
        self._gaps = gaps
        self._holds = holds
        self._ple = ple
        self._pausing = pausing
        self._pause = pause
        self._request_end = self._demand_end
        self._turn = gaps.next()
        self._out_since = self.spins_since = self._spins_from = 0
        self.in_spin_loop = self.dy_eligible = False
        self._set_end()

    def _set_end(self) -> None:
        """Whatever comes first ends the span; a request is not done before the critical section is over."""
        turn = self._turn
        first = turn if self._lock.holder is self or turn <= self._request_end else self._request_end
        self._demand_end = max(first, self._guest_time)

    def _renew_demand(self) -> None:
        assert self._requests.demand is not None
        self._request_end = self._guest_time + self._requests.demand.next()
        self._set_end()

    # What KVM knows of it.

    @property
    def ready(self) -> bool:
        """vcpu->ready: it was preempted in KVM_RUN, or woken there, and does not run yet."""
        return self.task.notifier is not None and not self.blocked and self.cpu.thread is not self

    @property
    def preempted(self) -> bool:
        """vcpu->preempted: it was not HLT that took it from its CPU."""
        return not self._slept

    @property
    def has_pending_interrupt(self) -> bool:
        """kvm_arch_dy_has_pending_interrupt(), which asks kvm_vcpu_apicv_active() first."""
        return self._posted_interrupts and self._is_pending

    @property
    def preempted_in_kernel(self) -> bool:
        """At CPL 0: it holds the lock, or spins for it."""
        return self._lock.holder is self or self.account == GUEST_SPIN

    @property
    def spins_now(self) -> bool:
        """Whether its guest executes the loop at this moment."""
        return self.account == GUEST_SPIN and self.cpu.thread is self and self.cpu.waiting

    # Its spans.

    def plan(self, cpu: "HostCpu", begin: int, limit: int) -> tuple[int, bool]:
        """Spinning ends when the lock is seen free, or by PLE; an interrupt for the host is an exit."""
        if self.account != GUEST_SPIN:
            return super().plan(cpu, begin, limit)
        ends = self._lock.holder is None or self._lock.holder is self or self._timer_due is not None
        over = max(begin, cpu.env.now) if ends else self._spins_from + self._window if self._pausing.exits else INF
        end, _ = super().plan(cpu, begin, min(limit, cpu.due, max(begin, over)))
        return end, end >= over

    @property
    def _window(self) -> int:
        return self._ple.value * self._pausing.unit

    def enter(self, cpu: "HostCpu") -> None:
        if self.queued_at != self._out_since:  # it has been off its CPU
            self._out_since = self.queued_at
            if self.account != VMM:  # vcpu->scheduled_out, which is about KVM_RUN
                self._ple.shrink()
        runs_again(self)
        super().enter(cpu)
        cpu.charge()
        self._spins_from = cpu.clock

    def leave(self, cpu: "HostCpu") -> None:
        if self.account == GUEST_SPIN:
            self._vm_exit(cpu, self._interrupt)
        else:
            super().leave(cpu)

    def event(self, cpu: "HostCpu") -> Steps:
        if self._timer_ends_span:
            return self._timer_exits(cpu)
        if self.account == GUEST_SPIN:
            yield from cpu.sync()
            return (yield from self._spun(cpu))
        if self.account == GUEST and self._guest_time == self._demand_end and self._guest_time >= self._turn:
            yield from cpu.sync()
            return self._takes_or_releases(cpu)
        return (yield from super().event(cpu))

    def _timer_exits(self, cpu: "HostCpu") -> bool:
        again = super()._timer_exits(cpu)
        cpu.charge()
        self._spins_from = cpu.clock
        return again

    def _takes_or_releases(self, cpu: "HostCpu") -> bool:
        """The guest stays in the guest, whatever comes of it."""
        lock = self._lock
        if lock.holder is self:
            lock.release()
            self._turn = self._guest_time + self._gaps.next()
            self._set_end()
        elif lock.holder is None:
            self._takes()
        else:
            self._does(GUEST_SPIN)
            self.left = INF
            self.spins_since = self._spins_from = cpu.clock
        return True

    def _takes(self) -> None:
        self._lock.holder = self
        self._turn = self._guest_time + self._holds.next()
        self._set_end()

    def _spun(self, cpu: "HostCpu") -> Steps:
        """The loop is over: the guest has the lock, or PLE has made it exit."""
        lock = self._lock
        if lock.holder is None or lock.holder is self:
            self._does(GUEST)
            self._takes()
            return True
        if not self._pausing.exits or cpu.clock < self._spins_from + self._window:
            return True
        self._vm_exit(cpu, self._pause)
        cpu.spend("handler", self._pausing.handler.next())
        self._ple.grow()
        yield from cpu.sync()
        if self._pausing.yields:
            vcpus = lock.vcpus
            on_spin(
                vcpus.index(self), vcpus, lock.boosted,
                lambda number: yield_to(cpu, vcpus[number], credit=self._pausing.credit),
            )  # fmt: skip
        self.place = TO_USER
        return False
