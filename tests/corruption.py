"""Ways of breaking a recorded trace, and whether a check notices: shared by a test and a benchmark.

The state of the check is kept every few events, so that a broken place costs milliseconds: the check goes on from the
last state before it, and for so many events that every busy thread has had its next save.
"""

import gzip
import pickle
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from sim.trace.following import machine
from sim.trace.following.follow import Follower
from sim.trace.following.known import Thread
from sim.trace.reading.chunks import steps
from sim.trace.reading.events import CODE, EVENTS, TABLE_OF
from sim.trace.reading.reader import Reader

TRACES = sorted((Path(__file__).parent / "data" / "traces").glob("*.txt.gz"))
NAMED = {path.name.split(".")[0]: path for path in TRACES}


def text(path):
    """The whole of a trace."""
    return gzip.decompress(path.read_bytes()).decode()


ACTIVATED, DEACTIVATED = CODE["x86_fpu_regs_activated"], CODE["x86_fpu_regs_deactivated"]
DROPPED, SWITCH, KVM_FPU = CODE["x86_fpu_dropped"], CODE["sched_switch"], CODE["kvm_fpu"]
FPU = frozenset(code for code, event in enumerate(EVENTS) if TABLE_OF[event].name == "x86_fpu")

EVERY, AFTER = 64, 200
UNHEARD = Thread(0, 0, "")


@dataclass
class Trace:
    """All events of one file, and the machine."""

    name: str
    config: object
    steps: list
    next_on_cpu: list = field(default_factory=list)
    states: list = field(default_factory=list)
    counted: list = field(default_factory=list)

    @staticmethod
    @cache
    def read(path):
        with path.open("rb") as stream:
            reader = Reader(stream, path.name)
            events = [step for chunk in reader.chunks() for step in steps(chunk, reader.names)]
        events = [step for step in events if not EVENTS[step.event].startswith(("sched_wak", "sched_mig", "kvm_vcpu"))]
        head = machine.header(reader.comments, path.name)
        found, _ = machine.masks(head, {step.values[3] for step in events if step.event in FPU})
        trace = Trace(path.name.removesuffix(".txt.gz"), machine.config(found, head, "v6.18"), events)
        following, trace.next_on_cpu = {}, [None] * len(events)
        for i in range(len(events) - 1, -1, -1):
            trace.next_on_cpu[i] = following.get(events[i].cpu)
            following[events[i].cpu] = i
        follower = Follower(trace.config)
        for i, step in enumerate(events):
            if i % EVERY == 0:
                trace.states.append(pickle.dumps(follower))
            follower.follow(step)
            trace.counted.append(counted(follower))
        assert not follower.verdict.found, follower.verdict.contradictions
        return trace

    def follower_at(self, i):
        """The check just before event ``i``."""
        follower = pickle.loads(self.states[i // EVERY])
        for step in self.steps[i - i % EVERY : i]:
            follower.follow(step)
        return follower


def counted(follower):
    """What a verdict counts apart, by kind; what it explains is not in it."""
    verdict = follower.verdict
    return [(kind, n) for counts in (verdict.inferred, verdict.assumed) for kind, n in counts.items() if n]


def _save(trace, i):
    after = trace.next_on_cpu[i]
    return trace.steps[i].event == DEACTIVATED and (after is None or trace.steps[after].event != DROPPED)


def _is(*codes):
    return lambda trace, i: trace.steps[i].event in codes


def _delete(step, rng, trace):
    return None


def _move(step, rng, trace):
    return step._replace(cpu=1 - step.cpu)


def _with(position, change):
    def changed(step, rng, trace):
        values = list(step.values)
        values[position] = change(step, rng, trace)
        return step._replace(values=tuple(values))

    return changed


def _other_subset(step, rng, trace):
    mask = step.values[3] & 0x7FFF_FFFF_FFFF_FFFF
    while (new := rng.getrandbits(64) & mask) == step.values[2]:
        pass
    return new


def _other_pointer(step, rng, trace):
    """Half of the time that of another thread."""
    if rng.random() < 0.5:
        while (other := rng.choice(trace.steps)).event not in FPU or other.values[0] == step.values[0]:
            pass
        return other.values[0]
    return step.values[0] ^ 1 << rng.randrange(6, 40)


CLASSES = {
    "delete a save": (_save, _delete),
    "delete a restore": (_is(ACTIVATED), _delete),
    "delete a kvm_fpu": (_is(KVM_FPU), _delete),
    "delete a sched_switch": (_is(SWITCH), _delete),
    "move to another CPU": (_is(*FPU), _move),
    "flip load": (_is(*FPU), _with(1, lambda step, rng, trace: 1 - step.values[1])),
    "flip xcomp_bv[12]": (_is(*FPU), _with(3, lambda step, rng, trace: step.values[3] ^ 1 << 12)),
    "change xfeatures at a restore": (_is(ACTIVATED), _with(2, _other_subset)),
    "change the fpu pointer": (_is(*FPU), _with(0, _other_pointer)),
}


def legal_history(follower, step):
    """Why nothing in a trace can tell, if that is so: what else may have happened where this event is broken."""
    place = follower.places.get(step.cpu)
    if place is None:
        return "the CPU's first event"
    thread, current = follower.threads.get(step.tid), place.current
    if place.held is not None and place.held.event == SWITCH:
        tid = place.held.values[4]
        current = follower.threads.get(tid if tid else -2 - step.cpu, UNHEARD)
    if step.event == SWITCH and current is not None and not current.spoken:
        return "a task without events of its own may be outside the recording"
    if thread is None:
        return "the thread's first event"
    if step.event == DEACTIVATED and place.held is not None and follower.load_of(thread) is not False:
        return "it slept again before it returned to user mode"
    if step.event == ACTIVATED and thread.memory[step.values[3] >> 12 & 1] is None:
        return "the last save of this fpstate left no event"
    return ""


def break_places(trace, name, places, seed):
    """How the check takes ``places`` corruptions of one class: outcomes, and the broken events that it did not notice.

    Outcomes are contradicted; inferred (the trace is still possible, with a kernel_fpu_begin() or a signal that the
    report counts); and, unnoticed, the legal history that the trace still has, or "unnoticed" if there is none.
    """
    suits, change = CLASSES[name]
    rng = random.Random(f"{seed} {name} {trace.name}")
    candidates = [i for i in range(len(trace.steps)) if suits(trace, i)]
    outcome, unnoticed = Counter(), []
    for i in (rng.choice(candidates) for _ in range(places if candidates else 0)):
        step = trace.steps[i]
        follower = trace.follower_at(i)
        legal = legal_history(follower, step)
        broken = change(step, rng, trace)
        if broken is not None:
            follower.follow(broken)
        last = min(max(i + AFTER, (trace.next_on_cpu[i] or 0) + 2), len(trace.steps)) - 1
        for after in trace.steps[i + 1 : last + 1]:
            if follower.verdict.found:
                break
            follower.follow(after)
        if last == len(trace.steps) - 1:
            before = counted(follower)
            follower.finish()
            same = sorted(before) == sorted(trace.counted[last])
        else:
            same = sorted(counted(follower)) == sorted(trace.counted[last])
        if follower.verdict.found:
            outcome["contradicted"] += 1
        elif not same:
            outcome["inferred"] += 1
        else:
            outcome[legal or "unnoticed"] += 1
            unnoticed.append((step, broken))
    return outcome, unnoticed
