"""What an entry of guests or threads may not say although each of its keys is right by itself."""

from collections.abc import Iterator

from sim.kernel.cpu_models import components
from sim.scenario.distribution import Distribution
from sim.scenario.schema import FASTPATH, Exit, Guest, Scenario, Thread
from sim.xsave.components import CET_S, XTILE

Problem = tuple[str, str]
"""The path of a key, and what is wrong there."""


def guest_problems(where: str, guest: Guest, scenario: Scenario) -> Iterator[Problem]:
    """What does not go together in an entry of guests, which is at ``where``."""
    yield from affinity_problems(where, guest, scenario)
    yield from _weight(where, guest)
    if guest.demand is None:
        for key in ("arrivals", "sleep"):
            if getattr(guest, key) is not None:
                yield f"{where}.{key}", "goes with demand, the guest CPU time of a request, which is missing"
    else:
        yield from mean_problems(f"{where}.demand", guest.demand)
        if guest.arrivals is None and guest.sleep is None and (guest.waits is None or guest.waits.share < 1):
            yield f"{where}.demand", "needs arrivals (open) or sleep (closed), and neither is there"
        if guest.arrivals is not None and guest.sleep is not None:
            yield f"{where}.sleep", "found beside arrivals; allowed: arrivals (open) or sleep (closed), not both"
    if guest.waits is not None and (guest.demand is None or guest.arrivals is not None):
        yield f"{where}.waits", "goes with demand, and without arrivals, which end halts in any case"
    if guest.signalled is not None and guest.demand is None:
        yield f"{where}.signalled", "goes with demand, without which these vCPUs never halt"
    if (guest.signalled is None) != (guest.signal_time is None):
        missing = "signalled" if guest.signalled is None else "signal_time"
        yield f"{where}.{missing}", "is missing; allowed: signalled and signal_time, both or neither"
    yield from mean_problems(f"{where}.arrivals", guest.arrivals)
    yield from mean_problems(f"{where}.task_switch", guest.task_switch)
    for name, each in guest.exits.items():
        yield from _exit(f"{where}.exits.{name}", each, guest)
    yield from _guest_fpu(where, guest, scenario)
    yield from _shadow_stacks(where, guest, scenario)


def _guest_fpu(where: str, guest: Guest, scenario: Scenario) -> Iterator[Problem]:
    fpu = guest.fpu
    yield from component_problems(f"{where}.fpu.components", fpu.components)
    yield from component_problems(f"{where}.vmm_fpu", guest.vmm_fpu)
    yield from mean_problems(f"{where}.fpu.every", fpu.every)
    if fpu.every is not None and not fpu.components:
        yield f"{where}.fpu.every", "goes with fpu.components, which are missing"
    if fpu.components and fpu.every is None and guest.task_switch is None:
        yield (
            f"{where}.fpu.components",
            "need fpu.every (the guest writes them) or task_switch (XRSTORS loads them)",
        )
    if "XTILEDATA" in fpu.components and not has_amx(guest, scenario):
        needed = "kernel.guest_amx" if guest.amx is None else f"{where}.amx"
        yield f"{where}.fpu.components", f"found XTILEDATA, which needs {needed} = true"


def has_amx(guest: Guest, scenario: Scenario) -> bool:
    """Whether these guests have AMX, by their CPU model, their own key or the kernel's."""
    if guest.amx is None and guest.cpu_model is not None:
        return bool(components(guest.cpu_model) & XTILE)
    return scenario.kernel.guest_amx if guest.amx is None else guest.amx


def _shadow_stacks(where: str, guest: Guest, scenario: Scenario) -> Iterator[Problem]:
    if guest.shadow_stacks == "rewritten" and guest.task_switch is None:
        yield f"{where}.shadow_stacks", "found 'rewritten', which needs task_switch, when the guest's kernel does it"
    if guest.shadow_stacks == "none":
        return
    if not scenario.kernel.guest_cet:
        yield f"{where}.shadow_stacks", f"found {guest.shadow_stacks!r}, which needs kernel.guest_cet = true"
    if guest.cpu_model is not None and not components(guest.cpu_model) & CET_S:
        yield (
            f"{where}.shadow_stacks",
            f"found {guest.shadow_stacks!r}, and cpu_model {guest.cpu_model!r} has no cet-ss",
        )
    if guest.shadow_stacks == "rewritten":
        for path, xss in ((f"{where}.xss", guest.xss), ("kernel.guest_xss", scenario.kernel.guest_xss)):
            if xss is not None and not xss & CET_S:
                yield path, f"found {xss:#x}; allowed with shadow_stacks = 'rewritten': masks with bit 12 (0x1000)"


def _exit(where: str, exit_: Exit, guest: Guest) -> Iterator[Problem]:
    yield from mean_problems(f"{where}.every", exit_.every)
    if exit_.effect == "ipi" and guest.vcpus == 1:
        yield f"{where}.effect", "found 'ipi' in a VM with one vCPU; allowed: 'none', or vcpus of 2 or more"
    if exit_.handled == "kernel" and exit_.vmm.mean > 0:
        yield f"{where}.vmm", "goes with handled = 'userspace'; here it is 'kernel'"
    if exit_.handled == "userspace" and exit_.reason in FASTPATH:
        yield (
            f"{where}.reason",
            f"found {exit_.reason!r}, which KVM handles itself; allowed with userspace: io and the like",
        )


def thread_problems(where: str, thread: Thread) -> Iterator[Problem]:
    """What does not go together in an entry of threads, but for its affinity."""
    fpu, kind = thread.fpu, thread.kind
    yield from component_problems(f"{where}.fpu.components", fpu.components)
    if kind == "pipe":
        if thread.compute.mean + thread.syscall.mean == 0:
            yield f"{where}.compute", "found 0 beside syscall = 0; allowed: a hand-off that takes time"
        if thread.sleep is not None:
            yield f"{where}.sleep", "does not go with kind 'pipe', whose threads sleep until the other hands over"
    else:
        yield from mean_problems(f"{where}.compute", thread.compute)
    if thread.waits is not None and kind not in ("compute", "kthread"):
        yield f"{where}.waits", f"goes with kinds 'compute' and 'kthread'; here it is {kind!r}"
    if thread.waits is not None and thread.waits.share < 1 and thread.sleep is None:
        yield (
            f"{where}.waits.share",
            f"found {thread.waits.share:g} without sleep; allowed: 1.0, or a sleep for the rest",
        )
    if thread.wakes and kind == "pipe":
        yield f"{where}.wakes", "does not go with kind 'pipe', whose ends wake each other"
    if thread.compute_after is not None and (kind != "compute" or not thread.wakes):
        yield (
            f"{where}.compute_after",
            f"goes with kind 'compute' and with wakes; here it is {kind!r}, {_wakers(thread)}",
        )
    if thread.blocks is not None:
        yield from _blocks(where, thread)
    if thread.timer == "tick" and thread.sleep is None:
        yield f"{where}.timer", "found 'tick', which ends sleeps, and there is no sleep"
    yield from _weight(where, thread)
    if kind == "fork" and thread.sleep is None:
        yield f"{where}.sleep", "the key is missing; allowed with kind 'fork': the wall time between two children"
    if kind != "fork" and not thread.exec:
        yield f"{where}.exec", f"goes with kind 'fork'; here it is {kind!r}"
    if kind == "kthread" and fpu.components:
        yield f"{where}.fpu.components", "found some; a kthread has no FPU state of its own (allowed: none)"
    if fpu.every is not None:
        yield f"{where}.fpu.every", "is for guests; a thread writes in each burst with probability fpu.share"


def _wakers(thread: Thread) -> str:
    return f"with {len(thread.wakes)} entries in wakes" if thread.wakes else "without wakes"


def _blocks(where: str, thread: Thread) -> Iterator[Problem]:
    rows = [0 if each is None else len(each.values) for each in (thread.compute, thread.sleep)]
    if thread.kind == "pipe" or thread.waits is not None:
        yield f"{where}.blocks", "goes with kinds 'compute', 'kthread' and 'fork', and without waits"
    elif not rows[0] or rows[0] != rows[1]:
        yield f"{where}.blocks", f"found {rows[0]} rows of compute and {rows[1]} of sleep; allowed: as many of both"


def _weight(where: str, entry: Guest | Thread) -> Iterator[Problem]:
    if entry.weight is not None and entry.nice:
        yield f"{where}.weight", "found beside nice; allowed: one of the two"


def affinity_problems(where: str, who: Guest | Thread, scenario: Scenario) -> Iterator[Problem]:
    """CPUs that the host has not, or none, or one twice."""
    if isinstance(who.affinity, str):
        return
    last = scenario.host.cpus - 1
    yield from list_problems(f"{where}.affinity", who.affinity, "CPUs, or 'any' or 'pinned'")
    for cpu in who.affinity:
        if cpu > last:
            yield f"{where}.affinity", f"found CPU {cpu}; allowed: 0 to {last}, since host.cpus = {last + 1}"


def list_problems(where: str, found: tuple[object, ...], what: str) -> Iterator[Problem]:
    """An empty list, and what is in it twice; ``what`` says what it is a list of."""
    if not found:
        yield where, f"found an empty list; allowed: a list of {what}"
    for each in found:
        if found.count(each) > 1:
            yield where, f"found {each!r} twice; allowed: each once"


def component_problems(where: str, components: tuple[str, ...]) -> Iterator[Problem]:
    """Components that are named twice."""
    if components:
        yield from list_problems(where, components, "components")


def mean_problems(where: str, times: Distribution | None) -> Iterator[Problem]:
    """A distribution of times that are all 0."""
    if times is not None and times.mean == 0:
        yield where, "found a mean of 0; allowed: more than 0"
