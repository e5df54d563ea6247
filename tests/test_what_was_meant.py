"""A path, a name or a number that is nearly what a command takes: the message says what may have been meant."""

import json

import fake_host
import pytest
import worlds
from command import run

from sim import experiment
from sim.experiment import designs
from sim.experiment.design import Design


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with a scenario, its results and those of a design."""
    place = tmp_path_factory.mktemp("made")
    scenario = place / "host.toml"
    scenario.write_text(worlds.small(replications=1))
    experiment.run(scenario, out=place / "results" / "host", jobs=1, simulate=fake_host.simulate)
    design = Design.parsed("lhs:2", ["guests.g.vcpus=1..4"])
    designs.run_design(scenario, design, place / "results" / "plan", jobs=1, simulate=fake_host.simulate)
    return place


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("run", "host"), "the path of a file ends in .toml or has a /; did you mean the file host.toml?"),
        (("run", "hosts"), "the path of a file ends in .toml or has a /"),
        (("compare", "host"), "host: no such directory; did you mean results/host?"),
        (("compare", "host.toml"), "host.toml: not a directory; did you mean results/host?"),
        (("compare", "hosts"), "hosts: no such directory (allowed: the result directory of fpswitch run)"),
        (("compare", "results"), "results: not a result directory (it has no manifest.json; results/host is one)"),
        (("status", "results"), "results: not a result directory (it has no manifest.json; results/host is one)"),
        (("compare", "results/plan"), "(it has no manifest.json; results/plan/points/000001 is one)"),
        (("compare", "results/host/inputs"), "no such directory (allowed: the result directory of fpswitch run)"),
        (("compare", "."), ".: not a result directory (it has no manifest.json)"),
        (("run", "./host.toml", "--out", "results"), "host is one); it is not empty, and nothing in it is overwritten"),
    ],
)
def test_what_may_have_been_meant_is_said_where_it_is_there(made, command, says, capsys, monkeypatch):
    monkeypatch.chdir(made)
    status, out, err = run(capsys, *command)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.endswith(f"{says}\n")


@pytest.mark.parametrize(
    ("typed", "meant"), [("runn", "run"), ("replays", "replay"), ("latout", "layout"), ("RUN", "run")]
)
def test_a_command_that_is_not_there_may_have_been_another(typed, meant, capsys):
    status, _, err = run(capsys, typed, "x")
    assert (status, f"No such command {typed!r}. Did you mean {meant!r}?" in err) == (2, True)
    assert "Did you mean" not in run(capsys, "zzz")[2]


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        (("cpu", "show", "SAPPHIRE-RAPIDS"), "sapphire-rapids"),
        (("layout", "0x7", "--cpu", "Sapphire-Rapid"), "sapphire-rapids"),
        (("run", "host.toml", "--strategies", "XSTATE-GUEST"), "xstate-guest"),
        (("run", "host.toml", "--set", 'host.preemption="FULL"'), "full"),
        (("flow", "PINGPONG"), "ping-pong"),
    ],
)
def test_a_name_in_capitals_may_have_been_one_in_small_letters(made, command, meant, capsys, monkeypatch):
    monkeypatch.chdir(made)
    status, _, err = run(capsys, *command)
    assert (status, f"did you mean {meant!r}?" in err) == (2, True)


def test_a_mask_says_in_which_base_it_was_read(capsys):
    status, out, err = run(capsys, "layout", "1800", "--json")
    assert (status, json.loads(out)["mask"]) == (0, "0x708")
    assert err == "fpswitch: MASK 1800 is decimal, 0x708 (0x1800 is hexadecimal)\n"
    assert run(capsys, "layout", "0x1800", "--json")[2] == run(capsys, "layout", "7", "--json")[2] == ""
    assert run(capsys, "layout", "1ae7")[2].endswith("; did you mean 0x1ae7?\n")
