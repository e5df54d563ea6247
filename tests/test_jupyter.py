"""What Jupyter shows: the first screen as tables, frames of what is known, and a bar while one waits."""

import io
import sys
from types import SimpleNamespace

import fake_host
import numpy as np
import pytest
import worlds
from command import run as run_command
from command import run_json

import sim
from sim import experiment
from sim.errors import InputError
from sim.results.tables import Results

pytestmark = pytest.mark.usefixtures("few_draws")

HOST = worlds.web(
    ["free-ssp", "manual-load", "xstate-guest"],
    ["sapphire-rapids", "zen4"],
    run='contrasts = [["manual-load", "xstate-guest"]]',
    title="A <b>host</b>",
)


@pytest.fixture(scope="module")
def results(directory):
    return sim.load(directory)


def test_a_comparison_is_the_first_screen_with_tables_and_not_the_dump(results):
    page = sim.compare(results)._repr_html_()
    assert page.startswith("<div>")
    assert page.count("<table") == 3  # one for each case, and the load
    assert page.count("<tr>") < 15
    assert "more than XSAVES guest-only" in page
    assert "A &lt;b&gt;host&lt;/b&gt;" in page
    assert "<pre>" not in page


def test_results_show_the_same(results, monkeypatch):
    assert sim.run is experiment.run  # which says how
    assert results._repr_html_() == sim.compare(results)._repr_html_()
    monkeypatch.setattr(Results, "first_screen", None)
    assert results._repr_html_() is None  # Jupyter then shows repr()


def test_results_without_a_replication_say_that(results):
    sim.load  # noqa: B018
    empty = Results.of(
        {name: getattr(results, name).head(0) for name in ("ledger", "metrics", "latency", "integrity")},
        results.manifest,
        results.costs,
    )
    assert "without a single finished replication" in empty._repr_html_()


def test_compare_takes_a_result_directory(directory, results):
    assert str(sim.compare(str(directory))) == str(sim.compare(results))
    assert str(sim.compare(directory, "manual-load")) == str(sim.compare(results, "manual-load"))
    with pytest.raises(InputError, match="no such directory"):
        sim.compare("nowhere")


def test_a_case_is_found_by_its_name_or_by_its_cpu(results):
    assert results.case("zen4 v6.18")["cpu"] == "zen4"
    assert results.case("zen4") == results.case("zen4 v6.18")
    with pytest.raises(
        InputError, match=r"case 'zen5': no such case \(allowed: 'sapphire-rapids v6\.18', 'zen4 v6\.18'\)"
    ):
        results.case("zen5")
    two = [{**results.case("zen4"), "case": name} for name in ("zen4 a", "zen4 b")]
    several = Results.of(
        {name: getattr(results, name) for name in ("ledger", "metrics", "latency", "integrity")},
        {**results.manifest, "cases": two},
        results.costs,
    )
    with pytest.raises(InputError, match=r"case 'zen4': 2 such cases \(allowed: 'zen4 a', 'zen4 b'\)"):
        several.case("zen4")


def test_the_rates_are_those_of_the_answer(results):
    comparison = sim.compare(results)
    rates = comparison.rates().set_index("case")
    assert list(rates.index) == [case["case"] for case in results.cases]
    load = comparison.answers.load("zen4 v6.18")
    assert rates.loc["zen4 v6.18", "exits"] == load.exits
    assert rates.loc["zen4 v6.18", "per"] == "vCPU"
    assert rates["busy"].between(0, 1).all()


def test_uncertainty_is_what_the_command_says_as_text_and_as_frames(results):
    found = sim.compare(results).uncertainty(draws=500)
    assert "How sure the ranking is" in str(found)
    assert "object at" not in repr(found)
    ranking = found.df_ranking()
    assert len(ranking) == 2 * 3 * 2  # cases, strategies, with IA32_XSS and without
    assert (ranking["joint_low"] <= ranking["joint_high"]).all()
    of_case = ranking[(ranking["case"] == "zen4 v6.18") & ~ranking["xss"] & (ranking["strategy"] == "manual-load")]
    difference = sim.compare(results).answers.difference("zen4 v6.18", "manual-load", "free-ssp")
    assert of_case["mean"].item() == pytest.approx(difference.own_without_xss.mean)
    cheaper = found.df_cheaper()
    pair = cheaper[(cheaper["a"] == "xstate-guest") & (cheaper["b"] == "manual-load")]
    assert np.allclose(pair["probability"], 1, atol=0.01)
    assert {"factor", "reduction", "doubt"} <= set(found.df_measure_next())
    assert set(found.df_break_even()["case"]) == {case["case"] for case in results.cases}
    assert found._repr_html_().count("<table") == 2


def test_a_bar_is_shown_in_a_notebook_and_not_in_a_pipe(monkeypatch, tmp_path):
    (tmp_path / "host.toml").write_text(HOST)

    def errors(**changes):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        experiment.run(tmp_path / "host.toml", jobs=1, simulate=fake_host.simulate, **changes)
        return stream.getvalue()

    assert errors(progress=True) == ""
    running = SimpleNamespace(IPKernelApp=SimpleNamespace(initialized=lambda: False))
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", running)
    assert errors(progress=True) == ""  # imported, and no notebook
    running.IPKernelApp.initialized = lambda: True
    assert "replications: 100%" in errors(progress=True)
    assert errors() == ""


def test_ones_own_rates_are_priced_as_the_command_prices_them(capsys):
    names = ["free-ssp", "manual-load", "xstate-guest"]
    mine = sim.price("zen4", "v6.18", names, exits=20_000, load_put=2_000, kvm_run=500, switches=3_000)
    rates = ["--exits", "20000/s", "--load-put", "2000/s", "--kvm-run", "500/s", "--switches", "3000/s"]
    options = ["price", "--cpu", "zen4", "--kernel", "v6.18", "--strategies", ",".join(names), *rates]
    found = run_json(capsys, *options)
    assert mine.document() == found
    assert str(mine) == run_command(capsys, *options)[1].rstrip()
    frame = mine.df()
    assert list(frame.index) == names
    assert frame.loc["free-ssp", ["own", "low", "high", "xss", "per_pair"]].isna().all()
    for name in names[1:]:
        strategy = found["strategies"][name]
        assert frame.loc[name, "cost"] == pytest.approx(100 * strategy["cycles"]["value"] / found["tsc_hz"])
        assert frame.loc[name, "own"] == pytest.approx(100 * strategy["own_without_xss"]["value"] / found["tsc_hz"])
        assert frame.loc[name, "per_pair"] == pytest.approx(strategy["per_load_put"]["cycles"])
    assert "<table" in mine._repr_html_()
    assert "manual-load" in repr(mine)
