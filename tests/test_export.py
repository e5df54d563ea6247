"""A simulated run, exported as a trace, is followed without a contradiction and costs what the run costs."""

import json
import re

import pytest
from click.testing import CliRunner
from command import run_json

from sim.cli import cli, main
from sim.cli.simulated import choose
from sim.host.simulation import simulate

L1 = 'host.buffer_level="L1"'

FORKS = """
title = "what the shipped ones do not have: forks, pipes, sleeps, and interrupts that use the FPU"
[run]
measure = "10 ms"
[host]
cpus = 2
cpu = ["zen4"]
buffer_level = "L1"
[threads.make]
kind = "fork"
compute = { exponential = "200 us" }
sleep = { exponential = "300 us" }
fpu = { components = ["SSE", "AVX"], share = 0.5 }
[threads.pair]
kind = "pipe"
compute = "20 us"
[threads.kworker]
kind = "kthread"
compute = "20 us"
sleep = "500 us"
[guests.web]
vcpus = 2
demand = { exponential = "50 us" }
sleep = { exponential = "300 us" }
shadow_stacks = "rewritten"
task_switch = "200 us"
pku = false
signalled = 0.5
signal_time = "3 us"
[guests.web.exits.io]
every = "5 kHz"
handled = "userspace"
vmm = "5 us"
[interrupts.nic]
every = "5 kHz"
time = "2 us"
kernel_fpu = 0.3
"""

LAZY = """
extends = "preemption-models"
[run]
strategies = ["no-cet", "manual-load", "xstate-guest"]
contrasts = []
[host]
preemption = "lazy"
[guests.batch.exits]
timer = { every = "5 kHz", reason = "wrmsr-tsc-deadline", time = "200 ns" }
[sweep]
"host.preemption" = ["lazy"]
"""
"""Exits that the fastpath handles while there is a lazy request."""


def exported(tmp_path, name, *options):
    out = tmp_path / "run.txt"
    result = CliRunner().invoke(cli, ["export", name, "-o", str(out), "--json", *options])
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


@pytest.fixture(scope="module")
def of_forks(tmp_path_factory):
    """The text of the export of 3 ms."""
    place = tmp_path_factory.mktemp("forks")
    (place / "own.toml").write_text(FORKS)
    out, _ = exported(place, str(place / "own.toml"), "--duration", "3 ms")
    return out.read_text()


def test_the_children_of_a_thread_are_numbered_from_1_on(of_forks):
    children = re.findall(r" comm=make/0 .*child_comm=(\S+)", of_forks)
    assert children == [f"make/0.{n + 1}" for n in range(len(children))] != []


HALTS = re.compile(
    r"^ *web/0/(vcpu\d) .* (\S+): +kvm:(?:kvm_exit: .* reason HLT|kvm_vcpu_wakeup: \w+ time (\d+))", re.M
)


def test_a_halt_takes_as_long_as_its_end_says(of_forks):
    halted, off = {}, []
    for vcpu, seconds, took in HALTS.findall(of_forks):
        if took and vcpu in halted:
            off.append(round(float(seconds) * 1e9) - halted[vcpu] - int(took))
        halted[vcpu] = round(float(seconds) * 1e9)
    assert len(off) > 5
    assert set(off) <= {-1, 0, 1}  # each of the three is rounded


@pytest.mark.parametrize(
    ("name", "duration"),
    [
        ("rfc-question", "3 ms"), ("overcommit", "5 ms"), ("idle-fleet", "1 ms"), ("ipi-storm", "2 ms"),
        ("xss-mismatch", "3 ms"), ("amx-guest", "3 ms"), ("host-sss", "3 ms"), ("forks", "8 ms"),
        ("preemption-models", "20 ms"), ("lazy", "10 ms"),
    ],
)  # fmt: skip
def test_the_replay_of_an_export_costs_what_the_run_costs_to_the_cycle_for_every_strategy(
    name, duration, tmp_path, capsys
):
    if name in ("forks", "lazy"):
        text = LAZY if name == "lazy" else FORKS
        name = str(tmp_path / "own.toml")
        (tmp_path / "own.toml").write_text(text)
    warmup = 'run.warmup="1 ms"'
    shown = choose(name, [L1, warmup], None, None, 0, duration, timed=True)
    case = shown.case
    trace, document = exported(tmp_path, name, "--duration", duration, "--set", L1, "--set", warmup)
    assert document["strategy"] == case.timed_by
    strategies = ",".join(case.strategies)
    arguments = ["--cpu", case.cpu, "--costs", case.table.name, "--strategies", strategies]
    document = run_json(capsys, "replay", str(trace), *arguments)
    check = document["check"]
    assert check["unexplained"] == []
    assert check["inferred"] == 0
    for record in simulate(case, shown.strategy, case.strategies, 0):
        wanted = {}
        for operation, count, _ in record.ledger:
            wanted[operation.operation] = wanted.get(operation.operation, 0) + count
        found = document["strategies"][record.strategy]["operations"]
        assert {key: each["count"] for key, each in found.items()} == wanted, record.strategy
        cycles = sum(each["cycles"] for each in found.values())
        assert cycles == sum(cycles for *_, cycles in record.ledger), record.strategy


def test_where_all_fpstates_have_cet_s_it_tells_no_guest_fpstate(tmp_path, capsys):
    """A host with shadow stacks of its own, whose guests have another MSR carried, and CET_S as the kernel does."""
    state = 'name = "s"\ntitle = "s"\nsource = "t"\nmsrs = { SPEC_CTRL = 0x48 }\nsize_bytes = 8\nper_task_msr = false\n'
    (tmp_path / "state.toml").write_text(state)
    kernel = '[kernel]\nhost_shadow_stacks = "fpstate"\ncarried = "state.toml"\n'
    text = FORKS.replace("[threads.make]", f"{kernel}[threads.make]").replace('kind = "fork"\n', "")
    (tmp_path / "own.toml").write_text(text)
    trace, _ = exported(tmp_path, str(tmp_path / "own.toml"), "--duration", "2 ms")
    document = run_json(capsys, "replay", str(trace), "--check")
    assert document["unexplained"] == []
    assert document["explained"] == document["events"] > 0


def test_exec_leaves_the_ssp0_of_a_host_with_shadow_stacks_in_fpstates(tmp_path, capsys):
    """The stack is the task's kernel stack, which execve() keeps: with nothing in use, the restore would clear SSP0."""
    kernel = '[kernel]\nhost_shadow_stacks = "fpstate"\n'
    (tmp_path / "own.toml").write_text(FORKS.replace("[threads.make]", f"{kernel}[threads.make]"))
    trace, _ = exported(tmp_path, str(tmp_path / "own.toml"), "--duration", "2 ms")
    after = re.findall(r"sched_process_exec:.*\n.*x86_fpu_regs_activated:.* xfeatures: (\w+)", trace.read_text())
    assert set(after) == {"1000"}
    document = run_json(capsys, "replay", str(trace), "--check")
    assert document["unexplained"] == []
    assert document["explained"] == document["events"] > 0


def test_a_run_timed_by_another_strategy_shows_that_strategys_fpstates(tmp_path, capsys):
    trace, _ = exported(tmp_path, "rfc-question", "--duration", "2 ms", "--strategy", "xstate-guest")
    masks = {line.split("xcomp_bv: 8")[1].lstrip("0").strip() for line in trace.open() if "xcomp_bv" in line}
    assert masks == {"20ee7", "21ee7"}
    document = run_json(capsys, "replay", str(trace), "--check")
    assert document["unexplained"] == []
    assert document["explained"] == document["events"] > 0


def test_what_linux_has_no_event_for_is_a_comment_for_every_other_reader(tmp_path):
    trace, document = exported(tmp_path, "rfc-question", "--duration", "2 ms")
    lines = trace.read_text().splitlines()
    told = [line for line in lines if "fpswitch:" in line]
    assert {line[0] for line in told} == {"#"}
    events = [line for line in lines if not line.startswith("#")]
    assert len(events) + len(told) == document["events"]
    assert all(":" in line.split("]")[1] for line in events)


def test_a_register_write_that_is_taken_out_changes_the_cost(tmp_path, capsys):
    """The test above would not see comment lines that mean nothing."""
    trace, _ = exported(tmp_path, "rfc-question", "--duration", "3 ms", "--set", L1)
    arguments = ["--cpu", "sapphire-rapids", "--strategies", "xstate-guest"]
    whole = run_json(capsys, "replay", str(trace), *arguments)
    trace.write_text("".join(line for line in trace.open() if "fp_user_writes" not in line))
    without = run_json(capsys, "replay", str(trace), *arguments)
    price = "cycles_per_second"
    assert without["strategies"]["xstate-guest"][price] < whole["strategies"]["xstate-guest"][price]


def test_settings_that_cannot_be_read_are_named(tmp_path, capsys):
    trace, _ = exported(tmp_path, "rfc-question", "--duration", "1 ms")
    text = trace.read_text()
    for good, bad, said in (
        ('"kernel":', '"kernle":', "# fpswitch settings"),
        ("# fpswitch thread 1000 vcpu {}", "# fpswitch thread 1000 fiber {}", "allowed kinds"),
        ("# fpswitch thread 1000 vcpu {}", '# fpswitch thread 1000 vcpu {"xrc0": 1}', "thread 1000"),
    ):
        trace.write_text(text.replace(good, bad, 1))
        with pytest.raises(SystemExit) as ended:
            main(["replay", str(trace)])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_an_existing_file_is_kept(tmp_path, capsys):
    trace, _ = exported(tmp_path, "rfc-question", "--duration", "1 ms")
    before = trace.read_bytes()
    with pytest.raises(SystemExit) as ended:
        main(["export", "rfc-question", "-o", str(trace)])
    assert ended.value.code == 2
    assert "--force" in capsys.readouterr().err
    assert trace.read_bytes() == before


def test_without_comment_lines_each_kvm_run_still_returns_to_user_mode(tmp_path, capsys):
    """What runs there (user-return MSRs, the IBPB of VMSCAPE) leaves no event where the registers are in place."""
    host = FORKS.replace('measure = "10 ms"', 'measure = "40 ms"\nwarmup = "0 ns"').replace(
        "kernel_fpu = 0.3", "kernel_fpu = 0.0"
    )
    (tmp_path / "host.toml").write_text(host)
    exported = tmp_path / "run.txt"
    command = ["export", str(tmp_path / "host.toml"), "-o", str(exported), "--strategy", "xstate-guest"]
    assert CliRunner().invoke(cli, command).exit_code == 0
    bare = tmp_path / "bare.txt"
    bare.write_text("".join(line for line in exported.read_text().splitlines(True) if "fpswitch" not in line))
    found = {}
    for path in (exported, bare):
        options = ["--cpu", "zen4", "--strategies", "user-return,xstate-guest", "--reference", "xstate-guest"]
        operations = run_json(capsys, "replay", str(path), *options)["strategies"]["user-return"]["operations"]
        found[path] = {name: each["count"] for name, each in operations.items()}
    runs = found[exported]["KVM_RUN"]
    assert runs > 100
    for name in ("IBPB", "WRMSR(TSC_AUX)", "WRMSR(PL0_SSP)", "RDMSR(PL0_SSP)"):
        assert found[bare][name] == pytest.approx(found[exported][name], abs=2)


def test_a_fork_on_v6_6_shows_that_its_parent_had_returned_to_user_mode(tmp_path, capsys):
    """Its first event there is x86_fpu_copy_src, with TIF_NEED_FPU_LOAD clear: fpu_clone() of Linux v6.6."""
    host = FORKS.partition("[threads.pair]")[0].replace('cpu = ["zen4"]', 'cpu = ["zen4"]\nkernel = ["v6.6"]')
    host = host.replace('measure = "10 ms"', 'measure = "60 ms"\nstrategies = ["no-cet"]')
    (tmp_path / "host.toml").write_text(host.replace('kind = "fork"', 'kind = "fork"\ncount = 6'))
    exported = tmp_path / "run.txt"
    assert CliRunner().invoke(cli, ["export", str(tmp_path / "host.toml"), "-o", str(exported)]).exit_code == 0
    rows = [line for line in exported.read_text().splitlines(True) if not line.startswith("#")]
    exported.write_text("".join(rows))
    check = run_json(capsys, "replay", str(exported), "--check")
    assert (check["unexplained"], check["by_kind"]["inferred"]) == ([], {})
    copies = [row for row, line in enumerate(rows) if "x86_fpu_copy_src" in line]
    thread = slice(0, 28)  # its name, its ID and its CPU
    restored = next(
        row - 1 for row in copies if "_activated" in rows[row - 1] and rows[row - 1][thread] == rows[row][thread]
    )
    exported.write_text("".join(rows[:restored] + rows[restored + 1 :]))
    with pytest.raises(SystemExit):
        main(["replay", str(exported), "--check", "--json"])
    found = json.loads(capsys.readouterr().out)["unexplained"]
    assert [(each["event"], each["rule"]) for each in found] == [("x86_fpu:x86_fpu_copy_src", "restored-before")]
