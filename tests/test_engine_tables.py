"""What the compiled engine asks of the kernel model, and how seldom: switches in halves, exits by their path."""

from operator import attrgetter

import engine_mode  # first of all: the loop as plain Python  # noqa: F401
import pytest
from hosts import RICH, changed, from_text

from sim.engine import layout, simulation, table, transitions
from sim.engine.asked import CURRENT, NEXT, OTHER, UNCHANGED, Answer, Asked, Point, Side
from sim.engine.fragments import SLOTS, Entity, Unsupported, with_fields, write_fragment, write_shape
from sim.engine.reading import Reading
from sim.engine.standing import Standing
from sim.engine.switches import LEAVES, Switches
from sim.host import simulation as reference
from sim.kernel import fpu, process
from sim.kernel.walker import Walker
from sim.xsave.components import AVX


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
        found = put_together(self, asked)
        assert_the_same(found, at_once(self._model, asked), asked.next.fragment)
        compared.append(asked)
        return found

    monkeypatch.setattr(Switches, "answer", both)
    simulated(rich(), strategy)
    assert len(compared) > 20


@pytest.mark.parametrize("strategy", ["xstate-guest", "manual-load", "user-return", "independent"])
def test_an_answer_that_does_not_name_the_fragment_of_the_task_that_comes_is_that_of_all_that_are_like_it(
    monkeypatch, strategy
):
    compared = set()
    put_together = Switches.answer

    def all_alike(self, asked):
        found, model = put_together(self, asked), self._model
        if found.next.fragment != UNCHANGED:
            return found
        for number, tokens in enumerate(model.fragment_tokens):
            # The CPU knows contents of a task in a slot by their numbers, so not every fragment can be there.
            fits = NEXT not in asked.slots or tokens == model.fragment_tokens[asked.next.fragment]
            if fits and model.alike(number) == model.alike(asked.next.fragment):
                other = asked._replace(next=asked.next._replace(fragment=number))
                assert_the_same(found, at_once(model, other), number)
                compared.add((asked.next.fragment, number))
        return found

    monkeypatch.setattr(Switches, "answer", all_alike)
    simulated(rich(10e-3), strategy)
    assert len([first for first, second in compared if first != second]) >= 10


def assert_the_same(found, wanted, fragment):
    """The answer put together from halves is the other one; ``fragment`` is that of the task that comes."""
    assert wanted.next.fragment == (fragment if found.next.fragment == UNCHANGED else found.next.fragment)
    assert found.next[1:] == wanted.next[1:]
    for name in ("shape", "slots", "current", "called", "found", "renewed", "result"):
        assert getattr(found, name) == getattr(wanted, name)
    assert sorted(map(str, found.uses)) == sorted(map(str, wanted.uses))


def test_a_switch_is_asked_once_for_all_fragments_that_are_alike():
    """As long as the outline of none has been too little."""
    simulated(rich(10e-3), "xstate-guest")
    (of,) = table._tables.values()
    assert not of.model.apart
    looked_for = {row >> layout.NEXT_SHIFT for row in of.rows[: of.count, layout.R_KEY2].tolist()} - {0}
    assert looked_for <= {1 + of.model.alike(number) for number in range(len(of.model.fragments.values))}
    assert 2 * len(looked_for) < len(of.model.fragments.values)


def test_halves_are_fewer_than_pairs():
    simulated(rich(10e-3), "xstate-guest")
    (of,) = table._tables.values()
    switches = of.model._switches
    pairs = sum(1 for row in of.rows[: of.count, 0].tolist() if row >> 48 == 0)
    assert len(switches._left) < pairs
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
    assert of.model.apart


def test_fragments_with_one_outline_that_differ_when_they_come_have_rows_of_their_own(monkeypatch):
    comes = process.switch_in

    def reads_twice(k, cpu, task):
        if task.fpstate.area.xstate_bv & AVX:
            cpu.record(process.RDPKRU_BY[task.kind])
        comes(k, cpu, task)

    monkeypatch.setattr(process, "switch_in", reads_twice)
    assert simulated(rich(), "xstate-guest") == reference.simulate(rich(), "xstate-guest", ("xstate-guest",), 0)
    (of,) = table._tables.values()
    assert of.model.apart


@pytest.mark.parametrize(("becomes", "entered"), [(UNCHANGED, 2), (5, 5), (7, 5)])
def test_an_answer_of_one_fragment_only_is_entered_under_its_number(monkeypatch, becomes, entered):
    """The loop has looked for 2, which fragment 5 is like."""
    simulated(rich(), "xstate-guest")
    (of,) = table._tables.values()
    here, places = Side(0, 2, 2), (1 << layout.NEXT_SHIFT) - 1
    answer = Answer(0, (), here, Side(becomes, 2, 2), (None, None, None), (), (), (), (), False)
    monkeypatch.setattr(of.model, "answer", lambda asked: answer)
    row = of.add(Asked(Point(Walker.schedule), 0, (), here, Side(5, 3, 3)), 0, 2 + 1 << layout.NEXT_SHIFT | places)
    assert of.rows[row, layout.R_KEY2] == entered + 1 << layout.NEXT_SHIFT | places
    assert of.rows[row, layout.R_FRAGMENT2] == becomes


@pytest.mark.parametrize("strategy", ["xstate-guest", "manual-load"])
def test_nothing_is_asked_twice(strategy):
    """Forks give tasks contents in common, which are asked with the fragment of the one that comes."""
    text = RICH.replace('kind = "fork"', 'kind = "fork"\nfpu = { components = ["SSE", "AVX"] }')
    simulated(changed(from_text(text)[0], measure=10e-3, warmup=1e-3), strategy)
    (of,) = table._tables.values()
    assert any(joined for *_, joined in of.model.shape_flags)
    keys = of.rows[: of.count, [layout.R_KEY1, layout.R_KEY2]].tolist()
    assert len(set(map(tuple, keys))) == of.count


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


def test_a_task_that_makes_the_cpu_remember_another_vcpu_than_itself_is_asked_with_the_whole_cpu(monkeypatch):
    comes, moved = process.switch_in, []

    def changes(k, cpu, task):
        before = cpu.current_vmcs
        comes(k, cpu, task)
        if before is not None and cpu.last_vcpu is not before:
            cpu.last_vcpu = before
            moved.append(task)

    monkeypatch.setattr(process, "switch_in", changes)
    case = rich()
    found = simulated(case, "xstate-guest")
    (of,) = table._tables.values()
    assert set(of.model._switches._seen.values()) > {None}
    assert moved
    assert found == reference.simulate(case, "xstate-guest", ("xstate-guest",), 0)


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


def test_a_field_that_a_kernel_model_misspells_is_its_own_error(monkeypatch):
    passes = process.return_to_user

    def misspelt(k, cpu, *rest):
        passes(k, cpu, *rest)
        return cpu.current.last_cqu

    monkeypatch.setattr(process, "return_to_user", misspelt)
    with pytest.raises(AttributeError, match="last_cqu"):
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


def test_the_tasks_whose_objects_are_kept_are_those_that_were_used_last(monkeypatch):
    case, used, join = rich(), [], Reading.join
    wanted = simulated(case, "xstate-guest")
    (of,) = table._tables.values()
    assert len(of.model._standing) > 3
    table._tables.clear()

    def joins(reading, entity):
        if isinstance(entity, Standing):
            used.append(entity.fragment)
        join(reading, entity)

    monkeypatch.setattr(Reading, "join", joins)
    monkeypatch.setattr(transitions, "MOST_STANDING", 3)
    assert simulated(case, "xstate-guest") == wanted
    (of,) = table._tables.values()
    assert list(of.model._standing) == list(dict.fromkeys(reversed(used)))[2::-1]


@pytest.mark.parametrize("change", ["one more", "one less"])
def test_a_list_or_dict_of_a_task_that_has_grown_or_shrunk_is_seen_and_put_back(change):
    simulated(rich(), "xstate-guest")
    (of,) = table._tables.values()
    model, seen = of.model, 0
    for number in [number for number, kind in enumerate(model.kinds) if kind == "vcpu"][:20]:
        fragment = model.fragments.values[number]
        task = Reading.standing(model.kernel, number, fragment)
        for held in (
            task.own.regs,
            task.task.frames,
            task.vcpu.uret,
            task.guest.regs,
            task.vcpu.fpstate.area.compacted,
        ):
            if change == "one less":
                if not held:
                    continue
                held.popitem() if isinstance(held, dict) else held.pop()
            elif isinstance(held, dict):
                held["one more"] = 0
            else:
                held.append(0)
            seen += 1
            assert task.changes() is None
            task.put_back()
            assert task.changes() == ()
            assert write_fragment(model.kernel, task, model._unused) == fragment
    assert seen > 60


def test_a_cpu_that_speaks_of_as_many_tasks_as_a_shape_can_has_no_room_for_one_that_comes():
    simulated(rich(), "xstate-guest")
    (of,) = table._tables.values()
    shape, _ = with_fields(of.model.shapes.values[of.model.idle[0]], {"last_vcpu": ("slot", 0, False)}, 0)
    everybody = ("list", *[("area", slot, 0) for slot in range(SLOTS)])
    full, slots = with_fields(shape, {"msrs": everybody}, SLOTS)
    assert sorted(slots) == [*range(SLOTS)]
    assert with_fields(full, {"guest": ("slot", SLOTS - 1, False)}, SLOTS - 1)[1]
    with pytest.raises(Unsupported, match=f"a CPU whose registers speak of more than {SLOTS} tasks"):
        with_fields(full, {"guest": ("slot", SLOTS, False)}, SLOTS)


def test_a_cpu_that_speaks_of_a_task_that_is_not_among_those_asked_about_is_an_error():
    simulated(rich(), "xstate-guest")
    (of,) = table._tables.values()
    model, cpu = of.model, of.model._cpu
    mine, stranger = model.kernel.new_task("", "user"), model.kernel.new_task("", "user")
    everybody = [Entity(mine, None)]
    cpu.current_vmcs, cpu.last_vcpu, cpu.guest, cpu.fpregs_owner = None, None, None, mine
    assert write_shape(model.kernel, cpu, everybody, model._unused)[1] == everybody
    cpu.fpregs_owner = stranger
    with pytest.raises(AssertionError, match="<user"):
        write_shape(model.kernel, cpu, everybody, model._unused)


def test_exits_whose_reasons_make_no_difference_to_the_kernel_are_looked_up_as_one():
    simulated(rich(), "xstate-guest")
    (of,) = table._tables.values()

    def like(reason, request=False):
        return of.model.like(Point(Walker.vm_exit, (reason, request)))

    assert like("io") == like("msr-write") == like("wrmsr-icr", True) == like("io", True)
    assert like("wrmsr-icr") == like("wrmsr-tsc-deadline")
    assert len({like("io"), like("wrmsr-icr"), like("pmu"), like("nm")}) == 4
    assert like("io") != of.model.like(Point(Walker.exits, ("io", 1)))
