"""What the compiled engine asks of the kernel model, and how seldom: switches in halves, exits by their path."""

from operator import attrgetter

import engine_mode  # first of all: the loop as plain Python  # noqa: F401
import pytest
from hosts import RICH, changed, from_text

from sim.engine import simulation, table
from sim.engine.asked import CURRENT, OTHER, Asked, Point, Side
from sim.engine.fragments import Unsupported
from sim.engine.reading import Reading
from sim.engine.switches import LEAVES, Switches
from sim.kernel import fpu, process
from sim.kernel.walker import Walker


@pytest.fixture(autouse=True)
def _new_tables(monkeypatch):
    """Nothing has been asked yet."""
    monkeypatch.setattr(table, "_tables", {})


def rich(measure=2e-3):
    """The host with everything in it."""
    return changed(from_text(RICH)[0], measure=measure, warmup=1e-3)


def simulated(case, strategy):
    """The records of a strategy that times its own host, by the compiled engine."""
    return simulation.simulate(case, strategy, (strategy,), 0)


def at_once(model, asked):
    """The whole context switch, in one flow point."""
    reading = Reading(model.kernel)
    sides = [(reading.entity(model.fragments.values[each.fragment], {}), each) for each in (asked.current, asked.next)]
    slots = [reading.bystander() if each == OTHER else sides[each - 1][0] for each in asked.slots]
    return model.passed(asked.point, asked.shape, reading, sides, slots)


@pytest.mark.parametrize("strategy", ["xstate-guest", "manual-load", "user-return", "independent"])
def test_a_context_switch_put_together_from_two_halves_is_the_one_that_is_asked_at_once(monkeypatch, strategy):
    compared = []
    put_together = Switches.answer

    def both(self, asked):
        found, wanted = put_together(self, asked), at_once(self._model, asked)
        for name in ("shape", "slots", "current", "next", "called", "found", "renewed", "result"):
            assert getattr(found, name) == getattr(wanted, name)
        assert sorted(map(str, found.uses)) == sorted(map(str, wanted.uses))
        compared.append(asked)
        return found

    monkeypatch.setattr(Switches, "answer", both)
    simulated(rich(), strategy)
    assert len(compared) > 20


def test_halves_are_fewer_than_pairs():
    simulated(rich(10e-3), "xstate-guest")
    (of,) = table._tables.values()
    switches = of.model._switches
    pairs = sum(1 for row in of.rows[: of.count, 0].tolist() if row >> 48 == 0)
    assert 2 * len(switches._left) < pairs
    assert len(switches._came) < pairs


@pytest.mark.parametrize("what", ["fpstate", "context", "saved_fpstate"])
def test_a_task_whose_contents_are_looked_at_when_it_comes_is_asked_in_full(monkeypatch, what):
    case = rich()
    wanted = simulated(case, "xstate-guest")
    table._tables.clear()
    comes = process.switch_in

    def looks(k, cpu, task):
        getattr(task, what)
        comes(k, cpu, task)

    monkeypatch.setattr(process, "switch_in", looks)
    assert simulated(case, "xstate-guest") == wanted
    (of,) = table._tables.values()
    assert None in of.model._switches._came.values()


def test_a_task_that_changes_when_it_comes_is_asked_in_full(monkeypatch):
    comes = process.switch_in

    def changes(k, cpu, task):
        comes(k, cpu, task)
        task.frames = []

    monkeypatch.setattr(process, "switch_in", changes)
    simulated(rich(), "xstate-guest")
    (of,) = table._tables.values()
    assert set(of.model._switches._came.values()) > {None}


@pytest.mark.parametrize("what", ["fpregs_owner", "uret", "unit.regs", "unit.xmodified"])
def test_a_task_for_which_more_of_the_cpu_is_looked_at_when_it_comes_is_asked_with_the_whole_cpu(monkeypatch, what):
    case = rich()
    wanted = simulated(case, "xstate-guest")
    table._tables.clear()
    comes = process.switch_in

    def looks(k, cpu, task):
        attrgetter(what)(cpu)
        comes(k, cpu, task)

    monkeypatch.setattr(process, "switch_in", looks)
    assert simulated(case, "xstate-guest") == wanted
    (of,) = table._tables.values()
    assert set(of.model._switches._seen.values()) == {None}


def test_a_task_that_changes_more_of_the_cpu_when_it_comes_is_asked_with_the_whole_cpu(monkeypatch):
    comes = process.switch_in

    def changes(k, cpu, task):
        comes(k, cpu, task)
        cpu.user_return_notify = False

    monkeypatch.setattr(process, "switch_in", changes)
    simulated(rich(), "xstate-guest")
    (of,) = table._tables.values()
    assert set(of.model._switches._seen.values()) == {None}


def test_tasks_come_in_few_ways():
    simulated(rich(10e-3), "xstate-guest")
    (of,) = table._tables.values()
    switches = of.model._switches
    assert 2 * len(switches._seen) < len(switches._came)


@pytest.mark.parametrize(
    ("where", "what", "read"),
    [
        (fpu, "restore_fpregs_from_fpstate", lambda cpu: cpu.current.last_cpu),
        (fpu, "save_fpregs_to_fpstate", lambda cpu: cpu.current.vcpu and cpu.current.vcpu.vmcs_cpu),
        (process, "return_to_user", lambda cpu: cpu.current.vcpu and cpu.current.vcpu.vmcs_cpu is cpu),
    ],
)
def test_a_kernel_that_looks_at_where_a_task_was_where_this_one_does_not_is_refused(monkeypatch, where, what, read):
    passes = getattr(where, what)

    def looks(k, cpu, *rest):
        read(cpu)
        return passes(k, cpu, *rest)

    monkeypatch.setattr(where, what, looks)
    with pytest.raises(Unsupported, match=r"a kernel model that looks at (last_cpu|vmcs_cpu)"):
        simulated(rich(), "xstate-guest")


@pytest.mark.parametrize("what", ["last_cpu", "runnable"])
def test_a_kernel_that_looks_at_a_task_that_takes_no_part_is_refused(monkeypatch, what):
    passes = fpu.switch_fpu_return

    def looks(k, cpu, phase):
        if cpu.fpregs_owner not in (None, cpu.current):
            getattr(cpu.fpregs_owner, what)
        return passes(k, cpu, phase)

    monkeypatch.setattr(fpu, "switch_fpu_return", looks)
    with pytest.raises(Unsupported, match=f"{what} of a task that takes no part"):
        simulated(rich(), "xstate-guest")


def test_a_kernel_that_changes_a_task_that_takes_no_part_is_refused(monkeypatch):
    passes = fpu.switch_fpu_return

    def changes(k, cpu, phase):
        if cpu.fpregs_owner not in (None, cpu.current):
            cpu.fpregs_owner.need_fpu_load = True
        return passes(k, cpu, phase)

    monkeypatch.setattr(fpu, "switch_fpu_return", changes)
    with pytest.raises(Unsupported, match="need_fpu_load of a task that takes no part"):
        simulated(rich(), "xstate-guest")


def test_a_half_is_asked_once():
    simulated(rich(), "xstate-guest")
    (of,) = table._tables.values()
    model, asked = of.model, []
    ask = model.answer
    model.answer = lambda each: asked.append(each) or ask(each)
    (shape, whom, side), left = next(iter(model._switches._left.items()))
    slots = tuple(CURRENT if each == CURRENT else OTHER for each in whom)
    again = model._switches.answer(Asked(Point(Walker.schedule), shape, slots, side, Side(model.idle[1], 0, 0)))
    assert LEAVES not in [each.point for each in asked]
    assert again.current == left.current


def test_exits_whose_reasons_make_no_difference_to_the_kernel_are_looked_up_as_one():
    simulated(rich(), "xstate-guest")
    (of,) = table._tables.values()

    def like(reason, request=False):
        return of.model.like(Point(Walker.vm_exit, (reason, request)))

    assert like("io") == like("msr-write") == like("wrmsr-icr", True) == like("io", True)
    assert like("wrmsr-icr") == like("wrmsr-tsc-deadline")
    assert len({like("io"), like("wrmsr-icr"), like("pmu"), like("nm")}) == 4
    assert like("io") != of.model.like(Point(Walker.exits, ("io", 1)))
