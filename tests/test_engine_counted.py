"""What the compiled engine counts, as rows of a ledger: whose prices they have, and cycles beyond 64 bits."""

from types import SimpleNamespace

import engine_mode  # first of all: the loop as plain Python  # noqa: F401
import numpy as np
import pytest
from hosts import only, with_little

from sim.engine import layout, simulation, table
from sim.engine.counted import Counted
from sim.engine.numbers import Numbers
from sim.host import simulation as reference

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
    assert "LDMXCSR" in {operation.operation for operation, _, _ in found[0].ledger}
    reference.prices_of.cache_clear()
    assert found == reference.simulate(case, case.timed_by, case.strategies, 0)


@pytest.mark.parametrize("price", [-(2**40), -1, 0, 2**40 - 1])
def test_cycles_of_an_operation_are_its_count_times_its_price(price):
    assert [cycles for *_, cycles in passed(2**23, price)] == [2**23 * price]


@pytest.mark.parametrize("price", [2**40, 2**41, 3 * 2**40])
def test_cycles_beyond_64_bits_are_an_error_and_no_other_number(price):
    with pytest.raises(OverflowError, match="more than 64 bits"):
        passed(2**23, price)


def passed(times, price):
    """The ledger of one row of a table, passed so many times, with an operation of that price."""
    key = ("vCPU", "vcpu-load", "VMPTRLD")
    rows = np.zeros((1, layout.R_COLUMNS), np.int64)
    rows[0, layout.R_COUNT] = times
    levels = np.zeros((1, layout.LEVEL_COLUMNS), np.int64)
    of = SimpleNamespace(
        keys=Numbers([key]), level_keys=Numbers(), uses=[(0,)], rows=rows, count=1, level_counts=levels
    )
    return Counted(of, {key: price}).ledger({})
