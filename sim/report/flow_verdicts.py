"""Flows under every strategy: what the integrity check found."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sim.errors import InputError
from sim.kernel import strategies
from sim.kernel.carried import carried_state
from sim.kernel.config import Settings, boot
from sim.kernel.flows import FlowRun, run
from sim.kernel.integrity import VIOLATIONS
from sim.kernel.scene import GuestUse
from sim.kernel.versions import version
from sim.xsave.profiles import profile


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found in one flow: violations as "kind: what of who", each once, and the kernel's WARNs."""

    flow: str
    violations: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether every consumer got its own values."""
        return not self.violations


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """A strategy with its verdicts; ``refused`` says why it cannot be run here, and is empty otherwise.

    ``carries`` is False if the strategy does not carry the state, so that losing it does not count.
    """

    strategy: str
    carries: bool = True
    verdicts: tuple[Verdict, ...] = ()
    refused: str = ""


def verdicts(flows: Sequence[str], settings: Settings, use: GuestUse) -> list[VerdictRow]:
    """Runs each shipped strategy through ``flows``; raises :class:`InputError` if no strategy can run."""
    version(settings.kernel), profile(settings.cpu), carried_state(settings.carried)
    rows = []
    for name in strategies.names():
        own = replace(settings, strategy=name)
        try:
            carries = boot(own).strategy.carries
        except InputError as error:
            rows.append(VerdictRow(name, refused=str(error)))
            continue
        rows.append(VerdictRow(name, carries, tuple(_verdict(flow, run(flow, own, use)) for flow in flows)))
    if all(row.refused for row in rows):
        raise InputError(Counter(row.refused for row in rows).most_common(1)[0][0])
    return rows


def _verdict(flow: str, done: FlowRun) -> Verdict:
    found = (finding for _, finding in done.findings if finding.kind in VIOLATIONS)
    texts = dict.fromkeys(f"{each.kind}: {each.what} of {each.who}" for each in found)
    return Verdict(flow, tuple(texts), done.warnings)
