"""Locks in guests: spinning, PLE and directed yield, against closed forms and the source."""

import pytest
from hosts import RICH, from_text, hosted, only, simulate, threads
from hypothesis import given
from hypothesis import strategies as st
from test_host_cpus import FOUR
from test_host_runs import differences
from test_waiting import metrics

from sim.host.directed_yield import ESRCH, Boosted, on_spin
from sim.host.guest_span import GUEST as IN_GUEST
from sim.host.halting import GUEST_SPIN, VMM
from sim.host.ple import PleParameters, PleWindow
from sim.kernel.walker import Walker

PLAIN = FOUR.replace("cpus = 4", "cpus = {cpus}\nhz = 100\n{host}").replace("50 ms", "{measure}")
GUEST = '[guests.g]\nvcpus = 2\naffinity = "pinned"\nlock = {{ every = {{ constant = "{every}" }}, hold = "{hold}" }}\n'


def locking(every, hold, cpus=2, host="ple_gap = 0", measure="50 ms", guest=""):
    return only((PLAIN + GUEST).format(every=every, hold=hold, cpus=cpus, host=host, measure=measure) + guest)


# Closed forms.


@pytest.mark.parametrize(("every_us", "hold_us"), [(10, 30), (5, 50), (20, 21)])
def test_of_two_vcpus_that_hold_longer_than_they_work_each_spins_for_the_rest(every_us, hold_us):
    """One holds for H while the other works for E and spins for H - E; a turn takes 2 H."""
    found = metrics(simulate(locking(f"{every_us} us", f"{hold_us} us"), "xstate-guest", 0))
    share = found["guest_spin_cycles"] / found["elapsed_cycles"]
    assert share == pytest.approx((hold_us - every_us) / (2 * hold_us), rel=0.02)


def test_of_two_vcpus_that_spin_for_one_lock_one_gets_it_and_the_other_spins_on():
    """A turn of three takes 3 H, of which each works for E, holds for H and spins for the rest."""
    case = only((PLAIN + GUEST).replace("vcpus = 2", "vcpus = 3").format(
        every="10 us", hold="30 us", cpus=3, host="ple_gap = 0", measure="20 ms"
    ))  # fmt: skip
    found = metrics(simulate(case, "xstate-guest", 0))
    assert found["guest_spin_cycles"] / found["elapsed_cycles"] == pytest.approx(
        (3 * 30 - 30 - 10) / (3 * 30), rel=0.03
    )


def test_two_vcpus_that_work_longer_than_they_hold_meet_at_the_lock_once_at_most_per_interruption():
    found = metrics(simulate(locking("100 us", "10 us"), "xstate-guest", 0))
    assert found["guest_spin_cycles"] / found["elapsed_cycles"] < 0.002


ALTERNATING = 'scheduler = "round-robin"\nbase_slice = "1 ms"\n'


def test_a_waiter_on_the_cpu_of_a_preempted_holder_spins_for_its_whole_quantum():
    """A holds for 20 quanta of its time; each is followed by one of B, which only spins."""
    case = locking("100 us", "20 ms", cpus=1, host=f"{ALTERNATING}ple_gap = 0", measure="200 ms")
    found = metrics(simulate(case, "xstate-guest", 0))
    assert found["guest_spin_cycles"] / found["elapsed_cycles"] == pytest.approx(0.5, abs=0.03)


def test_lag_credit_gives_the_cpu_back_after_a_window_and_v7_3_only_once_the_target_is_eligible():
    """B spins where A has run ahead of its share.  A buddy that is not eligible is not picked, so that B is picked
    again, with a window twice as long, until it has forfeited as many slices as A is ahead; a credit ends that."""
    spun = {}
    for how in ("none", "v7.3", "lag-credit"):
        case = locking("100 us", "20 ms", cpus=1, host=f'directed_yield = "{how}"', measure="200 ms")
        found = metrics(simulate(case, "xstate-guest", 0))
        spun[how] = found["guest_spin_cycles"] / found["elapsed_cycles"]
        if how == "lag-credit":
            assert found["guest_spin_cycles"] <= 4097 * (found["context_switches"] / 2 + 1)
    assert spun["none"] > 1.5 * spun["v7.3"] > 50 * spun["lag-credit"]


def test_windows_of_a_spinner_that_keeps_its_cpu_double_and_are_not_shrunk():
    """4096 * (2^13 - 1) cycles are more than the 10 ms of a critical section: no more than 13 exits fit into one, and
    in the next the window is what it was."""
    text = (PLAIN + GUEST).format(every="10 us", hold="10 ms", cpus=2, host='directed_yield = "none"', measure="100 ms")
    found = metrics(simulate(only(text.replace("[run]", '[run]\nwarmup = "0 ns"')), "xstate-guest", 0))
    exits = found["vm_exits"] - found["ticks"]
    assert 2 * 12 <= exits <= 2 * 14


# PLE, against the source.


def c_grow(val, base, modifier, most):
    if modifier < 1:
        return base
    ret = val * modifier if modifier < base else val + modifier
    return min(ret, most)


def c_shrink(val, base, modifier, least):
    if modifier < 1:
        return base
    val = val // modifier if modifier < base else val - modifier
    return max(val, least)


@given(
    st.lists(st.booleans(), max_size=40), st.sampled_from([100, 3000, 4096]), st.sampled_from([0, 1, 2, 5000]),
    st.sampled_from([0, 1, 2, 5000]), st.sampled_from([1 << 16, (1 << 32) - 1]),
)  # fmt: skip
def test_the_ple_window_is_what_the_source_makes_of_it(grows, base, grow, shrink, most):
    window, value = PleWindow(PleParameters(base, grow, shrink, most)), base
    for each in grows:
        (window.grow if each else window.shrink)()
        value = c_grow(value, base, grow, most) if each else c_shrink(value, base, shrink, base)
        assert window.value == value


@pytest.mark.parametrize(("cpu", "most"), [("sapphire-rapids", 4294967295), ("zen4", 65535)])  # UINT_MAX, USHRT_MAX
def test_the_ple_window_grows_up_to_what_the_vendor_has_by_default(cpu, most):
    text = (PLAIN + GUEST).format(every="10 us", hold="10 us", cpus=2, host="", measure="1 ms")
    _env, host = hosted(only(text.replace("sapphire-rapids", cpu)))
    window = threads(host)["g/0/vcpu0"]._ple
    for _ in range(32):
        window.grow()
    assert window.value == most


@pytest.mark.parametrize(("account", "left"), [(GUEST_SPIN, 4096), (IN_GUEST, 4096), (VMM, 8192)])
def test_the_window_is_shrunk_by_being_scheduled_in_only_where_that_was_within_kvm_run(account, left):
    """vcpu_load asks vcpu->scheduled_out, which kvm_sched_out() sets: a preempt notifier, which the VMM has not."""
    env, host = hosted(locking("100 us", "10 us"))
    vcpu = threads(host)["g/0/vcpu0"]
    env.run(until=1_000_000)
    assert vcpu.account == IN_GUEST
    vcpu._ple.grow()
    vcpu.queued_at += 1
    vcpu.account = account
    vcpu.cpu.passes(Walker.vm_exit, "pause", False)
    if account == VMM:
        vcpu.cpu.passes(Walker.leave_kvm_run)
    vcpu.enter(vcpu.cpu)
    assert vcpu._ple.value == left


# kvm_vcpu_on_spin(), against the source.


class Vcpu:
    def __init__(self, ready, preempted, pending, in_kernel, in_spin_loop, dy_eligible):
        self.ready, self.preempted, self.has_pending_interrupt = ready, preempted, pending
        self.preempted_in_kernel, self.in_spin_loop, self.dy_eligible = in_kernel, in_spin_loop, dy_eligible


def c_on_spin(me, vcpus, last, results, stores):
    """kvm_vcpu_on_spin(me, true) line by line (kvm_main.c, Linux 7.3.4 and 6.18.2): whom it asked, what is stored."""
    asked, tries, n = [], 3, len(vcpus)
    if n < 2:
        return asked, last
    vcpus[me].in_spin_loop = True
    start = last + 1
    for i in range(n):
        idx = (start + i) % n
        if idx == me:
            continue
        vcpu = vcpus[idx]
        if not vcpu.ready:
            continue
        if vcpu.preempted and not vcpu.has_pending_interrupt and not vcpu.preempted_in_kernel:
            continue
        eligible = not vcpu.in_spin_loop or vcpu.dy_eligible
        if vcpu.in_spin_loop:
            vcpu.dy_eligible = not vcpu.dy_eligible
        if not eligible:
            continue
        yielded = results[idx]
        asked.append(idx)
        if yielded > 0:
            return asked, {"v7.3": idx, "v6.18": i}[stores]
        if yielded < 0:
            tries -= 1
            if not tries:
                break
    return asked, last


FLAGS = st.tuples(*[st.booleans()] * 6)


@pytest.mark.parametrize("stores", ["v7.3", "v6.18"])
@given(st.data(), st.lists(FLAGS, min_size=1, max_size=8))
def test_whom_a_spinning_vcpu_yields_to_is_what_the_source_says(stores, data, flags):
    n = len(flags)
    me, last = data.draw(st.integers(0, n - 1)), data.draw(st.integers(-1, n - 1))
    results = data.draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=n, max_size=n))
    ours, theirs = ([Vcpu(*each) for each in flags] for _ in range(2))
    vm, asked = Boosted(stores == "v6.18"), []
    vm.last = last

    def ask(number):
        asked.append(number)
        return results[number]

    yielded = on_spin(me, ours, vm, ask)
    assert (asked, vm.last) == c_on_spin(me, theirs, last, results, stores)
    assert [each.dy_eligible for i, each in enumerate(ours) if i != me] == [
        each.dy_eligible for i, each in enumerate(theirs) if i != me
    ]
    assert yielded == (results[asked[-1]] > 0 if asked else False)
    if not yielded and n > 1:
        assert not ours[me].in_spin_loop
        assert not ours[me].dy_eligible


@pytest.mark.parametrize("posted", [True, False])
def test_an_interrupt_is_pending_for_directed_yield_only_where_apicv_is_active(posted):
    """kvm_arch_dy_has_pending_interrupt(): kvm_vcpu_apicv_active(vcpu) && ..."""
    text = (PLAIN + GUEST).format(every="10 us", hold="10 us", cpus=2, host="", measure="1 ms")
    _env, host = hosted(only(f"{text}posted_interrupts = {str(posted).lower()}\n"))
    vcpu = threads(host)["g/0/vcpu0"]
    assert not vcpu.has_pending_interrupt
    vcpu._waiting = 1
    assert vcpu.has_pending_interrupt is posted


def test_after_three_who_say_that_there_is_no_point_nobody_else_is_asked():
    vcpus, asked = [Vcpu(True, False, False, False, False, False) for _ in range(6)], []

    def ask(number):
        asked.append(number)
        return ESRCH

    assert not on_spin(0, vcpus, Boosted(False), ask)
    assert asked == [1, 2, 3]


SPIN = (PLAIN + GUEST).format(every="10 us", hold="10 us", cpus=2, host="", measure="1 ms")


@pytest.mark.parametrize(("kernel", "counts"), [("v6.18", True), ("v6.19", False), ("v7.3", False)])
@pytest.mark.parametrize("how", [None, "v6.18", "v7.3"])
def test_where_a_search_begins_is_the_kernels_unless_the_scenario_says_otherwise(kernel, counts, how):
    """Row 23 of docs/kernel-versions.md."""
    keys = f'kernel = ["{kernel}"]\n' + (f'directed_yield = "{how}"\n' if how else "")
    _env, host = hosted(only(SPIN.replace("[host]\n", "[host]\n" + keys)))
    assert threads(host)["g/0/vcpu0"]._lock.boosted.counts_steps is (counts if how is None else how == "v6.18")


# Batched or one by one.

LOCKS = RICH.replace(
    "[guests.busy]\n", '[guests.busy]\nlock = { every = { exponential = "40 us" }, hold = { exponential = "15 us" } }\n'
).replace(
    "[guests.web]\n", '[guests.web]\nlock = { every = { exponential = "20 us" }, hold = { exponential = "10 us" } }\n'
).replace("cpus = 3", 'cpus = 3\nkernel = ["v6.18", "v7.3"]\ndirected_yield = "{how}"')  # fmt: skip


@pytest.mark.parametrize("how", ["none", "v7.3", "lag-credit"])
@pytest.mark.parametrize("number", [0, 3])
def test_batched_equals_one_by_one_where_guests_have_locks(number, how):
    text = LOCKS.replace("{how}", how)
    batched = simulate(from_text(text)[number], "xstate-guest", 0)
    assert differences(batched, simulate(from_text(text, batch=False)[number], "xstate-guest", 0)) == []
    assert metrics(batched)["guest_spin_cycles"] > 0
