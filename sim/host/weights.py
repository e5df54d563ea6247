"""Load weights of nice levels, and their inverses.

Source: sched_prio_to_weight[] and sched_prio_to_wmult[], kernel/sched/core.c, Linux v6.18.
"""

from __future__ import annotations

SCHED_PRIO_TO_WEIGHT = (
    *(88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916),  # nice -20 to -11
    *(9548, 7620, 6100, 4904, 3906, 3121, 2501, 1991, 1586, 1277),  # nice -10 to -1
    *(1024, 820, 655, 526, 423, 335, 272, 215, 172, 137),  # nice 0 to 9
    *(110, 87, 70, 56, 45, 36, 29, 23, 18, 15),  # nice 10 to 19
)
MIN_NICE = -20
MAX_NICE = 19
NICE_0_LOAD = 1024

WMULT_SHIFT = 42
"""Linux has 32; the ten bits more take the largest rounding error of an inverse from 2e-5 to 2e-8."""


def weight_of(nice: int) -> int:
    """The load weight of ``nice``, -20 to 19; 1024 is nice 0."""
    return SCHED_PRIO_TO_WEIGHT[nice - MIN_NICE]


def load_weight(nice: int, weight: int | None) -> int:
    """The load weight of an entry of a scenario, which may have one in place of that of ``nice``."""
    return weight_of(nice) if weight is None else weight


def inverse(weight: int) -> int:
    """2^42 / ``weight``: by how much a cycle of execution advances the vruntime of an entity of that weight."""
    return (1 << WMULT_SHIFT) // weight
