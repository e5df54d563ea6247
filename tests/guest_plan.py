"""What `calibrate --guest` measures in a guest with CET, and samples as such a guest writes them."""

from functools import cache

import numpy as np
from no_programs import NO_PROGRAMS

from sim.calibrate import guest, guest_rows, rounds, samples
from sim.calibrate.guest import About
from sim.xsave.components import CET_S, CET_U, bits

CPU = 3


WITH_CET = About(0xE7, CET_U | CET_S, True)
PLAN = guest.guest_plan(WITH_CET, ())
NATIVE = {0xC0000100: 40.0, 0x6A0: 60.0, 0x6A4: 70.0, 0x6A5: 70.0, 0x6A6: 70.0}
PARTS = {0: 12.0, 1: 11.0, 2: 10.0, 5: 9.0, 6: 20.0, 7: 30.0, 11: 15.0, 12: 25.0}
SAVE, RESTORE, EXIT = 120.0, 380.0, 1300.0
LOADED = {0: -5.0, 1: -4.0, 12: 8.0}


def cost(row, exit_cost=EXIT):
    """Cycles and exits of a repetition on a CPU that skips what was not modified."""
    if row.operation == "XSAVES":
        skips = row.same and not row.touched
        return SAVE + (0 if skips else sum(PARTS[i] for i in bits[row.in_use])), 0
    if row.operation == "XRSTORS":
        return RESTORE + sum(LOADED.get(i, 3.0) for i in bits[row.in_use]), 0
    if row.operation in ("RDMSR", "WRMSR", "WRMSRNS"):
        return (NATIVE[row.msr], 0) if row.msr in NATIVE else (exit_cost + 100, 1)
    return (exit_cost, 1) if row.exits else (30.0, 0)


def process(seed, costs, plan=PLAN, passes=9, ratio=1.4, interrupted=0.5):
    """Samples of a process; a part of the blocks has an exit that is none of theirs, and takes longer."""
    rng = np.random.default_rng(seed)
    found = np.zeros(len(plan) * passes, guest.SAMPLE)
    found["row"] = np.tile(np.arange(len(plan)), passes)
    disturbed = rng.random(len(found)) < interrupted
    for i, row in enumerate(plan):
        mine = found["row"] == i
        cycles, exits = costs(row)
        core = row.operation in guest.OPERATIONS[1:5]
        found["ticks"][mine] = np.round(guest.REPETITIONS * (cycles / (ratio if core else 1) + 10))
        found["exits"][mine] = exits * (guest.REPETITIONS + 4)
        found["in_use"][mine] = row.in_use
        found["kept"][mine] = row.operation == "XSAVES" and row.same and not row.touched and row.in_use != 0
    found["ticks"] += (rng.integers(0, 40, len(found)) + 5000 * disturbed).astype(np.uint64)
    found["exits"] += disturbed
    found["empty"] = 10 * guest.REPETITIONS
    found["chain_before"] = found["chain_after"] = round(samples.CHAIN_ADDS / ratio)
    found["cpu_before"] = found["cpu_after"] = CPU
    return found


def measured(costs, change, processes=6):
    stage = guest.guest_stage(NO_PROGRAMS, PLAN, 1.0, True)
    columns = []
    for seed in range(processes):
        one = process(seed, costs)
        change(one)
        counts = samples.undisturbed(one, CPU) & samples.as_wanted(one, stage.in_use)
        columns.append(stage.reduce(one, counts))
    return rounds.Measured(np.array(columns).T, np.full(processes, 1.4), 100, 0)


@cache
def found(costs=cost, change=lambda _: None):
    return guest_rows.of_guest(WITH_CET, PLAN, measured(costs, change))
