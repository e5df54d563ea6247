"""Results of another scenario, seed or program are replaced when the new ones are complete, which is said."""

import re
from dataclasses import replace

import fake_host
import pytest
import worlds

from sim import experiment
from sim.errors import RunError
from sim.results import files, load
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


def test_the_earlier_scenario_goes_on_after_another_one_failed_over_it(rerun, scenario, tmp_path, tables):
    rerun()
    before = tables("r")
    with pytest.raises(RunError):
        rerun(seed=2, simulate=fake_host.breaks_at(1))
    results, counted = rerun()
    assert (counted.works, tables("r")) == ([], before)
    assert any(
        f"the contents of {tmp_path / 'r'} are deleted: scenario small, seed 2" in note for note in results.notes
    )


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
