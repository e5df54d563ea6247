"""The measuring programs: C sources beside this file, compiled with the system's compiler when they are needed."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from sim.errors import InputError

COMPILERS: Final = ("cc", "gcc", "clang")
FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-mgeneral-regs-only", "-pthread")
"""Without -mgeneral-regs-only the compiler's own use of vector registers would change what is in use."""
GUEST_FLAGS: Final = (
    *FLAGS[:-1], "-ffreestanding", "-nostdlib", "-static", "-fno-pic", "-no-pie", "-fno-stack-protector",
    "-mno-red-zone", "-fcf-protection=none", "-Wl,--build-id=none", "-Wl,-Ttext=0x200000",
)  # fmt: skip
"""Of guest_code.c, which has no operating system below it: linked to CODE_AT of guest.h."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The compiled programs, by the name of their source."""

    probe: Path
    xsave: Path
    switch: Path
    in_place: Path
    vm: Path
    guest: Path
    guest_code: Path


def flags(name: str) -> tuple[str, ...]:
    """How the source of this name is compiled."""
    return GUEST_FLAGS if name == "guest_code" else FLAGS


def compiler(what: str = "calibrate") -> list[str]:
    """The compiler's command: $CC, or the first of cc, gcc and clang that there is; ``what`` needs it.

    Raises :class:`InputError` if there is none.
    """
    wanted = shlex.split(os.environ.get("CC", ""))
    for command in [wanted] if wanted else [[name] for name in COMPILERS]:
        if found := shutil.which(command[0]):
            return [found, *command[1:]]
    looked = f"$CC is {wanted[0]!r}" if wanted else f"looked for {', '.join(COMPILERS)}"
    raise InputError(f"{what}: no C compiler found ({looked}); install one, such as Debian's gcc, or set CC")


@contextmanager
def compiled() -> Iterator[Programs]:
    """The programs, in a directory that is deleted afterwards. Raises :class:`InputError` if there is no compiler, or
    with its first message if it refuses a source.
    """
    command = compiler()
    with tempfile.TemporaryDirectory(prefix="fpswitch-") as folder, as_file(files("sim.calibrate")) as sources:
        paths = {}
        for name in Programs.__dataclass_fields__:
            paths[name] = Path(folder) / name
            run = [*command, *flags(name), "-o", str(paths[name]), str(sources / f"{name}.c")]
            done = subprocess.run(run, capture_output=True, text=True, check=False)
            if done.returncode:
                said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
                said = said or f"exit status {done.returncode}, and no message"
                raise InputError(f"calibrate: {command[0]} cannot compile {name}.c: {said}")
        yield Programs(**paths)
