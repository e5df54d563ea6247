"""Experiments: every replication of every strategy in every case of a scenario, here or elsewhere."""

from sim.experiment.provenance import directory_for
from sim.experiment.running import Interrupted
from sim.experiment.runs import run, run_cases
from sim.experiment.workers import Simulate

__all__ = ["Interrupted", "Simulate", "directory_for", "run", "run_cases"]
