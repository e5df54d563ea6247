"""How often tasks of rt-app run that wait for others: by the periods of those that wake them.

A task without a sleep of its own runs, on average, as often as others resume it or signal what it waits for.  What else
a wake-up does (the two tasks run one after the other) is left out.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

WAKING: Final = ("resume", "signal", "broad", "sig_and_wait", "sem_post")
WAITING: Final = ("suspend", "wait", "sync", "sig_and_wait", "sem_wait")


LONGEST_CHAIN: Final = 100
"""The most tasks in a chain in which each is woken by the one before it."""


@dataclass(slots=True)
class Waits:
    """What a task wakes and waits for in one round of its phases, how often, and how long the round takes."""

    name: str
    instances: int
    wakes: "Counter[str]" = field(default_factory=Counter)
    waits: "Counter[str]" = field(default_factory=Counter)
    run_us: float = 0.0
    round_us: float = 0.0

    def event(self, event: str, value: Any) -> None:
        """One of :data:`WAKING` or :data:`WAITING`; ``suspend`` without a name waits for its task's to be resumed."""
        of = value.get("ref", "") if isinstance(value, Mapping) else value
        if event in WAKING and isinstance(of, str):
            self.wakes[of] += 1
        if event in WAITING:
            self.waits[of if isinstance(of, str) and of else self.name] += 1


def periods_us(tasks: Iterable[Waits]) -> dict[str, float]:
    """The mean time of a round, for each task that only waits for others, if those that wake it are known."""
    every = list(tasks)
    per_us = {task.name: task.instances / task.round_us for task in every if task.round_us > task.run_us}
    found: dict[str, float] = {}
    for _ in range(LONGEST_CHAIN):
        woken: defaultdict[str, float] = defaultdict(float)
        for task in every:
            for of, number in task.wakes.items():
                woken[of] += per_us.get(task.name, 0.0) * number
        before = len(found)
        for task in every:
            if task.name in per_us:
                continue
            rates = (woken[of] / number for of, number in task.waits.items() if of in woken)
            if slowest := min(filter(None, rates), default=0.0):
                per_us[task.name] = slowest
                found[task.name] = task.instances / slowest
        if len(found) == before:
            break
    return found
