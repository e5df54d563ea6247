"""What reading a trace found, beside its events."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from sim.trace.reading import others


@dataclass(slots=True)
class Report:
    """What a trace held, beside its events.

    ``lost_events`` are those of ``lost_times`` of which the tool said how many; ``steps_back`` of the clock are within
    one CPU, ``out_of_order`` between CPUs; ``foreign`` lines are no events and no comments, the first of
    them is kept, and so is how the text ``begins``.
    ``unread`` are those among them that name an event whose fields are not as the kernel prints them, by event;
    ``headless`` those that name one and lack the task, the CPU or the time.
    """

    lines: int = 0
    events: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    foreign: int = 0
    first_foreign: str = ""
    begins: str = ""
    unread: Counter[str] = field(default_factory=Counter)
    first_unread: dict[str, str] = field(default_factory=dict)
    headless: int = 0
    truncated: bool = False
    lost_times: int = 0
    lost_events: int = 0
    recordings: int = 1
    steps_back: int = 0
    out_of_order: int = 0
    cpus: set[int] = field(default_factory=set)
    named_cpus: set[int] = field(default_factory=set)
    first_ns: int | None = None
    last_ns: int = 0

    @property
    def is_another_kind(self) -> str:
        """What it is if it is no trace, as "this is ..."; empty if it has events, or if that is not known."""
        if self.unread and not any(self.first_unread.values()):
            return others.WITHOUT_FIELDS
        if self.events:
            return ""
        return others.told(self.begins) or ("" if self.headless else others.of_another_command(self.begins))

    def amiss(self) -> Iterator[str]:
        """What was amiss with the text, a sentence each."""
        if self.lost_times:
            yield f"events were lost {times(self.lost_times)} ({self.lost_events} as far as the tool says)"
        if self.recordings > 1:
            yield f"{self.recordings} recordings follow one another"
        if self.foreign:
            what = "1 line is not an event" if self.foreign == 1 else f"{self.foreign} lines are not events"
            yield f"{what}; the first: {self.first_foreign!r}"
        if self.truncated:
            yield "the end is cut off"
        if self.steps_back:
            yield f"the clock of a CPU steps back {times(self.steps_back)}"
        if self.out_of_order:
            yield f"events of different CPUs are out of order {times(self.out_of_order)}"


def times(number: int) -> str:
    """How often something happened, in words."""
    return "once" if number == 1 else f"{number} times"
