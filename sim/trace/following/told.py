"""What the trace of a simulated run says in comment lines: settings, threads, and the flow points that leave no event.

``fpswitch export`` writes them.  A replica that knows all register writes fills in none, so that each strategy meets
exactly what the simulated one met.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from sim.errors import InputError
from sim.kernel.config import Config, Settings
from sim.kernel.guests import AS_ALL, GuestChoice
from sim.kernel.operations import Key
from sim.kernel.state import TASK_KINDS, USER_TASK, VCPU_TASK, Task
from sim.kernel.strategies import strategy
from sim.kernel.versions import version
from sim.kernel.walker import Walker
from sim.trace.following.replica import Replica

_SETTINGS: Final = re.compile(r"# fpswitch settings (\{.*\})\s*$")
_THREAD: Final = re.compile(r"# fpswitch thread (\d+) (\w+) (\{.*\})\s*$")


@dataclass(frozen=True, slots=True)
class Told:
    """The settings of the kernel that timed the run, and by pid the kind of each thread and what its guest alone has.

    ``settings.guest_xss`` is what guests with CET have, also if the strategy that timed the run gives them none.
    """

    settings: Settings
    threads: dict[int, tuple[str, GuestChoice]] = field(default_factory=dict)

    def chosen(self, **changed: Any) -> Settings:
        """The settings with these fields changed, as a scenario has them."""
        settings = replace(self.settings, **changed)
        if not strategy(settings.strategy).guest_has_cet or not version(settings.kernel).gives_cet:
            return replace(settings, guest_xss=None)
        return settings

    def comments(self) -> Iterable[str]:
        """The comment lines that say it."""
        yield f"# fpswitch settings {_adapter().dump_json(self.settings, exclude_none=True).decode()}"
        for tid, (kind, choice) in self.threads.items():
            given = {key: value for key, value in asdict(choice).items() if value != getattr(AS_ALL, key)}
            yield f"# fpswitch thread {tid} {kind} {json.dumps(given)}"


def _adapter() -> TypeAdapter[Settings]:
    return TypeAdapter(Settings)


def told(comments: Iterable[str], name: str) -> Told | None:
    """What the comments of the trace ``name`` say; None if it is not of a simulated run."""
    settings, threads = None, {}
    for line in comments:
        if match := _SETTINGS.match(line):
            try:
                settings = _adapter().validate_json(match[1])
            except ValidationError as error:
                raise InputError(
                    f"{name}: the line '# fpswitch settings' cannot be read ({error.error_count()} problems); allowed: "
                    "what fpswitch export of this version writes"
                ) from error
        elif match := _THREAD.match(line):
            try:
                choice = GuestChoice(**json.loads(match[3]))
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"{name}: found {line[:100]!r}; allowed: what fpswitch export of this version writes"
                ) from error
            if match[2] not in TASK_KINDS:
                raise InputError(f"{name}: found {line[:100]!r}; allowed kinds: {', '.join(TASK_KINDS)}")
            threads[int(match[1])] = match[2], choice
    return None if settings is None else Told(settings, threads)


class ToldReplica(Replica):
    """A replica on the schedule of a simulated run; it counts from the begin to the end of the measurement."""

    def __init__(self, config: Config, told: Told, **options: Any) -> None:
        super().__init__(config, ssp="none", **options)
        self.entries_recorded = True
        self._told = told

    def thread(self, number: int, name: str, tid: int) -> Task:
        """A thread of the kind that the trace says; a forked one is a user thread."""
        kind, choice = self._told.threads.get(tid, (USER_TASK, AS_ALL))
        if kind == VCPU_TASK:
            self.vcpus += 1
            return self.new_vcpu(number, name, choice).task
        return self.new_task(number, name, kind)

    def holds(self, cpu: int, xstate_bv: int) -> None:
        """Nothing: the trace says what was written."""

    def memory_holds(self, number: int, guest_fpstate: bool, xstate_bv: int) -> None:
        """Nothing: what was saved is known."""

    def enlarged(self, number: int, guest_fpstate: bool, mask: int) -> None:
        """Nothing: the trace says where AMX is used first."""

    def returns(self, cpu: int) -> None:
        """Return to user mode; a guest's restore is part of the VM entry that follows, after what that does first."""
        if self.kernel.tracing or not self.cpu(cpu).current.fpstate.is_guest:
            super().returns(cpu)

    def passes(self, cpu: int, point: str, arguments: tuple[int, ...]) -> None:
        """A flow point, by the name of the walker's method."""
        getattr(Walker, point)(self, self.cpu(cpu), *arguments)

    def counts(self) -> Counter[Key]:
        """The operations of the measurement."""
        return self.measured
