"""Replications in the run's own process: whatever ends it, what was finished before comes out."""

import gc
from dataclasses import replace
from itertools import chain

import fake_host
import pytest
import worlds

from sim.errors import RunError
from sim.experiment import workers
from sim.results import groups
from sim.scenario.cases import cases
from sim.scenario.reading import read

STRATEGIES = ("free-ssp", "manual-load")
SMALL = worlds.small(list(STRATEGIES))


@pytest.fixture
def case(scenario):
    return cases(read(scenario))[0]


@pytest.fixture
def done(case):
    """The replications that come out of this many, and what is raised after them."""

    def run(number, simulate=fake_host.simulate):
        keys = {(case.name, "free-ssp", name): name for name in STRATEGIES}
        works = [(case.name, "free-ssp", STRATEGIES, n) for n in range(number)]
        found, error = [], None
        try:
            found += workers.here(works, [case], keys, simulate)
        except BaseException as raised:
            error = raised
        batches = chain.from_iterable(group.batches() for group in found)
        return sorted(chain.from_iterable(batch.replications for batch in batches)), error

    return run


def too_large_at(replication):
    def change(_, record):
        (operation, _, _), *_ = record.ledger
        is_there = record.replication == replication and record.strategy == "manual-load"
        return replace(record, ledger=((operation, 1, 1 << 63),)) if is_there else record

    return fake_host.altered(change)


@pytest.mark.parametrize(
    "last", [40, 41, 44, 60]
)  # in the middle of those that are taken apart together, or at the end
@pytest.mark.parametrize("most", [10, workers.MOST_OF_GROUP])
def test_of_a_record_with_a_number_that_no_table_can_have_all_before_are_there(done, case, monkeypatch, last, most):
    monkeypatch.setattr(workers, "MOST_OF_GROUP", most)
    found, error = done(last, too_large_at(40))
    assert [n for n in found if n < 40] == sorted([*range(40)] * 2)
    assert isinstance(error, RunError) == (last > 40)
    which = f"case {case.name}, timed by free-ssp, replication 40, strategy manual-load: OverflowError: "
    assert error is None or str(error).startswith(which)


class Interrupts(list):
    """Rows that somebody interrupts the first time that they are read."""

    is_first = True

    def __iter__(self):
        if self.is_first:
            self.is_first = False
            raise KeyboardInterrupt
        return super().__iter__()


@pytest.mark.parametrize("wanted", [10, groups.APART_TOGETHER])
def test_who_interrupts_while_records_are_taken_apart_loses_the_one_that_is(done, wanted):
    def first_interrupts(_, record):
        return replace(record, ledger=Interrupts(record.ledger)) if record.part[2:] == ("free-ssp", 0) else record

    found, error = done(wanted // 2, fake_host.altered(first_interrupts))
    assert isinstance(error, KeyboardInterrupt)
    assert found == sorted([*range(wanted // 2)] * 2)[1:]


@pytest.mark.parametrize("failing", ["_batch", "written"])
def test_who_interrupts_while_a_group_is_packed_loses_nothing(done, monkeypatch, failing):
    original, is_first = getattr(groups, failing), [True]

    def interrupted(*arguments):
        if is_first:
            is_first.pop()
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(workers, "MOST_OF_GROUP", 10)
    monkeypatch.setattr(groups, failing, interrupted)
    found, error = done(20)
    assert isinstance(error, KeyboardInterrupt)
    assert found == sorted([*range(5)] * 2)


def test_want_of_memory_is_not_told_as_a_records_own(done, monkeypatch):
    def full(record):
        raise MemoryError

    monkeypatch.setitem(groups.ROWS, "ledger", full)
    found, error = done(3)
    assert (found, type(error)) == ([], MemoryError)


@pytest.fixture
def thawed():
    """The tests put objects aside, too (conftest.py)."""
    gc.unfreeze()
    yield
    gc.freeze()


def test_the_garbage_collector_does_not_visit_what_was_there_before_a_run_and_does_after_it(done, thawed):
    frozen = []
    done(1, lambda *arguments: frozen.append(gc.get_freeze_count()) or fake_host.simulate(*arguments))
    assert frozen[0] > 10_000
    done(1, fake_host.breaks_at(0))
    assert gc.get_freeze_count() == 0


def test_what_somebody_else_put_aside_stays_so(done, thawed):
    gc.freeze()
    done(1)
    assert gc.get_freeze_count() > 10_000
