"""Runs of a design of four points, with the host made up, and what they leave."""

import json

import fake_host

from sim import experiment
from sim.experiment import described
from sim.experiment.design import Design

FOUR = ("sobol:4", ("host.cpus=2..9",))


def run_four(scenario, place):
    """What runs a design of this scenario, in a directory there."""

    def run(out="d", design=FOUR, scenario=scenario, **options):
        options = {"simulate": fake_host.simulate} | ({} if "executor" in options else {"jobs": 1}) | options
        return experiment.run_design(scenario, Design.parsed(*design), place / out, **options)

    return run


def cpus(design=FOUR):
    """The number of CPUs at each point."""
    return [point["host.cpus"] for point in Design.parsed(*design).points()]


def only_at(number, what):
    """Simulates, and does this at one point of four."""

    def simulate(case, timed_by, strategies, replication):
        if case.scenario.host.cpus == cpus()[number]:
            what()
        return fake_host.simulate(case, timed_by, strategies, replication)

    return simulate


def wrong():
    raise ZeroDivisionError("no")


def there(place):
    """The contents of all files below a directory."""
    return {path.relative_to(place): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def tables(place):
    """Those of all tables."""
    return {name: content for name, content in there(place).items() if name.suffix == ".parquet"}


def document(out):
    return json.loads((out / described.NAME).read_text())
