"""What checking a trace finds: how many events are explained, which are inferred, and what contradicts the model."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

AT_LIFE: Final = "kernel_fpu_begin in fork or exit"
ELSEWHERE: Final = "kernel_fpu_begin elsewhere"
"""What is assumed where a save is missing: in fork and exit the random pool uses the FPU; elsewhere the reason is not
known."""

NO_USER_MODE: Final = "switched out before user mode"
"""A user thread was neither restored nor saved between two switches, so it stayed in the kernel."""

UNSEEN_SWITCH: Final = "switch outside the recording"
"""A CPU continues with another task than the one it was switched to; this has no event of its own."""

SILENT_SAVE: Final = "save without an event"
"""What memory holds was written without an event (a swap, kernel_fpu_begin(), the VMM), so nothing can be compared."""

SHOWN: Final = 1000
"""Contradictions that a verdict keeps; all are counted."""


class Contradiction(NamedTuple):
    """``line`` is that of the event that proves it; ``rule`` a key of :data:`sim.trace.following.rules.RULES`."""

    line: int
    event: str
    rule: str
    likely: str


@dataclass(slots=True)
class Verdict:
    """Counts over the x86_fpu events of a trace.

    ``explained`` and ``inferred`` by kind.  ``contradicted`` are the x86_fpu events that are neither; a contradiction
    that another event proves (a save that is missing at a sched_switch, say) counts against the next x86_fpu event of
    that CPU.  ``assumed`` are flow points without an event of their own that the trace cannot do without.
    """

    events: int = 0
    explained: Counter[str] = field(default_factory=Counter)
    inferred: Counter[str] = field(default_factory=Counter)
    assumed: Counter[str] = field(default_factory=Counter)
    contradictions: list[Contradiction] = field(default_factory=list)
    found: int = 0
    """How many contradictions there are, also those that are not kept."""
    unswapped: int = 0
    """How many swaps show in the fpstates of x86_fpu events without a kvm_fpu that follows."""

    @property
    def agreement(self) -> float:
        """(explained + inferred) / events; 1 if there are no events."""
        if not self.events:
            return 1.0
        return (self.explained.total() + self.inferred.total()) / self.events

    def contradict(self, line: int, event: str, rule: str, likely: str) -> None:
        """Notes a contradiction."""
        self.found += 1
        if len(self.contradictions) < SHOWN:
            self.contradictions.append(Contradiction(line, event, rule, likely))

    def document(self) -> dict[str, Any]:
        """The JSON document of ``fpswitch replay --check``."""
        kinds = [("explained", self.explained), ("inferred", self.inferred), ("assumed", self.assumed)]
        return {
            "events": self.events,
            "explained": self.explained.total(),
            "inferred": self.inferred.total(),
            "agreement": self.agreement,
            "by_kind": {name: dict(sorted((+counts).items())) for name, counts in kinds},
            "unexplained": [contradiction._asdict() for contradiction in self.contradictions],
        }
