"""Numbers of the rows of a cost table."""

import numpy as np
from numpy.typing import NDArray

from sim.costs.rows import CostTable

Array = NDArray[np.float64]


def values(table: CostTable) -> Array:
    """The rows' values, in their own clocks."""
    return np.array([row.value for row in table.rows.values()], dtype=np.float64)
