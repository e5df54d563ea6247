"""What people take for a boot log and is none, or has lost the lines: what it is, and what prints them instead."""

import re
from typing import Final

from sim import kinds

LOOKED_AT: Final = 1 << 18
"""Characters of the beginning."""

_DMESG: Final = "dmesg | grep x86/fpu, or journalctl -k -b, on that machine prints the lines that are compared"

_KINDS: Final = tuple(
    (re.compile(pattern, re.ASCII | re.MULTILINE), what)
    for pattern, what in (
        (r"dmesg: read kernel buffer failed: |^No journal files were (?:found|opened)",
         "has what is printed where reading the log is not allowed: sudo dmesg prints it"),
        (r"\bMicrosoft \d+\.\d+\.\d+-\d+\.\d+-Microsoft\b",
         "is the log of WSL 1, in which no Linux runs; dmesg under WSL 2 has the lines"),
        (r"^WyAgICA[wg][A-Za-z0-9+/]", "is packed as base64, as APIs of clouds send a console; base64 -d unpacks it"),
        (r"\(XEN\) .*\b(?:size: (?P<size>0x[0-9a-f]+) and states: |cntxt_size: 0x[0-9a-f]+ and states: )"
         r"(?P<mask>0x[0-9a-f]+)",
         "is the log of Xen itself, which says no more than {mask} (fpswitch layout {mask} --standard shows its "
         "layout); dmesg in dom0 or in the guest has Linux's lines"),
        (r"\(XEN\) ", "is the log of Xen itself; dmesg in dom0 or in the guest has Linux's lines"),
        (r"^\W*(?P<system>FreeBSD|OpenBSD|NetBSD|DragonFly|SunOS|Darwin Kernel) (?:Version |Release )?\d",
         "is a boot log of {system}; only Linux prints the places of components. For those of the CPU: cpuid -1 -r "
         "there, and fpswitch cpu import FILE"),
        (r"\bBooting Linux on (?:physical CPU|hartid)|\bLinux version .*(?:aarch64|arm-linux|riscv|powerpc|s390x)",
         "is a boot log of another architecture; only x86 has these lines"),
        (r"^\W*(?:CPU implementer|vendor_id|flags)\s*:.*|^\W*Thread\(s\) per core:",
         f"describes a CPU, as /proc/cpuinfo and lscpu do; {_DMESG}"),
        (r"\beax\s*=\s*0x[0-9a-f]{8}\b.*\bebx|^CPUID [0-9A-F]{8}:",
         "is a dump of CPUID registers: fpswitch cpu import FILE -o my-cpu.toml, and fpswitch layout MASK --cpu FILE"),
        (r"\[\d{3,5}\] .*\b(?:sched_\w+|x86_fpu_\w+|kvm_\w+): ", "is a trace: fpswitch replay FILE"),
        (r"\bLinux version \d",
         "has a boot of Linux, but no x86/fpu line of it (a quiet boot leaves them out on the console, and the log "
         f"buffer may be too small); {_DMESG}"),
        (r"^(?:<\d{1,2}>|[^\n\[]{0,80}kernel: )?\[ *\d+\.\d{6}\]",
         "is a log of a kernel without its boot (the ring buffer has lost it, or it is a part of a log); journalctl -k "
         "-b, or /var/log/dmesg, may have it: grep x86/fpu"),
    )
)  # fmt: skip
"""The first that fits counts."""


def told(text: str) -> str:
    """What a text without the lines is, and what to do instead; empty if it is of no kind that is known here."""
    if ours := kinds.ours(text):
        return f"is {ours}"
    for pattern, what in _KINDS:
        if match := pattern.search(text):
            return what.format(**match.groupdict())
    return ""
