"""Records vectors on this machine's processor, at CPL 3; the schema is in tests/data/vectors/README.md.

Of XCR0's components 0 to 2, 5 to 7, 17 and 18 are requested, as far as the system has them; PKRU is left alone.
Each vector runs with two prefills, so that what a save left unwritten shows, and once more with an XSAVE to another
area after each step, which shows the registers; each of these until four runs in a row agree, since an interrupt's
XSAVES and XRSTORS, or an exit to a hypervisor, changes XINUSE and XRSTOR_INFO.
"""

import ctypes
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final, NamedTuple

from sim.calibrate.programs import FLAGS, compiler
from sim.errors import InputError
from sim.verification.vectors.memory import STANDARD_OFFSETS, bytes_at, compacted_offsets, put
from sim.verification.vectors.values import AMX, SIZES, X87_PIECES, XMM, content_of, describe, in_memory, width_of
from sim.xsave.area import EXTENDED_OFFSET, LEGACY_BYTES
from sim.xsave.components import AVX, AVX512, COMPACTED, FP, SSE, XTILE, bits

Json = dict[str, Any]

OPS: Final = ("touch", "touch1", "reinit", "ldmxcsr", "xsave", "xsaveopt", "xsavec", "xsaves", "xrstor", "xrstors")
HOWS: Final = {
    "fninit": FP, "xorps": SSE, "avxhi0": AVX512, "vzeroupper": AVX, "vzeroall": AVX, "kxor": AVX512, "zmmhi0": AVX512,
    "hi160": AVX512, "vxorps": AVX, "vxorps256": AVX, "vinsertf128": AVX, "tilezero": XTILE, "tilerelease": XTILE,
}  # fmt: skip
"""Initialising instructions in the order of record.c, and the components of XCR0 without which they are #UD."""
COMPONENTS: Final = (0, 1, 2, 5, 6, 7)
"""Those that every vector lists, also if XCR0 lacks them; 17 and 18 are in those only whose XCR0 has them."""
NEEDED_IN_XCR0: Final = FP | SSE | AVX
NOT_IN_XCR0: Final = (3, 4, 8, 11, 12, 16, 40, 62)
"""Components that vectors name where they show a fault; a kernel before 5.6 has 3 and 4 (MPX) on some processors."""
SOURCES: Final = {"GenuineIntel": "intel", "AuthenticAMD": "silicon"}
NEEDED: Final = {
    "OSXSAVE": (1, 0, 2, 27), "AVX": (1, 0, 2, 28), "XSAVEOPT": (0xD, 1, 0, 0), "XSAVEC": (0xD, 1, 0, 1),
    "XGETBV1": (0xD, 1, 0, 2),
}  # fmt: skip
"""What CPUID says of the instructions that are used: leaf, subleaf, index from EAX and bit."""
OPTIONAL: Final = {
    AVX512: {"AVX512F": (7, 0, 1, 16), "AVX512BW": (7, 0, 1, 30)}, XTILE: {"AMX-TILE": (7, 0, 3, 24)},
}  # fmt: skip
"""The same of components that are recorded where the processor and the system have all of them."""
FAULTS: Final = {0: None, 4: "#UD", 7: "#AC", 11: "#GP"}
AGREEING: Final = 4
TRIES: Final = 400

_AREA, _SLACK = 16384, 4096
_FILLS: Final = (0xA5, 0x5A)
_MXCSR, _MASK, _TAIL = (24, 28), (28, 32), (416, 512)
_BV, _CV, _REST = (LEGACY_BYTES, LEGACY_BYTES + 8), (LEGACY_BYTES + 8, LEGACY_BYTES + 16), (LEGACY_BYTES + 16, 576)
_X87_RESERVED: Final = {5, *(32 + 16 * i + byte for i in range(8) for byte in range(10, 16))}


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("op", "component", "reg", "vex", "how", "buffer", "misalign")),
        ("rfbm", ctypes.c_uint64),
        ("mxcsr", ctypes.c_uint32),
        ("data", ctypes.c_char_p),
        ("memory", ctypes.c_char_p),
        ("memory_at", ctypes.c_uint64),
        ("memory_bytes", ctypes.c_uint64),
    )


class _Seen(ctypes.Structure):
    _fields_ = (
        ("signal", ctypes.c_uint64),
        ("xinuse", ctypes.c_uint64),
        ("registers", ctypes.c_uint8 * _AREA),
        ("memory", ctypes.c_uint8 * (_AREA + _SLACK)),
    )


class Seen(NamedTuple):
    """What came of a step: the signal of a fault or 0, XGETBV(1), the registers as a standard area, and the buffer."""

    signal: int
    xinuse: int
    registers: bytes
    memory: bytes


class Recorder:
    """This processor.  ``source``, ``model`` and ``cpuid_0d`` are what the meta line says.

    ``recorded`` is the mask of components that are requested: the vectors' XCR0.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.xgetbv.restype = ctypes.c_uint64
        library.run.restype = None
        vendor = struct.pack("<3I", *(self.cpuid(0, 0)[i] for i in (1, 3, 2))).decode("ascii", "replace")
        if vendor not in SOURCES:
            raise InputError(f"this processor calls itself {vendor!r}, allowed: {', '.join(SOURCES)}")
        self.source = SOURCES[vendor]
        brand = b"".join(struct.pack("<4I", *self.cpuid(0x80000002 + i, 0)) for i in range(3))
        self.model = " ".join(brand.rstrip(b"\0").decode("ascii", "replace").split())
        if absent := self._absent(NEEDED):
            allowed = "a processor and a system with AVX and XSAVEC"
            raise InputError(f"CPUID lacks {', '.join(absent)}, allowed: {allowed}")
        xcr0 = self.xgetbv(0)
        if missing := NEEDED_IN_XCR0 & ~xcr0:
            names = ", ".join(str(i) for i in bits[missing])
            raise InputError(f"XCR0 lacks components {names}, allowed: a processor and a system with AVX")
        if unexpected := [i for i in NOT_IN_XCR0 if xcr0 >> i & 1]:
            names = ", ".join(str(i) for i in unexpected)
            raise InputError(f"XCR0 has components {names}, of which the vectors say that they fault; allowed: without")
        self.recorded = NEEDED_IN_XCR0
        for components, instructions in OPTIONAL.items():
            if not components & ~xcr0 and not self._absent(instructions):
                self.recorded |= components
        if self.recorded & XTILE and not library.permit_amx():
            self.recorded &= ~XTILE
        self.cpuid_0d = {i: self.cpuid(0xD, i) for i in (0, 1, *(i for i in bits[self.recorded] if i in SIZES))}
        offsets = {i: leaf[1] for i, leaf in self.cpuid_0d.items() if i in SIZES}
        self._in_frame = max(at + SIZES[i] for i, at in offsets.items())
        self._standard: Mapping[int, int] = {**STANDARD_OFFSETS[self.source], **offsets}
        self._listed = (*COMPONENTS, *(i for i in AMX if self.recorded >> i & 1))

    def _absent(self, instructions: Mapping[str, tuple[int, int, int, int]]) -> list[str]:
        places = instructions.items()
        return [name for name, (leaf, sub, index, bit) in places if not self.cpuid(leaf, sub)[index] >> bit & 1]

    def cpuid(self, leaf: int, subleaf: int) -> list[int]:
        """EAX to EDX."""
        registers = (ctypes.c_uint32 * 4)()
        self._library.cpuid(leaf, subleaf, registers)
        return list(registers)

    def xgetbv(self, which: int) -> int:
        """XCR0 (0), or XCR0 & XINUSE (1)."""
        return int(self._library.xgetbv(which))

    def meta(self) -> Json:
        """The line that describes this processor."""
        leaves = {str(i): [f"{value:#x}" for value in registers] for i, registers in self.cpuid_0d.items()}
        signature = self.cpuid(1, 0)[0]
        info = [f"CPUID.1:EAX {signature:#x}", "CPL 3"]
        return {
            "id": "meta", "src": self.source, "cat": "meta", "model": self.model, "info": info, "cpuid_0d": leaves,
        }  # fmt: skip

    def record(self, name: str, category: str, steps: list[Json]) -> Json | None:
        """The vector of these steps, up to the first that faults; None if its runs do not agree."""
        runs = [self._stable(steps, prefill, look) for prefill, look in ((0, False), (1, False), (0, True))]
        first, second, looked = runs
        if first is None or second is None or looked is None:
            return None
        if [seen._replace(registers=b"") for seen in first] != [seen._replace(registers=b"") for seen in looked]:
            return None
        done: list[Json] = []
        for number, step in enumerate(steps):
            prefills = [self._memory(step, number, each) for each in (0, 1)]
            seen = (first[number], second[number], looked[number])
            done.append(
                {
                    **step,
                    "exp": self._expected(step, seen, prefills, number == len(steps) - 1 or bool(first[number].signal)),
                }
            )
            if first[number].signal:
                break
        return {
            "id": name,
            "src": self.source,
            "cat": category,
            "xcr0": f"{self.recorded:#x}",
            "x0": "0x0",
            "steps": done,
        }

    def _stable(self, steps: list[Json], prefill: int, look: bool) -> list[Seen] | None:
        last, agreeing = None, 0
        for _ in range(TRIES):
            seen = self._run(steps, prefill, look)
            last, agreeing = seen, agreeing + 1 if seen == last else 1
            if agreeing == AGREEING:
                return seen
        return None

    def _run(self, steps: list[Json], prefill: int, look: bool) -> list[Seen]:
        raw, seen = (_Step * len(steps))(), (_Seen * len(steps))()
        for number, (to, step) in enumerate(zip(raw, steps, strict=True)):
            self._translate(to, step, self._memory(step, number, prefill))
        masks = ctypes.c_uint64(self.recorded), ctypes.c_uint64(self._in_frame)
        self._library.run(raw, len(steps), seen, *masks, int(look))
        result = []
        for each in seen:
            registers = bytes(each.registers)
            if each.signal:
                registers = self._of_frame(registers)
            result.append(Seen(each.signal, each.xinuse, registers, bytes(each.memory)))
            if each.signal:
                break
        return result

    def _of_frame(self, frame: bytes) -> bytes:
        """Registers by the frame of a signal, in which the kernel leaves out AMX state that is initial.

        Linux v6.18, arch/x86/kernel/fpu/xstate.h, xsave_to_user_sigframe(): XFEATURE_MASK_SIGFRAME_INITOPT.
        """
        registers = bytearray(frame)
        in_use = int.from_bytes(frame[slice(*_BV)], "little")
        for i in (i for i in AMX if self.recorded & ~in_use & 1 << i):
            put(registers, i, self._standard, bytes(SIZES[i]))
        return bytes(registers)

    @staticmethod
    def _translate(to: _Step, step: Json, memory: tuple[int, bytes] | None) -> None:
        to.op = OPS.index(step["op"])
        if "comp" in step:
            component = step["comp"]
            data = in_memory(component, step["tag"])
            if step["op"] == "touch1":
                width = width_of(component)
                to.reg, data = step["reg"], data[step["reg"] * width :][:width]
            to.component, to.data = component, _frstor_image(data) if component == 0 else data
            to.vex = step.get("vex", False)
        elif "how" in step:
            to.how = [*HOWS].index(step["how"])
        elif "value" in step:
            to.mxcsr = int(step["value"], 16)
        else:
            to.buffer, to.misalign, to.rfbm = step["buf"], step.get("misalign", 0), int(step["rfbm"], 16)
        if memory is not None:
            to.memory_at, to.memory, to.memory_bytes = memory[0], memory[1], len(memory[1])

    def _memory(self, step: Json, number: int, prefill: int) -> tuple[int, bytes] | None:
        """With what the buffer is overwritten before the instruction, and from where on."""
        if step["op"].startswith("xsave"):
            return 0, self._prefill(step, number, prefill)
        if "image" in step:
            return 0, self._image(step["image"])
        if "hdr" in step:
            header = [int(step["hdr"][name], 16) for name in ("bv", "cv")]
            return LEGACY_BYTES, struct.pack("<QQ48x", *header)
        return None

    def _places(self, step: Json) -> Mapping[int, int]:
        """Offsets in the extended region of the format that a save uses."""
        if step["op"] in ("xsavec", "xsaves"):
            return compacted_offsets(int(step["rfbm"], 16) & self.recorded | COMPACTED)
        return self._standard

    def _prefill(self, step: Json, number: int, which: int) -> bytes:
        memory = bytearray([_FILLS[which]]) * (_AREA + _SLACK)
        places = self._places(step)
        for i in (0, 1, *places):
            put(memory, i, places, in_memory(i, 100 + 2 * number + which))
        mxcsr = 0x1F80 | 1 + number if which == 0 else 0x5F80 | 0x20 + number
        _set(memory, _MXCSR, mxcsr)
        _set(memory, _MASK, int.from_bytes([_FILLS[which]] * 4, "little"))
        _set(memory, _BV, int(step["pre_bv"], 16))
        _set(memory, _CV, int(step["pre_cv"], 16))
        memory[slice(*_REST)] = bytes([step["pre_rest"] ^ (0xFF if which else 0)]) * (_REST[1] - _REST[0])
        return bytes(memory)

    def _image(self, image: Json) -> bytes:
        memory = bytearray(_AREA + _SLACK)
        xcomp_bv = int(image["cv"], 16)
        places = compacted_offsets(xcomp_bv) if image["fmt"] == "c" else self._standard
        for name, tag in image["tags"].items():
            put(memory, int(name), places, in_memory(int(name), tag))
        _set(memory, _MXCSR, int(image["mxcsr"], 16))
        _set(memory, _BV, int(image["bv"], 16))
        _set(memory, _CV, xcomp_bv)
        for offset, value in image.get("hdr_bytes", {}).items():
            memory[LEGACY_BYTES + int(offset)] = value
        return bytes(memory)

    def _expected(
        self, step: Json, seen: tuple[Seen, Seen, Seen], prefills: list[tuple[int, bytes] | None], last: bool
    ) -> Json:
        first, second, looked = seen
        held = {i: content_of(i, bytes_at(looked.registers, i, self._standard)) for i in self._listed}
        noninit = sum(1 << i for i in self._listed if held[i] != 0)
        expected: Json = {"fault": FAULTS[first.signal], "noninit": f"{noninit:#x}"}
        if not first.signal:
            expected["xinuse"] = f"{first.xinuse & self.recorded:#x}"
            if prefills[0] and prefills[1] and step["op"].startswith("xsave"):
                misalign = step.get("misalign", 0)
                memories = [each.memory[misalign:] for each in (first, second)]
                before = [each[1][misalign:] for each in prefills if each]
                expected |= self._saved(step, memories, before, looked.registers)
        if step["op"] in ("xrstor", "xrstors", "reinit") or last:
            expected["regs"] = {str(i): describe(i, content) for i, content in held.items()}
            expected["mxcsr"] = _hexadecimal(looked.registers, _MXCSR)
        return expected

    def _saved(self, step: Json, memories: list[bytes], before: list[bytes], registers: bytes) -> Json:
        places = self._places(step)
        end = max([EXTENDED_OFFSET, *(at + SIZES[i] for i, at in places.items())])
        pieces: dict[str, list[int]] = {
            "x87": [i for piece in X87_PIECES for i in range(160)[piece] if i not in _X87_RESERVED],
            "mxcsr": [*range(*_MXCSR)],
            "mxcsr_mask": [*range(*_MASK)],
            "xmm": [*range(XMM.start, XMM.stop)],
            "tail": [*range(*_TAIL)],
            "hdr_rest": [*range(*_REST)],
            **{str(i): [*range(at, at + SIZES[i])] for i, at in sorted(places.items())},
            "beyond": [*range(end, _AREA)],
        }
        memory = memories[0]
        letters, contents = {}, {}
        for name, offsets in pieces.items():
            changed = {i for i in offsets if memories[0][i] != before[0][i] or memories[1][i] != before[1][i]}
            # A byte that both prefills have alike and that did not change tells nothing.
            written = [i in changed for i in offsets if i in changed or before[0][i] != before[1][i]]
            component = {"x87": 0, "xmm": 1}.get(name, int(name) if name.isdigit() else None)
            letters[name] = "F" if all(written) else "P" if any(written) else "N"
            if component is not None and letters[name] != "N":
                content = content_of(component, bytes_at(memory, component, places))
                if content == content_of(component, bytes_at(registers, component, self._standard)):
                    letters[name] = "F"  # a register may hold in places what the prefill has there
                    contents[str(component)] = describe(component, content)
            elif name == "mxcsr" and any(written) and memory[slice(*_MXCSR)] == registers[slice(*_MXCSR)]:
                letters[name] = "F"
        found: Json = {"bv": _hexadecimal(memory, _BV), "cv": _hexadecimal(memory, _CV), "w": letters, "c": contents}
        if letters["mxcsr"] == "F":
            found["mxcsr_saved"] = _hexadecimal(memory, _MXCSR)
        if letters["mxcsr_mask"] == "F":
            found["mxcsr_mask_saved"] = _hexadecimal(memory, _MASK)
        return found


@contextmanager
def recorder() -> Iterator[Recorder]:
    """This machine's; :class:`InputError` without a C compiler, or on a processor that the vectors are not about."""
    command = compiler("verify record")
    with tempfile.TemporaryDirectory(prefix="fpswitch-") as folder, as_file(files("sim.verification.vectors")) as here:
        library = Path(folder) / "record.so"
        run = [*command, *FLAGS, "-fPIC", "-shared", "-o", str(library), str(here / "record.c")]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
            said = said or f"exit status {done.returncode}, and no message"
            raise InputError(f"verify record: {command[0]} cannot compile record.c: {said}")
        try:
            loaded = ctypes.CDLL(str(library))
        except OSError as error:
            allowed = "a TMPDIR that is not mounted noexec, and a compiler for this Python's architecture"
            raise InputError(f"verify record: cannot load what was compiled: {error}; allowed: {allowed}") from error
        yield Recorder(loaded)


def vectors(
    machine: Recorder, drawn: Iterable[tuple[str, list[Json]]], unstable: Callable[[], None] = lambda: None
) -> Iterator[Json]:
    """Records what was drawn, a category and its steps each; of a vector that does not agree, says it and goes on."""
    for number, (category, steps) in enumerate(drawn):
        vector = machine.record(f"{machine.source}-{category}-{number}", category, steps)
        if vector is None:
            unstable()
        else:
            yield vector


def _frstor_image(content: bytes) -> bytes:
    """What FRSTOR loads for x87 ``content`` (SDM vol. 1, figure 8-9): two bits a register in the tag word."""
    control, status, tags = struct.unpack_from("<HHB", content)
    words = [control, status, sum((0 if tags >> i & 1 else 3) << 2 * i for i in range(8)), 0, 0, 0, 0]
    start = X87_PIECES[0].stop - X87_PIECES[0].start
    return struct.pack("<7I", *words) + b"".join(content[start + 16 * i :][:10] for i in range(8))


def _set(memory: bytearray, place: tuple[int, int], value: int) -> None:
    memory[slice(*place)] = value.to_bytes(place[1] - place[0], "little")


def _hexadecimal(memory: bytes, place: tuple[int, int]) -> str:
    return f"{int.from_bytes(memory[slice(*place)], 'little'):#x}"
