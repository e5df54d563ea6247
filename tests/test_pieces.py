"""A comparison reads tables of many replications some at a time, and says the same as if it had read all at once."""

import gc
import tracemalloc

import fake_host
import numpy as np
import pandas as pd
import pytest
import worlds

import sim
from sim import experiment
from sim.analysis import replicated
from sim.analysis.replicated import Replicated
from sim.results import load, spool, tables

STRATEGIES = ["free-ssp", "manual-load", "xstate-guest"]
FRAMES = ("schedule", "replications", "metrics", "differences", "feedback", "grades", "latency", "integrity")
OF_A_REPLICATION = 2000
"""Bytes that may stay of a replication, which has three hundred values; as frames they took 96,000."""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Four replications with independent runs."""
    place = tmp_path_factory.mktemp("pieces")
    (place / "web.toml").write_text(worlds.web(STRATEGIES, replications=4, run="feedback = true"))
    experiment.run(place / "web.toml", out=place / "r", jobs=1, simulate=fake_host.simulate)
    return place / "r"


def in_order(frame):
    texts = [name for name in frame.columns if name in ("case", "strategy", "metric", "grade", "histogram", "quantile")]
    return frame.sort_values([*texts, *(["replication"] if "replication" in frame else [])]).reset_index(drop=True)


def test_whatever_comes_together_the_comparison_is_the_same(result, monkeypatch):
    whole = sim.compare(load(result))
    monkeypatch.setattr(tables, "TOGETHER", 3)
    monkeypatch.setattr(replicated, "TOGETHER", 300)
    pieces = sim.compare(load(result))
    assert len(list(pieces.results.pieces())) == 2
    assert (pieces.answer(), pieces.mail(), pieces.summary()) == (whole.answer(), whole.mail(), whole.summary())
    for name in FRAMES:
        found, expected = (in_order(getattr(each, f"df_{name}")()) for each in (pieces, whole))
        pd.testing.assert_frame_equal(found, expected, rtol=1e-12)
    for one, other in zip(pieces.answers.contrasts(), whole.answers.contrasts(), strict=True):
        assert (one.own, one.range, one.verdict) == (other.own, other.range, other.verdict)


def test_a_frame_has_all_values_of_what_is_kept_apart_and_they_are_in_order(monkeypatch):
    monkeypatch.setattr(replicated, "TOGETHER", 7)
    rng = np.random.default_rng(1)
    pieces = []
    for begin in (0, 5, 10):
        index = pd.MultiIndex.from_product([["a", "b"], ["x", "y", "z"], range(begin, begin + 5)])
        piece = index.to_frame(index=False, name=["case", "metric", "replication"])
        pieces.append(piece[rng.random(len(piece)) < 0.7].assign(value=lambda rows: rng.random(len(rows))))
    keys = ["case", "metric"]
    whole = pd.concat(pieces).sort_values(["metric", "case", "replication"]).reset_index(drop=True)
    values = Replicated(iter(pieces), keys, apart="metric")
    frames = list(values.frames())
    assert [set(each["metric"]) for each in frames] == [{"x"}, {"y"}, {"z"}]
    pd.testing.assert_frame_equal(in_order(values.frame()), in_order(whole))
    assert values.numbers() == whole.groupby(keys).size().to_dict()
    some = values.where(lambda key: key["case"] == "b")
    pd.testing.assert_frame_equal(in_order(some.frame()), in_order(whole[whole["case"] == "b"]))
    assert values.where(lambda key: False).frame().empty
    [alone] = Replicated(iter(pieces[:1]), keys, apart="metric").frames()
    pd.testing.assert_frame_equal(alone, pieces[0].reset_index(drop=True))


@pytest.mark.slow
def test_of_a_replication_that_is_compared_little_stays_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "TOGETHER", 10)
    monkeypatch.setattr(replicated, "TOGETHER", 2000)
    monkeypatch.setattr(spool, "IN_MEMORY", 1000)
    (tmp_path / "small.toml").write_text(worlds.small(STRATEGIES))

    def peak(number):
        out = tmp_path / str(number)
        experiment.run(tmp_path / "small.toml", out=out, jobs=1, simulate=fake_host.simulate, replications=number)
        results = load(out)  # which takes the same, and more, for any number
        gc.collect()  # else 60 more replications take 42 to 190 kB, by when the collector comes
        tracemalloc.start()
        try:
            comparison = sim.compare(results)
            for frame in (comparison.df_metrics, comparison.df_differences, comparison.df_grades):
                frame()
            repr(results)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(20)  # imports
    few, many = peak(20), peak(80)
    assert many - few < OF_A_REPLICATION * 60


def test_a_result_in_a_directory_says_how_many_rows_it_has_without_reading_them(result, monkeypatch):
    results, said = load(result), repr(load(result))
    whole = [len(results.tables[name]) for name in tables.SCHEMAS]
    monkeypatch.setattr(tables.OnDisk, "__getitem__", None)
    assert repr(load(result)) == said
    assert said.endswith(", ".join(f"{name} {n}" for name, n in zip(tables.SCHEMAS, whole, strict=True)) + ">")
