"""Experiments: every replication of every strategy in every case of a scenario, here or elsewhere."""

from sim.errors import Interrupted
from sim.experiment.design import Design
from sim.experiment.designs import run_design
from sim.experiment.engines import check_engines
from sim.experiment.provenance import directory_for
from sim.experiment.runs import run, run_cases
from sim.experiment.workers import Simulate

__all__ = ["Design", "Interrupted", "Simulate", "check_engines", "directory_for", "run", "run_cases", "run_design"]
