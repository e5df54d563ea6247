"""Fits of exported runs whose fpstates hold what the recorded kernel's do not: who is a guest is still known."""

import pytest
from click.testing import CliRunner
from command import run_json

from sim.cli import cli
from sim.scenario.reading import read

HOST = """
title = "two vCPUs and two threads"
[run]
measure = "100 ms"
warmup = "0 ns"
[host]
cpus = 2
cpu = ["sapphire-rapids"]
[kernel]
KERNEL
[threads.plain]
count = 2
compute = { exponential = "300 us" }
sleep = { exponential = "500 us" }
fpu = { components = ["SSE", "AVX"] }
[guests.web]
vcpus = 2
fpu = { components = ["SSE"], every = "1 ms" }
"""
UINTR = """
name = "uintr"
title = "user interrupts"
msrs = { RR = 0x985, HANDLER = 0x986, STACKADJUST = 0x987, MISC = 0x988, PD = 0x989, TT = 0x98a }
size_bytes = 48
per_task_msr = false
xfeature = 14
cpu_feature = "UINTR"
source = "a test"
"""


def exported(folder, strategy, kernel):
    (folder / "uintr.toml").write_text(UINTR)
    (folder / "host.toml").write_text(HOST.replace("KERNEL", kernel))
    trace = folder / "run.txt"
    command = ["export", str(folder / "host.toml"), "-o", str(trace), "--strategy", strategy]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    return trace


def entries(trace):
    """The threads and guests of the fitted twin, and what the fit says."""
    twin = trace.with_name("twin.toml")
    result = CliRunner().invoke(
        cli, ["fit", str(trace), "-o", str(twin), "--no-check", "--cpu", "sapphire-rapids", "--force"]
    )
    assert result.exit_code == 0, result.output
    found = read(twin)
    return sorted(found.threads), sorted(found.guests), result.output


def are_who_they_are(threads, guests):
    return {each.partition("-")[0] for each in threads} == {"plain"} and {
        each.partition("-")[0] for each in guests
    } == {"web"}


@pytest.mark.parametrize("strategy", ["xstate-all", "xstate-guest", "xstate-all-resident"])
def test_a_component_that_linux_has_in_no_fpstate_is_left_out_and_named(strategy, tmp_path, capsys):
    trace = exported(tmp_path, strategy, 'carried = "uintr.toml"')
    assert "xcomp_bv: 8000000000025ee7" in trace.read_text()  # bit 14 in guests' fpstates
    threads, guests, said = entries(trace)
    assert are_who_they_are(threads, guests)
    assert "fpstates have UINTR" in said
    trace.write_text("".join(line for line in trace.open() if not line.startswith("# fpswitch ")))
    document = run_json(capsys, "replay", str(trace), "--check")
    assert document["explained"] == document["events"] > 100
    assert any("UINTR" in note for note in document["notes"])


@pytest.mark.parametrize(
    ("strategy", "kernel"), [("xstate-all", ""), ("free-ssp", 'host_shadow_stacks = "fpstate"')]
)  # fmt: skip
def test_where_normal_fpstates_have_cet_s_no_thread_becomes_a_guest(strategy, kernel, tmp_path):
    threads, guests, said = entries(exported(tmp_path, strategy, kernel))
    assert are_who_they_are(threads, guests)
    assert "fpstates have CET_KERNEL" in said
