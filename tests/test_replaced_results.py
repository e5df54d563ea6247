"""Results of another scenario, seed or program are replaced when the new ones are complete, which is said."""

import errno
import re
import shutil
from dataclasses import replace

import fake_host
import pytest
import worlds

from sim import experiment
from sim.errors import InputError, RunError
from sim.results import files, load, parts
from sim.results import manifest as manifests

pytestmark = pytest.mark.usefixtures("few_draws")

SMALL = worlds.small(["free-ssp", "manual-load", "xstate-guest"], ["sapphire-rapids", "zen4"], 2)
WALKED = 2 * 3 * 2
"""Cases x strategies x replications of it."""


@pytest.mark.parametrize(
    ("change", "other"),
    [
        (("vcpus = 2", "vcpus = 3"), "the scenario (guests.g.vcpus)"),
        (("20 ms", "21 ms"), "the scenario (run.measure)"),
        (("[host]", "seed = 2\n[host]"), "the seed (1, here 2)"),
        (("2 GHz", "2.1 GHz"), "the scenario (host.tsc)"),
    ],
)
def test_another_world_is_simulated_and_said_to_take_the_place_of_what_was_there(
    rerun, scenario, tmp_path, change, other
):
    rerun()
    scenario.write_text(SMALL.replace(*change))
    results, counted = rerun()
    assert len(counted.walked) == WALKED
    (note,) = results.notes
    assert (
        f"the contents of {tmp_path / 'r'} are kept in {tmp_path / 'r'}.previous until this run is complete, and then"
        in note
    )
    assert "scenario small, seed 1, 2 replications" in note
    assert f"; none of it can be used again: other than here are {other}; to keep them longer, move " in note
    assert not (tmp_path / "r.previous").exists()


def test_after_an_upgrade_it_is_said_that_only_the_program_is_another(rerun, monkeypatch):
    rerun()
    monkeypatch.setattr(manifests, "source_sha256", lambda: "f" * 64)
    monkeypatch.setattr(manifests, "_version", lambda package: "9.9" if package == "numpy" else "1.0")
    results, counted = rerun()
    assert len(counted.walked) == WALKED
    (note,) = results.notes
    source = r"the source of fpswitch \([0-9a-f]{12}, here f{12}\)"
    numpy, simpy = r"numpy \([0-9.]+, here 9\.9\)", r"simpy \([0-9.]+, here 1\.0\)"
    assert re.search(f"; none of it can be used again: other than here are {source}, {numpy}, {simpy}; to keep", note)


def test_other_costs_and_other_contents_of_a_file_are_said(rerun, tmp_path):
    for name in ("samples", "costs"):
        changed = {}
        for value in (1, 2):
            if name == "samples":
                (tmp_path / "s.csv").write_text(f"d\n{value * 100}\n{value * 200}\n")
                samples = {"empirical": str(tmp_path / "s.csv"), "column": "d", "unit": "us"}
                changed = {"guests.g.demand": samples, "guests.g.sleep": "1 ms"}
            else:
                changed = {"host.cpu": ["zen4"], "host.costs": {"zen4": "zen4" if value == 1 else "zen5"}}
            results, _ = rerun(out=name, overrides=changed)
        (note,) = results.notes
        assert {"samples": "files that the scenario names", "costs": "the costs"}[name] in note


def test_an_earlier_result_that_was_moved_away_while_another_world_ran_stays(rerun, tmp_path, tables):
    rerun()
    before = tables("r")

    def moved(*work):
        if (tmp_path / "r.previous").exists():
            (tmp_path / "r.previous").rename(tmp_path / "kept")
        return fake_host.simulate(*work)

    results, _ = rerun(seed=2, simulate=moved)
    assert results.manifest["seed"] == 2
    assert tables("kept") == before
    load(tmp_path / "kept")


def interrupted(*_):
    raise KeyboardInterrupt


def test_what_a_complete_result_replaced_is_not_taken_up_again_where_a_kill_kept_it_from_being_deleted(
    rerun, tmp_path, tables, monkeypatch
):
    rerun()
    monkeypatch.setattr(files, "remove", interrupted)
    with pytest.raises(experiment.Interrupted):
        rerun(seed=2)
    monkeypatch.undo()
    assert load(tmp_path / "r").manifest["seed"] == 2
    assert load(tmp_path / "r.previous").manifest["seed"] == 1
    _, counted = rerun()
    assert len(counted.walked) == WALKED
    rerun(out="fresh")
    assert tables("r") == tables("fresh")
    assert not (tmp_path / "r.previous").exists()


def test_a_deletion_that_was_interrupted_is_finished_by_the_next_one(tmp_path, monkeypatch):
    for name in ("r[1]", "r1"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(files.shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.remove(tmp_path / "r[1]")
    monkeypatch.undo()
    (tmp_path / "r[1]").mkdir()
    files.remove(tmp_path / "r[1]")
    assert [each.name for each in tmp_path.iterdir()] == ["r1"]


def there(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_the_earlier_scenario_goes_on_after_another_one_failed_over_it_before_it_kept_anything(rerun, tmp_path, tables):
    rerun()
    before = tables("r")
    with pytest.raises(RunError):
        rerun(seed=2, simulate=fake_host.breaks_at(0))
    results, counted = rerun()
    assert (counted.works, tables("r")) == ([], before)
    (note,) = [note for note in results.notes if note.startswith(f"the contents of {tmp_path / 'r'} are deleted: ")]
    assert "scenario small, seed 2" in note
    assert note.endswith("not complete; nothing was kept of it")


OTHERS = {"earlier": {}, "third": {"seed": 3}, "longer": {"replications": 3}}


@pytest.mark.parametrize("was_complete", [True, False])
@pytest.mark.parametrize("other", OTHERS)
def test_what_an_unfinished_run_kept_over_another_one_is_lost_to_no_third_run(
    rerun, tmp_path, tables, other, was_complete
):
    """The third run is refused, whatever it is, until the user has moved one of the two away."""
    out, aside = tmp_path / "r", tmp_path / "r.previous"
    if was_complete:
        rerun()
    else:
        with pytest.raises(RunError):
            rerun(simulate=fake_host.breaks_at(1))
    with pytest.raises(RunError):
        rerun(seed=2, simulate=fake_host.breaks_at(1))
    before = there(tmp_path)
    kept = set(parts.keys_kept(out))
    assert kept
    with pytest.raises(InputError) as caught:
        rerun(**OTHERS[other])
    for words in (
        f"{out}: holds an unfinished run (scenario small, seed 2",
        f"{aside} what it was to replace (scenario",
    ):
        assert words in str(caught.value)
    assert there(tmp_path) == before
    out.rename(tmp_path / "moved")
    rerun(**OTHERS[other])
    assert not aside.exists()
    assert set(parts.keys_kept(tmp_path / "moved")) == kept
    _, counted = rerun(seed=2, out="moved")
    assert len(counted.walked) == WALKED - len(kept)
    rerun(seed=2, out="fresh")
    assert tables("moved") == tables("fresh")


@pytest.mark.parametrize("is_copy", [True, False])
def test_what_somebody_calls_as_runs_call_what_they_set_aside_is_left_and_runs_are_refused(rerun, tmp_path, is_copy):
    """A copy of the result, and another result."""
    out, aside = tmp_path / "r", tmp_path / "r.previous"
    rerun()
    if is_copy:
        shutil.copytree(out, aside)
    else:
        rerun(out="r.previous", seed=5)
    before = there(tmp_path)
    for change in ({"seed": 2}, {"replications": 3}, {}):
        with pytest.raises(InputError, match=r"r\.previous: was not set aside by a run in .* is not overwritten"):
            rerun(**change)
    assert there(tmp_path) == before
    shutil.rmtree(out)
    before = there(tmp_path)
    with pytest.raises(InputError, match=r"r\.previous: was not set aside by a run in .* is not overwritten"):
        rerun(seed=2)
    assert there(tmp_path) == before


def test_what_was_set_aside_and_moved_away_is_its_owners_also_when_it_comes_back(rerun, tmp_path, tables):
    """As long as another run is to replace it, it is what that set aside; when that is complete, it is no longer."""
    aside = tmp_path / "r.previous"
    rerun()
    before = tables("r")
    with pytest.raises(RunError):
        rerun(seed=2, simulate=fake_host.breaks_at(1))
    aside.rename(tmp_path / "kept")
    rerun(seed=2)
    shutil.copytree(tmp_path / "kept", aside)
    with pytest.raises(InputError, match="was not set aside by a run in"):
        rerun(seed=3)
    assert tables("r.previous") == before == tables("kept")
    shutil.rmtree(tmp_path / "r")
    aside.rename(tmp_path / "r")
    shutil.copytree(tmp_path / "r", aside)
    with pytest.raises(InputError, match="was not set aside by a run in"):
        rerun(seed=3)
    assert not list(tmp_path.glob(".*"))


def test_a_copy_of_a_result_beside_it_is_not_what_a_run_set_aside_though_a_mark_names_it(rerun, tmp_path):
    """A kill came before the result got its other name, or somebody gave it its own name again."""
    rerun()
    (tmp_path / ".r.previous.mark").write_text(files.sha256(tmp_path / "r" / "manifest.json"))
    shutil.copytree(tmp_path / "r", tmp_path / "r.previous")
    with pytest.raises(InputError, match="was not set aside by a run in"):
        rerun(seed=3)
    shutil.rmtree(tmp_path / "r.previous")
    rerun()
    assert not list(tmp_path.glob(".*"))


def test_where_what_was_set_aside_cannot_be_deleted_the_run_is_complete_and_the_next_one_deletes_it(
    rerun, tmp_path, monkeypatch
):
    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    rerun()
    monkeypatch.setattr(files, "remove", denied)
    results, _ = rerun(seed=2)
    assert f"{tmp_path / 'r.previous'} cannot be deleted (Permission denied)" in results.notes[-1]
    assert load(tmp_path / "r").manifest["seed"] == 2
    monkeypatch.undo()
    rerun(seed=3)
    assert not list(tmp_path.glob("*previous*"))


def by_engine(engine):
    return lambda *work: [replace(record, engine=engine) for record in fake_host.simulate(*work)]


def test_the_manifest_names_the_engines_of_what_is_there_and_not_of_what_it_replaced(rerun, scenario, tmp_path):
    def engines():
        return {engine for each in load(tmp_path / "r").manifest["engines"].values() for engine in each}

    rerun(simulate=by_engine("compiled"))
    rerun(seed=2, simulate=by_engine("simpy"))
    assert engines() == {"simpy"}

    def broken(*work):
        raise RuntimeError("broken")

    with pytest.raises(RunError):
        rerun(seed=3, simulate=broken)
    rerun(seed=2, replications=3, simulate=by_engine("compiled"))  # taken up again from r.previous
    assert engines() == {"simpy", "compiled"}
