"""The processor model against recorded XSAVE instructions, and the comparison against corrupted recordings."""

import copy
import gzip
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.cli import main
from sim.errors import InputError
from sim.verification.vectors.drive import run, verify
from sim.verification.vectors.reading import VectorFile, read
from sim.verification.vectors.schema import Vector
from sim.verification.vectors.values import after_fninit, content_of, describe, in_memory

DATA = Path(__file__).parent / "data" / "vectors"
FILES = sorted(DATA.glob("*.jsonl"))
SAVES = ("xsave", "xsaveopt", "xsavec", "xsaves")
RESTORES = ("xrstor", "xrstors")
CONTENTS = {0, 1, 2, 5, 6, 7, 11, 12}
Json = dict[str, Any]


def records() -> list[Json]:
    lines = [json.loads(line) for path in FILES for line in path.read_text().splitlines()]
    return [record for record in lines if record["cat"] != "meta"]


RECORDS = records()
CPUID = read(DATA / "bochs.jsonl").cpuid_0d


def departures(record: Json) -> list[tuple[str, int, str]]:
    """(id, step, field) of what is found in one vector."""
    found = run(VectorFile(Path("one"), [Vector.model_validate(record)], CPUID)).departures
    return [(departure.id, departure.step, departure.field) for departure in found]


def hexadecimal(value: int) -> str:
    return f"{value:#x}"


def by_id(name: str) -> Json:
    return copy.deepcopy(next(record for record in RECORDS if record["id"] == name))


# The recordings.


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_model_agrees_with_every_recorded_vector(path: Path) -> None:
    result = verify(path)
    assert result.departures == []
    assert result.vectors > 0
    assert result.steps > result.vectors


def test_the_sample_is_the_whole_sample() -> None:
    results = [verify(path) for path in FILES]
    assert [len(FILES), sum(r.vectors for r in results), sum(r.steps for r in results)] == [7, 814, 4043]
    assert sum(r.disputed for r in results) == 10


# Corruptions: each yields (step, field that must be named) after changing the record in place.

Corruption = Callable[[Json, random.Random], tuple[int, str] | None]


def steps_with(record: Json, rng: random.Random, wanted: Callable[[Json], bool]) -> tuple[int, Json, Json] | None:
    """A random undisputed step of ``record`` that is ``wanted``, its number and what is expected of it."""
    numbers = [n for n, s in enumerate(record["steps"]) if "disputed" not in s["exp"] and wanted(s)]
    if not numbers:
        return None
    number = rng.choice(numbers)
    return number, record["steps"][number], record["steps"][number]["exp"]


def faulting_emulated_restore(step: Json) -> bool:
    return step["op"] in RESTORES and step["exp"]["fault"] == "#GP(0)"


def sse_unknown(record: Json, number: int) -> bool:
    """Only MXCSR of SSE is not initial before a save of SSE in the standard format."""
    step = record["steps"][number]
    mxcsr = int(step["exp"].get("mxcsr_saved", "0x1f80"), 16)
    before = record["steps"][number - 1]["exp"]["noninit"] if number else "0x0"
    saves_sse = int(step["rfbm"], 16) & int(record["xcr0"], 16) & 2
    return step["op"] in ("xsave", "xsaveopt") and bool(saves_sse) and mxcsr != 0x1F80 and not int(before, 16) & 2


def corrupt_fault(record: Json, rng: random.Random) -> tuple[int, str] | None:
    number, _, exp = steps_with(record, rng, lambda s: True) or (None, None, None)
    if number is None or exp is None:
        return None
    exp["fault"] = None if exp["fault"] else "#GP"
    return number, "fault"


def flip(name: str, choose: Callable[[Json, int, random.Random], int | None]) -> Corruption:
    """Flips a bit of a mask or a value."""

    def corrupt(record: Json, rng: random.Random) -> tuple[int, str] | None:
        found = steps_with(record, rng, lambda s: name in s["exp"])
        if not found:
            return None
        number, _, exp = found
        bit = choose(record, number, rng)
        if bit is None:
            return None
        exp[name] = hexadecimal(int(exp[name], 16) ^ 1 << bit)
        return number, name

    return corrupt


def a_bit_of_bv(record: Json, number: int, rng: random.Random) -> int:
    return rng.choice([i for i in range(64) if i != 1 or not sse_unknown(record, number)])


def a_bit_of_noninit(record: Json, number: int, rng: random.Random) -> int | None:
    return None if faulting_emulated_restore(record["steps"][number]) else rng.choice(sorted(CONTENTS))


def a_bit_outside_xcr0(record: Json, number: int, rng: random.Random) -> int:
    return rng.choice([i for i in range(64) if not int(record["xcr0"], 16) >> i & 1])


def any_bit(width: int) -> Callable[[Json, int, random.Random], int]:
    return lambda record, number, rng: rng.randrange(width)


def corrupt_xinuse(record: Json, rng: random.Random) -> tuple[int, str] | None:
    xcr0 = int(record["xcr0"], 16)
    found = steps_with(record, rng, lambda s: "xinuse" in s["exp"] and int(s["exp"]["noninit"], 16) & xcr0 != 0)
    if not found:
        return None
    number, _, exp = found
    held = [i for i in CONTENTS if int(exp["noninit"], 16) & xcr0 >> i << i & 1 << i]
    exp["xinuse"] = hexadecimal(int(exp["xinuse"], 16) & ~(1 << rng.choice(held)))
    return number, "xinuse"


def drop(name: str, wanted: Callable[[Json], bool] = lambda s: True) -> Corruption:
    def corrupt(record: Json, rng: random.Random) -> tuple[int, str] | None:
        found = steps_with(record, rng, lambda s: name in s["exp"] and wanted(s))
        if not found:
            return None
        number, _, exp = found
        del exp[name]
        return number, name

    return corrupt


def drop_regs(record: Json, rng: random.Random) -> tuple[int, str] | None:
    found = steps_with(record, rng, lambda s: "regs" in s["exp"] and (s["op"] in RESTORES or s["op"] == "reinit"))
    if not found:
        return None
    number, _, exp = found
    del exp["regs"]
    return number, "regs"


def corrupt_letter(record: Json, rng: random.Random) -> tuple[int, str] | None:
    found = steps_with(record, rng, lambda s: "w" in s["exp"])
    if not found:
        return None
    number, _, exp = found
    piece = rng.choice(sorted(exp["w"]))
    exp["w"][piece] = rng.choice([letter for letter in "FNP" if letter != exp["w"][piece]])
    return number, "w"


def drop_letter(record: Json, rng: random.Random) -> tuple[int, str] | None:
    found = steps_with(record, rng, lambda s: "w" in s["exp"])
    if not found:
        return None
    number, _, exp = found
    del exp["w"][rng.choice(sorted(exp["w"]))]
    return number, "w"


def changed(value: Any, rng: random.Random) -> Any:
    """A content other than ``value``."""
    if isinstance(value, int):
        return (value + rng.randrange(1, 200)) % 256
    if isinstance(value, str):
        return rng.choice([0, value + "1"])
    index = rng.randrange(len(value))
    other = hexadecimal(int(value[index], 16) ^ 1) if isinstance(value[index], str) else (value[index] + 1) % 256
    return [*value[:index], other, *value[index + 1 :]]


def corrupt_content(name: str) -> Corruption:
    def corrupt(record: Json, rng: random.Random) -> tuple[int, str] | None:
        found = steps_with(record, rng, lambda s: bool(s["exp"].get(name)))
        if not found:
            return None
        number, _, exp = found
        component = rng.choice(sorted(exp[name]))
        exp[name][component] = changed(exp[name][component], rng)
        return number, name

    return corrupt


def drop_content(name: str) -> Corruption:
    def corrupt(record: Json, rng: random.Random) -> tuple[int, str] | None:
        found = steps_with(record, rng, lambda s: bool(s["exp"].get(name)))
        if not found:
            return None
        number, _, exp = found
        del exp[name][rng.choice(sorted(exp[name]))]
        return number, name

    return corrupt


def add_content(record: Json, rng: random.Random) -> tuple[int, str] | None:
    found = steps_with(record, rng, lambda s: "c" in s["exp"] and len(s["exp"]["c"]) < 6)
    if not found:
        return None
    number, _, exp = found
    component = rng.choice(sorted({"0", "1", "2", "5", "6", "7"} - set(exp["c"])))
    exp["c"][component] = 7
    return number, "c"


def add_mxcsr_saved(record: Json, rng: random.Random) -> tuple[int, str] | None:
    found = steps_with(record, rng, lambda s: "bv" in s["exp"] and "mxcsr_saved" not in s["exp"])
    if not found:
        return None
    number, _, exp = found
    exp["mxcsr_saved"] = "0x1f80"
    return number, "mxcsr_saved"


def corrupt_off(record: Json, rng: random.Random) -> tuple[int, str] | None:
    found = steps_with(record, rng, lambda s: bool(s["exp"].get("off")))
    if not found:
        return None
    number, _, exp = found
    exp["off"][rng.choice(sorted(exp["off"]))] += 64
    return number, "off"


def corrupt_msr(record: Json, rng: random.Random) -> tuple[int, str] | None:
    found = steps_with(record, rng, lambda s: "msrs" in s["exp"])
    if not found:
        return None
    number, _, exp = found
    name = rng.choice(sorted(exp["msrs"]))
    exp["msrs"][name] = hexadecimal(int(exp["msrs"][name], 16) ^ 1 << rng.randrange(64))
    return number, "msrs"


CORRUPTIONS: dict[str, Corruption] = {
    "fault": corrupt_fault,
    "bv": flip("bv", a_bit_of_bv),
    "no bv": drop("bv"),
    "cv": flip("cv", any_bit(64)),
    "no cv": drop("cv"),
    "noninit": flip("noninit", a_bit_of_noninit),
    "xinuse": corrupt_xinuse,
    "xinuse outside XCR0": flip("xinuse", a_bit_outside_xcr0),
    "no xinuse": drop("xinuse", lambda s: not s["exp"]["fault"]),
    "mxcsr": flip("mxcsr", any_bit(32)),
    "mxcsr_saved": flip("mxcsr_saved", any_bit(32)),
    "no mxcsr_saved": drop("mxcsr_saved"),
    "mxcsr_saved too many": add_mxcsr_saved,
    "letter": corrupt_letter,
    "no letter": drop_letter,
    "no w": drop("w"),
    "c": corrupt_content("c"),
    "a content too few": drop_content("c"),
    "a content too many": add_content,
    "no c": drop("c"),
    "regs": corrupt_content("regs"),
    "a register too few": drop_content("regs"),
    "no regs": drop_regs,
    "off": corrupt_off,
    "no off": drop("off"),
    "msrs": corrupt_msr,
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_reported_with_its_id_step_and_field(name: str) -> None:
    tried = 0
    for record in RECORDS[::2]:
        mutated = copy.deepcopy(record)
        where = CORRUPTIONS[name](mutated, random.Random(name + record["id"]))
        if where:
            tried += 1
            assert (record["id"], *where) in departures(mutated), (record["id"], where)
    assert tried >= 25


# Freedoms of hardware: each changes the record in place in a way that the README leaves open.


def freedom_mask(record: Json) -> bool:
    steps = [s for s in record["steps"] if "mxcsr_mask_saved" in s["exp"]]
    for step in steps:
        step["exp"]["mxcsr_mask_saved"] = "0xffbf"
    return bool(steps)


def freedom_emulator(record: Json) -> bool:
    exp = record["steps"][-1]["exp"]
    if "emulator_state_after_fault" not in exp:
        return False
    exp["emulator_state_after_fault"] = {"regs": {"0": 99}, "mxcsr": "0x0"}
    rfbm = int(record["steps"][-1]["rfbm"], 16)
    exp["noninit"] = hexadecimal(int(exp["noninit"], 16) ^ rfbm & 0x18E7 & ~int(record["xcr0"], 16))
    return True


def freedom_xinuse(record: Json) -> bool:
    exp = record["steps"][-1]["exp"]
    if "xinuse" not in exp or exp["xinuse"] == record["xcr0"]:
        return False
    exp["xinuse"] = record["xcr0"]
    return True


def freedom_error_code(record: Json) -> bool:
    exp = record["steps"][-1]["exp"]
    if not exp["fault"]:
        return False
    exp["fault"] = "#GP" if exp["fault"] == "#GP(0)" else "#GP(0)"
    return True


def freedom_disputed(record: Json) -> bool:
    exp = record["steps"][-1]["exp"]
    if "disputed" not in exp:
        return False
    exp.update(fault=None if exp["fault"] else "#GP", noninit="0x0", regs={"0": 99}, mxcsr="0x0")
    return True


def freedom_bit_1_of_bv(record: Json) -> bool:
    last = len(record["steps"]) - 1
    if "bv" not in record["steps"][last]["exp"] or not sse_unknown(record, last):
        return False
    exp = record["steps"][last]["exp"]
    exp["bv"] = hexadecimal(int(exp["bv"], 16) ^ 2)
    return True


def freedom_to_write_what_may_be_skipped(record: Json) -> bool:
    step = record["steps"][-1]
    if step["op"] != "xsaveopt" or "bv" not in step["exp"]:
        return False
    exp, rfbm = step["exp"], int(step["rfbm"], 16)
    names = {0: "x87", 1: "xmm", 2: "2", 5: "5", 6: "6", 7: "7"}
    skipped = [i for i in names if int(exp["bv"], 16) & rfbm >> i << i & 1 << i and exp["w"][names[i]] == "N"]
    for i in skipped:
        exp["w"][names[i]] = "F"
        exp["c"][str(i)] = exp["regs"][str(i)]
    return bool(skipped)


FREEDOMS = {
    "mxcsr_mask_saved": (freedom_mask, 300),
    "emulator_state_after_fault": (freedom_emulator, 20),
    "xinuse beyond what is not initial": (freedom_xinuse, 300),
    "error code of a fault": (freedom_error_code, 100),
    "disputed step": (freedom_disputed, 10),
    "bv[1] while only MXCSR is not initial": (freedom_bit_1_of_bv, 10),
    "XSAVEOPT without the modified optimisation": (freedom_to_write_what_may_be_skipped, 50),
}


@pytest.mark.parametrize("name", FREEDOMS)
def test_what_is_left_to_a_processor_is_no_departure(name: str) -> None:
    mutate, at_least = FREEDOMS[name]
    tried = 0
    for record in RECORDS:
        mutated = copy.deepcopy(record)
        if mutate(mutated):
            tried += 1
            assert departures(mutated) == [], record["id"]
    assert tried >= at_least


# Vectors written by hand.

ZERO_MSRS = dict.fromkeys(("U_CET", "PL0_SSP", "PL1_SSP", "PL2_SSP", "PL3_SSP"), "0x0")
ZERO_REGS = dict.fromkeys(("0", "1", "2", "5", "6", "7"), 0)


def wrmsr(msr: str, value: int, fault: str | None) -> Json:
    msrs = dict(ZERO_MSRS)
    noninit = 0
    if not fault and msr != "XSS":
        msrs[msr] = hexadecimal(value)
        noninit = 0x800 if msr in ("U_CET", "PL3_SSP") else 0x1000
    exp = {"fault": fault, "xinuse": "0x0", "noninit": hexadecimal(noninit), "regs": ZERO_REGS, "msrs": msrs}
    step = {"op": "wrmsr", "msr": msr, "value": hexadecimal(value), "exp": exp}
    return {"id": "m", "src": "bochs", "cat": "msr", "xcr0": "0xe7", "xss": "0x1800", "x0": "0x0", "steps": [step]}


MUST_FAULT = [
    ("U_CET", 0x40),
    ("U_CET", 0x200),
    ("U_CET", 0xC00),
    ("U_CET", 1 << 63),
    ("PL0_SSP", 0x1001),
    ("PL3_SSP", 0x1002),
    ("PL1_SSP", 1 << 60),
    ("XSS", 0x1),
    ("XSS", 0x1A00),
    ("XSS", 0x40000),
]
MUST_NOT_FAULT = [
    ("U_CET", 0x800),
    ("U_CET", 0x43F),
    ("U_CET", 0xFFFF800000000000),
    ("PL0_SSP", 0x1008),
    ("PL2_SSP", 0x7FFFFFFFFFF8),
    ("XSS", 0x1000),
    ("XSS", 0x0),
]
MODEL_DEPENDENT = [("PL0_SSP", 0x1004), ("PL3_SSP", 0x800000000008), ("U_CET", 0xFF00800000000004), ("XSS", 0x1900)]


@pytest.mark.parametrize(("msr", "value"), MUST_FAULT)
def test_a_reserved_value_of_an_msr_must_fault(msr: str, value: int) -> None:
    assert departures(wrmsr(msr, value, "#GP(0)")) == []
    assert departures(wrmsr(msr, value, None)) == [("m", 0, "fault")]


@pytest.mark.parametrize(("msr", "value"), MUST_NOT_FAULT)
def test_a_legal_value_of_an_msr_must_not_fault(msr: str, value: int) -> None:
    assert departures(wrmsr(msr, value, "#GP(0)")) == [("m", 0, "fault")]
    assert [d for d in departures(wrmsr(msr, value, None)) if d[2] == "fault"] == []


@pytest.mark.parametrize(("msr", "value"), MODEL_DEPENDENT)
def test_where_the_cpu_model_decides_either_outcome_is_accepted(msr: str, value: int) -> None:
    assert departures(wrmsr(msr, value, "#GP(0)")) == []
    assert departures(wrmsr(msr, value, None)) == []


def test_a_buffer_saved_in_one_format_and_read_in_the_other_gives_what_memory_gives() -> None:
    """XSAVE leaves a compacted header that was there: component 5 is then read where component 2 was stored."""
    w = dict.fromkeys(("x87", "xmm", "tail", "hdr_rest", "2", "5", "6", "7", "beyond"), "N")
    save = {
        "op": "xsave",
        "buf": 0,
        "rfbm": "0x4",
        "pre_bv": "0x20",
        "pre_cv": "0x80000000000000a0",
        "pre_rest": 0,
        "exp": {
            "fault": None,
            "xinuse": "0x4",
            "noninit": "0x4",
            "bv": "0x24",
            "cv": "0x80000000000000a0",
            "w": w | {"2": "F", "mxcsr": "F", "mxcsr_mask": "F"},
            "c": {"2": 100},
            "mxcsr_saved": "0x1f80",
        },
    }
    touch = {"op": "touch", "comp": 2, "tag": 100, "exp": {"fault": None, "xinuse": "0x4", "noninit": "0x4"}}
    refused = {
        "op": "xrstor",
        "buf": 0,
        "rfbm": "0x20",
        "exp": {"fault": "#GP", "noninit": "0x4", "regs": ZERO_REGS | {"2": 100}},
    }
    vector = {"id": "h", "src": "silicon", "cat": "mix", "xcr0": "0xe7", "x0": "0x0"}
    assert departures(vector | {"steps": [touch, save, refused]}) == []  # XSTATE_BV[2] is not in XCOMP_BV
    loaded = copy.deepcopy(refused)
    loaded["hdr"] = {"bv": "0x20", "cv": "0x80000000000000a0"}
    # byte i of component c is (37t + 11c + ...) & 255, so tag 100 of component 2 reads as tag 23 of component 5
    assert (37 * 100 + 11 * 2) % 256 == (37 * 23 + 11 * 5) % 256
    loaded["exp"] = {"fault": None, "xinuse": "0x24", "noninit": "0x24", "regs": ZERO_REGS | {"2": 100, "5": 23}}
    assert departures(vector | {"steps": [touch, save, loaded]}) == []


def read_as_component_7(component: int, stored_at: int, tag: int) -> int:
    """The tag that component 7, read from byte 576 on, gets from the bytes of another component.

    Both are 37t + 11c + 7i + 13(i>>3) modulo 256, with i counted from different places, both multiples of 8.
    """
    shift = stored_at - 576
    return (37 * tag + 11 * component - 77 - 7 * shift - 13 * shift // 8) * pow(37, -1, 256) % 256


# What component 7 is read from, 64 bytes each, after the 4 registers from component 2: component, offset, registers.
READ_FROM = {
    "silicon": [(5, 832, 1), (6, 896, 8), (7, 1408, 3)],
    "bochs": [(None, 832, 4), (5, 1088, 1), (6, 1152, 7)],  # no component lies before 1088: nobody knows those bytes
}


@pytest.mark.parametrize("source", READ_FROM)
def test_a_register_loaded_with_the_bytes_of_no_tag_is_null(source: str) -> None:
    """Component 7 is read from where component 2 was stored, of whose first four registers one was written."""
    pre = {"pre_bv": "0x0", "pre_cv": "0x0", "pre_rest": 165}
    touch = {"op": "touch1", "comp": 2, "reg": 1, "tag": 5}
    save = {"op": "xsave", "buf": 1, "rfbm": "0x4", **pre}
    load = {"op": "xrstor", "buf": 1, "rfbm": "0x80", "hdr": {"bv": "0x80", "cv": "0x8000000000000080"}}
    ymm = [0, 5, *[0] * 14]
    w = dict.fromkeys(("x87", "xmm", "tail", "hdr_rest", "5", "6", "7", "beyond"), "N")
    w |= dict.fromkeys(("2", "mxcsr", "mxcsr_mask"), "F")
    before = {"fault": None, "xinuse": "0x4", "noninit": "0x4"}
    after = {"fault": None, "xinuse": "0x84", "noninit": "0x84"}
    saved = before | {"bv": "0x4", "cv": "0x0", "w": w, "c": {"2": ymm}, "mxcsr_saved": "0x1f80"}
    zmm = [None, 0, 0, 0]
    for component, offset, registers in READ_FROM[source]:
        zmm += [component and read_as_component_7(component, offset, 102)] * registers
    steps = [touch | {"exp": before}, save | {"exp": saved}]
    steps.append(load | {"exp": after | {"regs": ZERO_REGS | {"2": ymm, "7": zmm}}})
    record = {"id": "n", "src": source, "cat": "mix", "xcr0": "0xe7", "x0": "0x0", "steps": steps}
    assert departures(record | ({"xss": "0x0"} if source == "bochs" else {})) == []


def test_x87_loaded_from_zeroed_memory_holds_no_tag_but_zeros() -> None:
    """FCW = 0 is not that of tag 0, so it is a list of one tag per register; and 0 would be another content."""
    load = {"op": "xrstor", "buf": 1, "rfbm": "0x1", "hdr": {"bv": "0x1", "cv": "0x0"}}
    zeros = {"fault": None, "xinuse": "0x1", "noninit": "0x1", "regs": ZERO_REGS | {"0": [0] * 8}}
    record = {"id": "n", "src": "silicon", "cat": "mix", "xcr0": "0xe7", "x0": "0x0", "steps": [load | {"exp": zeros}]}
    assert departures(record) == []
    record["steps"][0]["exp"] = zeros | {"regs": ZERO_REGS}  # type: ignore[index]
    assert departures(record) == [("n", 0, "regs")]


@pytest.mark.parametrize(("source", "fault"), [("silicon", None), ("bochs", "#GP(0)")])
def test_bit_17_of_mxcsr_is_legal_on_the_silicon_only(source: str, fault: str | None) -> None:
    image = {"fmt": "s", "bv": "0x0", "cv": "0x0", "mxcsr": "0x21f80", "tags": {}}
    exp = {"fault": fault, "xinuse": "0x2" if source == "silicon" else "0x0", "noninit": "0x0", "regs": ZERO_REGS}
    steps = [{"op": "xrstor", "buf": 0, "rfbm": "0x4", "image": image, "exp": exp}]
    record = {"id": "m", "src": source, "cat": "mxcsr", "xcr0": "0xe7", "x0": "0x0", "steps": steps}
    assert departures(record | ({"xss": "0x0"} if source == "bochs" else {})) == []


def test_the_bytes_of_x87_are_those_of_the_formula() -> None:
    """Tag 13 is 1101B: FCW with PC = 01B, FSW with C0 and C3, and the abridged tag word 37*13 | 1."""
    raw = in_memory(0, 13)
    assert raw[:24] == bytes([0x7F, 0x07, 0x00, 0x41, 0xE1, *[0] * 19])
    assert raw[24:40] == bytes((37 * 13 + 7 * i + 13 * (i >> 3)) & 255 for i in range(16, 26)) + bytes(6)
    assert in_memory(0, 0) == bytes([0x7F, 0x03, *[0] * 150])
    assert describe(0, raw) == 13
    assert describe(0, after_fninit(raw)) == "fninit:13"


def test_reserved_bytes_of_x87_are_not_loaded() -> None:
    raw = bytearray(in_memory(0, 13))
    raw[5] = raw[34] = raw[39] = 255
    assert content_of(0, bytes(raw)) == in_memory(0, 13)


def test_after_a_fault_on_silicon_a_changed_register_is_reported() -> None:
    record = by_id("si-cpl3-0005")
    record["steps"][-1]["exp"]["regs"]["6"] = 0
    assert departures(record) == [("si-cpl3-0005", 1, "regs")]


def test_a_skipped_component_that_was_written_since_the_restore_is_reported() -> None:
    record = by_id("si-modopt-0944")  # component 0 is touched after the restore, and XSAVEOPT wrote it
    exp = record["steps"][-1]["exp"]
    exp["w"]["x87"] = "N"
    del exp["c"]["0"]
    assert ("si-modopt-0944", 5, "w") in departures(record)


def test_steps_after_a_disputed_one_see_what_the_record_says_of_it() -> None:
    record = next(copy.deepcopy(r) for r in RECORDS if r["src"] == "bochs" and "disputed" in r["steps"][-1]["exp"])
    exp = record["steps"][-1]["exp"]
    follow = {name: exp[name] for name in ("fault", "xinuse", "noninit", "regs", "mxcsr", "msrs")}
    record["steps"].append({"op": "reinit", "how": "xorps", "exp": copy.deepcopy(follow)})
    after = record["steps"][-1]["exp"]
    after["regs"]["1"] = 0
    after["noninit"] = hexadecimal(int(after["noninit"], 16) & ~2)
    assert departures(record) == []
    after["regs"]["0"] = 250
    assert departures(record) == [(record["id"], len(record["steps"]) - 1, "regs")]


# The schema.


def line(**changes: Any) -> str:
    """A small valid vector with changes to its touch step (``step_*``), that step's exp (``exp_*``) or itself."""
    exp: Json = {"fault": None, "xinuse": "0x4", "noninit": "0x4", "regs": ZERO_REGS | {"2": 9}}
    step: Json = {"op": "touch", "comp": 2, "tag": 9, "exp": exp}
    vector: Json = {"id": "v", "src": "silicon", "cat": "x", "xcr0": "0xe7", "x0": "0x0", "steps": [step]}
    for name, value in changes.items():
        prefix, _, rest = name.partition("_")
        target, key = {"exp": (exp, rest), "step": (step, rest)}.get(prefix, (vector, name))
        if value is None and key != "fault":
            del target[key]
        else:
            target[key] = value
    return json.dumps(vector)


WRONG = {
    "not JSON": ("{", "column 2", "no JSON"),
    "not an object": ("[1]", "the object", "[1]"),
    "no id": (line(id=None), "id", "required"),
    "an unknown field": (line(colour="red"), "colour", "allowed: id, src"),
    "an unknown field of a step": (line(step_reg=1), "steps[0].reg", "allowed: exp, op, comp, tag"),
    "an unknown field of exp": (line(exp_flags="0x0"), "steps[0].exp.flags", "allowed: fault, noninit"),
    "an unknown op": (line(step_op="fxsave"), "steps[0].op", "'fxsave'"),
    "no op": (line(step_op=None), "steps[0].op", "allowed: touch, touch1"),
    "no exp": (line(step_exp=None), "steps[0].exp", "required"),
    "no fault": (line(exp_noninit=None), "steps[0].exp.noninit", "required"),
    "a wrong type": (line(step_tag="9"), "steps[0].tag", '"9"'),
    "a tag out of range": (line(step_tag=256), "steps[0].tag", "256"),
    "an unknown component": (line(step_comp=3), "steps[0].comp", "0, 1, 2, 5, 6 or 7"),
    "bad hexadecimal": (line(x0="0xzz"), "x0", '"0xzz"'),
    "a decimal mask": (line(xcr0="231"), "xcr0", "hexadecimal"),
    "a mask as an integer": (line(exp_xinuse=4), "steps[0].exp.xinuse", "hexadecimal"),
    "a mask of 65 bits": (line(exp_xinuse="0x10000000000000000"), "steps[0].exp.xinuse", "64 bits"),
    "a fault that is none": (line(exp_fault="GP"), "steps[0].exp.fault", '"GP"'),
    "a content that is none": (line(exp_regs={"0": 1.5}), "steps[0].exp.regs.0", "1.5"),
    "an unknown component in regs": (line(exp_regs={"9": 1}), "steps[0].exp.regs.9", '"9"'),
    "no steps": (line(steps=[]), "steps", "at least 1 item"),
    "an XCR0 without x87": (line(xcr0="0xe6"), "0xe6", "bit 0"),
    "an XCR0 with PKRU": (line(xcr0="0x2e7"), "0x2e7", "0xe7"),
    "an IA32_XSS with PASID": (line(xss="0x400"), "xss is 0x400", "0x1800"),
    "another source": (line(src="qemu"), "src", "'silicon' or 'bochs'"),
    "a field twice": ('{"id": "a", "id": "b"}', "id", "twice"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_line_that_is_not_of_the_schema_is_one_error_with_its_place(name: str, tmp_path: Path) -> None:
    wrong, *parts = WRONG[name]
    path = tmp_path / "wrong.jsonl"
    path.write_text("\n".join([line(), line(), wrong, line(id=None)]) + "\n")
    with pytest.raises(InputError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}:3: ")
    assert "\n" not in message
    assert "allowed" in message or "required" in message or "should" in message
    for part in parts:
        assert part in message


def test_a_valid_line_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "right.jsonl"
    path.write_text(line() + "\n")
    assert verify(path).departures == []


def test_bytes_that_are_not_text_are_an_error_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "binary.jsonl"
    path.write_bytes(line().encode() + b"\n\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.jsonl:2: byte 0: found bytes that are not UTF-8"):
        read(path)


def test_a_register_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "register.jsonl"
    path.write_text(line(step_op="touch1", step_comp=5, step_reg=8))
    with pytest.raises(InputError, match=r":1: steps\[0\]: .*reg 8, allowed in component 5: 0 to 7"):
        read(path)


def test_a_meta_line_that_places_a_component_outside_the_buffer_is_an_error(tmp_path: Path) -> None:
    meta = json.loads((DATA / "bochs.jsonl").read_text().splitlines()[0])
    meta["cpuid_0d"]["7"][1] = "0x1000"
    path = tmp_path / "meta.jsonl"
    path.write_text(json.dumps(meta))
    with pytest.raises(InputError, match=r":1: the object: .*EBX of cpuid_0d\.7 is 0x1000"):
        read(path)


@pytest.mark.parametrize("content", [None, "", (DATA / "bochs.jsonl").read_text().splitlines()[0]])
def test_a_file_without_vectors_is_an_error(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"none\.jsonl.* allowed: "):
        read(path)


# The command.


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["verify", "vectors", *arguments])
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


def test_the_command_prints_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = command(capsys, "--json", *map(str, FILES))
    document = json.loads(out)
    assert status == 0
    assert [document["vectors"], document["departures"], document["disputed"]] == [814, 0, 10]
    assert [file["file"] for file in document["files"]] == [str(path) for path in FILES]
    assert Counter({file["vectors"] for file in document["files"]}) == Counter({4, 80, 90, 110, 120, 150, 260})


def corrupted_file(tmp_path: Path) -> Path:
    path = tmp_path / "corrupted.jsonl"
    lines = (DATA / "silicon-xinuse.jsonl").read_text().splitlines()
    path.write_text("\n".join(text.replace('"noninit":"0x0"', '"noninit":"0x20"') for text in lines))
    return path


def test_a_departure_is_status_1_and_names_both_values(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, _ = command(capsys, "--json", str(corrupted_file(tmp_path)))
    document = json.loads(out)
    first = document["files"][0]["departures"][0]
    assert status == 1
    assert first == {"id": "si-xinuse-0044", "step": 0, "field": "noninit", "expected": "0x20", "got": "0x0"}
    assert document["departures"] == len(document["files"][0]["departures"])


def shown(out: str) -> Iterator[str]:
    return (text for text in out.splitlines() if text.startswith("si-"))


def test_the_text_shows_20_departures_unless_all_are_wanted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(corrupted_file(tmp_path))
    status, out, _ = command(capsys, path)
    assert status == 1
    assert len(list(shown(out))) == 20
    assert "more departures: --all prints them." in out
    _, everything, _ = command(capsys, "--all", path)
    assert len(list(shown(everything))) > 20
    assert "--all" not in everything


def test_the_text_of_departures_names_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(corrupted_file(tmp_path))
    _, out, _ = command(capsys, str(FILES[0]), path)
    assert f"\n\n{path}:\nid " in out
    assert f"{FILES[0]}:" not in out


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> Json:
    status, out, _ = command(capsys, "--json", *arguments)
    assert status == 0
    document = json.loads(out)
    for file in document["files"]:
        del file["file"]
    return document


FIRST = FILES[0].read_bytes()
SAME = {
    "BOM": b"\xef\xbb\xbf" + FIRST,
    "blank lines at the end": FIRST + b"\n\r\n  \n",
    "blank lines elsewhere": b"\n" + FIRST.replace(b"\n", b"\n\n"),
    "gzip": gzip.compress(FIRST),
    "gzip with BOM": gzip.compress(b"\xef\xbb\xbf" + FIRST),
}


@pytest.mark.parametrize("name", SAME)
def test_a_bom_blank_lines_and_gzip_do_not_matter(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "same"
    path.write_bytes(SAME[name])
    assert json_of(capsys, str(path)) == json_of(capsys, str(FILES[0]))


@pytest.mark.parametrize("packed", [False, True])
def test_vectors_come_through_standard_input(packed: bool) -> None:
    arguments = [sys.executable, "-m", "sim.cli", "verify", "vectors", "-", "--json"]
    done = subprocess.run(arguments, input=gzip.compress(FIRST) if packed else FIRST, capture_output=True, check=True)
    (file,) = json.loads(done.stdout)["files"]
    assert (file["file"], file["vectors"]) == ("-", len(read(FILES[0]).vectors))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\n\n{\n", ":3: column 2"),
        (b"\xef\xbb\xbf\n", ":1: no vector found"),
        (b"\x1f\x8b\x08\x00broken", ": cannot be read"),
        (gzip.compress(b"[1]", mtime=0)[:-6], ": cannot be read"),
        (gzip.compress(b"\n[1]", mtime=0), ":2: the object"),
    ],
    ids=range(5),
)
def test_what_is_wrong_in_such_a_file_is_one_line_with_its_place(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "wrong"
    path.write_bytes(content)
    status, out, err = command(capsys, str(path))
    assert (status, out) == (2, "")
    assert err.startswith(f"fpswitch: {path}{says}")
    assert err.count("\n") == 1


def test_the_help_of_verify_has_an_example_and_that_of_vectors_every_json_key(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    assert "fpswitch verify vectors tests/data/vectors/*.jsonl" in capsys.readouterr().out
    _, text, _ = command(capsys, "--help")
    document = json.loads(command(capsys, "--json", str(corrupted_file(tmp_path)))[1])
    file = document["files"][0]
    keys = {*document, *file, *file["departures"][0]}
    assert {key for key in keys if f'"{key}"' not in text} == set()


def test_a_wrong_file_is_status_2_and_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, err = command(capsys, str(tmp_path / "missing.jsonl"))
    assert (status, out) == (2, "")
    assert err.startswith("fpswitch: ")
    assert err.count("\n") == 1


def test_no_file_at_all_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys)[0] == 2
