"""What the compiled engine counts, as rows of a ledger: whose prices they have, and cycles beyond 64 bits."""

from types import SimpleNamespace

import engine_mode  # first of all: the loop as plain Python  # noqa: F401
import numpy as np
import pytest
from hosts import only, with_little

from sim.engine import counted, layout, simulation, table
from sim.engine.counted import Counted
from sim.engine.numbers import Numbers
from sim.host import simulation as reference
from sim.kernel.operations import operation

OTHER = """
title = "an LDMXCSR of another price"
date = "2026"
derived_from = "zen4"
rows = [
  { operation = "LDMXCSR", term = "base", value = 500, low = 400, high = 600, clock = "core", grade = "assumed", \
source = "none", conditions = "range chosen because it is a test" },
]
"""
HOST = with_little("a guest", "1 ms", "zen4") + 'COSTS\n[guests.g]\ndemand = "40 us"\nsleep = "30 us"\n'
USES_FPU = HOST + '[guests.g.exits.x]\nevery = "40 us"\nkernel_fpu = 1.0\n'


def test_prices_that_were_equal_so_far_are_not_those_of_another_cost_table(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "_tables", {})
    reference.prices_of.cache_clear()
    (tmp_path / "other.toml").write_text(OTHER)
    shipped, other = (
        only(HOST.replace("COSTS", costs)) for costs in ("", f'costs = {{ zen4 = "{tmp_path / "other.toml"}" }}')
    )
    for case in (shipped, other):
        simulation.simulate(case, case.timed_by, case.strategies, 0)
    assert reference.prices_of(shipped.table) == reference.prices_of(other.table)
    case = only(USES_FPU.replace("COSTS", ""))
    found = simulation.simulate(case, case.timed_by, case.strategies, 0)
    assert "LDMXCSR" in {of.operation for of, _, _ in found[0].ledger}
    reference.prices_of.cache_clear()
    assert found == reference.simulate(case, case.timed_by, case.strategies, 0)


@pytest.mark.parametrize("price", [-(2**40), -1, 0, 2**40 - 1])
def test_cycles_of_an_operation_are_its_count_times_its_price(price):
    assert [cycles for *_, cycles in passed(2**23, price)] == [2**23 * price]


@pytest.mark.parametrize("price", [2**40, 2**41, 3 * 2**40])
def test_cycles_beyond_64_bits_are_an_error_and_no_other_number(price):
    with pytest.raises(OverflowError, match="more than 64 bits"):
        passed(2**23, price)


@pytest.mark.parametrize("remembered", [1, 100])
def test_a_ledger_has_what_ran_in_this_replication_whatever_ran_in_those_before(remembered, monkeypatch):
    monkeypatch.setattr(counted, "MOST_ALIKE", remembered)
    load, put = ("vCPU", "vcpu-load", "VMPTRLD"), ("vCPU", "vcpu-put", "VMREAD")
    rows = table_of(load, put)
    of = Counted(rows, {load: 3, put: 5})
    for times in ([1, 0], [0, 2], [1, 3], [4, 0], [1, 3]):
        rows.rows[:, layout.R_COUNT] = times
        ran = [(operation(load), times[0], 3 * times[0]), (operation(put), times[1], 5 * times[1])]
        assert list(of.ledger({})) == [row for row in ran if row[1]]


def table_of(*keys):
    """A table with a row for each operation."""
    n = len(keys)
    rows, levels = np.zeros((n, layout.R_COLUMNS), np.int64), np.zeros((1, layout.LEVEL_COLUMNS), np.int64)
    uses = [(i,) for i in range(n)]
    return SimpleNamespace(keys=Numbers(keys), level_keys=Numbers(), uses=uses, rows=rows, count=n, level_counts=levels)


def passed(times, price):
    """The ledger of one row of a table, passed so many times, with an operation of that price."""
    key = ("vCPU", "vcpu-load", "VMPTRLD")
    of = table_of(key)
    of.rows[0, layout.R_COUNT] = times
    return Counted(of, {key: price}).ledger({})
