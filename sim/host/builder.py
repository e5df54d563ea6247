"""Random draws, wait queues and control groups of a case, each by the name of what has it."""

from collections.abc import Callable, Mapping

import numpy as np

from sim.host.eevdf_groups import TaskGroup
from sim.host.exits import Flags
from sim.host.streams import Cycles, Draws, Instants, Sample, Streams, in_blocks, in_turn, sampler
from sim.host.waiting import PLACE_BITS, WaitQueue, Waits, Wakes
from sim.scenario.cases import Case
from sim.scenario.checks import MASKS
from sim.scenario.distribution import Distribution
from sim.scenario.run_schema import Component
from sim.scenario.schema import Thread as ThreadEntry
from sim.scenario.schema import Waits as WaitsEntry


class Builder:
    """What the parts of a population need again and again; random streams get their names here.

    ``loads``: the CPUs on which 0, 1, ... threads have been placed, as masks.
    """

    def __init__(self, case: Case, replication: int) -> None:
        self.case = case
        self.streams = Streams(case.scenario.run.seed, replication)
        self.loads = [(1 << case.scenario.host.cpus) - 1]
        self._queues: dict[str, WaitQueue] = {}
        self.groups = {name: TaskGroup(group.weight) for name, group in case.scenario.groups.items()}

    def sampler(self, times: Distribution, *name: object, least: int = 0) -> Sample:
        """Draws many of ``times`` at once, from the stream ``name``."""
        return sampler(times, self.case.tsc_hz, lambda: self.streams.generator(*name), least)

    def draws(self, times: Distribution, *name: object) -> Draws:
        """Draws ``times`` one by one."""
        constant = self.case.cycles(times.mean) if times.kind == "constant" else None
        return Draws(self.sampler(times, *name), constant)

    def recorded(self, entry: ThreadEntry, group: str, number: int) -> tuple[Draws, Draws]:
        """Bursts and sleeps of thread ``number`` of an entry in recorded order, in ``blocks``.

        If those have all rows, each thread begins at some time within the recording, in the middle of a burst or a
        sleep, so far from the others that in the time that all rows take, divided by their number, they come to each
        row once.
        """
        compute, sleep, blocks = entry.compute, entry.sleep, entry.blocks
        assert sleep is not None, "scenarios are checked"
        assert blocks is not None, "blocks is asked for"
        own = ("threads", group)
        if blocks >= len(compute.values):
            forks = entry.kind == "fork"  # a child's burst does not take its parent's time
            bursts, sleeps = np.asarray(compute.values), np.asarray(sleep.values)
            ends = np.cumsum(sleeps if forks else bursts + sleeps)
            place = (self.streams.generator(*own, "blocks").random() + number / entry.count) % 1.0 * ends[-1]
            row = min(int(np.searchsorted(ends, place, "right")), len(ends) - 1)
            left = min(ends[row] - place, sleeps[row])
            burst = [ends[row] - place - left]
            before = [0.0, 0.0] if forks else burst  # the parent takes one itself, and one is that of the child before
            tsc_hz = self.case.tsc_hz
            return Draws(in_turn(compute, tsc_hz, row + 1, before)), Draws(in_turn(sleep, tsc_hz, row + 1, [left]))

        def draws(times: Distribution) -> Draws:
            return Draws(in_blocks(times, self.case.tsc_hz, self.streams.generator(*own, number, "blocks"), blocks))

        return draws(compute), draws(sleep)

    def optional(self, times: Distribution | None, *name: object) -> Draws | None:
        """The same, for times that a scenario may leave out."""
        return None if times is None else self.draws(times, *name)

    def instants(self, gaps: Distribution | None, *name: object) -> Instants | None:
        """Instants with ``gaps`` between them."""
        return None if gaps is None else Instants(self.sampler(gaps, *name, least=1))

    def flags(self, share: float, *name: object) -> Callable[[int], Flags]:
        """Draws many times whether something of this probability is so."""
        if share in (0.0, 1.0):
            return lambda n: np.full(n, bool(share))
        rng = self.streams.generator(*name)
        return lambda n: rng.random(n) < share

    def chances(self, share: float, *name: object) -> Draws:
        """The same one by one."""
        return Draws(self.flags(share, *name), int(share) if share in (0.0, 1.0) else None)

    def queue(self, entry: str) -> WaitQueue:
        """The wait queue of the threads or vCPUs of an entry."""
        if entry not in self._queues:
            scenario = self.case.scenario
            waits = (scenario.threads[entry] if entry in scenario.threads else scenario.guests[entry]).waits
            is_any = waits is not None and waits.order == "any"
            self._queues[entry] = WaitQueue(Draws(self.places(entry, "woken")) if is_any else None)
        return self._queues[entry]

    def below(self, most: int, *name: object) -> Draws:
        """Draws whole numbers below ``most``, each as likely, one by one."""
        if most == 1:
            return Draws(lambda n: np.zeros(n, np.int64), 0)
        rng = self.streams.generator(*name)
        return Draws(lambda n: rng.integers(0, most, n))

    def places(self, *name: object) -> Callable[[int], Cycles]:
        """Draws many numbers below 2**PLACE_BITS, each as likely."""
        rng = self.streams.generator(*name)
        return lambda n: rng.integers(0, 1 << PLACE_BITS, n)

    def waits(self, waits: WaitsEntry | None, entry: str, *name: object) -> Waits | None:
        """How those of ``entry`` wait, if they do."""
        if waits is None:
            return None
        at_most = None if waits.at_most is None else self.case.cycles(waits.at_most)
        return Waits(self.queue(entry), self.chances(waits.share, *name, "waits"), at_most)

    def wakes(self, wakes: Mapping[str, float], *name: object) -> list[Wakes]:
        """Whom a thread wakes."""
        return [
            Wakes(self.queue(entry), int(number), self.chances(number % 1, *name, "wakes", entry))
            for entry, number in wakes.items()
        ]

    def mask(self, names: tuple[Component, ...]) -> int:
        """The components of these names."""
        return sum(MASKS[name] for name in names)
