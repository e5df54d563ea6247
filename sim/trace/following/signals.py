"""Signals: known if their events are recorded; otherwise recognised only by x86_fpu_regs_activated with load: 0.

Delivery emits it after signal:signal_deliver (get_signal(), then setup_rt_frame() and fpu__clear_user_states()),
sigreturn after syscalls:sys_enter_rt_sigreturn (__fpu_restore_sig()).  A preemption may lie between, where the frame is
not in memory.  What is ignored (SIG_IGN) or kills (SIG_DFL) has no handler and passes nothing.
"""

from typing import Final

from sim.trace.following.judging import clears_load, done, fields, same
from sim.trace.following.known import Known, Place, Step, Thread, named
from sim.trace.following.whose import who

DELIVER: Final = "signal_deliver"
SIGRETURN: Final = "sys_enter_rt_sigreturn"
BOTH: Final = {DELIVER, SIGRETURN}
_SIG_IGN: Final = 1
_SIGSEGV: Final = 11
"""What the kernel sends itself if a frame cannot be set up (force_sigsegv()), so that the delivery before ends here."""


def on_signal_deliver(f: Known, place: Place, step: Step) -> None:
    """signal_deliver, which is a delivery to a handler unless that is SIG_DFL or SIG_IGN."""
    signal, handler = step.values
    thread = who(f, place, step)
    if thread is None or handler <= _SIG_IGN:
        return
    if signal == _SIGSEGV:
        thread.signal_due = ""
    _begins(f, place, step, thread, DELIVER)


def on_sigreturn(f: Known, place: Place, step: Step) -> None:
    """rt_sigreturn(2) is called."""
    thread = who(f, place, step)
    if thread is not None:
        _begins(f, place, step, thread, SIGRETURN)


def _begins(f: Known, place: Place, step: Step, thread: Thread, what: str) -> None:
    f.signals.add(what)
    f.is_user(thread)
    owes_signal(f, place, step, thread)
    if thread.in_kvm_run:
        f.contradict(
            place, step, "signal", f"{named(thread)} is inside KVM_RUN: a kvm_fpu, or a task switch, is missing"
        )
        return
    thread.signal_due, thread.due_stint = what, thread.stint


def owes_signal(f: Known, place: Place, step: Step, thread: Thread) -> None:
    """The thread has gone on without the x86_fpu_regs_activated of a signal."""
    if thread.signal_due:
        f.contradict(
            place, step, "signal",
            f"after the {thread.signal_due} of {named(thread)} its x86_fpu_regs_activated is missing",
        )  # fmt: skip
        thread.signal_due = ""


def marks(f: Known, place: Place, step: Step, thread: Thread, guest: bool) -> bool:
    """x86_fpu_regs_activated with load: 0 that belongs to no swap; True if the signal's own event came before it."""
    due, thread.signal_due = thread.signal_due, ""
    if guest:
        f.contradict(
            place, step, "signal", f"{named(thread)} is inside KVM_RUN: a kvm_fpu, or a task switch, is missing"
        )
    elif not due and f.signals >= BOTH:
        f.contradict(
            place, step, "signal",
            f"{named(thread)} marked its registers as its own, and neither a signal_deliver nor an "
            "rt_sigreturn comes before it",
        )  # fmt: skip
    if f.load_of(thread) is not False:
        clears_load(f, place, step, thread, "marked its registers as its own")
    if not guest and fields(f, place, step, thread, guest, 0, memory=True):
        _passes(f, place, thread, due)
        same(f, place, step)
    thread.memory[guest] = step.values[2]
    f.set_load(thread, False)
    f.owns(place, thread)
    done(f, place, thread)
    return bool(due)


def _passes(f: Known, place: Place, thread: Thread, due: str) -> None:
    """Delivery or sigreturn; without their events they look alike and are taken to alternate."""
    begun_before = due == SIGRETURN and thread.handlers == 0  # its delivery was before the recording
    if begun_before or due == DELIVER or (not due and thread.handlers == 0):
        thread.handlers += 1
        for replica in f.replicas:
            replica.delivers(place.number)
        if not begun_before:
            return
        f.passed(place).clear()
    thread.handlers -= 1
    for replica in f.replicas:
        replica.sigreturns(place.number)
