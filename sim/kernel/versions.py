"""The kernels of the model, and what differs between them.

Facts, values and texts are in ``versions.toml`` beside this module, each with its source and how it was checked.
``python -m sim.kernel.versions`` prints the page docs/kernel-versions.md from that file.
"""

import json
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sim.errors import MOST_COMPARED, InputError, unknown
from sim.kernel import releases

_FILE: Final = "versions.toml"
_STRICT: Final = ConfigDict(extra="forbid", strict=True)

Vendor = Literal["vmx", "svm"]
Preemption = Literal["none", "voluntary", "full", "lazy"]
"""The preemption models: PREEMPT_NONE, PREEMPT_VOLUNTARY, PREEMPT (full) and PREEMPT_LAZY."""
Exit = Literal["wrmsr-icr", "wrmsr-tsc-deadline", "preemption-timer", "hlt-event-pending", "invd", "wrmsr-imm"]
"""The VM exits that some kernel handles in the fastpath."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ByVendor(Generic[_T]):
    """A value for VMX and one for SVM; ``value["svm"]`` is ``value.svm``."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    vmx: _T
    svm: _T

    def __getitem__(self, vendor: Vendor) -> _T:
        return self.vmx if vendor == "vmx" else self.svm


@dataclass(frozen=True, slots=True)
class KernelVersion:
    """What the model has to know about one kernel; the rows are those of docs/kernel-versions.md."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    title: str

    need_fpu_load_set_on: Literal["next", "prev"]
    """Row 1: the task whose TIF_NEED_FPU_LOAD a switch sets."""
    fork_copies_parent_area: bool
    """Row 2: fork copies the parent's FPU area before it saves the registers into the child's."""
    drop_ignores_need_fpu_load: bool
    """Row 3: exit drops the FPU state even if the registers do not hold it."""
    kernel_fpu_begin_disables: Literal["preemption", "bottom halves unless interrupts are off"]
    """Row 4: what may not interrupt the kernel's use of the FPU."""
    supervisor_supported: int
    """Row 5: XFEATURE_MASK_SUPERVISOR_SUPPORTED."""
    user_supported: int
    """Row 5: XFEATURE_MASK_USER_SUPPORTED."""
    cet_u_needs: tuple[Literal["SHSTK", "IBT"], ...]
    """Row 5: CPU features of which any one keeps component 11."""
    guest_only: int
    """Row 6: components that guest fpstates have by default and normal ones never."""
    guest_allocation: Literal["user default size", "guest size"]
    """Row 6: the size that a guest fpstate's memory is computed from."""
    guest_xss: ByVendor[int]
    """Row 7: the most that KVM can offer a guest in IA32_XSS."""
    xfeatures_swapped: Literal["vcpu_run", "vcpu_enter_guest"]
    """Row 8: the function that switches XCR0, XSS and PKRU; in vcpu_run, every re-entry does so again."""
    write_pkru_reads: bool
    """Row 8: KVM writes PKRU by write_pkru(), which reads it once more to compare, and not by WRPKRU alone."""
    fastpath: ByVendor[tuple[Exit, ...]]
    """Row 9: exits after which the fastpath re-enters the guest."""
    fastpath_handled: ByVendor[tuple[Exit, ...]]
    """Row 9: exits that the fastpath handles without re-entering."""
    signal_opens_pkru: bool
    """Row 10: PKRU is 0 while the signal frame is written."""
    clear_user_states_updates_xfd: bool
    """Row 10: XFD is brought up to date before the XRSTORS of the initial state."""
    guest_xfd_write_clears_xstate_bv: bool
    """Row 11: an emulated write of XFD clears the disabled components of a guest state that is in memory."""
    kvm_cet: ByVendor[bool]
    """Row 12: KVM can give guests CET."""
    cet_msr_ioctl_loads_fpu: bool
    """Row 12: KVM_GET_MSRS and KVM_SET_MSRS load the guest FPU for CET MSRs."""
    cet_msr_ioctl_asks_cpuid: bool
    """Row 12: they do so only for a guest whose CPUID has CET."""
    init_reset_components: int
    """Row 12: components that a guest INIT zeroes, as far as KVM supports them."""
    preempted_needs_wants_to_run: bool
    """Row 13: a vCPU counts as preempted only if it also wants to run."""
    halt_poll_ns_shrink: int
    """Row 14: the divisor of a shrinking poll window; 0 means that the window becomes 0."""
    tracepoints: Literal["v6.6", "v6.12", "v6.18"]
    """Row 15: the kernel whose tracepoint formats these are."""
    struct_fpu: Literal["in thread_struct", "after task_struct"]
    """Row 16: where struct fpu is."""
    ibpb_exit_to_user: bool
    """Row 17: return to user mode after a guest has run may do an IBPB (VMSCAPE)."""
    vcpu_switch_ibpb: Literal["vendor vcpu_load", "kvm_arch_vcpu_load"]
    """Row 18: the function that does the IBPB between vCPUs."""
    preemption_models: tuple[Preemption, ...]
    """Row 19: the preemption models that it can be built or booted with."""
    preemption_default: Preemption
    """Row 19: the default one."""
    hrtick: bool
    """Row 20: HRTICK is on by default."""
    slice_rules: Literal["v6.18", "v7.3"]
    """Row 21: the kernel whose rules of slices and their protection a simulated host has."""
    mitigations: tuple[str, ...]
    """Row 22: what of :data:`sim.xsave.profile_data.MITIGATIONS` it sets on a CPU that needs it."""
    directed_yield: Literal["v6.18", "v7.3"]
    """Row 23: the kernel whose kvm_vcpu_on_spin() it has."""

    @property
    def gives_cet(self) -> bool:
        """Whether any guest can have CET."""
        return self.kvm_cet.vmx or self.kvm_cet.svm


@dataclass(frozen=True, slots=True)
class Cell:
    """One kernel's side of a difference: the sentences, their source, how they were checked, the model's values.

    ``since`` is the release that brought it, such as v6.16, where that is known and is no kernel of the model.
    """

    says: str
    source: str
    checked: str
    values: Mapping[str, object]
    since: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One row of the table, with a cell for each kernel."""

    number: int
    topic: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True, slots=True)
class Note:
    """A section of the page that belongs to no single difference."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """All of versions.toml."""

    intro: str
    kernels: Mapping[str, KernelVersion]
    about: Mapping[str, str]
    trees: Mapping[str, releases.Tree]
    mails: Mapping[str, str]
    differences: tuple[Difference, ...]
    notes: tuple[Note, ...]


def version(name: str) -> KernelVersion:
    """The kernel called ``name``.

    For any other release the :class:`~sim.errors.InputError` says which kernel is nearest, and what may differ.
    """
    known = kernels()
    if name in known:
        return known[name]
    if never := releases.never(name):
        slip = next((f"; did you mean {each!r}?" for each in known if name.startswith(each)), "")
        found = name[:MOST_COMPARED]
        raise InputError(f"unknown kernel version {found!r}: {never}{slip} (allowed: {', '.join(known)})")
    if (wanted := releases.release(name)) is None:
        raise unknown("kernel version", name, known)
    near = nearest(wanted)
    says = near.says or f"the model's row for it is {near.kernel!r}"
    says += f"; fpswitch kernels {name} says {'how' if near.says else 'more'}" if near.was_read or not near.says else ""
    raise InputError(f"unknown kernel version {name!r}: {says} (allowed: {', '.join(known)})")


def nearest(wanted: releases.Release) -> releases.Nearest:
    """The kernel of the model that is nearest to a release of Linux, and in a sentence what may differ."""
    return releases.nearest(wanted, kernels(), differences())


def kernels() -> Mapping[str, KernelVersion]:
    """The kernels by name, oldest first."""
    return _table().kernels


def names() -> tuple[str, ...]:
    """The names of the kernels, oldest first."""
    return tuple(kernels())


def about() -> Mapping[str, str]:
    """What each kernel is, in a sentence or two."""
    return _table().about


def differences() -> tuple[Difference, ...]:
    """The rows of the table, by number."""
    return _table().differences


@cache
def _table() -> Table:
    return parse(resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8"))


def parse(text: str) -> Table:
    """The table that ``text`` describes in TOML; a key that is missing, unknown or of the wrong type is an error."""
    root = tomllib.loads(text)
    _keys(root, "the file", {"intro", "kernels", "trees", "mails", "difference", "note"})
    kernels: Mapping[str, dict[str, str]] = {
        name: _strings(table, f"kernels.{name}", {"title", "about", *({"as", "checked"} if "as" in table else ())})
        for name, table in root["kernels"].items()
    }
    rows = tuple(_difference(row, kernels) for row in root["difference"])
    if [row.number for row in rows] != list(range(1, len(rows) + 1)):
        raise InputError(f"{_FILE}: the differences are not numbered 1, 2, 3 and so on in this order")
    return Table(
        intro=root["intro"].strip(),
        kernels={name: _kernel(name, table["title"], rows) for name, table in kernels.items()},
        about={name: table["about"] for name, table in kernels.items()},
        trees={
            name: releases.Tree(**_strings(table, f"trees.{name}", {"repository", "commit", "about"}))
            for name, table in root["trees"].items()
        },
        mails=_strings(root["mails"], "mails", root["mails"]),
        differences=rows,
        notes=tuple(Note(**_strings(table, "note", {"title", "text"})) for table in root["note"]),
    )


def _keys(table: Mapping[str, Any], where: str, keys: Collection[str]) -> None:
    for name in table:
        if name not in keys:
            raise InputError(f"{_FILE}: {where}: {unknown('key', name, keys)}")
    if missing := sorted(set(keys) - set(table)):
        raise InputError(f"{_FILE}: {where}: missing {', '.join(missing)}")


def _strings(table: Mapping[str, Any], where: str, keys: Collection[str]) -> dict[str, str]:
    _keys(table, where, keys)
    for name, value in table.items():
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{_FILE}: {where}.{name}: {value!r} is not a text (allowed: a text that is not empty)")
    return {name: value.strip() for name, value in table.items()}


def _difference(row: Mapping[str, Any], kernels: Mapping[str, Mapping[str, str]]) -> Difference:
    where = f"difference {row.get('number', '?')}"
    left_out = {name for name, kernel in kernels.items() if "as" in kernel and name not in row}
    _keys(row, where, {"number", "topic", *kernels} - left_out)
    cells: dict[str, Cell] = {}
    for name, kernel in kernels.items():
        if name in left_out:
            if (like := kernel["as"]) not in cells:
                raise InputError(f"{_FILE}: kernels.{name}.as: {unknown('kernel above it', like, cells)}")
            cells[name] = replace(cells[like], says=f"As {like}.", checked=kernel["checked"])
            continue
        rest = dict(row[name])
        values = rest.pop("values", None)
        if not isinstance(values, dict):
            raise InputError(f"{_FILE}: {where}, {name}: missing values")
        if cells:
            _keys(values, f"{where}, {name}, values", next(iter(cells.values())).values)
        keys = {"says", "source", "checked", *({"since"} & set(rest))}
        cells[name] = Cell(**_strings(rest, f"{where}, {name}", keys), values=values)
    return Difference(row["number"], row["topic"], cells)


def _kernel(name: str, title: str, rows: tuple[Difference, ...]) -> KernelVersion:
    values: dict[str, object] = {"name": name, "title": title}
    for row in rows:
        if twice := sorted(values.keys() & row.cells[name].values):
            raise InputError(f"{_FILE}: difference {row.number}, {name}: {', '.join(twice)} is already set")
        values |= row.cells[name].values
    _keys(values, f"all values of {name}", [f.name for f in fields(KernelVersion)])
    try:  # by way of JSON, because only there a strict check takes an array for a tuple and a table for a dataclass
        return TypeAdapter(KernelVersion).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise InputError(f"{_FILE}: {name}, {at}: {first['input']!r} is wrong ({first['msg']})") from error


def markdown() -> str:
    """The page docs/kernel-versions.md."""
    table = _table()
    lines = [
        "# The kernels of the model and their differences",
        "",
        "<!-- Made from sim/kernel/versions.toml by: python -m sim.kernel.versions > docs/kernel-versions.md -->",
        "",
        *(f"- **{name}**: {kernel.title}. {table.about[name]}" for name, kernel in table.kernels.items()),
        "",
        table.intro,
        "",
        "| tree | repository @ commit | |",
        "|---|---|---|",
        *(
            f"| {name} | {tree.repository} @ `{tree.shown_commit}` | {tree.about} |"
            for name, tree in table.trees.items()
        ),
        "",
        "Mails of the lists kvm@vger.kernel.org and linux-kernel@vger.kernel.org that the rows name:",
        "",
        *(f"- {name}: `{message}`" for name, message in table.mails.items()),
        "",
        "## The values",
        "",
        "The model's flow follows those that change which operations run. Where FPU code may be interrupted (4), exits",
        "that a fastpath handles without re-entry (9), what counts as preempted (13), the poll window (14), tracepoint",
        "formats (15) and the place of struct fpu (16) change none; they serve to compare a trace or a host.",
        "Preemption (19), HRTICK (20), slices (21) and directed yield (23) are a simulated host's; no flow has them.",
        "Masks are hexadecimal, bit i is XSAVE component i.",
        "",
        f"| # | difference | value | {' | '.join(table.kernels)} |",
        "|---|---|---|" + "---|" * len(table.kernels),
    ]
    for row in table.differences:
        number, topic = str(row.number), row.topic
        for key in row.cells[names()[0]].values:
            cells = " | ".join(shown(cell.values[key]) for cell in row.cells.values())
            lines.append(f"| {number} | {topic} | `{key}` | {cells} |")
            number = topic = ""
    for row in table.differences:
        lines += ["", f"## {row.number}. {row.topic}", ""]
        for name, cell in row.cells.items():
            lines += [
                f"- **{name}**: {cell.says}{f' (Since {cell.since}.)' if cell.since else ''}<br>",
                f"  *Source:* {cell.source}.<br>",
                f"  *Checked:* {cell.checked}.",
            ]
    lines += _other_releases()
    for note in table.notes:
        lines += ["", f"## {note.title}", "", note.text]
    return "\n".join(lines) + "\n"


def _other_releases() -> list[str]:
    lines = [
        "",
        "## Releases that were read and are no kernel of the model",
        "",
        "Each was compared with the kernel that it is like, function by function and without comments, in the",
        "functions that the rows name. What is not listed is the same. Of a release that was not read, `fpswitch`",
        "takes from the two around it what both do, and says that the rest may differ.",
    ]
    for name, each in releases.read_releases().items():
        tree = each.tree
        at = f"{tree.repository} @ `{tree.shown_commit}`"
        lines += ["", f"**{name}**, as {each.like}. Read: {tree.name}, {at} ({tree.about})."]
        lines += [f"{each.besides}."] if each.besides else []
        lines += [""]
        lines += [f"- {row.number}: {row.says} *Source:* {row.source}." for row in each.differs]
    beyond = releases.beyond()
    return [*lines, "", f"**After v7.3**: {beyond.says}. *Source:* {beyond.source}."]


def shown(value: object, between_vendors: str = "<br>") -> str:
    """A value of the table as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return hex(value) if value > 9 else str(value)  # a mask of the table is 0 or beyond 9, a count is below
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, dict):
        return between_vendors.join(f"{vendor}: {shown(inner)}" for vendor, inner in value.items())
    return str(value)


if __name__ == "__main__":
    print(markdown(), end="")
