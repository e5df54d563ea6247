"""The processor model against the SDM's Operation sections, step by step, with any components, choices and faults."""

import random
from typing import Any

import pytest
from xsave_literal import COMPONENTS, Memory, Processor, Refused

from sim.xsave.area import Area
from sim.xsave.components import ALL, APX, AVX, CET_S, COMPACTED, FP, LBR, PKRU, SSE, SUPERVISOR, USER, XTILE, bits
from sim.xsave.freedoms import Freedoms
from sim.xsave.unit import Fault, Unit

OPERATIONS = ("write", "write", "mxcsr", "xfd", "mode", "header", "header", *["save", "restore"] * 4)
CAN_BE_DISABLED = USER & ~(FP | SSE | PKRU)
SAVES = {"xsave": Unit.xsave, "xsaveopt": Unit.xsaveopt, "xsavec": Unit.xsavec, "xsaves": Unit.xsaves}


class Both:
    """The model and the text, through the same operations; areas 0 and 1 are compacted ones, 2 and 3 standard ones."""

    def __init__(self, xcr0: int, xss: int, choice: Freedoms) -> None:
        self.unit, self.text = Unit(xcr0, xss, choice), Processor(xcr0, xss)
        self.areas = [Area((i + 1) << 12) for i in range(4)]
        self.memories = [Memory((i + 1) << 12) for i in range(4)]
        self.token = 0

    def do(self, what: str, mask: int, number: int) -> None:
        unit, text = self.unit, self.text
        self.token += 1
        match what:
            case "write":
                self._write(mask, number)
            case "mxcsr":
                value = 0x1F80 if mask & 1 else 0x1F81 + number
                unit.ldmxcsr(value)
                text.ldmxcsr(value)
            case "xfd":
                unit.xfd = text.xfd = mask & CAN_BE_DISABLED
            case "mode":
                text.cpl, text.nonroot = 3 * (number % 4 == 0), number % 8 == 1
                unit.enter_mode(text.cpl, text.nonroot)
            case "header":  # software writes a field of it, as Linux does to initialise components
                area, memory = self.areas[number % 4], self.memories[number % 4]
                if number < 8:
                    area.header_rest = memory.header_16_to_63 = (mask & 0xFF) << 8 * (mask % 48)
                elif number < 12:
                    area.xcomp_bv = memory.xcomp_bv = mask | COMPACTED if number % 4 < 2 else mask & 1
                else:
                    area.xstate_bv = memory.xstate_bv = area.xstate_bv & mask if number < 56 else mask
                    area.header_rest = memory.header_16_to_63 = 0
            case "save":
                name = (
                    ("xsaves", "xsaves", "xsavec")[number % 3] if number % 4 < 2 else ("xsaveopt", "xsave")[number % 2]
                )
                self._execute(SAVES[name], text.save, name, mask, number)
            case "restore":
                name = "xrstors" if number % 4 < 2 and number % 8 else "xrstor"
                self._execute(getattr(Unit, name), text.restore, name, mask, number)

    def _write(self, mask: int, number: int) -> None:
        for i in bits[mask & (self.text.xcr0 | self.text.xss) & ALL]:
            content: Any = self.token if number % 3 else 0
            if 1 << i == PKRU:
                self.unit.write_pkru(content)
            else:
                self.unit.write(i, content)
            self.text.write(i, content)

    def _execute(self, instruction: Any, text: Any, name: str, mask: int, number: int) -> None:
        unit, area, memory = self.unit, self.areas[number % 4], self.memories[number % 4]
        area.address = memory.address = (number % 4 + 1 << 12) + (number if number > 60 else 0)
        self.text.in_use = [bool(unit.xinuse >> i & 1) for i in COMPONENTS]
        self.text.modified = [bool(unit.xmodified >> i & 1) for i in COMPONENTS]
        done: list[Any] = [None, None]
        try:
            done[0] = set(bits[instruction(unit, area, mask)])
        except Fault as fault:
            done[0] = fault.vector
        try:
            done[1] = text(name, memory, mask)
        except Refused as refused:
            done[1] = str(refused)
        assert done[0] == done[1], name

    def check(self) -> None:
        """Registers, memory and headers are the same; XINUSE and XMODIFIED are 1 where they have to be."""
        unit, text = self.unit, self.text
        for i in COMPONENTS:
            in_use, modified = unit.xinuse >> i & 1, unit.xmodified >> i & 1
            assert (unit.pkru if 1 << i == PKRU else unit.regs[i]) == text.register[i], i
            assert in_use or text.register[i] == 0, f"component {i} is not initial and not in use"
            assert modified or not text.must_be_modified[i], f"component {i} was written and is not modified"
            assert modified or not (in_use and text.initialised[i]), f"memory may hold another component {i}"
        assert (unit.mxcsr, unit.xfd_err) == (text.mxcsr, text.xfd_err)
        for area, memory in zip(self.areas, self.memories, strict=True):
            assert (area.xstate_bv, area.xcomp_bv, area.mxcsr) == (memory.xstate_bv, memory.xcomp_bv, memory.mxcsr)
            assert [area.pkru if 1 << i == PKRU else area.standard[i] for i in COMPONENTS] == memory.component


def freedoms(rng: random.Random) -> Freedoms:
    """Any processor's, apart from the one that departs from the architecture; half the time that of the text."""
    group = rng.choice([0, 0x46])
    if rng.random() < 0.5:
        return Freedoms()
    return Freedoms(
        init_optimisation=rng.random() < 0.8,
        modified_optimisation=rng.random() < 0.8,
        xinuse_by_value=rng.getrandbits(20),
        xinuse_always=rng.getrandbits(20) & rng.getrandbits(20),
        loading_initial_values_sets_xinuse=rng.random() < 0.5,
        zmm_write_group=group,
        restore_group=group,
    )


@pytest.mark.parametrize("block", range(10))
def test_every_instruction_does_what_the_operation_sections_say(block: int) -> None:
    """Registers, memory, headers, faults and what is stored, for any XCR0 and IA32_XSS and any of its choices."""
    for seed in range(150 * block, 150 * (block + 1)):
        rng = random.Random(seed)
        xcr0 = rng.choice([USER, FP | SSE | AVX, FP | SSE | PKRU | XTILE, FP | APX, rng.getrandbits(20) & USER | FP])
        xss = rng.choice([SUPERVISOR, CET_S, CET_S | LBR, 0, rng.getrandbits(20) & SUPERVISOR])
        both = Both(xcr0, xss, freedoms(rng))
        for _ in range(rng.randrange(5, 40)):
            what, number = rng.choice(OPERATIONS), rng.randrange(64)
            mask = rng.choice([ALL, ALL, USER, SSE, AVX, xcr0, rng.getrandbits(20), rng.getrandbits(64)])
            if what in ("save", "restore") and rng.random() < 0.6:  # one area, so that XRSTOR_INFO matches
                mask, number = ALL, 4 * rng.randrange(15) + rng.randrange(2) * 2
            if (what in ("xfd", "mode") and rng.random() < 0.6) or (
                what == "header" and number < 12 and rng.random() < 0.5
            ):
                continue
            both.do(what, mask, number)
            both.check()
