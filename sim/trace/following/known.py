"""What is known while a trace is followed: threads, CPUs, and the model that is led along.

What the recording does not show is unknown and not guessed: at its start, after a gap, and for threads that may have
run on CPUs outside it.  An unknown becomes known by the first event that shows it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sim.kernel.config import Config
from sim.trace.following.replica import Passed, PassedEvent, Replica, passed
from sim.trace.following.rules import RULES
from sim.trace.following.told import Told, ToldReplica
from sim.trace.following.verdict import Verdict
from sim.trace.reading.events import EVENTS, full_name
from sim.xsave.components import CET_S


class Step(NamedTuple):
    """One event of a trace; ``values`` are those of its table, with names as text."""

    line: int
    time_ns: int
    cpu: int
    tid: int
    comm: str
    event: int
    values: tuple[Any, ...]


@dataclass(slots=True)
class Clock:
    """The time of the event that is being checked, in ns of the trace's clock, for ledgers that need it."""

    ns: int = 0


@dataclass(slots=True, eq=False)
class Thread:
    """What is known of a thread beside what the replica's task holds.

    ``fpu`` is the address of its struct fpu.  ``load_known`` and ``last_cpu_known`` say whether the task's
    TIF_NEED_FPU_LOAD and last_cpu are what the kernel has; ``in_kvm_run`` is None while unknown.  ``memory`` is
    XSTATE_BV in memory of the normal and of the guest fpstate, None while unknown.  ``behind_kernel_fpu``: the next
    restore rests on an assumed kernel_fpu_begin().  ``late`` is the kvm_fpu that a swap still owes, because the thread
    was preempted between the two.  ``spoken``: it had an event of its own; one that never has is outside the recording,
    and its switches are missing (``unheard``) without anything being wrong.  ``stint`` counts its times on a CPU,
    ``forked_at`` is the one in which it last forked.  ``newborn``: it was forked and has not been in user mode.
    ``signal_due`` is the event of a signal, delivery or sigreturn, whose x86_fpu_regs_activated has not come yet, and
    ``due_stint`` when it came.  ``returning``: KVM_RUN is over, and no event has shown its return to user mode yet.
    """

    number: int
    tid: int
    name: str
    user: bool = False
    fpu: int | None = None
    load_known: bool = True
    last_cpu_known: bool = False
    in_kvm_run: bool | None = None
    memory: list[int | None] = field(default_factory=lambda: [None, None])
    mask: list[int] = field(default_factory=lambda: [0, 0])
    behind_kernel_fpu: bool = False
    late: str = ""
    returning: bool = False
    spoken: bool = False
    unheard: bool = False
    exiting: bool = False
    newborn: bool = False
    stint: int = 0
    forked_at: int = -1
    assumed: str = ""
    handlers: int = 0
    signal_due: str = ""
    due_stint: int = -1
    children: list["Thread"] = field(default_factory=list)
    on_cpu: int | None = None


@dataclass(slots=True)
class Place:
    """What is known of a CPU: who runs there, whether its fpregs_owner is known, and an event that is held.

    ``doubt``: tasks outside the recording ran since, which may have taken the registers.  ``departed`` was seen on
    another CPU before its switch away from this one, which is due if this CPU goes on.  ``owed`` contradictions wait
    for the x86_fpu event that pays for them; ``fresh``: nothing of this CPU was seen since the start or the last gap.
    ``holder`` is the thread of the held event, ``unseen``: it was not known before that this thread runs here.
    """

    number: int
    current: Thread | None = None
    owner_known: bool = False
    doubt: bool = False
    departed: Thread | None = None
    late_save: int | None = None
    held: Step | None = None
    holder: Thread | None = None
    unseen: bool = False
    owed: int = 0
    fresh: bool = True


class Known(ABC):
    """The state of a follower, and how it learns: what it notes here goes to the model and to all other replicas.

    ``partial``: some CPUs of the machine are not in the recording, so a thread that was off the CPU may have run there.
    ``now_ns`` is the time of the last event of the trace.  ``measured`` are the times at which the measurement of a
    simulated run begins and ends, one per CPU; ``told`` is what its trace says beside events.
    ``signals`` are those of :data:`~sim.trace.following.signals.BOTH` that the trace has shown to be recorded.
    """

    def __init__(
        self,
        config: Config,
        replicas: Iterable[Replica] = (),
        *,
        partial: bool = False,
        clock: Clock | None = None,
        told: Told | None = None,
    ) -> None:
        masks = config.masks
        if told is None:
            self.model = Replica(config, ledger=passed, tracing=True)
        else:
            self.model = ToldReplica(config, told, ledger=passed, tracing=True)
        self.replicas = (self.model, *replicas)
        self.verdict = Verdict()
        self.partial = partial
        self.masks = (masks.host_default, masks.guest_default)
        self.tells_guest = bool(masks.guest_default & ~masks.host_default & CET_S)
        self.load_at_save = int(config.version.need_fpu_load_set_on == "prev")
        self.drop_needs_registers = not config.version.drop_ignores_need_fpu_load
        self.threads: dict[int, Thread] = {}
        self.by_fpu: dict[int, Thread] = {}
        self.places: dict[int, Place] = {}
        self.clock = clock or Clock()
        self.now_ns = 0
        self.signals: set[str] = set()
        self.measured: tuple[list[int], list[int]] = ([], [])
        self._numbers = 0

    @property
    def fills_in(self) -> bool:
        """Whether flow points that leave no event are filled in: the trace of a simulated run says them."""
        return not isinstance(self.model, ToldReplica)

    @abstractmethod
    def settle(self, place: Place, next_step: Step | None) -> bool:
        """Judges the held event of a CPU by the next one there, if it is known; True if that settles that one, too."""

    def thread(self, tid: int, name: str, cpu: int) -> Thread:
        key = tid if tid else -2 - cpu  # every CPU has an idle task 0
        thread = self.threads.get(key)
        if thread is None:
            thread = self.threads[key] = self.new_thread(key, name)
            for replica in self.replicas:
                if tid:
                    replica.thread(thread.number, name, tid)
                else:
                    replica.idle(thread.number, cpu)
        elif name:
            thread.name = name
        return thread

    def new_thread(self, tid: int, name: str) -> Thread:
        self._numbers += 1
        return Thread(self._numbers, tid, name, mask=list(self.masks))

    def forget(self, thread: Thread) -> None:
        if self.threads.get(thread.tid) is thread:
            del self.threads[thread.tid]
        if thread.fpu is not None and self.by_fpu.get(thread.fpu) is thread:
            del self.by_fpu[thread.fpu]
        for child in thread.children:
            self.forget(child)
        for place in self.places.values():
            if place.current is thread:
                place.current = None
        for replica in self.replicas:
            task = replica.tasks.get(thread.number)
            if task is not None and task.cpu is not None and task is not task.cpu.idle:
                cpu = task.cpu
                replica.runs(cpu.id, self.idle(cpu.id).number)
            replica.forget(thread.number)

    def idle(self, cpu: int) -> Thread:
        return self.thread(0, "", cpu)

    def is_user(self, thread: Thread) -> None:
        if not thread.user:
            thread.user = True
            for replica in self.replicas:
                replica.is_user(thread.number)

    def load_of(self, thread: Thread) -> bool | None:
        return self.model.tasks[thread.number].need_fpu_load if thread.load_known else None

    def set_load(self, thread: Thread, value: bool) -> None:
        thread.load_known = True
        for replica in self.replicas:
            replica.set_load(thread.number, value)

    def valid(self, place: Place, thread: Thread) -> bool | None:
        """fpregs_state_valid(), None if that cannot be known."""
        task, cpu = self.model.tasks[thread.number], self.model.cpu(place.number)
        if place.owner_known and cpu.fpregs_owner is not task:
            return False
        if thread.last_cpu_known and task.last_cpu != place.number:
            return False
        return True if place.owner_known and thread.last_cpu_known else None

    def owns(self, place: Place, thread: Thread | None) -> None:
        place.owner_known = True
        if thread is not None:
            thread.last_cpu_known = True
        for replica in self.replicas:
            replica.owns(place.number, None if thread is None else thread.number)

    def disown(self, place: Place) -> None:
        place.owner_known = False
        for replica in self.replicas:
            replica.owns(place.number, None)

    def runs(self, place: Place, thread: Thread) -> None:
        if place.current is not None and place.current.on_cpu == place.number:
            place.current.on_cpu = None
        if thread.on_cpu is not None and thread.on_cpu != place.number:
            self.places[thread.on_cpu].current = None
        place.current = thread
        thread.on_cpu = place.number
        for replica in self.replicas:
            replica.runs(place.number, thread.number)

    def set_kvm_run(self, thread: Thread, inside: bool) -> None:
        if thread.in_kvm_run is not inside:
            thread.in_kvm_run = inside
            for replica in self.replicas:
                if inside or replica.tasks[thread.number].vcpu is not None:
                    replica.in_kvm_run(thread.number, inside)

    def learn_kvm_run(self, thread: Thread, xcomp_bv: int) -> None:
        if thread.in_kvm_run is None and self.tells_guest:
            self.set_kvm_run(thread, bool(xcomp_bv & CET_S))

    def memory_holds(self, thread: Thread, guest: bool, xstate_bv: int | None) -> None:
        thread.memory[guest] = xstate_bv
        if xstate_bv is not None:
            for replica in self.replicas:
                if not guest or replica.tasks[thread.number].vcpu is not None:
                    replica.memory_holds(thread.number, guest, xstate_bv)

    def passed(self, place: Place) -> list[PassedEvent]:
        """The x86_fpu events that the model has passed on this CPU since they were last cleared."""
        ledger = self.model.cpu(place.number).ledger
        assert isinstance(ledger, Passed)
        return ledger.passed

    def contradict(self, place: Place, step: Step, rule: str, likely: str) -> None:
        """Notes a contradiction at an event; if it is none of x86_fpu, the CPU's next one of those pays for it."""
        assert rule in RULES
        self.verdict.contradict(step.line, full_name(EVENTS[step.event]), rule, likely)
        place.owed += 1

    def explain(self, place: Place, step: Step, kind: str, *, inferred: bool = False) -> None:
        """The end of an x86_fpu event: explained or inferred, unless a contradiction was found at it."""
        if place.owed:
            place.owed -= 1
            return
        (self.verdict.inferred if inferred else self.verdict.explained)[kind] += 1


def named(thread: Thread) -> str:
    """A thread as messages name it."""
    tid = thread.tid if thread.tid >= 0 else 0
    return f"{thread.name or 'task'}-{tid}"
