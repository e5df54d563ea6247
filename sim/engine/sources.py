"""Where contents come from that tasks and a CPU have after a flow point, by number, as the loop copies them."""

from __future__ import annotations

from sim.engine.fragments import TOKENS, Unsupported
from sim.engine.layout import FROM_CPU, FROM_NEXT, NEW_TOKEN


class Sources:
    """Where the tokens come from that are there after a flow point: from whoever had them before, or they are new."""

    def __init__(self, of_sides: list[dict[int, int]], of_cpu: dict[int, int]) -> None:
        self._had = [*of_sides, *[{}] * (FROM_CPU // FROM_NEXT - len(of_sides))]
        self._had.append({token: number for number, token in of_cpu.items()})
        self._had = [dict(each) for each in self._had]
        self._new: dict[int, int] = {}

    def of(self, tokens: dict[int, int], whose: int) -> tuple[int, ...] | None:
        """The source of each token of ``tokens`` in order; None if they are what ``whose`` were before, by number."""
        if tokens == self._had[whose]:
            return None
        return tuple([self._source(token) for token in tokens])

    def _source(self, token: int) -> int:
        for i, had in enumerate(self._had):
            if token in had:
                return i * FROM_NEXT + had[token]
        new = self._new.setdefault(token, len(self._new))
        if new == TOKENS:
            raise Unsupported(f"more than {TOKENS} contents written at once")
        return NEW_TOKEN + new
