"""A vCPU that waits: HLT, polling by KVM or by the guest itself, and the interrupts that end it.

Source: virt/kvm/kvm_main.c kvm_vcpu_halt(), kvm_vcpu_kick(); drivers/cpuidle/governors/haltpoll.c; Linux v6.18.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sim.host.events import Work
from sim.host.exits import INF, ExitKind
from sim.host.guest_span import GUEST, GuestSpan
from sim.host.halt_polling import GuestPolling, HaltPolling
from sim.host.preemption import KERNEL, POLLS, TO_USER
from sim.host.streams import Draws
from sim.host.waiting import Waits

if TYPE_CHECKING:
    from sim.host.cpu import HostCpu


POLLING: Final = "halt_poll"
GUEST_POLL: Final = "guest_poll"
GUEST_SPIN: Final = "guest_spin"
VMM: Final = "vmm"
HANDLER: Final = "handler"
"""The accounts of a vCPU thread's spans in which no guest code of its stream runs; they say what it is doing."""
PLACES: Final = {
    GUEST: TO_USER, GUEST_POLL: TO_USER, GUEST_SPIN: TO_USER, VMM: TO_USER, POLLING: POLLS, HANDLER: KERNEL,
}  # fmt: skip
"""Where each is for :mod:`sim.host.preemption`; a vCPU that has halted and not yet begun to poll is on its way."""


class Requests:
    """When a guest has something to do: ``demand`` of guest CPU time a request; None: always.

    They come ``arrivals`` apart in wall time (open) or ``sleeps`` after HLT (closed), or ``waits`` says that a thread
    sends them.
    """

    __slots__ = ("arrivals", "demand", "sleeps", "waits")

    def __init__(
        self, demand: Draws | None, arrivals: Draws | None, sleeps: Draws | None, waits: Waits | None = None
    ) -> None:
        self.demand = demand
        self.arrivals = arrivals
        self.sleeps = sleeps
        self.waits = waits


class HaltingVcpu(GuestSpan):
    """A vCPU thread as far as it waits for something to do.

    ``hv_timer`` is the exit of the VMX preemption timer, which a timer of the guest is while the guest runs; None on
    SVM, where it is an hrtimer throughout.  ``guest_polling`` is its haltpoll governor, None without one; with one KVM
    does not poll (MSR_KVM_POLL_CONTROL).  ``_polls_until`` is when the guest stops polling, and ``_halted_at`` when KVM
    began to.  ``_timer_due`` is the CPU on which the timer of a guest that is not halted has expired.
    """

    __slots__ = (
        "_armed", "_guest_flow", "_guest_polling", "_halted_at", "_hv_timer", "_ipi_pending", "_poll_over",
        "_polling", "_polls_until", "_posted_interrupts", "_requests", "_slept", "_timer_due", "_vmm_flow", "_wait",
        "_waiting",
    )  # fmt: skip

    def __init__(
        self, *args: Any, requests: Requests, polling: HaltPolling, guest_polling: GuestPolling | None,
        posted_interrupts: bool, vmm_flow: int, hv_timer: ExitKind | None, **given: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, demand_end=requests.demand.next() if requests.demand else INF, **given)
        self._requests = requests
        self._polling = polling
        self._guest_polling = guest_polling
        self._posted_interrupts = posted_interrupts
        self._hv_timer = hv_timer
        self._guest_flow = self.flow
        self.kernel_flow = self._vmm_flow = vmm_flow
        self._slept = self._armed = self._ipi_pending = self._poll_over = False
        self._timer_due: HostCpu | None = None
        self._waiting = self._wait = 0
        self._halted_at = self._polls_until = 0
        self._does(VMM)

    def _does(self, account: str) -> None:
        """The next span is in the guest, polls, handles an exit, or is the VMM's."""
        self.account = account
        self.place = PLACES[account]
        self.flow = (
            self._guest_flow
            if account == GUEST
            else 0
            if account in (POLLING, GUEST_POLL, GUEST_SPIN)
            else self._vmm_flow
        )

    # Polling.

    def plan(self, cpu: "HostCpu", begin: int, limit: int) -> tuple[int, bool]:
        """Polling continues for the window, in wall time: KVM's as long as nobody else is queued (kvm_vcpu_can_poll()),
        the guest's as long as nothing is pending; there an interrupt for the host is an exit."""
        if self.account == POLLING:
            over = max(begin, self._halted_at + self._polling.window if cpu.rq.alone else cpu.env.now)
        elif self.account == GUEST_POLL:
            ends = self._is_pending or self._timer_due is not None
            over, limit = max(begin, cpu.env.now if ends else self._polls_until), min(limit, cpu.due)
        elif self._timer_ends_span:
            over = max(begin, cpu.env.now)
        else:
            return super().plan(cpu, begin, limit)
        end, _ = super().plan(cpu, begin, min(limit, over))
        return end, end >= over

    def _polls_in_guest(self, cpu: "HostCpu") -> bool:
        """haltpoll_select(): whether the guest polls before it runs HLT."""
        window = self._guest_polling.window if self._guest_polling is not None else 0
        if window:
            self._does(GUEST_POLL)
            self.left = INF
            self._polls_until = cpu.clock + window
        return window > 0

    def _finds_work(self, cpu: "HostCpu") -> bool:
        """What is pending ends the guest's polling."""
        if not self._take_pending():
            return False
        self._does(GUEST)
        self._has_woken(cpu, "vcpu")  # what comes meanwhile is posted or the timer's, and has been noted
        return True

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
            if self._guest_polling is not None:
                self._guest_polling.has_halted(cpu.clock - self._halted_at)
        self._does(GUEST)
        return True

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

    @property
    def _timer_ends_span(self) -> bool:
        """The guest runs, and its timer has expired."""
        return self._timer_due is not None and self.account in (GUEST, GUEST_POLL, GUEST_SPIN)

    def _timer_is_pending(self) -> None:
        """An expired timer has become an interrupt, without an exit."""
        if self._timer_due is not None:
            self._timer_due = None
            self._waiting += 1

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
            self._note_wakeup()
            if self.cpu.thread is self:
                self.cpu.post(Work(0))
        elif self.account == GUEST_POLL and self._posted_interrupts:
            self._note_wakeup()
            self._kick_poll()
        elif not self._posted_interrupts and self._in_guest():
            self.cpu.post(Work(self.host.interrupt_cycles()))
        return False

    def _note_wakeup(self) -> None:
        """Since now there is something to do."""
        if self.woken_at < 0:
            self.woken_at = self.host.env.now

    def _kick_poll(self) -> None:
        """The guest, which polls or has to exit, sees what is pending."""
        if self.cpu.thread is self:
            self.cpu.kick()

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
        if not cpu.waiting or self.account != GUEST:
            return True
        now = self.host.env.now
        return self._follow_guest(cpu, cpu.span_begin, now, soft=False).end >= now

    def request(self) -> None:
        """A request arrives for the guest: a device interrupt, which the host need not see while the guest runs."""
        if self._posted_interrupts and self._in_guest():
            self._waiting += 1
            if self.account == GUEST_POLL:
                self._note_wakeup()
                self._kick_poll()
        else:
            self._interrupts_host()

    def _interrupts_host(self) -> None:
        """A request comes by an interrupt of the host."""
        if self.host.counts_from_event and self.account in (POLLING, GUEST_POLL):
            self._note_wakeup()
        self.cpu.post(Work(self.host.interrupt_cycles(), action=self._requested))

    def _requested(self, cpu: "HostCpu") -> Work | None:
        self._waiting += 1
        return Work(0, self.host.wakeup_cycles(), self.wake_up) if self._deliver() else None

    def _arm_timer(self, cpu: "HostCpu") -> None:
        """The guest is idle: its timer runs, or it waits for a thread, if it did not yet."""
        if self._armed:
            return
        waits = self._requests.waits
        if waits is not None and waits.waits.next():
            self._armed = True
            waits.queue.join(self)
            if waits.at_most is not None:
                self._wait += 1
                cpu.host.after(waits.at_most, self._times_out(self._wait))
        elif self._requests.sleeps is not None:
            self._armed = True
            cpu.host.after(self._requests.sleeps.next(), self._timer)

    def _times_out(self, wait: int) -> Callable[[], None]:
        def expires() -> None:
            assert self._requests.waits is not None
            if self._wait == wait and self._requests.waits.queue.leave(self):
                self._timer()

        return expires

    def ends_wait(self, cpu: "HostCpu") -> bool:
        """A thread on ``cpu`` sends what the guest waits for; True if the vCPU has to be woken up."""
        self._armed = False
        self._waiting += 1
        return self._deliver()

    def _timer(self) -> None:
        """The guest's timer has expired: an exit (VMX), at once or with the next entry; if it is halted, or on SVM, the
        host's hrtimer.

        vmx_update_hv_timer(); vcpu_block(), which switches to the hrtimer before it polls; v6.18.2 and v7.3.4.
        """
        self._armed = False
        if self._hv_timer is None or self.blocked or self.place == POLLS:
            self._interrupts_host()
            return
        if self.account == GUEST_POLL:
            self._note_wakeup()
        self._timer_due = self.cpu
        if self.account == POLLING:
            self._timer_is_pending()
        elif self._timer_ends_span:
            self._kick_poll()
