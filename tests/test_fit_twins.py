"""Scenarios of the sample traces, and twins that cost what their hosts cost."""

import io
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from corruption import NAMED, text

from sim.analysis import tuning
from sim.analysis.recorded_run import RecordedRun
from sim.cli import cli
from sim.scenario.cases import cases
from sim.scenario.reading import read
from sim.trace.fit.lives import Watcher
from sim.trace.following.replay import REGS
from sim.trace.reading.chunks import steps
from sim.trace.reading.reader import Reader


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Each sample trace's scenario, without its check."""
    folder = tmp_path_factory.mktemp("fitted")
    for name, path in NAMED.items():
        result = CliRunner().invoke(cli, ["fit", str(path), "-o", str(folder / f"{name}.toml"), "--no-check"])
        assert result.exit_code == 0, result.output
    return folder


def test_every_sample_trace_becomes_a_scenario_that_says_its_samples(fitted):
    for name in NAMED:
        scenario = read(fitted / f"{name}.toml")
        assert scenario.host.cpus == 2
        assert "bursts" in (fitted / f"{name}.toml").read_text()
    assert read(fitted / "host-pipe.toml").threads["sched-pipe"].kind == "pipe"
    assert read(fitted / "host-builds.toml").threads["forks"].kind == "fork"
    assert read(fitted / "vcpu-halt-wakeup.toml").host.halt_poll == 0
    assert "userspace" in next(iter(read(fitted / "vcpu-out-exits.toml").guests.values())).exits


def test_the_samples_kernels_hardly_use_the_fpu_themselves(fitted):
    assert not any(read(fitted / f"{name}.toml").interrupts for name in NAMED)


HALTING = """
title = "vCPUs that halt and are woken by signals, beside threads that sleep"
[run]
measure = "150 ms"
warmup = "50 ms"
[host]
cpus = 2
cpu = ["zen4"]
halt_poll = "0 ns"
[guests.vm]
vcpus = 2
demand = "200 us"
sleep = { exponential = "600 us" }
signalled = 0.9
signal_time = "10 us"
[guests.vm.exits.io]
every = { exponential = "250 us" }
handled = "userspace"
vmm = "10 us"
[threads.sleeper]
count = 3
compute = { exponential = "150 us" }
sleep = { exponential = "500 us" }
fpu = { components = ["SSE", "AVX"] }
"""


@pytest.fixture
def quick(monkeypatch):
    """One tuning round of one replication."""
    monkeypatch.setattr(tuning, "ROUNDS", 1)
    monkeypatch.setattr(tuning, "REPLICATIONS", 1)


@pytest.mark.slow
def test_the_twin_of_a_simulated_host_costs_what_that_host_costs(tmp_path, quick):
    (tmp_path / "host.toml").write_text(HALTING)
    trace = str(tmp_path / "run.txt")
    strategy = ["--strategy", "xstate-guest"]
    assert CliRunner().invoke(cli, ["export", str(tmp_path / "host.toml"), "-o", trace, *strategy]).exit_code == 0
    twin = tmp_path / "twin.toml"
    command = ["fit", trace, "-o", str(twin), "--cpu", "zen4", "--replications", "1", "--jobs", "1", "--json"]
    document = json.loads(CliRunner().invoke(cli, [*command, "--kernel", "v7.3"]).stdout)
    found = {each["figure"]: each for each in document["compared"]}
    for figure in ("KVM_RUN round trips", "vCPU load/put pairs", "VM entries", "wake-ups", "cost of xstate-guest"):
        assert found[figure]["simulated"] == pytest.approx(found[figure]["trace"], rel=0.15)
    own = {name: found[f"{name} less free-ssp"] for name in ("manual-load", "user-return", "xstate-guest")}
    per_pair = found["vCPU load/put pairs"]
    for each in own.values():
        there, here = each["trace"] / per_pair["trace"], each["simulated"] / per_pair["simulated"]
        assert here == pytest.approx(there, rel=0.1)
    changed = {each["figure"]: each for each in document["changed"]}
    assert changed["VM entries"]["recorded"] == found["VM entries"]["simulated"]
    assert changed["context switches"]["other"] != changed["context switches"]["recorded"]
    assert read(twin).host.preemption == "voluntary"
    (guest,) = read(twin).guests.values()
    assert guest.signalled == pytest.approx(0.9, abs=0.05)
    assert guest.signal_time.mean == pytest.approx(10e-6, rel=0.1)


@pytest.mark.slow
def test_a_recorded_host_is_compared_in_what_the_strategies_cost(tmp_path, quick):
    lines = text(NAMED["vcpu-halt-wakeup"]).splitlines(keepends=True)
    trace = str(tmp_path / "trace.txt")
    (tmp_path / "trace.txt").write_text("".join(lines[:8000]))
    command = ["fit", trace, "-o", str(tmp_path / "fit.toml"), "--cpu", "zen4", "--replications", "1", "--jobs", "1"]
    document = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)
    found = {each["figure"]: each for each in document["compared"]}
    assert {"wake-ups", "migrations", "cost of no-cet", "xstate-guest less free-ssp"} <= set(found)
    for figure in ("KVM_RUN round trips", "vCPU load/put pairs", "manual-load less free-ssp"):
        assert found[figure]["simulated"] == pytest.approx(found[figure]["trace"], rel=0.3)


def per_round_trip(watcher):
    """CPU time of vCPU threads per return from KVM_RUN, in ns."""
    on = sum(burst.on_ns for life in watcher.lives if life.vcpu for burst in life.bursts)
    return on / watcher.seen.round_trips


def watched(data):
    reader, watcher = Reader(io.BytesIO(data), "a trace"), Watcher()
    for chunk in reader.chunks():
        for step in steps(chunk, reader.names):
            watcher.see(step)
    watcher.finish()
    return watcher


def test_a_round_trip_takes_the_twin_s_vcpu_as_long_as_the_recorded_one(fitted):
    trace = per_round_trip(watched(text(NAMED["vcpu-out-exits"]).encode()))
    case = twin_case(fitted / "vcpu-out-exits.toml", measure=0.1)
    events = frozenset(("sched_switch", "sched_wakeup", "kvm_fpu", *REGS))
    lines = RecordedRun(case, "xstate-guest", 0, only=events).lines()
    simulated = per_round_trip(watched("\n".join([*lines, ""]).encode()))
    assert simulated == pytest.approx(trace, rel=0.05)


def twin_case(path, measure):
    (case,) = cases(read(path))
    run = case.scenario.run.model_copy(update={"measure": measure, "warmup": 0.0})
    return replace(case, scenario=case.scenario.model_copy(update={"run": run}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "replications"),
    [("host-threads", 4), ("vcpu-halt-wakeup", 16), ("vcpu-out-exits", 4), ("vcpu-spin-overcommit", 4)],
)
def test_the_twin_of_a_sample_costs_what_its_host_costs(name, replications, tmp_path):
    # Single replications of vcpu-halt-wakeup differ by a tenth: four say too little of 5 %.
    command = ["fit", str(NAMED[name]), "-o", str(tmp_path / "fit.toml"), "--cpu", "zen4", "--jobs", "1"]
    options = ["--recorded-preemption", "none", "--replications", str(replications), "--json"]
    document = json.loads(CliRunner().invoke(cli, [*command, *options]).stdout)
    assert [each["figure"] for each in document["compared"] if each["holds"] is False] == []
    found = {each["figure"]: each for each in document["compared"]}
    for figure in ("KVM_RUN round trips", "manual-load less free-ssp"):
        if figure in found and found[figure]["holds"] is not None:
            assert found[figure]["simulated"] == pytest.approx(found[figure]["trace"], rel=0.05)
