"""What a CPU's run queue is to the simulated host, whatever its policy, and what it queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from sim.host.weights import NICE_0_LOAD, inverse

if TYPE_CHECKING:
    from sim.host.eevdf_groups import TaskGroup


class Entity:
    """struct sched_entity: the base of whatever can be scheduled.

    Times are wall time in TSC cycles; ``vruntime``, ``deadline``, ``vprot`` and ``vlag`` are virtual time, of which
    ``inv_weight`` units pass in a cycle of execution: 2^32 at nice 0.  ``slice`` is the length of a request;
    ``custom_slice`` one that was asked for with sched_setattr(), or 0 for the queue's.  ``vprot`` is the vruntime up to
    which the running entity is protected from preemption.  ``exec_start`` is when it last was accounted for,
    ``sum_exec_runtime`` its service so far.  ``on_rq`` is true also while ``sched_delayed``: blocked, but not yet
    dequeued.  With ``rel_deadline``, ``deadline`` is relative to ``vruntime``.  The weight is fixed for life,
    except of what stands for a ``group``.  ``listed`` is greater, the later the entity has come to the front of its
    CPU's cfs_tasks.
    """

    __slots__ = (
        "custom_slice",
        "deadline",
        "exec_start",
        "group",
        "inv_weight",
        "listed",
        "on_rq",
        "rel_deadline",
        "sched_delayed",
        "slice",
        "sum_exec_runtime",
        "vlag",
        "vprot",
        "vruntime",
        "weight",
    )

    def __init__(self, weight: int = NICE_0_LOAD, custom_slice: int = 0) -> None:
        self.weight = weight
        self.inv_weight = inverse(weight)
        self.custom_slice = custom_slice
        self.slice = custom_slice
        self.vruntime = 0
        self.deadline = 0
        self.vprot = 0
        self.vlag = 0
        self.exec_start = 0
        self.sum_exec_runtime = 0
        self.on_rq = False
        self.sched_delayed = False
        self.rel_deadline = False
        self.listed = 0
        self.group: TaskGroup | None = None


class RunQueue(Protocol):
    """One CPU's run queue.  ``now`` never goes back; every method may be called any number of times at one instant.

    ``current`` is what runs: it stays counted in ``nr_running``, the number of runnable entities.  ``need_resched``
    says that the queue has asked for the CPU: any accounting of ``current`` may set it, and ``pick_next`` clears it.
    """

    current: Entity | None
    nr_running: int

    @property
    def need_resched(self) -> bool:
        """As above."""

    def update_current(self, now: int) -> None:
        """Account the wall time since the last accounting to ``current``."""

    def enqueue(self, now: int, entity: Entity, *, initial: bool = False) -> None:
        """Make ``entity`` runnable here: after a sleep, for the first time (fork), or coming from another queue."""

    def dequeue(self, now: int, entity: Entity, *, sleep: bool, special: bool = False) -> None:
        """Take ``entity`` off: it blocks (``sleep``), or moves to another queue; ``special``: it exits.

        When that was ``current``, ``pick_next`` must follow at the same instant, before anything else.
        """

    def pick_next(self, now: int) -> Entity | None:
        """What runs from now on, which becomes ``current``; None is the idle task."""

    def wakeup_preempts(self, now: int, entity: Entity, *, fork: bool = False) -> bool:
        """Whether ``current`` has to be rescheduled now that ``entity``, a new task if ``fork``, has been enqueued."""

    def preempt_time(self) -> int | None:
        """When a tick would set ``need_resched``, at the earliest, if ``current`` runs on and the queue stays as it is.

        None if it never will.
        """

    def time_to_deadline(self) -> int | None:
        """What is left of the request of ``current`` as it was last accounted for; None if nobody waits."""

    def renewal_time(self) -> int | None:
        """When ticks would do something to a ``current`` that runs alone; None if they never do."""

    @property
    def alone(self) -> bool:
        """single_task_running(): nothing but ``current`` is queued."""

    def nominate(self, now: int, entity: Entity, *, credit: bool) -> bool:
        """yield_to_task(): ``entity``, which waits here, is to run next; False if the policy has no such thing."""

    def forfeit(self, now: int, *, force: bool) -> None:
        """yield_task(): ``current`` gives up what is left of its request."""

    def waiting(self) -> Sequence[Entity]:
        """The runnable entities that do not run: what another CPU may pull."""
