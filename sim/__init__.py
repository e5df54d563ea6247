"""fpswitch: what carrying FPU and CET state across vCPU context switches costs on x86 Linux/KVM.

    import sim
    results = sim.run("overcommit")
    results.ledger, results.metrics
    sim.compare(results)

``run``, ``compare``, ``load`` and ``decode`` are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sim.experiment import run
    from sim.report.comparison import compare
    from sim.results import load
    from sim.xsave.components import decode

__version__ = "0.1.0"

_LAZY: Final = {
    "run": "sim.experiment",
    "compare": "sim.report.comparison",
    "load": "sim.results",
    "decode": "sim.xsave.components",
}

__all__ = ["__version__", "compare", "decode", "load", "run"]


def __getattr__(name: str) -> Any:
    """PEP 562."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
