"""The schema of the vector files, one JSON object per line.

The fields are described in tests/data/vectors/README.md.  Masks and values are hexadecimal strings in the files and
integers here.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from sim.verification.vectors.values import BUFFER_BYTES, COMPONENTS, MSRS, REGISTERS, SIZES, same
from sim.xsave.area import EXTENDED_OFFSET
from sim.xsave.components import CET, FP

_HEX = re.compile("0x[0-9a-fA-F]{1,16}")
_FNINIT = re.compile("fninit:[0-9]+")
_WRITTEN_WITH_VEX = (1, 2)
_OF_TAGS = [str(i) for i in REGISTERS]
_XCR0 = sum(1 << i for i in COMPONENTS if i not in MSRS)


def _hexadecimal(value: Any) -> int:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ValueError('allowed: a hexadecimal string of at most 64 bits, as "0x1f80"')
    return int(value, 16)


def _content(value: Any) -> Any:
    """A content field: quadwords become integers."""
    if (isinstance(value, str) and _FNINIT.fullmatch(value)) or type(value) is int:
        return value
    if isinstance(value, list) and value and all(isinstance(v, str) and _HEX.fullmatch(v) for v in value):
        return [int(v, 16) for v in value]
    if isinstance(value, list) and value and all(v is None or type(v) is int for v in value):
        return value
    raise ValueError('allowed: a tag, a list of one tag or null per register, "fninit:<tag>", or hexadecimal quadwords')


def _contents(value: dict[str, Any]) -> dict[str, Any]:
    """A list that repeats one tag becomes that tag.

    Not for x87, where it would cover the control words, too, nor for quadwords, which may well be equal.
    """
    return {name: same(held) if isinstance(held, list) and name in _OF_TAGS else held for name, held in value.items()}


Quadword = Annotated[int, BeforeValidator(_hexadecimal)]
Doubleword = Annotated[int, BeforeValidator(_hexadecimal), Field(lt=1 << 32)]
Byte = Annotated[int, Field(ge=0, le=255)]
Tag = Byte
Buffer = Annotated[int, Field(ge=0, le=2)]
Content = Annotated[Any, PlainValidator(_content)]
Held = Tag | Annotated[str, Field(pattern="^fninit:([0-9]{1,2}|1[0-9]{2}|2[0-4][0-9]|25[0-5])$")] | list[Tag]
Register = Literal["0", "1", "2", "5", "6", "7", "17", "18"]
Cet = Literal["11", "12"]
HeaderByte = Annotated[str, Field(pattern="^(1[6-9]|[2-5][0-9]|6[0-3])$")]
SubLeaf = Annotated[str, Field(pattern="^[0-9]+$")]
Written = Literal["F", "N", "P", "?"]
Cpl = Literal[0, 3]
Source = Literal["silicon", "intel", "bochs"]
"""An AMD Zen 4, an Intel server processor, an emulator."""
Piece = (
    Literal["x87", "mxcsr", "mxcsr_mask", "xmm", "tail", "hdr_rest", "beyond"]
    | Literal["2", "5", "6", "7", "11", "12", "17", "18"]
)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Msrs(_Strict):
    """The CET MSRs."""

    U_CET: Quadword
    PL0_SSP: Quadword
    PL1_SSP: Quadword
    PL2_SSP: Quadword
    PL3_SSP: Quadword


class State(_Strict):
    """Register contents that are recorded but never compared."""

    regs: dict[Register, Content] | None = None
    mxcsr: Quadword | None = None
    msrs: Msrs | None = None


class Expected(_Strict):
    """What was recorded after a step."""

    fault: Annotated[str, Field(pattern=r"^#[A-Z]{2}(\(0\))?$")] | None
    noninit: Quadword
    xinuse: Quadword | None = None
    bv: Quadword | None = None
    cv: Quadword | None = None
    w: dict[Piece, Written] | None = None
    wr: dict[Piece, list[list[int]]] | None = None
    off: dict[Literal["2", "5", "6", "7", "11", "12", "17", "18"], int] | None = None
    c: Annotated[dict[Register | Cet, Content], AfterValidator(_contents)] | None = None
    mxcsr_saved: Quadword | None = None
    mxcsr_mask_saved: Quadword | None = None
    regs: Annotated[dict[Register, Content], AfterValidator(_contents)] | None = None
    mxcsr: Quadword | None = None
    msrs: Msrs | None = None
    emulator_state_after_fault: State | None = None
    disputed: str | None = None


class _Step(_Strict):
    exp: Expected


def _check_prefix(component: int, vex: bool | None) -> None:
    if vex and component not in _WRITTEN_WITH_VEX:
        allowed = " and ".join(str(i) for i in _WRITTEN_WITH_VEX)
        raise ValueError(f"vex is given with component {component}, allowed: with {allowed}")


class Touch(_Step):
    """All registers of a component are loaded with one tag; component 17 is by LDTILECFG."""

    op: Literal["touch"]
    comp: Literal[0, 1, 2, 5, 6, 7, 17, 18]
    tag: Tag
    vex: Literal[True] | None = None

    @model_validator(mode="after")
    def _has_such_an_instruction(self) -> Self:
        _check_prefix(self.comp, self.vex)
        return self


class Touch1(_Step):
    """One register of a component is loaded with a tag."""

    op: Literal["touch1"]
    comp: Literal[1, 2, 5, 6, 7, 18]
    reg: int
    tag: Tag
    vex: Literal[True] | None = None

    @model_validator(mode="after")
    def _register_exists(self) -> Self:
        if not 0 <= self.reg < REGISTERS[self.comp]:
            raise ValueError(f"reg {self.reg}, allowed in component {self.comp}: 0 to {REGISTERS[self.comp] - 1}")
        _check_prefix(self.comp, self.vex)
        return self


class Reinit(_Step):
    """An instruction that puts components into their initial configuration."""

    op: Literal["reinit"]
    how: Literal[
        "fninit", "xorps", "avxhi0", "vzeroupper", "vzeroall", "kxor", "zmmhi0", "hi160",
        "vxorps", "vxorps256", "vinsertf128", "tilezero", "tilerelease",
    ]  # fmt: skip


class Ldmxcsr(_Step):
    """LDMXCSR."""

    op: Literal["ldmxcsr"]
    value: Doubleword


class Wrmsr(_Step):
    """WRMSR of a CET MSR or of IA32_XSS."""

    op: Literal["wrmsr"]
    msr: Literal["U_CET", "PL0_SSP", "PL1_SSP", "PL2_SSP", "PL3_SSP", "XSS"]
    value: Quadword


class Cpuid(_Step):
    """CPUID ``n`` times: that many exits to the hypervisor below."""

    op: Literal["cpuid"]
    n: Annotated[int, Field(ge=1)]


class _OfArea(_Step):
    buf: Buffer
    rfbm: Quadword
    misalign: Annotated[int, Field(ge=0, lt=4096)] = 0


class Save(_OfArea):
    """A save instruction; before it the buffer is filled with known contents or, with ``prefill`` false, left alone."""

    op: Literal["xsave", "xsaveopt", "xsavec", "xsaves"]
    cpl: Cpl | None = None
    prefill: Literal[False] | None = None
    pre_bv: Quadword | None = None
    pre_cv: Quadword | None = None
    pre_rest: Byte | None = None

    @model_validator(mode="after")
    def _is_prefilled_or_not(self) -> Self:
        given = {"pre_bv": self.pre_bv, "pre_cv": self.pre_cv, "pre_rest": self.pre_rest}
        for name, value in given.items():
            if (value is None) is (self.prefill is None):
                found, allowed = ("missing", "required") if value is None else ("given", "allowed: only")
                raise ValueError(f'{name} is {found}, {allowed} without "prefill": false')
        if self.prefill is not None and self.op != "xsaves":
            raise ValueError(f'op is {self.op}, allowed with "prefill": false: xsaves')
        return self


class Image(_Strict):
    """A crafted XSAVE area."""

    fmt: Literal["s", "c"]
    bv: Quadword
    cv: Quadword
    mxcsr: Doubleword
    mxcsr_mask: Doubleword | None = None
    tags: dict[Register, Held]
    x87_reserved: Annotated[int, BeforeValidator(_hexadecimal), Field(le=255)] | None = None
    hdr_bytes: dict[HeaderByte, Byte] = {}
    cet: dict[Cet, list[Quadword]] = {}
    cet_kind: str | None = None

    @model_validator(mode="after")
    def _registers_exist(self) -> Self:
        for component, held in self.tags.items():
            registers = REGISTERS.get(int(component), 0)
            if isinstance(held, list) and len(held) != registers:
                raise ValueError(f"{len(held)} tags in tags.{component}, allowed: one, or one for each of {registers}")
            if isinstance(held, str) and component != "0":
                raise ValueError(f"tags.{component} is {held!r}, allowed: in component 0, only")
        return self

    @model_validator(mode="after")
    def _cet_is_complete(self) -> Self:
        for component, values in self.cet.items():
            names = MSRS[int(component)]
            if len(values) != len(names):
                raise ValueError(f"{len(values)} values in cet.{component}, allowed: {len(names)} ({', '.join(names)})")
        return self


class Header(_Strict):
    """The first two fields of an XSAVE header; the other bytes are 0."""

    bv: Quadword
    cv: Quadword


class Restore(_OfArea):
    """A restore instruction, before which the buffer or its header may be overwritten."""

    op: Literal["xrstor", "xrstors"]
    cpl: Cpl | None = None
    image: Image | None = None
    hdr: Header | None = None


Step = Touch | Touch1 | Reinit | Ldmxcsr | Wrmsr | Cpuid | Save | Restore


class Vector(_Strict):
    """One recorded sequence of operations."""

    id: str
    src: Source
    cat: str
    xcr0: Quadword
    xss: Quadword | None = None
    x0: Quadword
    steps: Annotated[list[Annotated[Step, Field(discriminator="op")]], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits_its_source(self) -> Self:
        if not self.xcr0 & FP or self.xcr0 & ~_XCR0:
            raise ValueError(f"xcr0 is {self.xcr0:#x}, allowed: bit 0 and any other bits of {_XCR0:#x}")
        at_cpl_0 = any(isinstance(step, Save | Restore) and step.cpl == 0 for step in self.steps)
        if self.xss is None and (self.src == "bochs" or at_cpl_0):
            raise ValueError("xss is missing, required in every vector from bochs and in one with a step at CPL 0")
        if self.xss is not None and self.xss & ~CET:
            raise ValueError(f"xss is {self.xss:#x}, allowed: bits of {CET:#x}")
        if self.src != "bochs" and any(isinstance(step, Wrmsr) for step in self.steps):
            raise ValueError("op is wrmsr, allowed: in vectors from bochs, only")
        if self.src == "bochs" and any(
            isinstance(step, Save | Restore) and step.cpl is not None for step in self.steps
        ):
            raise ValueError("cpl is given, allowed: in vectors from silicon and intel, only")
        return self


class Meta(_Strict):
    """The emulated processor: CPUID leaf 0DH, EAX to EDX by sub-leaf."""

    id: str
    src: Source
    cat: Literal["meta"]
    model: str
    info: list[str]
    cpuid_0d: dict[SubLeaf, Annotated[list[Doubleword], Field(min_length=4, max_length=4)]]

    @model_validator(mode="after")
    def _standard_format_fits(self) -> Self:
        for i, size in SIZES.items():
            offset = self.cpuid_0d[str(i)][1] if str(i) in self.cpuid_0d and i not in MSRS else EXTENDED_OFFSET
            if not EXTENDED_OFFSET <= offset <= BUFFER_BYTES - size:
                allowed = f"{EXTENDED_OFFSET:#x} to {BUFFER_BYTES - size:#x}"
                raise ValueError(f"EBX of cpuid_0d.{i} is {offset:#x}, allowed as an offset: {allowed}")
        return self
