"""What a scenario file may say of a run: how long, how often, which strategies, and what is asked.

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
"""The rule by which replications end where a scenario does not say how many there are.

At 2 % a difference has two digits.  Student's t with fewer than ten says little, and heavy tails show in none.  A
hundred halve the interval of 25 twice; where they do not reach 2 %, the load is rare in what is measured, and a longer
run.measure is the better way.
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
        description="how often each strategy meets the same host with other random numbers, exactly; absent: as often "
        "as precision needs",
    )
    precision: Percent | None = Field(
        None,
        description="replications end when the largest difference asked about (of contrasts, or from the reference) is "
        "known to +- this share of it, at 95 %",
        json_schema_extra={"default": PRECISION["precision"]},
    )
    min_replications: Replications | None = Field(
        None, description="with precision: the fewest", json_schema_extra={"default": PRECISION["min_replications"]}
    )
    max_replications: Replications | None = Field(
        None,
        description="with precision: the most, whatever was reached by then",
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
        description="the strategy from which the others' differences are taken, and which is always run; in a case "
        "whose CPU or kernel cannot have it, no-cet takes its place",
    )
    timed_by: str | None = Field(
        None,
        description="the strategy whose costs time the schedule that all strategies are walked over; absent: free-ssp, "
        "or no-cet in a case that cannot have it",
    )
    contrasts: tuple[Pair, ...] = Field(
        (),
        description='pairs whose difference is asked about, such as ["manual-load", "xstate-guest"], in each case that '
        'can have both; or of two cases, as "STRATEGY@CASE"; they are run if run.strategies lacks them',
    )
    asks: Annotated[tuple[Quantity, ...], Field(min_length=1)] = Field(
        ("carrying",),
        description="what the answer is about, in its order: carrying: by how much the pairs of contrasts differ "
        "without the writes of IA32_XSS; xss: by how much they differ in these writes; survivors: which strategies "
        "keep everybody's values in each case, and at what cost; schedule: what the schedule comes to in each case "
        "(CPU time, polling, steal, latency, throughput), whatever strategies cost",
    )
    beside: tuple[Component, ...] = Field(
        (), description="state components whose own saving and loading the answer is held against"
    )
    cases: tuple[str, ...] | None = Field(
        None, description="names of the cases to simulate (fpswitch show lists them); absent: all"
    )
    feedback: Switch = Field(
        False,
        description="whether each strategy also runs on a schedule of its own, which shows what the host does "
        "otherwise because operations take another time (throughput, latency)",
    )
    latency_from: Literal["wakeup", "event"] = Field(
        "wakeup",
        description="since when a wake-up latency counts: wakeup: the end of try_to_wake_up(), as perf sched has it; "
        "event: the timer or interrupt that wakes, so that the CPU's way out of idle is in it",
    )
    batch: Switch = Field(True, description="false: one event per VM exit; slower, with the identical ledger")
    engine: Literal["simpy", "compiled", "auto"] = Field(
        "simpy",
        description="what simulates, with the same results. simpy: the reference. compiled: a loop in machine code "
        "(docs/engine.md; needs the extra fast). auto: compiled where it can, else simpy",
    )
    integrity: Switch = Field(True, description="whether contents of registers are checked where they are consumed")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """The rule of precision is complete where it applies, and is not there where replications are exact."""
        return {**PRECISION, **data} if isinstance(data, dict) and "replications" not in data else data

    @property
    def replication_bounds(self) -> tuple[int, int]:
        """The fewest and the most replications; where they are exact, that number twice."""
        exact = self.replications
        fewest, most = (exact, exact) if exact is not None else (self.min_replications, self.max_replications)
        assert fewest is not None
        assert most is not None
        return fewest, most
