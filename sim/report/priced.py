"""Priced rates as an object: what `fpswitch price` prints, and its numbers as a frame."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sim.analysis.price import Priced, settings_of
from sim.analysis.price import price as price_all
from sim.analysis.price_load import Between, Load
from sim.analysis.price_own import COMMON, Assumptions, GuestSsp
from sim.costs.table import load as load_costs
from sim.report.price import document, text
from sim.xsave.profiles import profile

if TYPE_CHECKING:
    import pandas as pd

PERCENT: Final = 100.0


def price(
    cpu: str,
    kernel: str = "v6.18",
    strategies: Sequence[str] = (),
    *,
    exits: float = 0.0,
    load_put: float | None = None,
    kvm_run: float = 0.0,
    switches: float | None = None,
    between: Mapping[Between, float] | None = None,
    guest_ssp: GuestSsp = COMMON.guest_ssp,
    guest_xss: int | None = None,
    costs: str | None = None,
    **chosen: Any,
) -> "Prices":
    """What each strategy costs at these rates, in events per second of one CPU, without a simulation.

    ``exits`` are VM exits that KVM handles, ``load_put`` all pairs of vcpu_load() and vcpu_put(), ``kvm_run`` those of
    them that go to user space, ``switches`` all context switches; ``between`` says what runs while a vCPU is switched
    out (:class:`~sim.analysis.price_load.Load`), ``guest_ssp`` what guests do with their SSPs, ``guest_xss`` their
    IA32_XSS. Without ``strategies``: all that are possible on the CPU and the kernel.  ``costs``: another cost table.
    ``chosen`` are other fields of :class:`~sim.kernel.config.Settings`, such as ``guest_xcr0`` and ``guest_amx``.
    Raises :class:`~sim.errors.InputError` for unknown names and for rates that contradict one another.
    """
    load = Load(exits=exits, load_put=load_put, kvm_run=kvm_run, switches=switches, between=between)
    settings, left_out = settings_of(cpu, kernel, strategies, guest_xss=guest_xss, **chosen)
    assumed = Assumptions(guest_ssp=guest_ssp)
    return Prices(price_all(load, settings, load_costs(costs or cpu), profile(cpu).tsc_hz, assumed), left_out)


class Prices:
    """All strategies at given rates; printing it gives the text of the command.  ``left_out`` has the reasons, by
    strategy."""

    def __init__(self, priced: Priced, left_out: Mapping[str, str]) -> None:
        self._priced = priced
        self.left_out = dict(left_out)

    def __str__(self) -> str:
        return text(self._priced, (), ())

    def __repr__(self) -> str:
        names = ", ".join(each.name for each in self._priced.strategies)
        return f"<Prices of {names}; print() it, or see its df()>"

    def _repr_html_(self) -> str:
        """What Jupyter shows."""
        return str(self.df().round(4).to_html())

    def document(self) -> dict[str, Any]:
        """What ``fpswitch price --json`` prints."""
        return document(self._priced, (), (), self.left_out)

    def df(self) -> "pd.DataFrame":
        """By strategy, in % of one CPU: the cost, and own operations compared with those of the reference.

        ``own`` is without the writes of IA32_XSS, ``low`` and ``high`` the middle 95 % of draws of the costs, ``xss``
        those writes; ``per_pair`` are own TSC cycles of one load/put pair.  Absent for the reference.
        """
        import pandas as pd

        share = PERCENT / self._priced.tsc_hz
        lines = {}
        for each in self._priced.strategies:
            found = each.difference if each.name != self._priced.reference else None
            lines[each.name] = {
                "cost": share * each.cycles.value,
                "own": share * found.own.value if found else None,
                "low": share * found.own.low if found else None,
                "high": share * found.own.high if found else None,
                "xss": share * found.xss if found else None,
                "per_pair": found.pair.cycles if found and found.pair else None,
            }
        return pd.DataFrame.from_dict(lines, orient="index").astype("float64")
