"""Random vectors to record: what is done, step by step, in categories that each look at one rule."""

import random
from collections.abc import Iterator
from typing import Final

from sim.verification.vectors.recording import HOWS, NOT_IN_XCR0, Json
from sim.verification.vectors.values import REGISTERS
from sim.xsave.components import AVX512, COMPACTED, XTILE, XTILECFG, XTILEDATA, bits

SHARES: Final = {"mix": 3, "modopt": 2, "mx": 1, "xinuse": 1, "fault": 1, "vex": 1, "halves": 1, "amx": 1}
"""Vectors of each category, in proportion; amx where the machine has it."""

_BUFFERS = 3
_TAGS = 90  # those from 100 on are prefills
_LEGAL_MXCSR = (0x1F80, 0x1F80, 0x1FA0, 0x9F80, 0x5F80, 0x7F80, 0x1FBF)
_ANY_64_BITS = 64
_NEAR_MISSES = (1, 8, 16, 32, 48, 63, 100)


def draw(number: int, seed: int, recorded: int) -> Iterator[tuple[str, list[Json]]]:
    """``number`` vectors of the components in the mask ``recorded``: the category and the steps of each."""
    pen = _Pen(random.Random(seed), recorded)
    shares = {category: share for category, share in SHARES.items() if category != "amx" or recorded & XTILE}
    turns = [category for category, share in shares.items() for _ in range(share)]
    for i in range(number):
        category = turns[i % len(turns)]
        yield category, getattr(pen, category)()


class _Pen:
    """Draws steps; tags go round, so that a content tells where it comes from."""

    def __init__(self, rng: random.Random, recorded: int) -> None:
        self.rng = rng
        self.recorded = recorded
        self.written = [*bits[recorded & ~XTILE]]
        self.hows = [how for how, needed in HOWS.items() if not needed & ~recorded and not needed & XTILE]
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
        restored = self.restore(buffer, None if self.one_in(3) else self.recorded, "c" if self.one_in(7) else "s")
        steps = [*(self.touch() for _ in range(self.rng.randrange(3))), restored]
        for _ in range(self.rng.randrange(3)):
            kinds = (self.touch, self.touch, self.reinit, self.reinit, self.ldmxcsr, lambda: self.save(buffer))
            steps.append(self.rng.choice(kinds)())
        if self.one_in(7):
            steps.append(self.restore(rfbm=self.rng.choice((0, 1, self.recorded))))
        rfbm = None if self.one_in(3) else self.recorded
        op = "xsaveopt" if not self.one_in(4) else self.rng.choice(("xsave", "xsavec"))
        steps.append(self.save(None if self.one_in(7) else buffer, op, rfbm))
        if self.one_in(3):
            steps += [self.touch(), self.save(buffer, "xsaveopt")]
        return steps

    def mx(self) -> list[Json]:
        """MXCSR against RFBM and XSTATE_BV, in both formats."""
        rfbm = self.rng.choice((0, 1, 2, 4, 6, self.recorded, self.recorded & ~2, self.recorded & ~4))
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

    def vex(self) -> list[Json]:
        """Writes of XMM and YMM with a VEX prefix, which zero what lies above; often between a restore and a save."""
        steps = [*(self.touch() for _ in range(self.rng.randrange(3)))]
        buffer = self.rng.randrange(_BUFFERS)
        if not self.one_in(3):
            steps.append(self.restore(buffer, None if self.one_in(4) else self.recorded, "s"))
        for _ in range(self.rng.randrange(1, 3)):
            kinds = (self.write_with_vex, self.write_with_vex, self.zero_with_vex, self.touch)
            steps.append(self.rng.choice(kinds)())
        return [*steps, self.save(buffer, None if self.one_in(3) else "xsaveopt", self.recorded)]

    def halves(self) -> list[Json]:
        """Single registers of XMM, YMM and ZMM, and restores of zeros into some components: registers 8-15 apart."""
        vectors = [i for i in (1, 2, 6) if self.recorded >> i & 1]
        steps = [self.touch1(self.rng.choice(vectors)) for _ in range(self.rng.randrange(1, 3))]
        for step in steps:
            step["tag"] = 0 if self.one_in(2) else step["tag"]
        buffer = self.rng.randrange(_BUFFERS)
        rfbm = self.recorded if self.one_in(4) else sum(1 << i for i in vectors if self.one_in(2))
        restored = self.restore(buffer, rfbm, "s")
        restored["image"]["tags"] |= {str(i): 0 for i in vectors if not self.one_in(4)}
        steps.append(restored)
        if self.one_in(2):
            steps.append(self.touch1(self.rng.choice((1, 2))) | {"vex": True})
        return [*steps, self.save(buffer, "xsaveopt", self.recorded)]

    def amx(self) -> list[Json]:
        """TILECFG and TILEDATA: written by their instructions, restored together or alone, saved."""
        steps: list[Json] = [] if self.one_in(4) else [{"op": "touch", "comp": 17, "tag": self.tag()}]
        buffer = self.rng.randrange(_BUFFERS)
        kinds = (self.tile, self.tile, self.tilecfg, self.restore_tiles, self.touch, self.save)
        for _ in range(self.rng.randrange(1, 5)):
            steps.append(self.rng.choice(kinds)())
        if not self.one_in(3):
            steps.append(self.restore_tiles(buffer))
        if not self.one_in(3):
            steps.append(self.rng.choice((self.tile, self.tilecfg))())
        return [*steps, self.save(buffer, None if self.one_in(3) else "xsaveopt")]

    # Steps.

    def touch(self) -> Json:
        if self.one_in(4):
            return self.touch1(self.rng.choice([i for i in self.written if i in REGISTERS]))
        component = self.rng.choice(self.written)
        return {"op": "touch", "comp": component, "tag": self.tag(), **self.prefix(component)}

    def touch1(self, component: int) -> Json:
        register = self.rng.randrange(REGISTERS[component])
        prefix = self.prefix(component)
        return {"op": "touch1", "comp": component, "reg": register, "tag": self.tag(), **prefix}

    def prefix(self, component: int) -> Json:
        """Without AVX-512 the upper halves of YMM can be loaded with a VEX prefix only."""
        with_vex = component == 2 and not self.recorded & AVX512
        return {"vex": True} if with_vex or (component in (1, 2) and self.one_in(4)) else {}

    def write_with_vex(self) -> Json:
        step = self.touch1(self.rng.choice((1, 2)))
        if self.one_in(2):
            step = {"op": "touch", "comp": step["comp"], "tag": step["tag"]}
        return step | {"vex": True}

    def zero_with_vex(self) -> Json:
        how = self.rng.choice(("vxorps", "vxorps256", "vinsertf128", "vzeroupper", "vzeroall"))
        return {"op": "reinit", "how": how}

    def tile(self) -> Json:
        """An instruction on tiles, which faults without a configuration."""
        if self.one_in(3):
            return {"op": "reinit", "how": "tilezero"}
        return self.touch1(18) if self.one_in(2) else {"op": "touch", "comp": 18, "tag": self.tag()}

    def tilecfg(self) -> Json:
        if self.one_in(3):
            return {"op": "reinit", "how": "tilerelease"}
        return {"op": "touch", "comp": 17, "tag": self.tag()}

    def restore_tiles(self, buffer: int | None = None) -> Json:
        fmt = "c" if self.one_in(4) else "s"
        return self.restore(buffer, self.rng.choice((XTILE, XTILE, XTILECFG, XTILEDATA, self.recorded)), fmt)

    def reinit(self) -> Json:
        return {"op": "reinit", "how": self.rng.choice(self.hows)}

    def ldmxcsr(self) -> Json:
        return {"op": "ldmxcsr", "value": f"{self.rng.choice(_LEGAL_MXCSR):#x}"}

    def save(self, buffer: int | None = None, op: str | None = None, rfbm: int | None = None) -> Json:
        return {
            "op": op or self.rng.choice(("xsave", "xsaveopt", "xsaveopt", "xsavec")),
            "buf": self.rng.randrange(_BUFFERS) if buffer is None else buffer,
            "rfbm": f"{self.rfbm() if rfbm is None else rfbm:#x}",
            "pre_bv": f"{self.rng.choice((0, self.recorded, self.rng.getrandbits(_ANY_64_BITS))):#x}",
            "pre_cv": f"{self.rng.choice((0, 0x1234, self.rng.getrandbits(_ANY_64_BITS))):#x}",
            "pre_rest": self.rng.choice((0, 0x5A, self.rng.randrange(256))),
        }

    def restore(self, buffer: int | None = None, rfbm: int | None = None, fmt: str | None = None) -> Json:
        fmt = fmt or self.rng.choice("ssc")
        xcomp_bv = COMPACTED | self.rng.choice((self.recorded, self.mask())) if fmt == "c" else 0
        places = xcomp_bv & self.recorded if fmt == "c" else self.recorded
        tags = {str(i): self.tag() for i in bits[self.recorded] if i < 2 or places >> i & 1}
        image = {
            "fmt": fmt,
            "bv": f"{self.rng.choice((self.recorded, self.mask())) & places:#x}",
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
        return self.rng.getrandbits(self.recorded.bit_length()) & self.recorded

    def rfbm(self) -> int:
        return self.recorded if self.one_in(2) else self.mask()

    def one_in(self, number: int) -> bool:
        return self.rng.randrange(number) == 0
