"""fpswitch layout: where the components of a mask lie in an XSAVE area, and whether a boot log says the same."""

from typing import Any

import click

from sim.cli.common import emit, json_option, parse_mask, table
from sim.errors import InputError
from sim.kernel import bootlog
from sim.xsave.area import ALIGNMENT, Layout
from sim.xsave.components import ALL, COMPACTED, COMPONENTS, FP, SSE, bits
from sim.xsave.components import names as component_names
from sim.xsave.profiles import GENERIC, CpuProfile, Geometry, profile

# A guest fpstate is vzalloc(ALIGN(offsetof(struct fpstate, regs), 64) + size): Linux v7.1, arch/x86/kernel/fpu/core.c,
# fpu_alloc_guest_fpstate.
FPSTATE_HEADER = 64
PAGE = 4096

LEGACY_OFFSETS = {0: 0, 1: 160}


@click.command()
@click.argument("mask", required=False)
@click.option("--cpu", "cpu_name", metavar="NAME", help="Sizes, alignment and offsets as this CPU reports them.")
@click.option("--standard", is_flag=True, help="The standard format in place of the compacted one.")
@click.option("--boot-log", metavar="FILE", help="Check a kernel's boot log (may be gzipped; - is standard input).")
@json_option
def layout(mask: str | None, cpu_name: str | None, standard: bool, boot_log: str | None, as_json: bool) -> None:
    """Where the components of MASK lie in an XSAVE area, and how large it is.

    MASK is hexadecimal with 0x in front, or decimal. Without --cpu, components have the sizes that all CPUs known here
    give them, and in the standard format Intel's offsets.

    With --boot-log, what a kernel printed at boot is compared with our layout of the same mask; the exit status is 1
    if they disagree. Of several boots in a log, the last counts.

    With --json: {"mask" (hexadecimal), "format", "cpu" (null without --cpu), "size", "offsets" and "sizes" (in bytes,
    by component), "aligned" (the components that start on a 64-byte boundary), "cache_lines", "guest_allocation"
    (bytes)}. With --boot-log: {"agrees", "disagreements" (sentences), "mask", "format", "size", "offsets" and "sizes"
    (all as the log has them), "boots" (how many are in the log), "cpu", "computed": {"size", "offsets"} (our layout)}.

    \b
    Examples:
      fpswitch layout 0x1ae7
      fpswitch layout 0x21ee7 --cpu sapphire-rapids --json
      fpswitch layout 0x2e7 --standard --cpu zen4
      fpswitch layout --boot-log dmesg.txt
      dmesg | fpswitch layout --boot-log - --cpu zen4
    """
    geometry = profile(cpu_name) if cpu_name is not None else GENERIC
    if boot_log is not None:
        if mask is not None or standard:
            raise InputError("--boot-log takes mask and format from the log: leave out MASK and --standard")
        document, text = _boot_log(boot_log, geometry)
        emit(document, text, as_json)
        if not document["agrees"]:
            click.get_current_context().exit(1)
    elif mask is None:
        raise InputError("which components? give a MASK (such as 0x1ae7) or --boot-log FILE")
    else:
        emit(*_mask(_components(mask), geometry, standard), as_json)


def _components(text: str) -> int:
    mask = parse_mask(text, "MASK")
    if mask < 0 or mask & ~ALL:
        hint = "; bit 63 of an XCOMP_BV stands for the format, leave it out" if mask & COMPACTED and mask > 0 else ""
        raise InputError(f"MASK is {text}: its bits stand for components 0 to {len(COMPONENTS) - 1}{hint}")
    return mask


def _mask(mask: int, geometry: Geometry, standard: bool) -> tuple[dict[str, Any], str]:
    """The JSON document and the text for a mask."""
    where = geometry.standard(mask) if standard else geometry.compacted(mask)
    form = "standard" if standard else "compacted"
    lines = -(-where.size // ALIGNMENT)
    allocation = -(-(FPSTATE_HEADER + where.size) // PAGE) * PAGE
    aligned = [i for i in where.offsets if not standard and geometry.aligned >> i & 1]
    document = {
        "mask": f"{mask:#x}",
        "format": form,
        "cpu": _cpu(geometry),
        "size": where.size,
        "offsets": dict(where.offsets),
        "sizes": {i: geometry.sizes[i] for i in where.offsets},
        "aligned": aligned,
        "cache_lines": lines,
        "guest_allocation": allocation,
    }
    rows = [
        (i, COMPONENTS[i].name, at, geometry.sizes[i], ALIGNMENT if i in aligned else "-")
        for i, at in _places(mask, where).items()
    ]
    text = (
        f"{mask:#x} in the {form} format, {_title(geometry, form)}\n\n"
        + table(rows, ("component", "Linux name", "offset", "size", "aligned to"))
        + f"\n\nsize              {where.size} bytes"
        + f"\n64-byte lines     {lines}"
        + f"\nguest allocation  {allocation} bytes (whole pages, after {FPSTATE_HEADER} bytes of struct fpstate)"
    )
    return document, text


def _boot_log(name: str, geometry: Geometry) -> tuple[dict[str, Any], str]:
    """The JSON document and the text for a boot log."""
    try:
        with click.open_file(name, "rb") as stream:
            log = bootlog.read(stream, "standard input" if name == "-" else name)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from error
    ours = bootlog.layout(log, geometry)
    disagreements = bootlog.check(log, geometry)
    document = {
        "agrees": not disagreements,
        "disagreements": disagreements,
        "mask": f"{log.mask:#x}",
        "format": log.format,
        "size": log.size,
        "offsets": dict(log.offsets),
        "sizes": dict(log.sizes),
        "boots": log.boots,
        "cpu": _cpu(geometry),
        "computed": {"size": ours.size, "offsets": dict(ours.offsets)},
    }
    rows = [
        (i, component_names(1 << i), log.offsets.get(i, "-"), ours.offsets.get(i, "-"), log.sizes.get(i, "-"))
        for i in sorted({*log.offsets, *ours.offsets})
    ]
    which = f" (the last of {log.boots} boots)" if log.boots > 1 else ""
    verdict = (
        "the log disagrees with our layout:\n  " + "\n  ".join(disagreements)
        if disagreements
        else "the log agrees with our layout"
    )
    text = (
        f"{log.mask:#x} in the {log.format} format, from the log{which}, against {_title(geometry, log.format)}\n\n"
        + table(rows, ("component", "Linux name", "offset in log", "our offset", "size"))
        + f"\n\nsize in log  {log.size} bytes\nour size     {ours.size} bytes\n\n{verdict}"
    )
    return document, text


def _places(mask: int, where: Layout) -> dict[int, int]:
    """Offsets with those of the legacy region, which every area has, if its components are in ``mask``."""
    return {i: LEGACY_OFFSETS[i] for i in bits[mask & (FP | SSE)]} | dict(where.offsets)


def _cpu(geometry: Geometry) -> str | None:
    return geometry.name if isinstance(geometry, CpuProfile) else None


def _title(geometry: Geometry, form: str) -> str:
    if isinstance(geometry, CpuProfile):
        return geometry.title
    return "no CPU named" + (" (Intel's offsets; AMD's differ, see --cpu)" if form == "standard" else "")
