"""Probabilities, intervals, shares of the variance and break-evens, where they are known."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, triang
from scipy.stats import t as student
from small_costs import case, priced, row, table

from sim.analysis.uncertainty.breakeven import break_even, together
from sim.analysis.uncertainty.coefficients import values
from sim.analysis.uncertainty.draws import Ranges, draw, factor, quantile
from sim.analysis.uncertainty.measure import REPLICATIONS, measure_next
from sim.analysis.uncertainty.report import as_document, report
from sim.analysis.uncertainty.shares import shares
from sim.costs import table as costs
from sim.costs.price import in_tsc
from sim.costs.rows import RATIO
from sim.report.uncertainty_text import as_text

A, B, C = "WRMSR(PLx_SSP)/base", "RDMSR(PLx_SSP)/base", "IBPB/base"
OPERATIONS = {A: "WRMSR(PL0_SSP)", B: "RDMSR(PL0_SSP)", C: "IBPB"}


def test_probability_of_being_cheaper_is_exact_when_one_uniform_row_differs() -> None:
    # a costs 10 x A, b costs 1400: a is cheaper while A < 140, that is (140 - 100) / 200 of its range.
    of = table(row(A, 150, 100, 300), row(C, 1400, 1400, 1400))
    found = priced(case(of, {"a": [{A: 10}], "b": [{C: 1}]}))
    assert found.cheaper(0, 1) == pytest.approx(0.2, abs=1e-4)
    assert found.cheaper(1, 0) == pytest.approx(0.8, abs=1e-4)


def test_probability_with_two_uniform_rows_is_that_of_two_uniform_variables() -> None:
    # P(A < B), A uniform on 0..2, B uniform on 0..1: the area of a triangle, 1/4.
    of = table(row(A, 1, 0, 2), row(B, 0.5, 0, 1))
    found = priced(case(of, {"a": [{A: 1}], "b": [{B: 1}]}))
    assert found.cheaper(0, 1) == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 10_000))


def test_strategies_that_do_the_same_are_neither_cheaper_nor_more_expensive() -> None:
    of = costs.load("sapphire-rapids")
    rng = np.random.default_rng(1)
    runs = [{each: float(rng.integers(1, 10**6)) for each in of.rows if each != RATIO} for _ in range(7)]
    found = priced(case(of, {"a": runs, "b": runs, "c": runs}), draws=500)
    assert np.all(found.joint[:, 0] == found.joint[:, 1])
    assert np.all(found.costs[:, 0] == found.costs[:, 2])
    assert found.cheaper(0, 1) == found.cheaper(1, 0) == 0.0
    assert found.cheapest(0, [0, 1, 2]) == found.cheapest(1, [0, 1, 2]) == 1.0


def test_joint_interval_is_the_t_interval_when_costs_are_fixed() -> None:
    of = table(row(A, 100, 100, 100))
    counts = [3.0, 5.0, 4.0, 8.0, 6.0]
    found = priced(case(of, {"a": [{A: n} for n in counts], "b": [{} for _ in counts]})).difference(0, 1)
    mean, error = 100 * np.mean(counts), 100 * np.std(counts, ddof=1) / np.sqrt(5)
    half = student.ppf(0.975, 4) * error
    assert found.replications == pytest.approx((mean, mean - half, mean + half))
    assert found.costs == pytest.approx((mean, mean, mean))
    # The standard error of a 2.5 % quantile of n draws: sqrt(p (1 - p) / n) / density.
    tolerance = 4 * error * np.sqrt(0.025 * 0.975 / 10_000) / student.pdf(student.ppf(0.025, 4), 4)
    assert found.joint.low == pytest.approx(mean - half, abs=tolerance)
    assert found.joint.high == pytest.approx(mean + half, abs=tolerance)


def test_joint_draws_of_a_paired_difference_follow_students_t() -> None:
    of = table(row(A, 1, 1, 1), row(B, 1, 1, 1))
    rng = np.random.default_rng(3)
    world = rng.integers(100, 200, 6)
    own = rng.integers(0, 20, 6)
    found = priced(case(of, {"a": [{A: w + o} for w, o in zip(world, own, strict=True)], "b": [{B: w} for w in world]}))
    drawn = (found.joint[:, 0] - found.joint[:, 1] - own.mean()) / (own.std(ddof=1) / np.sqrt(6))
    assert kstest(drawn, student(5).cdf).pvalue > 1e-3


def test_joint_interval_is_that_of_the_costs_with_one_replication() -> None:
    of = table(row(A, 150, 100, 300), row(B, 80, 30, 100))
    found = priced(case(of, {"a": [{A: 3}], "b": [{B: 2}]})).difference(0, 1)
    assert found.joint == found.costs
    assert found.replications.low == found.replications.high == found.replications.mean == 290


def test_intervals_of_one_uniform_row_are_its_quantiles() -> None:
    of = table(row(A, 150, 100, 300))
    found = priced(case(of, {"a": [{A: 2}], "b": [{}]})).strategy(0).costs
    assert found == pytest.approx((400, 2 * 105, 2 * 295), abs=0.1)


def test_variance_shares_of_a_linear_model_are_exact() -> None:
    of = table(row(A, 1, 0, 6), row(B, 1, 0, 2), row(C, 1, 0, 100))
    found = priced(case(of, {"a": [{A: 1, C: 5}], "b": [{B: 4, C: 5}]}), draws=100)
    (share,) = shares(found, [(0, 1)])
    # Var = 1^2 x 36 / 12 + 4^2 x 4 / 12; C counts equally in both and has no part.
    assert share.factors == pytest.approx({B: 64 / 100, A: 36 / 100}, abs=1e-6)
    assert share.deviation == pytest.approx(np.sqrt(100 / 12), rel=1e-6)
    assert share.interaction == share.replications == 0


def test_variance_share_of_a_triangular_row_is_that_of_the_triangle() -> None:
    of = table(row(A, 3, 0, 6), row(B, 1, 0, 4, distribution="triangular"))
    (share,) = shares(priced(case(of, {"a": [{A: 1}], "b": [{B: 1}]}), draws=100), [(0, 1)])
    low, mode, high = 0, 1, 4
    triangle = (low**2 + mode**2 + high**2 - low * mode - low * high - mode * high) / 18
    assert share.factors[B] == pytest.approx(triangle / (triangle + 3), abs=1e-5)


def test_variance_shares_with_an_uncertain_ratio_are_those_of_the_product() -> None:
    # D = A / q, A uniform on 100..300, q uniform on 1..2: E[1/q] = ln 2, E[1/q^2] = 1/2.
    of = table(row(A, 200, 100, 300, clock="core"), ratio=row(RATIO, 1.5, 1, 2))
    (share,) = shares(priced(case(of, {"a": [{A: 1}], "b": [{}]}), draws=100), [(0, 1)])
    inverse, spread = np.log(2), 0.5 - np.log(2) ** 2
    parts = np.array([inverse**2 * 200**2 / 12, 200**2 * spread, spread * 200**2 / 12])
    assert [share.factors[A], share.factors[RATIO], share.interaction] == pytest.approx(parts / parts.sum(), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=2, max_size=5), st.integers(0, 99))
def test_variance_shares_sum_to_one_and_their_deviation_is_that_of_the_draws(
    counts: list[tuple[int, int]], seed: int
) -> None:
    of = table(row(A, 200, 100, 300, clock="core"), row(B, 9, 0, 99), ratio=row(RATIO, 1.2, 1, 1.5))
    runs = [{A: 1000.0 + a, B: 1000.0 + b} for a, b in counts]
    found = priced(case(of, {"a": runs, "b": [{B: 500.0} for _ in runs]}), draws=2000, seed=seed)
    (share,) = shares(found, [(0, 1)])
    assert sum(share.factors.values()) + share.interaction + share.replications == pytest.approx(1)
    assert share.deviation == pytest.approx(np.std(found.costs[:, 0] - found.costs[:, 1]), rel=0.1)


def test_with_fixed_costs_all_variance_is_the_squared_standard_error_of_the_replications() -> None:
    of = table(row(A, 100, 100, 100))
    counts = [3.0, 5.0, 4.0, 8.0, 6.0]
    (share,) = shares(priced(case(of, {"a": [{A: n} for n in counts], "b": [{}] * 5})), [(0, 1)])
    assert share.replications == pytest.approx(1)
    assert share.deviation == pytest.approx(100 * np.std(counts, ddof=1) / np.sqrt(5))


def test_rows_of_one_factor_are_drawn_together() -> None:
    of = table(row(A, 150, 100, 300), row(B, 60, 30, 80, factor=A), row(C, 5, 0, 10))
    drawn = draw(Ranges(of, (True,) * 4, "table"), 1000, 1).rows
    assert (drawn[:, 1] - 100) / 200 == pytest.approx((drawn[:, 2] - 30) / 50)
    assert abs(np.corrcoef(drawn[:, 1], drawn[:, 3])[0, 1]) < 4 / np.sqrt(1000)
    apart = table(row(A, 150, 100, 300), row(B, 60, 30, 80))
    together = priced(case(of, {"a": [{A: 1}], "b": [{B: 1}]}), draws=100)
    (one,), (two,) = (
        shares(together, [(0, 1)]),
        shares(priced(case(apart, {"a": [{A: 1}], "b": [{B: 1}]}), draws=100), [(0, 1)]),
    )
    assert one.deviation == pytest.approx((200 - 50) / np.sqrt(12), rel=1e-6)
    assert two.deviation == pytest.approx(np.sqrt((200**2 + 50**2) / 12), rel=1e-6)


def test_stand_ins_and_inherited_rows_of_the_shipped_tables_share_a_factor() -> None:
    zen4 = costs.load("zen4").rows
    skylake = costs.load("skylake-sp").rows
    assert factor(skylake["XSAVES/written/FP"]) == factor(skylake["XSAVEC/written/FP"])
    assert factor(zen4["XSAVES/written/FP"]) != factor(zen4["XSAVEC/written/FP"])  # measured in place
    assert factor(zen4["VM entry/base"]) == factor(zen4["VM exit/software"])
    assert factor(zen4[RATIO]) == RATIO


def test_a_draw_of_a_row_does_not_depend_on_which_others_are_used() -> None:
    of = table(row(A, 150, 100, 300), row(B, 60, 30, 80), row(C, 5, 0, 10))
    every = draw(Ranges(of, (True,) * 4, "table"), 50, 1)
    some = draw(Ranges(of, (True, False, False, True), "table"), 50, 1)
    assert np.array_equal(every.rows[:, 3], some.rows[:, 3])
    assert np.all(some.rows[:, 1] == 150)


def test_rows_are_drawn_from_the_distribution_that_they_name() -> None:
    at = np.linspace(0.01, 0.99, 25)
    skewed = row(A, 150, 100, 300, distribution="triangular")
    assert quantile(skewed, at, "table") == pytest.approx(triang.ppf(at, 0.25, 100, 200))
    assert quantile(skewed, at, "uniform") == pytest.approx(100 + 200 * at)
    assert np.all(quantile(replace(skewed, distribution="fixed"), at, "table") == 150)
    assert np.all(quantile(replace(skewed, low=150, high=150), at, "uniform") == 150)
    assert quantile(replace(skewed, distribution="uniform"), at, "table") == pytest.approx(100 + 200 * at)


ROWS = st.tuples(st.integers(1, 300), st.integers(0, 100), st.integers(0, 100), st.sampled_from(["core", "tsc"]))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(ROWS, ROWS, ROWS),
    st.tuples(*[st.tuples(*[st.integers(0, 20)] * 3)] * 2),
    st.floats(1.0, 2.0),
)
def test_at_its_break_even_value_a_row_makes_the_difference_zero(
    rows: tuple[Any, ...], counts: tuple[Any, ...], ratio: float
) -> None:
    of = table(
        *(
            row(name, v, max(0, v - lo), v + hi, clock)
            for name, (v, lo, hi, clock) in zip(OPERATIONS, rows, strict=True)
        ),
        ratio=row(RATIO, ratio, 1.0, 2.0),
    )
    runs = {name: [dict(zip(OPERATIONS, each, strict=True))] for name, each in zip("ab", counts, strict=True)}
    found = priced(case(of, cast("Any", runs)), draws=10)
    for turn in break_even(found, 0, 1):
        if turn.value is None:
            continue
        at = values(of)
        index = list(of.rows).index(turn.row)
        at[index] = turn.value
        cost = dict(zip("ab", found.coefficients.priced(in_tsc(of, at))[:, 0].tolist(), strict=True))
        assert cost[turn.cheaper] == pytest.approx(cost[turn.more_expensive], rel=1e-9, abs=1e-6)
        at[index] = turn.value * (0.99 if turn.wins == "under" else 1.01)
        cost = dict(zip("ab", found.coefficients.priced(in_tsc(of, at))[:, 0].tolist(), strict=True))
        if turn.value > 0.01:
            assert cost[turn.more_expensive] < cost[turn.cheaper]
        assert turn.within == (of.rows[turn.row].low <= turn.value <= of.rows[turn.row].high)


def test_break_even_says_when_there_is_none_or_only_outside_the_range() -> None:
    of = table(row(A, 144, 100, 300), row(B, 80, 30, 100), row(C, 1000, 900, 1100))
    found = priced(case(of, {"cheap": [{C: 1}], "dear": [{A: 4, B: 10, C: 1}]}), draws=10)
    turns = {turn.row: turn for turn in break_even(found, 1, 0)}
    assert turns[A].value is None  # ten RDMSR alone cost more
    assert C not in turns
    other = priced(case(of, {"cheap": [{C: 1}], "dear": [{A: 8}]}), draws=10)
    turn = break_even(other, 0, 1)[0]
    assert (turn.cheaper, turn.more_expensive, turn.row, turn.value, turn.wins, turn.within) == (
        "cheap", "dear", A, 125, "under", True,
    )  # fmt: skip


def test_a_row_that_counts_more_often_in_either_by_chance_is_not_named_as_the_one_that_turns_an_order() -> None:
    """C is nearer to its range, but whether it counts more often in one than in the other is chance."""
    of = table(row(A, 144, 100, 300), row(C, 1000, 100, 20_000))
    runs = {"xstate-guest": [{C: 10}, {C: 12}, {C: 9}], "manual-load": [{A: 40, C: 11}, {A: 40, C: 10}, {A: 40, C: 9}]}
    each = report(case(of, runs), draws=100, seed=1)
    turns = {turn.row: turn for turn in each.views[0].break_even(0, 1)}
    assert {name: turn.steady for name, turn in turns.items()} == {A: True, C: False}
    assert "WRMSR(PLx_SSP)/base under" in as_text(each, [])
    assert "IBPB/base over" not in as_text(each, [])


def test_what_all_rows_that_cost_more_together_may_cost_makes_the_difference_zero() -> None:
    of = table(row(A, 144, 100, 300), row(B, 80, 30, 100), row(C, 45, 0, 100))
    found = priced(case(of, {"a": [{C: 2}], "b": [{A: 4, B: 3, C: 1}]}), draws=10)
    turn = together(found, 0, 1)
    assert (turn.cheaper, turn.more_expensive) == ("a", "b")
    assert turn.share * (4 * 144 + 3 * 80) == pytest.approx(45)
    assert together(found, 1, 0) == turn


def test_what_to_measure_next_is_the_row_that_decides() -> None:
    # a - b = A - 3 x B' with B' narrow: knowing A nearly settles the order, knowing B does nearly nothing.
    of = table(row(A, 150, 100, 200), row(B, 50, 49, 51), row(C, 7, 0, 1000))
    found = priced(case(of, {"a": [{A: 1, C: 3}], "b": [{B: 3, C: 3}]}))
    gains = measure_next(found)
    assert gains[0].factor == A
    assert gains[0].before == pytest.approx(0.5, abs=0.02)
    # What remains: the chance that B's part (+-3) outweighs A's distance from 150, of +-50, is (3/2) / 50 / 2.
    assert gains[0].reduction == pytest.approx(0.5 - 0.015, abs=0.02)
    assert C not in {gain.factor for gain in gains}
    assert sum(gain.reduction for gain in gains if gain.factor == B) < 0.02


def test_knowing_the_only_uncertain_row_leaves_no_doubt() -> None:
    of = table(row(A, 150, 100, 300), row(C, 1400, 1400, 1400))
    gains = measure_next(priced(case(of, {"a": [{A: 10}], "b": [{C: 1}]})))
    assert [gain.factor for gain in gains] == [A]
    assert gains[0].reduction == pytest.approx(gains[0].before)


def test_what_knowing_one_of_two_uniform_rows_leaves_is_its_integral() -> None:
    # x = A / 2 is uniform on 0..2, B on 0..1: P(x < B) = 1/4. With x known, min(p, 1 - p) is min(x, 1 - x) up to 1 and
    # 0 above, 1/8 in the mean; with B known it is min(B / 2, 1 - B / 2), 1/4.
    of = table(row(A, 1, 0, 4, clock="core"), row(B, 0.5, 0, 1), ratio=row(RATIO, 2, 2, 2))
    gains = {gain.factor: gain for gain in measure_next(priced(case(of, {"a": [{A: 1}], "b": [{B: 1}]})))}
    tolerance = 4 * np.sqrt(0.25 * 0.75 / 10_000)
    assert gains[A].before == pytest.approx(1 / 4, abs=tolerance)
    assert gains[A].reduction == pytest.approx(1 / 8, abs=tolerance)
    assert gains.get(B, gains[A]._replace(reduction=0)).reduction == pytest.approx(0, abs=tolerance)


def test_knowing_the_only_uncertain_ratio_leaves_no_doubt() -> None:
    of = table(row(A, 150, 150, 150, clock="core"), row(C, 100, 100, 100), ratio=row(RATIO, 1.5, 1, 2))
    gains = {gain.factor: gain for gain in measure_next(priced(case(of, {"a": [{A: 1}], "b": [{C: 1}]})))}
    assert gains[RATIO].before == pytest.approx(0.5, abs=1e-3)
    assert gains[RATIO].reduction == pytest.approx(gains[RATIO].before)


def test_more_replications_are_named_where_the_replications_decide() -> None:
    of = table(row(A, 100, 100, 100))
    gains = measure_next(priced(case(of, {"a": [{A: n} for n in (90, 111, 104)], "b": [{A: 100}] * 3})))
    assert [gain.factor for gain in gains] == [REPLICATIONS]


def test_same_seed_same_numbers_and_another_seed_others() -> None:
    of = table(row(A, 150, 100, 300), row(B, 80, 30, 100))
    numbers = case(of, {"a": [{A: 3}, {A: 4}], "b": [{B: 5}, {B: 6}]})
    one, two, three = (as_document(report(numbers, draws=500, seed=seed)) for seed in (1, 1, 2))
    assert one == two
    assert one != three
