"""Errors in what the compiled loop asks, and what a replication leaves as it was: the collector, memory."""

import gc
import weakref

import both_engines  # first of all: the loop as plain Python
import pytest
from hosts import RICH, changed, from_text, only
from test_engine_hosts import HOST
from test_engine_rare import AMX, CONSTANT, POLLING, host

from sim.engine import jit, kept_tables, layout, simulation, table
from sim.engine.fragments import Unsupported
from sim.kernel.walker import Walker


class Fails:
    """In place of what passes signals on, which is the first that a question does."""

    def pass_on(self):
        raise ZeroDivisionError("on purpose")


def of_exits(run, kind, walker, cpu, point, *rest):
    """What a strategy that only walks does at a VM exit among others that are counted together."""
    return kind == layout.ASK_ROW and walker > 0 and run.built.points.all[point].what is Walker.exits


STORM = both_engines.STORM + '[interrupts.net]\nevery = { exponential = "8 us" }\ntime = "1 us"\n'
ASKED = {
    "a row": (layout.ASK_ROW, STORM),
    "a row of exits": (of_exits, STORM),
    "a price": (layout.ASK_PRICE, STORM),
    "draws": (layout.ASK_DRAWS, STORM),
    "interrupts": (layout.ASK_DEVICES, STORM),
    "exits": (layout.ASK_EXITS, STORM),
    "more exits": (layout.ASK_REFILL, STORM),
    "what is equal": (layout.ASK_EQUAL, CONSTANT),
    "an area": (layout.ASK_RENEW, HOST + AMX),
}


@pytest.mark.parametrize("what", ASKED)
def test_an_error_in_whatever_the_loop_asks_is_that_error(new_tables, monkeypatch, what):
    (which, text), asked, failed = ASKED[what], simulation.Replication._asked, []

    def fails(run, *question):
        if not (which(run, *question) if callable(which) else question[0] == which):
            return asked(run, *question)
        failed.append(question)
        before, run._signals = run._signals, Fails()
        try:
            return asked(run, *question)
        finally:
            run._signals = before

    monkeypatch.setattr(simulation.Replication, "_asked", fails)
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        simulation.simulate(only(text), "xstate-guest", ("manual-exit", "user-return"), 0)
    assert failed


@pytest.mark.parametrize("on", [True, False])
def test_the_garbage_collector_is_on_or_off_afterwards_as_it_was(on):
    (gc.enable if on else gc.disable)()
    try:
        simulation.simulate(changed(host(POLLING), measure=1e-4, warmup=0.0), "xstate-guest", (), 0)
        assert gc.isenabled() is on
    finally:
        gc.enable()


def test_a_replication_leaves_nothing_to_a_later_collection_of_garbage():
    case = changed(host(POLLING), measure=1e-3, warmup=0.0)
    simulation.simulate(case, "xstate-guest", (), 0)  # what is new to the tables
    left = []
    for _ in range(3):  # threads of other tests may leave something at the same time
        gc.collect()
        simulation.simulate(case, "xstate-guest", (), 0)
        left.append(gc.collect())
    assert min(left) < 10


def test_the_arrays_of_a_long_replication_go_when_it_ends(monkeypatch):
    monkeypatch.setattr(simulation, "SLICE", 100)  # between slices garbage is collected, and what stays grows old
    simulation.simulate(changed(host(POLLING), measure=1e-3, warmup=0.0), "xstate-guest", (), 0)
    assert not any(isinstance(each, jit.Memory) for each in gc.get_objects())


def test_a_host_is_not_looked_at_for_garbage_until_the_loop_has_made_as_many_objects(monkeypatch):
    monkeypatch.setattr(simulation, "SLICE", 50)
    collections = []
    gc.callbacks.append(lambda phase, info: collections.append(phase))
    try:
        case = changed(host(POLLING), measure=1e-3, warmup=0.0)
        simulation.simulate(case, "xstate-guest", (), 0)  # what is new to the tables
        gc.collect()
        collections.clear()
        simulation.simulate(case, "xstate-guest", (), 0)
    finally:
        gc.callbacks.pop()
    assert collections == ["start", "stop"]  # at the end


class Knot:
    """What only the garbage collector can find."""

    def __init__(self):
        self.itself = self


def test_what_outlived_a_collection_and_became_garbage_is_collected_before_the_replication_ends(monkeypatch):
    """As another thread may have it, which makes many objects, and lets go between two slices."""
    monkeypatch.setattr(simulation, "SLICE", 5)
    held = [Knot()]
    is_there = weakref.ref(held[0])
    slices, made = [], []
    make_room = simulation.Replication._make_room

    def watching(run):
        made.append([[] for _ in range(10_000)])
        if len(slices) == 3:
            held.clear()
        slices.append(is_there() is not None)
        make_room(run)

    monkeypatch.setattr(simulation.Replication, "_make_room", watching)
    simulation.simulate(changed(host(POLLING), measure=1e-3, warmup=0.0), "xstate-guest", (), 0)
    assert slices[4]  # which is why the youngest alone are not enough
    assert not slices[-1]


def test_what_the_check_found_in_a_row_for_which_there_was_no_memory_is_in_no_other(new_tables, monkeypatch):
    add, new_row, left = table.Table.add, table.Table._new_row, []

    def adding(self, *given):
        try:
            return add(self, *given)
        except MemoryError:
            left.append(self.count in self.found)
            raise

    def without_memory(self, *given):
        if not left and self.count in self.found:
            raise MemoryError
        return new_row(self, *given)

    monkeypatch.setattr(kept_tables, "read", lambda name: [])
    monkeypatch.setattr(table.Table, "add", adding)
    monkeypatch.setattr(table.Table, "_new_row", without_memory)
    case = changed(from_text(RICH)[0], measure=2e-3, warmup=0.0)
    with pytest.raises(Unsupported, match="memory"):
        simulation.simulate(case, "xstate-all-resident", (), 0)
    assert left == [False]
    both_engines.assert_the_same(case, ("xstate-all-resident",))
