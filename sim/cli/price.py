"""`fpswitch price`: what each strategy costs at given rates, without a simulation."""

from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from sim.cli.common import emit, json_option, kernel_name
from sim.cli.kernel_options import guest_options, kernel_options, take_mitigations
from sim.errors import InputError, unknown

if TYPE_CHECKING:
    from sim.analysis.price_load import Load
    from sim.trace.reading.perf_kvm_stat import KvmStat

RATE = "20000/s"
"""An example for messages."""
OF_SETTINGS = (
    "carried", "guest_xss", "guest_xcr0", "guest_cet", "guest_amx", "guest_spec_ctrl", "host_shadow_stacks",
    "msr_access", "vmscape_by", "ibpb_at", "apx", "pasid", "vpmu", "vpmu_in_use", "vpmu_counts_instructions",
    "hypothetical",
)  # fmt: skip


@click.command()
@click.option("--cpu", default="sapphire-rapids", show_default=True, metavar="NAME|FILE",
              help="A CPU profile (fpswitch cpu).")  # fmt: skip
@click.option("--kernel", callback=kernel_name, default="v6.18", show_default=True, metavar="NAME",
              help="A kernel (fpswitch kernels).")  # fmt: skip
@click.option(
    "--exits",
    multiple=True,
    metavar="[REASON=]RATE",
    help=(
        "VM exits that KVM handles while the vCPU keeps its CPU; with REASON: exits of a kind that some fastpath "
        "handles."
    ),
)
@click.option("--load-put", metavar="RATE", help="All pairs of vcpu_load() and vcpu_put(); default: --kvm-run.")
@click.option("--kvm-run", metavar="RATE", help="Those of these pairs that go to user space; default: none.")
@click.option("--switches", metavar="RATE", help="All context switches of the CPU; default: those of the pairs.")
@click.option("--perf-kvm-stat", metavar="FILE", help="Take the exits from the text of perf kvm stat report.")
@click.option("--duration", metavar="TIME", help="How long perf recorded, if FILE does not say.")
@click.option("--cpus", type=int, metavar="N", help="CPUs on which perf counted exits; default: one.")
@click.option(
    "--strategies",
    metavar="LIST",
    help="Names or files, separated by commas; default: all that are possible on the CPU.",
)
@click.option(
    "--between",
    metavar="WHO",
    help="Who runs while a vCPU is switched out: user, kthread, idle, vcpu, or shares as in idle=60%,user=40%; "
    "default: user.",
)
@click.option(
    "--guest-ssp",
    default="constant",
    show_default=True,
    metavar="USE",
    help="What guests do with the carried MSRs: none, constant (written once) or rewritten (each time they run).",
)
@click.option("--guest-amx", is_flag=True, help="Guests have AMX, like the host.")
@guest_options
@kernel_options
@click.option(
    "--registers",
    default="SSE,AVX",
    show_default=True,
    metavar="LIST",
    help="What guests and user tasks write whenever they run: FP, SSE, AVX, AVX-512, APX.",
)
@click.option("--buffer", default="L1", show_default=True, metavar="LEVEL", help="Where fpstates are: L1, L2, memory.")
@click.option("--carried", default="cet-s", show_default=True, metavar="NAME|FILE",
              help="The carried state: shipped, or a TOML file.")  # fmt: skip
@click.option("--costs", metavar="TABLE", help="A cost table, shipped or a TOML file; default: the CPU's.")
@click.option("--tsc", metavar="RATE", help="TSC frequency; default: the CPU profile's.")
@click.option("--hypothetical", is_flag=True, help="Allow strategies that need features the CPU lacks.")
@json_option
def price(as_json: bool, **options: Any) -> None:
    """Price each strategy on one CPU at these rates of events: cycles per second, and share of the CPU.

    Rates are per second of one CPU, such as 20000/s or 20kHz. Each event is a sequence of the kernel model (fpswitch
    flow shows them), priced with the CPU's cost table; nothing is simulated. A load/put pair that goes to user space
    is a KVM_RUN round trip; any other is a vCPU that is preempted or halts, which takes two context switches, or one if
    the next to run is a vCPU. All other switches are between user tasks. Each pair has a VM exit and an entry of its
    own, which --exits does not include.

    perf kvm stat counts all exits, so those of --load-put, and those with a REASON, are subtracted from its number. Its
    table does not say how long it recorded, on how many CPUs, or which exits were load/put pairs: give --duration,
    --cpus, --load-put and --kvm-run (0/s for none).

    The range is the middle 95 % of draws from the ranges of the cost table. docs/price.md explains each number.

    With --json: {"cpu", "kernel", "carried", "cost_table", "tsc_hz", "unit", "load": {"exits", "fastpath", "load_put",
    "kvm_run", "switches", "task_switches", "vm_entries", "between"}, "assumed": [...], "notes": [...], "reference",
    "strategies": {NAME: {"name", "cycles", "percent_of_cpu", "difference", "difference_percent_of_cpu",
    "own_without_xss", "xss_range" (each {"value", "low", "median", "high"}), "xss", "per_load_put" and by event
    "per_event": {"operations", "cycles", "low", "high", "xss"}, "rows": {ROW: cycles}, "assumed_percent", "same_as",
    "unsound", "hypothetical", "guest_xss"}}, "contrasts": [{"a", "b", "own", "own_without_xss"}] (a less b), "unsaid":
    [{"strategy", "option", "per_pair": {VALUE: cycles}}], "rows": [{"row", "share", "of", "value", "low", "high",
    "clock", "grade", "table", "source"}], "left_out": {NAME: why}}. Differences are from "reference", which is null if
    there is none.

    \b
    Example:
      fpswitch price --cpu zen4 --exits 20000/s --load-put 2000/s --kvm-run 500/s --switches 3000/s
    """
    from sim.analysis.price import ImpossibleRates, settings_of
    from sim.analysis.price import price as price_all
    from sim.analysis.price_own import Assumptions, Buffer, GuestSsp
    from sim.costs.table import load as load_costs
    from sim.report.price import document, text
    from sim.xsave.profiles import profile

    for option, allowed in (("guest_ssp", GuestSsp), ("buffer", Buffer)):
        if options[option] not in get_args(allowed):
            raise unknown(f"--{option.replace('_', '-')}", options[option], get_args(allowed))
    cpu = profile(options["cpu"])
    named = [name.strip() for name in (options["strategies"] or "").split(",") if name.strip()]
    settings, left_out = settings_of(
        cpu.name,
        options["kernel"],
        () if named == ["all"] else named,
        mitigations=take_mitigations(options),
        **{name: options[name] for name in OF_SETTINGS},
    )
    assumed = Assumptions(
        guest_ssp=options["guest_ssp"],
        registers=_registers(options["registers"], cpu.xcr0_supported, cpu.name),
        buffer=options["buffer"],
    )
    load, notes = _load(options)
    doubts: list[str] = []
    if options["perf_kvm_stat"]:
        load, doubts = _with_counted(load, options, vendor="vmx" if cpu.vendor == "intel" else "svm")
    tsc_hz = _rate("--tsc", options["tsc"]) or cpu.tsc_hz
    try:
        priced = price_all(load, settings, load_costs(options["costs"] or cpu.name), tsc_hz, assumed)
    except ImpossibleRates as error:
        file = options["perf_kvm_stat"]
        raise InputError(f"{file}: {error}") if file else error from None
    emit(document(priced, notes, doubts, left_out), text(priced, notes, doubts), as_json)


def _load(options: dict[str, Any]) -> "tuple[Load, list[str]]":
    """The rates that were given, and what is assumed of those that were not."""
    from sim.analysis.price_load import Load

    exits = _exits(options["exits"])
    load_put, kvm_run, switches = (_rate(f"--{name.replace('_', '-')}", options[name]) for name in PAIRS)
    from_perf = options["perf_kvm_stat"] is not None
    if not (exits or from_perf) and (load_put, kvm_run, switches) == (None, None, None):
        raise InputError("no rate is given (allowed: one or more of --exits, --load-put, --kvm-run, --switches)")
    if not from_perf and (options["duration"] or options["cpus"] is not None):
        raise InputError("--duration and --cpus go with --perf-kvm-stat, which is not given")
    if from_perf and "" in exits:
        raise InputError("--exits and --perf-kvm-stat both say how many exits there are (allowed: --exits REASON=RATE)")
    load = Load(
        exits=exits.pop("", 0.0),
        load_put=load_put,
        kvm_run=kvm_run or 0.0,
        switches=switches,
        fastpath=exits,  # type: ignore[arg-type]  # checked there
        between=_shares(options["between"]),  # type: ignore[arg-type]
    )
    notes = []
    if load_put and kvm_run is None:
        notes.append("no load/put pair goes to user space (--kvm-run)")
    if load.switched_out and switches is None:
        notes.append("there are no context switches but those of load/put pairs (--switches)")
    return load, notes


PAIRS = ("load_put", "kvm_run", "switches")


def _with_counted(load: "Load", options: dict[str, Any], vendor: str) -> "tuple[Load, list[str]]":
    """The rates with the exits that perf counted, and what may be wrong with these."""
    from sim.analysis.price_load import with_exits_of
    from sim.trace.reading.perf_kvm_stat import read

    file, cpus = options["perf_kvm_stat"], options["cpus"]
    if cpus is not None and cpus < 1:
        raise InputError(f"--cpus {cpus} (allowed: 1 or more)")
    counted = read(file)
    seconds = parse_time("--duration", options["duration"]) or counted.recorded_s
    if not seconds:
        raise InputError(f"{file} does not say how long perf recorded (needed: --duration, such as '10 s')")
    _ask_for_pairs(file, counted, given=[name for name in PAIRS if options[name] is not None])
    doubts = []
    if counted.vendor != vendor:
        if _is_default("cpu"):
            raise InputError(
                f"the exit reasons in {file} are {counted.vendor.upper()}'s, and {options['cpu']}, the default, has "
                f"{vendor.upper()} (needed: --cpu)"
            )
        doubts.append(f"the exit reasons in {file} are {counted.vendor.upper()}'s, and the CPU has {vendor.upper()}")
    if cpus is None:
        doubts.append(f"all exits in {file} are of one CPU (--cpus)")
    if counted.lost:
        doubts.append(f"perf lost {counted.lost} events")
    return with_exits_of(counted, seconds * (cpus or 1), load), doubts


def _ask_for_pairs(file: str, counted: "KvmStat", given: list[str]) -> None:
    """A table of exits does not say how many load/put pairs there were, and these are what most strategies cost."""
    needed = []
    if "load_put" not in given and (counted.halts or "kvm_run" not in given):
        needed.append("--load-put")
    if "kvm_run" not in given and counted.port_io:
        needed.append("--kvm-run")
    if needed:
        some = " and ".join(f"{n} {what}" for n, what in ((counted.halts, "HLT"), (counted.port_io, "I/O port")) if n)
        raise InputError(
            f"{file} does not say how many load/put pairs there were"
            + (f", and its {some} exits are among them, in part or all" if some else "")
            + f" (needed: {' and '.join(needed)}; 0/s for none)"
        )


def _is_default(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is ParameterSource.DEFAULT


def _rate(option: str, text: str | None) -> float | None:
    """Events per second; None if the option was not given."""
    from sim.scenario.units import RATES, parsed

    try:
        return None if text is None else parsed(text.strip(), "a rate", RATES, RATE, 1e12)
    except ValueError as error:
        raise InputError(f"{option} {text!r} is not a rate; allowed: {error}") from error


def parse_time(option: str, text: str | None) -> float | None:
    """A time in seconds; None if the option was not given."""
    from sim.scenario.units import parsed_time

    try:
        return None if text is None else parsed_time(text.strip())
    except ValueError as error:
        raise InputError(f"{option} {text!r} is not a time (allowed: {error})") from error


def _exits(texts: tuple[str, ...]) -> dict[str, float]:
    """Rates by exit reason, "" for those without one."""
    found: dict[str, float] = {}
    for text in texts:
        reason, _, rate = text.rpartition("=")
        reason = reason.strip()
        if reason in found:
            raise InputError(f"--exits {text!r}: a second rate for {reason or 'exits'} (allowed: one)")
        found[reason] = _rate("--exits", rate) or 0.0
    return found


def _shares(text: str | None) -> dict[str, float] | None:
    """Who runs between: one name, or names with shares that sum to 1."""
    if text is None:
        return None
    if "=" not in text:
        return {text.strip(): 1.0}
    found: dict[str, float] = {}
    for part in text.split(","):
        who, _, share = (each.strip() for each in part.partition("="))
        try:
            found[who] = float(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
        except ValueError as error:
            raise InputError(f"--between {part.strip()!r} (allowed: a name and a share, as in idle=60%)") from error
    return found


def _registers(text: str, there: int, cpu: str) -> int:
    """The components of --registers, which the CPU must have."""
    from sim.xsave.components import APX, AVX, AVX512, FP, SSE

    masks = {"FP": FP, "SSE": SSE, "AVX": AVX, "AVX-512": AVX512, "APX": APX}
    allowed = [name for name, mask in masks.items() if mask & there == mask]
    found = 0
    for name in filter(None, map(str.strip, text.split(","))):
        if name not in allowed:
            raise InputError(f"--registers {name!r} on {cpu} (allowed: {', '.join(allowed)})")
        found |= masks[name]
    return found
