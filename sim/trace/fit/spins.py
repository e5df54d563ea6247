"""What a trace shows of a vCPU that spins: exits by PAUSE-loop exiting, and interrupts by its directed yields."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Final

INTERRUPTS: Final = ("external_interrupt", "interrupt")
"""Exit reasons of an interrupt for the host, in small letters, on Intel and on AMD."""
PAUSES: Final = ("pause_instruction", "pause")
"""Those of PAUSE-loop exiting."""
SOON_NS: Final = 5_000
"""An interrupt for the host so soon after a PAUSE exit comes from its directed yield, and so soon after a thread was
moved from the CPU that gave it up: 1 us in the simulated host."""


def _integers() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Spins:
    """PAUSE exits of a vCPU: ``at_ns`` when, and ``spans`` the guest time in ns from the VM entry to each; ``grown``
    how many there were before it since the vCPU got its CPU.

    ``handled`` are the times in ns that KVM took for those after which the vCPU kept its CPU.  ``acts`` are its other
    exits, apart from interrupts for the host, and ``by_host`` those interrupts for the host that nothing shows but a
    PAUSE exit or a migration just before.  ``entered`` is its guest time at the last VM entry.
    """

    at_ns: array[int] = field(default_factory=_integers)
    spans: array[int] = field(default_factory=_integers)
    grown: array[int] = field(default_factory=_integers)
    handled: array[int] = field(default_factory=_integers)
    acts: int = 0
    by_host: int = 0
    entered: int = 0
    since_switch: int = 0
    soon: bool = False

    def exits(self, reason: str, clock: int, now_ns: int, moved_ns: int) -> bool:
        """A VM exit at that guest time; whether it is by PAUSE.  At ``moved_ns`` any vCPU last did that, or a thread
        was moved."""
        name = reason.lower()
        self.soon = name in INTERRUPTS and now_ns - moved_ns <= SOON_NS
        if name not in PAUSES:
            self.acts += name not in INTERRUPTS
            return False
        self.at_ns.append(now_ns)
        self.spans.append(clock - self.entered)
        self.grown.append(self.since_switch)
        self.since_switch += 1
        return True

    def enters(self, reason: str, handling: int, *, for_host: bool) -> None:
        """The guest is entered after an exit for that reason."""
        if self.soon and not for_host:
            self.by_host += 1
        if self.since_switch and reason.lower() in PAUSES:
            self.handled.append(handling)
