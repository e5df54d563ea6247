"""Fields as trace-cmd report -R prints them, where libtraceevent cannot parse an event's format, and ftrace with its
option fields, as kernels print them.

Fields stand in the order of TP_STRUCT__entry in include/trace/events/{sched,kvm}.h, arch/x86/kvm/trace.h and
arch/x86/include/asm/trace/fpu.h.
"""

import re
from typing import Final

_STATES: Final = b"SDTtXZPI"

_USER_REASONS: Final = (
    "UNKNOWN", "EXCEPTION", "IO", "HYPERCALL", "DEBUG", "HLT", "MMIO", "IRQ_WINDOW_OPEN", "SHUTDOWN", "FAIL_ENTRY",
    "INTR",
)  # fmt: skip
"""KVM_EXIT_* of include/uapi/linux/kvm.h from 0 on; of the others the number is shown."""

_VMX: Final = {
    0: "EXCEPTION_NMI", 1: "EXTERNAL_INTERRUPT", 7: "INTERRUPT_WINDOW", 8: "NMI_WINDOW", 10: "CPUID", 12: "HLT",
    14: "INVLPG", 16: "RDTSC", 18: "VMCALL", 28: "CR_ACCESS", 29: "DR_ACCESS", 30: "IO_INSTRUCTION", 31: "MSR_READ",
    32: "MSR_WRITE", 40: "PAUSE_INSTRUCTION", 43: "TPR_BELOW_THRESHOLD", 44: "APIC_ACCESS", 45: "EOI_INDUCED",
    48: "EPT_VIOLATION", 49: "EPT_MISCONFIG", 52: "PREEMPTION_TIMER", 54: "WBINVD", 55: "XSETBV", 56: "APIC_WRITE",
}  # fmt: skip
_SVM: Final = {
    0x60: "interrupt", 0x61: "nmi", 0x64: "vintr", 0x72: "cpuid", 0x77: "pause", 0x78: "hlt", 0x79: "invlpg",
    0x7B: "io", 0x7C: "msr", 0x81: "hypercall", 0x89: "wbinvd", 0x8D: "xsetbv",
    0xA6: "idle-halt", 0x400: "npf",
    0x401: "avic_incomplete_ipi", 0x402: "avic_unaccelerated_access",
}  # fmt: skip
"""Usual exit reasons by number (arch/x86/include/uapi/asm/vmx.h and svm.h); of the others the number is shown."""

_REASONS: Final = {1: _VMX, 2: _SVM}
"""By the field isa (KVM_ISA_VMX, KVM_ISA_SVM)."""


def _user_exit(match: re.Match[bytes]) -> bytes:
    reason, errno = int(match[2]), int(match[3])
    if errno < 0:
        why = b"restart" if errno == -4 else b"error"
    else:
        why = b"KVM_EXIT_" + (_USER_REASONS[reason].encode() if reason < len(_USER_REASONS) else b"%d" % reason)
    return match[1] + b"reason %s (%d)" % (why, abs(errno) or reason)


def _exit(match: re.Match[bytes]) -> bytes:
    number = int(match[2], 0)
    return match[1] + b"reason " + _REASONS[int(match[3], 0)].get(number, f"{number:#x}").encode()


def _switch(match: re.Match[bytes]) -> bytes:
    """The letter of sched_switch's prev_state; from 100H on a thread was preempted (TASK_REPORT_MAX)."""
    bits = int(match[2])
    state = next((_STATES[k : k + 1] for k in range(len(_STATES)) if bits >> k & 1), b"R")
    return match[1] + state + (b"+" if bits >= 0x100 else b"") + b" ==>" + match[3]


def _of_option_fields(match: re.Match[bytes]) -> bytes:
    """A number as the format prints it: addresses and masks in hexadecimal, all others in decimal."""
    return match[1] + (match[2] if match[1][:-1] in _HEXADECIMAL else match[3])


_HEXADECIMAL: Final = (b"fpu", b"xfeatures", b"xcomp_bv", b"sa_handler", b"sa_flags")


def _x86_fpu(match: re.Match[bytes]) -> bytes:
    masks = [text.removeprefix(b"0x") if text.startswith(b"0x") else b"%x" % int(text) for text in match.group(4, 5)]
    return b"%sx86/fpu: %s load: %s xfeatures: %s xcomp_bv: %s" % (*match.group(1, 2, 3), *masks)


def _vcpu_wakeup(match: re.Match[bytes]) -> bytes:
    """Of KVM's include/trace/events/kvm.h, kvm_vcpu_wakeup."""
    how, polling = (b"wait", b"poll")[match[3] == b"0"], (b"valid", b"invalid")[match[4] == b"0"]
    return b"%s%s time %s ns, polling %s" % (match[1], how, match[2], polling)


FIELDS: Final = tuple(
    (re.compile(pattern, re.ASCII), replacement)
    for pattern, replacement in (
        (rb"(: +)\[FAILED TO PARSE\] +(?=\w+=)", rb"\1"),
        # kernel/trace/trace_output.c, print_fields(): 0x1 (1); of a byte also 'a' (97)
        (rb"\b(\w+=)(0x[0-9a-f]+|'.'|) ?\((-?\d+)\)", _of_option_fields),
        (rb"\bparent_comm=([^\n]{0,15}?) parent_pid=(?=\d+ child_comm=)", rb"comm=\1 pid="),
        (rb"( prev_state=)(\d{1,10})( next_comm=)", _switch),
        (
            rb"(: +)fpu=(0x[0-9a-f]{1,16}) load_fpu=(\d) xfeatures=(0x[0-9a-f]{1,16}|\d{1,20}) "
            rb"xcomp_bv=(0x[0-9a-f]{1,16}|\d{1,20})",
            _x86_fpu,
        ),
        (rb"(\bkvm_fpu: +)load=(?:0x)?([01])\b", lambda m: m[1] + (b"load" if m[2] == b"1" else b"unload")),
        (rb"(\bkvm_userspace_exit: +)reason=(?:0x)?(\d+) errno=(-?\d+)", _user_exit),
        (rb"(\bkvm_vcpu_wakeup: +)ns=(\d{1,19}) waited=(\d) valid=(\d)", _vcpu_wakeup),
        (rb"(\bkvm_entry: +)vcpu_id=(?:0x)?(\d+)", rb"\1vcpu \2"),
        (rb"(\bkvm_exit: +)exit_reason=(0x[0-9a-f]{1,8}|\d{1,9}) [^\n]*\bisa=((?:0x)?[12])\b[^\n]*", _exit),
    )
)
"""What stands in a line, and how the kernel prints it."""
