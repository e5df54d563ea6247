"""Rows of a cost table from what was measured: whole instructions, and the terms of a price that follow from them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from sim.calibrate import fit
from sim.calibrate.machine import Machine, components
from sim.calibrate.plan import LEVELS, Timing, Variant, ladder
from sim.calibrate.rounds import Measured
from sim.calibrate.samples import Floats, Interval, median_interval
from sim.costs.rows import ANY, COMPONENT_NAMES, RATIO, UNPRICED, row_id
from sim.errors import InputError
from sim.kernel.operations import XGETBV1
from sim.xsave.components import bits

SOURCE: Final = "measured by `fpswitch calibrate`"
BUSY_RATIO: Final = 1.0
"""Core cycles per TSC cycle without any boost; the TSC counts at the base clock or near it."""
STANDS_IN: Final = {"XSAVES": "XSAVEC", "XRSTORS": "XRSTOR"}
SHARED_BASE_MARGIN: Final = 5.0
"""Core cycles that a component may cost where no dependence on it was seen: a choice."""
PRIVILEGE_MARGIN: Final = 0.1
"""By which the base of a supervisor form may cost more than any user form that was measured, or less: a choice."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row as it is written to the file; ``conditions`` may name texts of the table in braces."""

    operation: str
    term: str
    number: Interval
    grade: str
    conditions: str
    component: str = ""
    level: str = ""
    requested: str = ""
    clock: str = "core"
    origin: tuple[str, ...] = ()
    heading: str = ""

    @property
    def id(self) -> str:
        return row_id(self.operation, self.term, self.component, self.level)

    @property
    def priced(self) -> bool:
        return self.term not in UNPRICED


@dataclass(frozen=True, slots=True)
class XsaveRows:
    """The rows of the XSAVE instructions, and by instruction and level how far the composition is off (a part of 1).

    ``restore_of_nothing`` is XRSTOR with nothing in use.
    """

    lines: tuple[Line, ...]
    misfit: Mapping[tuple[str, str], float]
    restore_of_nothing: Interval


class Instructions:
    """What was measured of the XSAVE instructions, by variant and in-use set."""

    def __init__(self, machine: Machine, timings: Sequence[Timing], measured: Measured) -> None:
        self.machine = machine
        self.measured = measured
        self._rows = {timing: number for number, timing in enumerate(timings)}
        self.intervals = {timing: median_interval(measured.values[i]) for timing, i in self._rows.items()}

    def sets(self, variant: Variant) -> tuple[int, ...]:
        """The in-use sets of which there is a number."""
        return tuple(t.in_use for t, found in self.intervals.items() if t.variant == variant and found)

    def values(self, variant: Variant, sets: Iterable[int]) -> Floats:
        """Core cycles by in-use set and process."""
        return self.measured.values[[self._rows[Timing(variant, each)] for each in sets]]


def clock(measured: Measured) -> Line:
    """The row of the clocks' ratio.

    The range goes down to 1, since a core that boosts on a calm machine may not on a busy one.
    """
    operation, term = RATIO.rsplit("/", 1)
    value, low, high = (round(float(each(measured.ratios)), 4) for each in (np.median, np.min, np.max))
    number = Interval(value, min(low, BUSY_RATIO), max(high, BUSY_RATIO))
    return Line(operation, term, number, "measured", "{clocks}", clock="tsc", heading="The clocks.")


def of_instructions(found: Instructions) -> XsaveRows:
    """The measured rows of the XSAVE instructions and those derived from them."""
    operations = ("XSAVE", "XSAVEC", "XSAVEOPT", "XRSTOR")
    _refuse_gaps(found, operations)
    lines: list[Line] = []
    misfit: dict[tuple[str, str], float] = {}
    for operation in operations:
        lines += _totals(found, operation)
    lines += _variants(found)
    lines += _xgetbv1(found)
    for operation in operations:
        terms = _save_flat if operation == "XSAVE" else _composed
        derived, off = terms(found, operation)
        lines += derived
        misfit.update(off)
    lines += _unmodified(found)
    nothing = found.intervals[Timing(Variant("XRSTOR"), 0)]
    assert nothing is not None  # or _refuse_gaps() would have refused it
    return XsaveRows(tuple(lines), misfit, nothing)


def _refuse_gaps(found: Instructions, operations: Sequence[str]) -> None:
    """Without a number for nothing and for everything in use there is nothing to fit."""
    needed = [Variant(each, level=level) for each in operations for level in LEVELS]
    needed.append(Variant("XSAVEOPT", same=True))
    everything = found.machine.xcr0
    for variant in needed:
        if not {0, everything} <= {*found.sets(variant)}:
            raise InputError(
                f"calibrate: no undisturbed sample of {variant.name} ({variant.level or 'L1'}); "
                "this machine is too busy: try again, with a larger --budget, or with another CPU (--on)"
            )


def _totals(found: Instructions, operation: str) -> list[Line]:
    """Whole instructions, of the sets that programs leave; when warm, of the ladder, too.  The CSV has the rest."""
    lines = []
    for level in LEVELS:
        variant = Variant(operation, level=level)
        sets = found.sets(variant)
        shown = {*fit.nested(sets), *(() if level else ladder(found.machine.xcr0))}
        for each in sets:
            number = found.intervals[Timing(variant, each)]
            if number and each in shown:
                lines.append(
                    Line(operation, "total", number, "measured", _method(level), components(each), level, "{all}")
                )
    return _headed(lines, f"{operation}, whole instructions by what was in use.  Not priced.")


def _variants(found: Instructions) -> list[Line]:
    """The less usual variants, warm, of the ladder of sets.  The CSV has the rest."""
    rungs = ladder(found.machine.xcr0)
    lines = []
    for timing, number in found.intervals.items():
        v = timing.variant
        plain = v.operation == "XSAVEOPT" or not v.touched  # only there a touched register may matter to what is saved
        if number and plain and not (v.usual or v.level or v.operation == XGETBV1) and timing.in_use in rungs:
            lines.append(Line(v.name, "reference", number, "measured", _method(""), components(timing.in_use)))
    return _headed(lines, "The area of the last XRSTOR, registers touched since, another format.  Not priced.")


def _xgetbv1(found: Instructions) -> list[Line]:
    """XGETBV with ECX = 1, whatever is in use."""
    variant = Variant(XGETBV1)
    sets = found.sets(variant)
    number = median_interval(found.values(variant, sets).mean(axis=0)) if sets else None
    return _headed([Line(XGETBV1, "base", number, "measured", "{warm}")] if number else [], "XGETBV with ECX = 1.")


def _method(level: str) -> str:
    return {"": "{warm}", "L2": "{l2}", "memory": "{cold}"}[level]


def _composed(found: Instructions, operation: str) -> tuple[list[Line], dict[tuple[str, str], float]]:
    """Base and one term per component, at each level, of an instruction that depends on what is in use."""
    restores = operation == "XRSTOR"
    present, absent = ("loaded", "initialised") if restores else ("written", "initial")
    variant = Variant(operation)
    sets = found.sets(variant)
    terms = fit.warm(sets, found.values(variant, sets), None if restores else 0)
    whole = row_id(operation, "total", components(fit.sum_of(sets)))
    base = row_id(operation, "total", components(terms.base_set))
    how = _fitted(terms)
    lines = [
        Line(operation, "base", terms.base, "derived", "the measured row from which the others differ", origin=(base,))
    ]
    for number, term in terms.components.items():
        away = bool(terms.base_set >> number & 1)
        name = COMPONENT_NAMES[number]
        lines.append(Line(operation, absent if away else present, term, "derived", how, name, origin=(whole, base)))
        if restores:
            zero = Interval(0, 0, 1)
            other = "the smaller of loading and initialising, of which only the difference shows, is taken as 0 to 1"
            lines.append(
                Line(operation, present if away else absent, zero, "derived", other, name, origin=(whole, base))
            )
    if not restores:
        none = "all that was requested was initial in the row with nothing in use, whose cost is the base"
        lines.append(Line(operation, absent, Interval(0, 0, 2), "derived", none, ANY, origin=(base,)))
    misfit = {(operation, ""): terms.misfit}
    for level, colder in _levels(found, operation).items():
        far = row_id(operation, "total", components(fit.sum_of(sets)), level)
        near = row_id(operation, "total", "", level)
        how = f"{_fitted(colder)}, of what {level} adds"
        lines.append(Line(operation, "base", colder.base, "derived", how, level=level, origin=(near, base)))
        lines += [
            Line(operation, present, term, "derived", how, COMPONENT_NAMES[number], level, origin=(far, near))
            for number, term in colder.components.items()
        ]
        misfit[operation, level] = colder.misfit
    return _headed(lines, f"{operation}, the terms of a price."), misfit


def _fitted(terms: fit.Terms) -> str:
    return f"least squares over {terms.sets} in-use sets, largest misfit {terms.misfit:.0%}"


def _levels(found: Instructions, operation: str) -> dict[str, fit.Terms]:
    """What L2 adds, and what memory adds: at least as much."""
    warm, l2, memory = (Variant(operation, level=level) for level in LEVELS)
    sets = fit.nested([each for each in found.sets(memory) if each in found.sets(l2) and each in found.sets(warm)])
    near = fit.colder(sets, found.values(l2, sets), found.values(warm, sets))
    far = fit.colder(sets, found.values(memory, sets), found.values(l2, sets))
    both = {number: _sum(near.components[number], term) for number, term in far.components.items()}
    return {"L2": near, "memory": replace(far, base=_sum(near.base, far.base), components=both)}


def _sum(a: Interval, b: Interval) -> Interval:
    return Interval(a.value + b.value, a.low + b.low, a.high + b.high)


def _save_flat(found: Instructions, operation: str) -> tuple[list[Line], dict[tuple[str, str], float]]:
    """XSAVE writes all that is requested, in use or not: a base for each level, and nothing per component.

    Each component has its row, since a row for all of them does not replace one that is inherited for one of them.
    """
    names = (ANY, *(COMPONENT_NAMES[number] for number in bits[found.machine.xcr0]))
    lines, misfit = [], {}
    warm = found.intervals[Timing(Variant(operation), 0)]
    for level in LEVELS:
        variant = Variant(operation, level=level)
        number = found.intervals[Timing(variant, 0)]
        if not number or not warm:
            continue
        others = [found.intervals[Timing(variant, each)] for each in found.sets(variant)]
        off = misfit[operation, level] = max(abs(each.value / number.value - 1) for each in others if each)
        origin = [row_id(operation, "total", "", level)]
        if level:
            number = Interval(*(max(x - warm.value, 0) for x in (number.value, number.low, number.high)))
            origin.append(row_id(operation, "total"))
        how = f"the measured row; it depends on what is in use by at most {off:.0%}"
        nothing = Interval(0, 0, SHARED_BASE_MARGIN)
        lines.append(Line(operation, "base", number, "derived", how, level=level, origin=tuple(origin)))
        lines += [
            Line(operation, "written", nothing, "derived", how, each, level, origin=(origin[0],)) for each in names
        ]
    return _headed(lines, f"{operation}, the terms of a price."), misfit


def _unmodified(found: Instructions) -> list[Line]:
    """XSAVEOPT to the area of the last XRSTOR, nothing written since: the cost of a component in use and skipped."""
    same = Variant("XSAVEOPT", same=True)
    sets = found.sets(same)
    terms = fit.warm(sets, found.values(same, sets))
    how = f"{_fitted(terms)}, same area, nothing touched"
    origin = tuple(row_id(same.name, "reference", components(each)) for each in (fit.sum_of(sets), 0))
    lines = [
        Line("XSAVEOPT", "unmodified", term, "derived", how, COMPONENT_NAMES[number], origin=origin)
        for number, term in terms.components.items()
    ]
    return _headed(lines, "What the modified optimisation leaves.")


def first_of_each(lines: Sequence[Line]) -> list[Line]:
    """Of rows with the same key the first."""
    found: dict[str, Line] = {}
    for line in lines:
        found.setdefault(line.id, line)
    return list(found.values())


def supervisor_forms(lines: Sequence[Line], in_place: Sequence[Line]) -> list[Line]:
    """XSAVES and XRSTORS, which run at CPL 0: the terms ``in_place``, if any were measured there, and stand-ins.

    A base with a margin, what XSAVEOPT says of the modified optimisation, and all other terms of the user forms: each
    has a row, so that none is inherited from a table in which they are not stand-ins.
    """
    found = {line.id: line for line in in_place}
    for supervisor, user in STANDS_IN.items():
        for each in lines:
            said = f"{each.operation} stands in for {supervisor}, which is ring 0 and was not measured"
            line = replace(each, operation=supervisor, grade="derived", origin=(each.id,), heading="")
            if each.operation == user and each.priced:
                if (each.term, each.level) == ("base", ""):
                    line = replace(line, number=_privileged(each, lines))
                    said += "; range: that of the user forms, and 10 %"
                found.setdefault(line.id, replace(line, conditions=f"{said}; {each.conditions}"))
            elif each.term == "unmodified" and supervisor == "XSAVES":
                found.setdefault(line.id, replace(line, conditions=f"{said}; {each.conditions}"))
    once = "XSAVEC stands in for XSAVES, and its terms add up"
    nothing = Interval(0, 0, SHARED_BASE_MARGIN)
    writing = Line("XSAVES", "writing", nothing, "derived", once, origin=(row_id("XSAVEC", "base"),))
    found.setdefault(writing.id, writing)
    return _headed(list(found.values()), "The supervisor forms.")


def _privileged(base: Line, lines: Sequence[Line]) -> Interval:
    """The base with a margin; a save has the range of all forms of a save, from XSAVEOPT to XSAVE."""
    like = ("XSAVE", "XSAVEC", "XSAVEOPT") if base.operation == "XSAVEC" else (base.operation,)
    bases = [each.number for each in lines if each.operation in like and each.term == "base" and not each.level]
    low, high = min(each.low for each in bases), max(each.high for each in bases)
    return Interval(base.number.value, low * (1 - PRIVILEGE_MARGIN), high * (1 + PRIVILEGE_MARGIN))


def _headed(lines: list[Line], heading: str) -> list[Line]:
    return [replace(lines[0], heading=heading), *lines[1:]] if lines else []
