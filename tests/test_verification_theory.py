"""The simulated host agrees with queueing theory, and a host that queues otherwise is found."""

import json
from dataclasses import replace

import pytest
from command import run as run_command
from matplotlib.figure import Figure
from matplotlib.text import Text

from sim.host import weights
from sim.verification.theory import study
from sim.verification.theory.figure import draw
from sim.verification.theory.formulas import busy_periods_hz, repairman, share
from sim.verification.theory.study import CLAIMS, Value, finding


def quick(theory, **changes):
    """The first claim of a theory, on a small scale."""
    return replace(next(each for each in CLAIMS if each.theory == theory), **{"measure": "1 s"} | changes)


def test_one_source_of_a_repairman_runs_and_sleeps_in_turn():
    found = repairman(1, 1, 1e-3, 3e-3)
    assert found == pytest.approx((0.25, 250, 1e-3))


def test_sources_with_a_cpu_each_do_not_wait():
    assert repairman(5, 5, 1e-3, 3e-3).response_s == pytest.approx(1e-3)


def test_with_no_sleep_to_speak_of_all_cpus_are_busy():
    assert repairman(3, 9, 1e-3, 1e-9).utilisation == pytest.approx(1)


def test_two_sources_and_one_cpu_are_the_textbook_s():
    # p0 : p1 : p2 = 1 : 2 r : 2 r^2, with r = service over sleep.
    r = 1 / 3
    assert repairman(1, 2, 1e-3, 3e-3).utilisation == pytest.approx((2 * r + 2 * r * r) / (1 + 2 * r + 2 * r * r))


def test_a_queue_that_is_never_empty_begins_no_busy_period():
    assert (busy_periods_hz(1000, 2e-3), busy_periods_hz(100, 5e-3)) == (0, 50)


def test_shares_go_by_the_kernel_s_weights():
    assert share((1024, 1024)) == 0.5
    assert {nice: weights.weight_of(nice) for nice in study.NICE} == study.NICE


@pytest.mark.parametrize("theory", sorted({claim.theory for claim in CLAIMS}))
def test_a_host_of_each_kind_is_within_four_percent_of_theory_already_in_a_second(theory):
    found = finding(quick(theory, measure="2 s"), quick(theory, measure="2 s").values(4))
    assert found.low - 0.04 < 0 < found.high + 0.04
    assert (found.low + found.high) / 2 == pytest.approx(0, abs=0.04)


def test_a_cpu_that_serves_to_the_end_does_not_share_and_is_found():
    sharing = next(each for each in CLAIMS if each.theory == study.SHARED and "round-robin" in each.host)
    serving = replace(sharing, settings='scheduler = "round-robin"\nbase_slice = "10 s"\nhz = 100', measure="10 s")
    found = finding(serving, serving.values(4))
    assert found.low > 0.03


def test_an_interval_that_is_wide_shows_nothing():
    claim = quick(study.BUSY)
    assert not finding(claim, [Value(1.1, 1), Value(0.9, 1), Value(1, 1)]).holds
    assert finding(claim, [Value(1.001, 1), Value(0.999, 1), Value(1, 1)]).holds
    assert not finding(claim, [Value(1.01, 1), Value(1.0101, 1), Value(1.0099, 1)]).holds


def test_the_command_prints_each_claim_and_draws_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "CLAIMS", (quick(study.WEIGHTS), quick(study.REPAIRMAN)))
    monkeypatch.setattr(study.study, "__defaults__", (study.CLAIMS,))
    figure = tmp_path / "theory.png"
    status, out, _ = run_command(
        capsys, "verify", "theory", "--jobs", "1", "--replications", "2", "--json", "--figure", str(figure)
    )
    found = json.loads(out)["findings"]
    assert [each["theory"] for each in found] == [study.WEIGHTS, study.REPAIRMAN]
    assert status == (not all(each["holds"] for each in found))
    assert figure.stat().st_size > 5000


def test_the_figure_has_the_minus_sign_of_texts(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    low = finding(quick(study.BUSY), [Value(0.99, 1), Value(0.991, 1), Value(0.992, 1)])
    draw([low], tmp_path / "theory.png")
    drawn[0].draw_without_rendering()
    texts = [text.get_text() for text in drawn[0].findobj(Text)]
    assert any(text.startswith("-") for text in texts)
    assert not any("\N{MINUS SIGN}" in text for text in texts)
