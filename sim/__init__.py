"""fpswitch: what carrying FPU and CET state across vCPU context switches costs on x86 Linux/KVM.

    import sim
    results = sim.run("overcommit")
    results.ledger, results.metrics
    sim.compare(results)

``run``, ``compare``, ``load``, ``price`` and ``decode`` are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

from sim.release import __version__

if TYPE_CHECKING:
    from sim.experiment import run
    from sim.report.comparison import compare
    from sim.report.priced import price
    from sim.results import load
    from sim.xsave.components import decode

_LAZY: Final = {
    "run": "sim.experiment",
    "compare": "sim.report.comparison",
    "load": "sim.results",
    "price": "sim.report.priced",
    "decode": "sim.xsave.components",
}

__all__ = ["__version__", "compare", "decode", "load", "price", "run"]


def __getattr__(name: str) -> Any:
    """PEP 562."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_LAZY[name]), name)
    if name in ("run", "load"):
        from sim.results.tables import Results

        Results.first_screen = _first_screen
    return found


def _first_screen(results: Any) -> str:
    """What Jupyter shows of results."""
    from sim.errors import InputError
    from sim.report.comparison import compare
    from sim.report.markup import element

    try:
        return compare(results)._repr_html_()
    except InputError as error:  # not a single finished replication
        return element("p", str(error))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
