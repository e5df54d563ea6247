"""External interrupts of a trace: which are the host's own work, and which are an entry of the twin."""

import pytest

from sim.trace.fit import estimate
from sim.trace.fit.entries import Charges
from sim.trace.fit.groups import grouped
from sim.trace.fit.lives import Watcher
from sim.trace.following.known import Step
from sim.trace.reading.events import CODE

VCPU, WORKER = 5, 9
PERIODS = 50


def _steps(of_devices):
    """In each 4 ms a vCPU has an interrupt that wakes the worker, one at whose end the worker gets the CPU, a tick, and
    those of devices: (us, thread, event, values)."""
    yield 0, 0, "sched_switch", (0, 120, ord("R"), "vcpu", VCPU, 120)
    yield 0, VCPU, "kvm_fpu", ("load",)
    for begin in range(0, PERIODS * 4000, 4000):
        yield begin, VCPU, "kvm_entry", (0,)
        yield begin + 1000, VCPU, "kvm_exit", ("external_interrupt",)
        yield begin + 1000, VCPU, "sched_wakeup", (WORKER, 120, 0)
        yield begin + 1000, VCPU, "kvm_entry", (0,)
        yield begin + 2000, VCPU, "kvm_exit", ("external_interrupt",)
        yield begin + 2000, VCPU, "sched_switch", (VCPU, 120, ord("R"), "worker", WORKER, 120)
        yield begin + 2040, WORKER, "sched_switch", (WORKER, 120, ord("S"), "vcpu", VCPU, 120)
        yield begin + 2040, VCPU, "kvm_entry", (0,)
        for number in range(1 + of_devices):
            yield begin + 3000 + 100 * number, VCPU, "kvm_exit", ("external_interrupt",)
            yield begin + 3000 + 100 * number, VCPU, "kvm_entry", (0,)


@pytest.mark.parametrize(("of_devices", "every_ms"), [(0, None), (2, 1.98), (6, 0.66)])
def test_interrupts_that_wake_or_preempt_are_the_host_s_own_whichever_does_which(of_devices, every_ms):
    watcher = Watcher()
    for number, (us, thread, event, values) in enumerate(_steps(of_devices)):
        watcher.see(Step(number, us * 1000, 0, thread, f"t{thread}", CODE[event], values))
    watcher.finish()
    seen = watcher.seen
    groups = grouped(watcher.lives, seen.first_ns, seen.last_ns, Charges(), interrupts=250.0)
    (vcpu,) = (group for group in groups if group.key[0] == "vcpu")
    found = {each.name: each.every.mean * 1e-6 for each in vcpu.exits}
    assert found == ({} if every_ms is None else {"external-interrupt": pytest.approx(every_ms, rel=0.03)})


@pytest.mark.parametrize(("reason", "says"), [("PAUSE_INSTRUCTION", True), ("pause", True), ("CPUID", False)])
def test_that_guests_spin_is_said_since_a_fit_does_not_know_for_what(reason, says):
    watcher = Watcher()
    exits = (("kvm_exit", (reason,)), ("kvm_entry", (0,)))
    begins = ("sched_switch", (0, 120, ord("R"), "vcpu", VCPU, 120))
    events = [begins, ("kvm_fpu", ("load",)), ("kvm_entry", (0,)), *(exits * 9)]
    for number, (event, values) in enumerate(events):
        watcher.see(Step(number, number * 1000, 0, VCPU, "vcpu", CODE[event], values))
    watcher.finish()
    notes = []
    seen = watcher.seen
    estimate._say_spins(watcher.lives, grouped(watcher.lives, seen.first_ns, seen.last_ns, Charges()), notes)
    assert [note.split(",")[0] for note in notes] == ["guests spin (9 PAUSE exits)"] * says
