"""Halt polling: how long a vCPU thread spins after HLT before it blocks.

Source: virt/kvm/kvm_main.c kvm_vcpu_halt(), grow_halt_poll_ns(), shrink_halt_poll_ns() and their module parameters,
Linux v6.18; ``halt_poll_ns_shrink`` differs between kernels (:attr:`sim.kernel.versions.KernelVersion`).
"""

from typing import Final

GROW: Final = 2
"""halt_poll_ns_grow."""
GROW_START_S: Final = 10e-6
"""halt_poll_ns_grow_start, in seconds."""


class HaltPolling:
    """The poll window of one vCPU, in TSC cycles; ``most`` is halt_poll_ns, ``shrink`` halt_poll_ns_shrink."""

    __slots__ = ("_grow_start", "_most", "_shrink", "window")

    def __init__(self, most: int, grow_start: int, shrink: int) -> None:
        self.window = 0
        self._most = most
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
        elif self.window < self._most and halted < self._most:
            self.window = max(self.window * GROW, self._grow_start)
