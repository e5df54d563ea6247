"""Reasons of VM exits as the kernel names them, whatever printed them.

The kernel's names (arch/x86/include/uapi/asm/vmx.h and svm.h) are capitals on Intel and small letters on AMD, where
those of exceptions have a second word, as in "UD excp".  libtraceevent's plugin, which trace-cmd report uses, has
capitals on both, and EXIT_ in front on AMD (plugins/plugin_kvm.c).
"""

import re
from collections.abc import Iterable
from typing import Final

UNKNOWN: Final = "UNKNOWN"
"""What perf and the plugin print for a reason that they have no name for, on Intel and on AMD."""

_OF_PLUGIN: Final = re.compile(r"EXIT_([A-Z][A-Z0-9_]*)")
_EXCEPTION: Final = "EXCP_"
_RENAMED: Final = {
    "INTR": "interrupt", "IOIO": "io", "VMMCALL": "hypercall", "ERR": "invalid_guest_state", "IDTR_READ": "read_idtr",
    "GDTR_READ": "read_gdtr", "LDTR_READ": "read_ldtr", "TR_READ": "read_rt", "IDTR_WRITE": "write_idtr",
    "GDTR_WRITE": "write_gdtr", "LDTR_WRITE": "write_ldtr", "TR_WRITE": "write_rt",
}  # fmt: skip
"""Names of the plugin that differ from the kernel's by more than their letters."""


def as_kernel(reason: str) -> str:
    """The kernel's name of an exit reason; one that is the kernel's, or known to nobody, as it is."""
    match = _OF_PLUGIN.fullmatch(reason)
    if match is None:
        return reason
    name = match[1]
    if name.startswith(_EXCEPTION):
        return f"{name.removeprefix(_EXCEPTION)} excp"
    return _RENAMED.get(name, name.lower())


def vendor_of(reasons: Iterable[str]) -> str:
    """vmx or svm, by the letters of the kernel's names."""
    return "vmx" if any(each.isupper() and not each.startswith(UNKNOWN) for each in reasons) else "svm"
