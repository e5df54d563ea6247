"""fpswitch layout: where the components of a mask lie in an XSAVE area, and whether a boot log says the same."""

from collections.abc import Sequence
from typing import Any

import click

from sim.cli.common import emit, json_option, parse_mask, table
from sim.errors import InputError
from sim.kernel import bootlog, bootlog_reading
from sim.xsave.area import ALIGNMENT, Layout
from sim.xsave.components import ALL, COMPACTED, COMPONENTS, FP, SSE, bits
from sim.xsave.components import names as component_names
from sim.xsave.geometry import GENERIC, Geometry
from sim.xsave.profiles import CpuProfile, names, profile
from sim.xsave.sizes import LINUX, masks_of

# A guest fpstate is vzalloc(ALIGN(offsetof(struct fpstate, regs), 64) + size): Linux v7.1, arch/x86/kernel/fpu/core.c,
# fpu_alloc_guest_fpstate.
FPSTATE_HEADER = 64
PAGE = 4096

LEGACY_OFFSETS = {0: 0, 1: 160}


@click.command()
@click.argument("mask", required=False)
@click.option(
    "--cpu",
    "cpu_name",
    metavar="NAME|FILE",
    help="Sizes, alignment and offsets as this CPU reports them: a profile (fpswitch cpu), or a dump of its CPUID.",
)
@click.option("--standard", is_flag=True, help="The standard format instead of the compacted one.")
@click.option("--size", metavar="BYTES", type=int, help="Which masks give an area of this size, in which format?")
@click.option("--boot-log", metavar="FILE", help="Check a kernel's boot log (may be gzipped; - is standard input).")
@click.option("--boot", "number", metavar="N", type=int, help="Which boot of the log, from 1; default: the last.")
@json_option
def layout(
    mask: str | None,
    cpu_name: str | None,
    standard: bool,
    size: int | None,
    boot_log: str | None,
    number: int | None,
    as_json: bool,
) -> None:
    """Show where the components of MASK are in an XSAVE area, and how large it is.

    MASK is hexadecimal with 0x in front, or decimal. Without --cpu, components have the sizes that all known CPUs give
    them, and in the standard format the offsets of Intel CPUs.

    With --size, show the masks whose area has that many bytes: in the compacted format, in the same without the
    alignment of the AMX components (a mistake that kernels and hypervisors have made), and in the standard format.
    Masks of components that Linux enables come first.

    With --boot-log, compare what a kernel printed at boot with our layout of the same mask; the exit status is 1 if
    they disagree. Without --cpu, a log agrees if it does so with one of the shipped CPUs. Of an excerpt, or of lines
    that are cut off, only what is there is compared. The log may be quoted and wrapped by mail programs,
    copied from a web page, or compressed by gzip, xz, bzip2 or zstd. If it has several boots, the last is used, or that
    of --boot N.

    With --json: {"mask" (hexadecimal), "format", "cpu" (null without --cpu), "size", "offsets" and "sizes" (in bytes,
    by component), "aligned" (the components that start on a 64-byte boundary), "cache_lines", "guest_allocation"
    (bytes)}. With --size: {"size", "cpu", "masks": [{"mask", "format" ("compacted", "compacted without alignment" or
    "standard"), "components", "linux" (whether Linux enables all of them)}]}. With --boot-log: {"agrees",
    "disagreements" (sentences), "mask", "format", "size", "offsets" and "sizes" (all as the log has them), "not_in_log"
    (sentences), "boot" (which one), "boots" (how many are in the log), "all_boots" (of each: "boot", "agrees", "mask",
    "format" and "size", or "why_not"), "warnings" (of the kernel), "cpu", "cpus_that_agree" (without --cpu, if the
    log has other offsets or sizes than most), "computed": {"size", "offsets"} (our layout)}.

    \b
    Examples:
      fpswitch layout 0x1ae7
      fpswitch layout 0x21ee7 --cpu sapphire-rapids --json
      fpswitch layout 0x2e7 --standard --cpu zen4
      fpswitch layout --size 10704
      fpswitch layout --boot-log dmesg.txt
      dmesg | fpswitch layout --boot-log - --cpu zen4
      fpswitch layout --boot-log host-and-guest.mail --boot 1
    """
    geometry = profile(cpu_name) if cpu_name is not None else GENERIC
    if boot_log is not None:
        if mask is not None or standard or size is not None:
            raise InputError("--boot-log takes mask and format from the log: leave out MASK and --standard, or --size")
        document, text = _boot_log(boot_log, geometry, number)
        emit(document, text, as_json)
        if not document["agrees"]:
            click.get_current_context().exit(1)
    elif number is not None:
        raise InputError("--boot chooses a boot of a log: give --boot-log FILE")
    elif size is not None:
        if mask is not None:
            raise InputError("--size looks for the masks: leave out MASK")
        emit(*_masks_of(size, geometry, standard), as_json)
    elif mask is None:
        raise InputError("which components? give a MASK (such as 0x1ae7), --size BYTES or --boot-log FILE")
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
    notes = geometry.notes if isinstance(geometry, CpuProfile) else ()
    text = (
        f"{mask:#x} in the {form} format, {_title(geometry, form)}\n\n"
        + table(rows, ("component", "Linux name", "offset", "size", "aligned to"))
        + f"\n\nsize              {where.size} bytes"
        + f"\n64-byte lines     {lines}"
        + f"\nguest allocation  {allocation} bytes (whole pages, after {FPSTATE_HEADER} bytes of struct fpstate)"
        + "".join(f"\nnote: {note}" for note in notes)
    )
    return document, text


def _masks_of(size: int, geometry: Geometry, standard: bool) -> tuple[dict[str, Any], str]:
    """The JSON document and the text for the masks of which an area has that size."""
    found = [each for each in masks_of(size, geometry) if not standard or each.format == "standard"]
    documents = [
        {
            "mask": f"{each.mask:#x}",
            "format": each.format,
            "components": component_names(each.mask),
            "linux": not each.mask & ~LINUX,
        }
        for each in found
    ]
    document = {"size": size, "cpu": _cpu(geometry), "masks": documents}
    shown = [each for each in documents if each["linux"]] or documents
    rows = [(each["mask"], each["format"], each["components"]) for each in shown]
    title = geometry.title if isinstance(geometry, CpuProfile) else "no CPU named"
    text = f"{size} bytes, {title}: {len(documents) or 'no'} mask{'' if len(documents) == 1 else 's'}"
    if rows:
        text += "\n\n" + table(rows, ("mask", "format", "components"))
    if len(shown) < len(documents):
        text += f"\n\nand {len(documents) - len(shown)} with components that Linux does not enable (--json lists them)"
    return document, text


def _boot_log(name: str, geometry: Geometry, number: int | None) -> tuple[dict[str, Any], str]:
    """The JSON document and the text for one boot of a boot log."""
    shown = "standard input" if name == "-" else name
    try:
        with click.open_file(name, "rb") as stream:
            boots = bootlog_reading.read_all(stream, shown)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from error
    log = bootlog_reading.chosen(boots, shown, number)
    agreeing = _agreeing(log) if geometry is GENERIC and bootlog.check(log, geometry) else []
    compared = profile(agreeing[0]) if agreeing else geometry
    ours = bootlog.layout(log, compared)
    disagreements = bootlog.check(log, compared)
    absent = bootlog.absent(log)
    listed = [_one_of(boots, k, geometry) for k in range(len(boots))]
    document = {
        "agrees": not disagreements,
        "disagreements": disagreements,
        "mask": f"{log.mask:#x}",
        "format": log.format,
        "size": log.size or None,
        "offsets": dict(log.offsets),
        "sizes": dict(log.sizes),
        "not_in_log": absent,
        "boot": log.number,
        "boots": log.boots,
        "all_boots": listed,
        "warnings": list(log.warnings),
        "cpu": _cpu(geometry),
        "cpus_that_agree": agreeing,
        "computed": {"size": ours.size, "offsets": dict(ours.offsets)},
    }
    rows = [
        (i, component_names(1 << i), log.offsets.get(i, "-"), ours.offsets.get(i, "-"), log.sizes.get(i, "-"))
        for i in sorted({*log.offsets, *ours.offsets})
    ]
    which = f" (boot {log.number} of {log.boots})" if log.boots > 1 else ""
    verdict = (
        "the log disagrees with our layout:\n  " + "\n  ".join(disagreements)
        if disagreements
        else "the log agrees with our layout" + (" as far as it goes" if absent else "")
    )
    notes = [*absent, *(f"the kernel warned: {warning}" for warning in log.warnings)]
    if agreeing:
        notes.append(f"it agrees with --cpu {', '.join(agreeing)} (Intel's standard offsets, and usual sizes, differ)")
    title = "no CPU named" if agreeing else _title(geometry, log.format)
    text = (
        f"{log.mask:#x} in the {log.format} format, from the log{which}, against {title}\n\n"
        + table(rows, ("component", "Linux name", "offset in log", "our offset", "size"))
        + f"\n\nsize in log  {f'{log.size} bytes' if log.size else '-'}\nour size     {ours.size} bytes\n\n{verdict}"
        + "".join(f"\n{note}" for note in notes)
    )
    if log.boots > 1:
        text += "\n\nall boots of the log (--boot N shows another):\n" + _boots_table(listed)
    return document, text


def _agreeing(log: bootlog.BootLog) -> list[str]:
    """The shipped CPUs whose layout is that of the log; vendors have other offsets in the standard format."""
    return [each for each in names() if not profile(each).synthetic and not bootlog.check(log, profile(each))]


def _one_of(boots: Sequence[bootlog.BootLog | bootlog.NoBoot], place: int, geometry: Geometry) -> dict[str, Any]:
    log = boots[place]
    if isinstance(log, bootlog.NoBoot):
        return {"boot": place + 1, "why_not": log.why.partition(bootlog_reading.EXPECTED)[0].strip(" :;")}
    agrees = not bootlog.check(log, geometry) or (geometry is GENERIC and bool(_agreeing(log)))
    size = log.size or None
    return {"boot": log.number, "agrees": agrees, "mask": f"{log.mask:#x}", "format": log.format, "size": size}


def _boots_table(listed: list[dict[str, Any]]) -> str:
    rows = []
    for each in listed:
        if "why_not" in each:
            rows.append((each["boot"], "-", "-", "-", each["why_not"]))
        else:
            verdict = "agrees" if each["agrees"] else "disagrees"
            rows.append((each["boot"], each["mask"], each["format"], each["size"], verdict))
    return table(rows, ("boot", "mask", "format", "size", "our layout"))


def _places(mask: int, where: Layout) -> dict[int, int]:
    """Offsets with those of the legacy region, which every area has, if its components are in ``mask``."""
    return {i: LEGACY_OFFSETS[i] for i in bits[mask & (FP | SSE)]} | dict(where.offsets)


def _cpu(geometry: Geometry) -> str | None:
    return geometry.name if isinstance(geometry, CpuProfile) else None


def _title(geometry: Geometry, form: str) -> str:
    if isinstance(geometry, CpuProfile):
        return geometry.title
    return "no CPU named" + (" (Intel's offsets; AMD's differ, see --cpu)" if form == "standard" else "")
