"""What the dispatcher makes of workers that die or hang, with a pool in which nothing takes time."""

from concurrent.futures import Future

import pytest

from sim.errors import InputError
from sim.experiment.dispatch import Dispatcher, Lane
from sim.experiment.workers import Done
from sim.processes import TRIES
from sim.results.groups import Gathered

BAD = 7
"""The replication that something is wrong with."""
MOST_LOOKS = 400
"""So often nothing happens before it is said that the dispatcher waits for ever."""


@pytest.fixture(autouse=True)
def no_time(monkeypatch):
    """What has no answer when nothing happens is late."""
    for name, value in {"LOOK_S": 0.002, "LATE_S": 0.0, "LATE": 0}.items():
        monkeypatch.setattr(f"sim.experiment.dispatch.{name}", value)


class Died(Exception):
    """A worker has."""


class Unpacked(Lane):
    def task(self, group):
        return group


class Scripted:
    """Two workers.  All but the bad replication has its answer at once; that one has what ``then`` does with those of
    its futures that are not done, each time that the dispatcher looks.
    """

    dashboard = ""

    def __init__(self, then=lambda futures: None):
        self.sent, self.of_bad, self._then, self._looks = [], [], then, 0

    def workers(self):
        return 2

    def in_flight(self):
        return 0.0

    def deaths(self, error):
        return int(isinstance(error, Died))

    def submit(self, group):
        self.sent.append([replication for *_, replication in group])
        future = Future()
        future.set_running_or_notify_cancel()
        if BAD in self.sent[-1]:
            self.of_bad.append(future)
        else:
            future.set_result(done(len(group)))
        return future

    def look(self):
        self._looks += 1
        assert self._looks < MOST_LOOKS, f"this waits for ever, or does {self.sent[-5:]} again and again"
        self._then([future for future in self.of_bad if not future.done()])


def done(n):
    return Done(Gathered().packed(), (0.01,) * n)


def lane(replications, works=None):
    group = [("case", "free-ssp", ("free-ssp",), n) for n in replications]
    return Unpacked((), {}, works(group) if works else iter([group]), list)


def run(pool, *lanes):
    """How many answers have come, and what was said."""
    said = []
    return len(list(Dispatcher(pool, said.append, pool.look).groups(iter(lanes)))), said


def dies_when_late(futures):
    """Each of them, when there are two."""
    if len(futures) == 2:
        for future in futures:
            future.set_exception(Died())


def test_a_replication_that_kills_its_workers_only_when_it_is_late_is_named_after_three():
    pool, one = Scripted(dies_when_late), lane(range(BAD + 1))
    run(pool, one)
    assert [replication for *_, replication in one.failed] == [BAD]
    assert len(pool.of_bad) <= TRIES + 1  # the last two were sent together


def dies_at_once(futures):
    for future in futures:
        future.set_exception(Died())


def test_a_replication_that_kills_its_workers_is_tried_three_times_however_many_others_there_are():
    pool, one = Scripted(dies_at_once), lane(range(20_000))
    run(pool, one)
    assert [replication for *_, replication in one.failed] == [BAD]
    assert len(pool.of_bad) == TRIES
    assert {n for group in pool.sent for n in group} == set(range(20_000))


def test_the_death_of_one_of_two_that_have_a_group_leaves_it_to_the_other():
    died = []

    def one_of_two(futures):
        """Dies; the other one answers when that is known."""
        if died:
            futures[0].set_result(done(1))
        elif len(futures) == 2:
            died.append(futures[0])
            futures[0].set_exception(Died())

    pool, one = Scripted(one_of_two), lane(range(BAD + 1))
    answers, said = run(pool, one)
    assert (len(pool.of_bad), one.failed, len(said)) == (2, [], 1)
    assert answers == len(pool.sent) - 1


def test_what_a_run_that_has_failed_has_with_a_worker_that_hangs_is_neither_waited_for_nor_sent_again():
    pool, errors = Scripted(), []

    def works(group):
        try:
            yield group
        except InputError as error:
            errors.append(error)

    failing, other = lane([0, BAD], works), lane(range(10, 20))
    original = pool.submit

    def submit(group):
        if group[0][-1] != 0:
            return original(group)
        future = Future()
        future.set_exception(InputError("no"))
        return future

    pool.submit = submit
    run(pool, failing, other)
    assert [str(error) for error in errors] == ["no"]
    assert len(pool.of_bad) == 1
    assert {n for group in pool.sent for n in group} >= set(range(10, 20))
