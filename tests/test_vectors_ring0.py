"""XSAVES and XRSTORS that a kernel on a Zen 4 executed at CPL 0, against the processor model, driven and free."""

import copy
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from vectors import DATA, Json, departures, records, tolerated

from sim.cli import main
from sim.errors import InputError
from sim.verification.vectors.drive import verify
from sim.verification.vectors.reading import read
from sim.xsave.freedoms import Freedoms
from sim.xsave.profiles import names, profile

FILES = sorted((DATA / "ring0").glob("*.jsonl"))
SILICON = [*FILES, *sorted(DATA.glob("silicon-*.jsonl")), *sorted((DATA / "zen4").glob("*.jsonl.gz"))]
ZEN4 = profile("zen4").freedoms
RECORDS = records(FILES)


def differences(free: Freedoms, paths: list[Path] = FILES) -> Counter[str]:
    """All that differs, also where a processor may choose, by field."""
    results = [verify(path, free) for path in paths]
    return Counter(each.field for result in results for each in (*result.departures, *result.left_open))


# The recordings.


def test_the_ring_0_sample_is_every_fourth_of_what_was_recorded() -> None:
    counts = {path.stem.removeprefix("silicon-s-"): len(read(path).vectors) for path in FILES}
    assert counts == {"cross": 18, "exit": 8, "group": 15, "mix": 25, "modopt": 35, "mx": 18, "xrstors": 30}
    assert sum(path.stat().st_size for path in FILES) < 300 << 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_driven_the_model_agrees_with_every_ring_0_vector(path: Path) -> None:
    result = verify(path)
    assert result.departures == []
    assert result.steps > result.vectors > 0


@pytest.mark.parametrize("path", SILICON, ids=lambda path: path.stem)
def test_free_a_zen4_does_in_every_field_what_the_silicon_did(path: Path) -> None:
    """XINUSE after each step, XSTATE_BV, what was written and what was left: also where a processor may choose."""
    result = verify(path, ZEN4)
    assert (result.departures, result.left_open) == ([], [])


@pytest.mark.parametrize(
    "name", [each.name for each in fields(Freedoms) if getattr(ZEN4, each.name) != getattr(Freedoms(), each.name)]
)
def test_without_any_one_of_its_settings_a_free_zen4_differs(name: str) -> None:
    assert differences(replace(ZEN4, **{name: getattr(Freedoms(), name)}), SILICON)


@pytest.mark.parametrize(
    ("name", "value", "only"),
    [
        ("mxcsr_apart_from_xmm", False, {"w"}),
        ("modified_optimisation", False, {"w", "c"}),
    ],
)
def test_what_a_save_skips_is_a_choice_that_changes_no_register(name: str, value: bool, only: set[str]) -> None:
    found = differences(replace(ZEN4, **{name: value}, legacy_sse_write_marks_avx_in_use=False))
    base = differences(replace(ZEN4, legacy_sse_write_marks_avx_in_use=False))
    assert {field for field in found if found[field] > base[field]} >= only - {"c"}
    assert not {"cv", "fault", "mxcsr", "mxcsr_saved"} & set(found)


@pytest.mark.parametrize("name", [name for name in names() if name != "zen4"])
def test_free_another_cpu_departs_only_where_the_silicon_left_a_stale_avx_area(name: str) -> None:
    """The registers hold then what the silicon's did not: component 2, which was initial, and nothing else."""
    for path in FILES:
        for each in verify(path, profile(name).freedoms).departures:
            if each.field == "noninit":
                assert int(each.expected, 16) ^ int(each.got, 16) == 4
            else:
                assert (each.field, list(each.expected), each.got) == ("regs", ["2"], {"2": 0}) or each.field == "c"


def test_an_architectural_processor_writes_the_avx_area_that_the_silicon_left_stale() -> None:
    group = next(path for path in FILES if path.stem.endswith("group"))
    architectural = replace(ZEN4, legacy_sse_write_marks_avx_in_use=False)
    found = verify(group, architectural).departures
    assert {each.field for each in found} - {"c"} == {"noninit", "regs"}
    assert len({each.id for each in found}) >= 5


# Corruptions of what is guaranteed, driven and free: (step, field) that must be named.

Corruption = Callable[[Json], tuple[int, str] | None]


def steps(record: Json, op: str, wanted: Callable[[Json], bool] = lambda exp: True) -> list[tuple[int, Json]]:
    return [(n, step["exp"]) for n, step in enumerate(record["steps"]) if step["op"] == op and wanted(step["exp"])]


def flip(op: str, name: str, bit: int) -> Corruption:
    def corrupt(record: Json) -> tuple[int, str] | None:
        for number, exp in steps(record, op, lambda exp: name in exp):
            exp[name] = f"{int(exp[name], 16) ^ 1 << bit:#x}"
            return number, name
        return None

    return corrupt


def change_a_content(op: str, name: str) -> Corruption:
    def corrupt(record: Json) -> tuple[int, str] | None:
        for number, exp in steps(record, op, lambda exp: bool(exp.get(name))):
            component = next(iter(exp[name]))
            exp[name][component] = 251
            return number, name
        return None

    return corrupt


def write_what_is_initial(record: Json) -> tuple[int, str] | None:
    for number, exp in steps(record, "xsaves"):
        for i in (2, 5, 6, 7):
            if exp["w"][str(i)] == "N" and not int(exp["bv"], 16) >> i & 1:
                exp["w"][str(i)] = "F"
                return number, "w"
    return None


def leave_what_was_modified(record: Json) -> tuple[int, str] | None:
    """Component 7 was touched since the last restore, and its area held something else."""
    for number, exp in steps(record, "xsaves", lambda exp: exp["w"]["7"] == "F"):
        before = record["steps"][number - 1]
        if (before["op"], before.get("comp")) == ("touch", 7):
            exp["w"]["7"] = "N"
            del exp["c"]["7"]
            return number, "w"
    return None


def left_what_came_into_use(record: Json) -> tuple[int, str] | None:
    """A 512-bit write brings ZMM_Hi256 into use: to leave a stale area there would be a loss, as it is in any component
    but AVX after a legacy SSE write."""
    for number, exp in steps(record, "xsaves", lambda exp: exp["w"]["6"] == "F" and exp["c"].get("6") == 0):
        exp["w"]["6"] = "N"
        del exp["c"]["6"]
        return number, "w"
    return None


def a_content_too_few(record: Json) -> tuple[int, str] | None:
    for number, exp in steps(record, "xsaves", lambda exp: bool(exp["c"])):
        del exp["c"][next(iter(exp["c"]))]
        return number, "c"
    return None


def restore_at_cpl_3(record: Json) -> tuple[int, str] | None:
    for number, step in enumerate(record["steps"]):
        if step["op"] == "xrstors":
            step["cpl"] = 3
            return number, "fault"
    return None


ALWAYS: dict[str, Corruption] = {
    "cv": flip("xsaves", "cv", 7),
    "mxcsr_saved": flip("xsaves", "mxcsr_saved", 13),
    "mxcsr": flip("xrstors", "mxcsr", 13),
    "noninit": flip("xrstors", "noninit", 7),
    "bv beyond RFBM": flip("xsaves", "bv", 12),
    "c": change_a_content("xsaves", "c"),
    "regs": change_a_content("xrstors", "regs"),
    "XRSTORS at CPL 3": restore_at_cpl_3,
}
DRIVEN: dict[str, Corruption] = ALWAYS | {
    "bv": flip("xsaves", "bv", 5),
    "an initial component that is written": write_what_is_initial,
    "a modified component that is left": leave_what_was_modified,
    "a component that came into use and is left stale": left_what_came_into_use,
    "a content too few": a_content_too_few,
}


@pytest.mark.parametrize("name", DRIVEN)
def test_a_corruption_is_reported_with_its_step_and_field(name: str) -> None:
    tried = 0
    for record in RECORDS:
        mutated = copy.deepcopy(record)
        where = DRIVEN[name](mutated)
        if where:
            tried += 1
            assert (record["id"], *where) in departures(mutated), (record["id"], where)
            if name in ALWAYS:
                assert (record["id"], *where) in departures(mutated, ZEN4), (record["id"], where)
    assert tried >= 4


# What is left open: each changes the record in a way that the README allows, and no save or restore may follow it.


def last_save(record: Json) -> Json | None:
    step = record["steps"][-1]
    return step["exp"] if step["op"] == "xsaves" else None


def skip_mxcsr(record: Json) -> bool:
    """Nothing wrote SSE since the restore, so that a processor that keeps MXCSR with XMM skips both."""
    exp = last_save(record)
    if not exp or record["steps"][-2]["op"] != "xrstors" or exp["w"]["mxcsr"] != "F" or exp["mxcsr_saved"] != "0x1f80":
        return False
    exp["w"] |= {"mxcsr": "?", "mxcsr_mask": "?"}
    return True


def write_the_stale_area(record: Json) -> bool:
    exp = last_save(record)
    if not exp or exp["w"]["2"] != "N" or not int(exp["bv"], 16) & 4:
        return False
    exp["w"]["2"], exp["c"]["2"] = "F", 0
    return True


def skip_after_an_exit(record: Json) -> bool:
    """An exit that loses nothing."""
    exp = last_save(record)
    if not exp or record["steps"][-2]["op"] != "cpuid" or exp["w"]["x87"] != "F":
        return False
    exp["w"]["x87"] = "N"
    del exp["c"]["0"]
    return True


def not_see_a_write(record: Json) -> bool:
    exp = last_save(record)
    if not exp or "F" not in exp["w"].values():
        return False
    exp["w"] = {piece: "?" if letter == "F" else letter for piece, letter in exp["w"].items()}
    return True


LEFT_OPEN: dict[str, tuple[Callable[[Json], bool], int]] = {
    "MXCSR that is skipped with XMM": (skip_mxcsr, 4),
    "a simulator that writes the stale AVX area": (write_the_stale_area, 3),
    "a host whose exits lose nothing": (skip_after_an_exit, 2),
    "a write that could not be seen": (not_see_a_write, 40),
}


@pytest.mark.parametrize("name", LEFT_OPEN)
def test_driven_what_is_left_to_a_processor_is_no_departure(name: str) -> None:
    mutate, at_least = LEFT_OPEN[name]
    assert tolerated(mutate, RECORDS) >= at_least


# The schema.


def wrong(change: Callable[[Json, Json], None]) -> str:
    """A vector with a change to it or to its first XSAVES."""
    record = copy.deepcopy(RECORDS[0])
    change(record, next(step for step in record["steps"] if step["op"] == "xsaves"))
    return json.dumps(record)


WRONG: dict[str, tuple[Callable[[Json, Json], Any], str]] = {
    "CPL 0 without IA32_XSS": (lambda r, s: r.pop("xss"), "xss is missing, required"),
    "CPL 1": (lambda r, s: s.update(cpl=1), "cpl: found 1"),
    "prefill true": (lambda r, s: s.update(prefill=True), "prefill: found true"),
    "no prefill and no pre_bv": (lambda r, s: s.pop("prefill"), "pre_bv is missing, required"),
    "pre_bv and no prefill": (lambda r, s: s.update(pre_bv="0x0"), "pre_bv is given"),
    "XSAVEC without prefill": (lambda r, s: s.update(op="xsavec"), "op is xsavec"),
    "another letter": (lambda r, s: s["exp"]["w"].update(x87="X"), "w.x87: found"),
    "CPUID no times": (lambda r, s: r["steps"].append({"op": "cpuid", "n": 0, "exp": s["exp"]}), "n: found 0"),
    "a tag too few": (lambda r, s: r["steps"][0]["image"]["tags"].update({"5": [1, 2]}), "2 tags in tags.5"),
    "FNINIT of no tag": (lambda r, s: r["steps"][0]["image"]["tags"].update({"0": "fninit:256"}), "fninit:"),
    "FNINIT of XMM": (lambda r, s: r["steps"][0]["image"]["tags"].update({"1": "fninit:2"}), "tags.1 is 'fninit:2'"),
    "CPL of the emulator": (lambda r, s: r.update(src="bochs"), "cpl is given, allowed: in vectors from silicon"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_vector_that_is_not_of_the_ring_0_schema_is_one_error_with_its_place(name: str, tmp_path: Path) -> None:
    change, said = WRONG[name]
    path = tmp_path / "wrong.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n" + wrong(change) + "\n")
    with pytest.raises(InputError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}:2: ")
    assert "\n" not in message
    assert said in message


@pytest.mark.parametrize("tag", [7, 120, 255])
def test_x87_of_any_tag_may_be_as_after_fninit(tag: int) -> None:
    """120 marks what is stale from before a vector: here it is not loaded."""
    stale = [each for each in RECORDS if each["steps"][0]["image"]["tags"]["0"] == 120]
    for record in stale:
        mutated = copy.deepcopy(record)
        mutated["steps"][0]["image"]["tags"]["0"] = f"fninit:{tag}"
        assert departures(mutated) == []
    assert len(stale) > 20


# The command.


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["verify", "vectors", *arguments])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def test_free_the_command_counts_what_is_left_open_apart_from_departures(capsys: pytest.CaptureFixture[str]) -> None:
    cross = str(FILES[0])
    document = json.loads(command(capsys, "--json", "--free", "zen4", cross)[1])
    assert (document["departures"], document["left_open"]) == (0, 0)
    status, out, _ = command(capsys, "--json", "--free", "sapphire-rapids", cross)
    document = json.loads(out)
    assert (status, document["departures"]) == (0, 0)
    assert document["left_open"] == len(document["files"][0]["left_open"]) > 20
    _, text, _ = command(capsys, "--free", "sapphire-rapids", cross)
    assert f"{cross}, left open:" in text
    assert f"{document['left_open'] - 20} more differences: --all prints them." in text


def test_an_unknown_cpu_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = command(capsys, "--free", "zem4", str(FILES[0]))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "did you mean 'zen4'?" in err
