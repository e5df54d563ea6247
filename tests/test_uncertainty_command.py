"""fpswitch uncertainty, on a run of a stand-in for the simulated host."""

import json
import re
from itertools import combinations
from pathlib import Path

import fake_host
import pytest
from command import run, run_json
from readable import unreadable

from sim import experiment
from sim.cli.uncertainty import _again
from sim.scenario.reading import read

DOCS = Path(__file__).parent.parent / "docs" / "uncertainty.md"
SCENARIO = "scenarios/rfc-question.toml"
STRATEGIES = ["free-ssp", "manual-run", "manual-load", "xstate-guest", "xstate-all", "xstate-all-resident"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "run"
    experiment.run(SCENARIO, strategies=STRATEGIES, replications=4, jobs=1, out=folder, simulate=fake_host.simulate)
    return folder


@pytest.fixture(scope="module")
def cases():
    return read(SCENARIO).host.cpu


def test_the_document_says_everything_for_every_case(capsys, results, cases):
    document = run_json(capsys, "uncertainty", str(results), "--draws", "1000")
    assert [each["cpu"] for each in document["cases"]] == list(cases)
    for case in document["cases"]:
        assert [(view["xss"], view["distributions"]) for view in case["views"]] == [
            (True, "table"), (True, "uniform"), (False, "table"), (False, "uniform"),
        ]  # fmt: skip
        for view in case["views"]:
            assert set(view["strategies"]) == set(STRATEGIES)
            for one in STRATEGIES:
                for other in set(STRATEGIES) - {one}:
                    assert 0 <= view["cheaper"][one][other] + view["cheaper"][other][one] <= 1
            assert view["cheaper"]["xstate-guest"]["manual-load"] == 1
            assert view["cheaper"]["manual-run"]["manual-load"] == view["cheaper"]["manual-load"]["manual-run"] == 0
            for share in view["variance"]:
                parts = sum(share["factors"].values()) + share["interaction"] + share["replications"]
                assert parts == pytest.approx(1 if share["deviation"] else 0)
        assert {turn["xss"] for turn in case["break_even"]} == {True, False}
        assert case["departure"] is None


def objects(value):
    """All objects of a document."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(each)


def test_the_first_name_of_a_key_is_kept_beside_the_one_that_is_documented(capsys, results):
    document = run_json(capsys, "uncertainty", str(results), "--draws", "200")
    named = [each for each in objects(document) if "dearer" in each]
    assert named == [each for each in objects(document) if "more_expensive" in each]
    assert all(each["dearer"] == each["more_expensive"] != each["cheaper"] for each in named)
    assert len({frozenset(each) for each in named}) == 3  # measure_next, break_even, together
    status, help_text, _ = run(capsys, "uncertainty", "--help")
    assert (status, "dearer" in help_text) == (0, False)
    assert help_text.count("more_expensive") == 3
    mentions = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if "dearer" in line]
    assert [line for line in mentions if "kept for programs that read it" not in line] == []


def test_what_is_left_to_measure_is_never_told_as_three_times_nothing(capsys, results):
    """A doubt of a thousandth of a pair has parts, too."""
    _, out, _ = run(capsys, "uncertainty", str(results), "--draws", "1000")
    document = run_json(capsys, "uncertainty", str(results), "--draws", "1000")
    told = [" ".join(part.split("\n\n")[0].split()) for part in out.split("What to measure next\n\n")[1:]]
    assert len(told) == len(document["cases"])
    for text, case in zip(told, document["cases"], strict=True):
        gains = next(view for view in case["views"] if view["distributions"] == "table")["measure_next"]
        expected = re.search(r"([\d.]+) are expected", text)
        assert (
            expected and float(expected[1]) == float(f"{gains[0]['doubt']:.3g}")
        ) or "less than 0.001 are expected" in text
        left = [1 - gain["reduction"] / gain["doubt"] for gain in gains if gain["reduction"] >= 0.01 * gain["doubt"]]
        shown = re.findall(r" \d\. ([<>]?\d+)%: ", text)
        assert [int(each) for each in shown if each.isdigit()] == [
            round(100 * share) for share, each in zip(left[:5], shown, strict=True) if each.isdigit()
        ]


def test_a_strategy_that_violates_integrity_is_never_the_cheapest(capsys, results):
    document = run_json(capsys, "uncertainty", str(results), "--draws", "200")
    for case in document["cases"]:
        assert case["violating"] == ["manual-run", "xstate-all-resident"]
        for view in case["views"]:
            first = {name: found["cheapest"] for name, found in view["strategies"].items()}
            assert [first.pop(name) for name in ("manual-run", "xstate-all-resident", "free-ssp")] == [None] * 3
            assert sum(first.values()) >= 1
    _, out, _ = run(capsys, "uncertainty", str(results), "--draws", "200")
    assert "its cost is not comparable: manual-run, xstate-all-resident." in " ".join(out.split())


def test_without_the_xss_phase_no_row_of_it_explains_anything(capsys, results):
    document = run_json(capsys, "uncertainty", str(results), "--draws", "200", "--case", "zen4 v6.18")
    (case,) = document["cases"]
    for view in case["views"]:
        named = {name for share in view["variance"] for name in share["factors"]}
        assert ("WRMSR(XSS)/base" in named) == view["xss"]


def test_the_text_fits_a_mail(capsys, results):
    status, out, err = run(capsys, "uncertainty", str(results), "--draws", "500", "--pair", "manual-load,xstate-guest")
    assert (status, err) == (0, "")
    assert max(len(line) for line in out.splitlines()) <= 72
    for part in (
        "How sure the ranking is",
        "What explains the variance",
        "Where an order is reversed",
        "What to measure next",
    ):
        assert part in out
    assert "Break-even of manual-load and xstate-guest, row by row" in out
    assert "Not asked for (--resimulate N)" in out


def test_a_pair_is_left_out_where_a_case_has_not_both(capsys, results):
    from sim.analysis.uncertainty.report import read_cases, report
    from sim.report.uncertainty_text import as_text
    from sim.results import load

    each = report(read_cases(load(results))[0], draws=100, seed=1)
    assert "row by row" not in as_text(each, [("manual-load", "msr-autoload")])


def test_the_same_seed_prints_the_same_and_another_seed_does_not(capsys, results):
    first, again, other = (
        run(capsys, "uncertainty", str(results), "--draws", "300", "--seed", seed)[1] for seed in ("1", "1", "2")
    )
    assert first == again
    assert first != other


def test_out_has_the_report_its_json_and_a_figure_for_each_part(capsys, results, tmp_path):
    run(capsys, "uncertainty", str(results), "--draws", "300", "--case", "zen4 v6.18", "--out", str(tmp_path / "u"))
    there = {path.name for path in (tmp_path / "u").iterdir()}
    parts = ("probability", "intervals", "variance", "break-even", "measure-next")
    assert there == {"uncertainty.json", "uncertainty.txt", *(f"zen4-v6.18-{part}.png" for part in parts)}
    assert json.loads((tmp_path / "u" / "uncertainty.json").read_text())["draws"] == 300


def test_every_figure_says_what_was_found_and_from_how_much_and_no_labels_overlap(results, monkeypatch, tmp_path):
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from sim.analysis.uncertainty.report import read_cases, report
    from sim.report import uncertainty_figures
    from sim.results import load

    drawn = {}
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: drawn.update({path.stem: figure}))
    each = report(read_cases(load(results))[1], draws=300, seed=5)
    uncertainty_figures.write_figures(each, tmp_path, 5)
    assert len(drawn) == 5
    for name, figure in drawn.items():
        assert not unreadable(figure), name
        assert not any("\N{MINUS SIGN}" in text.get_text() for text in figure.findobj(Text)), name
        assert figure.get_supxlabel() == "n = 4 replications, 300 draws of the costs, seed 5"
        assert figure.get_suptitle().startswith(each.coefficients.case)
    pairs = [(a, b) for a, b in combinations((group[0] for group in each.views[0].groups), 2)]
    cheaper = each.views[0].pricing.cheaper
    undecided = sum(cheaper(a, b) >= 0.05 and cheaper(b, a) >= 0.05 for a, b in pairs)
    assert f"of {len(pairs)} pairs of strategies {undecided} " in drawn["zen4-v6.18-probability"].get_suptitle()


def test_out_that_is_no_directory_is_one_message(capsys, results, tmp_path):
    (tmp_path / "file").write_text("mine")
    status, out, err = run(capsys, "uncertainty", str(results), "--out", str(tmp_path / "file"))
    assert (status, out) == (2, "")
    assert err == f"fpswitch: --out {tmp_path / 'file'}: this directory cannot be made (File exists)\n"


def test_where_no_row_turns_an_order_the_figure_says_what_all_of_them_would_have_to_be(results, monkeypatch):
    from sim.analysis.uncertainty.report import View, read_cases, report
    from sim.report import uncertainty_figures
    from sim.results import load

    each = report(read_cases(load(results))[0], draws=100, seed=1)
    monkeypatch.setattr(View, "break_even", lambda *_: [])
    figure = uncertainty_figures.plot_break_even(each)
    assert figure is not None
    assert "no value of one row" in figure.get_suptitle()
    assert len(figure.axes[0].patches) == len([g for g in each.views[0].groups if g[0] in each.views[0].carrying]) - 1


def test_simulating_again_uses_the_drawn_tables_and_the_scenario_of_the_run(results, monkeypatch, tmp_path):
    from sim.analysis.uncertainty.report import as_document, read_cases, report
    from sim.report.uncertainty_text import as_text
    from sim.results import load

    monkeypatch.setattr("sim.experiment.running.simulated", lambda: fake_host.simulate)
    kept = load(results)
    one = report(read_cases(kept)[0], draws=100, seed=1)
    again = _again(kept, one, 2, 1, 1, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["draw-0.toml", "draw-1.toml"]
    assert len(again.feedback) == 2 * len(STRATEGIES)
    # The stand-in's counts do not depend on costs: what is left is rounding, half a cycle per operation.
    for feedback in again.feedback:
        assert feedback.cost_simulated == pytest.approx(feedback.cost_repriced, rel=2e-3)
    found = as_document(again)["departure"]
    assert found["turned"] <= found["pairs"]
    assert "pairs of strategies" in " ".join(as_text(again).split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--draws", "0"), "draws 0 (allowed: 100 to 100000)"),
        (("--seed", "-1"), "seed -1 (allowed: 0 to "),
        (("--resimulate", "-1"), "resimulate -1 (allowed: 0 to 1000)"),
        (("--case", "zen5"), "unknown case 'zen5'; did you mean 'zen4 v6.18'?"),
        (("--pair", "manual-load"), "pair 'manual-load' (allowed: two strategies with a comma between them)"),
        (("--pair", "manual-load,xstate"), "unknown strategy 'xstate'; did you mean "),
    ],
)
def test_a_wrong_option_is_one_message(capsys, results, arguments, message):
    status, out, err = run(capsys, "uncertainty", str(results), *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_directory_without_results_is_one_message(capsys, tmp_path):
    status, _, err = run(capsys, "uncertainty", str(tmp_path))
    assert status == 2
    assert err.count("\n") == 1


def test_one_strategy_has_no_ranking(capsys, tmp_path):
    experiment.run(
        SCENARIO, overrides={"run.strategies": ["free-ssp"], "run.contrasts": [], "run.replications": 1}, jobs=1,
        out=tmp_path / "run", simulate=fake_host.simulate,
    )  # fmt: skip
    status, _, err = run(capsys, "uncertainty", str(tmp_path / "run"))
    assert status == 2
    assert "one strategy alone has no ranking (needed: two or more)" in err
