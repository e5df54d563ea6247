"""Files of vectors: their schema, what in them does not matter, and `fpswitch verify vectors`."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vectors import DATA, FILES, ZERO_REGS, Json

from sim.cli import main
from sim.errors import InputError
from sim.verification.vectors.drive import verify
from sim.verification.vectors.reading import read

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
    "an unknown component": (line(step_comp=3), "steps[0].comp", "0, 1, 2, 5, 6, 7, 17 or 18"),
    "bad hexadecimal": (line(x0="0xzz"), "x0", '"0xzz"'),
    "a decimal mask": (line(xcr0="231"), "xcr0", "hexadecimal"),
    "a mask as an integer": (line(exp_xinuse=4), "steps[0].exp.xinuse", "hexadecimal"),
    "a mask of 65 bits": (line(exp_xinuse="0x10000000000000000"), "steps[0].exp.xinuse", "64 bits"),
    "a fault that is none": (line(exp_fault="GP"), "steps[0].exp.fault", '"GP"'),
    "a content that is none": (line(exp_regs={"0": 1.5}), "steps[0].exp.regs.0", "1.5"),
    "an unknown component in regs": (line(exp_regs={"9": 1}), "steps[0].exp.regs.9", '"9"'),
    "no steps": (line(steps=[]), "steps", "at least 1 item"),
    "an XCR0 without x87": (line(xcr0="0xe6"), "0xe6", "bit 0"),
    "an XCR0 with PKRU": (line(xcr0="0x2e7"), "0x2e7", "0x600e7"),
    "an IA32_XSS with PASID": (line(xss="0x400"), "xss is 0x400", "0x1800"),
    "another source": (line(src="qemu"), "src", "'silicon', 'intel' or 'bochs'"),
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


@pytest.mark.parametrize("component", [0, 5, 17])
def test_a_vex_prefix_is_for_xmm_and_ymm(component: int, tmp_path: Path) -> None:
    path = tmp_path / "vex.jsonl"
    path.write_text(line(step_comp=component, step_vex=True))
    with pytest.raises(InputError, match=rf"vex is given with component {component}, allowed: with 1 and 2"):
        read(path)


def test_a_meta_line_that_places_a_component_outside_the_buffer_is_an_error(tmp_path: Path) -> None:
    meta = json.loads((DATA / "bochs.jsonl").read_text().splitlines()[0])
    meta["cpuid_0d"]["7"][1] = "0x4000"
    path = tmp_path / "meta.jsonl"
    path.write_text(json.dumps(meta))
    with pytest.raises(InputError, match=r":1: the object: .*EBX of cpuid_0d\.7 is 0x4000"):
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
