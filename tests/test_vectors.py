"""The processor model against recorded XSAVE instructions, and the comparison against corrupted recordings."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vectors import FILES, Json, departures, hexadecimal, records, tolerated

from sim.verification.vectors.drive import verify

SAVES = ("xsave", "xsaveopt", "xsavec", "xsaves")
RESTORES = ("xrstor", "xrstors")
CONTENTS = {0, 1, 2, 5, 6, 7, 11, 12}
RECORDS = records(FILES)


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


def corruption(name: str, wanted: Callable[[Json], bool], change: Callable[[Json, random.Random], None]) -> Corruption:
    """Changes the field ``name`` of what is expected of a random step that is ``wanted``."""

    def corrupt(record: Json, rng: random.Random) -> tuple[int, str] | None:
        found = steps_with(record, rng, wanted)
        if not found:
            return None
        number, _, exp = found
        change(exp, rng)
        return number, name

    return corrupt


def has(name: str) -> Callable[[Json], bool]:
    """A step of which something is expected of ``name``."""
    return lambda step: bool(step["exp"].get(name))


def turn_fault(exp: Json, rng: random.Random) -> None:
    exp["fault"] = None if exp["fault"] else "#GP"


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
    return corruption(name, lambda s: name in s["exp"] and wanted(s), lambda exp, rng: exp.pop(name))


def loads_registers(step: Json) -> bool:
    return step["op"] in RESTORES or step["op"] == "reinit"


def turn_letter(exp: Json, rng: random.Random) -> None:
    piece = rng.choice(sorted(exp["w"]))
    exp["w"][piece] = rng.choice([letter for letter in "FNP" if letter != exp["w"][piece]])


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
    def change(exp: Json, rng: random.Random) -> None:
        component = rng.choice(sorted(exp[name]))
        exp[name][component] = changed(exp[name][component], rng)

    return corruption(name, has(name), change)


def drop_content(name: str) -> Corruption:
    return corruption(name, has(name), lambda exp, rng: exp[name].pop(rng.choice(sorted(exp[name]))))


def add_content(exp: Json, rng: random.Random) -> None:
    component = rng.choice(sorted({"0", "1", "2", "5", "6", "7"} - set(exp["c"])))
    exp["c"][component] = 7


def add_mxcsr_saved(exp: Json, rng: random.Random) -> None:
    exp["mxcsr_saved"] = "0x1f80"


def move_off(exp: Json, rng: random.Random) -> None:
    exp["off"][rng.choice(sorted(exp["off"]))] += 64


def flip_msr(exp: Json, rng: random.Random) -> None:
    name = rng.choice(sorted(exp["msrs"]))
    exp["msrs"][name] = hexadecimal(int(exp["msrs"][name], 16) ^ 1 << rng.randrange(64))


CORRUPTIONS: dict[str, Corruption] = {
    "fault": corruption("fault", lambda s: True, turn_fault),
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
    "mxcsr_saved too many": corruption(
        "mxcsr_saved", lambda s: "bv" in s["exp"] and "mxcsr_saved" not in s["exp"], add_mxcsr_saved
    ),
    "letter": corruption("w", lambda s: "w" in s["exp"], turn_letter),
    "no letter": drop_content("w"),
    "no w": drop("w"),
    "c": corrupt_content("c"),
    "a content too few": drop_content("c"),
    "a content too many": corruption("c", lambda s: "c" in s["exp"] and len(s["exp"]["c"]) < 6, add_content),
    "no c": drop("c"),
    "regs": corrupt_content("regs"),
    "a register too few": drop_content("regs"),
    "no regs": drop("regs", loads_registers),
    "off": corruption("off", has("off"), move_off),
    "no off": drop("off"),
    "msrs": corruption("msrs", lambda s: "msrs" in s["exp"], flip_msr),
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
    assert tolerated(mutate, RECORDS) >= at_least
