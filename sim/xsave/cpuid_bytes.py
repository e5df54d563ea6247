"""CPUID registers in bytes: what /dev/cpu/N/cpuid gives, in binary or as xxd, hexdump or od prints it, and what KVM's
ioctl() takes.

The driver's file has sixteen bytes at each position, EAX, EBX, ECX and EDX; a position is a leaf, and in its upper half
a sub-leaf (cpuid(4); Linux, arch/x86/kernel/cpuid.c).  Each read moves the position by one, while the tools count
sixteen bytes.  So the first line of a run shows the position, and each line after it is the next leaf.
"""

import re
import struct
from collections.abc import Iterator
from itertools import product
from typing import Final

from sim.xsave.area import EXTENDED_OFFSET
from sim.xsave.cpuid_decoded import LOW, XSTATE, Registers, Row

_SIZE: Final = 16
_LINE: Final = re.compile(
    r"^[^\S\n]*(?:[>|][> |]*)?(?:(?P<again>\*)[^\S\n]*$|(?P<at>[0-9a-f]{6,16}):?[^\S\n]+"
    r"(?P<data>(?:(?:[0-9a-f]{2}[^\S\n]{1,2}){15}[0-9a-f]{2}|(?:[0-9a-f]{4}[^\S\n]+){7}[0-9a-f]{4}"
    r"|(?:[0-9a-f]{8}[^\S\n]+){3}[0-9a-f]{8}))(?:[^\S\n]|$))",
    re.ASCII | re.IGNORECASE | re.MULTILINE,
)
_LARGEST_AREA: Final = 1 << 16
_VENDOR: Final = re.compile(rb"[ -~]{12}")
_KVM_HEAD: Final = struct.Struct("<2I")
_KVM_ENTRY: Final = struct.Struct("<10I")


def of_binary(data: bytes) -> tuple[str, list[Row]]:
    """Whose bytes they are and their registers, if their layout can be told; nothing if it cannot.

    That is the driver's file from leaf 0 on (``dd if=/dev/cpu/0/cpuid bs=16``), which has sub-leaf 0 of each leaf, and
    KVM's struct kvm_cpuid2: nent, padding, and per entry function, index, flags, four registers and padding
    (arch/x86/include/uapi/asm/kvm.h).
    """
    if not len(data) % _SIZE:
        found = [(leaf, 0, registers) for leaf, registers in enumerate(struct.iter_unpack("<4I", data))]
        if len(found) > XSTATE and is_xstate(found[XSTATE][2]) and _VENDOR.fullmatch(data[4:_SIZE]):
            return "/dev/cpu/N/cpuid", found
    if len(data) > _KVM_HEAD.size:
        count, _ = _KVM_HEAD.unpack_from(data)
        if len(data) - _KVM_HEAD.size >= count * _KVM_ENTRY.size:
            entries = [_KVM_ENTRY.unpack_from(data, _KVM_HEAD.size + k * _KVM_ENTRY.size) for k in range(count)]
            found = [(function, index, (a, b, c, d)) for function, index, _, a, b, c, d, *_ in entries]
            if any((leaf, sub) == (XSTATE, 0) and is_xstate(registers) for leaf, sub, registers in found):
                return "KVM", found
    return "", []


def rows(text: str) -> Iterator[Row]:
    """The registers in whichever base of positions and order of bytes leaf 0DH is one; nothing if it is in none."""
    for base, little in product((16, 8), (False, True)):
        found = list(_rows(text, base, little))
        if any(leaf == XSTATE and not sub and is_xstate(registers) for leaf, sub, registers in found):
            yield from found
            return


def is_xstate(registers: Registers) -> bool:
    """Whether these may be the registers of leaf 0DH, sub-leaf 0: x87 and SSE, and the size of an area."""
    features, enabled, size, _ = registers
    return features & 3 == 3 and EXTENDED_OFFSET <= enabled <= size <= _LARGEST_AREA


def _rows(text: str, base: int, little: bool) -> Iterator[Row]:
    """``little``: words of several bytes are printed as numbers, not as bytes in their order."""
    begin, last = 0, -2 * _SIZE
    again = False
    for match in _LINE.finditer(text):
        if match["again"]:
            again = True
            continue
        try:
            at = int(match["at"], base)
        except ValueError:  # no octal number
            return
        if at != last + _SIZE and not (again and at > last and (at - last) % _SIZE == 0):
            begin = at
        last, again = at, False
        position = begin + (at - begin) // _SIZE
        words = match["data"].split()
        raw = b"".join(bytes.fromhex(word)[:: -1 if little else 1] for word in words)
        a, b, c, d = (int.from_bytes(raw[k : k + 4], "little") for k in range(0, _SIZE, 4))
        yield position & LOW, position >> 32, (a, b, c, d)
