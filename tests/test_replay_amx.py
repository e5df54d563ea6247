"""Recordings of tasks and guests with tiles (AMX): each strategy on their schedule, whatever the CPU has."""

import pytest
from click.testing import CliRunner
from command import run_json

from sim.cli import cli
from sim.scenario.reading import read

HOST = """
title = "tiles"
[run]
measure = "150 ms"
warmup = "0 ns"
[host]
cpus = 2
cpu = ["sapphire-rapids"]
[threads.tiles]
count = 3
compute = { exponential = "300 us" }
sleep = { exponential = "500 us" }
fpu = { components = ["SSE", "XTILEDATA"] }
[threads.plain]
count = 2
compute = { exponential = "300 us" }
sleep = { exponential = "500 us" }
fpu = { components = ["SSE", "AVX"] }
[guests.tiles]
vcpus = 1
amx = true
fpu = { components = ["SSE", "XTILEDATA"], every = "1 ms" }
[guests.tiles-unused]
vcpus = 1
amx = true
fpu = { components = ["SSE"], every = "1 ms" }
[guests.plain]
vcpus = 1
fpu = { components = ["SSE"], every = "1 ms" }
"""


@pytest.fixture(scope="module", params=["xstate-guest", "free-ssp"])
def exported(request, tmp_path_factory):
    """A recording by a host of either strategy, and the same without what only a simulator can say."""
    folder = tmp_path_factory.mktemp("tiles")
    scenario, told, recorded = (folder / name for name in ("host.toml", "told.txt", "recorded.txt"))
    scenario.write_text(HOST)
    result = CliRunner().invoke(cli, ["export", str(scenario), "-o", str(told), "--strategy", request.param])
    assert result.exit_code == 0, result.output
    recorded.write_text("".join(line for line in told.open() if not line.startswith("# fpswitch ")))
    return told, recorded


def counts(document, strategy):
    return {name: entry["count"] for name, entry in document["strategies"][strategy]["operations"].items()}


def test_a_recording_of_tiles_is_followed_with_the_operations_that_the_host_ran(exported, capsys):
    told, recorded = (run_json(capsys, "replay", trace, "--cpu", "sapphire-rapids") for trace in exported)
    assert recorded["check"]["agreement"] == 1.0
    for strategy in ("free-ssp", "manual-load", "xstate-guest", "xstate-all", "independent"):
        there, here = counts(told, strategy), counts(recorded, strategy)
        assert here["XSAVES"] == there["XSAVES"]
        assert here["XRSTORS"] == pytest.approx(there["XRSTORS"], abs=2)  # at the recording's end
        assert here["WRMSR(XFD)"] == pytest.approx(there["WRMSR(XFD)"], rel=0.02)
        # Only the guest without AMX has another XCR0 than the host, and only the other one's IA32_XFD is read at exits.
        assert here["XSETBV"] == pytest.approx(there["XSETBV"], abs=4)
        assert here["RDMSR(XFD)"] == pytest.approx(there["RDMSR(XFD)"], abs=4)


@pytest.mark.parametrize("part", range(1, 8))
def test_a_recording_may_begin_while_guests_have_tiles_in_use(part, exported, tmp_path, capsys):
    lines = exported[1].read_text().splitlines(keepends=True)
    (tmp_path / "rest.txt").write_text("".join(lines[len(lines) * part // 8 :]))
    document = run_json(capsys, "replay", str(tmp_path / "rest.txt"), "--cpu", "sapphire-rapids")
    assert document["check"]["agreement"] == 1.0


def test_a_cpu_without_tiles_takes_such_a_recording_without_them(exported, capsys):
    document = run_json(capsys, "replay", exported[1], "--cpu", "zen4")
    assert document["check"]["agreement"] == 1.0
    assert not any("XFD" in name for strategy in document["strategies"] for name in counts(document, strategy))


def test_of_a_machine_without_cet_s_no_strategy_is_asked_that_saves_it_by_xsaves(exported, capsys):
    """Without a CPU the machine is that of the trace, on which IA32_XSS[12] would be #GP."""
    enabled = "features 0x61ee7" in exported[1].read_text()
    found = run_json(capsys, "replay", exported[1])["strategies"]
    assert {"xstate-guest", "independent"} & set(found) == ({"xstate-guest", "independent"} if enabled else set())
    assert {"free-ssp", "manual-load"} <= set(found)


def test_a_fit_of_such_a_recording_has_tiles_where_it_shows_them(exported, tmp_path):
    twin = tmp_path / "twin.toml"
    options = ["-o", str(twin), "--no-check", "--cpu"]
    assert CliRunner().invoke(cli, ["fit", str(exported[1]), *options, "sapphire-rapids"]).exit_code == 0
    found = read(twin)
    guests, threads = found.guests, found.threads
    has_tiles = {name: bool(each.amx) for name, each in guests.items()}
    has_tiles |= {name: "XTILEDATA" in each.fpu.components for name, each in threads.items()}
    assert len(has_tiles) >= 4
    assert has_tiles == {name: name.startswith("tiles") for name in has_tiles}
    assert CliRunner().invoke(cli, ["fit", str(exported[1]), *options, "zen4", "--force"]).exit_code == 0
    assert not any(each.amx for each in read(twin).guests.values())
