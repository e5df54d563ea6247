"""One schedule, many strategies: every walker does what it would do if the schedule were its own."""

from pathlib import Path

import pytest
from hosts import CASES, MS, RICH, SHIPPED, changed, from_text, hosted, shipped, value

import sim.kernel
from sim.host import simulation
from sim.host.schedule import BLOCK
from sim.host.simulation import Measurement, cross
from sim.host.warmup import warmup_seconds
from sim.kernel import guest
from sim.kernel.config import Settings, boot
from sim.kernel.walker import Walker
from sim.xsave.components import AVX, CET_S, CET_U, XTILEDATA

STRATEGIES = Path(sim.kernel.__file__).parent / "data" / "strategies"


def counted(walker):
    """What the measurement has of a walker: operations, and what the integrity check found."""
    integrity = walker.kernel.integrity
    return dict(walker.measured), dict(integrity.counts) if integrity else {}


def walked(case, timed_by, others, replication=0):
    """A host that has run to the end of its measurement, with everybody on its schedule."""
    env, host = hosted(case, timed_by, replication, others)
    measurement = Measurement(host)
    begin = case.cycles(warmup_seconds(case))
    for at, what in ((begin, measurement.begin), (begin + case.cycles(case.scenario.run.measure), measurement.end)):
        if at > env.now:
            env.run(until=at)
        cross(host, what)
    measurement.finish(case)
    host.schedule.walk()
    return host.schedule


@pytest.mark.parametrize(("path", "number"), CASES)
def test_every_strategy_walks_its_own_schedule_as_the_one_that_times_it(path, number):
    case = changed(shipped(path)[number], measure=2 * MS, warmup=2 * MS)
    for strategy in case.strategies:
        schedule = walked(case, strategy, [strategy])
        assert counted(schedule.others[0]) == counted(schedule.timing), strategy


@pytest.mark.parametrize("case", from_text(RICH), ids=lambda case: case.cpu)
def test_it_does_so_on_a_host_with_everything(case):
    case = changed(case, measure=5 * MS, warmup=3 * MS)
    for strategy in case.strategies:
        schedule = walked(case, strategy, [strategy])
        assert counted(schedule.others[0]) == counted(schedule.timing), strategy


def test_points_are_walked_in_blocks_as_they_would_be_at_once(monkeypatch):
    case = changed(from_text(RICH)[0], measure=5 * MS, warmup=3 * MS)
    others = ["manual-lazy", "xstate-all", "independent"]
    found = []
    for block in (1, BLOCK):
        monkeypatch.setattr("sim.host.cpu_time.BLOCK", block)
        found.append([counted(walker) for walker in walked(case, "free-ssp", others).others])
    assert found[0] == found[1]


def test_the_reference_under_another_name_differs_by_exactly_nothing(tmp_path):
    copy = tmp_path / "another.toml"
    copy.write_text((STRATEGIES / "free-ssp.toml").read_text().replace('"free-ssp"', '"another"'))
    case = changed(shipped(Path(SHIPPED[0]).with_name("rfc-question.toml"))[0], measure=5 * MS)
    reference, other = simulation.simulate(case, "free-ssp", (str(copy),), 0)
    assert (reference.ledger, reference.integrity) == (other.ledger, other.integrity)
    assert other.metrics == other.latency == {}


def test_who_else_walks_a_schedule_changes_nothing():
    case = changed(from_text(RICH)[1], measure=5 * MS, warmup=3 * MS)
    alone = {s: simulation.simulate(case, "free-ssp", (s,), 1)[-1] for s in ("manual-load", "xstate-all")}
    # With it, no exits are counted together (its save at each exit depends on what was written before).
    unbatched = changed(case, batch=False)
    for records in (
        simulation.simulate(case, "free-ssp", ("xstate-all", "manual-lazy", "manual-load"), 1),
        simulation.simulate(unbatched, "free-ssp", ("manual-load", "xstate-all"), 1),
    ):
        for record in records:
            if record.strategy in alone:
                assert record == alone[record.strategy]


INDEPENDENT_AT_EXITS = """
name = "independent-at-exits"
title = "an independent feature, saved at each VM exit"
mechanism = "independent"
save_at = ["vm_exit"]
load_at = ["vm_entry"]
hypothetical = "a test's"
source = "none"
"""


def test_a_strategy_whose_exits_differ_from_one_another_is_walked_exit_by_exit(tmp_path):
    path = tmp_path / "independent-at-exits.toml"
    path.write_text(INDEPENDENT_AT_EXITS)
    case = changed(from_text(RICH)[0], measure=4 * MS, warmup=2 * MS)
    schedule = walked(case, str(path), [str(path)])
    assert not schedule.timing.batches
    assert counted(schedule.others[0]) == counted(schedule.timing)
    saves = {key[4] for key in schedule.timing.measured if key[1:3] == ("guest-exit", "XSAVES")}
    assert len(saves) > 1  # some wrote, and some skipped what had not been modified


def test_an_exit_that_only_a_lazy_strategy_makes_is_in_its_ledger_and_takes_no_time():
    case = changed(from_text(RICH)[0], measure=5 * MS, warmup=0.0)
    timing, lazy, load = simulation.simulate(case, "free-ssp", ("manual-lazy", "manual-load"), 0)
    exits = [sum(n for op, n, _ in record.ledger if op.operation == "VM exit") for record in (timing, lazy, load)]
    assert exits[0] == exits[2] == value(timing, "vm_exits")
    assert exits[1] > exits[0]
    alone = simulation.simulate(case, "free-ssp", (), 0)[0]
    assert timing == alone


def test_vcpu_loads_are_round_trips_and_switches_to_a_vcpu_inside_kvm_run():
    case = changed(from_text(RICH)[0], measure=5 * MS, warmup=2 * MS)
    (record,) = simulation.simulate(case, "no-cet", (), 0)
    loads = sum(n for op, n, _ in record.ledger if (op.phase, op.operation) == ("vcpu-load", "RDPKRU"))
    assert value(record, "vcpu_loads") == loads > value(record, "kvm_run_round_trips") > 0


def test_the_first_use_of_amx_by_a_thread_faults_and_no_later_one_does():
    walker = Walker(boot(Settings(cpu="sapphire-rapids")), 1)
    walker.new_task(1, "A")
    cpu = walker.cpu(0)
    walker.schedule(cpu, 1)
    walker.return_to_user(cpu)
    walker.user_writes(cpu, AVX)
    assert (cpu.unit.xfd, cpu.ledger.count("RDMSR(XFD_ERR)")) == (XTILEDATA, 0)
    for _ in range(2):
        walker.user_writes(cpu, XTILEDATA)
        assert (cpu.unit.xfd, cpu.unit.xfd_err) == (0, 0)
        assert cpu.unit.regs[18] == cpu.current.context.regs[18] != 0
    for operation in ("RDMSR(XFD_ERR)", "WRMSR(XFD_ERR)", "WRMSR(XFD)"):
        assert cpu.ledger.count(operation) == 1
    walker.return_to_user(cpu)
    assert not walker.kernel.integrity.findings


@pytest.mark.parametrize(("xss", "carried", "writes"), [(CET_U, 0, 0), (CET_U, 1, 1), (CET_U | CET_S, 1, 0)])
def test_a_guest_writes_new_ssps_by_wrmsr_only_where_its_xrstors_does_not_reach_them(xss, carried, writes, monkeypatch):
    walker = Walker(boot(Settings(cpu="sapphire-rapids", strategy="manual-load", guest_xss=xss)), 1)
    walker.new_vcpu(1, "V")
    cpu, written = walker.cpu(0), []
    walker.schedule(cpu, 1)
    walker.return_to_user(cpu)
    walker.enter_kvm_run(cpu)
    walker.vm_entry(cpu)
    walker.guest_boots(cpu)
    monkeypatch.setattr(guest, "writes_carried", lambda *arguments: written.append(arguments))
    walker.guest_switches_task(cpu, AVX, carried)
    assert len(written) == writes
