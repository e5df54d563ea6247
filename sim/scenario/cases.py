"""Cases: a scenario with one host CPU, one kernel and one point of the sweep, in cycles of that CPU's TSC."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from sim.costs.price import lacking
from sim.costs.rows import CostTable, row_id
from sim.costs.table import current as current_costs
from sim.costs.table import names as cost_tables
from sim.errors import InputError, unknown
from sim.kernel import guests, versions
from sim.kernel.carried import CarriedState, carried_state
from sim.kernel.config import Settings, boot, default_uret_msrs
from sim.kernel.datafile import is_file
from sim.kernel.operations import VMPTRLD, VMSAVE
from sim.kernel.strategies import Strategy, strategy
from sim.kernel.versions import KernelVersion
from sim.scenario import pace
from sim.scenario.checks import MASKS, problems
from sim.scenario.contrasts import Contrast, Operand, operand
from sim.scenario.explain import ScenarioError
from sim.scenario.handlers import with_handler_times
from sim.scenario.host_schema import KernelSettings
from sim.scenario.own import OwnStrategies, named, own_strategies
from sim.scenario.possible import REFERENCE, choose, refused, settings
from sim.scenario.schema import Scenario
from sim.scenario.sweep import Value, at_point, point_text, value_text
from sim.scenario.sweep import points as sweep_points
from sim.xsave import profiles
from sim.xsave.components import CET, PASID, USER, XTILE
from sim.xsave.profiles import CpuProfile

SHOWN_ROWS = 8
"""So many rows that a cost table lacks are named."""


@dataclass(frozen=True, slots=True)
class Case:
    """One host that is simulated, complete and checked.

    ``sweep`` holds the values of the sweep's paths at this point; ``scenario`` has them already, and has one CPU
    profile, one kernel and all that the model takes from them: TSC frequency, cost table, cache sizes, base slice,
    strategies and reference.  ``tsc_hz`` are TSC cycles per second, ``table`` is the cost table.  ``strategies`` are
    the names of those that this case has, in the order of :data:`sim.kernel.strategies.ORDER`, with ``reference``
    and those of ``contrasts``, the pairs that are asked about within this case.  ``timed_by``, which need not be among
    them, is the strategy whose costs time the schedule.

    ``own`` has the strategies that are the user's by these names; ``profile`` and ``carried`` are CPU and carried
    state: nothing that a case needs is in a file any more.
    """

    name: str
    cpu: str
    kernel: str
    sweep: Mapping[str, Value]
    scenario: Scenario
    tsc_hz: float
    table: CostTable
    strategies: tuple[str, ...]
    reference: str
    timed_by: str
    contrasts: tuple[tuple[str, str], ...]
    own: Mapping[str, Strategy]
    profile: str | CpuProfile
    carried: str | CarriedState

    @property
    def costs(self) -> str:
        """The name of the cost table."""
        return self.table.name

    def cycles(self, seconds: float) -> int:
        """A time in whole TSC cycles."""
        return round(seconds * self.tsc_hz)

    def settings(self, strategy: str) -> Settings:
        """What the kernel is booted with."""
        return settings(self.scenario, self.profile, self.kernel, self.own.get(strategy, strategy), self.carried)


def cases(scenario: Scenario) -> tuple[Case, ...]:
    """All cases of a scenario: host.cpu x host.kernel x the combinations of the sweep's values, in that order.

    If run.cases names some, only these. Raises :class:`~sim.scenario.explain.ScenarioError` for values that do not go
    together in one of them.
    """
    points = [(point, at_point(scenario, point)) for point in sweep_points(scenario)]
    own = _check(points)
    found = [
        _case(each, cpu, kernel, point, own)
        for cpu, kernel in product(scenario.host.cpu, scenario.host.kernel)
        for point, each in points
    ]
    for name, count in Counter(case.name for case in found).items():
        if count > 1:
            raise ScenarioError("sweep", f"the case {name!r} is there twice; allowed: each value once")
    tables: dict[str, CostTable] = {}
    for case in found:
        if tables.setdefault(case.costs, case.table) != case.table:
            raise ScenarioError("host.costs", f"two cost tables are called {case.costs!r}; allowed: a name for each")
    run, first = scenario.run, replace(found[0], own=own.values)
    for path, asked, there in (
        ("run.reference", None if run.reference == REFERENCE else run.reference, [case.reference for case in found]),
        ("run.timed_by", run.timed_by, [case.timed_by for case in found]),
    ):
        if asked is not None and own.name(asked) not in there:
            why = refused(first.settings(own.name(asked)))
            raise ScenarioError(path, why.text if why else f"no case has {asked!r}")
    _check_contrasts(scenario, [first, *found[1:]], own)
    return tuple(_only(found, run.cases)) if run.cases is not None else tuple(found)


def contrasts(scenario: Scenario, of_scenario: Sequence[Case]) -> tuple[Contrast, ...]:
    """What run.contrasts asks about in these cases, both operands with their case, in the order of the file.

    A pair without cases is a contrast in each case that has both strategies; a pair that names a case which is not
    among these is left out.
    """
    found: list[Contrast] = []
    shown = {
        given: name
        for case in of_scenario
        for given, name in zip(case.scenario.run.strategies, case.strategies, strict=True)
    }
    for a, b in (_operands(pair, lambda given: shown.get(given, given)) for pair in scenario.run.contrasts):
        if a.case:
            names = {case.name for case in of_scenario}
            found += [Contrast(a, b)] if {a.case, b.case} <= names else []
        else:
            found += [
                Contrast(a._replace(case=case.name), b._replace(case=case.name))
                for case in of_scenario
                if (a.strategy, b.strategy) in case.contrasts
            ]
    return tuple(found)


def _operands(pair: Iterable[str], name: Callable[[str], str]) -> tuple[Operand, Operand]:
    a, b = (each._replace(strategy=name(each.strategy)) for each in map(operand, pair))
    return a, b


def _check_contrasts(scenario: Scenario, found: Sequence[Case], own: OwnStrategies) -> None:
    """Each pair is possible somewhere, and each case that a pair names is there."""
    names = [case.name for case in found]
    for number, pair in enumerate(scenario.run.contrasts):
        path = f"run.contrasts[{number}]"
        a, b = _operands(pair, own.name)
        for each in (a, b):
            if each.case and each.case not in names:
                raise ScenarioError(path, str(unknown("case", each.case, names)))
        if not a.case and not any((a.strategy, b.strategy) in case.contrasts for case in found):
            reasons = (refused(found[0].settings(each.strategy)) for each in (a, b))
            why = next((reason.text for reason in reasons if reason), f"no case has {a} and {b}")
            raise ScenarioError(path, why)


def _only(found: Sequence[Case], names: Sequence[str]) -> list[Case]:
    by_name = {case.name: case for case in found}
    for number, name in enumerate(names):
        if name not in by_name:
            raise ScenarioError(f"run.cases[{number}]", str(unknown("case", name, by_name)))
    return [case for case in found if case.name in names]


def _check(points: Sequence[tuple[Mapping[str, Value], Scenario]]) -> OwnStrategies:
    """What does not go together at a point of the sweep; the point is named if all is well at another."""
    found = [list(problems(scenario)) for _, scenario in points]
    for (point, _), wrong in zip(points, found, strict=True):
        for path, text in wrong[:1]:
            everywhere = all((path, text) in each for each in found)
            raise ScenarioError(path, text if everywhere else f"{text} (with {point_text(point)})")
    for _, scenario in points:
        _check_names(scenario)
    run = points[0][1].run
    own = own_strategies(run)
    _load((path, name, strategy) for path, name in named(run) if name not in own.values)
    return own


def _check_names(scenario: Scenario) -> None:
    """Checks that CPU profiles, kernels, strategies in files and the carried state exist, whether or not they go
    together."""
    host = scenario.host
    there: list[tuple[str, str, Callable[[str], object]]] = [
        *(("host.cpu", name, profiles.profile) for name in host.cpu),
        *(("host.kernel", name, versions.version) for name in host.kernel),
        *((path, name, strategy) for path, name in named(scenario.run) if is_file(name)),
        ("kernel.carried", scenario.kernel.carried, carried_state),
        *((f"host.costs.{cpu}", name, current_costs) for cpu, name in host.costs.items()),
    ]
    _load(there)


def _load(there: Iterable[tuple[str, str, Callable[[str], object]]]) -> None:
    for path, name, load in there:
        try:
            load(name)
        except InputError as error:
            raise ScenarioError(path, str(error)) from error


def _case(scenario: Scenario, cpu: str, kernel: str, point: Mapping[str, Value], own: OwnStrategies) -> Case:
    profile, version, host = profiles.profile(cpu), versions.version(kernel), scenario.host
    name = f"{profile.label} {kernel} {point_text(point)}".rstrip()
    tsc = host.tsc.get(cpu) if isinstance(host.tsc, dict) else host.tsc
    tsc = profile.tsc_hz if tsc is None else tsc
    try:
        table = _cost_table(scenario, cpu, profile)
        _check_features(scenario, profile)
        _check_preemption(host.preemption, version)
        for path, text in pace.problems(scenario, tsc):
            raise ScenarioError(path, text)
        chosen = choose(scenario, cpu, kernel, name, own)
        _check_guests(scenario, cpu, kernel, chosen.strategies, own)
    except ScenarioError as error:
        raise ScenarioError(error.path, f"{error.text} (case {name!r})") from error
    run = {
        "strategies": tuple(map(own.given, chosen.strategies)),
        "reference": own.given(chosen.reference),
        "timed_by": own.given(chosen.timed_by),
        "contrasts": tuple(tuple(map(own.given, pair)) for pair in chosen.contrasts),
        "cases": None,
    }
    mediated, all_count = scenario.kernel.vpmu == "mediated", scenario.kernel.vpmu_counts_instructions
    complete = scenario.model_copy(
        update={
            "run": scenario.run.model_copy(update=run),
            "host": host.model_copy(
                update={
                    "cpu": (cpu,),
                    "kernel": (kernel,),
                    "tsc": tsc,
                    "costs": {cpu: host.costs.get(cpu, cpu)},
                    "preemption": host.preemption or version.preemption_default,
                    "hrtick": version.hrtick if host.hrtick is None else host.hrtick,
                    "directed_yield": host.directed_yield or version.directed_yield,
                    "base_slice": base_slice(host.cpus) if host.base_slice is None else host.base_slice,
                    "l1": float(profile.l1d_size) if host.l1 is None else host.l1,
                    "l2": float(profile.l2_size) if host.l2 is None else host.l2,
                }
            ),
            "kernel": scenario.kernel.model_copy(update=_defaults(scenario.kernel, profile)),
            "guests": {
                each: with_handler_times(guest, profile, kernel, table, tsc, mediated, all_count)
                for each, guest in scenario.guests.items()
            },
            "sweep": {},
        }
    )
    carried = scenario.kernel.carried
    return Case(
        name,
        profile.label,
        kernel,
        {path: value_text(path, value) if _names_file(value) else value for path, value in point.items()},
        complete,
        tsc,
        table,
        *chosen,
        own={each: own.values[each] for each in (*chosen.strategies, chosen.timed_by) if each in own.values},
        profile=cpu if cpu in profiles.names() else profile.without_path(),
        carried=carried_state(carried) if is_file(carried) else carried,
    )


def _names_file(value: Value) -> bool:
    return isinstance(value, str) and is_file(value)


def _defaults(kernel: KernelSettings, profile: CpuProfile) -> dict[str, Any]:
    """What the CPU profile decides of what the scenario leaves open; IA32_XSS of guests depends on the strategy."""
    decided = {
        "guest_uret_msrs": default_uret_msrs("vmx" if profile.vendor == "intel" else "svm"),
        "init_optimisation": profile.freedoms.init_optimisation,
        "modified_optimisation": profile.freedoms.modified_optimisation,
        "vm_transition_clears_xrstor_info": profile.freedoms.vm_transition_clears_xrstor_info,
        "legacy_sse_write_marks_avx_in_use": profile.freedoms.legacy_sse_write_marks_avx_in_use,
    }
    return {key: value for key, value in decided.items() if getattr(kernel, key) is None}


def base_slice(cpus: int) -> float:
    """The default of sysctl_sched_base_slice in seconds.

    Source: kernel/sched/fair.c, Linux v6.18: normalized_sysctl_sched_base_slice is 0.70 ms since commit 2ae891b82695
    ("sched: Reduce the default slice to avoid tasks getting an extra tick"); update_sysctl() multiplies it by
    1 + ilog2(min(cpus, 8)) with SCHED_TUNABLESCALING_LOG, the default.
    """
    return 700_000 * min(cpus, 8).bit_length() / 1e9


def _cost_table(scenario: Scenario, cpu: str, profile: CpuProfile) -> CostTable:
    """The prices of a CPU, which must be of its virtualization, VMX or SVM, if there are guests."""
    name = scenario.host.costs.get(cpu, cpu)
    if name == cpu and cpu not in cost_tables():
        allowed = f'{{ {json.dumps(cpu)} = "TABLE" }}, a shipped table ({", ".join(cost_tables())}) or a file'
        raise ScenarioError("host.costs", f"{cpu} has no cost table of its own; allowed: {allowed}")
    try:
        table = current_costs(name)
    except InputError as error:
        raise ScenarioError(f"host.costs.{cpu}", str(error)) from error
    needed = row_id(VMPTRLD if profile.vendor == "intel" else VMSAVE, "base")
    if scenario.guests and needed not in table.rows:
        allowed = ", ".join(each for each in cost_tables() if needed in current_costs(each).rows)
        text = f"found {table.name!r}, which lacks a row {needed!r}, for the guests of {profile.name}"
        raise ScenarioError(f"host.costs.{cpu}", f"{text}; allowed: a table that has one ({allowed}, or a file)")
    if scenario.guests and name.endswith(".toml"):
        like = cpu if cpu in cost_tables() else "sapphire-rapids" if profile.vendor == "intel" else "zen4"
        if missing := lacking(table, current_costs(like), profile.components & (USER | PASID | CET)):
            more = f" and {len(missing) - SHOWN_ROWS} more" if len(missing) > SHOWN_ROWS else ""
            raise ScenarioError(
                f"host.costs.{cpu}",
                f"found {name!r}, which lacks {len(missing)} of the rows of {like}: "
                f"{', '.join(missing[:SHOWN_ROWS])}{more}; allowed: a table that has them, also by "
                f"derived_from = {json.dumps(like)}",
            )
    return table


def _check_features(scenario: Scenario, profile: CpuProfile) -> None:
    """What the scenario needs of the CPU must be there; the default components, SSE and AVX, are on every CPU."""
    named = [(f"guests.{name}.fpu.components", each.fpu.components) for name, each in scenario.guests.items()]
    named += [(f"guests.{name}.vmm_fpu", each.vmm_fpu) for name, each in scenario.guests.items()]
    named += [(f"threads.{name}.fpu.components", each.fpu.components) for name, each in scenario.threads.items()]
    named += [(f"interrupts.{name}.components", each.components) for name, each in scenario.interrupts.items()]
    there = [name for name, mask in MASKS.items() if mask & profile.xcr0_supported]
    for path, components in named:
        for each in components:
            if each not in there:
                raise ScenarioError(path, f"found {each}, which {profile.name} lacks (allowed: {', '.join(there)})")
    for msr in scenario.kernel.guest_uret_msrs or ():
        if profile.vendor == "amd" and msr != "TSC_AUX":
            raise ScenarioError(
                "kernel.guest_uret_msrs", f"found {msr!r}; allowed on {profile.name}, with SVM: TSC_AUX"
            )
    if "SHSTK" not in profile.features:
        stacks = [(f"guests.{name}.shadow_stacks", each.shadow_stacks) for name, each in scenario.guests.items()]
        for path, found in stacks:
            if found != "none":
                raise ScenarioError(path, f"found {found!r}, which {profile.name} lacks (SHSTK); allowed: 'none'")
        masks = [(f"guests.{name}.xss", each.xss) for name, each in scenario.guests.items()]
        for path, mask in [("kernel.guest_xss", scenario.kernel.guest_xss), *masks]:
            if mask:
                raise ScenarioError(
                    path, f"found {mask:#x}, and {profile.name} has no CET to give to a guest; allowed: 0"
                )
    if scenario.kernel.guest_amx and not profile.xcr0_supported & XTILE:
        raise ScenarioError("kernel.guest_amx", f"found true, and {profile.name} has no AMX to give to a guest")


def _check_preemption(preemption: str | None, version: KernelVersion) -> None:
    """A kernel must have the preemption model: lazy came with v6.13, none and voluntary went with v7.0."""
    models = version.preemption_models
    if preemption is not None and preemption not in models:
        raise ScenarioError(
            "host.preemption", f"found {preemption!r}, which {version.title} lacks; allowed: {', '.join(models)}"
        )


def _check_guests(scenario: Scenario, cpu: str, kernel: str, chosen: tuple[str, ...], own: OwnStrategies) -> None:
    """What is chosen for a kind of guests alone must be part of what guests are offered, with every strategy."""
    for name, guest in scenario.guests.items():
        for each in chosen if guest.choice != guests.AS_ALL else ():
            booted = boot(settings(scenario, cpu, kernel, own.value(each)))
            for key, problem in guests.problems(booted, guest.choice):
                raise ScenarioError(f"guests.{name}.{key}", problem)
