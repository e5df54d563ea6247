"""The version, and since when its code may be in memory, for everybody below the package itself."""

import time
from typing import Final

__version__ = "0.3.0.dev0"

IMPORTED_AT: Final = time.time()
"""No other module of the package was imported before, in seconds since the epoch."""
