"""Halt polling: how long a vCPU thread spins after HLT before it blocks, or a guest before it runs HLT.

Source: virt/kvm/kvm_main.c kvm_vcpu_halt(), kvm_vcpu_max_halt_poll_ns(), grow_halt_poll_ns(), shrink_halt_poll_ns() and
their module parameters, Linux v6.18 and v7.3 (7.3.4); ``halt_poll_ns_shrink`` differs between kernels
(:attr:`sim.kernel.versions.KernelVersion`).  The guest's: drivers/cpuidle/governors/haltpoll.c, Linux v7.1 (7.1.5, read
in a fork).
"""

from typing import Final

GUEST_GROW: Final = 2
"""guest_halt_poll_grow."""
GUEST_SHRINK: Final = 2
"""guest_halt_poll_shrink; guest_halt_poll_allow_shrink is on."""


class HaltPolling:
    """The poll window of one vCPU, in TSC cycles.

    ``most`` is halt_poll_ns, or what KVM_CAP_HALT_POLL has set for the VM; ``grow_start``, ``grow`` and ``shrink`` are
    halt_poll_ns_grow_start, halt_poll_ns_grow and halt_poll_ns_shrink.
    """

    __slots__ = ("_grow", "_grow_start", "_most", "_shrink", "window")

    def __init__(self, most: int, grow_start: int, grow: int, shrink: int) -> None:
        self.window = 0
        self._most = most
        self._grow = grow
        self._grow_start = grow_start
        self._shrink = shrink

    def begin(self) -> int:
        """A halt begins: for how long it may poll."""
        self.window = min(self.window, self._most)
        return self.window

    def end(self, halted: int) -> None:
        """The vCPU woke ``halted`` cycles after its halt began."""
        if not self._most:
            self.window = 0
        elif halted <= self.window:
            pass
        elif self.window and halted > self._most:
            self.window = self.window // self._shrink if self._shrink else 0
            if self.window < self._grow_start:
                self.window = 0
        elif self.window < self._most and halted < self._most and self._grow:
            self.window = max(self.window * self._grow, self._grow_start)


class GuestPolling:
    """poll_limit_ns of one guest CPU with the haltpoll governor, in TSC cycles.

    ``most`` is guest_halt_poll_ns, ``grow_start`` guest_halt_poll_grow_start.
    """

    __slots__ = ("_grow_start", "_most", "window")

    def __init__(self, most: int, grow_start: int) -> None:
        self.window = 0
        self._most = most
        self._grow_start = grow_start

    def has_halted(self, cycles: int) -> None:
        """adjust_poll_limit(): a halt, which polling did not prevent, has lasted so long."""
        if self.window < cycles <= self._most:
            self.window = min(max(self.window * GUEST_GROW, self._grow_start), self._most)
        elif cycles > self._most:
            shrunk = self.window // GUEST_SHRINK
            self.window = shrunk if shrunk >= self._grow_start else 0
