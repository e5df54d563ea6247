"""What few recorded vectors have, or none: vectors written by hand, and single steps of a recorded one changed."""

import copy

import pytest
from vectors import FILES, ZERO_REGS, Json, departures, hexadecimal, records

from sim.verification.vectors.values import MSRS, after_fninit, content_of, describe, in_memory

RECORDS = records(FILES)


def by_id(name: str) -> Json:
    return copy.deepcopy(next(record for record in RECORDS if record["id"] == name))


PREFILL = {"pre_bv": "0x0", "pre_cv": "0x0", "pre_rest": 0}
ZERO_MSRS = dict.fromkeys(("U_CET", "PL0_SSP", "PL1_SSP", "PL2_SSP", "PL3_SSP"), "0x0")


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


def test_equal_quadwords_of_cet_s_are_quadwords_and_not_one_tag() -> None:
    """XSAVES of three shadow-stack pointers that are the same: `c` lists three, and only a tag stands for all."""
    steps: list[Json] = []
    for i, msr in enumerate(MSRS[12], 1):
        held = {name: "0x1000" if name in MSRS[12][:i] else "0x0" for names in MSRS.values() for name in names}
        exp = {"fault": None, "xinuse": "0x0", "noninit": "0x1000", "msrs": held}
        steps.append({"op": "wrmsr", "msr": msr, "value": "0x1000", "exp": exp})
    w = dict.fromkeys(("x87", "xmm", "mxcsr", "mxcsr_mask", "tail", "hdr_rest", "beyond"), "N") | {"12": "F"}
    saved = {
        "fault": None, "xinuse": "0x0", "noninit": "0x1000", "bv": "0x1000", "cv": "0x8000000000001000", "w": w,
        "off": {"12": 576}, "c": {"12": ["0x1000"] * 3}, "regs": ZERO_REGS, "mxcsr": "0x1f80",
    }  # fmt: skip
    steps.append({"op": "xsaves", "buf": 0, "rfbm": "0x1000", **PREFILL, "exp": saved})
    vector = {"id": "e", "src": "bochs", "cat": "cet", "xcr0": "0xe7", "xss": "0x1800", "x0": "0x0", "steps": steps}
    assert departures(vector) == []
    saved["c"] = {"12": ["0x1000", "0x1000", "0x1008"]}
    assert departures(vector) == [("e", 3, "c")]


@pytest.mark.parametrize("xmm", ["N", "F"])
def test_a_prefilled_xsaves_of_the_silicon_writes_mxcsr_even_if_it_skips_xmm(xmm: str) -> None:
    """Rule 4 of the README: MXCSR and its mask are written exactly if XSTATE_BV[1] = 1; unmodified XMM is a choice.

    It is one also while MXCSR is not initial.  What is loaded from there afterwards says which it was.
    """
    image = {"fmt": "c", "bv": "0x2", "cv": "0x80000000000008e7", "mxcsr": "0x3f80", "tags": {"1": 9}}
    state = {"fault": None, "xinuse": "0x2", "noninit": "0x2"}
    restored = state | {"regs": ZERO_REGS | {"1": 9}, "mxcsr": "0x3f80"}
    w = dict.fromkeys(("x87", "tail", "hdr_rest", "2", "5", "6", "7", "11", "beyond"), "N")
    saved = state | {
        "bv": "0x2", "cv": "0x80000000000008e7", "w": w | {"xmm": xmm, "mxcsr": "F", "mxcsr_mask": "F"},
        "c": {"1": 9} if xmm == "F" else {}, "mxcsr_saved": "0x3f80", "mxcsr_mask_saved": "0x2ffff",
    }  # fmt: skip
    loaded = 9 if xmm == "F" else 102  # the tag of the prefill of step 1
    steps: list[Json] = [
        {"op": "xrstors", "cpl": 0, "buf": 0, "rfbm": "0x18e7", "image": image, "exp": restored},
        {"op": "xsaves", "cpl": 0, "buf": 0, "rfbm": "0x8e7", **PREFILL, "exp": saved},
        {"op": "xrstors", "cpl": 0, "buf": 0, "rfbm": "0x18e7", "exp": restored | {"regs": ZERO_REGS | {"1": loaded}}},
    ]  # fmt: skip
    vector = {"id": "p", "src": "silicon", "cat": "own", "xcr0": "0xe7", "xss": "0x1800", "x0": "0x0", "steps": steps}
    assert departures(vector) == []
    saved["w"] |= {"mxcsr": "N", "mxcsr_mask": "N"}
    assert departures(vector) == [("p", 1, "w")]
