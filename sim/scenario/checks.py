"""What a scenario may not say although each of its keys is right by itself."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from sim.errors import unknown
from sim.kernel.cpu_models import components
from sim.kernel.settings_checks import xsetbv_refuses
from sim.kernel.uret import URET_MSRS
from sim.scenario.contrasts import operand
from sim.scenario.entry_checks import (
    Problem,
    affinity_problems,
    component_problems,
    guest_problems,
    has_amx,
    list_problems,
    mean_problems,
    thread_problems,
)
from sim.scenario.explain import shown
from sim.scenario.pace import SHORTEST
from sim.scenario.run_schema import PRECISION, Run
from sim.scenario.schema import Scenario
from sim.scenario.units import rate_text, time_text
from sim.xsave import profiles
from sim.xsave.components import APX, AVX, FP, HI16_ZMM, OPMASK, SSE, XTILE, XTILEDATA, ZMM_HI256

MASKS: Final[Mapping[str, int]] = {
    "FP": FP,
    "SSE": SSE,
    "AVX": AVX,
    "OPMASK": OPMASK,
    "ZMM_Hi256": ZMM_HI256,
    "Hi16_ZMM": HI16_ZMM,
    "XTILEDATA": XTILEDATA,
    "APX": APX,
}
"""The state component by its name in a scenario."""

MOST_THREADS: Final = 65536
LEAST_TSC: Final = 1e6
"""Hz."""


def problems(scenario: Scenario) -> Iterator[Problem]:
    """All that does not go together, each with its path; what depends on CPU and kernel is checked case by case."""
    if not scenario.title.isprintable():
        yield "title", f"found {shown(scenario.title)}; allowed: one line of text without control characters"
    if not re.sub(r"[\n\t]", "", scenario.question).isprintable():
        yield "question", f"found {shown(scenario.question)}; allowed: lines of text without control characters"
    yield from _run(scenario)
    yield from _host(scenario)
    number = sum(each.vms * each.vcpus for each in scenario.guests.values())
    number += sum(each.count * (2 if each.kind == "pipe" else 1) for each in scenario.threads.values())
    if number > MOST_THREADS:
        yield "guests", f"found {number} vCPUs and threads in all; allowed: {MOST_THREADS} at most"
    if not scenario.guests and not scenario.threads:
        yield "guests", "there are neither guests nor threads; allowed: at least one kind of either"
    for each in scenario.kernel.guest_uret_msrs or ():
        if each not in URET_MSRS:
            yield "kernel.guest_uret_msrs", str(unknown("user-return MSR", each, URET_MSRS))
    yield from _guest_xcr0(scenario)
    for name, guest in scenario.guests.items():
        yield from guest_problems(f"guests.{name}", guest, scenario)
    for name, thread in scenario.threads.items():
        yield from thread_problems(f"threads.{name}", thread)
        yield from affinity_problems(f"threads.{name}", thread, scenario)
    for name, interrupt in scenario.interrupts.items():
        where = f"interrupts.{name}"
        yield from mean_problems(f"{where}.every", interrupt.every)
        yield from component_problems(f"{where}.components", interrupt.components)
        if "XTILEDATA" in interrupt.components:
            yield f"{where}.components", "found XTILEDATA, which kernel_fpu_begin() does not make room for"
        if interrupt.kernel_fpu and not interrupt.components:
            yield f"{where}.components", "found none; allowed with kernel_fpu: one component or more"
    yield from _groups(scenario)
    yield from _waking(scenario)
    yield from _interrupt_load(scenario)


def _groups(scenario: Scenario) -> Iterator[Problem]:
    for section, entries in (("guests", scenario.guests), ("threads", scenario.threads)):
        for name, each in entries.items():
            if each.group is not None and each.group not in scenario.groups:
                yield f"{section}.{name}.group", str(unknown("group", each.group, scenario.groups))
    if scenario.groups and scenario.host.scheduler != "eevdf":
        yield "groups", f"found with host.scheduler {scenario.host.scheduler!r}; allowed: 'eevdf'"


def _waking(scenario: Scenario) -> Iterator[Problem]:
    """Who wakes whom: an entry that waits and is never woken would sleep for ever."""
    waiting = {
        name: f"{section}.{name}.waits"
        for section, entries in (("guests", scenario.guests), ("threads", scenario.threads))
        for name, each in entries.items()
        if each.waits is not None
    }
    for name in scenario.guests.keys() & waiting.keys() & scenario.threads.keys():
        yield waiting[name], f"found guests and threads that are both called {name!r}; allowed: different names"
    threads = {name: path for name, path in waiting.items() if name in scenario.threads}
    woken = set()
    for path, wakes, able in (
        *((f"threads.{name}", thread.wakes, waiting) for name, thread in scenario.threads.items()),
        *(
            (f"guests.{name}.exits.{exit}", each.wakes, threads)
            for name, guest in scenario.guests.items()
            for exit, each in guest.exits.items()
        ),
    ):
        woken |= set(wakes)
        for other in wakes:
            if other not in able:
                yield f"{path}.wakes", str(unknown("entry that waits", other, able))
    for name, path in waiting.items():
        if name not in woken:
            yield path, "nobody wakes them; allowed: a thread, or an exit of guests, that names them in its wakes"


def _guest_xcr0(scenario: Scenario) -> Iterator[Problem]:
    """XCR0 of all guests and of each kind of them, and what guests use without having it."""
    kernel = scenario.kernel
    yield from _xcr0("kernel.guest_xcr0", kernel.guest_xcr0, kernel.guest_amx, "kernel.guest_amx")
    for name, guest in scenario.guests.items():
        own = f"guests.{name}.xcr0"
        yield from _xcr0(own, guest.xcr0, has_amx(guest, scenario), f"guests.{name}.amx")
        path, xcr0 = ("kernel.guest_xcr0", kernel.guest_xcr0) if guest.xcr0 is None else (own, guest.xcr0)
        if guest.cpu_model is not None:
            if guest.xcr0 is not None:
                yield f"guests.{name}.cpu_model", "found beside xcr0; allowed: one of the two"
            path, xcr0 = f"guests.{name}.cpu_model {guest.cpu_model!r}, XCR0", components(guest.cpu_model)
        for each in guest.fpu.components if xcr0 is not None else ():
            if MASKS[each] & ~(xcr0 or 0) and not (each == "XTILEDATA" and guest.amx):
                yield f"guests.{name}.fpu.components", f"found {each}, which {path} = {xcr0:#x} lacks"


def _xcr0(path: str, xcr0: int | None, amx: bool, needs_amx: str) -> Iterator[Problem]:
    """What XSETBV refuses, and AMX that the guests do not have."""
    if xcr0 is None:
        return
    for which in xsetbv_refuses(xcr0):
        yield path, f"found {xcr0:#x}; allowed: masks that have {which}"
    if xcr0 & XTILE and not amx:
        yield path, f"found {xcr0:#x} with AMX (bits 17 and 18), which needs {needs_amx} = true"


def _interrupt_load(scenario: Scenario) -> Iterator[Problem]:
    """A CPU on which interrupts come faster than it can serve them never does anything else.  No interrupt takes less
    than :data:`SHORTEST`, whatever the scenario says.  A request for a guest is one, except to a guest that runs with
    posted interrupts; so many would not let it run.
    """
    host = scenario.host
    interrupt = max(host.interrupt_time.mean, SHORTEST)
    loads = {"host.interrupt_time": interrupt * host.hz}
    loads |= {
        f"guests.{name}.arrivals": each.vms * each.vcpus * interrupt / each.arrivals.mean / host.cpus
        for name, each in scenario.guests.items()
        if each.arrivals is not None and each.arrivals.mean
    }
    loads |= {
        f"interrupts.{name}.time": max(each.time.mean, SHORTEST) / each.every.mean
        for name, each in scenario.interrupts.items()
        if each.every.mean
    }
    if sum(loads.values()) >= 1:
        yield (
            max(loads, key=lambda path: loads[path]),
            f"interrupts, ticks and arrivals together take {sum(loads.values()):.0%} of a CPU; allowed: less than 100%",
        )


def _run(scenario: Scenario) -> Iterator[Problem]:
    run = scenario.run
    if run.measure == 0:
        yield "run.measure", "found '0 ns'; allowed: a time above 0"
    if run.strategies != "all":
        yield from list_problems("run.strategies", run.strategies, "names of strategies, or 'all'")
    for key in ("reference", "timed_by"):
        if getattr(run, key) == "":
            yield f"run.{key}", "found ''; allowed: the name of a strategy"
    yield from _replications(run)
    yield from _contrasts(run)
    if run.cases is not None:
        yield from list_problems("run.cases", run.cases, "names of cases")


def _replications(run: Run) -> Iterator[Problem]:
    for key in PRECISION:
        if run.replications is not None and getattr(run, key) is not None:
            yield f"run.{key}", "found beside replications, which is exact; allowed: one or the other"
    if run.precision == 0:
        yield "run.precision", "found '0 %'; allowed: a share above 0"
    fewest, most = run.replication_bounds
    if fewest > most:
        yield "run.min_replications", f"found {fewest}; allowed: up to run.max_replications, which is {most}"


def _contrasts(run: Run) -> Iterator[Problem]:
    for number, pair in enumerate(run.contrasts):
        where = f"run.contrasts[{number}]"
        a, b = map(operand, pair)
        if a == b:
            yield where, f"found {str(a)!r} twice; allowed: two that differ"
        if bool(a.case) != bool(b.case):
            yield (
                where,
                f"found {str(a if a.case else b)!r} beside one without a case; allowed: a case for both or none",
            )
        if {a, b} in [set(map(operand, other)) for other in run.contrasts[:number]]:
            yield where, f"found {str(a)!r} and {str(b)!r} a second time; allowed: each pair once"


def _host(scenario: Scenario) -> Iterator[Problem]:
    host = scenario.host
    yield from list_problems("host.cpu", host.cpu, "names of CPU profiles")
    yield from list_problems("host.kernel", host.kernel, "names of kernels")
    if isinstance(host.tsc, dict):
        for cpu in host.tsc:
            if not profiles.is_known(cpu):
                yield f"host.tsc.{cpu}", str(unknown("CPU", cpu, profiles.names()))
    for cpu in host.costs:
        if not profiles.is_known(cpu):
            yield f"host.costs.{cpu}", str(unknown("CPU", cpu, profiles.names()))
    for cpu, hertz in host.tsc.items() if isinstance(host.tsc, dict) else [("", host.tsc)]:
        if hertz is None:
            continue
        if hertz < LEAST_TSC:
            found, least = rate_text(hertz), rate_text(LEAST_TSC)
            yield (
                f"host.tsc{cpu and '.'}{cpu}",
                f"found {found!r}; allowed: {least} or more, since times are whole cycles",
            )
    for key, time in (("base_slice", host.base_slice), ("l1", host.l1), ("l2", host.l2)):
        if time == 0:
            yield f"host.{key}", "found 0; allowed: more than 0"
    if host.base_slice is not None and not 1e-6 <= host.base_slice <= 10:
        yield "host.base_slice", f"found {time_text(host.base_slice)!r}; allowed: 1 us to 10 s"
