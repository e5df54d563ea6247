"""The vocabulary: operations that cost cycles, the phases of the kernel in which they run, and the ledger of both.

An operation is one instruction (or one hardware transition) with its masks.  The kernel model is the only thing that
makes operations; it hands them to the :class:`Ledger` of the CPU on which they run.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final, NamedTuple, Protocol

XSAVES: Final = "XSAVES"
XSAVE: Final = "XSAVE"
XRSTORS: Final = "XRSTORS"
XRSTOR: Final = "XRSTOR"
RESTORE_SKIPPED: Final = "restore skipped"
"""No instruction: the registers still hold the state (fpregs_state_valid()), so XRSTORS is not run."""

RDPKRU: Final = "RDPKRU"
WRPKRU: Final = "WRPKRU"
XSETBV: Final = "XSETBV"
TEST_XCR0: Final = "test of XCR0"
"""A test of the guest's XCR0 in memory and a branch, on which instructions depend that need a state component."""
RDPMC: Final = "RDPMC"
VMREAD: Final = "VMREAD"
PERF_CONTEXT: Final = "perf context"
"""perf_load_guest_context() or perf_put_guest_context() on a host that counts nothing."""
VPMU_SAMPLE: Final = "vPMU sample"
"""How much more a sample of perf in a guest costs with the emulated vPMU than with the mediated one."""
XGETBV1: Final = "XGETBV(1)"
WRMSR_XSS: Final = "WRMSR(XSS)"
WRMSR_XFD: Final = "WRMSR(XFD)"
RDMSR_XFD: Final = "RDMSR(XFD)"
RDMSR_XFD_ERR: Final = "RDMSR(XFD_ERR)"
WRMSR_XFD_ERR: Final = "WRMSR(XFD_ERR)"
RDMSR_KERNEL_GS_BASE: Final = "RDMSR(KERNEL_GS_BASE)"
WRMSR_KERNEL_GS_BASE: Final = "WRMSR(KERNEL_GS_BASE)"
IBPB: Final = "IBPB"
RDMSR_SPEC_CTRL: Final = "RDMSR(SPEC_CTRL)"
WRMSR_SPEC_CTRL: Final = "WRMSR(SPEC_CTRL)"
VERW: Final = "VERW"
RSB_FILL: Final = "RSB fill"
RSB_ONE_CALL: Final = "RSB one call"
BHB_CLEAR: Final = "BHB clear"
BHB_LONG_CLEAR: Final = "BHB long clear"
UNTRAIN_RET: Final = "untrain RET"
L1D_FLUSH: Final = "L1D flush"
"""What mitigations run at VM entry and exit; those from RSB fill to untrain RET are the sequences of
asm/nospec-branch.h, and L1D flush is WRMSR(IA32_FLUSH_CMD)."""
LDMXCSR: Final = "LDMXCSR"
FWAIT: Final = "FWAIT"
TILERELEASE: Final = "TILERELEASE"
VMPTRLD: Final = "VMPTRLD"
VMCLEAR: Final = "VMCLEAR"
IPI: Final = "IPI"
VMLOAD: Final = "VMLOAD"
VMSAVE: Final = "VMSAVE"
VMENTRY: Final = "VM entry"
VMEXIT: Final = "VM exit"
CONTEXT_SWITCH: Final = "context switch"
"""What __schedule() and __switch_to() cost beside the operations listed one by one."""
KVM_RUN: Final = "KVM_RUN"
"""What entering and leaving ioctl(KVM_RUN) costs beside the operations listed one by one."""

# Phases: where in the kernel an operation runs.
SWITCH: Final = "switch"
USER_RETURN: Final = "return-to-user"
URET: Final = "user-return-msrs"
SWAP_LOAD: Final = "kvm-load-guest-fpu"
SWAP_PUT: Final = "kvm-put-guest-fpu"
VCPU_LOAD: Final = "vcpu-load"
VCPU_PUT: Final = "vcpu-put"
GUEST_ENTRY: Final = "guest-entry"
GUEST_EXIT: Final = "guest-exit"
XSS_PHASE: Final = "xss"
TRANSITION: Final = "vm-transition"
MITIGATION: Final = "mitigations"
VPMU: Final = "vpmu"
KVM_FPU_GET: Final = "kvm-fpu-get"
MSR_IOCTL: Final = "msr-ioctl"
KERNEL_FPU: Final = "kernel-fpu"
FORK: Final = "fork"
EXEC: Final = "exec"
EXIT: Final = "exit"
SIGNAL: Final = "signal"
PTRACE: Final = "ptrace"
IDLE: Final = "idle"
AMX: Final = "amx"


class Operation(NamedTuple):
    """A row of the ledger: what ran, in whose context and where in the kernel.

    ``rfbm`` is the effective requested-feature bitmap (instruction mask & (XCR0 | IA32_XSS)).  For a save,
    ``components`` were written and ``initialised`` are those of RFBM that were in their initial configuration (init
    optimisation); what is in RFBM and in neither was skipped as unmodified.  For a restore, ``components`` were loaded
    and ``initialised`` set to their initial configuration.  ``level`` is where the buffer was (L1, L2, memory), "" for
    operations without one.
    """

    thread_kind: str
    phase: str
    operation: str
    rfbm: int = 0
    components: int = 0
    initialised: int = 0
    level: str = ""


Key = tuple[Any, ...]
"""The fields of an :class:`Operation` without those that have their default: what a ledger counts by."""
Keys = tuple[Key, ...]


@cache
def operation(key: Key) -> Operation:
    """What a key stands for: one object in all records, which is compared and freed in less time than many."""
    return Operation(*key)


FOLD_AT: Final = 256
"""How many operations may be pending in a :class:`Ledger` before a context switch folds them."""


class Ledger:
    """Counts operations of one CPU.

    ``record`` takes the fields of an :class:`Operation` as a plain tuple, without those that have their default.  It is
    the append of a list, which :meth:`fold` counts now and then, faster than one by one.
    """

    __slots__ = ("_counts", "_repeated", "pending", "record")

    def __init__(self) -> None:
        self._counts: Counter[Key] = Counter()
        self._repeated: dict[int, tuple[Keys, int]] = {}
        self.pending: list[Key] = []
        self.record: Callable[[Key], None] = self.pending.append

    def trace(self, event: str, **fields: object) -> None:
        """A tracepoint was passed; a ledger does not keep it."""

    def fold(self) -> None:
        """Counts what is pending; the flow calls this often enough to bound the memory."""
        self._counts.update(self.pending)
        self.pending.clear()

    def repeat(self, keys: Keys, times: int) -> None:
        """The operations ``keys`` ran ``times`` more times."""
        # By identity: to hash the whole sequence takes longer than to add.
        _, before = self._repeated.get(id(keys), (keys, 0))
        self._repeated[id(keys)] = keys, before + times

    @property
    def counts(self) -> Counter[Key]:
        """The number of times that each operation ran, by the tuples given to ``record``."""
        self.fold()
        for keys, times in self._repeated.values():
            for key in keys:
                self._counts[key] += times
        self._repeated.clear()
        return self._counts

    def restart(self) -> None:
        """Forgets what was counted: a measurement begins."""
        self.counts.clear()

    def rows(self) -> Iterator[tuple[Operation, int]]:
        """Every operation that ran, with its count."""
        return ((Operation(*key), count) for key, count in self.counts.items())

    def count(self, *operations: str) -> int:
        """How often any of ``operations`` ran."""
        return sum(n for op, n in self.rows() if op.operation in operations)


class TracePoint(NamedTuple):
    """A tracepoint as Linux names it (subsystem:event) and the fields that the model knows."""

    event: str
    fields: dict[str, object]


class Log(Ledger):
    """A ledger that also keeps the order: operations and tracepoints as they come, for several CPUs in one list."""

    __slots__ = ("cpu", "events")

    def __init__(self, cpu: int, events: list[tuple[int, "Operation | TracePoint"]]) -> None:
        super().__init__()
        self.cpu = cpu
        self.events = events
        self.record = self._record

    def _record(self, key: tuple[Any, ...]) -> None:
        self.pending.append(key)
        self.events.append((self.cpu, Operation(*key)))

    def trace(self, event: str, **fields: object) -> None:
        """A tracepoint was passed."""
        self.events.append((self.cpu, TracePoint(event, fields)))


class LedgerFactory(Protocol):
    """Makes the ledger of a CPU; the simulated host passes one whose ledgers also know prices."""

    def __call__(self, cpu: int) -> Ledger: ...
