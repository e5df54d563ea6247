"""What a process of ``fpswitch fit`` ends with: 0 for a twin that holds, 1 for one that misses, 2 for a trace that
cannot be fitted."""

import json
import subprocess
import sys

import pytest

from sim.scenario.reading import read

SLICES = """
title = "Busy threads that share a CPU in slices"
[run]
measure = "500 ms"
warmup = "20 ms"
[host]
cpus = 1
cpu = ["zen4"]
hz = 1000
{base_slice}
[threads.hog]
count = 3
compute = "1 ms"
fpu = {{ components = ["SSE", "AVX"] }}
[threads.sleeper]
compute = "100 us"
sleep = {{ exponential = "9 ms" }}
fpu = {{ components = ["SSE"] }}
"""
LONGER = 'base_slice = "3 ms"'
"""What an administrator may set (base_slice_ns in debugfs), and no trace says; on one CPU 0.7 ms are the default."""


def fpswitch(*arguments):
    """A process of its own, to its end."""
    command = [sys.executable, "-m", "sim.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def recorded(folder, base_slice):
    """A host with these slices, as ``fpswitch export`` records it."""
    (folder / "host.toml").write_text(SLICES.format(base_slice=base_slice))
    assert fpswitch("export", folder / "host.toml", "-o", folder / "run.txt").returncode == 0
    return folder / "run.txt"


@pytest.mark.slow
def test_a_twin_without_the_slices_of_its_host_ends_with_1_and_says_what_misses_and_what_is_likely_wrong(tmp_path):
    command = ["fit", recorded(tmp_path, LONGER), "-o", tmp_path / "twin.toml", "--replications", 1, "--jobs", 1]
    said = fpswitch(*command)
    assert said.returncode == 1, said.stderr
    (switches,) = (line for line in said.stdout.split("\n") if line.startswith("context switches/s"))
    assert switches.split()[-1] == "MISSES"
    (likely,) = (line for line in said.stdout.split("\n") if line.startswith("likely wrong, of context switches: "))
    assert "how often threads preempt each other (nice, base slice," in likely
    assert any(line.startswith("likely wrong, of costs: ") for line in said.stdout.split("\n"))
    assert read(tmp_path / "twin.toml").threads["hog"].count == 3  # a scenario there is all the same
    document = json.loads(fpswitch(*command, "--force", "--json").stdout)
    assert document["holds"] is False
    found = {each["figure"]: each for each in document["compared"]}
    assert found["context switches"]["simulated"] > 2 * found["context switches"]["trace"]
    assert "base slice" in found["context switches"]["likely"]


@pytest.mark.slow
def test_a_twin_with_the_slices_of_its_host_ends_with_0_and_nothing_is_likely_wrong(tmp_path):
    options = ["--replications", 1, "--jobs", 1]
    said = fpswitch("fit", recorded(tmp_path, ""), "-o", tmp_path / "twin.toml", *options)
    assert said.returncode == 0, said.stderr
    assert "MISSES" not in said.stdout
    assert "likely wrong" not in said.stdout


@pytest.mark.slow
def test_a_trace_that_cannot_be_fitted_ends_with_2_and_leaves_nothing(tmp_path):
    trace, twin = recorded(tmp_path, ""), tmp_path / "twin.toml"
    without = "".join(line for line in trace.open() if "sched_wakeup" not in line)
    trace.write_text(without)
    for each, message in ((trace, "has no sched:sched_wakeup events"), (tmp_path / "none.txt", "none.txt")):
        said = fpswitch("fit", each, "-o", twin)
        assert (said.returncode, said.stdout) == (2, "")
        assert message in said.stderr
        assert "Traceback" not in said.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["host.toml", "run.txt"]
