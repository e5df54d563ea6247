"""From a workload of rt-app (JSON) to a scenario with its tasks as threads of the host.

Grammar: doc/tutorial.txt of rt-app (github.com/scheduler-tools/rt-app).  A task is a sequence of events, or phases of
them, run over and over: ``run`` and ``runtime`` are CPU time in us, ``sleep`` and ``timer`` end a burst.  What tasks do
to each other (suspend and resume, locks, barriers) is left out, with a note, except for how often it lets them run.  As
in its script workgen, a key may be repeated, and ``suspend`` may have no value; ``exec`` and ``period`` are an older
grammar.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import tomlkit

from sim import bounded
from sim.errors import InputError
from sim.kinds import Kind, wanted
from sim.trace.fit.rt_app_waits import Waits, periods_us
from sim.trace.fit.writing import Columns, Samples, inline

MOST_BURSTS: Final = 100_000
LONGEST_US: Final = 3.6e9
"""An hour, the longest time of a scenario."""
REAL_TIME: Final = ("SCHED_FIFO", "SCHED_RR", "SCHED_DEADLINE")
NICEST: Final = -20
NICEST_TO_OTHERS: Final = 19
CPUS: Final = 4

_STRING = r'"(?:\\.|[^"\\])*"'
_COMMENT: Final = re.compile(rf"{_STRING}|/\*.*?(?:\*/|\Z)|//[^\n]*", re.DOTALL)
_COMMA: Final = re.compile(rf"{_STRING}|,(?=\s*[}}\]])", re.DOTALL)
_NO_VALUE: Final = re.compile(rf'{_STRING}(?=\s*:)|:\s*{_STRING}|"(?P<key>suspend|yield)"(?=\s*[,}}])', re.DOTALL)
_OTHERS: Final = (
    "suspend", "resume", "lock", "unlock", "wait", "signal", "broad", "sync", "barrier", "sig_and_wait", "fork",
    "sem_post", "sem_wait",
)  # fmt: skip
_LEFT_OUT: Final = ("memrun", "mem", "iorun", "yield")
_EVENTS: Final = ("runtime", "run", "sleep", "timer", *_OTHERS, *_LEFT_OUT)
"""A key that begins with one of these is an event, the first that fits (src/rt-app_parse_config.c, obj_is_event())."""
_OF_PHASES: Final = ("cpus", "policy", "priority", "taskgroup")
"""What each phase may have of its own."""
_SETTINGS: Final = (
    "instance", "loop", "delay", "cpus", "priority", "policy", "phases", "nodes_membind", "numa_policy", "taskgroup",
    "util_min", "util_max", "dl-runtime", "dl-period", "dl-deadline", "deadline", "resources",
)  # fmt: skip


@dataclass(slots=True)
class Task:
    """A task: CPU times of its bursts and the sleeps after them, in us, over one round of its phases."""

    name: str
    count: int
    nice: int = 0
    cpus: tuple[int, ...] = ()
    bursts: list[float] = field(default_factory=list)
    sleeps: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    waits: Waits = field(default_factory=lambda: Waits("", 0))


def tasks(path: str) -> list[Task]:
    """The tasks of a workload; :class:`~sim.errors.InputError` for any other file, or for an impossible value.  C
    comments and commas after the last item, which rt-app's own examples have, are allowed.
    """
    with wanted(path, Kind.RT_APP):
        return _tasks(path)


def _tasks(path: str) -> list[Task]:
    try:
        text = bounded.text(bounded.content(path))
        text = _NO_VALUE.sub(lambda match: match[0] + (": 0" if match["key"] else ""), _without(_COMMENT, text))
        document = json.loads(_without(_COMMA, text), object_pairs_hook=_with_all)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError and JSONDecodeError
        raise InputError(f"{path} is not JSON: {error} (allowed: a workload of rt-app)") from error
    if not isinstance(document, dict) or not isinstance(document.get("tasks"), dict) or not document["tasks"]:
        raise InputError(f"{path} has no 'tasks' (allowed: a workload of rt-app, with an object of tasks)")
    default = document.get("global", {})
    policy = default.get("default_policy", "SCHED_OTHER") if isinstance(default, dict) else "SCHED_OTHER"
    found = [_task(f"{path}: tasks.{name}", str(name), entry, policy) for name, entry in document["tasks"].items()]
    found = [task for task in found if task.count]
    if not found:
        raise InputError(f"{path}: every task has instance 0 (allowed: one or more that run)")
    periods = periods_us(task.waits for task in found)
    for task in found:
        period_us = periods.get(task.name)
        if period_us is not None and task.bursts:
            task.sleeps[-1] = max(0.0, period_us - sum(task.bursts))
            task.notes.append(f"runs every {period_us:.6g} us, as often as others wake it")
    if not any(task.bursts for task in found):
        raise InputError(f"{path}: tasks.{found[0].name}: no event that takes CPU time (allowed: run or runtime)")
    return found


def _with_all(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which a repeated key has a number appended."""
    found: dict[str, Any] = {}
    again: dict[str, int] = {}
    for key, value in pairs:
        name = key
        while name in found:
            again[key] = again.get(key, 1) + 1
            name = f"{key}_{again[key]}"
        found[name] = value
    return found


def _without(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(lambda match: match[0] if match[0].startswith('"') else "", text)


def _task(where: str, name: str, entry: Any, policy: Any) -> Task:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: found {entry!r:.60}; allowed: an object of events")
    policy, priority = entry.get("policy", policy), entry.get("priority", 0)
    task = Task(name, _whole(f"{where}.instance", entry.get("instance", 1), 0, 65536))
    if policy in REAL_TIME:
        task.nice = NICEST
        task.notes.append(f"{policy} counts as nice {NICEST}")
    elif policy == "SCHED_IDLE":
        task.nice = NICEST_TO_OTHERS
        task.notes.append(f"{policy} counts as nice {NICEST_TO_OTHERS}")
    else:
        task.nice = _whole(f"{where}.priority", priority, -20, 19)
    task.waits = Waits(name, task.count)
    cpus = entry.get("cpus", [])
    if not isinstance(cpus, list):
        raise InputError(f"{where}.cpus: found {cpus!r:.60}; allowed: a list of CPUs")
    task.cpus = tuple(_whole(f"{where}.cpus", each, 0, 65535) for each in cpus)
    phases = entry.get("phases", {"": entry})
    if not isinstance(phases, dict) or not phases:
        raise InputError(f"{where}.phases: found {phases!r:.60}; allowed: an object of phases")
    _note_settings(task, entry, phases)
    walk = _Walk(task)
    for phase, events in phases.items():
        place = f"{where}.phases.{phase}" if phase else where
        if not isinstance(events, dict):
            raise InputError(f"{place}: found {events!r:.60}; allowed: an object of events")
        loop = _whole(f"{place}.loop", events.get("loop", 1), -1, 10**9) if phase else 1
        for _ in range(min(max(loop, 1), MOST_BURSTS)):
            before = walk.elapsed_us
            walk.events(place, events)
            if len(task.bursts) > MOST_BURSTS or walk.elapsed_us == before:
                break
    walk.finish()
    return task


def _note_settings(task: Task, entry: Mapping[str, Any], phases: Mapping[str, Any]) -> None:
    """Notes what a task's settings say of its schedule that a scenario does not have."""
    loop, delay_us = entry.get("loop", -1), entry.get("delay", 0)
    if isinstance(loop, int) and loop > 0:
        task.notes.append(f"ends after loop = {loop}; here it goes on")
    if isinstance(delay_us, int) and delay_us > 0:
        task.notes.append(f"begins after a delay of {delay_us} us, which is left out")
    own = {key for phase in phases.values() if phase is not entry and isinstance(phase, dict) for key in phase}
    for key in _OF_PHASES:
        if key in own or (key == "taskgroup" and key in entry):
            task.notes.append(f"{key}{' of its phases' * (key in own)} is left out")


def _of_older_grammar(where: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A task that takes ``exec`` us in each ``period``, in today's grammar."""
    events = {"run": entry["exec"], "timer": {"period": entry.get("period", entry["exec"])}}
    if "lock_order" in entry:
        events["lock"] = entry["lock_order"]
    others = {key: value for key, value in entry.items() if not isinstance(value, bool)}  # "sleep" : false
    if clash := next((key for key in (*events, "runtime", "sleep") if key in others), None):
        raise InputError(f"{where}.{clash}: found beside exec (allowed: exec and period, or events)")
    return {key: value for key, value in others.items() if key not in ("exec", "period", "lock_order")} | events


class _Walk:
    """Events in their order: bursts end with a sleep."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._since_timer_us = 0.0
        self._first_us = 0.0
        self._first_period_us: float | None = None
        self.run_us = 0.0
        self.elapsed_us = 0.0

    def events(self, where: str, events: Mapping[str, Any]) -> None:
        if "exec" in events:
            events = _of_older_grammar(where, events)
        for key, value in events.items():
            if key in _SETTINGS:
                continue
            event = next(filter(key.startswith, _EVENTS), "")
            if event in ("run", "runtime"):
                us = _us(f"{where}.{key}", value)
                self.run_us += us
                self.elapsed_us += us
                self._since_timer_us += us
            elif event == "sleep":
                us = _us(f"{where}.{key}", value)
                self._since_timer_us += us
                self._sleeps(us)
            elif event == "timer":
                if not isinstance(value, dict) or "period" not in value:
                    raise InputError(f"{where}.{key}: found {value!r:.60}; allowed: an object with a period, in us")
                period_us = _us(f"{where}.{key}.period", value["period"])
                if self.elapsed_us or self._task.bursts:
                    self._sleeps(max(0.0, period_us - self._since_timer_us))
                else:  # what the rest of the round leaves of the period
                    self._first_period_us = period_us
                    self.elapsed_us += period_us
                self._since_timer_us = 0.0
            elif event in _OTHERS:
                self._task.waits.event(event, value)
                self._note("waits for or wakes other tasks, which is left out", event)
            elif event in _LEFT_OUT:
                self._note("is left out", event)
            else:
                raise InputError(f"{where}.{key}: an event that rt-app does not have")

    def _note(self, what: str, event: str) -> None:
        note = f"{event} {what}"
        if note not in self._task.notes:
            self._task.notes.append(note)

    def _sleeps(self, us: float) -> None:
        self.elapsed_us += us
        if self.run_us:
            self._task.bursts.append(self.run_us)
            self._task.sleeps.append(us)
        elif self._task.sleeps:
            self._task.sleeps[-1] += us
        else:
            self._first_us += us
        self.run_us = 0.0

    def finish(self) -> None:
        """Ends the round; the sleep before its first burst is appended after the last one."""
        if self.run_us:
            self._task.bursts.append(self.run_us)
            self._task.sleeps.append(0.0)
        if self._first_period_us is not None and self._task.bursts:
            self._first_us += max(0.0, self._first_period_us - self._since_timer_us)
        if self._task.bursts:
            self._task.sleeps[-1] += self._first_us
        self._task.waits.run_us = sum(self._task.bursts)
        slept_us = sum(self._task.sleeps) if self._task.bursts else self.elapsed_us
        self._task.waits.round_us = self._task.waits.run_us + slept_us
        if not self._task.bursts:
            self._task.notes.append("takes no CPU time, and is left out")


def _us(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST_US:
        raise InputError(f"{where}: found {value!r:.60}; allowed: us, from 0 to an hour")
    return float(value)


def _whole(where: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{where}: found {value!r:.60}; allowed: a whole number from {least} to {most}")
    return value


def scenario_text(found: Sequence[Task], name: str, folder: str) -> tuple[str, Columns]:
    """The scenario as TOML whose CSV files are in ``folder``, and their samples in us."""
    columns: Columns = {}
    document = tomlkit.document()
    document.add(tomlkit.comment("rt-app does not say which CPU, how many there are, or what the threads do to the"))
    document.add(tomlkit.comment("FPU: change [host] and fpu."))
    document.add("title", tomlkit.item(f"The tasks of {Path(name).name}"[:200]))
    run = tomlkit.table()
    run.add("measure", "100 ms")
    document.add("run", run)
    host = tomlkit.table()
    host.add("cpus", max(CPUS, *(1 + max(task.cpus, default=0) for task in found)))
    host.add("cpu", ["sapphire-rapids"])
    document.add("host", host)
    threads = tomlkit.table(is_super_table=True)
    used: set[str] = set()
    for task in (each for each in found if each.bursts):
        key = base = re.sub(r"[^A-Za-z0-9_-]+", "-", task.name).strip("-_") or "unnamed"
        number = 2
        while key in used:
            key, number = f"{base}-{number}", number + 1
        used.add(key)
        table = tomlkit.table()
        for note in task.notes:
            table.add(tomlkit.comment(note))
        table.add("count", task.count)
        if task.nice:
            table.add("nice", task.nice)
        if task.cpus:
            table.add("affinity", list(task.cpus))
        writer = Samples(folder, key, columns)
        table.add("compute", _times(writer, "compute", task.bursts))
        if any(task.sleeps):
            table.add("sleep", _times(writer, "sleep", task.sleeps))
        table.add("fpu", inline({"components": ["SSE"]}))
        threads.add(key, table)
    document.add("threads", threads)
    return tomlkit.dumps(document), columns


def _times(writer: Samples, what: str, us: Sequence[float]) -> Any:
    if len(set(us)) == 1:
        return f"{us[0]:.10g} us"
    return writer.times(what, [each * 1e3 for each in us], few=2)
