"""A CPU that is not shipped, in every command, in scenarios and in runs; and from a size to masks."""

import json

import pytest
from cpu_dumps import DATA, dump_text, run, run_json
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import InputError
from sim.kernel.config import boot
from sim.results.settings import settings_of
from sim.scenario.cases import cases
from sim.scenario.reading import read as read_scenario
from sim.xsave import imported
from sim.xsave.components import ALL, APX, AVX, AVX512, FP, MPX, SSE, XTILE
from sim.xsave.profiles import GENERIC, names, profile
from sim.xsave.sizes import masks_of


@pytest.fixture
def mine(tmp_path):
    """Zen 4, as a file of the user's."""
    path, dump = tmp_path / "mine.toml", tmp_path / "dump.txt"
    dump.write_text(dump_text("zen4", "cpuid -r"))
    path.write_text(imported.text(imported.document(imported.dump(dump), "a dump")))
    return path


@pytest.mark.parametrize("command", [["flow", "preempt"], ["strategies"], ["patches"], ["layout", "0x1ae7"]])
def test_a_file_is_a_cpu_in_every_command_that_takes_one(capsys, mine, command):
    own, shipped_one = (json.dumps(run_json(capsys, *command, "--cpu", cpu)) for cpu in (mine, "zen4"))
    assert str(mine) in own
    assert own.replace(str(mine), "zen4") == shipped_one


TRACE = DATA / "traces" / "host-pipe.txt.gz"


def test_a_replay_on_a_file_says_whose_prices_they_are(capsys, mine):
    arguments = ["replay", TRACE, "--strategies", "free-ssp,xstate-guest"]
    status, _, err = run(capsys, *arguments, "--cpu", mine)
    assert status == 2
    assert "mine.toml has no cost table of its own; allowed: --costs" in err
    priced = run_json(capsys, *arguments, "--cpu", mine, "--costs", "zen4")
    assert priced["machine"]["cost_table"] == "zen4"
    assert priced["strategies"] == run_json(capsys, *arguments, "--cpu", "zen4")["strategies"]
    _, out, _ = run(capsys, *arguments, "--cpu", mine, "--costs", "zen4")
    assert f"on {mine}, at the prices of zen4" in " ".join(out.split())
    assert "give --cpu" in run(capsys, *arguments, "--costs", "zen4")[2]


SCENARIO = """
title = "one"
[run]
measure = "5 ms"
warmup = "1 ms"
replications = 1
strategies = ["free-ssp", "xstate-guest"]
[host]
cpus = 1
cpu = ["mine.toml"]
tsc = "2.4 GHz"
costs = { "mine.toml" = "zen4" }
[guests.vm]
"""


def test_a_scenario_names_a_cpu_by_a_file_beside_it(mine, tmp_path):
    path = tmp_path / "one.toml"
    path.write_text(SCENARIO)
    (case,) = cases(read_scenario(path))
    assert (case.name, case.cpu, case.costs) == ("mine v6.18", "mine", "zen4")
    path.write_text(SCENARIO.replace('costs = { "mine.toml" = "zen4" }', ""))
    with pytest.raises(InputError, match=r"host.costs: .*mine.toml has no cost table of its own; allowed: \{"):
        read_scenario(path)


def test_a_run_on_a_file_is_that_on_the_cpu_it_describes_and_keeps_what_the_file_said(mine, tmp_path):
    import sim

    path = tmp_path / "one.toml"
    path.write_text(SCENARIO)
    ours = sim.run(path, jobs=1)
    path.write_text(SCENARIO.replace("mine.toml", "zen4"))
    theirs = sim.run(path, jobs=1)
    columns = ["strategy", "operation", "rfbm", "count", "cycles"]
    assert ours.ledger[columns].equals(theirs.ledger[columns])
    (own,), (shipped_one,) = ours.manifest["cases"], theirs.manifest["cases"]
    assert shipped_one["settings"]["free-ssp"]["cpu"] == "zen4"
    assert own["settings"]["free-ssp"]["cpu"]["xcr0_supported"] == profile("zen4").xcr0_supported
    json.dumps(ours.manifest)
    mine.unlink()
    assert boot(settings_of(own, "xstate-guest")).masks == boot(settings_of(shipped_one, "xstate-guest")).masks


# From a size to masks.


def test_the_size_that_puzzled_people_is_that_of_a_mask_without_alignment(capsys):
    document = run_json(capsys, "layout", "--size", 10704)
    found = {(each["mask"], each["format"]) for each in document["masks"] if each["linux"]}
    assert ("0x606e7", "compacted without alignment") in found
    assert GENERIC.compacted(0x606E7).size == 10752
    assert ("0x606e7", "compacted") in {
        (each["mask"], each["format"]) for each in run_json(capsys, "layout", "--size", 10752)["masks"]
    }


def test_a_size_that_no_mask_has_is_answered_so(capsys):
    assert run_json(capsys, "layout", "--size", 577)["masks"] == []
    status, out, _ = run(capsys, "layout", "--size", 577)
    assert (status, "no masks" in out) == (0, True)
    assert "leave out MASK" in run(capsys, "layout", "0x7", "--size", 577)[2]


@given(st.sampled_from([GENERIC, *map(profile, names())]), st.data())
@settings(deadline=None)
def test_every_mask_is_among_those_of_its_size(geometry, data):
    there = geometry.components
    mask = data.draw(st.integers(0, ALL)) & there & ~(AVX512 | MPX | XTILE) | FP | SSE
    for group in (AVX512 | AVX, XTILE):
        if group & there == group and data.draw(st.booleans()):
            mask |= group
    found = masks_of(geometry.compacted(mask).size, geometry)
    assert mask in {each.mask for each in found if each.format == "compacted"}
    for each in found:
        if each.format == "compacted":
            assert geometry.compacted(each.mask).size == geometry.compacted(mask).size


def test_no_mask_has_avx512_without_avx_nor_apx_with_mpx_though_the_size_would_fit():
    """SDM Vol. 1, 13.3: XSETBV refuses the former; no processor has the latter."""
    for wrong in (FP | SSE | AVX512, FP | SSE | APX | MPX):
        found = masks_of(GENERIC.compacted(wrong).size, GENERIC)
        assert not any(each.mask & AVX512 and not each.mask & AVX for each in found)
        assert not any(each.mask & APX and each.mask & MPX for each in found)


def test_masks_that_linux_enables_come_before_those_that_it_never_does():
    """Of v7.1's XFEATURE_MASK_USER_SUPPORTED and _SUPERVISOR_SUPPORTED; not PT, HDC, UINTR, LBR, HWP."""
    for size in (832, 2440, 2696):
        found = [bool(each.mask & ~0xE1EFF) for each in masks_of(size, GENERIC)]
        assert (len(set(found)), found) == (2, sorted(found)), size
