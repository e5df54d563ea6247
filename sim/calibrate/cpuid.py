"""CPUID of the machine on which this runs: by a small C program, or else by the kernel's cpuid driver."""

import os
import platform
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from sim.calibrate.programs import FLAGS, compiler
from sim.errors import InputError

DEVICES: Final = Path("/dev/cpu")
"""Of the module cpuid (Linux, arch/x86/kernel/cpuid.c)."""

_SUB_LEAVES: Final = {0x4: 8, 0x7: 3, 0xD: 63, 0x8000001D: 8}
_MOST: Final = 0x40
_TIMEOUT_S: Final = 60


def registers_text() -> tuple[str, str]:
    """The registers as ``cpuid -r`` prints them, and how they were read.

    Raises :class:`InputError` if this machine is not x86, or if neither way works, with both reasons.
    """
    if platform.machine() not in ("x86_64", "AMD64", "i686", "i386"):
        raise InputError(f"this is {platform.machine()}, which has no CPUID; allowed: x86")
    try:
        return _by_program(), "by a C program compiled for it"
    except InputError as no_program:
        try:
            return "".join(_by_driver(_device())), f"by {DEVICES}/*/cpuid"
        except OSError as error:
            raise InputError(
                f"CPUID needs native code: {no_program}; nor can the kernel's driver be read "
                f"({error.filename or DEVICES}: {error.strerror}; modprobe cpuid, as root); fpswitch cpu import reads "
                "what cpuid -r prints elsewhere"
            ) from error


def _by_program() -> str:
    command = compiler("cpu detect")
    with tempfile.TemporaryDirectory(prefix="fpswitch-") as folder, as_file(files("sim.calibrate")) as sources:
        program = Path(folder) / "cpuid"
        try:
            run = [*command, *FLAGS, "-o", str(program), str(sources / "cpuid.c")]
            done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
            if done.returncode:
                said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
                raise InputError(f"{command[0]} cannot compile cpuid.c: {said}")
            ran = subprocess.run([program], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"cannot compile or run a program ({error})") from error
    if ran.returncode:
        raise InputError(f"the compiled program ended with status {ran.returncode}")
    return ran.stdout


def _device() -> Path:
    found = sorted(DEVICES.glob("*/cpuid"), key=lambda path: (len(path.parent.name), path.parent.name))
    if not found:
        raise FileNotFoundError(2, "no such device", str(DEVICES / "0/cpuid"))
    return found[0]


def _by_driver(device: Path) -> Iterator[str]:
    with device.open("rb", buffering=0) as stream:
        for first in (0, 0x80000000):
            last = _registers(stream.fileno(), first, 0)[0]
            for leaf in range(first, min(last, first + _MOST) + 1):
                for sub in range(_SUB_LEAVES.get(leaf, 1)):
                    a, b, c, d = _registers(stream.fileno(), leaf, sub)
                    yield f"   0x{leaf:08x} 0x{sub:02x}: eax=0x{a:08x} ebx=0x{b:08x} ecx=0x{c:08x} edx=0x{d:08x}\n"


def _registers(file: int, leaf: int, sub: int) -> tuple[int, int, int, int]:
    """The driver takes EAX from the low half of the file position and ECX from the high half."""
    a, b, c, d = struct.unpack("<4I", os.pread(file, 16, sub << 32 | leaf))
    return a, b, c, d
