"""From a case to a host with its CPUs, threads, guests and interrupts; nothing has run yet."""

from collections.abc import Sequence
from typing import Any, NoReturn

from sim.costs.price import Prices
from sim.host.builder import Builder
from sim.host.caches import L1, MEMORY, Always, Touched
from sim.host.clock import Clock
from sim.host.directed_yield import FORCED_EVERY_S, Boosted
from sim.host.eevdf import EevdfRunQueue
from sim.host.eevdf_groups import GroupedRunQueue, TaskGroup
from sim.host.eevdf_v7_3 import EevdfRunQueueV73
from sim.host.exits import EXTERNAL_INTERRUPT, ExitKind, ExitStream
from sim.host.fork_thread import ForkThread
from sim.host.guest_lock import GuestLock, LockingVcpu, Pausing
from sim.host.guest_span import GuestUse
from sim.host.halt_polling import GuestPolling, HaltPolling
from sim.host.halting import Requests
from sim.host.host import Host
from sim.host.hrtick import LEAST_S, SLACK_S, Hrtick
from sim.host.interrupts import Devices, DeviceSource, TickTimes
from sim.host.ledger import PricedLedger
from sim.host.ple import MOST, PAUSE_CYCLES, SVM_WINDOW, VMX_WINDOW, PleParameters, PleWindow
from sim.host.preemption import PREEMPTION
from sim.host.room import check_room
from sim.host.round_robin import RoundRobinRunQueue
from sim.host.runqueue import RunQueue
from sim.host.schedule import Schedule
from sim.host.thread import ComputeThread, KernelThread, Pipe, PipeThread, Thread
from sim.host.vcpu import VcpuThread
from sim.host.weights import load_weight
from sim.kernel.config import boot
from sim.kernel.kernel import BufferLevel
from sim.kernel.operations import Ledger, LedgerFactory
from sim.kernel.state import KTHREAD, USER_TASK
from sim.kernel.walker import FlowPoint, Walker
from sim.scenario.cases import Case
from sim.scenario.schema import Affinity, Exit, Guest, Interrupt, Lock
from sim.scenario.schema import Thread as ThreadEntry


def populate(
    case: Case, timed_by: str, others: Sequence[str], replication: int, env: Clock, prices: Prices,
    watched: LedgerFactory | None = None, points: list[FlowPoint] | None = None,
) -> Host:  # fmt: skip
    """The host of ``case``, timed by one strategy and walked by others, with everything that will run on it, at time 0.

    ``watched`` makes the :class:`PricedLedger` of each CPU in a host that is watched; it also receives tracepoints.
    ``points`` is what flow points are appended to, each before it is passed, in a host without others.
    Raises :class:`~sim.errors.InputError` for a host that cannot fit into memory.
    """
    scenario = case.scenario
    check_room(case, 1 + len(others))
    build = Builder(case, replication)
    timing = _walker(case, timed_by, watched or (lambda cpu: PricedLedger(prices)), tracing=watched is not None)
    schedule = Schedule(timing, [_walker(case, other, lambda cpu: Ledger()) for other in others])
    if points is not None:
        schedule.points = points
    assert scenario.host.preemption is not None, "cases are complete"
    host = Host(
        env,
        schedule,
        build.draws(scenario.host.interrupt_time, "host", "interrupt"),
        build.draws(scenario.host.wakeup_time, "host", "wake-up"),
        scenario.run.batch and all(walker.batches for walker in schedule.walkers),
        wakeup_preemption=scenario.host.wakeup_preemption,
        idle_balancing=scenario.host.idle_balancing,
        preemption=PREEMPTION[scenario.host.preemption],
        idle_exit=case.cycles(scenario.host.idle_exit),
        counts_from_event=scenario.run.latency_from == "event",
    )
    _add_cpus(host, build)
    for name, guest in scenario.guests.items():
        _add_guests(host, build, name, guest)
    for name, entry in scenario.threads.items():
        _add_threads(host, build, name, entry)
    return host


def _walker(case: Case, strategy: str, ledger: LedgerFactory, *, tracing: bool = False) -> Walker:
    scenario = case.scenario
    return Walker(
        boot(case.settings(strategy)),
        scenario.host.cpus,
        ledger=ledger,
        buffer_level=lambda touched: _level(case, touched),
        integrity=scenario.run.integrity,
        tracing=tracing,
        defers_calls=True,
    )


def _level(case: Case, touched: Sequence[int]) -> BufferLevel:
    host = case.scenario.host
    if host.buffer_level != "touched":
        return Always({"L1": L1, "memory": MEMORY}[host.buffer_level])
    assert host.l1 is not None, "cases are complete"
    assert host.l2 is not None, "cases are complete"
    return Touched(host.l1, host.l2, case.tsc_hz, touched)


def _add_cpus(host: Host, build: Builder) -> None:
    case, settings = build.case, build.case.scenario.host
    period = case.cycles(1 / settings.hz)
    assert settings.base_slice is not None, "cases are complete"
    base_slice = case.cycles(settings.base_slice)
    for cpu in host.kernel.cpus:
        first_tick = period + period * cpu.id // settings.cpus
        sources = [
            _device(build, entry, "cpu", cpu.id, "interrupts", name) for name, entry in case.scenario.interrupts.items()
        ]
        ticks = build.draws(settings.interrupt_time, "cpu", cpu.id, "tick")
        forced_every = case.cycles(FORCED_EVERY_S)
        hrtick = Hrtick(bool(settings.hrtick), case.cycles(LEAST_S), case.cycles(SLACK_S))
        rules = host.kernel.version.slice_rules
        rq = _run_queue(settings.scheduler, rules, base_slice, period, forced_every, list(build.groups.values()))
        host.add_cpu(cpu, rq, Devices(sources), TickTimes(ticks), period, first_tick, hrtick)


def _run_queue(
    scheduler: str, slice_rules: str, base_slice: int, tick: int, forced_every: int, groups: Sequence[TaskGroup]
) -> RunQueue:
    if scheduler == "round-robin":
        return RoundRobinRunQueue(base_slice)
    queues = [(EevdfRunQueueV73 if slice_rules == "v7.3" else EevdfRunQueue)(base_slice, tick) for _ in (0, *groups)]
    for rq in queues:
        rq.forced_every = forced_every
    return GroupedRunQueue(queues[0], dict(zip(groups, queues[1:], strict=True))) if groups else queues[0]


def _device(build: Builder, entry: Interrupt, *name: object) -> DeviceSource:
    instants = build.instants(entry.every, *name, "every")
    assert instants is not None
    uses_fpu = build.chances(entry.kernel_fpu, *name, "kernel_fpu")
    return DeviceSource(instants, build.draws(entry.time, *name, "time"), uses_fpu, build.mask(entry.components))


def _allowed(affinity: Affinity, n: int, cpus: int) -> int:
    """The CPUs on which the ``n``-th of an entry may run, as a mask."""
    if affinity == "any":
        return (1 << cpus) - 1
    if affinity == "pinned":
        return 1 << n % cpus
    return sum(1 << cpu for cpu in set(affinity))


def _start(host: Host, build: Builder, thread: Thread, group: str | None) -> None:
    """Runnable from time 0, on the one with the fewest threads of the CPUs on which it may run."""
    thread.group = None if group is None else build.groups[group]
    loads = build.loads
    n, cpus = next((n, cpus & thread.allowed) for n, cpus in enumerate(loads) if cpus & thread.allowed)
    cpu = cpus & -cpus
    if n + 1 == len(loads):
        loads.append(0)
    loads[n] &= ~cpu
    loads[n + 1] |= cpu
    host.begin(thread, host.cpus[cpu.bit_length() - 1])


# Guests.


def _add_guests(host: Host, build: Builder, group: str, guest: Guest) -> None:
    n = 0
    for number in range(guest.vms):
        vm: list[VcpuThread] = []
        boosted = Boosted(build.case.scenario.host.directed_yield == "v6.18")
        lock = None if guest.lock is None else GuestLock(boosted)
        for i in range(guest.vcpus):
            vm.append(_vcpu(host, build, guest, (group, number, i), n, vm, lock))
            n += 1


def _vcpu(
    host: Host, build: Builder, guest: Guest, name: tuple[str, int, int], n: int, vm: list[VcpuThread],
    lock: GuestLock | None,
) -> VcpuThread:  # fmt: skip
    case, kernel = build.case, host.kernel
    text = f"{name[0]}/{name[1]}/vcpu{name[2]}"
    number = host.schedule.number()
    vcpu = host.schedule.new_vcpu(number, text, guest.choice)
    own = ("guests", *name)
    kinds = [_exit_kind(build, each, exit, *own, "exits", each) for each, exit in guest.exits.items()]
    use = GuestUse(
        build.mask(guest.fpu.components),
        build.instants(guest.fpu.every, *own, "fpu"),
        build.instants(guest.task_switch, *own, "task switch"),
        build.chances(guest.fpu.share, *own, "fpu tasks"),
        guest.shadow_stacks,
    )
    requests = Requests(
        build.optional(guest.demand, *own, "demand"),
        build.optional(guest.arrivals, *own, "arrivals"),
        build.optional(guest.sleep, *own, "sleep"),
        build.waits(guest.waits, name[0], *own),
    )
    kind, of_lock = (VcpuThread, {}) if lock is None or guest.lock is None else (
        LockingVcpu, _locking(host, build, guest.lock, lock, own)
    )  # fmt: skip
    thread = kind(
        host,
        text,
        number,
        vcpu.task,
        load_weight(guest.nice, guest.weight),
        _allowed(guest.affinity, n, len(host.cpus)),
        round(guest.touches),
        vcpu=vcpu,
        vm=vm,
        stream=ExitStream(kinds, host.batch),
        use=use,
        requests=requests,
        polling=_polling(case, guest, kernel.version.halt_poll_ns_shrink),
        guest_polling=_guest_polling(case, guest),
        posted_interrupts=guest.posted_interrupts,
        vmm_components=build.mask(guest.vmm_fpu),
        vmm_flow=round(guest.vmm_touches),
        interrupt=_plain_exit(EXTERNAL_INTERRUPT, effect=False),
        hlt=_plain_exit("hlt", effect=True),
        hv_timer=_plain_exit("preemption-timer", effect=True, requests=not guest.posted_interrupts)
        if host.kernel.vendor == "vmx"
        else None,
        others=build.below(max(guest.vcpus - 1, 1), *own, "IPI targets"),
        signalled=None if guest.signalled is None else build.chances(guest.signalled, *own, "signalled"),
        signal_times=build.optional(guest.signal_time, *own, "signal"),
        **of_lock,
    )
    _start(host, build, thread, guest.group)
    if requests.arrivals is not None:
        host.keep_asking(thread, requests.arrivals)
    return thread


def _locking(host: Host, build: Builder, entry: Lock, lock: GuestLock, own: tuple[object, ...]) -> dict[str, Any]:
    """What a vCPU whose guest has critical sections has besides."""
    settings, vendor = build.case.scenario.host, host.kernel.vendor
    window = {"vmx": VMX_WINDOW, "svm": SVM_WINDOW}[vendor] if settings.ple_window is None else settings.ple_window
    most = MOST[vendor] if settings.ple_window_max is None else settings.ple_window_max
    handler = build.draws(settings.ple_time, *own, "PLE")
    return {
        "lock": lock,
        "gaps": build.draws(entry.every, *own, "lock", "every"),
        "holds": build.draws(entry.hold, *own, "lock", "hold"),
        "ple": PleWindow(PleParameters(window, settings.ple_window_grow, settings.ple_window_shrink, most)),
        "pausing": Pausing(
            settings.ple_gap > 0, PAUSE_CYCLES[vendor], handler, settings.directed_yield != "none",
            settings.directed_yield == "lag-credit",
        ),
        "pause": _plain_exit("pause", effect=True),
    }  # fmt: skip


def _polling(case: Case, guest: Guest, shrink: int) -> HaltPolling:
    """KVM's polling for a vCPU: none for a guest that polls itself (kvm_arch_no_poll())."""
    host = case.scenario.host
    most = host.halt_poll if guest.halt_poll is None else guest.halt_poll
    return HaltPolling(
        case.cycles(most) if guest.idle == "hlt" else 0,
        case.cycles(host.halt_poll_grow_start),
        host.halt_poll_grow,
        shrink if host.halt_poll_shrink is None else host.halt_poll_shrink,
    )


def _guest_polling(case: Case, guest: Guest) -> GuestPolling | None:
    if guest.idle == "hlt":
        return None
    return GuestPolling(case.cycles(guest.guest_halt_poll), case.cycles(guest.guest_halt_poll_grow_start))


def _exit_kind(build: Builder, name: str, exit: Exit, *stream: object) -> ExitKind:
    userspace = exit.handled == "userspace"
    ipi = exit.effect == "ipi"
    assert exit.time is not None, "cases are complete"
    return ExitKind(
        name=name,
        reason=exit.reason,
        gaps=build.sampler(exit.every, *stream, "every", least=1),
        times=build.sampler(exit.time, *stream, "time"),
        uses_fpu=build.flags(exit.kernel_fpu, *stream, "kernel_fpu"),
        effect=userspace or ipi or bool(exit.wakes),
        userspace=userspace,
        target=exit.target if ipi else None,
        vmm=build.draws(exit.vmm, *stream, "vmm") if userspace else None,
        wakes=build.wakes(exit.wakes, *stream),
    )


def _plain_exit(reason: str, *, effect: bool, requests: bool = False) -> ExitKind:
    """A kind of exit that is in no stream."""

    def none(n: int) -> NoReturn:
        raise AssertionError(f"{reason}: exits of this kind are not drawn")

    return ExitKind(reason, reason, none, none, none, effect, userspace=False, target=None, vmm=None, requests=requests)


# Threads.


def _add_threads(host: Host, build: Builder, group: str, entry: ThreadEntry) -> None:
    pairs = entry.kind == "pipe"
    for n in range(entry.count):
        allowed = _allowed(entry.affinity, n, len(host.cpus))
        if pairs:
            pipe = Pipe()
            for side in (0, 1):
                _thread(host, build, entry, (group, n, side), allowed, pipe)
        else:
            _thread(host, build, entry, (group, n), allowed, None)


def _thread(
    host: Host,
    build: Builder,
    entry: ThreadEntry,
    name: tuple[str, int] | tuple[str, int, int],
    allowed: int,
    pipe: Pipe | None,
) -> None:
    text = "/".join(map(str, name))
    number = host.schedule.number()
    task = host.schedule.new_task(number, text, KTHREAD if entry.kind == "kthread" else USER_TASK)
    place: tuple[Any, ...] = (
        host,
        text,
        number,
        task,
        load_weight(entry.nice, entry.weight),
        allowed,
        round(entry.touches),
    )
    own = ("threads", *name)
    use: dict[str, Any] = {
        "bursts": build.draws(entry.compute, *own, "compute"),
        "sleeps": build.optional(entry.sleep, *own, "sleep"),
        "syscalls": build.draws(entry.syscall, *own, "syscall"),
        "components": build.mask(entry.fpu.components),
        "uses_fpu": build.chances(entry.fpu.share, *own, "fpu"),
        "at_ticks": entry.timer == "tick",
        "waits": build.waits(entry.waits, str(name[0]), *own),
        "wakes": build.wakes(entry.wakes, *own),
        "after": build.optional(entry.compute_after, *own, "compute_after"),
    }
    if entry.blocks is not None:
        use["bursts"], use["sleeps"] = build.recorded(entry, name[0], name[1])
    if pipe is not None:
        end = PipeThread(*place, pipe=pipe, **use)
        if len(pipe.ends) == 1:
            _start(host, build, end, entry.group)
        else:
            end.cpu = pipe.ends[0].cpu
            end.group = pipe.ends[0].group
    elif entry.kind == "fork":
        _start(host, build, ForkThread(*place, execs=entry.exec, **use), entry.group)
    else:
        kind = KernelThread if entry.kind == "kthread" else ComputeThread
        _start(host, build, kind(*place, **use), entry.group)
