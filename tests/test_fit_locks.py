"""Guests that spin for a lock: the simulated host knows its lock, its VMs and their work; its recording has to show
them."""

import io
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hosts import only

from sim.analysis import tuning
from sim.analysis.recorded_run import RecordedRun
from sim.trace.fit import estimate, writing
from sim.trace.fit.entries import Charges, Group
from sim.trace.fit.groups import grouped
from sim.trace.fit.lives import Watcher
from sim.trace.fit.locks import Lock
from sim.trace.fit.ticks import config_hz
from sim.trace.following.replay import REGS
from sim.trace.reading.chunks import steps
from sim.trace.reading.reader import Reader

EVENTS = frozenset(("sched_switch", "sched_wakeup", "sched_migrate_task", "kvm_fpu", "kvm_entry", "kvm_exit", *REGS))
HOST = """
title = "Guests with a lock"
[run]
measure = "{ms} ms"
warmup = "50 ms"
{seed}
[host]
cpus = 2
cpu = ["{cpu}"]
hz = 250
preemption = "voluntary"
ple_time = "{handler} ns"
[guests.vm]
vms = {vms}
vcpus = 4
demand = {{ exponential = "300 us" }}
sleep = {{ exponential = "300 us" }}
[guests.vm.lock]
every = {{ exponential = "{every} us" }}
hold = {{ exponential = "{hold} us" }}
{more}
"""
OTHER = """
[guests.other]
vcpus = 2
demand = { exponential = "300 us" }
sleep = { exponential = "600 us" }
"""


def recorded(*, vms=1, every=20, hold=3, cpu="sapphire-rapids", handler=500, ms=300, seed="", more=""):
    case = only(HOST.format(vms=vms, every=every, hold=hold, cpu=cpu, handler=handler, ms=ms, seed=seed, more=more))
    return "\n".join(RecordedRun(case, "free-ssp", 0, only=EVENTS).lines()) + "\n"


def watched(text):
    watcher, reader = Watcher(), Reader(io.BytesIO(text.encode()), "recording")
    for chunk in reader.chunks():
        for each in steps(chunk, reader.names):
            watcher.see(each)
    watcher.finish()
    return watcher


def vms(text):
    watcher = watched(text)
    found = grouped(watcher.lives, watcher.seen.first_ns, watcher.seen.last_ns, Charges(), interrupts=250.0)
    return [group for group in found if group.key[0] == "vcpu"]


@pytest.mark.parametrize(("every", "hold"), [(20, 3), (40, 6), (60, 20)])
def test_the_lock_that_guests_spin_for_is_found_to_a_factor_of_2_5_and_what_they_do_besides(every, hold):
    (vm,) = vms(recorded(every=every, hold=hold))
    assert vm.rows == 4
    assert not vm.exits  # neither PAUSE exits, which are the lock's, nor interrupts, which are the host's
    assert 0.4 < vm.lock.hold / 1000 / hold < 2.5
    assert 0.4 < vm.lock.hold / vm.lock.every / (hold / every) < 2.5
    assert np.mean(vm.demand) / 1000 == pytest.approx(300, rel=0.1)


def test_spinning_is_not_a_guest_s_own_work():
    """Of a lock that is held by somebody for all of the time, its vCPUs' guest time is mostly spent on waiting."""
    (vm,) = vms(recorded(every=30, hold=60))
    assert vm.lock.act_ns / 1000 > 450
    assert np.mean(vm.demand) / 1000 < 400


@pytest.mark.parametrize("handler", [500, 2000])
def test_what_kvm_takes_for_a_pause_exit_is_in_the_recording(handler):
    (vm,) = vms(recorded(handler=handler))
    assert vm.lock.handler == pytest.approx(handler, abs=50)


def test_vms_whose_vcpus_have_the_same_names_have_a_lock_each():
    """QEMU calls the threads of every VM CPU 0/KVM, CPU 1/KVM, ..."""
    text = re.sub(r"vm/\d/vcpu(\d)", r"CPU \1/KVM", recorded(vms=2))
    found = {vm.key[1]: (vm.rows, vm.lock is not None) for vm in vms(text)}
    assert found == {"vm": (4, True), "vm-vm2": (4, True)}


def test_pause_exits_of_a_vcpu_that_has_no_other_to_wait_for_are_exits_as_any():
    """As in a guest that polls: no lock that other vCPUs hold explains them."""
    kept = re.compile(r"vm/0/vcpu[123]\b")
    text = "".join(line for line in recorded().splitlines(keepends=True) if not kept.search(line))
    (vcpu,) = vms(text)
    assert vcpu.lock is None
    assert "pause" in [each.name for each in vcpu.exits]


@pytest.mark.parametrize(("ms", "says"), [(60, True), (300, False)])
def test_a_lock_that_few_waits_show_is_said_to_be_known_roughly(ms, says):
    text = recorded(every=40, hold=3, ms=ms)
    notes = estimate.fit(io.BytesIO(text.encode()), "run.txt", cpu="sapphire-rapids", preemption="voluntary").notes
    assert any("hardly says how long it is held" in note for note in notes) is says


def test_yields_of_a_vm_that_spins_are_no_exits_of_another_vm_s_own():
    """They and pulls interrupt all CPUs; the twin's host makes them itself, as it makes ticks."""
    others = [vm for vm in vms(recorded(more=OTHER, hold=6)) if vm.lock is None]
    assert sum(vm.rows for vm in others) == 2
    assert not any(vm.exits for vm in others)


def test_yields_of_vcpus_that_spin_are_no_ticks():
    """They end many more slices than ticks do, and several in a row, as ticks of a lower CONFIG_HZ would."""
    watcher = watched(recorded(vms=2, every=30, hold=6, ms=1000))
    assert config_hz(watcher.seen.expired_ns.values()) in (None, 250)


def rates(text):
    """Events per second of the time that a recording covers, by what they are."""
    counts = Counter()
    times = [float(at) for at in re.findall(r"\] +(\d+\.\d+):", text)]
    for name in ("sched_switch", "kvm_entry", "reason PAUSE"):
        counts[name] = text.count(f" {name}") + text.count(f":{name}:")
    return {name: count / (times[-1] - times[0]) for name, count in counts.items()}


def test_a_guest_that_acts_half_as_often_as_in_the_trace_works_half_as_long_between_its_acts():
    lock = Lock(every=20e3, hold=3e3, waits=500, first=99.0, again=49.0, act_ns=1000.0, handler=0.0)
    vm = Group(("vcpu", "vm", 0, ()), 8, 8, Counter(), demand=[4e5, 8e5], lock=lock, entry="vm")
    found = tuning._lock_tuned(
        vm, vm, tuning._Seen({}, {}, {}, {"vm": 99.0}, {"vm": 49.0}, guest={"vm": 6e6}, acts={"vm": 3000}), 1.0
    )
    assert found.demand == [2e5, 4e5]
    assert found.lock == lock  # whose waits are those of the trace


@pytest.mark.slow
def test_tuning_finds_the_lock_from_a_wrong_one_and_the_twin_switches_as_its_host_does(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "REPLICATIONS", 1)
    text, out = recorded(every=20, hold=3), tmp_path / "twin.toml"
    fitted = estimate.fit(io.BytesIO(text.encode()), "run.txt", cpu="sapphire-rapids", preemption="voluntary")
    (vm,) = (group for group in fitted.groups if group.lock is not None)
    wrong = replace(vm, lock=replace(vm.lock, every=60_000, hold=1_500))
    fitted = replace(fitted, groups=tuple(wrong if group is vm else group for group in fitted.groups))
    writing.write(fitted, out)
    (found,) = (group.lock for group in tuning.tune(fitted, out, 1).groups if group.lock is not None)
    assert found.hold / 1000 == pytest.approx(3, rel=0.35)
    assert found.every / 1000 == pytest.approx(20, rel=0.35)
    twin = "\n".join(RecordedRun(tuning.twin(fitted, out), "free-ssp", 0, only=EVENTS).lines())
    truth = rates(recorded(seed="seed = 7"))
    for name, rate in rates(twin).items():
        assert rate == pytest.approx(truth[name], rel=0.1), name
