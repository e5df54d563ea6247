"""A comparison as plain text, ready for a mailing list: nothing wider than 72 columns."""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from tabulate import tabulate

from sim.analysis.categories import CATEGORIES
from sim.analysis.estimates import CONFIDENCE, ENOUGH
from sim.analysis.metrics import (
    CARRYING_COST,
    CARRYING_COST_WITHOUT_XSS,
    COST,
    COST_WITHOUT_XSS,
    PHASES,
    latency_metric,
)
from sim.analysis.rates import MISS, missed_by_law
from sim.report import endings, not_shown, statements
from sim.report.amounts import counted
from sim.report.amounts import si as _si
from sim.report.names import cut

if TYPE_CHECKING:
    from sim.analysis.comparison import Comparison

WIDTH: Final = 72
LABEL: Final = 22
"""Width of a strategy's name, in characters; no shipped name is longer."""

SHORT: Final = {"FPU": "FPU", "MSR": "MSR", "XSS": "XSS", "virtualisation": "virt.", "scheduling": "sched."}

Cells = Mapping[str, "pd.Series"]


def text(comparison: "Comparison", in_units: Sequence[str]) -> str:
    """The summary; sections of all cases, the lines ``in_units``, then what is needed to repeat it."""
    manifest = comparison.results.manifest
    parts = [_heading(manifest), _how_to_read(manifest), *map(_wrapped, comparison.notes())]
    for case in comparison.results.cases:
        parts += _case(comparison, case)
    parts += [
        statements.contrasts(comparison),
        "\n".join(in_units),
        *map(_wrapped, not_shown.sentences(manifest)),
        endings.integrity(comparison),
        endings.hypothetical(comparison),
        endings.provenance(comparison),
    ]
    return "\n\n".join(part for part in parts if part)


def _heading(manifest: Mapping[str, Any]) -> str:
    resolved = manifest["resolved"]
    title = f"{manifest['scenario']}: {resolved['title']}" if manifest["scenario"] else resolved["title"]
    lines = textwrap.wrap(title, WIDTH)
    rule = "=" * max(map(len, lines))
    question = resolved.get("question", "").strip()
    return "\n".join([*lines, rule, *(["", _wrapped(question)] if question else [])])


def _how_to_read(manifest: Mapping[str, Any]) -> str:
    n = manifest["replications"]
    texts = [
        "Cost: TSC cycles of the listed FPU, MSR, XSS, virtualisation and scheduling operations, per second and vCPU "
        "of the host (per CPU, if it has no vCPUs); k, M, G are thousands, millions, billions. +-: half the "
        f"{100 * CONFIDENCE:.0f} % t interval over {n} replication{'s' * (n != 1)}. Differences are paired: in one "
        "replication all strategies follow the same schedule. p: two-sided paired t test; if the scenario does not "
        "ask about the pair, adjusted by Holm for all such differences of the same quantity, which is why a "
        "difference may have another p with the writes of IA32_XSS than without. (*): the reference. (!): violates "
        "integrity, so its cost is not comparable."
    ]
    if manifest["status"] != "complete":
        texts.append(f"THE RUN IS NOT COMPLETE (status {manifest['status']}): only what was finished is shown.")
    if n < ENOUGH:
        texts.append(
            f"WARNING: {n} replication{'s' * (n != 1)}. Intervals and p-values over fewer than {ENOUGH} say little."
        )
    return "\n\n".join(map(_wrapped, texts))


def _case(comparison: "Comparison", case: Mapping[str, Any]) -> list[str]:
    name, reference = case["case"], comparison.references[case["case"]]
    metrics = comparison.df_metrics()
    metrics = metrics[metrics["case"] == name]
    if metrics.empty:
        return [_case_heading(case), "No replication was finished."]
    means = _cells(metrics, "mean")
    half = _cells(metrics.assign(half=(metrics["high"] - metrics["low"]) / 2), "half")
    differences = comparison.df_differences()
    differences = differences[differences["case"] == name]
    decides = differences["p"].where(differences["planned"].astype(bool), differences["p_adjusted"])
    differences = differences.assign(half=(differences["high"] - differences["low"]) / 2, p=decides)
    moved = {column: _cells(differences, column) for column in ("mean", "half", "p", "verdict")}
    latency = comparison.df_latency()
    latency = latency[latency["case"] == name]
    histograms = zip(latency["histogram"], latency["quantile"], strict=True)
    pooled = _cells(latency.assign(metric=[latency_metric(*each) for each in histograms]), "us")
    grades = comparison.df_grades()
    assumed = grades[(grades["case"] == name) & (grades["grade"] == "assumed")].set_index("strategy")["percent"]
    rates = comparison.df_break_even()
    rates = rates[(rates["case"] == name) & (rates["source"] == "law")]
    break_even = _cells(rates.rename(columns={"rate": "metric"}), "value")
    strategies = [s for s in case["strategies"] if s in means[COST]]
    compared = [s for s in strategies if s != reference]
    same = [s for s in compared if all(of.get(s, "same") == "same" for of in moved["verdict"].values())]
    strategies = [s for s in strategies if s not in same]
    others = [s for s in compared if s not in same]
    violating = comparison.violating(name)
    per = "vCPU" if case["vcpus"] else "CPU"
    where = f"[{name}] " if len(comparison.results.cases) > 1 else ""

    def table(title: str, columns: Sequence[tuple[str, Callable[[str], str]]], of: Iterable[str]) -> str:
        rows = [[_label(s, reference, violating), *(cell(s) for _, cell in columns)] for s in of]
        rows = [row for row in rows if any(cell != "-" for cell in row[1:])]
        used = [i for i in range(len(columns)) if any(row[i + 1] != "-" for row in rows)]
        if not used or not rows:
            return ""
        head = ["strategy", *(columns[i][0] for i in used)]
        return f"{_wrapped(where + title)}\n\n{_table(head, [[row[0], *(row[i + 1] for i in used)] for row in rows])}"

    def value(frame: Mapping[str, Any], metric: str, form: Callable[[float], str]) -> Callable[[str], str]:
        return lambda strategy: form(_at(frame, metric, strategy))

    def difference(metric: str) -> list[tuple[str, Callable[[str], str]]]:
        return [
            ("diff", value(moved["mean"], metric, _signed)),
            ("+-", value(moved["half"], metric, _si)),
            ("p", value(moved["p"], metric, _p)),
        ]

    def all_of_it() -> bool:
        """Whether strategies differ only in FPU, MSR and XSS operations."""
        return all(
            math.isclose(_at(moved["mean"], whole, s), _at(moved["mean"], part, s), rel_tol=1e-9, abs_tol=1e-6)
            for whole, part in ((COST, CARRYING_COST), (COST_WITHOUT_XSS, CARRYING_COST_WITHOUT_XSS))
            for s in others
        )

    of_parts = [
        table(
            "The part of it that a strategy does by itself, FPU, MSR and XSS operations (left), and without XSS "
            "(right); the rest are virtualisation and scheduling, such as exits that only a lazy strategy makes:",
            [*difference(CARRYING_COST), *difference(CARRYING_COST_WITHOUT_XSS)],
            others,
        ),
        _verdicts(moved["verdict"], compared, reference, violating, (CARRYING_COST, CARRYING_COST_WITHOUT_XSS)),
    ]
    left_out = f"Exactly like {short(reference)}, and in no table: {', '.join(map(short, same))}."
    has_amx = any(means.get("task_amx_fpstate_bytes", {}).values())
    of_amx = " (a task that has used AMX has a larger one besides, in whole pages)" if has_amx else ""
    return [
        _case_heading(case),
        _wrapped(left_out) if same else "",
        table(
            f"Cost, cycles per {per}-second; its share of all CPU time; and how much of the cost, and of the "
            "difference from the reference, rests on cost-table rows that are assumed (in %):",
            [
                ("cost", value(means, COST, _si4)),
                ("+-", value(half, COST, _si)),
                ("% CPU", value(means, "cpu_share", partial(_fixed, decimals=3))),
                ("cost\nassumed", value(means, "cost_on_assumed", _fixed)),
                ("diff.\nassumed", lambda strategy: _fixed(float(assumed.get(strategy, math.nan)))),
            ],
            strategies,
        ),
        table(
            f"Where it goes, cycles per {per}-second:",
            [(SHORT[c], value(means, f"cost_{c.lower()}", _si4)) for c in CATEGORIES],
            strategies,
        ),
        table(
            f"Difference from {short(reference)}, cycles per {per}-second: with the writes of IA32_XSS (left), and "
            "without (right):",
            [*difference(COST), *difference(COST_WITHOUT_XSS)],
            others,
        ),
        _verdicts(moved["verdict"], compared, reference, violating, (COST, COST_WITHOUT_XSS)),
        *([] if all_of_it() else of_parts),
        table(
            "The whole difference with all fpstate buffers in L1 (warm), where the model has them, and all in memory: "
            "with XSS (left), and without (right); the ledger priced again, not simulated again:",
            [
                (head, value(moved["mean"], f"{metric}{suffix}", _signed))
                for metric in (COST, COST_WITHOUT_XSS)
                for head, suffix in (("warm", "_all_warm"), ("model", ""), ("memory", "_all_memory"))
            ],
            others,
        ),
        table(
            f"Break-even with {short(reference)}, by a linear law of the model's sequences with warm buffers (not "
            "simulated): rates per vCPU-second at which both cost the same, the other rate being as simulated:",
            [(rate, value(break_even, rate, _si)) for rate in ("exits", "switches")],
            [s for s in others if any(s in of for of in break_even.values())],
        ),
        _missed(missed_by_law(comparison, name)),
        table(
            f"FPU, MSR and XSS operations per context switch ({_phases('context_switch')}), per KVM_RUN round trip "
            f"({_phases('kvm_run')}) and per VM exit ({_phases('vm_exit')}), each of these phases alone; and bytes of "
            f"an fpstate as allocated{of_amx}:",
            [
                ("per\nswitch", value(means, "operations_per_context_switch", partial(_fixed, decimals=2))),
                ("per\nKVM_RUN", value(means, "operations_per_kvm_run", partial(_fixed, decimals=2))),
                ("per\nexit", value(means, "operations_per_vm_exit", partial(_fixed, decimals=2))),
                ("bytes\nper task", value(means, "task_fpstate_bytes", _fixed)),
                ("larger\nof AMX", _if_any(means, "task_amx_fpstate_bytes", _fixed)),
                ("bytes\nper vCPU", value(means, "guest_fpstate_bytes", _fixed)),
            ],
            strategies,
        ),
        table(
            "Throughput of the common schedule: guest cycles per vCPU-second; per second of the host, requests, "
            "threads' bursts, hand-offs; and microseconds per hand-off:",
            [
                ("guest", value(means, "guest_cycles", _si4)),
                ("requests", _if_any(means, "requests_per_second")),
                ("bursts", _if_any(means, "bursts_per_second")),
                ("hand-offs", _if_any(means, "handoffs_per_second")),
                ("us/h-off", value(means, "us_per_handoff", partial(_fixed, decimals=4))),
            ],
            strategies,
        ),
        table(
            "Of that schedule, in % of vCPU time: polling, by KVM or the guest; spinning for a lock in the guest; "
            "steal:",
            [(name, _if_any(means, name, partial(_fixed, decimals=3))) for name in ("polling", "spinning", "steal")],
            strategies,
        ),
        table(
            "Wake-up latency of that schedule in us, of vCPUs to VM entry (v) and of threads to user mode (t), all "
            "replications together; a quantile only with 20 samples beyond it, and known to a bucket (1/16 of itself):",
            [
                (f"{h[0]} {q}", value(pooled, latency_metric(h, q), _us))
                for h in ("vcpu", "thread")
                for q in ("p50", "p99", "p99.9")
            ],
            strategies,
        ),
        *statements.feedback(comparison, name, lambda title, columns: table(title, columns, others)),
    ]


def _missed(strategies: Sequence[str]) -> str:
    if not strategies:
        return ""
    return _wrapped(
        f"The linear law does not hold for {', '.join(map(short, strategies))}: at the simulated rates it is off the "
        f"simulated difference by more than {100 * MISS:.0f} %, with IA32_XSS or without it, so no break-even is "
        "given."
    )


def _phases(event: str) -> str:
    return ", ".join(PHASES[event])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the head is a row like the others, since tabulate makes columns wider than their heads."""
    lines = tabulate(
        [head, *rows], tablefmt="plain", disable_numparse=True, colalign=("left", *("right" for _ in head[1:]))
    ).splitlines()
    end_of_head = max(text.count("\n") for text in head) + 1
    rule = "-" * max(map(len, lines))
    return "\n".join([*lines[:end_of_head], rule, *lines[end_of_head:]])


def _case_heading(case: Mapping[str, Any]) -> str:
    cpus, vcpus = counted(case["cpus"], "CPU"), counted(case["vcpus"] or "no", "vCPU")
    line = (
        f"Case {case['case']}: {cpus} ({case['cpu']}, TSC {case['tsc_hz'] / 1e9:.4g} GHz), {vcpus}, Linux "
        f"{case['kernel']}, cost table {case['cost_table']}, {case['measure_s']:.4g} s measured"
    )
    return f"{'-' * WIDTH}\n{_wrapped(line)}"


def _cells(frame: pd.DataFrame, column: str) -> dict[str, dict[str, Any]]:
    """The values of a column by metric and strategy."""
    found: dict[str, dict[str, Any]] = {}
    for metric, strategy, value in zip(frame["metric"], frame["strategy"], frame[column], strict=True):
        found.setdefault(metric, {})[strategy] = value
    return found


def _at(frame: Mapping[str, Any], metric: str, strategy: str) -> float:
    return float(frame.get(metric, {}).get(strategy, math.nan))


def _if_any(
    means: Mapping[str, Mapping[str, float]], metric: str, form: Callable[[float], str] | None = None
) -> Callable[[str], str]:
    """The metric, unless it is 0 for every strategy."""
    some = any(means.get(metric, {}).values())
    return lambda strategy: (form or _si4)(_at(means, metric, strategy)) if some else "-"


def _verdicts(
    verdicts: Mapping[str, Mapping[str, str]],
    strategies: Sequence[str],
    reference: str,
    violating: frozenset[str],
    metrics: tuple[str, str],
) -> str:
    if reference in violating:
        return _wrapped(f"{short(reference)} violates integrity, so there is no cost to compare with.", indent="  ")
    lines = []
    caught = [short(s) for s in strategies if s in violating]
    strategies = [s for s in strategies if s not in violating]
    for metric, title in zip(metrics, ("with XSS", "without XSS"), strict=True):
        of = verdicts.get(metric, {})
        said = [
            f"{word}: {', '.join(short(s) for s in strategies if of.get(s) == verdict)}"
            for verdict, word in (
                ("lower", "cheaper"),
                ("higher", "more expensive"),
                ("same", "exactly the same"),
                ("not shown", "no difference shown"),
                ("not tested", "not tested"),
            )
            if any(of.get(s) == verdict for s in strategies)
        ]
        if said:
            lines.append(_wrapped(f"Than {short(reference)}, {title}: {'; '.join(said)}.", indent="  "))
    if caught:
        lines.append(_wrapped(f"Violates integrity, so its cost is not comparable: {', '.join(caught)}.", indent="  "))
    return "\n".join(lines)


# Words and numbers.


def _wrapped(line: str, indent: str = "") -> str:
    return textwrap.fill(
        line, WIDTH, initial_indent=indent, subsequent_indent=indent * 2, break_on_hyphens=False, break_long_words=True
    )


def short(strategy: str) -> str:
    """A strategy's name, fitted to a column: of a long one (a user's own) both ends."""
    return cut(strategy, LABEL)


def marked(strategy: str, violating: Iterable[str], more: str = "") -> str:
    """A strategy's name, fitted to a column, with a mark if it violates integrity."""
    marks = more + ("(!)" if strategy in violating else "")
    return short(strategy)[: LABEL - len(marks)].rstrip() + marks


def _label(strategy: str, reference: str, violating: Iterable[str]) -> str:
    return marked(strategy, violating, "(*)" if strategy == reference else "")


def _si4(value: float) -> str:
    return _si(value, 4)


def _signed(value: float) -> str:
    return _si(value, 3, "+")


def _fixed(value: float, decimals: int = 0, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}z.{decimals}f}"


def _us(value: float) -> str:
    return _si(value)


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "<1e-4" if value < 1e-4 else f"{value:.4f}"
