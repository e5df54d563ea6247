"""The CPUs' data files against what CPUID itself says about sizes, and against masks and sizes published elsewhere."""

import importlib.util
import pickle
import subprocess
import sys
import tomllib
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

from sim.errors import InputError
from sim.kernel.config import Settings, boot
from sim.xsave import components
from sim.xsave.components import (
    APX,
    AVX512,
    CET_S,
    CET_U,
    COMPONENTS,
    EXTENDED,
    PASID,
    PKRU,
    PT,
    XTILE,
    XTILEDATA,
    bits,
)
from sim.xsave.families import AMD, INTEL, family
from sim.xsave.freedoms import Freedoms
from sim.xsave.profiles import FEATURES, GENERIC, names, profile

DUMPED = (
    "skylake-sp",
    "cascade-lake",
    "ice-lake-sp",
    "alder-lake",
    "arrow-lake",
    "sapphire-rapids",
    "emerald-rapids",
    "granite-rapids",
    "zen2",
    "zen3",
    "zen4",
    "zen5",
)
DOCUMENTED = ("sierra-forest", "diamond-rapids")
"""Of which no dump was found."""
REAL = (*DUMPED, *DOCUMENTED)
ZEN = ("zen2", "zen3", "zen4", "zen5")
WITHOUT_AVX512 = {"zen2", "zen3", "alder-lake", "arrow-lake", "sierra-forest"}
OF_AMX = {"sapphire-rapids", "emerald-rapids", "granite-rapids", "diamond-rapids", "ibt-no-shstk"}
CET_CAPABLE = tuple(name for name in REAL if profile(name).xss_supported & CET_S)


def registers(name: str) -> dict[str, dict[str, list[int]]]:
    text = (files("sim.xsave") / "cpus" / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["cpuid"]


def with_feature(feature: str) -> set[str]:
    assert feature in FEATURES
    return {name for name in names() if feature in profile(name).features}


def test_the_promised_cpus_are_there():
    assert set(names()) == {*REAL, "ibt-no-shstk"}


def test_a_misspelt_cpu_is_answered_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'sapphire-rapids'"):
        profile("saphire-rapids")


@pytest.mark.parametrize("name", ["", "../cpus/zen4", "zen4.toml", "ZEN4"])
def test_only_exact_names_open_a_file(name):
    with pytest.raises(InputError, match="unknown CPU"):
        profile(name)


@pytest.mark.parametrize("name", names())
def test_the_standard_size_of_all_of_xcr0_is_what_cpuid_reports(name):
    cpu = profile(name)
    assert cpu.standard(cpu.xcr0_supported).size == cpu.standard_size == registers(name)["13"]["0"][2]


@pytest.mark.parametrize(
    ("name", "l1d_kib", "l2_kib"),
    [
        ("skylake-sp", 32, 1024),
        ("ice-lake-sp", 48, 1280),
        ("sapphire-rapids", 48, 2048),
        ("emerald-rapids", 48, 2048),
        ("granite-rapids", 48, 2048),
        ("zen3", 32, 512),
        ("zen4", 32, 1024),
        ("zen5", 48, 1024),
        ("zen2", 32, 512),
        ("cascade-lake", 32, 1024),
        ("alder-lake", 48, 1280),
        ("arrow-lake", 48, 3072),
        ("sierra-forest", 32, 4096),
    ],
)
def test_cache_sizes_are_those_that_the_vendors_publish(name, l1d_kib, l2_kib):
    assert (profile(name).l1d_size, profile(name).l2_size) == (l1d_kib << 10, l2_kib << 10)


@pytest.mark.parametrize(
    ("name", "ghz"),
    [
        ("skylake-sp", 2.1),
        ("ice-lake-sp", 2.4),
        ("sapphire-rapids", 2.592),
        ("emerald-rapids", 2.1),
        ("granite-rapids", 3.0),
        ("zen3", 2.45),
        ("zen4", 2.596),
        ("zen5", 2.6),
        ("ibt-no-shstk", 2.592),
    ],
)
def test_the_tsc_counts_at_the_base_frequency_or_at_what_the_crystal_makes_of_it(name, ghz):
    assert profile(name).tsc_hz == pytest.approx(ghz * 1e9)


@pytest.mark.parametrize(
    ("name", "xcr0", "xss"),
    [
        # What was enabled when the dumps were made follows from the sizes themselves: an OS without protection keys
        # that uses Processor Trace and user shadow stacks where it finds them.  Only the masks are inferred.
        ("skylake-sp", 0xFF, PT),
        ("ice-lake-sp", 0xE7, PT),
        ("sapphire-rapids", 0xE7 | XTILE, PT | CET_U),  # 2576 is rounded up to 2624 for TILECFG
        ("emerald-rapids", 0xE7, PT | CET_U),
        ("granite-rapids", 0xE7 | XTILE, PT | CET_U),
        ("zen3", 0x7, 0),
        ("zen4", 0xE7, CET_U),
        ("zen5", 0xE7, CET_U),
        ("zen2", 0x7, 0),
        ("cascade-lake", 0xFF, PT),
        ("alder-lake", 0x7, CET_U | PT),
        ("arrow-lake", 0x7, CET_U | PT),
    ],
)
def test_sizes_of_the_enabled_components_are_those_that_cpuid_reported_to_the_dumper(name, xcr0, xss):
    cpu, leaf = profile(name), registers(name)["13"]
    assert cpu.standard(xcr0).size == leaf["0"][1]
    assert cpu.compacted(xcr0 | xss).size == leaf["1"][1]


@pytest.mark.parametrize(
    ("name", "mask", "size"),
    [
        ("skylake-sp", 0x2FF, 2568),
        ("ice-lake-sp", 0x2E7, 2440),
        ("sapphire-rapids", 0xAE7, 2456),
        ("sapphire-rapids", 0x1AE7, 2480),
        ("sapphire-rapids", 0xEE7, 2464),
        ("sapphire-rapids", 0x1EE7, 2488),
        ("sapphire-rapids", 0x20EE7, 2560),
        ("sapphire-rapids", 0x21EE7, 2560),
        ("sapphire-rapids", 0x20AE7, 2560),
        ("sapphire-rapids", 0x21AE7, 2560),
        ("granite-rapids", 0x60EE7, 10752),
        ("granite-rapids", 0x61EE7, 10752),
        ("emerald-rapids", 0x61EE7, 10752),
        ("zen4", 0xAE7, 2456),
        ("zen4", 0x1AE7, 2480),
        ("zen5", 0x1AE7, 2480),
        ("zen3", 0xA07, 856),
        ("zen3", 0x1A07, 880),
        ("zen2", 0x7, 832),
        ("alder-lake", 0x1A07, 880),
        ("arrow-lake", 0x1A07, 880),
        ("cascade-lake", 0x2FF, 2568),
        ("sierra-forest", 0x1E07, 888),
        ("diamond-rapids", 0xE1AE7, 10880),
    ],
)
def test_fpstates_of_linux_have_their_known_sizes(name, mask, size):
    assert profile(name).compacted(mask).size == size


@pytest.mark.parametrize(("name", "size"), [("skylake-sp", 2696), ("sapphire-rapids", 2816), ("zen4", 2440)])
def test_signal_frames_have_their_known_sizes(name, size):
    cpu = profile(name)
    assert cpu.standard(cpu.xcr0_supported & ~XTILEDATA).size == size


@pytest.mark.parametrize("name", names())
def test_every_supported_component_has_a_size_and_no_other_has(name):
    cpu = profile(name)
    assert cpu.components == cpu.xcr0_supported | cpu.xss_supported
    assert all(size > 0 for size in cpu.sizes.values())
    assert set(cpu.offsets) == set(bits[cpu.xcr0_supported & EXTENDED])
    assert set(registers(name)["13"]) == {"0", "1", *map(str, bits[cpu.components & EXTENDED])}


@pytest.mark.parametrize("name", names())
def test_cpuid_and_the_component_table_agree_on_what_is_a_supervisor_component(name):
    for i in bits[profile(name).components & EXTENDED]:
        assert bool(registers(name)["13"][str(i)][2] & 1) == COMPONENTS[i].supervisor


@pytest.mark.parametrize("name", names())
def test_the_generic_geometry_is_that_of_every_cpu(name):
    cpu = profile(name)
    assert cpu.sizes == {i: GENERIC.sizes[i] for i in cpu.sizes} | ({9: 64} if name == "zen2" else {})
    assert cpu.aligned == GENERIC.aligned & cpu.components
    if cpu.vendor == "intel":
        assert cpu.offsets == {i: GENERIC.offsets[i] for i in cpu.offsets}


def test_the_generic_geometry_has_every_component():
    assert GENERIC.components == components.ALL
    assert set(GENERIC.offsets) == set(bits[components.USER & EXTENDED])
    assert GENERIC.sizes[19] == 128
    assert GENERIC.offsets[19] == GENERIC.offsets[3]
    assert not GENERIC.aligned & APX


@pytest.mark.parametrize("name", CET_CAPABLE)
def test_cet_s_adds_no_cache_line_on_any_cet_capable_layout(name):
    # Whatever else Linux may have in an fpstate beside CET_U, which is always there.
    cpu = profile(name)
    optional = cpu.components & (AVX512 | PKRU | PASID | XTILE | APX)
    for mask in subsets(optional):
        without = cpu.compacted(mask | 0x7 | CET_U)
        carrying = cpu.compacted(mask | 0x7 | CET_U | CET_S)
        assert -(-carrying.size // 64) == -(-without.size // 64)
        assert carrying.offsets[12] // 64 == (carrying.offsets[12] + 23) // 64 == carrying.offsets[11] // 64


def subsets(mask: int):
    part = mask
    while True:
        yield part
        if not part:
            return
        part = part - 1 & mask


@pytest.mark.parametrize(
    ("feature", "having"),
    [
        ("XSAVES", {*REAL, "ibt-no-shstk"}),
        ("PKU", {*REAL, "ibt-no-shstk"} - {"zen2"}),
        ("AVX", {*REAL, "ibt-no-shstk"}),
        ("MPX", {"skylake-sp", "cascade-lake"}),
        ("AVX512F", {*REAL, "ibt-no-shstk"} - WITHOUT_AVX512),
        ("SHSTK", {*REAL} - {"skylake-sp", "cascade-lake", "ice-lake-sp", "zen2"}),
        ("IBT", {*REAL, "ibt-no-shstk"} - {"skylake-sp", "cascade-lake", "ice-lake-sp", *ZEN}),
        ("CET_SSS", {"emerald-rapids", "granite-rapids", "arrow-lake", "diamond-rapids"}),
        ("XFD", OF_AMX),
        ("AMX_TILE", OF_AMX),
        ("ENQCMD", OF_AMX | {"sierra-forest"}),
        ("ARCH_LBR", OF_AMX | {"sierra-forest", "alder-lake", "arrow-lake"}),
        ("UINTR", OF_AMX | {"sierra-forest", "arrow-lake"}),
        ("WRMSRNS", {"diamond-rapids"}),
        ("MSRLIST", {"diamond-rapids"}),
        ("FRED", {"diamond-rapids"}),
        ("APX", {"diamond-rapids"}),
    ],
)
def test_features_are_those_of_the_dumps(feature, having):
    assert with_feature(feature) == having


@pytest.mark.parametrize("name", names())
def test_features_and_components_of_a_cpu_fit(name):
    cpu = profile(name)
    for feature, mask in {
        "AVX": components.AVX,
        "MPX": components.MPX,
        "AVX512F": components.AVX512,
        "PKU": 0 if name == "zen2" else components.PKRU,
        "ENQCMD": components.PASID,
        "UINTR": components.UINTR,
        "ARCH_LBR": components.LBR,
        "AMX_TILE": components.XTILE,
        "SHSTK": components.CET_S,
        "APX": components.APX,
    }.items():
        assert cpu.components & mask == (mask if feature in cpu.features else 0), feature
    assert bool(cpu.xss_supported & CET_U) == bool(cpu.features & {"SHSTK", "IBT"})
    assert cpu.xfd_supported == (XTILEDATA if "XFD" in cpu.features else 0)


def test_zen_2_has_pkru_state_of_another_size_at_another_place_and_no_protection_keys():
    cpu = profile("zen2")
    assert (cpu.sizes[9], cpu.offsets[9]) == (64, 0x340)
    assert (profile("zen3").sizes[9], profile("zen3").offsets[9]) == (8, 0x980)
    assert "PKU" not in cpu.features
    assert boot(Settings(cpu="zen2", strategy="no-cet")).masks.max_features == 0x7


@pytest.mark.parametrize("name", REAL)
def test_a_cpu_of_which_no_dump_was_found_says_so(name):
    notes = " ".join(profile(name).notes)
    assert ("no dump of its CPUID registers was found" in notes) == (name in DOCUMENTED)
    assert ("from documents" in profile(name).title) == (name in DOCUMENTED)


@pytest.mark.parametrize("name", REAL)
def test_the_signature_of_a_shipped_cpu_is_of_the_family_that_its_title_names(name):
    cpu = profile(name)
    of = family({"intel": INTEL, "amd": AMD}[cpu.vendor], cpu.signature)
    assert of is not None
    assert of.name in cpu.title
    assert of.like == name
    # Since Linux v6.18; Ice Lake-SP stands in cpu_vuln_blacklist[] for other bugs only.
    assert of.vmscape == ("VMSCAPE" in cpu.bugs)


def test_only_the_synthetic_cpu_says_that_it_is():
    assert [name for name in names() if profile(name).synthetic] == ["ibt-no-shstk"]
    assert "synthetic" in profile("ibt-no-shstk").title


def test_the_synthetic_cpu_is_sapphire_rapids_but_for_three_marks():
    ours, model = registers("ibt-no-shstk"), registers("sapphire-rapids")
    assert ours["7"]["0"][2] ^ model["7"]["0"][2] == 1 << 7
    assert ours["13"]["1"][2] ^ model["13"]["1"][2] == CET_S
    ours["7"]["0"][2] |= 1 << 7
    ours["13"]["1"][2] |= CET_S
    ours["13"]["12"] = model["13"]["12"]
    assert ours == model


@pytest.mark.parametrize("name", names())
def test_freedoms_are_the_measured_ones_where_there_are_any_and_the_defaults_elsewhere(name):
    freedoms = profile(name).freedoms
    if name in ("sapphire-rapids", "emerald-rapids", "granite-rapids"):
        assert freedoms != Freedoms()  # tests/test_vectors_intel.py
        return
    if name not in ZEN:
        assert freedoms == Freedoms()
        return
    assert not freedoms.mxcsr_sets_xstate_bv
    assert not freedoms.loading_initial_values_sets_xinuse
    assert freedoms.zmm_write_group == components.SSE | components.AVX | components.ZMM_HI256
    assert freedoms.xinuse_by_value == Freedoms().xinuse_by_value | components.FP


@pytest.mark.parametrize("name", names())
def test_a_profile_survives_the_way_to_another_process(name):
    copy = pickle.loads(pickle.dumps(profile(name)))
    assert copy == profile(name)
    assert hash(copy) == hash(profile(name))


def test_a_component_that_the_cpu_lacks_is_refused():
    with pytest.raises(InputError, match="zen4 has no state component XTILE_CFG"):
        profile("zen4").compacted(0x20007)


def test_supervisor_components_have_no_place_in_the_standard_format():
    with pytest.raises(InputError, match="CET_USER"):
        profile("zen4").standard(0x807)


def test_a_profile_takes_an_xcomp_bv_as_it_is():
    assert profile("zen4").compacted(1 << 63 | 0x1AE7) == profile("zen4").compacted(0x1AE7)


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs the build backend")
def test_the_data_files_are_in_the_wheel(tmp_path):
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {f"sim/xsave/cpus/{name}.toml" for name in names()} <= set(archive.namelist())
