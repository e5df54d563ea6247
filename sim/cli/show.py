"""fpswitch show: the resolved scenario, with every value that the model uses."""

import json
from typing import Any

import click

from sim.cli.common import json_option, overrides, scenario_options
from sim.errors import unknown


@click.command()
@click.argument("scenario", metavar="SCENARIO")
@click.option("--case", "case_name", metavar="NAME", help="Only this case, with all that its CPU profile decides.")
@scenario_options
@json_option
def show(
    scenario: str,
    case_name: str | None,
    strategies: str | None,
    reference: str | None,
    replications: int | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Check SCENARIO, a TOML file, and show it with all its defaults.

    What is printed is a scenario file itself, and the same scenario. Comments list its cases, with what depends on CPU
    and kernel: TSC, cost table, base slice, caches, strategies. With --case it is the scenario of that case alone.

    With --json: {"scenario", "cases": [{"case", "cpu", "kernel", "sweep", "tsc_hz", "costs", "strategies", "reference",
    "scenario"}]}; quantities are texts with units, as in a file.

    \b
    Examples:
      fpswitch show scenarios/rfc-question.toml
      fpswitch show scenarios/xss-mismatch.toml --case "zen4 v6.18 kernel.guest_xss=0x800"
    """
    from sim.scenario.cases import cases
    from sim.scenario.reading import read
    from sim.scenario.writing import toml_text

    found = read(scenario, overrides(strategies, reference, replications, seed))
    chosen = list(cases(found))
    if case_name is not None:
        by_name = {case.name: case for case in chosen}
        if case_name not in by_name:
            raise unknown("case", case_name, by_name)
        found, chosen = by_name[case_name].scenario, [by_name[case_name]]
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
            "scenario": case.scenario.written(),
        }
        for case in chosen
    ]
    if as_json:
        click.echo(json.dumps({"scenario": found.written(), "cases": documents}, indent=1))
    else:
        click.echo(toml_text(found) + "\n" + "\n".join(_case_text(document) for document in documents))


def _case_text(document: dict[str, Any]) -> str:
    """What a case adds to the scenario, as comments."""
    host = document["scenario"]["host"]
    lines = [
        f"case {document['case']}",
        f"  TSC {host['tsc']}, costs {document['costs']}, L1 {host['l1']}, L2 {host['l2']}, "
        f"base slice {host['base_slice']}",
        f"  reference {document['reference']}, strategies {', '.join(document['strategies'])}",
    ]
    return "\n".join(f"# {line}" for line in lines)
