"""Fits of what KVM's events alone tell, and of perf's tables: a simulated host is the known right answer."""

import io
import json
from pathlib import Path

import command
import numpy as np
import pytest
from click.testing import CliRunner

from sim.analysis import exits_fitness
from sim.cli import cli
from sim.scenario.cases import cases
from sim.scenario.reading import read
from sim.trace.exits import exits
from sim.trace.fit.groups import slept_outside
from sim.trace.fit.guests import reason_of


def run(capsys, *arguments):
    return command.run(capsys, *map(str, arguments))


def run_json(capsys, *arguments):
    return command.run_json(capsys, *map(str, arguments))


CASE = Path(__file__).parent / "data" / "cases" / "kvm-only-trace.txt"
REPORT = Path(__file__).parent / "data" / "perf" / "kvm-stat-report.txt"

HOST = """
title = "a busy vCPU and one that halts"
[run]
measure = "100 ms"
warmup = "5 ms"
seed = 7
[host]
cpus = 2
cpu = ["sapphire-rapids"]
halt_poll = "0 ns"
[guests.busy]
affinity = [0]
[guests.busy.exits]
cpuid = { every = { exponential = "40 us" }, reason = "cpuid", time = "700 ns" }
io = { every = { exponential = "200 us" }, reason = "io", handled = "userspace", vmm = { exponential = "12 us" } }
[guests.idle]
affinity = [1]
demand = { exponential = "120 us" }
sleep = { lognormal = "300 us", sigma = 0.8 }
[guests.idle.exits]
msr = { every = { exponential = "50 us" }, reason = "msr-write", time = "1 us" }
"""

KVM = ("kvm_entry", "kvm_exit", "kvm_userspace_exit")


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """KVM's events of a simulated run of HOST."""
    folder = tmp_path_factory.mktemp("exits")
    (folder / "host.toml").write_text(HOST)
    exported = CliRunner().invoke(cli, ["export", str(folder / "host.toml"), "-o", str(folder / "run.txt")])
    assert exported.exit_code == 0
    kept = [
        line
        for line in (folder / "run.txt").read_text().splitlines()
        if any(f"kvm:{event}:" in line for event in KVM) or line.startswith("# kernel")
    ]
    path = folder / "kvm.txt"
    path.write_text("\n".join(kept) + "\n")
    return path


def test_a_twin_of_kvm_s_events_alone_has_the_exits_of_its_host(trace, tmp_path, capsys):
    out = tmp_path / "twin.toml"
    status, text, _ = run(capsys, "fit", trace, "-o", out, "--replications", "2", "--jobs", "1", "--json")
    document = json.loads(text)
    assert (status, document["holds"]) == (0, True)
    found = {each["figure"]: each for each in document["compared"]}
    for figure in ("VM exits", "KVM_RUN round trips", "halts", "exits by cpuid", "exits by io", "exits by msr-write"):
        assert found[figure]["holds"]
        assert found[figure]["simulated"] == pytest.approx(found[figure]["trace"], rel=0.15)
    assert {what[what.rfind("(") :] for what in document["not_said"]} >= {"(sched:sched_switch)", "(x86_fpu:*)"}
    # What went in comes out.
    busy, idle = (read(out).guests[name] for name in ("vcpu0", "vcpu1"))
    assert busy.exits["cpuid"].every.mean == pytest.approx(40e-6, rel=0.1)
    assert busy.exits["cpuid"].time.mean == pytest.approx(0.7e-6, rel=0.05)
    assert busy.exits["io"].handled == "userspace"
    assert busy.exits["io"].vmm.mean == pytest.approx(12e-6, rel=0.15)
    assert idle.demand.mean == pytest.approx(120e-6, rel=0.15)
    assert idle.sleep.mean == pytest.approx(300e-6, rel=0.15)
    assert idle.exits["msr-write"].time.mean == pytest.approx(1e-6, rel=0.05)


def test_a_twin_that_exits_too_often_misses(trace, tmp_path, capsys, monkeypatch):
    reader = exits_fitness.read

    def busier(path):
        scenario = reader(path)
        guest = scenario.guests["vcpu0"]
        cpuid = guest.exits["cpuid"]
        often = cpuid.every.model_copy(update={"values": tuple(0.7 * each for each in cpuid.every.values)})
        changed = guest.exits | {"cpuid": cpuid.model_copy(update={"every": often})}
        guests = scenario.guests | {"vcpu0": guest.model_copy(update={"exits": changed})}
        return scenario.model_copy(update={"guests": guests})

    monkeypatch.setattr(exits_fitness, "read", busier)
    options = ["--replications", "1", "--jobs", "1", "--json"]
    status, text, _ = run(capsys, "fit", trace, "-o", tmp_path / "twin.toml", *options)
    found = {each["figure"]: each for each in json.loads(text)["compared"]}
    assert status == 1
    assert found["exits by cpuid"]["holds"] is False
    assert "independently" in found["exits by cpuid"]["likely"]


def test_the_guest_clock_of_a_vcpu_is_the_sum_of_its_times_in_the_guest(trace):
    with trace.open("rb") as stream:
        found = exits(stream, "a trace")
    assert sum(len(kind.at_ns) for vcpu in found.vcpus for kind in vcpu.kinds.values()) == found.exits
    for vcpu in found.vcpus:
        at = np.concatenate([np.array(kind.at_ns) for kind in vcpu.kinds.values()])
        clock = np.concatenate([np.array(kind.guest_ns) for kind in vcpu.kinds.values()])[np.argsort(at)]
        assert (np.diff(clock) >= 0).all()
        assert clock[-1] == vcpu.guest_ns
    by_reason = sum(sum(each.guest_ns) for each in found.reasons.values())
    assert by_reason == sum(vcpu.guest_ns for vcpu in found.vcpus)


def test_what_lies_across_lost_events_is_not_measured():
    def row(us, event):
        return f"{'vmm':>16}-4711    [001] d.... {1 + us * 1e-6:12.6f}: {event}\n"

    entry, cpuid = "kvm_entry: vcpu 0, rip 0x1", "kvm_exit: vcpu 0 reason CPUID rip 0x1 info1 0x0"
    text = row(0, entry) + row(10, cpuid) + row(12, entry) + "CPU:1 [LOST 5 EVENTS]\n"
    text += row(5000, cpuid) + row(5001, entry) + row(5021, cpuid) + row(5023, entry)
    found = exits(io.BytesIO(text.encode()), "a trace")
    (vcpu,) = found.vcpus
    assert vcpu.guest_ns == 30_000
    assert list(found.reasons["CPUID"].handler_ns) == [2000, 1000, 2000]


def test_few_exits_become_rates_that_say_so(tmp_path, capsys):
    out = tmp_path / "few.toml"
    document = run_json(capsys, "fit", CASE, "-o", out, "--no-check")
    assert document["guests"] == [{"name": "vcpu0", "vcpus": 1, "exits": {"io": 1, "other": 1}}]
    assert [path.name for path in tmp_path.iterdir()] == ["few.toml"]
    (guest,) = read(out).guests.values()
    assert guest.exits["io"].every.kind == "exponential"
    assert guest.exits["io"].vmm.mean == pytest.approx(36e-6, rel=0.15)
    assert guest.exits["other"].time.mean == pytest.approx(12e-6, rel=0.1)


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        ("IO_INSTRUCTION", "io"), ("io", "io"), ("npf", "ept-violation"), ("EPT_VIOLATION", "ept-violation"),
        ("HLT", "hlt"), ("hlt", "hlt"), ("EXCEPTION_NMI", "other"), ("vintr", "other"), ("VMCALL", "vmcall"),
        ("hypercall", "vmcall"), ("read_cr4", "cr-access"), ("cr0_sel_write", "cr-access"),
        ("PREEMPTION_TIMER", "preemption-timer"), ("EXTERNAL_INTERRUPT", "external-interrupt"),
    ],
)  # fmt: skip
def test_exit_reasons_of_both_vendors_are_those_of_scenarios(reason, name):
    assert reason_of(reason) == name


def test_a_trace_of_kvm_s_events_is_taken_for_what_it_is(tmp_path, capsys):
    status, text, _ = run(capsys, "replay", CASE)
    assert (status, "1 KVM_RUN round trips" in text) == (0, True)
    assert run(capsys, "replay", CASE, "--cpu", "zen4")[0] == 2
    status, _, err = run(capsys, "fit", CASE, "-o", tmp_path / "x.toml", "--kernel", "v7.3")
    assert (status, "fpswitch fit --exits" in err) == (2, True)
    status, _, err = run(capsys, "fit", CASE, "-o", tmp_path / "x.toml", "--exits", "--kernel", "v7.3")
    assert (status, "leave out" in err) == (2, True)
    assert not list(tmp_path.iterdir())


def test_one_sleep_outside_the_guest_is_counted_as_one_is_in_english():
    assert slept_outside("CPU 0/KVM", 1) == "CPU 0/KVM slept once outside KVM_RUN, which is left out"
    assert "slept 2 times outside" in slept_outside("CPU 0/KVM", 2)


def test_a_guest_that_is_never_entered_is_refused(tmp_path, capsys):
    trace = tmp_path / "exits.txt"
    trace.write_text("".join(line for line in CASE.read_text().splitlines(True) if "kvm_entry" not in line))
    status, _, err = run(capsys, "fit", trace, "-o", tmp_path / "x.toml")
    assert (status, "no time in a guest" in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["exits.txt"]


# perf kvm stat.


def test_a_table_of_perf_becomes_a_scenario_with_its_exits(tmp_path, capsys):
    out = tmp_path / "perf.toml"
    document = run_json(capsys, "new", out, "--perf-kvm-stat", REPORT, "--duration", "10 s", "--vcpus", "2")
    assert "one vCPU" not in " ".join(document["notes"])
    (guest,) = read(out).guests.values()
    assert guest.vcpus == 2
    (case,) = cases(read(out))
    assert case.cpu == "sapphire-rapids"
    # The rates are per second of guest time, which is what the exits left of two vCPUs' ten seconds.
    assert guest.exits["msr-write"].every.mean == pytest.approx((2 * 10 - handled()) / 520, rel=0.01)


def handled():
    from sim.trace.reading.perf_kvm_stat import read as table

    return table(str(REPORT)).handled_s


def test_a_simulated_host_counted_by_perf_comes_back(trace, tmp_path, capsys):
    with trace.open("rb") as stream:
        found = exits(stream, "a trace")
    rows, total, total_us = [], 0, 0.0
    for reason, each in found.by_count():
        times = [*each.handler_ns, *each.outside_ns]
        us = sum(times) / 1e3
        total, total_us = total + each.exits, total_us + us
        rows.append(f"{reason:>20} {each.exits:10} 1.00% 1.00% 0.10us 99.00us {us / each.exits:.3f}us ( +- 0.10% )\n")
    text = "VM-EXIT    Samples  Samples%     Time%    Min Time    Max Time         Avg time\n\n" + "".join(rows)
    text += f"\nTotal Samples:{total}, Total events handled time:{total_us:.2f}us.\n"
    (tmp_path / "table.txt").write_text(text)
    options = ["--duration", f"{found.seconds * 1e3:.6f} ms", "--vcpus", "2"]
    run_json(capsys, "new", tmp_path / "t.toml", "--perf-kvm-stat", tmp_path / "table.txt", *options)
    (guest,) = read(tmp_path / "t.toml").guests.values()
    guest_s = sum(vcpu.guest_ns for vcpu in found.vcpus) * 1e-9
    for reason in ("CPUID", "IO", "MSR_WRITE"):
        name = reason_of(reason)
        assert guest.exits[name].every.mean == pytest.approx(guest_s / found.reasons[reason].exits, rel=0.05)
    assert guest.exits["io"].vmm.mean == pytest.approx(12e-6, rel=0.15)
    assert guest.sleep.mean == pytest.approx(300e-6, rel=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "does not say how long perf recorded"),
        (("--duration", "1 us"), "allowed: --vcpus of"),
        (("--duration", "soon"), "is not a time"),
        (("--duration", "10 s", "--cpu", "z80"), "z80"),
        (("--duration", "10 s", "--kernel", "v1.0"), "v1.0"),
    ],
)
def test_a_table_that_gives_no_scenario_is_refused_and_nothing_written(options, message, tmp_path, capsys):
    status, _, err = run(capsys, "new", tmp_path / "perf.toml", "--perf-kvm-stat", REPORT, *options)
    assert (status, message in err) == (2, True)
    assert not list(tmp_path.iterdir())


def test_options_of_a_table_need_one(tmp_path, capsys):
    status, _, err = run(capsys, "new", tmp_path / "x.toml", "--vcpus", "2")
    assert (status, "goes with --perf-kvm-stat" in err) == (2, True)
