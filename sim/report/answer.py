"""The first screen: the answer in an engineer's units, how sure it is and what it rests on; 40 lines of 72 columns."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sim.report import layout, names, not_shown, schedule_answer, schedule_table, sureness, tables, units, words
from sim.report.amounts import counted, fixed
from sim.report.layout import WIDTH, Part, at_most, item, part, whole, wrapped
from sim.report.names import cpu
from sim.report.shown import SOME_CASES, Shown
from sim.results.manifest import COMPLETE

LINES: Final = 40
MOST: Final = 5
"""How many strategies of a case have a line of their own."""
RATES: Final = 18
COLUMN: Final = 9


def text(screen: Shown) -> str:
    """The first screen, at most :data:`LINES` lines of 72 columns."""
    return "\n".join(layout.fitted(list(parts(screen)), LINES))


def parts(screen: Shown) -> Iterator[Part]:
    """What the first screen is made of."""
    yield part(heading(screen), gap=False)
    yield _answer(screen)
    yield units.part_of(screen)
    yield sureness.part_of(screen)
    yield _load(screen)
    yield schedule_table.part_of(screen)
    reactions = words.host(screen)
    yield part(item("HOST", host_text(reactions)), item("HOST", host_text(reactions[:1])), losses=[1.2])
    missing = what_is_missing(screen)
    yield part(item("NOT SHOWN", "; ".join(missing)), item("NOT SHOWN", "; ".join(missing[:1])), losses=[1.1])
    yield part(unsound := item("UNSOUND", unsound_text(screen)), at_most(unsound, 2), losses=[3], gap=False)
    yield part(item("CITE", cite(screen)), gap=False)
    yield part(item("MORE", more(screen)), item("MORE", MORE), losses=[5], gap=False)


# What was simulated.


def heading(screen: Shown) -> list[str]:
    """Title, host and replications, and a rule."""
    manifest = screen.manifest
    simulated = f"{host(screen)}; {replications(screen)}, seed {manifest['seed']}"
    lines = [*at_most(wrapped(title(manifest)), 2), *wrapped(simulated), "=" * WIDTH]
    return lines + [line for text in warnings(screen) for line in wrapped(text)]


def title(manifest: Mapping[str, Any]) -> str:
    """The name of the scenario and its title."""
    name, own = manifest["scenario"], str(manifest["resolved"]["title"])
    return f"{name}: {own}" if name and name != own else own


def warnings(screen: Shown) -> list[str]:
    """What must be known before anything else."""
    found = []
    if (status := screen.manifest["status"]) != COMPLETE:
        found.append(f"THE RUN IS NOT COMPLETE (status {status}): only what was finished is here.")
    if any(case.document["timed_by"] is None for case in screen.cases):
        found.append(
            "Results of fpswitch 0.1.0, where each strategy timed a host of its own: differences include how the host "
            "reacts."
        )
    return found


def replications(screen: Shown) -> str:
    """How many there are."""
    return counted(screen.n, "replication")


def host(screen: Shown) -> str:
    """CPUs, vCPUs, how busy they were, and the kernel."""
    documents = [case.document for case in screen.cases]
    cpus = _between([case["cpus"] for case in documents])
    models = list(dict.fromkeys(cpu(case["cpu"]) for case in documents))
    kernels = list(dict.fromkeys(case["kernel"] for case in documents))
    vcpus = [case["vcpus"] for case in documents]
    busy = [100 * case.load.busy for case in screen.cases if case.load]
    parts = [
        counted(cpus, "CPU") + (f" ({models[0]})" if len(models) == 1 else ""),
        counted(_between(vcpus), "vCPU") if any(vcpus) else "no vCPUs",
        *([f"{_between([round(each) for each in busy])} % busy"] if busy else []),
        f"Linux {', '.join(kernels[:3])}" + (", ..." if len(kernels) > 3 else ""),
    ]
    return ", ".join(parts)


def _between(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"


# The answer.


def _answer(screen: Shown) -> Part:
    sentences = words.sentences(screen)
    said = item("ANSWER", " ".join(sentences))
    if schedule_answer.is_asked(screen) and not any(case.lines for case in screen.cases):
        table, some = (schedule_answer.lines(screen, most=each) for each in (None, SOME_CASES))
        brief = whole("ANSWER", sentences, 6)
        return part([*said, *table], [*brief, *table], [*brief, *some], losses=[0.5, 4.9], gap=False)
    if words.of_two_cases_alone(screen):
        return part(said, whole("ANSWER", sentences, 5), losses=[10.0], gap=False)
    most = max((len(case.lines) for case in screen.cases), default=0)
    sizes = range(min(MOST, max(most, 1)), 0, -1)
    variants = [[*said, *tables.of(screen, size)] for size in sizes]
    short = [*whole("ANSWER", sentences, 5), *tables.of(screen, 1)]
    losses = [{4: 1.0, 3: 2.0, 2: 4.5, 1: 9.0}[size] for size in sizes[1:]]
    return part(*variants, short, losses=[*losses, 10.0], gap=False)


# The load.


def _load(screen: Shown) -> Part:
    loads = [(case, case.load) for case in screen.cases if case.load]
    if not loads:
        return part([])
    vcpus = any(case.document["vcpus"] for case, _ in loads)
    per = screen.cases[0].per
    columns = ("exits", "switches", "KVM_RUN", "halts", "load+put", "busy") if vcpus else ("switches", "busy")
    title = f"LOAD (per {per}-second; compare with {'perf kvm stat, ' * vcpus}perf stat)"
    heading = screen.heading if len(screen.cases) > 1 else ""
    values = [(each.exits, each.switches, each.kvm_runs, each.halts, each.load_puts, each.busy) for _, each in loads]
    rows = [(case.short, _load_cells(each, vcpus)) for (case, _), each in zip(loads, values, strict=True)]
    widths = [COLUMN] * len(columns)
    if max(len(label) for label, _ in rows) > RATES - 3 and not (len(rows) > 2 and schedule_answer.is_asked(screen)):
        widths = [max(map(len, column)) + 1 for column in zip(columns, *(cells for _, cells in rows), strict=True)]
    first = min(RATES + COLUMN * len(columns), WIDTH) - sum(widths)

    def row(label: str, cells: Sequence[str]) -> str:
        numbers = "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return f"  {names.cut(label, first - 3)}".ljust(first) + numbers

    head = row(heading if len(heading) <= first - 3 else "", columns)
    every = [row(*each) for each in rows]
    some = [every[i] for i in sorted({0, (len(every) - 1) // 3, 2 * (len(every) - 1) // 3, len(every) - 1})]
    ends = [
        row(label, _load_cells([f(column) for column in zip(*values, strict=True)], vcpus))
        for label, f in (("least", min), ("most", max))
    ]
    if schedule_answer.is_asked(screen):
        return part([title, head, *(every if len(every) <= 2 else ends)], [], losses=[4.0])
    if len(every) <= 2:
        return part([title, head, *every])
    if len(every) <= len(some):
        return part([title, head, *every], [title, head, *ends], losses=[4.8])
    return part([title, head, *every], [title, head, *some], [title, head, *ends], losses=[0.9, 4.8])


def _load_cells(values: Sequence[float], vcpus: bool) -> list[str]:
    """Rates and, at the end, how busy; without vCPUs the context switches alone."""
    cells = [*(fixed(rate, 0) for rate in values[:-1]), f"{fixed(100 * values[-1], 0)} %"]
    return cells if vcpus else [cells[1], cells[5]]


# What is not there, and where to go on.


def host_text(reactions: Sequence[str]) -> str:
    """How the host reacts under each contrast, and what the margins are."""
    said = "; ".join(reactions)
    return f"{said} (independent runs; within: two one-sided tests at 2.5 %)" if said else ""


def what_is_missing(screen: Shown) -> list[str]:
    """What own operations cannot show and was not asked for; what had too few samples; what no operation shows."""
    asked = [each for case in screen.cases for each in case.asked if each.found]
    has_feedback = screen.comparison.independent is not None and (not asked or words.reactions(screen))
    said = [] if has_feedback else ["how the host reacts (throughput, latency): --feedback"]
    return [*said, *filter(None, [words.unknown_reactions(screen)]), *not_shown.sentences(screen.manifest)]


def unsound_text(screen: Shown) -> str:
    """The strategies whose cost cannot be compared, and the cases in which that is so."""
    where: dict[tuple[str, str], list[str]] = {}
    for case in screen.cases:
        for name, why in case.unsound.items():
            kind = next((each for each in ("NOT documented", "not caught here") if each in why), "")
            where.setdefault((kind, name), []).append(case.title)
    together: dict[tuple[str, str], list[str]] = {}
    for (kind, name), shorts in where.items():
        everywhere = len(shorts) == sum(name in case.labels for case in screen.cases)
        place = "" if everywhere else ", ".join(shorts[:2]) + ", ..." * (len(shorts) > 2)
        together.setdefault((kind, place), []).append(name)
    said = [
        ", ".join(found) + (f" ({', '.join(filter(None, key[::-1]))})" if any(key) else "")
        for key, found in sorted(together.items())
    ]
    return f"{'; '.join(said)}: not comparable" if said else ""


def cite(screen: Shown) -> str:
    """What is needed to find the same numbers again."""
    manifest = screen.manifest
    versions = manifest["versions"]
    return (
        f"fpswitch {versions['fpswitch']} ({versions['source_sha256'][:12]}), scenario "
        f"{manifest['scenario_sha256'][:12]}, seed {manifest['seed']}"
    )


MORE: Final = "fpswitch compare DIR --full | --mail; fpswitch report DIR"


def more(screen: Shown) -> str:
    """What else there is to see."""
    directory = screen.comparison.results.directory
    if directory is None:
        return "comparison.summary(), .mail(), .df_*(), .plot_*()"
    if len(str(directory)) > units.LONG_PATH:
        return f"{MORE} (DIR: {directory})"
    return f"fpswitch compare {directory} --full | --mail; fpswitch report {directory} -o report.html"
