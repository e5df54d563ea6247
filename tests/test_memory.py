"""Commands take as much memory for nine thousand replications as for three thousand: measured from outside."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import fake_host
import pytest
import worlds

from sim import experiment

FEW, MANY = 3000, 9000
OF_A_REPLICATION = 1500
"""Bytes of a replication of two strategies that may stay, where frames of it took 20,000; 600 are what is expected."""
OF_A_REPORT = 5000
"""The same of a report, which keeps 3,500: it is not as flat as the rest."""
STRATEGIES = ["free-ssp", "manual-load"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two results of one scenario, of few replications and of many, which differ a little from each other."""
    place, first = tmp_path_factory.mktemp("memory"), {}

    def simulate(case, timed_by, strategies, replication):
        if not first:
            first[timed_by] = [fake_host.simulate(case, timed_by, strategies, n) for n in range(20)]
        return [replace(each, replication=replication) for each in first[timed_by][replication % 20]]

    (place / "small.toml").write_text(worlds.small(STRATEGIES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        for number in (FEW, MANY):
            out = place / str(number)
            experiment.run(place / "small.toml", out=out, jobs=1, simulate=simulate, replications=number)
    return place


def peak(*arguments):
    """Bytes that a command has in memory at most."""
    with subprocess.Popen([sys.executable, "-m", "sim.cli", *arguments], stdout=subprocess.PIPE) as process:
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [["compare"], ["compare", "--full"], ["status"], ["run"], ["uncertainty"], ["report"]],
    ids=" ".join,
)
def test_the_memory_of_a_command_does_not_grow_with_the_number_of_replications(results, command, tmp_path):
    def of(number):
        out = str(results / str(number))
        if command == ["run"]:  # which continues from a complete result, with more: from a copy, for others need it
            more = ["--replications", str(number + 1), "--no-figures", "--jobs", "1"]
            copy = shutil.copytree(out, tmp_path / str(number))
            return peak("run", str(results / "small.toml"), "--out", str(copy), *more)
        if command == ["report"]:
            return peak("report", out, "-o", str(results / "report.html"))
        return peak(*command, out)

    few, many = of(FEW), of(MANY)
    most = OF_A_REPORT if command == ["report"] else OF_A_REPLICATION
    assert many - few < most * (MANY - FEW)
