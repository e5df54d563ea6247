"""What comes with the package: scenarios by name from any directory, a file to start from, facts about itself."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from command import run, run_json

import sim
from sim.errors import InputError
from sim.scenario.cases import cases
from sim.scenario.reading import read
from sim.scenario.shipped import names
from sim.xsave.components import COMPONENTS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A wheel of this checkout, unpacked and not installed."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def elsewhere(unpacked, folder, *arguments):
    """What a Python prints that finds the package in the wheel alone, in a directory of its own."""
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_wheel_knows_the_shipped_scenarios_by_name_from_any_directory(unpacked, tmp_path):
    assert elsewhere(unpacked, tmp_path, "-c", "import sim; print(sim.__file__)").startswith(str(unpacked))
    listed = json.loads(elsewhere(unpacked, tmp_path, "-m", "sim.cli", "scenarios", "--json"))
    assert [each["name"] for each in listed["scenarios"]] == sorted(path.stem for path in ROOT.glob("scenarios/*.toml"))
    shown = json.loads(elsewhere(unpacked, tmp_path, "-m", "sim.cli", "show", "rfc-question", "--json"))
    assert shown["scenario"] == read(ROOT / "scenarios/rfc-question.toml").written()
    assert elsewhere(unpacked, tmp_path, "-m", "sim.cli", "new", "mine.toml")
    assert elsewhere(unpacked, tmp_path, "-m", "sim.cli", "show", "mine.toml")


def test_a_wheel_has_each_scenario_once_and_says_that_it_is_typed(unpacked):
    found = [path.relative_to(unpacked) for path in unpacked.rglob("rfc-question.toml")]
    assert found == [Path("sim/scenario/data/rfc-question.toml")]
    assert (unpacked / "sim/py.typed").is_file()


def test_the_version_is_the_same_everywhere(unpacked, tmp_path):
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    assert f"\nVersion: {sim.__version__}\n" in metadata.read_text(encoding="utf-8")
    assert elsewhere(unpacked, tmp_path, "-m", "sim.cli", "--version").strip().endswith(f" {sim.__version__}")


def test_each_shipped_scenario_is_listed_with_what_it_asks_and_how_long_it_takes(capsys):
    (found,) = run_json(capsys, "scenarios").values()
    assert [each["name"] for each in found] == list(names())
    for each in found:
        assert each["question"] == read(each["name"]).question
        assert each["seconds"] > 0
    status, text, _ = run(capsys, "scenarios")
    assert status == 0
    assert max(map(len, text.splitlines())) <= 72
    assert all(name in text for name in names())


def test_a_question_fits_into_a_list():
    assert [name for name in names() if not 20 < len(read(name).question) < 150] == []


def test_each_shipped_scenario_asks_about_a_pair_of_its_own_or_about_its_schedule():
    for name in names():
        scenario = read(name)
        asked = {pair for case in cases(scenario) for pair in case.contrasts}
        assert (
            asked
            or any("@" in text for pair in scenario.run.contrasts for text in pair)
            or "schedule" in scenario.run.asks
        ), name


def test_a_new_scenario_is_complete_and_nothing_is_overwritten(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "new", "my-host.toml")[0] == 0
    assert run(capsys, "show", "my-host.toml")[0] == 0
    (case,) = cases(read("my-host.toml"))
    assert set(case.contrasts[0]) <= set(case.strategies)
    before = Path("my-host.toml").read_bytes()
    status, out, err = run(capsys, "new", "my-host.toml")
    assert (status, out) == (2, "")
    assert "already exists" in err
    assert Path("my-host.toml").read_bytes() == before


def test_what_the_comments_of_a_new_scenario_offer_is_right(tmp_path, capsys):
    path = tmp_path / "my-host.toml"
    assert run(capsys, "new", str(path))[0] == 0
    lines = path.read_text(encoding="utf-8").splitlines()
    offered = [
        line.removeprefix("# ") for line in lines if line.startswith("# ") and (" = " in line or "[" in line[:4])
    ]
    assert len(offered) == 6
    *keys, costs, sweep = (tomllib.loads(each) for each in (*offered[:4], "\n".join(offered[4:])))
    host = {f"host.{key}": value for each in keys for key, value in each.items()}
    assert list(host) == ["host.preemption", "host.hrtick", "host.tsc"]
    varied = cases(read(path, host | {"sweep": sweep["sweep"]}))
    assert [case.tsc_hz for case in varied] == [2.6e9] * 3
    assert {(case.scenario.host.preemption, case.scenario.host.hrtick) for case in varied} == {("voluntary", True)}
    assert set(costs["costs"]) == {"sapphire-rapids"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("my-host", "allowed: the path of a file that ends in .toml"),
        ("no/my-host.toml", "cannot write 'no/my-host.toml': No such file or directory"),
        ("a\0b.toml", "cannot write 'a\\x00b.toml'"),
        ("folder.toml", "already exists"),
    ],
)
def test_a_scenario_that_cannot_be_written_is_one_line(name, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.toml").mkdir()
    status, out, err = run(capsys, "new", name)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.toml"]


def test_a_mask_is_decoded_into_the_names_of_its_components():
    assert sim.decode(0) == ()
    assert sim.decode(0x8000_0000_0000_1A07) == ("FP", "SSE", "YMM", "PKRU", "CET_USER", "CET_KERNEL")
    assert sim.decode(1 << 62 | 1 << 20) == ("bit 20", "bit 62")
    assert sim.decode(sum(each.mask for each in COMPONENTS)) == tuple(each.name for each in COMPONENTS)
    for wrong in (-1, 1 << 64, "0x7", True, 7.0):
        with pytest.raises(InputError, match="allowed: a whole number from 0 to 0xffffffffffffffff"):
            sim.decode(wrong)


def test_the_licence_is_the_same_in_all_that_says_it_and_the_last_release_is_cited(unpacked):
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert "\nLicense-Expression: MIT\n" in metadata.read_text(encoding="utf-8")
    released = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert {"license: MIT", f"version: {released[0]}", "cff-version: 1.2.0"} <= set(citation.splitlines())
    assert sim.__version__ not in released[1:]
    assert sim.__version__ == released[0] or sim.__version__.endswith(".dev0")
    (text,) = unpacked.glob("*.dist-info/licenses/LICENSE")
    assert text.read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert text.read_text(encoding="utf-8").startswith("MIT License\n")


def test_every_source_of_the_kernel_module_says_its_licence():
    for path in (ROOT / "kmod/fpswitch_bench").iterdir():
        if path.name in ("Makefile", "Kbuild") or path.suffix == ".c":
            first = path.read_text(encoding="utf-8").partition("\n")[0]
            assert first[2:].strip() == "SPDX-License-Identifier: MIT OR GPL-2.0-only", path
    source = (ROOT / "kmod/fpswitch_bench/fpswitch_bench.c").read_text(encoding="utf-8")
    assert 'MODULE_LICENSE("Dual MIT/GPL")' in source


def test_what_contributing_names_is_there_and_it_names_every_package():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:sim|tests|benchmarks|docs|kmod)/[\w./-]*)", text))
    missing = {path for path in named if not (ROOT / path).exists()}
    assert missing == set()
    packages = {f"sim/{path.parent.name}" for path in ROOT.glob("sim/*/__init__.py")}
    assert packages <= named
