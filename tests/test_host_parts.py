"""Parts of the simulated host by themselves: histograms, streams, exits, interrupts, polling, weights."""

import hashlib
import itertools
import struct

import numpy as np
import pytest
from hosts import RICH, from_text, hosted, threads
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim.host.elapsed import fraction, shown
from sim.host.exits import ExitCost, ExitKind, ExitStream
from sim.host.guest_span import GuestUse
from sim.host.halt_polling import HaltPolling
from sim.host.histogram import STEPS, Histogram
from sim.host.interrupts import Devices, DeviceSource, TickTimes
from sim.host.population import _plain_exit
from sim.host.streams import Draws, Instants, Streams, sampler
from sim.host.weights import SCHED_PRIO_TO_WEIGHT, weight_of
from sim.scenario.distribution import Distribution

HZ = 2e9

DISTRIBUTIONS = [
    Distribution(kind="constant", mean=1e-6),
    Distribution(kind="exponential", mean=1e-6),
    Distribution(kind="lognormal", mean=1e-6, sigma=1.0),
    Distribution(kind="empirical", mean=2e-6, values=(1e-6, 2e-6, 3e-6)),
]
KINDS = [each.kind for each in DISTRIBUTIONS]


# Histograms.


@settings(deadline=None)
@given(st.lists(st.integers(0, 1 << 62)))
def test_each_sample_is_counted_in_a_bucket_that_contains_it(values):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    buckets = histogram.buckets()
    assert sum(buckets.values()) == len(values)
    for (low, high), count in buckets.items():
        assert count == sum(low <= value < high for value in values)


@settings(deadline=None)
@given(st.integers(0, 1 << 62), st.integers(0, 1 << 62))
def test_buckets_do_not_overlap_and_are_at_most_a_sixteenth_of_their_lower_bound_wide(a, b):
    histogram = Histogram()
    histogram.add(min(a, b))
    histogram.add(max(a, b))
    buckets = list(histogram.buckets())
    for low, high in buckets:
        assert high - low <= max(1, low / STEPS)
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(buckets))


# Random streams.


def draw(distribution, name=("a",), seed=1, replication=0):
    return sampler(distribution, HZ, lambda: Streams(seed, replication).generator(*name))


@pytest.mark.parametrize("replication", [0, 99_999, 1 << 32])
@pytest.mark.parametrize("seed", [0, 1, (1 << 32) - 1, 1 << 32, (1 << 64) + 5, (1 << 128) - 1, 1 << 130])
def test_a_stream_is_seeded_as_numpy_seeds_a_child(seed, replication):
    digest = hashlib.sha256(b"threads\x1fdaemon/7\x1fsleep").digest()
    words = struct.unpack("<4I", digest[:16])
    expected = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(replication, *words)))
    found = Streams(seed, replication).generator("threads", "daemon/7", "sleep").bit_generator
    assert found.state == expected.state


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=KINDS)
def test_how_many_are_drawn_at_once_does_not_change_a_stream(distribution):
    at_once = draw(distribution)(3000).tolist()
    block = draw(distribution)
    in_blocks = [number for n in (1, 2, 997, 1000, 1000) for number in block(n).tolist()]
    one_by_one = Draws(draw(distribution))
    assert at_once == in_blocks == [one_by_one.next() for _ in range(3000)]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=KINDS)
def test_draws_have_the_mean_of_their_distribution(distribution):
    drawn = draw(distribution)(200_000)
    error = drawn.std() / np.sqrt(len(drawn))
    assert abs(drawn.mean() - distribution.mean * HZ) <= 4 * error + 1e-9


def test_entities_purposes_replications_and_seeds_have_different_numbers():
    exponential = Distribution(kind="exponential", mean=1.0)
    streams = [
        draw(exponential, name, seed, replication)(20).tolist()
        for name in (("web", 0, "demand"), ("web", 1, "demand"), ("web", 0, "sleep"), ("web0", "demand"))
        for seed in (1, 2)
        for replication in (0, 1)
    ]
    assert len({number for stream in streams for number in stream}) == 20 * len(streams)  # of billions


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.lists(st.integers(0, 300), max_size=20))
def test_instants_are_passed_once_each_in_order(gaps, steps):
    endless = np.resize(np.array(gaps), 1 << 14)
    position = 0

    def sample(n):
        nonlocal position
        position += n
        return endless[position - n : position]

    instants, times, now, passed = Instants(sample), np.cumsum(endless).tolist(), 0, 0
    for step in steps:
        now += step
        expected = [time for time in times[passed:] if time <= now]
        assert instants.upto(now) == (len(expected), expected[-1] if expected else -1)
        passed += len(expected)
        assert instants.next == times[passed]


# Exits.


class Brute:
    """The exits of one vCPU as a list, one after the other."""

    def __init__(self, kinds, drawn):
        self.kinds = kinds
        self.exits = sorted(
            (guest, i, time, fpu) for i, lists in enumerate(drawn) for guest, time, fpu in zip(*lists, strict=True)
        )
        self.lay_out(0, 0, 0)

    def effect(self, k):
        kind = self.kinds[self.exits[k][1]]
        return kind.effect or kind.cost is None or self.exits[k][3]

    def lay_out(self, first, wall, guest):
        self.begin = {}
        self.over = {first - 1: wall}
        self.guest = {first - 1: guest}
        for k in range(first, len(self.exits)):
            at, i, time, _ = self.exits[k]
            self.begin[k] = self.over[k - 1] + at - self.guest[k - 1]
            self.over[k] = self.begin[k] + (0 if self.effect(k) else self.kinds[i].cost.cycles + time)
            self.guest[k] = at


def kind_with(rng, number, drawn, scale, effect, cost, share):
    lists = drawn[number]

    def gaps(n):
        new = rng.integers(1, scale, n)
        lists[0].extend((np.cumsum(new) + (lists[0][-1] if lists[0] else 0)).tolist())
        return new

    def times(n):
        new = rng.integers(0, 40, n)
        lists[1].extend(new.tolist())
        return new

    def fpu(n):
        new = rng.random(n) < share
        lists[2].extend(new.tolist())
        return new

    known = None if cost is None else ExitCost((), cost, min(cost, 7))
    return ExitKind(str(number), "other", gaps, times, fpu, effect, False, None, None, known)


@pytest.mark.parametrize("fastpath", [True, False])
def test_interrupts_are_off_from_the_begin_of_a_fastpath_exit_on_and_in_others_from_the_entry_on(fastpath):
    kind = kind_with(np.random.default_rng(0), 0, [([], [], [])], 400, False, 20, 0.0)
    kind.cost = ExitCost((), 20, 7, fastpath=fastpath)
    stream = ExitStream([kind], batch=True)
    stream.begin()
    for n in range(stream.next, stream.next + 5):
        assert stream.open_until(n) == (stream.begins(n) - 1 if fastpath else stream.wall[n] - 7)


KIND = st.tuples(
    st.integers(2, 400), st.booleans(), st.one_of(st.none(), st.integers(10, 60)), st.sampled_from([0.0, 0.1])
)


@settings(max_examples=60, deadline=None)
@example(seed=757, given_kinds=[(3, False, None, 0.0), (2, False, None, 0.0)], steps=[1, 1, 0, 151])
@given(st.integers(0, 1 << 32), st.lists(KIND, min_size=1, max_size=3), st.lists(st.integers(0, 3000), max_size=60))
def test_what_a_span_of_wall_time_holds_is_what_a_list_of_all_exits_says(seed, given_kinds, steps):
    rng = np.random.default_rng(seed)
    drawn = [([], [], []) for _ in given_kinds]
    kinds = [kind_with(rng, i, drawn, *each) for i, each in enumerate(given_kinds)]
    stream = ExitStream(kinds, batch=True)
    stream.begin()
    brute = Brute(kinds, drawn)
    count = wall = 0  # of the exits that are over, and the place on the wall clock
    for step in steps:
        if len(brute.exits) != sum(len(lists[0]) for lists in drawn):
            base = brute.over[count - 1], brute.guest[count - 1]
            brute.exits = Brute(kinds, drawn).exits
            brute.lay_out(count, *base)
        offset = count - stream.next  # entry n of the stream is number n + offset
        stop = stream.stop()
        first_effect = next((k for k in range(count, stop + offset) if brute.effect(k)), None)
        assert first_effect is None
        if by_itself := stop < len(stream.wall):
            assert brute.effect(stop + offset)
        wall = min(wall + step, stream.wall[stop if by_itself else -1])
        n = stream.passed(wall, stop)
        last = max((k for k in range(count - 1, stop + offset) if brute.over[k] <= wall), default=count - 1)
        assert n + offset == last
        upcoming = last + 1
        if n + 1 < len(stream.wall):
            assert stream.begins(n + 1) == brute.begin[upcoming]
        guest = stream.guest_at(wall, n)
        assert guest == brute.guest[last] + wall - brute.over[last]
        if n + 1 < len(stream.wall) and wall <= brute.begin[upcoming]:
            then = (k for k in range(count, upcoming + 1) if brute.guest[k] == guest)  # what comes then, comes before
            assert stream.wall_at(guest, stop) == min((brute.begin[k] for k in then), default=wall)
        over = range(count, last + 1)
        assert stream.handled(stream.next - 1, n) == sum(brute.exits[k][2] for k in over)
        counts = {id(kind): times for kind, times in stream.counts(stream.next - 1, n)}
        for i, kind in enumerate(kinds):
            assert counts.get(id(kind), 0) == sum(brute.exits[k][1] == i for k in over)
        count = last + 1
        stream.skip(n)
        if by_itself and wall == stream.wall[stop]:  # an exit with an effect is run for itself
            kind = stream.kind(stop)
            assert (stream.time(stop), stream.uses_fpu(stop)) == brute.exits[count][2:]
            stream.skip(stop)
            count += 1
            if kind.cost is None and not kind.effect:
                kind.cost = ExitCost((), 33, 5)
                stream.refill()
                stream.learn()
                base = brute.over[count - 1], brute.guest[count - 1]
                brute.exits = Brute(kinds, drawn).exits
                brute.lay_out(count, *base)
        elif n + 1 < stop and wall >= brute.begin[upcoming]:  # within an exit: the next step begins at its end
            wall = brute.over[upcoming]
            stream.skip(n + 1)
            count += 1
        stream.refill()


def guests_exits(strategy):
    """The guest times of the first exits of each vCPU that runs, as drawn."""
    _env, host = hosted(from_text(RICH)[0], strategy)
    found = {}
    for vcpu in vcpus(host):
        vcpu._stream.begin()
        found[vcpu.name] = vcpu._stream.guest[:100]
    return found


def vcpus(host):
    return [thread for cpu in host.cpus for thread in cpu.rq.waiting() if hasattr(thread, "vcpu")]


def test_every_strategy_meets_the_same_exits_and_each_vcpu_has_its_own():
    per_strategy = {name: guests_exits(name) for name in ("no-cet", "manual-exit", "xstate-guest")}
    first = per_strategy["no-cet"]
    assert all(each == first for each in per_strategy.values())
    streams = [tuple(exits) for exits in first.values() if len(exits) > 2]
    assert len(streams) >= 8
    assert len(set(streams)) == len(streams)


# Interrupts.


def every(gaps):
    return Instants(lambda n: np.resize(np.array(gaps), n))


def constant(number):
    return Draws(lambda n: np.full(n, number))


def test_devices_interrupt_in_the_order_of_time_whatever_the_source():
    sources = [
        DeviceSource(every([30]), constant(3), constant(False), 6),
        DeviceSource(every([20]), constant(2), constant(True), 6),
        DeviceSource(every([1000]), constant(9), constant(True), 0),
    ]
    devices = Devices(sources)
    times = [(30 * (i + 1), 3, None) for i in range(99)] + [(20 * (i + 1), 2, 6) for i in range(149)]
    times += [(1000 * (i + 1), 9, 0) for i in range(2)]
    times.sort(key=lambda each: each[0])  # at the same time, the source that is named first
    served = 0
    for ahead in [0, 1, 5, 0, 70, 3] * 3:
        seen = [(devices.time(n), devices.cycles(n), devices.components(n)) for n in range(ahead + 1)]
        assert seen == times[served : served + ahead + 1]
        devices.serve(ahead)
        served += ahead


def test_looking_ahead_does_not_change_how_long_ticks_take():
    exponential = DISTRIBUTIONS[1]
    plain = Draws(draw(exponential))
    expected = [plain.next() for _ in range(600)]
    ticks, served, seen = TickTimes(Draws(draw(exponential))), 0, []
    for n in [1, 5, 80, 2, 100, 7, 150]:
        assert ticks.cycles(n) == expected[served + n]
        seen += [ticks.cycles(i) for i in range(n)]
        ticks.serve(n)
        served += n
    assert seen == expected[:served]


# Halt polling: kvm_main.c, v6.18, with halt_poll_ns = 200 us, grow = 2, grow_start = 10 us, at 1 GHz.


def polling(shrink=2, most=200_000):
    return HaltPolling(most, 10_000, 2, shrink)


def windows(poll, *halts):
    found = []
    for halted in halts:
        poll.begin()
        poll.end(halted)
        found.append(poll.window)
    return found


def test_the_poll_window_grows_by_two_from_its_start_while_halts_are_longer_than_it_and_shorter_than_the_most():
    assert windows(polling(), *[150_000] * 6) == [10_000, 20_000, 40_000, 80_000, 160_000, 160_000]


def test_a_halt_within_the_window_leaves_it_as_it_is():
    poll = polling()
    windows(poll, 150_000, 150_000)
    assert windows(poll, 20_000, 1, 0) == [20_000] * 3


def test_a_window_above_the_most_is_cut_to_it_when_the_next_halt_begins():
    poll = polling()
    assert windows(poll, *[199_999] * 6)[-1] == 320_000
    assert poll.begin() == 200_000


def test_a_halt_longer_than_the_most_halves_the_window_and_ends_it_below_its_start():
    poll = polling()
    windows(poll, *[150_000] * 4)
    assert windows(poll, *[200_001] * 5) == [40_000, 20_000, 10_000, 0, 0]


def test_with_shrink_0_as_in_older_kernels_one_long_halt_ends_polling():
    poll = polling(shrink=0)
    windows(poll, *[150_000] * 4)
    assert windows(poll, 200_001) == [0]


def test_a_halt_of_exactly_the_most_neither_grows_nor_shrinks_the_window():
    poll = polling()
    assert windows(poll, 150_000, 200_000) == [10_000, 10_000]


def test_with_halt_poll_ns_0_nobody_polls():
    assert windows(polling(most=0), 1, 50_000, 500_000) == [0, 0, 0]


# Weights.


def test_a_nice_level_is_a_tenth_of_the_cpu():
    assert weight_of(0) == 1024
    assert (weight_of(-20), weight_of(19)) == (88761, 15)
    for heavier, lighter in itertools.pairwise(SCHED_PRIO_TO_WEIGHT):
        assert 1.15 <= heavier / lighter <= 1.35


def test_an_exit_for_an_interrupt_or_hlt_is_drawn_from_no_stream():
    kind = _plain_exit("hlt", effect=True)
    for draw in (kind.gaps, kind.times, kind.uses_fpu):
        with pytest.raises(AssertionError, match="hlt: exits of this kind are not drawn"):
            draw(1)


def test_exits_come_a_cycle_apart_at_the_least():
    _env, host = hosted(from_text(RICH.replace('every = "20 kHz"', 'every = { exponential = "100 ns" }'))[0])
    (kind,) = (each for each in threads(host)["busy/0/vcpu0"]._stream.kinds if each.name == "msr")
    assert kind.gaps(10_000).min() == 1


def test_how_far_a_replication_is_is_read_while_it_runs_and_that_of_the_innermost():
    assert fraction() == 0.0
    with shown(lambda: 30, 40):
        assert fraction() == 0.75
        with shown(lambda: 50, 40):
            assert fraction() == 1.0
        assert fraction() == 0.75
    assert fraction() == 0.0


def test_a_guest_gives_one_carried_msr_a_new_value_where_its_kernel_rewrites_it():
    uses = [GuestUse(0, None, None, None, shadow_stacks) for shadow_stacks in ("none", "constant", "rewritten")]
    assert [(use.constant, use.carried) for use in uses] == [(False, 0), (True, 0), (True, 1)]
