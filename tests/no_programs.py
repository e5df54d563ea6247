"""Programs of `calibrate` that were not built."""

from pathlib import Path

from sim.calibrate import programs

NO_PROGRAMS = programs.Programs(*[Path("none")] * len(programs.Programs.__dataclass_fields__))
