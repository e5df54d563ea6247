"""Options of `flow` and `price` that say how the kernel is booted and what guests have: kernel.* of a scenario."""

from collections.abc import Callable
from typing import Any

import click

from sim.cli.common import parse_mask
from sim.errors import InputError
from sim.kernel import mitigations

Command = Callable[..., Any]


def mask_option(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A mask given as 0x1800 or decimal."""
    return None if value is None else parse_mask(value, parameter.opts[0])


GUEST = (
    click.option(
        "--guest-xss", callback=mask_option, metavar="MASK", help="The guest's IA32_XSS; default: all of CET."
    ),
    click.option(
        "--guest-xcr0", callback=mask_option, metavar="MASK", help="The guest's XCR0, such as 0xe7 for one without PKU."
    ),
    click.option(
        "--no-guest-cet", "guest_cet", flag_value=False, default=True, type=bool, help="The guest's CPUID has no CET."
    ),
)
KERNEL = (
    click.option("--guest-spec-ctrl", default="host", show_default=True, metavar="VALUE",
                 help="IA32_SPEC_CTRL of the guest: host (the host's), other or unwritten (0)."),
    click.option("--host-shadow-stacks", default="off", show_default=True, metavar="MODE",
                 help="off, fpstate or return-to-user; no kernel has the last two."),
    click.option("--msr-access", default="rdmsr-wrmsr", show_default=True, metavar="HOW",
                 help="rdmsr-wrmsr, wrmsrns or msr-list, for strategies that copy MSRs."),
    click.option("--no-mitigations", is_flag=True,
                 help="No mitigations at VM entry and exit, vCPU switch and return to user mode."),
    click.option("--mitigations", "kinds", metavar="KINDS", help="Only these, such as spec-ctrl,verw: ibpb, vmscape, "
                 "spec-ctrl, verw, rsb, bhb, unret, l1d-flush."),
    click.option("--vmscape-by", default="ibpb", show_default=True, metavar="WHAT",
                 help="What the mitigation vmscape runs: ibpb, or bhb-clear, of a series that is not merged."),
    click.option("--ibpb-at", default="vcpu_load", show_default=True, metavar="WHERE",
                 help="Where the mitigation ibpb is: vcpu_load, or vcpu_enter_guest, of a series that is not merged."),
    click.option("--no-apx", "apx", flag_value=False, default=True, type=bool,
                 help="The kernel leaves APX off (clearcpuid=apx)."),
    click.option("--no-pasid", "pasid", flag_value=False, default=True, type=bool,
                 help="The kernel leaves PASID off."),
    click.option("--vpmu", default="none", show_default=True, metavar="HOW", help="none, emulated or mediated."),
    click.option("--vpmu-in-use", type=int, default=0, show_default=True, metavar="N",
                 help="How many counters the guest uses."),
    click.option("--vpmu-counts-instructions", is_flag=True, help="One of those counts retired instructions."),
)  # fmt: skip


def guest_options(command: Command) -> Command:
    """Adds the options of GUEST, which say what the guest's CPUID has."""
    return _with(GUEST, command)


def kernel_options(command: Command) -> Command:
    """Adds the options of KERNEL, which :func:`take_mitigations` completes."""
    return _with(KERNEL, command)


def _with(options: tuple[Callable[[Command], Command], ...], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def take_mitigations(options: dict[str, Any]) -> bool | tuple[str, ...]:
    """What --no-mitigations and --mitigations say together; takes both out of ``options``.

    Raises :class:`~sim.errors.InputError` for both at once, and for an unknown kind.
    """
    none, kinds = options.pop("no_mitigations"), options.pop("kinds")
    if none and kinds:
        raise InputError("--no-mitigations with --mitigations; allowed: one of the two")
    found = tuple(kinds.split(",")) if kinds else not none
    mitigations.chosen(found)
    return found
