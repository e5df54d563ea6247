"""What people take for a trace and is none that can be followed: what it is, and what prints the events instead."""

import re
from typing import Final

from sim import kinds

SCRIPT: Final = "allowed: what perf script prints of a recording"
"""What is said of those that another recording replaces."""
_FIELDS: Final = "(perf script -F comm,tid,cpu,time,event,trace prints them)"
WITHOUT_FIELDS: Final = f"this is what perf script prints without the fields of events {_FIELDS}"
_COUNTS: Final = f"which has counts and no events ({SCRIPT})"

_OPTION: Final = "which leaves the fields out (echo {} > trace_options, and read the file trace again)"

_KINDS: Final = tuple(
    (re.compile(pattern, re.ASCII | re.MULTILINE), what)
    for pattern, what in (
        (r"\A\s*\Z", "an empty file"),
        (r"^# entries-in-buffer/entries-written: 0/0 ",
         "the file of ftrace without an event (trace-cmd record -e EVENT records, trace-cmd report prints)"),
        # kernel/trace/trace.c, print_raw_fmt() and print_hex_fmt()
        (r"^\d{1,10} \d{1,4} \d{1,20} (?:type: \d+|\d+ \?)$",
         f"what ftrace prints with its option raw, {_OPTION.format('noraw')}"),
        (r"^(?:[0-9a-f]{8} ?){2}[0-9a-f]{16} ?(?:type: \d+|\d+ \?)$",
         f"what ftrace prints with its option hex, {_OPTION.format('nohex')}"),
        (r"^(?:sched_switch|x86_fpu_regs_(?:de)?activated|kvm_(?:entry|exit|fpu)): ",
         "what ftrace prints with its option nocontext-info, which leaves task, CPU and time out (echo context-info > "
         "trace_options, and read the file trace again)"),
        # tools/perf/builtin-script.c, process_event(), without PERF_OUTPUT_EVNAME
        (r"\[\d{3,5}\] +\d{1,12}\.\d{6,9}: +(?:prev_comm=|comm=[^\n]{0,20}\bpid=|x86/fpu: |"
         r"vcpu \d+(?:$|,? (?:rip|reason) )|reason \w+ rip )",
         f"what perf script prints without the names of events {_FIELDS}"),
        (r"\A[^\n]{0,200}: Permission denied$", "what a command prints that may not read a trace (sudo)"),
        # tools/perf/builtin-trace.c, trace__fprintf_entry_head() and trace__event_handler()
        (r"^ *(?:\?|\d{1,12}\.\d{3}) (?:\( *(?:\d+\.\d+ ms)? *\): +)?\S.*/\d{1,10} +"
         r"(?:\w+\(|\.\.\. \[continued\]: |\w+:\w+[:(])",
         f"what perf trace prints, which names no CPU, so that nothing can be followed in it ({SCRIPT})"),
        (r"\bVM-EXIT\s+Samples\b",
         "a table of perf kvm stat, which has counts and no events (--perf-kvm-stat of fpswitch new and fpswitch price "
         "takes it)"),
        (r"^kvm statistics - summary|^ *kvm_entry +kvm_exit\b", f"what kvm_stat prints, {_COUNTS}"),
        (r"\bPerformance counter stats for\b", f"what perf stat prints, {_COUNTS}"),
        (r"^(?:kvm|sched|x86_fpu|syscalls|signal)__\w+ +\d+ \d{5,}\.\d{9} ",
         "what a script prints that perf script -s runs (allowed: what perf script prints without -s)"),
        (r"^ *(?:PID +TID +)?KVM_EXIT_REASON +COUNT\b", f"what kvmexit prints, {_COUNTS}"),
        (r"^ *\d+\) [^\n]*/\* (?:sched_|kvm_|x86_fpu_)",
         "what ftrace's tracer function_graph prints without time and task (echo 1 > options/funcgraph-abstime and > "
         "options/funcgraph-proc add them)"),
        (r"^# Overhead\b", f"what perf report prints, {_COUNTS}"),
        (r"^ *(?:Timer Latency|Operating System Noise)$|^# RTLA (?:timerlat|osnoise) histogram$",
         "what rtla prints, which has sums and no events (trace-cmd record and report print events)"),
        (r"^\[ perf record: ", "what perf record says (perf script prints its recording, perf.data)"),
        (r"^ *time +cpu +task name\b|\bRuntime ms +\| +Switches\b|\bsecs \S+ => ",
         "what perf sched timehist, latency or map prints, which leaves the FPU's events out (perf sched script prints "
         "the events)"),
        (r"^Attach(?:ing|ed) \d+ probes?\b|^@\w*(?:\[[^\]\n]*\])?: ", f"what bpftrace prints ({SCRIPT})"),
        (r"^\[(?:\d{4}-\d\d-\d\d )?(?:\d\d:\d\d:)?\d{2,12}\.\d{9}\] (?:\([+?][^()\n]*\) )?\S.*: \{ |"
         r"^timestamp = \S+, .*\bname = \w+",
         f"what babeltrace prints of a trace in CTF (LTTng, perf data convert), whose fields are others ({SCRIPT})"),
        (r"\"linux-perf-json-version\"",
         f"what perf data convert --to-json writes, which leaves the fields of tracepoints out ({SCRIPT})"),
        (r"\"traceEvents\"\s*:",
         "a trace in Chrome's JSON (allowed: ftrace's text, which traceconv systrace makes of a trace of Perfetto)"),
        (r"^packet \{|^ *ftrace_events? \{",
         "a trace of Perfetto as the text of a protocol buffer (traceconv systrace FILE prints what ftrace recorded)"),
        (r"^TIME +PID +TID +COMM +FUNC\b", f"what trace of bcc prints, which names no CPU ({SCRIPT})"),
        (r"^CPU: \d+\nentries: \d+$|^ *Kernel buffer statistics:", f"what trace-cmd stat prints, {_COUNTS}"),
        (r"^ *Tracing meta data in file ",
         "what trace-cmd dump prints, which has no events (trace-cmd report prints them)"),
        (r"^task: \S.*-\d+\n +Event: ",
         "what trace-cmd profile prints, which has sums and no events (trace-cmd record and report print events)"),
        (r"^\d+ \d\d:\d\d:\d\d\.\d{9} \d+ \S.* \(\d+(?:\.\d+)?\) [<>] \w+",
         f"what sysdig prints, which knows system calls and no FPU ({SCRIPT})"),
        (r"\"type\"\s*:\s*\"kshark\.config",
         "a session of KernelShark, which has no events (trace-cmd report prints them)"),
        (r"^# event histogram|^# trigger info: hist:", f"a histogram of a trace event, {_COUNTS}"),
        (r"^# tracer: (?!nop)(?P<tracer>\w+)",
         "the output of ftrace's tracer {tracer} without trace events (trace-cmd record -e switches these on)"),
        (r"^# DURATION +TID +FUNCTION", f"what uftrace prints, which knows functions and no trace events ({SCRIPT})"),
        (r"\bkvm_run_exit\b.*\bcpu_index\b", f"a trace of QEMU, whose events are QEMU's own ({SCRIPT})"),
        (r"\bioctl\(\d+[^,\n]*, KVM_RUN\b", f"what strace prints, which names no CPU ({SCRIPT})"),
        (r"\bVMEXIT +\[ exitcode\b", "a trace of Xen (allowed: one of Linux with KVM)"),
    )
)  # fmt: skip
"""The first that fits counts."""


def of_another_command(begins: str) -> str:
    """What a text is that another command here takes, as "this is ..."; empty if it is none, or may be a trace."""
    kind = kinds.told(begins)
    return "" if kind in (None, kinds.Kind.TRACE) else f"this is {kind.value}"


def told(begins: str) -> str:
    """What a text is by its beginning, as "this is ..."; empty if it is of no kind that is known here."""
    if ours := kinds.ours(begins):
        return f"this is {ours}"
    for pattern, what in _KINDS:
        if match := pattern.search(begins):
            return f"this is {what.format(**match.groupdict())}"
    return ""
