"""What runs in ring 0, by difference: hand-offs between processes and KVM_RUN round trips with different state in use.

Each number is a difference to the same thing with nothing in use, within one pass, in TSC cycles.  It may be negative
(an XRSTORS that initialises may cost more than one that loads), and one whose interval spans zero is a row like the
others.  A control has nothing in use on both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from sim.calibrate import rounds
from sim.calibrate.machine import Machine, components
from sim.calibrate.plan import ladder
from sim.calibrate.programs import Programs
from sim.calibrate.rounds import Measured, Stage
from sim.calibrate.rows import Line
from sim.calibrate.samples import Floats, Interval, epoch_interval
from sim.xsave.components import AVX, FP, SSE, XTILE

SWITCHES: Final = 40
"""Context switches in a sample of switch.c: two in each of its 20 round trips."""
ROUND_TRIPS: Final = 20
"""KVM_RUN round trips in a sample of vm.c."""
SLOWER: Final = 4
"""An add that takes more than this many times as long in a guest as outside is interpreted (a choice).  A processor
runs both alike; an interpreter took more than 1,000 times as long."""
NESTED_EXIT: Final = 4000.0
"""TSC cycles of a CPUID exit beyond which KVM runs under another hypervisor, or without VMX and SVM: a choice.

Published exits of VMX and SVM take 1,000 to 2,500, those of nested guests 10,000 and more."""
EXITS: Final = 8
"""CPUID instructions in a row of vm.c that tells what an exit to KVM costs."""
NARROW_DIFFERENCE: Final = 10.0
"""TSC cycles: half an interval of a difference that is small enough."""

HAND_OFF: Final = "pipe hand-off"
ROUND_TRIP: Final = "KVM_RUN round trip"
EXIT: Final = "exit to KVM (CPUID)"
CONTROL: Final = "control"
"""A difference of nothing to nothing: what the method takes for a difference where there is none."""


@dataclass(frozen=True, slots=True)
class VmRow:
    """One line of the plan of vm.c."""

    guest: int
    vmm: int
    cpuids: int = 0


def switch_sets(machine: Machine) -> tuple[int, ...]:
    """Nothing twice, of which the second is the control, and then the in-use sets of the hand-offs: the ladder."""
    return 0, *ladder(machine.xcr0, machine.sets)


def switch_stage(programs: Programs, machine: Machine, budget_s: float, quick: bool) -> Stage:
    """Hand-offs between two processes on one CPU, both with the same components in use."""
    sets = switch_sets(machine)
    reduce = rounds.beside_the_first(len(sets), SWITCHES)
    plan = "".join(f"{each:x}\n" for each in sets)
    passes = "20" if quick else "200"
    least = 6 if quick else 20
    return Stage(programs.switch, (passes,), plan, np.array(sets, np.uint64), reduce, budget_s, least, _settled)


def vm_plan(machine: Machine) -> tuple[VmRow, ...]:
    """Round trips with nothing in use, the same as a control, with the guest's, the VMM's or both, and exits to KVM."""
    mask = machine.xcr0 & ~XTILE  # struct kvm_xsave has no room for tiles
    steps = [FP, FP | SSE, FP | SSE | AVX, mask]
    sets = [each for each in dict.fromkeys(steps) if each & mask == each and (not machine.sets or each in machine.sets)]
    pairs = [(each, 0) for each in sets] + [(0, each) for each in sets] + [(each, each) for each in sets]
    return (VmRow(0, 0), VmRow(0, 0), *(VmRow(guest, vmm) for guest, vmm in pairs), VmRow(0, 0, EXITS))


def vm_stage(programs: Programs, machine: Machine, budget_s: float, quick: bool) -> Stage:
    """KVM_RUN round trips of a guest that does OUT."""
    plan = vm_plan(machine)
    reduce = rounds.beside_the_first(len(plan), ROUND_TRIPS)
    text = "".join(f"{each.guest:x} {each.vmm:x} {each.cpuids}\n" for each in plan)
    in_use = np.array([each.vmm for each in plan], np.uint64)
    arguments = ("10" if quick else "100", str(SLOWER))
    return Stage(programs.vm, arguments, text, in_use, reduce, budget_s, 6 if quick else 12, _settled)


def _settled(values: Floats) -> bool:
    """Whether the differences, the second half of the rows, have small intervals."""
    intervals = [epoch_interval(row) for row in values[len(values) // 2 :]]
    return all(each is None or (each.high - each.low) / 2 <= NARROW_DIFFERENCE for each in intervals)


def of_switches(sets: Sequence[int], measured: Measured) -> list[Line]:
    """The rows of the hand-offs: one with nothing in use, and the difference to it of each set.

    Raises :class:`~sim.calibrate.rounds.Unavailable` if no sample of the one with nothing in use counts.
    """
    lines = [_whole(HAND_OFF, measured.values[0], "{switches}")]
    for i, each in enumerate(sets[1:], len(sets) + 1):
        lines += _difference(HAND_OFF if each else f"{HAND_OFF}, {CONTROL}", each, measured.values[i], "{switches}")
    return _headed(lines, "Context switches: XSAVES and XRSTORS by difference.  Not priced.")


def of_vm(plan: Sequence[VmRow], measured: Measured) -> list[Line]:
    """The rows of KVM_RUN: a round trip, an exit to KVM, and the differences by what was in use.

    Raises :class:`~sim.calibrate.rounds.Unavailable` if no sample of a round trip with nothing in use counts, or of one
    with exits.
    """
    exits = next(i for i, row in enumerate(plan) if row.cpuids)
    exit_to_kvm = _whole(EXIT, measured.values[len(plan) + exits] / plan[exits].cpuids, "{vm}")
    method = "{vm}"
    if exit_to_kvm.number.value > NESTED_EXIT:
        method += f"; an exit takes more than {NESTED_EXIT:.0f} TSC cycles: nested, or without VMX and SVM"
    lines = [_whole(ROUND_TRIP, measured.values[0], method)]
    for i, row in enumerate(plan[1:], len(plan) + 1):
        if row.cpuids:
            lines.append(replace(exit_to_kvm, conditions=method))
            continue
        who = " and ".join(name for name, mine in (("guest", row.guest), ("VMM", row.vmm)) if mine) or CONTROL
        lines += _difference(f"{ROUND_TRIP}, {who}", row.guest | row.vmm, measured.values[i], method)
    return _headed(lines, "KVM_RUN: the fpstate swap by difference.  Not priced.")


def _whole(operation: str, values: Floats, method: str) -> Line:
    number = epoch_interval(values)
    if number is None:
        raise rounds.Unavailable(f"every sample of {operation} was disturbed, or left other components in use")
    return Line(operation, "reference", number, "measured", method, clock="tsc")


def _difference(operation: str, in_use: int, values: Floats, method: str) -> list[Line]:
    number: Interval | None = epoch_interval(values)
    if number is None:
        return []
    said = f"{method}; less the same with nothing in use"
    if number.spans_zero:
        said += "; the interval spans zero: no difference was seen"
    return [Line(operation, "difference", number, "measured", said, components(in_use), clock="tsc")]


def _headed(lines: list[Line], heading: str) -> list[Line]:
    return [replace(lines[0], heading=heading), *lines[1:]] if lines else []
