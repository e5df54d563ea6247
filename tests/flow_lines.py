"""The instructions of a flow, a line each."""

from sim.kernel import flows
from sim.kernel.config import Settings
from sim.kernel.operations import Operation
from sim.kernel.scene import GuestUse

SPR = Settings(cpu="sapphire-rapids", kernel="v6.19", mitigations=False)

QUIET = GuestUse()


def written(op: Operation) -> str:
    return f"{op.operation} {op.rfbm:x} {op.components:x}" if op.rfbm else op.operation


def sequence(flow: str, settings: Settings, use: GuestUse = QUIET) -> list[str]:
    return [written(op) for op in flows.run(flow, settings, use).operations]
