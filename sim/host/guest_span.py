"""A span in the guest: how far it comes, with how many exits and interrupts, and what the guest does meanwhile."""

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sim.host.exits import INF, ExitKind, ExitStream
from sim.host.streams import Draws, Instants
from sim.host.thread import Thread
from sim.kernel.state import Vcpu
from sim.kernel.walker import Walker

if TYPE_CHECKING:
    from sim.host.cpu import HostCpu

GUEST: Final = "guest"
"""The account of a span in the guest."""


class Passage(NamedTuple):
    """What a span in the guest came to.

    ``end`` is when the CPU is done with it, ``until`` when it was stopped; ``by_itself`` that it came to its own end.
    ``wall`` is the place on the stream's clock and ``last`` the last exit that is over; an exit that was ``ongoing``
    began at ``end``.  ``hits`` interrupts were served within the span, ``devices`` of them not ticks, in ``served``
    cycles beside operations.
    """

    end: int
    until: int
    by_itself: bool
    wall: int
    last: int
    ongoing: ExitKind | None
    hits: int
    devices: int
    served: int


class GuestUse:
    """What a guest does to the registers, in guest CPU time.

    ``writes`` and ``switches`` are instants; ``fpu_tasks`` draws whether the task that a guest's kernel switches to has
    ``components``; ``carried`` is how many of the carried MSRs get a new value then, and ``constant`` that they have
    one.
    """

    __slots__ = ("carried", "components", "constant", "fpu_tasks", "switches", "writes")

    def __init__(self, components: int, writes: Instants | None, switches: Instants | None, fpu_tasks: Draws,
                 shadow_stacks: str) -> None:  # fmt: skip
        self.components = components
        self.writes = writes
        self.switches = switches
        self.fpu_tasks = fpu_tasks
        self.constant = shadow_stacks != "none"
        self.carried = 1 if shadow_stacks == "rewritten" else 0


class GuestSpan(Thread):
    """A vCPU thread as far as it runs guest code.

    ``_wall`` is where the guest is on the clock of its stream of exits, ``_guest_time`` how long it has run;
    ``_demand_end`` is the guest time at which the request that it works on is done.  ``_interrupt`` is the exit by
    which a host interrupt takes the CPU; ``_ongoing`` an exit of the stream that had begun when the span ended.
    """

    __slots__ = ("_demand_end", "_guest_time", "_interrupt", "_ongoing", "_stream", "_use", "_wall", "vcpu")

    def __init__(
        self, *args: Any, vcpu: Vcpu, stream: ExitStream, use: GuestUse, interrupt: ExitKind, demand_end: int
    ) -> None:
        super().__init__(*args)
        self.vcpu = vcpu
        self._stream = stream
        self._use = use
        self._interrupt = interrupt
        self._demand_end = demand_end
        self._wall = 0
        self._guest_time = 0
        self._ongoing: ExitKind | None = None

    def may_last(self, begin: int, until: int) -> bool:
        return self.account == GUEST or super().may_last(begin, until)

    def plan(self, cpu: "HostCpu", begin: int, limit: int) -> tuple[int, bool]:
        if self.account != GUEST:
            return super().plan(cpu, begin, limit)
        passage = self._planned = self._follow_guest(cpu, begin, limit, soft=False)
        return passage.until, passage.by_itself

    def settle(self, cpu: "HostCpu", begin: int, until: int, soft: bool = False) -> int:
        if self.account != GUEST:
            return super().settle(cpu, begin, until)
        planned, self._planned = self._planned, None
        if planned is not None and planned.until == until and not soft:
            passage: Passage = planned
        else:
            passage = self._follow_guest(cpu, begin, until, soft)
        end, wall, last, hits, devices = passage.end, passage.wall, passage.last, passage.hits, passage.devices
        stream, interrupt = self._stream, self._interrupt
        first = stream.next - 1
        time = stream.guest_at(wall, last)
        ran = time - self._guest_time
        self._guest_time = time
        cpu.guest += ran
        cpu.touched += ran * self.flow
        if exits := last - first:
            handled = stream.handled(first, last)
            cpu.handler += handled
            cpu.touched += handled * self.kernel_flow
            cpu.count_exits += exits
            for kind, n in stream.counts(first, last):
                cpu.repeat(kind, n)
        if hits:
            cpu.repeat(interrupt, hits)
            cpu.count_exits += hits
            cpu.absorbed(hits - devices, devices, passage.served)
        stream.skip(last)
        self._wall = wall
        self._ongoing = passage.ongoing
        cpu.clock = end
        if ran:
            self._uses_registers(cpu)
        stream.refill()
        cpu.charge()  # what a lazy strategy intercepts of the guest's writes
        return cpu.clock

    def is_interrupted(self, begin: int, end: int) -> bool:
        return self.account != GUEST and super().is_interrupted(begin, end)

    def _follow_guest(self, cpu: "HostCpu", begin: int, until: int, soft: bool) -> Passage:
        """From ``begin`` to the next exit with an effect, the end of the request, or ``until``.

        An interrupt that comes alone while the guest runs is served within the span; any other ends it.  With a lazy
        request every exit and every interrupt does.  ``soft``: nothing happens at ``until``, so that an exit at the
        same time is not under way yet.
        """
        stream = self._stream
        cost = self._interrupt.cost if stream.batch and not cpu.exit_request else None
        stop = stream.next if cpu.exit_request else stream.stop()
        by_itself = stop < len(stream.wall)
        goal = stream.begins(stop) if by_itself else stream.wall[-1]
        if (demand := stream.wall_at(self._demand_end, stop)) is not None:
            goal, by_itself = demand, True
        now, wall = begin, self._wall
        tick, devices = cpu.next_tick, cpu.devices
        hits = n = served = 0
        while True:
            device = devices.time(n)
            is_tick = tick <= device
            at = tick if is_tick else device
            end = now + goal - wall
            if end <= at and end <= until:
                return Passage(end, end, by_itself, goal, stream.passed(goal, stop), None, hits, n, served)
            if at >= until or cost is None or (not is_tick and devices.components(n) is not None):
                return self._stopped(now, wall, min(at, until), stop, soft, hits, n, served)
            there = wall + at - now
            last = stream.passed(there, stop)
            cycles = cpu.tick_cycles(hits - n) if is_tick else devices.cycles(n)
            over = at + cost.cycles + cycles
            free = over - cost.entry
            after = min(tick + cpu.tick_period, device) if is_tick else min(tick, devices.time(n + 1))
            if (
                at < now  # during the entry after the one before
                or there >= stream.begins(last + 1)
                or min(until, after) <= free
            ):
                return self._stopped(now, wall, at, stop, soft, hits, n, served)
            hits += 1
            if is_tick:
                tick += cpu.tick_period
            else:
                n += 1
            served += cycles
            wall = there
            now = over

    def _stopped(
        self, now: int, wall: int, until: int, stop: int, soft: bool, hits: int, n: int, served: int
    ) -> Passage:
        """The span ends at ``until``, which is during the entry if it is before ``now``."""
        stream, end = self._stream, until
        if until > now:
            wall += until - now
        else:
            end = now
        last = stream.passed(wall, stop)
        begins = stream.begins(last + 1) if last + 1 < stop else INF
        if wall < begins or (wall == begins and (soft or until < now)):
            return Passage(end, until, False, wall, last, None, hits, n, served)
        over = stream.wall[last + 1]
        if wall > stream.open_until(last + 1):  # interrupts are off until the guest runs
            return Passage(end + over - wall, until, False, over, last + 1, None, hits, n, served)
        kind = stream.kind(last + 1)
        return Passage(end + begins - wall, until, False, begins, last, kind, hits, n, served)

    def _uses_registers(self, cpu: "HostCpu") -> None:
        """What the guest has done to its registers since it was last looked at; only the last of each kind matters."""
        use, now = self._use, self._guest_time
        switched = -1
        if use.switches is not None:
            n, switched = use.switches.upto(now)
            cpu.count_guest_switches += n
            for _ in range(n):
                has_fpu = use.fpu_tasks.next()
            if n:
                cpu.passes(Walker.guest_switches_task, use.components if has_fpu else 0, use.carried)
        if use.writes is not None:
            _, wrote = use.writes.upto(now)
            if wrote > switched:
                cpu.passes(Walker.guest_writes, use.components)
