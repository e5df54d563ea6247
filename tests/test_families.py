"""Families of CPUs by family, model and stepping, against the numbers of the kernel and of AMD's guides."""

from itertools import product

import pytest

from sim.xsave.families import AMD, HYGON, INTEL, decoded, encoded, family

# Linux v7.3.4, arch/x86/include/asm/intel-family.h: family, model and name there, of those that have XSAVE.
INTEL_MODELS = """
6 17 CORE2_PENRYN           6 1D CORE2_DUNNINGTON       6 2A SANDYBRIDGE            6 2D SANDYBRIDGE_X
6 3A IVYBRIDGE              6 3E IVYBRIDGE_X            6 3C HASWELL                6 3F HASWELL_X
6 45 HASWELL_L              6 46 HASWELL_G              6 3D BROADWELL              6 47 BROADWELL_G
6 4F BROADWELL_X            6 56 BROADWELL_D            6 4E SKYLAKE_L              6 5E SKYLAKE
6 55 SKYLAKE_X              6 8E KABYLAKE_L             6 9E KABYLAKE               6 A5 COMETLAKE
6 A6 COMETLAKE_L            6 66 CANNONLAKE_L           6 6A ICELAKE_X              6 6C ICELAKE_D
6 7D ICELAKE                6 7E ICELAKE_L              6 9D ICELAKE_NNPI           6 A7 ROCKETLAKE
6 8C TIGERLAKE_L            6 8D TIGERLAKE              6 8F SAPPHIRERAPIDS_X       6 CF EMERALDRAPIDS_X
6 AD GRANITERAPIDS_X        6 AE GRANITERAPIDS_D        19 01 DIAMONDRAPIDS_X       6 D7 BARTLETTLAKE
6 8A LAKEFIELD              6 97 ALDERLAKE              6 9A ALDERLAKE_L            6 B7 RAPTORLAKE
6 BA RAPTORLAKE_P           6 BF RAPTORLAKE_S           6 AC METEORLAKE             6 AA METEORLAKE_L
6 C5 ARROWLAKE_H            6 C6 ARROWLAKE              6 B5 ARROWLAKE_U            6 BD LUNARLAKE_M
6 CC PANTHERLAKE_L          6 E5 PANTHERLAKE_R          6 D5 WILDCATLAKE_L          18 01 NOVALAKE
18 03 NOVALAKE_L            6 5C ATOM_GOLDMONT          6 5F ATOM_GOLDMONT_D        6 7A ATOM_GOLDMONT_PLUS
6 86 ATOM_TREMONT_D         6 96 ATOM_TREMONT           6 9C ATOM_TREMONT_L         6 BE ATOM_GRACEMONT
6 AF ATOM_CRESTMONT_X       6 B6 ATOM_CRESTMONT         6 DD ATOM_DARKMONT_X        6 57 XEON_PHI_KNL
6 85 XEON_PHI_KNM
"""
NUMBERS = {
    (int(number), int(model, 16)): name for number, model, name in zip(*[iter(INTEL_MODELS.split())] * 3, strict=True)
}
OTHERWISE_CALLED = {
    "CORE2_DUNNINGTON": "Penryn", "ICELAKE_X": "Ice Lake-SP", "ICELAKE_D": "Ice Lake-SP", "SKYLAKE_X": "Skylake-SP",
    "ATOM_GRACEMONT": "Alder Lake-N", "ATOM_CRESTMONT_X": "Sierra Forest", "ATOM_CRESTMONT": "Grand Ridge",
    "ATOM_DARKMONT_X": "Clearwater Forest", "XEON_PHI_KNL": "Xeon Phi", "XEON_PHI_KNM": "Xeon Phi",
}  # fmt: skip
"""Where the name here is not the kernel's without its prefix and suffix."""

VMSCAPE = """
SANDYBRIDGE SANDYBRIDGE_X IVYBRIDGE IVYBRIDGE_X HASWELL HASWELL_L HASWELL_G HASWELL_X BROADWELL BROADWELL_D BROADWELL_G
BROADWELL_X SKYLAKE SKYLAKE_L SKYLAKE_X KABYLAKE KABYLAKE_L CANNONLAKE_L COMETLAKE COMETLAKE_L ALDERLAKE ALDERLAKE_L
RAPTORLAKE RAPTORLAKE_P RAPTORLAKE_S METEORLAKE_L ARROWLAKE ARROWLAKE_H ARROWLAKE_U LUNARLAKE_M SAPPHIRERAPIDS_X
GRANITERAPIDS_X EMERALDRAPIDS_X ATOM_GRACEMONT ATOM_CRESTMONT_X
"""
"""Intel's of cpu_vuln_blacklist[] (Linux v7.3.4, arch/x86/kernel/cpu/common.c) that have VMSCAPE."""


@pytest.mark.parametrize("number", [6, 15, 18, 19, 20])
def test_intels_models_have_the_numbers_of_the_kernel_and_no_other_model_is_known(number):
    for model in range(256):
        kernels = NUMBERS.get((number, model), "")
        stem = kernels.removeprefix("ATOM_").removeprefix("CORE2_").partition("_")[0]
        found = family(INTEL, encoded(number, model, 4))
        name = OTHERWISE_CALLED.get(kernels, stem).upper().replace(" ", "")
        assert (found.name.upper().replace(" ", "") if found else "") == name, hex(model)


def test_vmscape_is_a_bug_of_the_models_that_the_kernel_lists():
    for (number, model), name in NUMBERS.items():
        found = family(INTEL, encoded(number, model, 5))
        assert found is not None
        assert ("VMSCAPE" in found.bugs) == (name in VMSCAPE.split()), name
    for vendor, number, has in ((AMD, 0x15, False), (AMD, 0x16, False), (HYGON, 0x18, True)):
        assert ("VMSCAPE" in family(vendor, encoded(number, 0x1, 0)).bugs) == has
    for number in (0x17, 0x19, 0x1A):
        assert all("VMSCAPE" in family(AMD, encoded(number, model, 0)).bugs for model in range(256))


def test_l1tf_is_a_bug_of_the_models_whose_cache_bits_the_kernel_overrides_for_its_mitigation():
    """override_cache_bits(), Linux v7.3, arch/x86/kernel/cpu/bugs.c; those without XSAVE left out."""
    affected = """
    SANDYBRIDGE IVYBRIDGE HASWELL HASWELL_L HASWELL_G BROADWELL BROADWELL_G SKYLAKE_L SKYLAKE KABYLAKE_L KABYLAKE
    """
    models = {name: model for (_, model), name in NUMBERS.items()}
    assert all("L1TF" in family(INTEL, encoded(6, models[name], 9)).bugs for name in affected.split())
    assert not any("L1TF" in family(AMD, encoded(number, 0x1, 0)).bugs for number in (0x15, 0x16, 0x17, 0x19, 0x1A))


@pytest.mark.parametrize(
    ("number", "first", "last", "name"),
    [
        # Linux v7.3.4, arch/x86/kernel/cpu/amd.c, bsp_init_amd()
        (0x17, 0x00, 0x2F, "Zen 1"), (0x17, 0x50, 0x5F, "Zen 1"), (0x17, 0x30, 0x4F, "Zen 2"),
        (0x17, 0x60, 0x7F, "Zen 2"), (0x17, 0x90, 0x91, "Zen 2"), (0x17, 0xA0, 0xAF, "Zen 2"),
        (0x19, 0x00, 0x0F, "Zen 3"), (0x19, 0x20, 0x5F, "Zen 3"), (0x19, 0x10, 0x1F, "Zen 4"),
        (0x19, 0x60, 0xAF, "Zen 4"), (0x1A, 0x00, 0x2F, "Zen 5"), (0x1A, 0x40, 0x4F, "Zen 5"),
        (0x1A, 0x60, 0x7F, "Zen 5"), (0x1A, 0xD0, 0xD7, "Zen 5"), (0x1A, 0x50, 0x5F, "Zen 6"),
        (0x1A, 0x80, 0xAF, "Zen 6"), (0x1A, 0xC0, 0xCF, "Zen 6"), (0x1A, 0xD8, 0xEF, "Zen 6"),
        # AMD's BIOS and Kernel Developer's Guides 42301, 42300, 49125, 50742, 55072, 48751 and 52740, by their titles;
        # model 02H is an exception, in a Revision Guide; these numbers and titles are from memory
        (0x15, 0x00, 0x01, "Bulldozer"), (0x15, 0x02, 0x02, "Piledriver"), (0x15, 0x10, 0x1F, "Piledriver"),
        (0x15, 0x30, 0x3F, "Steamroller"), (0x15, 0x60, 0x6F, "Excavator"), (0x15, 0x70, 0x7F, "Excavator"),
        (0x16, 0x00, 0x0F, "Jaguar"), (0x16, 0x30, 0x3F, "Puma"),
    ],
)  # fmt: skip
def test_amds_models_are_in_the_ranges_of_the_kernel_and_of_its_guides(number, first, last, name):
    assert {family(AMD, encoded(number, model, 2)).name for model in range(first, last + 1)} == {name}


def test_amds_models_between_those_of_the_guides_are_not_known():
    for number, models in ((0x15, (*range(0x03, 0x10), *range(0x20, 0x30), *range(0x50, 0x60))), (0x16, (0x40, 0x50))):
        assert {family(AMD, encoded(number, model, 2)) for model in models} == {None}


def test_a_signature_is_encoded_as_it_is_decoded_and_as_tools_print_it():
    """Intel SDM vol. 2, CPUID, leaf 01H, figure 3-6: the extended family is added to FH alone."""
    for family_, model, stepping in product((5, 6, 0xF, 0x19, 0x10E), (0, 7, 0xF), range(16)):
        for extended in range(0, 0x100 if family_ >= 6 else 1, 0x10):
            assert decoded(encoded(family_, extended + model, stepping)) == (family_, extended + model, stepping)
    assert (encoded(6, 0x8F, 8), encoded(0x19, 0x11, 1), encoded(0x13, 1, 0)) == (0x806F8, 0xA10F11, 0x400F10)


@pytest.mark.parametrize("bit", [12, 13, 14, 15, 28, 29, 30, 31])
def test_the_type_and_reserved_bits_of_a_signature_are_no_part_of_family_and_model(bit):
    """Intel SDM vol. 2, CPUID, leaf 01H, EAX: 13:12 is the processor type, 15:14 and 31:28 are reserved."""
    for signature in (0x806F8, 0xA10F11, 0x6FB, 0xF41, 0x400F10):
        assert decoded(signature | 1 << bit) == decoded(signature)


@pytest.mark.parametrize("number", range(15))
def test_the_extended_family_counts_for_family_0fh_alone_and_the_extended_model_from_6_on(number):
    """Linux, arch/x86/lib/cpu.c, x86_family() and x86_model(); AMD reads a model of family 6 in the same way."""
    low = number << 8 | 0x51
    assert decoded(0xFF << 20 | low) == (number, 5, 1)
    assert decoded(0xA << 16 | low) == (number, 0xA5 if number >= 6 else 5, 1)
    assert decoded(0xFF << 20 | 0xA << 16 | 0xF51) == (0xF + 0xFF, 0xA5, 1)
