"""Rows of a cost table from what ran at CPL 0 of a guest: instructions, MSRs and exits, and the terms of prices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from sim.calibrate import fit
from sim.calibrate.differences import NESTED_EXIT
from sim.calibrate.guest import CET_MSRS, EXITS, MSRS, About, GuestRow
from sim.calibrate.machine import components
from sim.calibrate.rounds import Measured, Unavailable
from sim.calibrate.rows import SHARED_BASE_MARGIN, Line
from sim.calibrate.samples import Floats, Interval, median_interval
from sim.costs.rows import ANY, COMPONENT_NAMES, row_id

NATIVE_PART: Final = 0.5
NATIVE_MOST: Final = 1000.0
"""An access to an MSR that costs more than this part of an exit, or this many TSC cycles, without an exit that KVM
counts, is an exit to an outer hypervisor (a choice).  No MSR here is known to take longer."""

FAULTS: Final = {6: "#UD", 13: "#GP"}


@dataclass(frozen=True, slots=True)
class Found:
    """What the guest has shown.

    ``lines`` are rows as they were measured, ``terms`` the terms of XSAVES and XRSTORS that follow.  ``exits_left_out``
    is why the exits have no rows, or empty; ``restore_of_nothing`` is XRSTORS with nothing in use, less what
    initialising CET costs in ``terms``.
    """

    lines: tuple[Line, ...]
    terms: tuple[Line, ...]
    misfit: Mapping[tuple[str, str], float]
    exits_left_out: str
    restore_of_nothing: Interval


def of_guest(offered: About, plan: Sequence[GuestRow], measured: Measured) -> Found:
    """The rows of the guest.

    Raises :class:`~sim.calibrate.rounds.Unavailable` if XSAVES or XRSTORS of nothing or of everything has no number.
    """
    return _Rows(offered, plan, measured).found()


class _Rows:
    def __init__(self, offered: About, plan: Sequence[GuestRow], measured: Measured) -> None:
        cycles, exits, faults, kept = np.split(measured.values, 4)
        self.offered, self.plan = offered, plan
        self.values = dict(zip(plan, cycles, strict=True))
        self.exits, self.faults, self.kept = (
            dict(zip(plan, _usual(each), strict=True)) for each in (exits, faults, kept)
        )
        self.numbers = {row: median_interval(values) for row, values in self.values.items()}
        cpuid = self.numbers[GuestRow("EXIT_CPUID")]
        self.exit_cost = cpuid.value if cpuid else np.inf
        self.nested = self.exit_cost > NESTED_EXIT
        self.method = "{guest}"
        if self.nested:
            self.method += f"; nested, or without VMX and SVM: an exit takes more than {NESTED_EXIT:.0f} TSC cycles"

    def found(self) -> Found:
        lines, terms, misfit = [], [], {}
        for operation in ("XSAVES", "XRSTORS"):
            lines += self._totals(operation)
            fitted, misfit[operation, ""] = self._terms(operation)
            terms += fitted
        terms += self._unmodified()
        lines += [*self._references(), *self._xgetbv(), *self._msrs()]
        why = ""
        if self.nested:
            why = (
                f"an exit takes {self.exit_cost:.0f} TSC cycles, so KVM is nested and it is not one of VMX or SVM alone"
            )
        else:
            lines += self._exits()
        nothing = self.numbers[self._state("XRSTORS", 0)]
        assert nothing is not None  # or _terms() would have refused it
        cet = sum(
            line.number.value for line in terms
            if (line.operation, line.term) == ("XRSTORS", "initialised") and line.component.startswith("CET_")
        )  # fmt: skip
        without = Interval(nothing.value - cet, nothing.low - cet, nothing.high - cet)
        return Found(tuple(lines), tuple(terms), misfit, why, without)

    def _state(self, operation: str, in_use: int) -> GuestRow:
        return GuestRow(operation, self.offered.xss, self.offered.xcr0 | self.offered.xss, in_use)

    def _usual_rows(self, operation: str, same: bool = False) -> list[GuestRow]:
        """XSAVES or XRSTORS with all of IA32_XSS and nothing touched, of which there is a number."""
        xss = self.offered.xss
        return [
            row for row in self.plan
            if (row.operation, row.xss, row.same, row.touched) == (operation, xss, same, False) and self.numbers[row]
        ]  # fmt: skip

    def _totals(self, operation: str) -> list[Line]:
        requested = components(self.offered.xcr0 | self.offered.xss)
        lines = [
            Line(operation, "total", number, "measured", self.method, components(row.in_use), requested=requested)
            for row in self._usual_rows(operation) if (number := self.numbers[row])
        ]  # fmt: skip
        return _headed(lines, f"{operation} at CPL 0 of a guest, whole instructions by what was in use.  Not priced.")

    def _terms(self, operation: str) -> tuple[list[Line], float]:
        restores = operation == "XRSTORS"
        rows = self._usual_rows(operation)
        sets = [row.in_use for row in rows]
        for each in (0, max(row.in_use for row in self.plan)):
            if each not in sets:
                raise Unavailable(self._why(self._state(operation, each)))
        fitted = fit.warm(sets, np.array([self.values[row] for row in rows]), None if restores else 0)
        whole, base = (row_id(operation, "total", components(each)) for each in (fit.sum_of(sets), fitted.base_set))
        how = f"in a guest, least squares over {fitted.sets} in-use sets, largest misfit {fitted.misfit:.0%}"
        present, absent = ("loaded", "initialised") if restores else ("written", "initial")
        lines = [Line(operation, "base", fitted.base, "derived", "the measured row of a guest", origin=(base,))]
        for number, term in fitted.components.items():
            away = bool(fitted.base_set >> number & 1)
            name = COMPONENT_NAMES[number]
            lines.append(Line(operation, absent if away else present, term, "derived", how, name, origin=(whole, base)))
            if restores:
                zero, other = Interval(0, 0, 1), "the smaller of loading and initialising is taken as 0 to 1"
                name_of_other = present if away else absent
                lines.append(Line(operation, name_of_other, zero, "derived", other, name, origin=(whole, base)))
        if not restores:
            none = "all that was requested was initial in the row with nothing in use, whose cost is the base"
            lines += [
                Line(operation, absent, Interval(0, 0, 2), "derived", none, each, origin=(base,))
                for each in (ANY, *(COMPONENT_NAMES[number] for number in fitted.components))
            ]
            once = "the terms add up in a guest, one XSAVES after another"
            margin = Interval(0, 0, SHARED_BASE_MARGIN)
            lines.append(Line(operation, "writing", margin, "derived", once, origin=(base,)))
        return lines, fitted.misfit

    def _unmodified(self) -> list[Line]:
        rows = self._usual_rows("XSAVES", same=True)
        sets = [row.in_use for row in rows]
        if 0 not in sets or len(sets) < 2:
            return []
        fitted = fit.warm(sets, np.array([self.values[row] for row in rows]))
        origin = tuple(row_id("XSAVES, same area", "reference", components(each)) for each in (fit.sum_of(sets), 0))
        how = f"in a guest, least squares over {fitted.sets} in-use sets, same area, nothing touched"
        return [
            Line("XSAVES", "unmodified", term, "derived", how, COMPONENT_NAMES[number], origin=origin)
            for number, term in fitted.components.items()
        ]

    def _references(self) -> list[Line]:
        lines = []
        for row in self.plan:
            number = self.numbers[row]
            if row.operation not in ("XSAVES", "XRSTORS") or not number:
                continue
            kinds = [("same area", row.same), ("touched", row.touched)]
            kinds.append(("IA32_XSS[12] clear", row.xss != self.offered.xss))
            name = ", ".join([row.operation, *(text for text, so in kinds if so)])
            if name == row.operation:
                continue
            said = self.method
            if row.same and not row.touched and row.in_use:
                how = "skipped" if self.kept[row] else "written all the same"
                said += f"; what was not modified was {how} (the area was overwritten, and looked at)"
            lines.append(Line(name, "reference", number, "measured", said, components(row.in_use)))
        return _headed(lines, "The area of the last XRSTORS, registers touched since, without CET_S.  Not priced.")

    def _xgetbv(self) -> list[Line]:
        return [
            Line(f"XGETBV({operation[-1]}), in a guest", "reference", number, "measured", self.method)
            for operation in ("XGETBV0", "XGETBV1") if (number := self.numbers[GuestRow(operation)])
        ]  # fmt: skip

    def _msrs(self) -> list[Line]:
        names = {msr.number: msr.name for msr in (*MSRS, *CET_MSRS)}
        through, outside = [], []
        for row in self.plan:
            number = self.numbers[row]
            if row.operation not in ("RDMSR", "WRMSR", "WRMSRNS") or not number:
                continue
            name = f"{row.operation}({names[row.msr]})"
            most = min(NATIVE_PART * self.exit_cost, NATIVE_MOST)
            if self.exits[row] == 0 and number.value <= most:
                through.append(Line(name, "base", number, "measured", self.method, clock="tsc"))
            else:
                to = "KVM" if self.exits[row] else "an outer hypervisor"
                outside.append(
                    Line(f"{name}, an exit to {to}", "reference", number, "measured", self.method, clock="tsc")
                )
        return [
            *_headed(through, "MSRs that KVM passes through, at CPL 0 of a guest."),
            *_headed([] if self.nested else outside, "MSRs that KVM does not pass through.  Not priced."),
        ]

    def _exits(self) -> list[Line]:
        lines = []
        for operation, (name, more) in EXITS.items():
            number = next((self.numbers[row] for row in self.plan if row.operation == operation), None)
            if number:
                said = f"{self.method}; {more}" if more else self.method
                lines.append(Line(f"exit from a guest ({name})", "reference", number, "measured", said, clock="tsc"))
        return _headed(lines, "VM exits, from the guest's instruction to its next.  Not priced.")

    def _why(self, row: GuestRow) -> str:
        if fault := int(self.faults[row]):
            met = FAULTS.get(fault - 1, f"exception {fault - 1}")
            return f"{row.operation} of {components(row.in_use) or 'nothing'} met {met} in the guest"
        return f"no block of {row.operation} in the guest was without an exit and left in use what it was to"


def _usual(values: Floats) -> list[float]:
    """The median by row, 0 where there is none."""
    return [float(np.median(known)) if len(known := row[~np.isnan(row)]) else 0.0 for row in values]


def _headed(lines: list[Line], heading: str) -> list[Line]:
    return [replace(lines[0], heading=heading), *lines[1:]] if lines else []
