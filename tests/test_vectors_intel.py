"""An Intel server processor with AMX at CPL 3, against the processor model, and the recorder of such vectors."""

import ctypes
import json
import random
from collections import Counter
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from vectors import DATA

from sim.cli import main
from sim.errors import InputError
from sim.verification.vectors import drawing, recording, values
from sim.verification.vectors.drive import run, verify
from sim.verification.vectors.reading import read
from sim.xsave.area import Area
from sim.xsave.components import (
    AVX,
    AVX512,
    FP,
    HI16_ZMM,
    MXCSR_INIT,
    OPMASK,
    SSE,
    XTILE,
    XTILECFG,
    XTILEDATA,
    ZMM_HI256,
)
from sim.xsave.freedoms import Freedoms
from sim.xsave.profiles import names, profile
from sim.xsave.unit import Unit

FILES = sorted((DATA / "intel").glob("*.jsonl.gz"))
RAPIDS = ("sapphire-rapids", "emerald-rapids", "granite-rapids")
READ = [read(path) for path in FILES]
INTEL = profile("sapphire-rapids").freedoms
EVERYTHING = FP | SSE | AVX | AVX512 | XTILE


@cache
def differences(free: Freedoms) -> Counter[str]:
    results = [run(file, free) for file in READ]
    return Counter(each.field for result in results for each in (*result.departures, *result.left_open))


# The recordings.


def test_the_sample_has_every_category_in_its_share() -> None:
    with_amx, without = (Counter(vector.cat for vector in file.vectors) for file in READ)
    assert without == {
        category: 100 * drawing.SHARES[category] for category in ("mix", "modopt", "mx", "xinuse", "fault")
    }
    assert with_amx == {category: 40 * share for category, share in drawing.SHARES.items()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_driven_the_model_departs_from_nothing_that_is_guaranteed(path: Path) -> None:
    assert verify(path).departures == []


@pytest.mark.parametrize("name", RAPIDS)
def test_a_free_processor_of_its_kind_does_in_every_field_what_it_did(name: str) -> None:
    assert differences(profile(name).freedoms) == {}


@pytest.mark.parametrize("name", [each.name for each in fields(Freedoms) if getattr(INTEL, each.name) != each.default])
def test_without_any_one_of_its_settings_it_differs(name: str) -> None:
    assert differences(replace(INTEL, **{name: getattr(Freedoms(), name)}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loading_initial_values_sets_xinuse", False),
        ("mxcsr_sets_xstate_bv", True),
        ("restore_group", SSE | AVX | ZMM_HI256),
        ("vzeroupper_marks_group_modified", True),
        ("legacy_sse_write_marks_avx_in_use", True),
        ("modified_optimisation", False),
        ("init_optimisation", False),
    ],
)
def test_with_a_setting_that_zen4_has_or_no_optimisation_it_differs(name: str, value: Any) -> None:
    # Without what it tracks of registers 8-15, which would set XINUSE of vector registers whatever else there is.
    plain = replace(INTEL, upper_registers_apart=False)
    assert differences(replace(plain, **{name: value})) - differences(plain)


def test_only_the_three_that_it_may_be_have_its_settings() -> None:
    assert [name for name in names() if profile(name).freedoms.ldmxcsr_sets_xinuse] == sorted(RAPIDS)


# What it does with AMX: each row was seen in 50 of 50 runs.  What happens between an XRSTOR of both components with
# XSTATE_BV as given and an XSAVEOPT to the same area; XINUSE before that save, and what it wrote.


@pytest.mark.parametrize(
    ("restored", "between", "in_use", "written"),
    [
        (XTILE, lambda cpu: None, XTILE, XTILECFG),
        (XTILE, lambda cpu: cpu.touch(XTILEDATA, "tileloadd"), XTILE, XTILE),
        (XTILE, lambda cpu: cpu.initialise(XTILE), 0, 0),
        (XTILECFG, lambda cpu: None, XTILECFG, XTILECFG),
    ],
    ids=["nothing", "TILELOADD", "TILERELEASE", "nothing, TILECFG alone"],
)
def test_tilecfg_is_written_whenever_it_is_in_use(restored: int, between: Any, in_use: int, written: int) -> None:
    cpu, memory = Unit(XTILE | 3, freedoms=INTEL), Area(0x1000)
    memory.xstate_bv = restored
    memory.standard[17] = memory.standard[18] = "loaded"
    cpu.xrstor(memory, XTILE)
    between(cpu)
    assert cpu.xgetbv1() == in_use
    assert cpu.xsaveopt(memory, XTILE) == written


def test_what_ldtilecfg_refuses_a_restore_initialises_and_the_sample_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    valid = values.in_memory(17, 5)
    refused = {
        "palette 2": b"\2" + valid[1:], "palette 0": b"\0" + valid[1:],
        "a reserved byte": valid[:2] + b"\1" + valid[3:],
        "17 rows": valid[:48] + b"\x11" + valid[49:], "65 bytes": valid[:16] + b"\x41" + valid[17:],
        "no rows": valid[:48] + b"\0" + valid[49:],
    }  # fmt: skip
    assert {what for what, raw in refused.items() if values.content_of(17, raw) != values.INIT} == set()
    for taken in (valid, valid[:1] + b"\3" + valid[2:], valid[:16] + b"\x3f" + valid[17:]):  # a start row, 63 bytes
        assert values.content_of(17, taken) == taken
    monkeypatch.setattr(values, "_is_tilecfg", lambda raw: True)
    assert any(departure.field == "regs" for file in READ for departure in run(file).departures)


def test_ldtilecfg_of_zeros_clears_xinuse_of_tilecfg() -> None:
    cpu = Unit(XTILE | 3, freedoms=INTEL)
    cpu.write(17, "palette 1")
    assert cpu.xgetbv1() == XTILECFG
    cpu.write(17, 0)
    assert cpu.xgetbv1() == 0


# Writes that vectors do not have, from the initial state: XGETBV(1) after one instruction, seen in each of 27 runs.


def test_a_256_bit_write_brings_sse_into_use_as_well() -> None:
    cpu = Unit(0xE7, freedoms=INTEL)
    cpu.touch(AVX, "vmovups ymm")
    assert cpu.xgetbv1() == SSE | AVX
    cpu.touch(ZMM_HI256, "vmovdqu64 zmm")
    assert cpu.xgetbv1() == SSE | AVX | ZMM_HI256


@pytest.mark.parametrize("components", [SSE, OPMASK, HI16_ZMM, SSE | OPMASK])
def test_a_zeroing_idiom_is_a_write_here_and_initialises_on_zen4(components: int) -> None:
    for free, in_use in ((INTEL, components), (profile("zen4").freedoms, 0)):
        cpu = Unit(0xE7, freedoms=free)
        cpu.zero(components)
        assert cpu.xgetbv1() == in_use
        cpu.touch(components, "value")
        cpu.zero(components)
        assert cpu.xgetbv1() == in_use
        assert {cpu.regs[i] for i in range(8)} == {0}


def test_ldmxcsr_of_the_initial_value_is_a_write_of_sse() -> None:
    cpu = Unit(0xE7, freedoms=INTEL)
    cpu.ldmxcsr(MXCSR_INIT)
    assert cpu.xgetbv1() == SSE
    cpu.initialise(SSE | AVX | ZMM_HI256)
    assert cpu.xgetbv1() == 0


# The recorder.


def test_the_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    first, again, other = ([*drawing.draw(40, seed, EVERYTHING)] for seed in (3, 3, 4))
    assert first == again != other


def test_what_the_machine_lacks_is_not_drawn() -> None:
    steps = [step for _, each in drawing.draw(400, 3, FP | SSE | AVX) for step in each]
    assert {step["comp"] for step in steps if "comp" in step} == {0, 1, 2}
    assert all(step.get("vex") for step in steps if step.get("comp") == 2)
    assert not {step["how"] for step in steps if "how" in step} & {"avxhi0", "zmmhi0", "kxor", "hi160", "tilezero"}


def test_a_run_that_never_agrees_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = recording.Recorder(_library())
    rng = random.Random(1)
    monkeypatch.setattr(
        machine, "_run", lambda *_: [recording.Seen(0, rng.getrandbits(60), bytes(16384), bytes(20480))]
    )
    said: list[None] = []
    drawn = [("mx", [{"op": "ldmxcsr", "value": "0x1f80"}])]
    assert [*recording.vectors(machine, drawn, lambda: said.append(None))] == []
    assert len(said) == 1


class _Function:
    """A function of the library; ``restype`` is set on it."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def __call__(self, *arguments: Any) -> Any:
        return self.result(*arguments) if callable(self.result) else self.result


INSTRUCTIONS = {
    name: place for some in (recording.NEEDED, *recording.OPTIONAL.values()) for name, place in some.items()
}


def _library(vendor: bytes = b"GenuineIntel", xcr0: int = 0xE7, without: str = "", permitted: int = 0) -> Any:
    def cpuid(leaf: int, subleaf: int, to: Any) -> None:
        if leaf == 0:
            for register, part in ((1, vendor[:4]), (3, vendor[4:8]), (2, vendor[8:])):
                to[register] = int.from_bytes(part, "little")
        for name, place in INSTRUCTIONS.items():
            if name != without and (leaf, subleaf) == place[:2]:
                to[place[2]] |= 1 << place[3]

    library = type("Library", (), {})()
    library.cpuid, library.xgetbv, library.run = _Function(cpuid), _Function(xcr0), _Function(None)
    library.permit_amx = _Function(permitted)
    return library


def test_a_processor_that_vectors_are_not_about_is_refused() -> None:
    with pytest.raises(InputError, match="calls itself 'CentaurHauls', allowed: GenuineIntel, AuthenticAMD"):
        recording.Recorder(_library(b"CentaurHauls"))
    with pytest.raises(InputError, match=r"XCR0 lacks components 2, allowed: .* AVX$"):
        recording.Recorder(_library(xcr0=3))
    with pytest.raises(InputError, match=r"XCR0 has components 3, 4, "):
        recording.Recorder(_library(xcr0=0xFF))


@pytest.mark.parametrize("name", recording.NEEDED)
def test_without_an_instruction_that_is_used_it_is_refused_and_not_killed_by_sigill(name: str) -> None:
    library = _library(without=name)
    library.xgetbv = _Function(lambda which: pytest.fail("XGETBV executed"))
    with pytest.raises(InputError, match=f"CPUID lacks {name}, allowed: "):
        recording.Recorder(library)


@pytest.mark.parametrize(
    ("library", "recorded"),
    [
        (_library(xcr0=0x602E7, permitted=1), EVERYTHING),
        (_library(xcr0=0x602E7), FP | SSE | AVX | AVX512),
        (_library(xcr0=0x602E7, permitted=1, without="AMX-TILE"), FP | SSE | AVX | AVX512),
        (_library(xcr0=0x2E7), FP | SSE | AVX | AVX512),
        (_library(xcr0=0x2E7, without="AVX512BW"), FP | SSE | AVX),
        (_library(xcr0=7), FP | SSE | AVX),
    ],
)
def test_recorded_is_what_processor_and_system_have_and_the_kernel_permits(library: Any, recorded: int) -> None:
    assert recording.Recorder(library).recorded == recorded


def test_a_library_that_cannot_be_loaded_is_said_and_not_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho text > "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert _status("verify", "record", str(tmp_path / "v.jsonl")) == 2
    assert "verify record: cannot load what was compiled: " in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [compiler]
    compiler.write_text("#!/bin/sh\nexit 3\n")
    assert _status("verify", "record", str(tmp_path / "v.jsonl")) == 2
    assert "cannot compile record.c: exit status 3, and no message" in capsys.readouterr().err


def test_it_overwrites_nothing_unless_it_is_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "v.jsonl"
    out.write_text("kept")
    assert _status("verify", "record", str(out)) == 2
    assert "already exists; --force overwrites it" in capsys.readouterr().err
    assert out.read_text() == "kept"


def test_without_a_compiler_or_with_a_directory_that_is_not_there_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert _status("verify", "record", str(tmp_path / "v.jsonl")) == 2
    assert "verify record: no C compiler found ($CC is 'no-such-compiler')" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def _status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    return int(ended.value.code or 0)


def test_what_this_processor_does_departs_from_nothing_that_is_guaranteed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On any processor of which vectors can be recorded."""
    out = tmp_path / "mine.jsonl"
    try:
        with recording.recorder() as machine:
            source = machine.source
    except InputError as refused:
        pytest.skip(str(refused))
    assert _status("verify", "record", str(out), "--vectors", "16", "--seed", "5", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["vectors"] + document["unstable"] == 16
    file = read(out)
    assert {vector.src for vector in file.vectors} == {source}
    assert verify(out).departures == []
    assert len(file.cpuid_0d[source]["0"]) == 4


def test_without_avx512_and_amx_it_records_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This processor, asked for x87, SSE and AVX only, as one would be that has no more."""
    monkeypatch.setattr(recording, "OPTIONAL", {})
    try:
        with recording.recorder() as machine:
            assert machine.recorded == FP | SSE | AVX
            recorded = [*recording.vectors(machine, drawing.draw(24, 6, machine.recorded))]
            lines = [machine.meta(), *recorded]
    except InputError as refused:
        pytest.skip(str(refused))
    out = tmp_path / "mine.jsonl"
    out.write_text("\n".join(json.dumps(line) for line in lines))
    assert {vector["xcr0"] for vector in recorded} == {"0x7"}
    assert all(
        set(step["exp"].get("regs", {})) <= {"0", "1", "2", "5", "6", "7"} for v in recorded for step in v["steps"]
    )
    assert verify(out).departures == []


def test_the_steps_are_laid_out_as_the_program_reads_them() -> None:
    """ctypes and C agree on the sizes: seven ints and padding, a mask, MXCSR and padding, two pointers, two sizes."""
    assert ctypes.sizeof(recording._Step) == 7 * 4 + 4 + 8 + 8 + 8 + 8 + 8 + 8
    assert ctypes.sizeof(recording._Seen) == 8 + 8 + 16384 + 20480
