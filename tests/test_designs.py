"""A design spreads points over ranges, and what it leaves is read without loading all."""

import itertools
import json
import math
from itertools import pairwise

import fake_host
import numpy as np
import pandas as pd
import pytest
import worlds
from command import run as run_command
from hypothesis import given
from hypothesis import strategies as st

from sim import experiment
from sim.analysis import student
from sim.analysis.by_point import by_value
from sim.errors import InputError
from sim.experiment.design import Design, Range
from sim.experiment.points import point_name
from sim.results import load
from sim.scenario.sweep import MOST_CASES

SMALL = """
title = "Small"
[run]
measure = "20 ms"
replications = 3
strategies = ["free-ssp", "manual-load"]
[host]
cpus = 4
cpu = ["zen4"]
tsc = "2 GHz"
[guests.g]
vcpus = 2
sleep = "10 ms"
demand = "1 ms"
"""
RANGES = ("host.cpus=2..9", "guests.g.demand='1 ms..100 ms log'")


@pytest.fixture
def run(scenario, tmp_path):
    def run(out="d", design=("sobol:8", RANGES), **options):
        options = {"simulate": fake_host.simulate, "jobs": 1} | options
        return experiment.run_design(scenario, Design.parsed(*design), tmp_path / out, **options)

    return run


# Points.


@pytest.mark.parametrize("kind", ["lhs", "sobol"])
def test_each_range_has_one_point_in_each_of_n_parts_of_it(kind):
    design = Design.parsed(f"{kind}:64", ["host.cpus=0..63", "run.measure=1e-3..1 s log"])
    points = list(design.points())
    assert sorted(point["host.cpus"] for point in points) == list(range(64))
    shares = [math.log(float(point["run.measure"].split()[0]) / 1e-3) / math.log(1e3) for point in points]
    assert sorted(math.floor(min(share, 0.999999) * 64 + 1e-6) for share in shares) == list(range(64))


def test_a_factorial_design_has_every_combination_of_the_levels_of_its_ranges():
    text = ["host.cpus=1..4", "run.measure=1..100 ms log", "guests.g.fpu.share=0..1"]
    design = Design.parsed("factorial:5", text)
    cpus, measures, shares = [1, 2, 3, 4], [1, 3.16228, 10, 31.6228, 100], [0, 0.25, 0.5, 0.75, 1]
    points = [
        (point["host.cpus"], float(point["run.measure"].removesuffix(" ms")), point["guests.g.fpu.share"])
        for point in design.points()
    ]
    assert points == list(itertools.product(cpus, measures, shares))
    assert design.n == len(points) == 100
    assert all(type(cpu) is int for cpu, *_ in points)


def test_a_factorial_design_may_have_more_points_than_a_sweep_has_cases():
    design = Design.parsed("factorial:40", ["host.cpus=1..64", "guests.g.vms=1..64"])
    assert len(list(design.points())) == design.n == 1600 > MOST_CASES


def test_the_points_are_those_of_the_seed():
    first, again, other = (list(Design.parsed("lhs:16", RANGES, seed).points()) for seed in (1, 1, 2))
    assert first == again != other


@given(st.floats(0, 1), st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_a_value_is_in_its_range(share, low, width):
    value = Range("host.cpus", low, low + width).value(share)
    assert low - 1e-5 * abs(low) - 1e-6 <= value <= (low + width) + 1e-5 * abs(low + width) + 1e-6


@given(st.floats(0, 1), st.integers(0, 1000), st.integers(1, 1000))
def test_a_whole_value_is_in_its_range_and_both_ends_are(share, low, width):
    found = Range("host.cpus", low, low + width, whole=True)
    assert isinstance(found.value(share), int)
    assert low <= found.value(share) <= low + width
    assert (found.value(0), found.value(1)) == (low, low + width)


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        ("host.cpus=1..4", True),
        ("guests.g.vms=1e1..1e3 log", True),
        ("threads.a.nice=-5..5", True),
        ("guests.g.fpu.share=0..1", False),
        ("guests.g.exits.io.kernel_fpu=0..1", False),
        ("host.cpus=1.5..4", False),
        ("host.cups=1..4", False),
    ],
)
def test_values_are_whole_only_where_the_key_takes_no_others(text, is_whole):
    found = [Range.parsed(text).value(share) for share in (0, 0.3, 0.7, 1)]
    assert all(isinstance(value, int) for value in found) is is_whole
    assert is_whole or any(value % 1 for value in found)


@pytest.mark.parametrize(
    ("ranges", "overrides", "options", "message"),
    [
        (("host.cpus=1..4",), {"host.cpus": 3}, {"host.cpus": "--set host.cpus"}, "found beside --set host.cpus"),
        (
            ("run.measure=1..4 ms",),
            {"run.measure": "3 ms"},
            {"run.measure": "--x"},
            "range run.measure: found beside --x",
        ),
        (("host.cpus=1..4",), {"host.cpus": 3}, None, "found beside an override"),
        (("guests.g.vcpus=1..4",), {"sweep": {"guests.g.vcpus": [1, 2]}}, None, "found beside .sweep. guests.g.vcpus"),
    ],
)
def test_a_key_that_has_a_range_is_refused_where_it_is_given_beside_it(run, ranges, overrides, options, message):
    with pytest.raises(InputError, match=message):
        run(design=("lhs:2", ranges), overrides=overrides, options=options)


@pytest.mark.parametrize(
    ("design", "ranges", "message"),
    [
        ("grid:4", RANGES, "unknown design 'grid'"),
        ("lhs", RANGES, "allowed: lhs:N, sobol:N"),
        ("sobol:100", RANGES, "a power of two"),
        ("lhs:1000000", RANGES, "up to 100000"),
        ("lhs:4", (), "without a range"),
        ("lhs:4", ("host.cpus=1..4", "host.cpus=2..8"), "found 2 times"),
        ("lhs:4", ("host.cpus",), "allowed: PATH=LOW..HIGH"),
        ("lhs:4", ("=1..2",), "allowed: PATH=LOW..HIGH"),
        ("lhs:4", ("host.cpus=4..4",), "low < high"),
        ("lhs:4", ("host.cpus=8..4",), "low < high"),
        ("lhs:4", ("guests.g.demand=1 us..2 MHz",), "units of one kind"),
        ("lhs:4", ("guests.g.demand=2 us..1 ns",), "low < high"),
        ("lhs:4", ("host.cpus=0..4 log",), "from above 0"),
        ("lhs:4", ("host.cpus=1..nan",), "allowed: PATH=LOW..HIGH"),
        ("lhs:4", ("host.cpus=1..1e999",), "low < high"),
        ("lhs:4", ("host.cpus=1..4 LOG",), "unit 'LOG' .allowed: ns, us, "),
        ("factorial:1", RANGES, "1 levels .allowed: 2 to 100000"),
        ("factorial:20000", RANGES, "points .allowed: up to 100000"),
        ("lhs:4", ("run.replications=2..6",), "run.replications is the same at all points"),
        ("lhs:4", ("run.seed=1..6",), "run.seed is the same at all points"),
    ],
)
def test_what_is_no_design_is_refused(design, ranges, message):
    with pytest.raises(InputError, match=message):
        Design.parsed(design, ranges)


def test_a_range_may_have_two_units_of_one_kind_as_the_documentation_has_it():
    found = Range.parsed("guests.web.demand=20 us..2 ms log")
    assert [found.value(share) for share in (0, 0.5, 1)] == ["20.0 us", "200.0 us", "2000.0 us"]
    assert Range.parsed("host.l2=512 KiB..2 MiB").value(1) == "2048.0 KiB"


# Runs.


def test_each_point_is_an_ordinary_result_with_its_values(run, tmp_path):
    run()
    for number, point in enumerate(Design.parsed("sobol:8", RANGES).points()):
        results = load(tmp_path / "d" / "points" / point_name(number))
        assert results.manifest["resolved"]["host"]["cpus"] == point["host.cpus"]
        assert len(results.cases) == 1


def test_the_rows_of_a_point_are_the_differences_that_a_comparison_finds(run, tmp_path):
    import sim

    frame = run()
    results = load(tmp_path / "d" / "points" / point_name(3))
    found = sim.compare(results).answers.difference("zen4 v6.18", "manual-load", "free-ssp").own
    row = frame.query("point == 4 and strategy == 'manual-load'").iloc[0]
    us = results.cases[0]["tsc_hz"] / 1e6
    assert row["difference_us"] == pytest.approx(found.mean / us, rel=1e-3)
    assert row["difference_half_us"] == pytest.approx((found.high - found.low) / 2 / us, rel=1e-2)


def test_the_dataset_is_partitioned_and_has_all_rows_of_all_points(run, tmp_path):
    run()
    for table in ("ledger", "metrics", "latency", "integrity"):
        whole = pd.read_parquet(tmp_path / "d" / "dataset" / table)
        single = [
            len(pd.read_parquet(tmp_path / "d" / "points" / point_name(n) / f"{table}.parquet")) for n in range(8)
        ]
        assert whole.groupby("point", observed=False).size().reindex(range(1, 9), fill_value=0).tolist() == single


@pytest.mark.slow
def test_a_design_that_was_interrupted_goes_on_and_leaves_the_same_bytes(run, tmp_path):
    run("whole")
    calls = []

    def interrupts(*work):
        calls.append(work)
        if len(calls) == 14:
            raise KeyboardInterrupt
        return fake_host.simulate(*work)

    with pytest.raises(experiment.Interrupted, match="after 4 of 8 points"):
        run("d", simulate=interrupts)
    assert not (tmp_path / "d" / "points.parquet").exists()
    before = len(calls)
    run("d", simulate=lambda *work: calls.append(work) or fake_host.simulate(*work))
    assert len(calls) - before == 8 * 3 - 13
    names = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.parquet")}
    assert len(names) == 8 * 4 * 2 + 1
    assert all((tmp_path / "d" / n).read_bytes() == (tmp_path / "whole" / n).read_bytes() for n in names)


@pytest.mark.slow
def test_another_design_in_the_directory_is_refused_and_so_is_something_else(run, tmp_path):
    run()
    with pytest.raises(InputError, match="another design or scenario"):
        run(design=("sobol:16", RANGES))
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "letter").touch()
    with pytest.raises(InputError, match="something other than a design"):
        run("e")


def test_a_range_that_leaves_what_is_possible_is_found_before_anything_runs(run, tmp_path):
    with pytest.raises(InputError, match=r"point \d of 8 .host.cpus -?\d+.*: host.cpus"):
        run(design=("sobol:8", ("host.cpus=1..100000",)))
    assert not (tmp_path / "d" / "points").exists()


def test_quarters_are_of_the_points_and_their_means_are_of_their_rows():
    chosen = np.random.default_rng(1)
    values = chosen.permutation(40) / 2
    points = pd.DataFrame(
        {"point": point, "x": x, "case": "c", "strategy": s, "reference": "r", "difference_us": x * (s == "a")}
        for point, x in enumerate(values, 1)
        for s in ("r", "a")
    )
    found = by_value(points, "x")
    assert found["low"].tolist() == [0, 5, 10, 15]
    assert found["points"].tolist() == [10] * 4
    assert found["mean"].tolist() == [2.25, 7.25, 12.25, 17.25]


def quarters_of(values):
    """The lowest and highest value of each quarter, and of how many points it is."""
    points = pd.DataFrame(
        {"point": point, "x": x, "case": "c", "strategy": s, "reference": "r", "difference_us": 0.0}
        for point, x in enumerate(values, 1)
        for s in ("r", "a")
    )
    return by_value(points, "x")[["low", "high", "points"]].to_numpy().tolist()


@given(st.lists(st.integers(1, 6), min_size=1, max_size=40))
def test_points_of_one_value_are_in_one_quarter(values):
    found = quarters_of(values)
    assert sum(n for *_, n in found) == len(values)
    assert all(high < low for (_, high, _), (low, *_) in pairwise(found))


@pytest.mark.parametrize("n", range(1, 30))
def test_quarters_of_different_values_are_those_of_pandas(n):
    values = np.random.default_rng(n).permutation(n)
    bins = pd.qcut(values, min(4, n), labels=False) if n > 1 else np.zeros(1)
    parts = [values[bins == quarter] for quarter in sorted(set(bins))]
    assert quarters_of(values) == [[part.min(), part.max(), len(part)] for part in parts]


def test_two_values_are_two_rows(capsys):
    from sim.cli import design as shown

    points = pd.DataFrame(
        {"point": point, "host.cpus": x, "case": "c", "strategy": s, "reference": "r", "difference_us": 0.0}
        for point, x in enumerate([1, 1, 2, 2, 2, 1, 1, 2], 1)
        for s in ("r", "a")
    )
    shown.show(points, Design.parsed("lhs:8", ("host.cpus=1..2",)), "d", as_json=False)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if " c " in line]
    assert [row[:3] for row in rows] == [["1", "c", "a"], ["2", "c", "a"]]


def test_the_command_prints_a_table_for_each_range_and_status_counts_points(scenario, tmp_path, capsys, monkeypatch):
    original = experiment.run_design
    faked = {"simulate": fake_host.simulate, "jobs": 1}
    monkeypatch.setattr(experiment, "run_design", lambda *a, **k: original(*a, **k | faked))
    ranges = [word for each in RANGES for word in ("--range", each)]
    out = str(tmp_path / "d")
    status, text, _ = run_command(capsys, "run", str(scenario), "--design", "lhs:5", *ranges, "--out", out)
    assert (status, text.count("own operations less the reference's")) == (0, 1)
    assert "guests.g.demand (ms)" in text
    assert text.count("manual-load") == 3 + 4  # of five points two have the same host.cpus
    status, text, _ = run_command(capsys, "status", out)
    assert (status, text) == (
        0,
        f"{out}: a design of small, complete\n  done       5 of 5 points (100%)\n  failed     none\n",
    )
    status, text, _ = run_command(capsys, "status", out, "--json")
    assert json.loads(text)["finished"] == 5
    for wrong in (
        ("--design", "lhs:5"),
        ("--design", "lhs:5", "--range", "host.cpus=1..4"),
        ("--range", "host.cpus=1..4"),
    ):
        status, _, err = run_command(capsys, "run", str(scenario), *wrong)
        assert (status, err.count("\n")) == (2, 1)


OF_A_RUN = ("--full", "--mail", "--no-figures", "--check-engine")


@pytest.mark.parametrize("option", OF_A_RUN)
def test_an_option_without_effect_on_a_design_is_refused(scenario, tmp_path, capsys, option):
    words = ("--design", "lhs:2", "--range", "host.cpus=1..4", "--out", str(tmp_path / "d"), option)
    status, out, err = run_command(capsys, "run", str(scenario), *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"--design beside {option} (allowed" in err
    assert not (tmp_path / "d").exists()


def test_a_number_of_processes_that_a_run_refuses_is_refused_by_a_design(run, tmp_path):
    for jobs in (-3, 0, 1025):
        with pytest.raises(InputError, match=f"jobs {jobs} .allowed: 1 to 1024"):
            run(jobs=jobs)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("earlier", [(), (2,), (1, 2)])
def test_own_operations_at_a_point_are_those_of_its_tables(run, tmp_path, earlier):
    """Also of replications that an earlier command has run."""
    for replications in (*earlier, 3):
        points = run(design=("lhs:2", ("host.cpus=2..9",)), overrides={"run.replications": replications})
    for number, rows in points.set_index("strategy").groupby("point"):
        results = load(tmp_path / "d" / "points" / point_name(number - 1))
        (case,) = results.cases
        ledger = results.ledger[results.ledger["timed_by"] == case["timed_by"]]
        cycles = ledger.pivot_table(index="replication", columns="strategy", values="cycles", aggfunc="sum")
        us = cycles / (case["vcpus"] * case["measure_s"] * case["tsc_hz"] / 1e6)
        more = us.sub(us[case["reference"]], axis=0)
        assert len(us) == 3
        assert rows["own_us"].to_dict() == us.mean().to_dict()
        assert rows["difference_us"].to_dict() == more.mean().to_dict()
        half = student.quantile(0.975, 2) * more.std() / 3**0.5
        assert rows["difference_half_us"].to_dict() == pytest.approx(half.to_dict(), rel=1e-12)


def test_points_at_which_nothing_has_operations_cost_nothing(tmp_path):
    path = tmp_path / "idle.toml"
    path.write_text(worlds.small(measure="2 ms", replications=2).replace("vcpus = 2", "vcpus = 1"))
    design = Design.parsed("lhs:2", ("host.cpus=1..2",))
    points = experiment.run_design(path, design, tmp_path / "d", jobs=1)
    assert load(tmp_path / "d" / "points" / point_name(0)).ledger.empty
    assert set(points["strategy"]) == {"free-ssp", "manual-load"}
    assert (points[["own_us", "difference_us", "difference_half_us"]] == 0).all(axis=None)
