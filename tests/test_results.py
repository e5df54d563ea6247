"""What a result directory promises: the same bytes for the same seed, and never complete before it is."""

import copy
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fake_host
import pytest
import worlds
from command import run as run_command
from packing import frames_of

from sim import experiment
from sim.errors import InputError, RunError
from sim.results import files, load
from sim.results import manifest as manifests
from sim.results.replayed import ReplayDirectory
from sim.results.tables import SCHEMAS
from sim.scenario import reading
from sim.scenario.cases import cases

SMALL = worlds.small(["free-ssp", "manual-load", "xstate-guest"], ["sapphire-rapids", "zen4"], 3, "50 ms")

TABLES = [f"{name}.parquet" for name in SCHEMAS]


def run(scenario, **options):
    return experiment.run(scenario, **{"jobs": 1, "simulate": fake_host.simulate} | options)


def contents(directory):
    return {name: (directory / name).read_bytes() for name in TABLES}


def test_the_same_seed_gives_identical_tables_with_any_number_of_jobs(scenario, tmp_path):
    for jobs in (1, 2):
        run(scenario, jobs=jobs, out=tmp_path / str(jobs))
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    run(scenario, seed=2, out=tmp_path / "other")
    assert contents(tmp_path / "other")["metrics.parquet"] != contents(tmp_path / "1")["metrics.parquet"]


def test_the_order_in_which_replications_end_cannot_be_seen(scenario):
    read = reading.read(scenario)
    of_scenario = cases(read)
    records = [
        record
        for case in of_scenario
        for replication in range(3)
        for record in fake_host.simulate(case, case.timed_by, case.strategies, replication)
    ]
    documents = [{"case": case.name, "timed_by": case.timed_by, "strategies": case.strategies} for case in of_scenario]
    shuffled = random.Random(1).sample(records, len(records))
    disordered = [replace(record, ledger=record.ledger[::-1]) for record in shuffled]
    for name, frame in frames_of(records, documents).items():
        assert frames_of(disordered, documents, 4)[name].equals(frame)


def test_the_tables_have_the_documented_columns_and_types(scenario, tmp_path):
    results = run(scenario, out=tmp_path / "r")
    again = load(tmp_path / "r")
    for name, schema in SCHEMAS.items():
        frame = getattr(again, name)
        assert list(frame.columns) == [*schema.names, "cpu", "kernel"]
        assert frame.equals(getattr(results, name))
    for column in ("rfbm", "components", "initialised", "count", "cycles"):
        assert again.ledger[column].dtype == "int64"
    assert again.metrics["value"].dtype == "float64"
    assert {case["case"] for case in again.cases} == set(again.ledger["case"])


def test_a_manifest_is_enough_to_repeat_its_run(scenario, tmp_path):
    run(scenario, seed=5, replications=2, out=tmp_path / "r")
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    run(tmp_path / "r" / "manifest.json", out=tmp_path / "again")
    assert contents(tmp_path / "r") == contents(tmp_path / "again")
    repeated = json.loads((tmp_path / "again" / "manifest.json").read_text())
    for key in ("fingerprint", "scenario_sha256", "seed", "replications", "cases", "resolved", "versions"):
        assert repeated[key] == manifest[key], key
    assert (manifest["status"], manifest["seed"], manifest["replications"]) == ("complete", 5, 2)


def spoil(document):
    """Empties a JSON document, and all that is in it."""
    if isinstance(document, dict | list):
        for each in list(document.values()) if isinstance(document, dict) else list(document):
            spoil(each)
        document.clear()


def test_what_is_done_to_the_documents_of_results_reaches_no_later_run(scenario, tmp_path):
    results = run(scenario)
    costs, manifest = copy.deepcopy((results.costs, results.manifest))
    spoil(results.costs), spoil(results.manifest)
    again = run(scenario, out=tmp_path / "r")
    assert (again.costs, again.manifest) == (costs, manifest)
    assert load(tmp_path / "r").costs == costs


def test_the_manifest_is_the_first_file_and_says_running(scenario, tmp_path):
    seen = []

    def watched(*work):
        seen.append(json.loads((tmp_path / "r" / "manifest.json").read_text())["status"])
        assert not any((tmp_path / "r" / name).exists() for name in TABLES)
        return fake_host.simulate(*work)

    run(scenario, simulate=watched, out=tmp_path / "r")
    assert set(seen) == {"running"}
    assert json.loads((tmp_path / "r" / "manifest.json").read_text())["status"] == "complete"
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == sorted([*TABLES, "manifest.json", "costs.json"])


SCRIPT = """
import sys, time
sys.path[:0] = [{tests!r}, {root!r}]
import fake_host, sim.experiment
from sim.experiment import workers

workers.GROUP_S = 0  # each replication is kept at once

def slow(*work):
    if work[-1] == 2:
        time.sleep(60)
    return fake_host.simulate(*work)

sim.experiment.run({scenario!r}, jobs=1, out={out!r}, simulate=slow)
"""


def started(tmp_path, script):
    restored = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # jobs of a shell ignore it
    process = subprocess.Popen([sys.executable, "-c", restored + script], stderr=subprocess.PIPE, text=True)
    parts = tmp_path / "r" / "parts"
    deadline = time.monotonic() + 30
    while not (parts.is_dir() and len(list(parts.glob("*.arrow"))) >= 2):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def script_for(scenario, tmp_path, text=SCRIPT):
    tests = Path(__file__).parent
    return text.format(tests=str(tests), root=str(tests.parent), scenario=str(scenario), out=str(tmp_path / "r"))


def test_a_killed_run_never_reads_as_complete_and_the_next_one_continues_it(scenario, tmp_path):
    process = started(tmp_path, script_for(scenario, tmp_path))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    with pytest.raises(InputError, match=r"has not ended, or was killed \(status 'running'\)"):
        load(tmp_path / "r")
    finished = 3 * len(list((tmp_path / "r" / "parts").glob("*.arrow")))
    there = load(tmp_path / "r", incomplete_ok=True).ledger.groupby(["case", "strategy", "replication"])
    assert len(there) == finished

    simulated = []

    def counted(*work):
        simulated.extend(work[2])
        return fake_host.simulate(*work)

    run(scenario, simulate=counted, out=tmp_path / "r")
    assert len(simulated) == 2 * 3 * 3 - finished
    run(scenario, out=tmp_path / "whole")
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")


HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from sim.results.lock import Lock
lock = Lock(Path({path!r}))
print("locked", flush=True)
time.sleep(60)
"""


def test_a_second_run_in_a_directory_is_refused_and_told_who_is_there_until_that_one_ends(scenario, tmp_path, capsys):
    code = HOLDER.format(root=str(Path(__file__).parent.parent), path=str(tmp_path / "r"))
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    arguments = ("run", str(scenario), "--out", str(tmp_path / "r"), "--jobs", "1", "--no-figures")
    status, out, err = run_command(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"process {holder.pid} on {socket.gethostname()}, since 20" in err
    assert not (tmp_path / "r").exists()
    with pytest.raises(InputError, match=f"process {holder.pid}"):
        ReplayDirectory(tmp_path / "r")
    run(scenario, out=tmp_path / "another")
    holder.kill()  # it has no chance to tidy up
    holder.wait()
    holder.stdout.close()
    assert (tmp_path / ".r.lock").exists()
    run(scenario, out=tmp_path / "r")
    assert load(tmp_path / "r").manifest["status"] == "complete"
    assert not (tmp_path / ".r.lock").exists()


def test_a_run_that_fails_or_is_refused_leaves_no_lock(scenario, tmp_path):
    def broken(case, strategy, replication):
        raise ZeroDivisionError

    with pytest.raises(RunError):
        run(scenario, simulate=broken, out=tmp_path / "r")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError):
        run(scenario, out=tmp_path / "theirs")
    assert not list(tmp_path.glob(".*"))


def test_only_one_of_many_gets_a_lock_and_it_goes_with_whoever_has_it(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent.parent)!r})\n"
        "from pathlib import Path\nfrom sim.results.lock import Lock\nfrom sim.errors import InputError\n"
        "got = 0\n"
        "for _ in range(300):\n"
        "    try:\n"
        f"        with Lock(Path({str(tmp_path / 'r')!r})):\n"
        f"            inside = Path({str(tmp_path / 'inside')!r})\n"
        "            inside.touch(exist_ok=False)\n"  # fails if another has the lock as well
        "            inside.unlink()\n"
        "            got += 1\n"
        "    except InputError:\n"
        "        pass\n"
        "print(got)\n"
    )
    racing = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    got = [process.communicate(timeout=60)[0] for process in racing]
    assert all(process.returncode == 0 for process in racing)
    assert sum(map(int, got)) > 0


def test_everything_is_on_the_disk_before_the_manifest_says_so_and_renamed_before_it_is_deleted(
    scenario, tmp_path, monkeypatch
):
    run(scenario, seed=9, out=tmp_path / "r")
    synced, order = set(), []

    def sync(path):
        synced.add(Path(path).name)
        return real_sync(path)

    def write(path, content):
        if b'"status": "complete"' in content[:300]:
            assert synced >= {*(f".{name}.parquet" for name in SCHEMAS), "r", "parts"} - {"parts"}
            order.append("complete")
        return real_write(path, content)

    def rmtree(path, *arguments, **options):
        assert Path(path).name.startswith("."), path  # by now nobody can take it for results
        order.append("deleted")
        return real_rmtree(path, *arguments, **options)

    real_sync, real_write, real_rmtree = files.sync, files.write_kept, shutil.rmtree
    monkeypatch.setattr(files, "sync", sync)
    monkeypatch.setattr(files, "write_kept", write)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    run(scenario, out=tmp_path / "r")
    assert order[0] == "complete"
    assert "deleted" in order


def test_a_killed_run_over_a_complete_one_does_not_read_as_complete_and_loses_nothing(scenario, tmp_path):
    run(scenario, seed=9, out=tmp_path / "r")
    before = contents(tmp_path / "r")
    process = started(tmp_path, script_for(scenario, tmp_path))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    with pytest.raises(InputError, match="status 'running'"):
        load(tmp_path / "r")
    assert contents(tmp_path / "r.previous") == before
    run(scenario, out=tmp_path / "r")
    assert load(tmp_path / "r").manifest["seed"] == 1
    assert not (tmp_path / "r.previous").exists()


def test_an_interrupted_run_says_so_and_keeps_what_was_finished(scenario, tmp_path):
    process = started(tmp_path, script_for(scenario, tmp_path))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert re.search("interrupted after [2-6] of 18 replications", err)
    with pytest.raises(InputError, match="was interrupted"):
        load(tmp_path / "r")


def dies(*work):
    if work[-1] == 1:
        os._exit(7)
    return fake_host.simulate(*work)


def test_a_worker_that_dies_is_one_message_and_a_failed_run(scenario, tmp_path):
    with pytest.raises(RunError, match="a worker process died"):
        run(scenario, jobs=2, simulate=dies, out=tmp_path / "r")
    with pytest.raises(InputError, match="status 'failed'"):
        load(tmp_path / "r")


def test_a_defect_of_the_model_names_the_replication_and_fails_the_run(scenario, tmp_path):
    def broken(*work):
        raise ZeroDivisionError("by zero")

    with pytest.raises(
        RunError, match=r"case sapphire-rapids v6\.18, timed by free-ssp, replication 0: ZeroDivisionError"
    ):
        run(scenario, simulate=broken, out=tmp_path / "r")
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "Traceback" in manifest["error"]


def test_parts_of_another_seed_or_scenario_are_not_taken_over(scenario, tmp_path):
    def stops(*work):
        if work[-1] == 2:
            raise RuntimeError
        return fake_host.simulate(*work)

    with pytest.raises(RunError):
        run(scenario, simulate=stops, out=tmp_path / "r")
    simulated = []

    def counted(*work):
        simulated.extend(work[2])
        return fake_host.simulate(*work)

    run(scenario, seed=2, simulate=counted, out=tmp_path / "r")
    assert len(simulated) == 18
    assert set(load(tmp_path / "r").manifest["cases"][0]["strategies"]) == {"free-ssp", "manual-load", "xstate-guest"}


def test_a_directory_that_is_not_ours_is_left_alone(scenario, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"not a result directory .* nothing in it is overwritten"):
        run(scenario, out=theirs)
    assert [p.name for p in theirs.iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError):
            run(scenario, out=place)


@pytest.mark.parametrize("ours_is_there", [False, True])
@pytest.mark.parametrize("manifest", [None, "{}", '{"format": "another program 7"}'])
def test_what_somebody_else_has_where_results_are_set_aside_is_left_alone(scenario, tmp_path, ours_is_there, manifest):
    if ours_is_there:
        run(scenario, out=tmp_path / "out")
    theirs = tmp_path / "out.previous"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    if manifest is not None:
        (theirs / "manifest.json").write_text(manifest)
    before = sorted((p, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file())
    with pytest.raises(InputError, match=r"out\.previous.* is not overwritten"):
        run(scenario, seed=3, out=tmp_path / "out")
    assert sorted((p, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()) == before
    assert (tmp_path / "out").exists() == ours_is_there


def test_a_link_or_a_file_where_results_are_set_aside_is_left_alone(scenario, tmp_path):
    run(scenario, out=tmp_path / "elsewhere")
    (tmp_path / "a.previous").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "b.previous").write_text("theirs")
    for name in ("a", "b"):
        with pytest.raises(InputError, match="is not overwritten"):
            run(scenario, seed=3, out=tmp_path / name)
    assert load(tmp_path / "elsewhere").manifest["seed"] == 1
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    run(scenario, seed=3, out=tmp_path / "link")
    assert load(tmp_path / "elsewhere").manifest["seed"] == 3
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "manifest.json").write_text("{"), "cannot be read"),
        (lambda d: (d / "manifest.json").write_text("{}"), "not the manifest of a result directory"),
        (lambda d: (d / "manifest.json").unlink(), "not a result directory"),
        (lambda d: (d / "ledger.parquet").write_bytes(b"no"), "ledger.parquet: is not what the run wrote"),
        (lambda d: (d / "ledger.parquet").unlink(), "ledger.parquet: cannot be read"),
        (
            lambda d: (d / "metrics.parquet").write_bytes((d / "ledger.parquet").read_bytes()),
            "metrics.parquet: is not what the run wrote",
        ),
        (lambda d: (d / "costs.json").unlink(), "cannot be read"),
    ],
)
def test_a_damaged_directory_is_one_clear_message(scenario, tmp_path, damage, message):
    run(scenario, out=tmp_path / "r")
    damage(tmp_path / "r")
    with pytest.raises(InputError, match=message):
        load(tmp_path / "r")


def test_a_script_without_a_main_guard_can_run_in_parallel(scenario, tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import fake_host, sim\n"
        f"r = sim.run({str(scenario)!r}, jobs=2, simulate=fake_host.simulate)\n"
        "print(len(r.ledger) > 0)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    done = subprocess.run(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_the_source_hash_is_of_this_package():
    assert manifests.source_sha256() == manifests.source_sha256()
    assert len(manifests.versions()["source_sha256"]) == 64


def test_a_wheel_has_the_source_hash_of_the_checkout_that_it_was_built_from(tmp_path):
    top = Path(manifests.__file__).parents[2]
    shutil.copytree(top / "sim", tmp_path / "sim", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(top / "scenarios", tmp_path / "sim/scenario/data")
    code = "from sim.results.manifest import source_sha256; print(source_sha256())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == manifests.source_sha256()
