"""From ledgers of runs to their coefficients; drawn tables; simulating again."""

import time
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, norm, qmc
from small_costs import case, in_pieces, priced, row, table

from sim.analysis.uncertainty import means
from sim.analysis.uncertainty.coefficients import values
from sim.analysis.uncertainty.counted import counted
from sim.analysis.uncertainty.draws import Ranges, draw, hypercube
from sim.analysis.uncertainty.means import drawn_means
from sim.analysis.uncertainty.pricing import Interval
from sim.analysis.uncertainty.report import as_document, report
from sim.analysis.uncertainty.resimulation import Feedback, departure, drawn_values, resimulate, write_drawn
from sim.analysis.uncertainty.shares import shares
from sim.costs import table as costs
from sim.costs.check import check
from sim.costs.price import Prices, in_tsc
from sim.costs.rows import RATIO, CostTable
from sim.errors import InputError
from sim.kernel.operations import Operation

A, B, C = "WRMSR(PLx_SSP)/base", "RDMSR(PLx_SSP)/base", "IBPB/base"


def ledger(of: CostTable, counts: dict[str, list[dict[Operation, int]]]) -> pd.DataFrame:
    prices = Prices(of)
    rows = [
        ("c", strategy, replication, *operation, count, count * prices[operation])
        for strategy, runs in counts.items()
        for replication, each in enumerate(runs)
        for operation, count in each.items()
    ]
    names = ["case", "strategy", "replication", *Operation._fields, "count", "cycles"]
    return pd.DataFrame(rows, columns=names)


ENTRY = {"case": "c", "cpu": "zen4", "kernel": "v6.18", "vcpus": 4, "cpus": 2, "measure_s": 0.5, "reference": "a"}


def test_coefficients_price_a_ledger_as_it_was_priced_but_for_rounding() -> None:
    of = costs.load("zen4")
    save = Operation("vcpu", "switch", "XSAVES", 0x21EE7, 0x206, 0x8E1, "L2")
    swap = Operation("vcpu", "xss", "WRMSR(XSS)")
    user = Operation("user", "return-to-user", "XRSTORS", 0x61CE7, 0x6, 0x61CE1, "memory")
    runs = {"a": [{save: 1000, swap: 10}, {user: 500}], "b": [{user: 700, swap: 3}, {save: 1}]}
    frame = ledger(of, runs)
    found = counted([frame], ENTRY | {"strategies": ["a", "b"]}, 2, of)
    whole = frame.groupby(["strategy", "replication"])["cycles"].sum().to_numpy().reshape(2, 2) / 2.0
    assert found.priced(in_tsc(of, values(of))) == pytest.approx(whole, abs=0.5 * 1010 / 2.0)
    plain = frame[frame["phase"] != "xss"].groupby(["strategy", "replication"])["cycles"].sum()
    assert found.seen(with_xss=False).at_values == pytest.approx(
        plain.to_numpy().reshape(2, 2) / 2.0, abs=0.5 * 1010 / 2.0
    )


def test_a_table_that_is_not_the_one_of_the_run_is_refused() -> None:
    of = costs.load("zen4")
    frame = ledger(of, {"a": [{Operation("vcpu", "xss", "WRMSR(XSS)"): 100}]})
    other = CostTable(
        of.name, of.title, "", dict(of.rows) | {"WRMSR(XSS)/base": replace(of.rows["WRMSR(XSS)/base"], value=144)}
    )
    with pytest.raises(InputError, match="not the one of the run: 14400 TSC cycles by the table, 20000 in the ledger"):
        counted([frame], ENTRY | {"strategies": ["a"]}, 1, other)


def test_a_missing_replication_is_named() -> None:
    of = costs.load("zen4")
    frame = ledger(of, {"a": [{Operation("vcpu", "xss", "WRMSR(XSS)"): 100}]})
    with pytest.raises(InputError, match="no ledger of strategy a, replication 1"):
        counted([frame], ENTRY | {"strategies": ["a"]}, 2, of)


def test_a_case_without_vcpus_is_per_cpu_second() -> None:
    of = costs.load("zen4")
    frame = ledger(of, {"a": [{Operation("user", "switch", "context switch"): 100}]})
    found = counted([frame], ENTRY | {"strategies": ["a"], "vcpus": 0}, 1, of)
    assert (found.per, found.seconds) == ("CPU-second", 1.0)


def test_ten_thousand_draws_of_a_full_comparison_take_under_five_seconds() -> None:
    of = costs.load("sapphire-rapids")
    rng = np.random.default_rng(1)
    ids = [each.id for each in of.rows.values() if each.priced][:60]
    runs = {f"s{i}": [{each: float(rng.integers(1, 100)) for each in ids} for _ in range(20)] for i in range(15)}
    numbers = case(of, cast("Any", runs))
    started = time.process_time()
    for with_xss in (True, False):
        found = priced(numbers, with_xss=with_xss)
        shares(found, list(found.pairs()))
    assert time.process_time() - started < 5


@dataclass(frozen=True)
class _Case:
    table: Any


def test_a_drawn_table_is_a_table_with_the_drawn_values(tmp_path: Any) -> None:
    of = costs.load("sapphire-rapids")
    chosen = draw(Ranges(of, (True,) * len(of.rows), "table"), 2, 1)
    write_drawn(of, drawn_values(chosen, 1), tmp_path / "draw.toml")
    found = costs.load(tmp_path / "draw.toml", checked=False)
    assert not check(found)
    assert list(found.rows) == list(of.rows)
    assert in_tsc(found, values(found)) == pytest.approx(chosen.rows[1], rel=1e-12)


def test_simulating_again_a_world_without_feedback_departs_by_rounding_alone(tmp_path: Any) -> None:
    of = costs.load("zen4")
    save, write = Operation("vcpu", "switch", "XSAVES", 0x7, 0x7), Operation("vcpu", "guest-entry", "WRMSR(PL0_SSP)")
    runs = {"a": [{save: 1000}, {save: 1100}], "b": [{save: 1000, write: 300}, {save: 1100, write: 320}]}
    numbers = counted([ledger(of, runs)], ENTRY | {"strategies": ["a", "b"]}, 2, of)

    def rerun(again: Any) -> pd.DataFrame:
        return ledger(again.table, runs)

    case_like = cast("Any", _Case(of))
    found = resimulate(numbers, case_like, rerun, tmp_path, draws=3, seed=1)
    assert len(found) == 6
    for one in found:
        assert one.cost_simulated == pytest.approx(one.cost_repriced, abs=0.5 * 1420 / 2.0)
        assert one.departure.mean == pytest.approx(0, abs=0.5 * 320 / 2.0)
    assert len({one.cost_repriced for one in found}) == 6


def test_simulating_again_shows_what_repricing_cannot_see(tmp_path: Any) -> None:
    of = costs.load("zen4")
    write = Operation("vcpu", "guest-entry", "WRMSR(PL0_SSP)")
    runs = {"a": [{write: 100}], "b": [{write: 300}]}
    numbers = counted([ledger(of, runs)], ENTRY | {"strategies": ["a", "b"]}, 1, of)

    def rerun(again: Any) -> pd.DataFrame:
        return ledger(again.table, {"a": [{write: 100}], "b": [{write: 150}]})

    found = resimulate(numbers, cast("Any", _Case(of)), rerun, tmp_path, draws=1, seed=1)
    b = found[1]
    assert b.difference_simulated == pytest.approx(b.difference_repriced / 4, rel=0.01)
    assert b.departure.mean == pytest.approx(b.difference_simulated - b.difference_repriced)
    assert departure(found).largest_difference_percent == pytest.approx(75, rel=0.01)
    assert departure(found).largest_cost_percent == pytest.approx(50, rel=0.01)
    assert (departure(found).turned, departure(found).pairs) == (0, 1)


def test_orders_that_turn_when_simulated_again_are_counted() -> None:
    nothing, clear = Interval(0, -1, 1), Interval(2, 1, 3)
    costs = {"a": (1, 1), "b": (2, 4), "c": (3, 3)}
    draws = [
        Feedback(0, name, old, new, old - 1, new - 1, clear if name == "b" else nothing)
        for name, (old, new) in costs.items()
    ]
    found = departure(draws)
    assert (found.turned, found.pairs, found.clear, found.differences) == (1, 3, 1, 2)


@pytest.mark.parametrize("draws", [1, 7, 300])
def test_quantiles_are_those_of_scipys_latin_hypercube(draws: int) -> None:
    names = ["WRMSR(PLx_SSP)", "XSAVES"]
    for found, name in zip(hypercube(tuple(names), draws, 1, 2).T, names, strict=True):
        its = qmc.LatinHypercube(1, rng=np.random.default_rng([1, 2, *name.encode()]))
        assert np.array_equal(found, its.random(draws)[:, 0])


def test_a_row_more_in_a_table_changes_no_draw_of_the_others() -> None:
    whole = costs.load("zen4")
    added = next(row.id for row in reversed(list(whole.rows.values())) if row.factor == row.id)
    others = {name: row for name, row in whole.rows.items() if row.factor != added}
    few = replace(whole, rows=others)
    one, other = (draw(Ranges(each, (True,) * len(each.rows), "table"), 50, seed=7) for each in (whole, few))
    kept = [i for i, name in enumerate(whole.rows) if name in others]
    assert 0 < len(kept) < len(whole.rows)
    assert np.array_equal(one.rows[:, kept], other.rows)


def test_coefficients_are_those_of_the_rows_that_are_used() -> None:
    of = costs.load("zen4")
    save, write = Operation("vcpu", "switch", "XSAVES", 0x7, 0x7), Operation("vcpu", "guest-entry", "WRMSR(PL0_SSP)")
    frame = ledger(of, {"a": [{save: 1000}, {save: 1100}], "b": [{save: 1000, write: 300}, {save: 1100, write: 320}]})
    few = counted([frame], ENTRY | {"strategies": ["a", "b"]}, 2, of)
    assert 0 < len(few.used) < len(of.rows)
    [read] = few.pieces
    assert np.count_nonzero(few.in_table(read()[0])) == np.count_nonzero(read()[0]) > 0
    assert np.array_equal(few.taken(few.in_table(read()[0])), read()[0])
    assert [each.id for each in few.rows] == few.taken(np.array(list(of.rows))).tolist()


def test_what_is_said_does_not_depend_on_how_many_replications_are_in_memory_at_a_time(monkeypatch: Any) -> None:
    of = table(row(A, 144, 100, 300, "core"), row(B, 80, 30, 100), row(C, 10, 0, 30), ratio=row(RATIO, 1.4, 1.0, 2.0))
    rng = np.random.default_rng(1)
    total = rng.integers(0, 9, (3, 50, 4)).astype(float)
    total[..., list(of.rows).index(RATIO)] = 0
    total[2] = total[1]  # two that do the same
    once, again = (in_pieces(of, ("a", "b", "c"), total, sizes) for sizes in ([50], [1, 7, 30, 12]))
    one = report(once, draws=200, seed=1)
    monkeypatch.setattr(means, "NORMAL", 200 * 3)
    other = report(again, draws=200, seed=1)
    assert [view.groups for view in one.views] == [view.groups for view in other.views]
    assert numbers_of(as_document(one)) == pytest.approx(numbers_of(as_document(other)), rel=1e-9, abs=1e-9)


def numbers_of(found: Any) -> list[float]:
    """All numbers of a document."""
    if isinstance(found, dict | list):
        return [each for one in (found.values() if isinstance(found, dict) else found) for each in numbers_of(one)]
    return [float(found)] if isinstance(found, int | float) else []


def test_draws_of_the_means_are_the_sums_of_replications_weighted_by_students_t() -> None:
    """The formula, in one line for all replications."""
    of = table(row(A, 1, 1, 1), row(B, 1, 1, 1))
    counts, n, draws = np.random.default_rng(2).integers(0, 99, (2, 7, 3)).astype(float), 7, 300
    counts[..., 0] = 0
    found = drawn_means(in_pieces(of, ("a", "b"), counts, [7]), draws, 5)
    z = norm.ppf(np.column_stack([hypercube((f"replication {i}",), draws, 5)[:, 0] for i in range(n)]))
    s = np.sqrt(chi2.ppf(hypercube(("replications",), draws, 5)[:, 0], n - 1) / (n - 1))
    weights = 1 / n + (z - z.mean(axis=1, keepdims=True)) / s[:, None] / np.sqrt(n * (n - 1))
    for i in range(2):
        assert found.of(i, with_xss=True) == pytest.approx(weights @ counts[i, :, 1:])
