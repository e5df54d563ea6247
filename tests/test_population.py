"""What a case makes of a host, before anything has run."""

import pytest
from hosts import hosted, only, with_little

from sim.host import population
from sim.host.eevdf import EevdfRunQueue
from sim.host.eevdf_v7_3 import EevdfRunQueueV73

PLAIN = '[threads.t]\ncount = 2\ncompute = "1 ms"\n'
GROUPED = PLAIN + 'group = "a"\n[groups.a]\n[groups.b]\n'


@pytest.mark.parametrize(("threads", "queues"), [(PLAIN, 1), (GROUPED, 3)])
@pytest.mark.parametrize(("kernel", "kind"), [("v6.18", EevdfRunQueue), ("v7.3", EevdfRunQueueV73)])
def test_each_run_queue_has_its_kernels_rules_and_lets_a_yield_force_its_cpu_once_in_6_ms(
    kernel, kind, threads, queues
):
    """Also those of groups: the series counts on each run queue (directed_yield.py)."""
    text = with_little("a host", "1 ms") + f'kernel = ["{kernel}"]\ntsc = "2 GHz"\nhz = 1000\nbase_slice = "3 ms"\n'
    _env, host = hosted(only(text + threads))
    for cpu in host.cpus:
        rq = cpu.rq
        found = [rq] if queues == 1 else [rq._root, *(own.queue for own in rq._entities.values())]
        assert [type(each) for each in found] == [kind] * queues
        assert {(each.forced_every, each._base_slice, each._tick) for each in found} == {
            (12_000_000, 6_000_000, 2_000_000)
        }


@pytest.mark.parametrize("cpus", [1, 3, 4])
def test_the_first_ticks_of_the_cpus_are_spread_over_the_second_period(cpus):
    text = with_little("a host", "1 ms").replace("cpus = 2\n", f'cpus = {cpus}\nhz = 1000\ntsc = "2 GHz"\n')
    _env, host = hosted(only(text + PLAIN))
    assert [host.first_tick(cpu) for cpu in range(cpus)] == [2_000_000 * (cpus + cpu) // cpus for cpu in range(cpus)]


@pytest.mark.parametrize(
    ("first", "count", "others", "queued"),
    [("[1]", 3, 4, [2, 3, 2]), ("[0, 2]", 3, 5, [3, 3, 2]), ("[2]", 1, 0, [0, 0, 1])],
)
def test_a_thread_begins_on_the_cpu_with_the_fewest_of_those_on_which_it_may_run(first, count, others, queued):
    text = with_little("a host", "1 ms").replace("cpus = 2\n", "cpus = 3\n")
    text += f'[threads.a]\ncount = {count}\naffinity = {first}\ncompute = "1 ms"\n'
    text += f'[threads.b]\ncount = {others}\ncompute = "1 ms"\n' if others else ""
    _env, host = hosted(only(text))
    assert [cpu.rq.nr_running for cpu in host.cpus] == queued


@pytest.mark.parametrize("others", [(), ("no-cet",), ("no-cet", "xstate-all")])
def test_a_host_has_to_have_room_for_its_state_under_all_strategies(others, monkeypatch):
    asked = []
    monkeypatch.setattr(population, "check_room", lambda case, strategies: asked.append(strategies))
    hosted(only(with_little("a host", "1 ms") + PLAIN), others=others)
    assert asked == [1 + len(others)]


@pytest.mark.parametrize("gap", [0, 128])
@pytest.mark.parametrize(
    ("directed", "yields", "credit", "counts_steps"),
    [
        ("none", False, False, False), ("v6.18", True, False, True), ("v7.3", True, False, False),
        ("lag-credit", True, True, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("cpu", "pause_cycles"), [("sapphire-rapids", 1), ("zen4", 65)])
def test_what_a_host_does_with_guests_that_spin_is_what_its_keys_say(
    cpu, pause_cycles, directed, yields, credit, counts_steps, gap
):
    """ple_gap 0 turns PLE off (vmx.c, svm.c); PAUSE_CYCLES is the unit of each vendor's window."""
    text = with_little("a host", "1 ms", cpu) + f'directed_yield = "{directed}"\nple_gap = {gap}\n'
    _env, host = hosted(only(text + '[guests.g]\nlock = { every = "100 us", hold = "10 us" }\n'))
    (vcpu,) = (each for cpu in host.cpus for each in cpu.rq.waiting())
    pausing = vcpu._pausing
    assert (pausing.exits, pausing.yields, pausing.credit) == (gap > 0, yields, credit)
    assert (pausing.unit, vcpu._lock.boosted.counts_steps) == (pause_cycles, counts_steps)


def test_which_exits_have_an_effect_on_others_and_which_only_take_time():
    text = (
        with_little("a host", "1 ms")
        + '[threads.t]\nwaits = { share = 1.0 }\ncompute = "1 ms"\n[guests.g]\nvcpus = 2\n'
    )
    for name, more in (
        ("plain", ""), ("user", 'handled = "userspace"\nvmm = "1 us"\n'), ("ipi", 'effect = "ipi"\n'),
        ("waking", 'wakes = { t = 1 }\n'),
    ):  # fmt: skip
        text += f'[guests.g.exits.{name}]\nevery = "1 ms"\n{more}'
    _env, host = hosted(only(text))
    vcpu, _ = (each for cpu in host.cpus for each in cpu.rq.waiting() if each.task.vcpu)
    found = {kind.name: (kind.effect, kind.userspace, kind.vmm is not None) for kind in vcpu._stream.kinds}
    assert found == {
        "plain": (False, False, False), "user": (True, True, True), "ipi": (True, False, False),
        "waking": (True, False, False),
    }  # fmt: skip
    assert {kind.reason: kind.effect for kind in (vcpu._interrupt, vcpu._hlt, vcpu._hv_timer)} == {
        "external-interrupt": False, "hlt": True, "preemption-timer": True,
    }  # fmt: skip
