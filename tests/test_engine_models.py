"""What no kernel model has so far, and a later one might: it is an error, or refused, and never another state."""

import pytest
from hosts import only
from test_engine_hosts import HOST  # first of all: the loop as plain Python
from test_engine_rare import AMX, TOUCHED, host

from sim.engine import fragments, layout, simulation, switches, table
from sim.engine.asked import UNCHANGED, Answer, Side
from sim.engine.fragments import Unsupported
from sim.engine.reading import FOREIGN_TASK, Reading
from sim.engine.transitions import Transitions
from sim.kernel.config import boot
from sim.kernel.walker import Walker
from sim.xsave.area import Area


@pytest.fixture
def model():
    """What is known of the states of a kernel with Linux's own strategy."""
    case = host(AMX)
    return Transitions(boot(case.settings(case.timed_by)), integrity=False)


def test_a_state_that_cannot_be_written_or_read_is_an_error_and_not_another_state(model):
    task = model.kernel.new_task("", "user")
    task.fpstate.area = {"a", "set"}
    with pytest.raises(Unsupported, match="set objects in a task's state"):
        fragments._Writing(model.kernel, None, [], -1).value(task.fpstate)
    with pytest.raises(AssertionError, match="a kind of its own"):
        Reading(model.kernel)._value(("a kind of its own", 1))


def test_a_cpu_cannot_know_of_a_content_which_its_task_does_not_have(model):
    reading = Reading(model.kernel)
    task = reading.entity(model.fragments.values[model.idle[1]], {})
    reading._slots, reading._known = [task], {task}
    with pytest.raises(AssertionError, match="a CPU that knows of a content which its task does not have"):
        reading._token_of_cpu(0, (0, "T"), ((0, 0),))


def test_a_user_return_msr_of_somebody_who_is_gone_is_a_stranger_s(model):
    task = model.kernel.new_task("", "user")
    written = fragments._Writing(model.kernel, None, [fragments.Entity(task, None)], -1)._uret(task.context.id + 1)
    assert Reading(model.kernel)._value(written) == FOREIGN_TASK


def test_an_instruction_on_an_area_of_nobody_is_refused(model):
    with pytest.raises(Unsupported, match="an instruction on an area that is nobody's"):
        model._place_of(Area(1 << 40), [])


AT_EACH_EXIT = """
name = "independent-exit"
title = "XSAVES at each VM exit, and XRSTORS at each VM entry"
mechanism = "independent"
save_at = ["vm_exit"]
load_at = ["vm_entry"]
source = "a test"
"""


@pytest.mark.parametrize("timed", [True, False])
def test_exits_that_use_a_buffer_each_are_not_counted_together(new_tables, monkeypatch, tmp_path, timed):
    (tmp_path / "exit.toml").write_text(AT_EACH_EXIT)
    name = str(tmp_path / "exit.toml")
    text = HOST.replace('strategies = ["xstate-guest"]', f'strategies = ["xstate-guest", {name!r}]') + TOUCHED
    case = only(text.replace("kernel_fpu = 0.5", ""))
    (saves,) = set(case.strategies) - {"xstate-guest"}
    timed_by, other = (saves, "xstate-guest") if timed else ("xstate-guest", saves)
    assert simulation.simulate(case, timed_by, (other,), 0)  # one by one
    monkeypatch.setattr(Walker, "batches", True)
    table._tables.clear()
    with pytest.raises(Unsupported, match="exits whose operations depend on where a buffer is, counted together"):
        simulation.simulate(case, timed_by, (other,), 0)


def test_a_switch_has_what_both_of_its_halves_find_and_write():
    side, new = Side(UNCHANGED, 1, 0), layout.NEW_TOKEN
    left = Answer(5, (~1,), side, None, ((new,), None, (new, new + 1)), (), (), (("lost", 1),), (), False)
    came = Answer(
        7, (0,), side, None, ((new, 0), None, (new + 1, layout.FROM_CPU)), (), (), (("lost", 2), ("old", 1)), (), False
    )
    both = switches._together(left, came)
    assert both.found == (("lost", 3), ("old", 1))
    assert both.next == side
    assert both.tokens == ((new,), (new + 2, layout.FROM_NEXT), (new + 3, new))  # the CPU's first is what left wrote
