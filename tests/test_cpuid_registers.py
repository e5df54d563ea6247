"""Registers of CPUID in a profile: which bit is which feature, the high halves of XCR0 and IA32_XSS, and bit 62."""

import re

import pytest
from cpu_dumps import PRINTED, as_instlat, dump_text, leaves

from sim.kernel.config import Settings, boot
from sim.xsave import cpuid, imported
from sim.xsave.families import AMD, family
from sim.xsave.profile_data import EAX, EBX, ECX, EDX, FEATURES, shipped
from sim.xsave.profiles import of_data

WORDS = {
    4: (1, 0, ECX),
    9: (7, 0, EBX),
    10: (0xD, 1, EAX),
    12: (7, 1, EAX),
    16: (7, 0, ECX),
    18: (7, 0, EDX),
}
"""Leaf, sub-leaf and register of a word of x86_capability[] (Linux v7.3.4, cpufeature.h, enum cpuid_leafs)."""

BITS = {
    # Linux v7.3.4, arch/x86/include/asm/cpufeatures.h: word and bit
    "XSAVE": (4, 26), "AVX": (4, 28), "MPX": (9, 14), "AVX512F": (9, 16), "INTEL_PT": (9, 25), "PKU": (16, 3),
    "SHSTK": (16, 7), "ENQCMD": (16, 29), "ARCH_LBR": (18, 19), "IBT": (18, 20), "AMX_TILE": (18, 24),
    "FRED": (12, 17), "LKGS": (12, 18), "WRMSRNS": (12, 19), "XSAVEOPT": (10, 0), "XSAVEC": (10, 1),
    "XGETBV1": (10, 2), "XSAVES": (10, 3), "XFD": (10, 4),
}  # fmt: skip
BEYOND_THE_WORDS = {
    "APX": (7, 1, EDX, 21),  # arch/x86/kernel/cpu/scattered.c
    # Intel SDM vol. 2, CPUID, leaf 07H
    "UINTR": (7, 0, EDX, 5), "MSRLIST": (7, 1, EAX, 27), "CET_SSS": (7, 1, EDX, 18),
}  # fmt: skip


def test_features_are_at_the_bits_of_the_kernels_words():
    assert {name: (*WORDS[word], bit) for name, (word, bit) in BITS.items()} | BEYOND_THE_WORDS == FEATURES


def test_high_halves_of_xcr0_and_ia32_xss_are_edx_of_sub_leaves_0_and_1():
    """Intel SDM vol. 2, CPUID, leaf 0DH; no processor has any of these components."""
    data = shipped("sapphire-rapids")
    rows = {sub: list(row) for sub, row in data["cpuid"]["13"].items()}
    rows["0"][EDX], rows["1"][EDX], rows["2"][EDX] = 0x11, 0x20, 0x4
    found = of_data("x", {**data, "cpuid": {**data["cpuid"], "13": rows}})
    usual = of_data("x", data)
    assert found.xcr0_supported == usual.xcr0_supported + (0x11 << 32)
    assert found.xss_supported == usual.xss_supported + (0x20 << 32)
    assert boot(Settings(cpu="sapphire-rapids")).cpu.sizes == found.sizes  # what is not known here has no place


BULLDOZER = {
    (0, 0): (0xD, 0x68747541, 0x444D4163, 0x69746E65),
    (1, 0): (0x600F12, 0x00080800, 0x1E98220B, 0x178BFBFF),
    (7, 0): (0, 0, 0, 0),
    (0xD, 0): (0x7, 0x340, 0x3C0, 0x40000000),
    (0xD, 2): (0x100, 0x240, 0, 0),
    (0xD, 62): (0x80, 0x340, 0, 0),
}
"""AMD Family 15h Models 00h-0Fh, with LWP, XCR0[62]: BIOS and Kernel Developer's Guide 42301, CPUID Fn0000_000D, and
of leaves 0, 1 and 7 what identifies it; from memory, no dump of one was at hand."""


def components_in(text: str) -> dict[int, str]:
    """What a written profile says behind each sub-leaf of leaf 0DH."""
    rows = text.partition("[cpuid.13]\n")[2].partition("\n\n")[0].splitlines()
    return {int(row.partition("=")[0]): row.partition("#")[2].strip() for row in rows}


@pytest.mark.parametrize("how", ["InstLatx64", "cpuid -r"])
def test_a_bulldozer_has_lwp_in_xcr0_62_which_linux_leaves_off(how, tmp_path):
    text = "".join(PRINTED[how](leaf, sub, *row) + "\n" for (leaf, sub), row in BULLDOZER.items())
    document = imported.document(cpuid.parse(text.splitlines(keepends=True), "the dump"), "the dump")
    cpu = of_data("x", document)
    assert family(AMD, cpu.signature).name == "Bulldozer"
    assert cpu.xcr0_supported == 1 << 62 | 0x7
    assert (cpu.standard(0x7).size, cpu.standard_size) == (832, 960)
    assert components_in(imported.text(document)) == {0: "", 2: "YMM", 62: ""}
    (tmp_path / "bulldozer.toml").write_text(imported.text(document))
    assert boot(Settings(cpu=str(tmp_path / "bulldozer.toml"), strategy="no-cet")).masks.xcr0 == 0x7


def test_a_profile_that_is_written_names_each_component():
    """As Linux v6.19 calls them in enum xfeature, without XFEATURE_."""
    dump = cpuid.parse(dump_text("sapphire-rapids", "cpuid -r").splitlines(keepends=True), "the dump")
    found = components_in(imported.text(imported.document(dump, "the dump")))
    assert {number: name for number, name in found.items() if name} == {
        2: "YMM", 5: "OPMASK", 6: "ZMM_Hi256", 7: "Hi16_ZMM", 8: "PT_UNIMPLEMENTED_SO_FAR", 9: "PKRU", 10: "PASID",
        11: "CET_USER", 12: "CET_KERNEL", 14: "UINTR", 15: "LBR", 17: "XTILE_CFG", 18: "XTILE_DATA",
    }  # fmt: skip


def test_no_other_leaf_of_a_profile_that_is_written_has_names_of_components():
    registers = leaves("sapphire-rapids")
    registers[13][20] = [64, 0x4000, 0, 0]  # which has no name yet
    for leaf in (0, 1, 7, 0x15, 0x16, 0x8000001D):
        registers.setdefault(leaf, {})[2] = [1, 1, 1, 1]
    text = "".join(as_instlat(leaf, sub, *row) + "\n" for leaf, subs in registers.items() for sub, row in subs.items())
    written = imported.text(imported.document(cpuid.parse(text.splitlines(), "the dump"), "the dump"))
    named = [part for part in written.split("[cpuid.") if re.search(r"^ *\d+ = .*#", part, re.MULTILINE)]
    assert [part.partition("]")[0] for part in named] == ["13"]
    assert components_in(written)[20] == ""
