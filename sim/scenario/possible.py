"""Which strategies a case has: those that its CPU, its kernel and its settings allow, of those that are asked for."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Final, NamedTuple

from sim.errors import InputError
from sim.kernel import strategies
from sim.kernel.carried import CarriedState, carried_state
from sim.kernel.config import Settings, boot
from sim.kernel.strategies import ORDER, Strategy, strategy
from sim.kernel.versions import version
from sim.scenario.contrasts import Operand, in_case, named_for, operand
from sim.scenario.explain import ScenarioError
from sim.scenario.own import OwnStrategies
from sim.scenario.run_schema import Run
from sim.scenario.schema import Scenario
from sim.xsave import profiles
from sim.xsave.profiles import CpuProfile

REFERENCE: Final[str] = Run.model_fields["reference"].default
"""The reference of a scenario that does not name one; it is replaced silently where it is not possible."""
TIMED_BY: Final = "free-ssp"
"""The strategy that times the schedule of a scenario that does not name one."""
FALLBACK: Final = "no-cet"
"""What takes their place in a case that cannot have them."""

SETTLED: Final = ("guest_xss", "guest_xcr0", "guest_amx", "msr_access")
"""Settings that say what a scenario is about: a strategy that cannot have them is an error even with "all"."""


class Chosen(NamedTuple):
    """What a case runs: its strategies in the order of :data:`~sim.kernel.strategies.ORDER`, and what is asked."""

    strategies: tuple[str, ...]
    reference: str
    timed_by: str
    contrasts: tuple[tuple[str, str], ...]


def settings(
    scenario: Scenario,
    cpu: str | CpuProfile,
    kernel: str,
    how: str | Strategy,
    carried: str | CarriedState | None = None,
) -> Settings:
    """What the kernel of a strategy is booted with; ``carried`` takes the place of what the scenario names.

    A guest without CET, by its strategy or its kernel, has no use for a guest IA32_XSS either.
    """
    chosen = scenario.kernel.model_dump() | ({} if carried is None else {"carried": carried})
    if not strategy(how).guest_has_cet or not version(kernel).gives_cet:
        chosen["guest_xss"] = None
    return Settings(cpu=cpu, kernel=kernel, strategy=how, **chosen)


def choose(scenario: Scenario, cpu: str, kernel: str, case: str, own: OwnStrategies) -> Chosen:
    """What the case of that name runs: what run.strategies asks for, the reference, and what contrasts name.

    Strategies are called by the names that are shown.

    Raises :class:`ScenarioError` for a strategy that is named for this case, or for each, and is not possible.
    """
    run = scenario.run

    def why_not(name: str) -> ScenarioError | None:
        return refused(settings(scenario, cpu, kernel, own.value(name)))

    named = () if run.strategies == "all" else tuple(map(own.name, run.strategies))
    contrasts = [[_shown(text, own) for text in pair] for pair in run.contrasts]
    for name in named:
        if why := why_not(name):
            raise why
    chosen = list(named) or _possible(scenario, cpu, kernel)
    beside = {"run.reference": own.name(run.reference), "run.timed_by": own.name(run.timed_by or TIMED_BY)}
    refusals = {path: why for path, name in beside.items() if name not in chosen and (why := why_not(name))}
    if refusals and why_not(FALLBACK):
        raise _impossible(scenario, refusals)
    reference, timed_by = (FALLBACK if path in refusals else name for path, name in beside.items())
    there = list(named_for(contrasts, case))
    for name in there:
        if why := why_not(name):
            raise ScenarioError("run.contrasts", why.text)
    pairs = tuple(pair for pair in in_case(contrasts, case) if not any(map(why_not, pair)))
    every = {*chosen, reference, *there, *(name for pair in pairs for name in pair)}
    return Chosen(tuple(sorted(every, key=_rank)), reference, timed_by, pairs)


def _impossible(scenario: Scenario, refusals: Mapping[str, ScenarioError]) -> ScenarioError:
    """One message about strategies beside those that are asked for, by the keys that name them or leave them open."""
    is_default = all(path.removeprefix("run.") not in scenario.run.model_fields_set for path in refusals)
    why = next(iter(refusals.values())).text
    return ScenarioError(" and ".join(refusals), f"the default is not possible: {why}" if is_default else why)


def _shown(text: str, own: OwnStrategies) -> Operand:
    each = operand(text)
    return each._replace(strategy=own.name(each.strategy))


def _rank(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def _possible(scenario: Scenario, cpu: str, kernel: str) -> list[str]:
    """The shipped strategies that this case can have."""
    possible, why = [], Counter[str]()
    vendor = profiles.profile(cpu).vendor
    for name in strategies.names(carried_state(scenario.kernel.carried).name):
        if strategy(name).needs == "vmx" and vendor != "intel":
            continue  # hypothetical here, so only if it is named
        refusal = refused(settings(scenario, cpu, kernel, name))
        if refusal is None:
            possible.append(name)
        elif refusal.path in [f"kernel.{key}" for key in SETTLED]:
            raise refusal
        else:
            why[refusal.text.replace(f"strategy {name}", "each strategy")] += 1
    if not possible:
        least = refused(settings(scenario, cpu, kernel, FALLBACK))
        if least and "strategy" not in least.text:  # a setting that not even a guest without CET can have
            raise least
        raise ScenarioError("run.strategies", f"none is possible: {why.most_common(1)[0][0]}")
    return possible


def refused(booted: Settings) -> ScenarioError | None:
    """Why a strategy is not possible, or None; the path is that of a setting without which it would be."""
    try:
        boot(booted)
    except InputError as error:
        text = str(error).replace("(--hypothetical overrides)", "(kernel.hypothetical = true overrides)")
        for field in fields(Settings):
            if getattr(booted, field.name) != field.default and field.name not in ("cpu", "kernel", "strategy"):
                try:
                    boot(replace(booted, **{field.name: field.default}))  # type: ignore[arg-type]
                except InputError:
                    continue
                return ScenarioError(f"kernel.{field.name}", text)
        return ScenarioError("run.strategies", text)
    return None
