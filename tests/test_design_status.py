"""`fpswitch status` of a design counts its points in any order, and says when all of them will be finished."""

import json
import os
import shutil
import time
from datetime import UTC, datetime

import fake_host
import pytest
import test_designs
from command import run as run_command
from command import run_json

from sim import experiment
from sim.experiment import described
from sim.experiment.design import Design
from sim.experiment.points import point_name
from sim.results import manifest as manifests
from sim.results import progress, schema
from sim.results.lock import Lock

SMALL = test_designs.SMALL.replace("replications = 3", "replications = 2")
POINTS = 8
AGO_S = 40.0


@pytest.fixture
def directory(scenario, tmp_path):
    """A complete design."""
    design = Design.parsed(f"lhs:{POINTS}", ("host.cpus=2..9",))
    experiment.run_design(scenario, design, tmp_path / "d", simulate=fake_host.simulate, jobs=1)
    return tmp_path / "d"


@pytest.fixture
def running(directory):
    """The same while this process goes on with it, since 40 s."""
    with Lock(directory):
        moment = time.time() - AGO_S
        os.utime(directory.parent / ".d.lock", (moment, moment))
        yield directory


def point(directory, number):
    return directory / "points" / point_name(number - 1)


def without(directory, *numbers):
    for number in numbers:
        shutil.rmtree(point(directory, number))


def changed(directory, number, **values):
    """The manifest of a point with other values."""
    path = point(directory, number) / manifests.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def ended(directory, numbers, ago_s):
    for number in numbers:
        changed(directory, number, started=datetime.fromtimestamp(time.time() - ago_s, UTC).isoformat(), wall_s=0.0)


def test_points_are_counted_whatever_their_order(running, capsys):
    without(running, 2, 3)
    status, out, err = run_command(capsys, "status", running)
    assert (status, err) == (0, "")
    assert out.startswith(f"{running}: a design of small, running, process {os.getpid()} on ")
    assert "\n  done       6 of 8 points (75%); this driver began 40 s ago\n" in out


@pytest.mark.parametrize(("earlier", "left_s"), [((), 40 * 3 / 5), ((1, 4, 6), 40 * 3 / 2), ((1, 4, 6, 7, 8), None)])
def test_the_time_left_is_that_of_all_points_by_those_that_this_driver_has_finished(running, capsys, earlier, left_s):
    without(running, 2, 3, 5)
    ended(running, range(6, 9), 10)
    ended(running, (1, 4), 20)
    ended(running, earlier, 500)
    found = run_json(capsys, "status", str(running))
    assert found["left_s"] == (pytest.approx(left_s, rel=0.02) if left_s else None)
    assert found["elapsed_s"] == pytest.approx(AGO_S, rel=0.02)
    shown = f"about {left_s:.0f} s" if left_s else "not known yet"
    assert f"  left       {shown}" in run_command(capsys, "status", running)[1]


def test_points_that_run_count_by_what_they_say_less_what_was_there_before(running, capsys):
    without(running, 2, 3)
    ended(running, range(1, 9, 7), 10)
    ended(running, range(4, 7), 500)
    changed(running, 7, status="running")
    progress.write(
        point(running, 7), progress.Progress(finished=3, total=4, before=2, elapsed_s=1, at=0, in_flight=0.5)
    )
    found = run_json(capsys, "status", str(running))
    assert (found["finished"], found["in_flight"]) == (5, 3.5 / 4)
    assert found["running"] == [{"point": 7, "finished": 3, "total": 4}]
    done = 2 + 3.5 / 4 - 2 / 4
    assert found["left_s"] == pytest.approx(AGO_S * (2 + 0.5 / 4) / done, rel=0.02)
    assert "  running    point 7 (3 of 4)\n" in run_command(capsys, "status", running)[1]


def test_a_point_that_begins_just_now_is_none(running, capsys):
    (point(running, 3) / manifests.NAME).unlink()
    status, out, err = run_command(capsys, "status", running)
    assert (status, err) == (0, "")
    assert "7 of 8 points" in out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: None, "complete"),
        (lambda d: (d / "points.parquet").unlink(), "killed"),
        (lambda d: said_of_the_design(d, status="interrupted"), "interrupted"),
        (lambda d: (d / "points.parquet").write_bytes(b"PAR1"), "killed"),
        (lambda d: without(d, 3), "killed"),
        (lambda d: changed(d, 3, status="running"), "killed"),
        (lambda d: changed(d, 3, status="interrupted"), "interrupted"),
        (lambda d: changed(d, 3, status="failed", error="Traceback\n  ZeroDivisionError: no"), "failed"),
        (lambda d: (point(d, 3) / manifests.NAME).write_text("{"), "failed"),
        (lambda d: named_as_failed(d, {"point": 3, "error": "no"}), "failed"),
    ],
)
def test_the_exit_status_is_that_of_a_run(directory, capsys, change, says):
    change(directory)
    status, out, err = run_command(capsys, "status", directory)
    assert (status, err) == (int(says != "complete"), "")
    assert out.startswith(f"{directory}: a design of small, {says}\n")
    assert ("the same command continues it" in out) == (says != "complete")
    assert f"  failed     {'point 3' if says == 'failed' else 'none'}\n" in out


def said_of_the_design(directory, **values):
    without(directory, 3)
    path = directory / "design.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def named_as_failed(directory, which):
    said_of_the_design(directory, failed=[which])


def test_what_design_json_says_of_a_failed_point_is_told(directory, capsys):
    named_as_failed(directory, {"point": 3, "error": "a worker died"})
    assert "  error      point 3: a worker died\n" in run_command(capsys, "status", directory)[1]


@pytest.mark.parametrize(
    "asked",
    [{"replications": 3, "strategies": ["free-ssp"]}, {"replications": 2, "strategies": ["free-ssp", "no-cet"]}],
)
def test_points_that_have_less_than_is_asked_for_now_are_not_counted(running, capsys, asked):
    said_of_the_design(running, resolved={"run": {"replications": 2, "strategies": ["free-ssp"]}})
    assert run_json(capsys, "status", str(running))["finished"] == 7
    path = running / "design.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resolved": {"run": asked}}))
    assert run_json(capsys, "status", str(running))["finished"] == 0


@pytest.mark.parametrize(("said", "status"), [("running", "killed"), ("failed", "failed"), ("complete", "complete")])
def test_a_design_is_complete_when_its_command_has_said_so(directory, capsys, said, status):
    """One that asks for less than is there has a table of all points, of the command before it."""
    path = directory / described.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": said}))
    code, out, _ = run_command(capsys, "status", str(directory), "--json")
    assert (code, json.loads(out)["status"]) == (int(status != "complete"), status)


def test_a_table_of_fewer_points_does_not_make_a_design_complete(directory, capsys):
    for number in range(POINTS, POINTS + 2):
        shutil.copytree(point(directory, 1), directory / "points" / point_name(number))
    path = directory / "design.json"
    path.write_text(path.read_text().replace('"n": 8', '"n": 10'))
    status, out, _ = run_command(capsys, "status", directory)
    assert (status, "done       10 of 10 points (100%)" in out, "killed" in out) == (1, True, True)


def test_why_a_point_failed_is_told(directory, capsys):
    changed(directory, 3, status="failed", error="Traceback\n  ZeroDivisionError: no")
    assert "  error      point 3: ZeroDivisionError: no\n" in run_command(capsys, "status", directory)[1].replace(
        ":   ", ": "
    )


def test_a_driver_of_another_host_is_silent_when_no_point_has_ended_for_long(running, capsys, monkeypatch):
    from sim.results import lock

    monkeypatch.setattr(lock, "here", str)
    long_ago = time.time() - lock.SILENT_S - 60
    os.utime(running.parent / ".d.lock", (long_ago, long_ago))
    without(running, 2)
    assert run_json(capsys, "status", str(running))["status"] == "running"
    ended(running, [1, *range(3, 9)], lock.SILENT_S + 60)
    status, out, _ = run_command(capsys, "status", running)
    assert (status, "small, silent, process" in out, "said last  11 min ago" in out) == (1, True, True)


def test_of_all_manifests_one_is_checked_and_no_table_is_loaded(running, capsys, monkeypatch):
    checked = []
    original = schema.check
    monkeypatch.setattr(schema, "check", lambda *a, **k: checked.append(a[1]) or original(*a, **k))
    for table in running.glob("points/*/*.parquet"):
        table.unlink()
    without(running, 2)
    assert run_json(capsys, "status", str(running))["finished"] == 7
    assert len(checked) == 1


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"n": 8', '"n": 0', "damaged: design.n"),
        ('"n": 8', '"n": -4', "damaged: design.n"),
        ('"n": 8', '"n": Infinity', "cannot be read"),
        ('"n": 8', '"n": 1e999', "damaged: design.n"),
        ('"n": 8', '"n": 8.0', "damaged: design.n"),
        ('"n": 8', '"n": 100000000000', "damaged: design.n"),
        ('"kind": "lhs"', '"kind": "grid"', "damaged: design.kind"),
        ('"low": 2.0', '"low": "2"', "damaged: design.ranges[0].low"),
        ('"scenario": "small"', '"scenario": "a\\nb"', "damaged: scenario"),
        ('"failed": []', '"failed": 3', "damaged: failed"),
        ("fpswitch design 1", "fpswitch design 9", "not a design of this version"),
        ("{", "[", "cannot be read"),
    ],
    ids=range(12),
)
def test_a_damaged_design_file_is_one_message(directory, capsys, old, new, says):
    path = directory / "design.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    status, out, err = run_command(capsys, "status", directory)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"fpswitch: {path}: ")
    assert says in err


def test_a_damaged_progress_file_of_a_point_is_ignored_with_one_sentence(running, capsys):
    changed(running, 8, status="running")
    (point(running, 8) / progress.NAME).write_text('{"pid": "me"}')
    status, out, err = run_command(capsys, "status", running)
    assert (status, "running    point 8\n" in out, err.count("\n")) == (0, True, 1)
    assert "; it is ignored" in err
