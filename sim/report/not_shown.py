"""Differences between kernels that a run cannot show; these are stated, since a zero would be wrong."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from sim.kernel import versions
from sim.kernel.versions import Vendor
from sim.report.names import config_of


def sentences(manifest: Mapping[str, Any]) -> list[str]:
    """What kernels of a comparison do differently and no operation or price shows, for the exits that its guests have.

    A fastpath that re-enters the guest avoids KVM's run loop.  As far as that is operations (XCR0, IA32_XSS and PKRU in
    v6.19), they are counted; the rest is software, and a scenario gives an exit the same ``time`` on all kernels.
    """
    resolved = manifest["resolved"]
    reasons = {exit["reason"] for guest in resolved["guests"].values() for exit in guest.get("exits", {}).values()}
    found = dict.fromkeys(
        sentence
        for vendor in dict.fromkeys(config_of(case, case["strategies"][0]).vendor for case in manifest["cases"])
        for older, newer in combinations(resolved["host"]["kernel"], 2)
        for sentence in _fastpaths(vendor, older, newer, reasons)
    )
    return list(found)


def _fastpaths(vendor: Vendor, one: str, other: str, reasons: set[str]) -> Iterator[str]:
    a, b = (set(versions.version(name).fastpath[vendor]) for name in (one, other))
    for names, has, lacks in ((a - b, one, other), (b - a, other, one)):
        if differing := sorted(names & reasons):
            yield (
                f"Exits by {', '.join(differing)} re-enter the guest in the fastpath of {has} and leave its loop in "
                f"{lacks} ({vendor.upper()}). Besides the listed operations, that saves software that no row prices: "
                "the difference between the two is not shown, and is not zero. For an IPI it was more than 200 cycles "
                "on Skylake-SP (Linux commit 1e9e2622a149)."
            )
