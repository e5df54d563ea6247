"""Whose values are where: a consumer must find its own values, and nobody may get those of another.

Each component has a rule that says who consumes it and when.  User components and CET_U are consumed at return to user
mode and at VM entry; PKRU likewise, and never from an fpstate; the carried state at VM entry, and at return to user
mode only if the host has a value of its own there.
"""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sim.kernel.state import Context, Cpu, Task, Vcpu
from sim.xsave.area import INIT
from sim.xsave.components import CET_U, COMPONENTS, PASID, PKRU, USER, bits

if TYPE_CHECKING:
    from sim.kernel.kernel import Kernel

WRONG_VALUE: Final = "wrong-value"
GUEST_TO_GUEST: Final = "guest-to-guest"
FOREIGN_IN_FPSTATE: Final = "foreign-in-fpstate"
RESIDUE: Final = "residue"
"""A guest's value is in a register that nobody consumes: reported, but not a violation."""

VIOLATIONS: Final = (WRONG_VALUE, GUEST_TO_GUEST, FOREIGN_IN_FPSTATE)
KINDS: Final = (*VIOLATIONS, RESIDUE)

CONSUMED: Final = (USER & ~PKRU) | CET_U | PASID
"""Components that user mode and guests consume as they are in the registers."""

REMEMBERED = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding: its kind, who should have had the value, in which component or MSR, on which CPU.

    ``expected`` and ``got`` name the writer and the version of the contents, or "initial".
    """

    kind: str
    who: str
    what: str
    cpu: int
    expected: str
    got: str


def _writers(content: object) -> set[int]:
    """The contexts whose tokens are in a content (CET_S holds one per MSR)."""
    tokens = content if isinstance(content, tuple) else (content,)
    return {token >> 32 for token in tokens if isinstance(token, int) and token >> 32}


class Integrity:
    """Compares what registers and fpstates hold with what their consumer must see.

    A mismatch is reported once, when it is consumed; the consumer then continues with the value that it got.
    ``findings`` keeps the first hundred, ``counts`` all.
    """

    def __init__(self, kernel: "Kernel") -> None:
        self.kernel = kernel
        self.counts: Counter[str] = Counter()
        self.findings: list[Finding] = []

    @property
    def violations(self) -> int:
        """How many findings are violations; residue is not one."""
        return sum(self.counts[kind] for kind in VIOLATIONS)

    def _report(self, kind: str, who: str, what: str, cpu: Cpu, expected: object, got: object) -> None:
        self.counts[kind] += 1
        if len(self.findings) < REMEMBERED:
            self.findings.append(Finding(kind, who, what, cpu.id, self.described(expected), self.described(got)))

    def clear(self) -> None:
        """Forgets what was found."""
        self.counts.clear()
        self.findings.clear()

    def described(self, content: object) -> str:
        """A content in words: who wrote it, and which of the writer's writes it was, counted from 1."""
        if isinstance(content, tuple):
            return "(" + ", ".join(map(self.described, content)) + ")"
        if not isinstance(content, int) or not content:
            return "initial"
        context = self.kernel.contexts.get(content >> 32)
        return f"{context.name} #{content & 0xFFFFFFFF}" if context else f"{content:#x}"

    def _is_guest(self, writer: int) -> bool:
        context = self.kernel.contexts.get(writer)
        return context is not None and context.guest

    def _kind(self, context: Context, got: object) -> str:
        foreign = {writer for writer in _writers(got) if writer != context.id}
        return GUEST_TO_GUEST if context.guest and any(map(self._is_guest, foreign)) else WRONG_VALUE

    def consume(self, cpu: Cpu, context: Context, consumed: int) -> None:
        """``context`` is about to run with what the registers hold, and uses the components in ``consumed``, except
        those that IA32_XFD disables: sigreturn, for one, leaves another task's tiles in the registers of a task that
        has not enabled AMX, where nothing can read them.
        """
        unit = cpu.unit
        for i in bits[consumed & ~unit.xfd]:
            got = unit.regs[i]
            if got != context.regs[i]:
                self._report(self._kind(context, got), context.name, COMPONENTS[i].name, cpu, context.regs[i], got)
                context.regs[i] = got
        if unit.mxcsr != context.mxcsr:
            self._report(WRONG_VALUE, context.name, "MXCSR", cpu, context.mxcsr, unit.mxcsr)
            context.mxcsr = unit.mxcsr

    def return_to_user(self, cpu: Cpu, task: Task) -> None:
        """User mode of ``task`` consumes the registers (the last step before the exit to user mode)."""
        kernel, unit, context = self.kernel, cpu.unit, task.context
        if unit.regs != context.regs or unit.mxcsr != context.mxcsr:
            self.consume(cpu, context, CONSUMED)
            if kernel.carried_mask:
                self._carried_at_user_return(cpu, task)
        if unit.pkru != context.pkru and kernel.pku:
            self._report(WRONG_VALUE, context.name, "PKRU", cpu, context.pkru, unit.pkru)
            context.pkru = unit.pkru
        if kernel.carried_msrs_per_task:
            want, got = task.host_value, kernel.carried_value(cpu, 0)
            if got != want:
                self._report(WRONG_VALUE, context.name, kernel.carried_names[0], cpu, want, got)
                kernel.set_carried_value(cpu, 0, want)

    def _carried_at_user_return(self, cpu: Cpu, task: Task) -> None:
        """The component of the carried state: consumed if the host uses shadow stacks, otherwise only looked at."""
        kernel = self.kernel
        i = kernel.carried.xfeature
        assert i is not None
        got = cpu.unit.regs[i]
        if kernel.host_consumes_carried:
            first = got[0] if isinstance(got, tuple) else INIT
            if first != task.host_value:
                self._report(WRONG_VALUE, task.name, kernel.carried_names[0], cpu, task.host_value, first)
                kernel.set_carried_value(cpu, 0, task.host_value)
        if any(map(self._is_guest, _writers(got))):
            self._report(RESIDUE, task.name, COMPONENTS[i].name, cpu, task.context.regs[i], got)

    def vm_entry(self, cpu: Cpu, vcpu: Vcpu) -> None:
        """The guest consumes the registers."""
        kernel, unit, context = self.kernel, cpu.unit, vcpu.context
        if unit.regs != context.regs or unit.mxcsr != context.mxcsr:
            consumed = CONSUMED & ~CET_U | kernel.guests_consume
            if vcpu.has_cet:
                consumed |= CET_U | kernel.cet_guests_consume
            self.consume(cpu, context, consumed)
        if unit.pkru != context.pkru and kernel.pkru_switched(vcpu):
            self._report(WRONG_VALUE, context.name, "PKRU", cpu, context.pkru, unit.pkru)
            context.pkru = unit.pkru
        if kernel.carried_numbers and not kernel.carried_mask and kernel.strategy.carries:
            for number, name, want in zip(kernel.carried_numbers, kernel.carried_names, context.carried, strict=True):
                got = cpu.msrs.get(number, 0)
                if got != want:
                    self._report(self._kind(context, got), context.name, name, cpu, want, got)
            context.carried = tuple(cpu.msrs.get(number, 0) for number in kernel.carried_numbers)

    def saved(self, cpu: Cpu, context: Context, written: int, where: str) -> None:
        """``written`` components have just been saved ``where``; they must be those of ``context``."""
        regs = cpu.unit.regs
        for i in bits[written & ~PKRU]:
            if regs[i] != context.regs[i] and any(writer != context.id for writer in _writers(regs[i])):
                who = f"{where} of {context.name}"
                self._report(FOREIGN_IN_FPSTATE, who, COMPONENTS[i].name, cpu, context.regs[i], regs[i])
