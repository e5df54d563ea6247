"""The trace events that are read, their payloads, and the tables in which they are kept.

Formats: ``TP_printk`` of include/trace/events/{sched,kvm,signal}.h, arch/x86/kvm/trace.h and
arch/x86/include/asm/trace/fpu.h, Linux v6.6 to v7.1.  What a version adds at the end of a line is not asked for.  The
plugins of libtraceevent (plugins/plugin_sched_switch.c, plugin_kvm.c) print some of them in a form of their own, in
trace-cmd report and, where they are installed, in perf script.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["decimal", "hex", "name", "letter"]
"""How a field is kept: decimal and hex numbers as integers, names as codes of a table of names, letters as bytes."""


@dataclass(frozen=True, slots=True)
class Table:
    """Events with the same payload.

    ``fields`` name the columns in the order of the groups of ``pattern``, which matches a payload from its start.
    ``plugin`` matches it as libtraceevent's plugin prints it, where that is another form.
    """

    name: str
    events: tuple[str, ...]
    fields: tuple[tuple[str, Kind], ...]
    pattern: re.Pattern[bytes]
    plugin: re.Pattern[bytes] | None = None


def _table(name: str, events: str, fields: str, pattern: bytes, plugin: bytes = b"") -> Table:
    kinds: dict[str, Kind] = {"d": "decimal", "x": "hex", "s": "name", "c": "letter"}
    columns = tuple((field[:-2], kinds[field[-1]]) for field in fields.split())
    other = re.compile(plugin, re.ASCII) if plugin else None
    return Table(name, tuple(events.split()), columns, re.compile(pattern, re.ASCII), other)


X86_FPU: Final = tuple(
    f"x86_fpu_{what}"
    for what in (
        "regs_activated", "regs_deactivated", "dropped", "copy_dst", "copy_src", "before_save", "after_save",
        "before_restore", "after_restore", "init_state", "xstate_check_failed",
    )
)  # fmt: skip

TOLD: Final = tuple(
    f"fp_{point}"
    for point in (
        "starts", "begin", "end", "return_to_user", "user_writes", "kernel_fpu", "guest_boots", "guest_writes",
        "guest_writes_carried", "guest_switches_task",
    )
)  # fmt: skip
"""What fpswitch export adds in comment lines: flow points that leave no event in Linux, by the walker's methods."""

_COMM = rb"(.{0,15}?)"

TABLES: Final = (
    _table(
        "x86_fpu",
        " ".join(X86_FPU),
        "fpu:x load:d xfeatures:x xcomp_bv:x",
        rb"x86/fpu: (?:0x)?([0-9a-f]{1,16}) load: ([01]) xfeatures: ([0-9a-f]{1,16}) xcomp_bv: ([0-9a-f]{1,16})"
        rb"(?=\s*(?:$|[^\s\w.,;])|\s+[0-9a-f]{8,16}\s|\s+\S+\+0x|\s+(?:insn:|unknown)"
        rb"|\s{2,}(?:0x)?[0-9a-f]{1,16}\s*$"  # perf script -F +ip,+cgroup,+addr
        rb"|\s{2,}(?:[0-9a-f]{1,16}\s|0x[0-9a-f]+/)|\s+(?:ABI:\d|\d+[KMG]\s*$)"  # -F +data_src,+brstack,+iregs,...
        rb"|\s+ilen:|\s{3}[a-z]+(?: [a-z]+)*\s*$)",  # -F +insnlen, -F +flags
    ),
    _table(
        "sched_switch",
        "sched_switch",
        "prev_pid:d prev_prio:d prev_state:c next_comm:s next_pid:d next_prio:d",
        rb"prev_comm=.{0,15}? prev_pid=(-?\d+) prev_prio=(-?\d+) prev_state=(\S)[^=]*==> "
        rb"next_comm=" + _COMM + rb" next_pid=(-?\d+) next_prio=(-?\d+)",
        rb".{0,15}?:(\d+) \[(-?\d+)\] (\S)\S* ==> "
        + _COMM
        + rb":(\d+) \[(-?\d+)\](?: Latency: [\d.]+ usecs)?\s*$",  # trace-cmd report -w
    ),
    _table(
        "sched_wakeup",
        "sched_wakeup sched_waking sched_wakeup_new",
        "pid:d prio:d target_cpu:d",
        rb"comm=.{0,15}? pid=(-?\d+) prio=(-?\d+)(?: success=\d)? target_cpu=(-?\d+)",
        rb".{0,15}?:(\d+) \[(-?\d+)\](?: success=\d+|<CANT FIND FIELD success>)? CPU:(\d+)\s*$",
    ),
    _table(
        "sched_migrate_task",
        "sched_migrate_task",
        "pid:d prio:d orig_cpu:d dest_cpu:d",
        rb"comm=.{0,15}? pid=(-?\d+) prio=(-?\d+) orig_cpu=(-?\d+) dest_cpu=(-?\d+)",
    ),
    _table(
        "sched_process_fork",
        "sched_process_fork",
        "pid:d child_comm:s child_pid:d",
        rb"comm=.{0,15}? pid=(-?\d+) child_comm=" + _COMM + rb" child_pid=(-?\d+)",
    ),
    _table("sched_process_exec", "sched_process_exec", "pid:d old_pid:d", rb"filename=.* pid=(-?\d+) old_pid=(-?\d+)"),
    _table("sched_process_exit", "sched_process_exit", "pid:d", rb"comm=.{0,15}? pid=(-?\d+) prio=-?\d+"),
    _table("kvm_fpu", "kvm_fpu", "load:s", rb"(load|unload)\b"),
    _table("kvm_entry", "kvm_entry", "vcpu:d", rb"vcpu (\d+)"),
    _table("kvm_exit", "kvm_exit", "reason:s", rb"(?:vcpu \d+ )?reason ([A-Z]{2} excp|\S+)"),
    _table("kvm_userspace_exit", "kvm_userspace_exit", "reason:s", rb"reason (\S+)"),
    _table("kvm_vcpu_wakeup", "kvm_vcpu_wakeup", "how:s ns:d", rb"(wait|poll) time (\d+) ns"),
    _table(
        "signal_deliver",
        "signal_deliver",
        "sig:d handler:x",
        rb"sig=(\d+) errno=-?\d+ code=-?\d+ sa_handler=(?:0x)?([0-9a-f]{1,16})\b",
    ),
    _table("sys_enter_rt_sigreturn", "sys_enter_rt_sigreturn", "rest:s", rb"(\S*)"),
    _table("told", " ".join(TOLD), "components:x carried:d", rb"components: ([0-9a-f]{1,16}) carried: (\d+)\s*$"),
)
"""Every table, in the order of :data:`EVENTS`."""

EVENTS: Final = tuple(event for table in TABLES for event in table.events)
"""The names of the events, without their subsystem; an event's code is its place here."""

CODE: Final = {event: code for code, event in enumerate(EVENTS)}

ACTIVATED: Final = CODE["x86_fpu_regs_activated"]
DEACTIVATED: Final = CODE["x86_fpu_regs_deactivated"]
DROPPED: Final = CODE["x86_fpu_dropped"]
COPY_DST: Final = CODE["x86_fpu_copy_dst"]
COPY_SRC: Final = CODE["x86_fpu_copy_src"]
BEFORE_SAVE: Final = CODE["x86_fpu_before_save"]
AFTER_SAVE: Final = CODE["x86_fpu_after_save"]
SWITCH: Final = CODE["sched_switch"]
FORK: Final = CODE["sched_process_fork"]
EXEC: Final = CODE["sched_process_exec"]
EXIT: Final = CODE["sched_process_exit"]
KVM_FPU: Final = CODE["kvm_fpu"]
KVM_ENTRY: Final = CODE["kvm_entry"]
KVM_EXIT: Final = CODE["kvm_exit"]
USERSPACE_EXIT: Final = CODE["kvm_userspace_exit"]
SIGNAL_DELIVER: Final = CODE["signal_deliver"]
SIGRETURN: Final = CODE["sys_enter_rt_sigreturn"]


TABLE_OF: Final = {event: table for table in TABLES for event in table.events}

IS_FPU: Final = tuple(TABLE_OF[event].name == "x86_fpu" for event in EVENTS)
"""By code: whether the event is one of x86_fpu."""

IS_TOLD: Final = tuple(event in TOLD for event in EVENTS)
"""By code: whether the line is a comment of fpswitch export."""

_TABLES_SUBSYSTEM: Final = {
    "x86_fpu": "x86_fpu",
    "told": "fpswitch",
    "signal_deliver": "signal",
    "sys_enter_rt_sigreturn": "syscalls",
}
SUBSYSTEM: Final = {
    event: _TABLES_SUBSYSTEM.get(TABLE_OF[event].name, "kvm" if event.startswith("kvm_") else "sched")
    for event in EVENTS
}

RECORD: Final = (
    "perf record -a -m 8192 -e 'x86_fpu:*' -e sched:sched_switch -e sched:sched_wakeup -e sched:sched_migrate_task"
    " -e sched:sched_process_fork -e sched:sched_process_exec -e sched:sched_process_exit"
    " -e signal:signal_deliver -e syscalls:sys_enter_rt_sigreturn"
    " -e kvm:kvm_fpu -e kvm:kvm_entry -e kvm:kvm_exit -e kvm:kvm_userspace_exit -e kvm:kvm_vcpu_wakeup -- sleep 10"
)
"""The command that records what every command here needs."""


def full_name(event: str) -> str:
    """The event with its subsystem, as perf prints it."""
    return f"{SUBSYSTEM[event]}:{event}"
