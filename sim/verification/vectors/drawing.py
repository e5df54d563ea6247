"""Random vectors to record: what is done, step by step, in categories that each look at one rule."""

import random
from collections.abc import Iterator
from typing import Final

from sim.verification.vectors.recording import COMPONENTS, HOWS, NOT_IN_XCR0, RECORDED, Json
from sim.verification.vectors.values import REGISTERS
from sim.xsave.components import COMPACTED

SHARES: Final = {"mix": 3, "modopt": 2, "mx": 1, "xinuse": 1, "fault": 1}
"""Vectors of each category, in proportion."""

_BUFFERS = 3
_TAGS = 90  # those from 100 on are prefills
_LEGAL_MXCSR = (0x1F80, 0x1F80, 0x1FA0, 0x9F80, 0x5F80, 0x7F80, 0x1FBF)
_ANY_64_BITS = 64
_NEAR_MISSES = (1, 8, 16, 32, 48, 63, 100)


def draw(number: int, seed: int) -> Iterator[tuple[str, list[Json]]]:
    """``number`` vectors: the category and the steps of each."""
    pen = _Pen(random.Random(seed))
    turns = [category for category, share in SHARES.items() for _ in range(share)]
    for i in range(number):
        category = turns[i % len(turns)]
        yield category, getattr(pen, category)()


class _Pen:
    """Draws steps; tags go round, so that a content tells where it comes from."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.last_tag = 0

    # The categories.

    def mix(self) -> list[Json]:
        """Anything, and a save at the end."""
        steps: list[Json] = []
        saved: set[int] = set()
        for _ in range(self.rng.randrange(3, 10)):
            kinds, weights = ("touch", "reinit", "ldmxcsr", "save", "restore", "again"), (35, 10, 5, 25, 18, 7)
            kind = self.rng.choices(kinds, weights)[0]
            if kind == "touch":
                steps.append(self.touch())
            elif kind == "reinit":
                steps.append(self.reinit())
            elif kind == "ldmxcsr":
                steps.append(self.ldmxcsr())
            elif kind == "save":
                steps.append(self.save())
                saved.add(steps[-1]["buf"])
            elif kind == "restore" or not saved:
                steps.append(self.restore())
            else:  # an area as it was left, with a valid header
                header = {"bv": f"{self.mask():#x}", "cv": "0x0"}
                buffer = self.rng.choice(sorted(saved))
                steps.append({"op": "xrstor", "buf": buffer, "rfbm": f"{self.rfbm():#x}", "hdr": header})
        return [*steps, self.save()]

    def modopt(self) -> list[Json]:
        """A restore, few writes, XSAVEOPT to the same area: the modified optimisation."""
        buffer = self.rng.randrange(_BUFFERS)
        restored = self.restore(buffer, None if self.one_in(3) else RECORDED, "c" if self.one_in(7) else "s")
        steps = [*(self.touch() for _ in range(self.rng.randrange(3))), restored]
        for _ in range(self.rng.randrange(3)):
            kinds = (self.touch, self.touch, self.reinit, self.reinit, self.ldmxcsr, lambda: self.save(buffer))
            steps.append(self.rng.choice(kinds)())
        if self.one_in(7):
            steps.append(self.restore(rfbm=self.rng.choice((0, 1, RECORDED))))
        rfbm = None if self.one_in(3) else RECORDED
        op = "xsaveopt" if not self.one_in(4) else self.rng.choice(("xsave", "xsavec"))
        steps.append(self.save(None if self.one_in(7) else buffer, op, rfbm))
        if self.one_in(3):
            steps += [self.touch(), self.save(buffer, "xsaveopt")]
        return steps

    def mx(self) -> list[Json]:
        """MXCSR against RFBM and XSTATE_BV, in both formats."""
        rfbm = self.rng.choice((0, 1, 2, 4, 6, RECORDED, RECORDED & ~2, RECORDED & ~4))
        steps = [self.restore(rfbm=rfbm) if self.one_in(2) else self.ldmxcsr()]
        if self.one_in(3):
            steps.append(self.rng.choice((self.touch, self.ldmxcsr, self.reinit))())
        return [*steps, self.rng.choice((self.save, self.restore))(), self.save()]

    def xinuse(self) -> list[Json]:
        """XINUSE after writes, zeros and restores."""
        steps = [*(self.touch() for _ in range(self.rng.randrange(1, 4))), self.reinit()]
        steps += [self.reinit() for _ in range(self.rng.randrange(2))]
        return [*steps, *([self.restore(), self.reinit()] if self.one_in(3) else [])]

    def fault(self) -> list[Json]:
        """A bad header, MXCSR or address; or a near miss."""
        restore = self.restore()
        image = restore["image"]
        kind = self.rng.randrange(7)
        if kind == 0:
            image["bv"] = f"{int(image['bv'], 16) | 1 << self.rng.choice((*NOT_IN_XCR0, 63)):#x}"
        elif kind == 1:
            restore = self.restore(fmt="c")
            image = restore["image"]
            image["cv"] = f"{int(image['cv'], 16) | 1 << self.rng.choice(NOT_IN_XCR0):#x}"
        elif kind == 2:
            restore = self.restore(fmt="c")
            restore["image"]["bv"] = f"{self.mask():#x}"
        elif kind == 3:
            image["hdr_bytes"] = {str(self.rng.randrange(16, 64)): self.rng.randrange(1, 256)}
        elif kind == 4:
            image["mxcsr"] = f"{self.rng.choice((0x1F80 | 1 << self.rng.randrange(16, 32), 0xFFFF, 0)):#x}"
        elif kind == 5:
            restore["misalign"] = self.rng.choice(_NEAR_MISSES)
        else:
            restore = self.save() | {"misalign": self.rng.choice(_NEAR_MISSES)}
        return [*(self.touch() for _ in range(self.rng.randrange(3))), restore]

    # Steps.

    def touch(self) -> Json:
        if self.one_in(4):
            component = self.rng.choice([i for i in COMPONENTS if i in REGISTERS])
            register = self.rng.randrange(REGISTERS[component])
            return {"op": "touch1", "comp": component, "reg": register, "tag": self.tag()}
        return {"op": "touch", "comp": self.rng.choice(COMPONENTS), "tag": self.tag()}

    def reinit(self) -> Json:
        return {"op": "reinit", "how": self.rng.choice(HOWS)}

    def ldmxcsr(self) -> Json:
        return {"op": "ldmxcsr", "value": f"{self.rng.choice(_LEGAL_MXCSR):#x}"}

    def save(self, buffer: int | None = None, op: str | None = None, rfbm: int | None = None) -> Json:
        return {
            "op": op or self.rng.choice(("xsave", "xsaveopt", "xsaveopt", "xsavec")),
            "buf": self.rng.randrange(_BUFFERS) if buffer is None else buffer,
            "rfbm": f"{self.rfbm() if rfbm is None else rfbm:#x}",
            "pre_bv": f"{self.rng.choice((0, RECORDED, self.rng.getrandbits(_ANY_64_BITS))):#x}",
            "pre_cv": f"{self.rng.choice((0, 0x1234, self.rng.getrandbits(_ANY_64_BITS))):#x}",
            "pre_rest": self.rng.choice((0, 0x5A, self.rng.randrange(256))),
        }

    def restore(self, buffer: int | None = None, rfbm: int | None = None, fmt: str | None = None) -> Json:
        fmt = fmt or self.rng.choice("ssc")
        xcomp_bv = COMPACTED | self.rng.choice((RECORDED, self.mask())) if fmt == "c" else 0
        places = xcomp_bv & RECORDED if fmt == "c" else RECORDED
        tags = {str(i): self.tag() for i in COMPONENTS if i < 2 or places >> i & 1}
        image = {
            "fmt": fmt,
            "bv": f"{self.rng.choice((RECORDED, self.mask())) & places:#x}",
            "cv": f"{xcomp_bv:#x}",
            "mxcsr": f"{self.rng.choice(_LEGAL_MXCSR):#x}",
            "tags": tags,
        }
        return {
            "op": "xrstor",
            "buf": self.rng.randrange(_BUFFERS) if buffer is None else buffer,
            "rfbm": f"{self.rfbm() if rfbm is None else rfbm:#x}",
            "image": image,
        }

    def tag(self) -> int:
        """The next tag; now and then that of the initial configuration."""
        self.last_tag = self.last_tag % _TAGS + 1
        return 0 if self.one_in(8) else self.last_tag

    def mask(self) -> int:
        return self.rng.getrandbits(8) & RECORDED

    def rfbm(self) -> int:
        return RECORDED if self.one_in(2) else self.mask()

    def one_in(self, number: int) -> bool:
        return self.rng.randrange(number) == 0
