"""Hosts whose comparisons are drawn."""

from dataclasses import replace

import fake_host

import sim
from sim import experiment

HOST = """
title = "Figures"
[run]
measure = "50 ms"
replications = 2
strategies = ["free-ssp", "manual-load", "manual-exit", "independent"]
[host]
cpus = 2
cpu = ["zen4"]
tsc = "2 GHz"
"""
GUESTS = """
[guests.g]
vcpus = 2
"""
SWEEP = """
[guests.g.exits]
io = { every = "1 kHz" }
[sweep]
"guests.g.exits.io.every" = ["1 kHz", "9 kHz"]
"""
PIPES = """
[threads.p]
kind = "pipe"
compute = "1 us"
"""
SCENARIOS = {
    "guests": HOST + GUESTS,
    "sweep": HOST + GUESTS + SWEEP,
    "no-guests": HOST.replace('"manual-load", "manual-exit", "independent"', '"xstate-all"') + PIPES,
}
ONE_AND_MANY = HOST.replace('["free-ssp", "manual-load", "manual-exit", "independent"]', '"all"')
ONE_AND_MANY = ONE_AND_MANY.replace('["zen4"]', '["zen4"]\nkernel = ["v6.6", "v6.18"]') + GUESTS


def compared(tmp_path_factory, text, simulate=fake_host.simulate, *, feedback=False, **options):
    path = tmp_path_factory.mktemp("figures") / "figures.toml"
    path.write_text(text)

    if feedback:
        options["overrides"] = {"run.feedback": True}
    results = experiment.run(path, jobs=1, simulate=simulate, **options)
    return sim.compare(results)


def swept(case, record):
    """The fake host; where the sweep says so, with hardly any exits or with nine times as many."""
    every = case.sweep.get("guests.g.exits.io.every")
    if every is None:
        return record
    times = {"1 kHz": 0, "9 kHz": 9}[every]
    ledger = tuple(
        (op, count * factor, cycles * factor)
        for op, count, cycles in record.ledger
        for factor in (times if op.phase in ("vm-transition", "guest-exit", "guest-entry", "xss") else 1,)
        if factor
    )
    metrics = record.metrics
    if metrics:
        metrics = metrics | {"vm_exits": (9 * metrics["vm_exits"][0] if times else 40, "count")}
    return replace(record, ledger=ledger, metrics=metrics)


ASKED = HOST.replace("[host]", 'contrasts = [["manual-load", "independent"]]\n[host]').replace("= 2\n", "= 12\n", 1)


def title(figure):
    return figure.get_suptitle().replace("\n", " ")


TWO_CPUS = HOST.replace('cpu = ["zen4"]', 'cpu = ["sapphire-rapids", "zen4"]').replace(
    "replications = 2", "replications = 5"
)
