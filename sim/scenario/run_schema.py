"""What a scenario file may say about a run: how long, how often, which strategies, and what is asked.

See :mod:`sim.scenario.schema`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.scenario.units import Percent, Time

Replications = Annotated[int, Field(ge=1, le=100_000, strict=True)]
Pair = Annotated[tuple[str, ...], Field(min_length=2, max_length=2)]
Switch = Annotated[bool, Field(strict=True)]
Quantity = Literal["carrying", "xss", "survivors", "schedule"]
"""What an answer may be about."""
Component = Literal["FP", "SSE", "AVX", "OPMASK", "ZMM_Hi256", "Hi16_ZMM", "XTILEDATA", "APX"]

PRECISION: Final[Mapping[str, Any]] = {"precision": "2 %", "min_replications": 10, "max_replications": 100}
"""The rule by which replications end if a scenario does not say how many there are.

At 2 % a difference has two digits.  Student's t with fewer than ten replications says little, and does not show heavy
tails.  A hundred replications halve the interval of 25; if they do not reach 2 %, what is measured is rare in the load,
and a longer run.measure is the better way.
"""


class Section(BaseModel):
    """A table of the scenario file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Run(Section):
    """How long, how often, and with which strategies."""

    measure: Time = Field(description="simulated time of the measurement, per replication")
    warmup: Time | Literal["auto"] = Field(
        "auto", description="simulated time before the measurement; auto: by the rule of docs/host.md"
    )
    replications: Replications | None = Field(
        None,
        description="exactly how many replications, each with other random numbers; absent: as many as precision needs",
    )
    precision: Percent | None = Field(
        None,
        description="replications end when the largest difference asked about (of contrasts, or from the reference) is "
        "known to +- this share of it, at 95 %",
        json_schema_extra={"default": PRECISION["precision"]},
    )
    min_replications: Replications | None = Field(
        None,
        description="with precision: the fewest replications",
        json_schema_extra={"default": PRECISION["min_replications"]},
    )
    max_replications: Replications | None = Field(
        None,
        description="with precision: the most replications, whatever precision they reach",
        json_schema_extra={"default": PRECISION["max_replications"]},
    )
    seed: Annotated[int, Field(ge=0, lt=1 << 63, strict=True)] = Field(
        1, description="of all random streams; the same seed gives the same results"
    )
    strategies: tuple[str, ...] | Literal["all"] = Field(
        "all",
        description="names or files of strategies (fpswitch strategies); all: those that each case can have without "
        "kernel.hypothetical",
    )
    reference: str = Field(
        "free-ssp",
        description="the strategy that the others are compared with, and which is always run; in a case "
        "whose CPU or kernel cannot have it, no-cet takes its place",
    )
    timed_by: str | None = Field(
        None,
        description="the strategy whose costs take time in the simulated schedule, which all strategies then follow; "
        "absent: free-ssp, or no-cet in a case that cannot have it",
    )
    contrasts: tuple[Pair, ...] = Field(
        (),
        description='pairs whose difference is asked about, such as ["manual-load", "xstate-guest"], in each case that '
        'can have both; or of two cases, as "STRATEGY@CASE"; they are run even if run.strategies does not name them',
    )
    asks: Annotated[tuple[Quantity, ...], Field(min_length=1)] = Field(
        ("carrying",),
        description="what the answer is about, in its order: carrying: by how much the pairs of contrasts differ "
        "without the writes of IA32_XSS; xss: by how much they differ in these writes; survivors: which strategies "
        "give every task and guest its own values in each case, and at what cost; schedule: what the schedule of each "
        "case shows (CPU time, polling, steal, latency, throughput), whatever strategies cost",
    )
    beside: tuple[Component, ...] = Field(
        (), description="state components whose own saving and loading the answer is compared with"
    )
    cases: tuple[str, ...] | None = Field(
        None, description="names of the cases to simulate (fpswitch show lists them); absent: all"
    )
    feedback: Switch = Field(
        False,
        description="whether each strategy also runs on a schedule of its own, which shows what the host does "
        "differently because operations take more or less time (throughput, latency)",
    )
    latency_from: Literal["wakeup", "event"] = Field(
        "wakeup",
        description="where a wake-up latency starts: wakeup: at the end of try_to_wake_up(), as in perf sched; "
        "event: at the timer or interrupt that wakes, so that it includes the CPU's exit from idle",
    )
    batch: Switch = Field(True, description="false: one event per VM exit; slower, with the same ledger")
    engine: Literal["simpy", "compiled", "auto"] = Field(
        "simpy",
        description="what simulates, with the same results. simpy: the reference. compiled: a loop in machine code "
        "(docs/engine.md; needs the extra fast). auto: compiled where it can, else simpy",
    )
    integrity: Switch = Field(True, description="whether the contents of registers are checked where they are used")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Fills in the rule of precision, unless the number of replications is given."""
        return {**PRECISION, **data} if isinstance(data, dict) and "replications" not in data else data

    @property
    def replication_bounds(self) -> tuple[int, int]:
        """The fewest and the most replications; if the number is exact, that number twice."""
        exact = self.replications
        fewest, most = (exact, exact) if exact is not None else (self.min_replications, self.max_replications)
        assert fewest is not None
        assert most is not None
        return fewest, most
