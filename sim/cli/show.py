"""fpswitch show: the resolved scenario, with every value that the model uses."""

from typing import Any

import click

from sim.cli.common import emit, json_option, overrides, scenario_options


@click.command()
@click.argument("scenario", metavar="SCENARIO")
@scenario_options
@json_option
def show(scenario: str, as_json: bool, **options: Any) -> None:
    """Check SCENARIO, a shipped one or a TOML file, and show it with all its defaults.

    The output is itself a scenario file, of the same scenario. Comments list its cases, with what depends on CPU and
    kernel: TSC, cost table, base slice, preemption, caches, strategies. With one --case it is the scenario of that case
    alone, including everything that its CPU profile decides.

    With --json: {"scenario", "cases": [{"case", "cpu", "kernel", "sweep", "tsc_hz", "costs", "strategies", "reference",
    "timed_by", "contrasts": [[A, B]], "scenario"}]}; quantities are strings with units, as in a file.

    \b
    Examples:
      fpswitch show rfc-question
      fpswitch show my-host.toml --set host.cpus=64 --set guests.web.demand="1 ms"
      fpswitch show xss-mismatch --case "zen4 v6.18 kernel.guest_xss=0x800"
    """
    from sim.scenario.cases import cases
    from sim.scenario.reading import read
    from sim.scenario.writing import toml_text

    found = read(scenario, *overrides(options))
    chosen = cases(found)
    if len(options["case"]) == 1:
        found = chosen[0].scenario
    documents = [
        {
            "case": case.name,
            "cpu": case.cpu,
            "kernel": case.kernel,
            "sweep": dict(case.sweep),
            "tsc_hz": case.tsc_hz,
            "costs": case.costs,
            "strategies": list(case.strategies),
            "reference": case.reference,
            "timed_by": case.timed_by,
            "contrasts": [list(pair) for pair in case.contrasts],
            "scenario": case.scenario.written(),
        }
        for case in chosen
    ]
    if as_json:
        emit({"scenario": found.written(), "cases": documents}, "", as_json)
    else:
        emit({}, toml_text(found) + "\n" + "\n".join(_case_text(document) for document in documents), as_json)


def _case_text(document: dict[str, Any]) -> str:
    """What a case adds to the scenario, as comments."""
    host = document["scenario"]["host"]
    lines = [
        f"case {document['case']}",
        f"  TSC {host['tsc']}, costs {document['costs']}, L1 {host['l1']}, L2 {host['l2']}, "
        f"base slice {host['base_slice']}, {host['preemption']} preemption{', HRTICK' * host['hrtick']}",
        f"  reference {document['reference']}, timed by {document['timed_by']}, strategies "
        f"{', '.join(document['strategies'])}",
        *(f"  contrast {a} less {b}" for a, b in document["contrasts"]),
    ]
    return "\n".join(f"# {line}" for line in lines)
