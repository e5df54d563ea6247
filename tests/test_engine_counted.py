"""What the compiled engine counts, as rows of a ledger: whose prices they have."""

import engine_mode  # first of all: the loop as plain Python  # noqa: F401
from hosts import only, with_little

from sim.engine import simulation, table
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
