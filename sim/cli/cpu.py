"""fpswitch cpu: the CPU profiles, those of the user made from a dump of CPUID or from the machine at hand."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim.cli.common import emit, json_option, table
from sim.errors import InputError

if TYPE_CHECKING:
    from sim.xsave.profiles import CpuProfile

out_option = click.option("-o", "--out", type=click.Path(path_type=Path), metavar="FILE.toml", help="The profile.")
force_option = click.option("--force", is_flag=True, help="Replace FILE.toml.")


@click.group()
def cpu() -> None:
    """Show CPU profiles, and make one from a dump of CPUID's registers or from this machine.

    Every --cpu, and host.cpu of a scenario, takes the name or the file of a profile. For a CPU without a cost table of
    its own, commands that price need --costs TABLE (a scenario: host.costs).

    \b
    Examples:
      fpswitch cpu list
      fpswitch cpu import cpuid.txt -o my-cpu.toml
      fpswitch cpu detect -o this-machine.toml
      fpswitch layout 0x2e7 --cpu my-cpu.toml
    """


@cpu.command("list", short_help="List the shipped CPU profiles.")
@json_option
def list_profiles(as_json: bool) -> None:
    """List the shipped CPU profiles: the bits that XCR0 and IA32_XSS may have, and the CPU whose costs they use.

    With --json: {"cpus": [{"name", "title", "vendor", "family", "xcr0", "xss", "costs_derived_from" (null: its own),
    "synthetic"}]}.

    \b
    Example:
      fpswitch cpu list
    """
    from sim.costs.table import load
    from sim.xsave.profiles import names, profile

    documents = []
    for name in names():
        one = profile(name)
        documents.append(
            {
                "name": name,
                "title": one.title,
                "vendor": one.vendor,
                "family": _family(one),
                "xcr0": f"{one.xcr0_supported:#x}",
                "xss": f"{one.xss_supported:#x}",
                "costs_derived_from": load(name).derived_from or None,
                "synthetic": one.synthetic,
            }
        )
    rows = [(d["name"], d["xcr0"], d["xss"], d["costs_derived_from"] or "its own", d["title"]) for d in documents]
    emit({"cpus": documents}, table(rows, ("cpu", "XCR0", "IA32_XSS", "costs from", "title")), as_json)


@cpu.command(short_help="Show the components, sizes and features of a CPU.")
@click.argument("name", metavar="NAME|FILE")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show the profile NAME, or that of FILE (a profile or a dump): components, sizes, features, and its source.

    With --json: {"name", "title", "vendor", "family", "signature", "xcr0", "xss", "xfd", "standard_size", "components":
    [{"component", "name", "in", "size", "offset" (in the standard format, or null), "aligned"}], "features", "bugs",
    "mitigations", "l1d_bytes", "l2_bytes", "source", "notes" (what did not come from CPUID)}.

    \b
    Examples:
      fpswitch cpu show zen2
      fpswitch cpu show cpuid.txt --json
    """
    from sim.xsave.profiles import profile

    one = profile(name)
    document = _document(one)
    emit(document, _text(one, document), as_json)


@cpu.command("import", short_help="Make a CPU profile of a dump of CPUID's registers.")
@click.argument("dump", metavar="FILE")
@out_option
@force_option
@json_option
def import_dump(dump: str, out: Path | None, force: bool, as_json: bool) -> None:
    """Make a CPU profile of the CPUID registers in FILE; - is standard input.

    It reads the text of cpuid (also without -r), InstLatx64, kcpuid -r, xen-cpuid, cpucontrol, x86info, libcpuid,
    hwloc, Intel SDE and Bochs, the CPUID lines of a kernel's log (after an XSAVE consistency problem), of vmware.log
    and of VBox.log, libvirt's XML and Firecracker's dumps. Of several CPUs the first is used. Leaf 0DH with its
    sub-leaf 0 is required; whatever else is missing is taken from other CPUs, and noted.

    With --json: as for fpswitch cpu show, and "profile" (the file that was written, or null).

    \b
    Examples:
      fpswitch cpu import cpuid.txt -o my-cpu.toml
      cpuid -1 -r | fpswitch cpu import - -o my-cpu.toml
    """
    from sim.xsave import cpuid, imported

    name = "standard input" if dump == "-" else Path(dump).name
    found = cpuid.read(sys.stdin.buffer, name) if dump == "-" else imported.dump(Path(dump))
    _write(imported.document(found, name), out, force, as_json)


@cpu.command()
@out_option
@force_option
@json_option
def detect(out: Path | None, force: bool, as_json: bool) -> None:
    """Make a CPU profile of the machine on which this runs.

    CPUID needs native code: a small C program is compiled with the system's compiler and run; without a compiler the
    kernel's driver (/dev/cpu/*/cpuid) is read. In a virtual machine the result is what the hypervisor shows.

    With --json: as for fpswitch cpu import.

    \b
    Example:
      fpswitch cpu detect -o this-machine.toml
    """
    from sim.calibrate.cpuid import registers_text
    from sim.xsave import cpuid, imported

    lines, how = registers_text()
    found = cpuid.parse(lines.splitlines(keepends=True), "CPUID of this machine")
    _write(imported.document(found, f"this machine's CPUID, read {how}"), out, force, as_json)


def _write(data: dict[str, Any], out: Path | None, force: bool, as_json: bool) -> None:
    from sim.results import files
    from sim.xsave import imported
    from sim.xsave.profiles import of_data

    one = of_data("the dump" if out is None else str(out), data)
    if out is not None:
        if out.suffix != ".toml":
            raise InputError(f"{out}: a profile's name must end in .toml")
        if out.exists() and not force:
            raise InputError(f"{out} already exists; --force overwrites it")
        try:
            files.write(out, imported.text(data).encode())
        except OSError as error:
            raise InputError(f"cannot write {out}: {error.strerror}") from error
    document = _document(one) | {"profile": None if out is None else str(out)}
    text = _text(one, document)
    if out is None:
        text += "\n\nnothing written: -o FILE.toml writes the profile"
    else:
        text += f"\n\n{out}: written; for --cpu {out}, with --costs TABLE where something is priced"
    emit(document, text, as_json)


def _family(one: "CpuProfile") -> str | None:
    from sim.xsave.families import AMD, HYGON, INTEL, family

    makers = (INTEL,) if one.vendor == "intel" else (AMD, HYGON)
    found = next(filter(None, (family(maker, one.signature) for maker in makers)), None)
    return None if found is None else found.name


def _document(one: "CpuProfile") -> dict[str, Any]:
    from sim.xsave.components import COMPONENTS, EXTENDED, bits

    return {
        "name": one.name,
        "title": one.title,
        "vendor": one.vendor,
        "family": _family(one),
        "signature": f"{one.signature:#010x}" if one.signature else None,
        "xcr0": f"{one.xcr0_supported:#x}",
        "xss": f"{one.xss_supported:#x}",
        "xfd": f"{one.xfd_supported:#x}",
        "standard_size": one.standard_size,
        "components": [
            {
                "component": i,
                "name": COMPONENTS[i].name,
                "in": "IA32_XSS" if one.xss_supported >> i & 1 else "XCR0",
                "size": one.sizes[i],
                "offset": one.offsets.get(i),
                "aligned": bool(one.aligned >> i & 1),
            }
            for i in bits[one.components & EXTENDED]
        ],
        "features": sorted(one.features),
        "bugs": list(one.bugs),
        "mitigations": list(one.mitigations),
        "l1d_bytes": one.l1d_size,
        "l2_bytes": one.l2_size,
        "source": one.source,
        "notes": list(one.notes),
    }


def _text(one: "CpuProfile", document: dict[str, Any]) -> str:
    rows = [
        (c["component"], c["name"], c["in"], c["size"], _or_dash(c["offset"]), "64 bytes" if c["aligned"] else "-")
        for c in document["components"]
    ]
    lines = [
        one.title,
        "",
        f"XCR0 {document['xcr0']}, IA32_XSS {document['xss']}, IA32_XFD {document['xfd']}; "
        f"all of XCR0 in the standard format: {one.standard_size} bytes",
        "",
        table(rows, ("component", "Linux name", "in", "size", "standard offset", "aligned to")),
        "",
        f"features  {' '.join(document['features'])}",
        f"bugs      {' '.join(one.bugs) or '-'}",
        f"mitigated {', '.join(one.mitigations) or '-'}",
        f"caches    {one.l1d_size >> 10} KiB L1D, {one.l2_size >> 10} KiB L2",
        f"source    {one.source}",
        *(f"note: {note}" for note in one.notes),
    ]
    return "\n".join(lines)


def _or_dash(value: int | None) -> int | str:
    return "-" if value is None else value
