"""What a dump of CPUID registers leaves out comes from CPUs that have the most in common with it."""

import pytest
from cpu_dumps import DUMPED, VENDORS, as_cpuid, leaves, of_registers, without

from sim.xsave import cpuid, imported
from sim.xsave.components import ALL, EXTENDED, SUPERVISOR, USER, bits
from sim.xsave.profile_data import names, shipped
from sim.xsave.profiles import profile


def test_a_dump_without_sub_leaf_1_is_a_cpu_without_xsaves():
    one = of_registers(without(leaves("zen4"), 13, 1))
    assert "leaf 0DH, sub-leaf 1 is not in the dump" in " ".join(one.notes)
    assert profile("zen4").features - one.features == {"XSAVEOPT", "XSAVEC", "XGETBV1", "XSAVES"}
    assert (one.xcr0_supported, one.xss_supported) == (profile("zen4").xcr0_supported, 0)


def test_without_leaves_1_and_7_a_component_implies_its_feature():
    # xsave_cpuid_features[], arch/x86/kernel/fpu/xstate.c, Linux v6.18; UINTR and LBR by the SDM, vol. 1, section 13.1.
    features = {
        2: "AVX", 3: "MPX", 5: "AVX512F", 8: "INTEL_PT", 9: "PKU", 10: "ENQCMD", 12: "SHSTK", 14: "UINTR",
        15: "ARCH_LBR", 17: "AMX_TILE", 19: "APX",
    }  # fmt: skip
    found = {}
    for i in bits[ALL & EXTENDED]:
        user, supervisor = (1 << i & side for side in (USER, SUPERVISOR))
        one = of_registers(
            {0: leaves("sapphire-rapids")[0], 13: {0: [3 | user, 576, 576, 0], 1: [0, 0, supervisor, 0]}}
        )
        found[i] = one.features - {"XSAVE"}
    assert found == {i: {features[i]} if i in features else set() for i in found}


@pytest.mark.parametrize("name", ["sapphire-rapids", "zen4"])
def test_caches_that_a_dump_does_not_have_are_those_of_its_family(name):
    registers = {leaf: subs for leaf, subs in leaves(name).items() if leaf not in (4, 0x8000001D)}
    text = "".join(as_cpuid(leaf, sub, *row) + "\n" for leaf, subs in registers.items() for sub, row in subs.items())
    found = imported.document(cpuid.parse(text.splitlines(keepends=True), "the dump"), "the dump")
    assert f"caches are not in the dump: those of {name}" in found["notes"]
    leaf = {"sapphire-rapids": "4", "zen4": "0x8000001d"}[name]
    assert found["cpuid"][leaf] == shipped(name)["cpuid"][leaf]


@pytest.mark.parametrize("sub", [0, 2])
@pytest.mark.parametrize(("name", "leaf"), [("sapphire-rapids", 4), ("zen4", 0x8000001D)])
def test_both_caches_are_those_of_the_family_if_a_dump_lacks_one(name, leaf, sub):
    registers = leaves(name)
    del registers[leaf][sub]
    one = of_registers(registers)
    assert f"caches are not in the dump: those of {name}" in one.notes
    assert (one.l1d_size, one.l2_size) == (profile(name).l1d_size, profile(name).l2_size)


@pytest.mark.parametrize("name", DUMPED)
def test_bugs_and_mitigations_of_the_family_are_those_of_a_dump_unless_a_virtual_machine_shows_it(name):
    """CPUID.01H:ECX[31] is set by hypervisors alone (AMD APM vol. 3; always 0 on a CPU of Intel, as Linux says)."""
    for in_guest in (False, True):
        registers = leaves(name)
        a, b, c, d = registers[1][0]
        registers[1][0] = [a, b, c | in_guest << 31, d]
        one = of_registers(registers)
        assert ("taken in a virtual machine" in " ".join(one.notes)) == in_guest
        assert one.bugs == (() if in_guest else profile(name).bugs)
        assert one.mitigations == (() if in_guest else profile(name).mitigations)


@pytest.mark.parametrize(("name", "leaf"), [("sapphire-rapids", 4), ("zen4", 0x8000001D)])
def test_caches_of_a_dump_are_its_own_and_not_those_of_its_family(name, leaf):
    registers = leaves(name)
    a, b, sets, d = registers[leaf][2]
    registers[leaf][2] = [a, b, 2 * (sets + 1) - 1, d]
    assert of_registers(registers).l2_size == 2 * profile(name).l2_size


@pytest.mark.parametrize(("components_of", "vendor"), [("sapphire-rapids", "amd"), ("zen4", "intel")])
def test_caches_of_a_family_that_is_not_known_are_those_of_a_cpu_of_its_vendor(components_of, vendor):
    registers = {0: {0: (0x20, *VENDORS[vendor])}, 13: leaves(components_of)[13]}
    text = "".join(as_cpuid(leaf, sub, *row) + "\n" for leaf, subs in registers.items() for sub, row in subs.items())
    notes = imported.document(cpuid.parse(text.splitlines(keepends=True), "the dump"), "the dump")["notes"]
    (like,) = (note.rpartition(" ")[2] for note in notes if note.startswith("caches are not in the dump"))
    assert shipped(like)["vendor"] == vendor


def document(registers):
    text = "".join(as_cpuid(leaf, sub, *row) + "\n" for leaf, subs in registers.items() for sub, row in subs.items())
    return imported.document(cpuid.parse(text.splitlines(keepends=True), "the dump"), "the dump")


@pytest.mark.parametrize("name", DUMPED)
def test_a_cpu_of_a_family_that_is_not_known_is_like_the_one_of_its_vendor_that_differs_in_the_fewest_components(name):
    found = document({leaf: subs for leaf, subs in leaves(name).items() if leaf in (0, 13)})
    (like,) = (note.rpartition(" ")[2] for note in found["notes"] if note.startswith("caches are not in the dump"))
    of_vendor = [each for each in map(profile, names()) if each.vendor == found["vendor"] and not each.synthetic]
    differing = {each.name: len(each.sizes.keys() ^ profile(name).sizes.keys()) for each in of_vendor}
    assert differing[like] == min(differing.values()) == 0
    assert like in differing


@pytest.mark.parametrize("name", DUMPED)
def test_what_the_architecture_leaves_to_the_cpu_is_that_of_the_family_on_amd_and_the_default_on_intel(name):
    found = document(leaves(name))
    assert found["freedoms"] == (shipped(name)["freedoms"] if profile(name).vendor == "amd" else {})
    assert any(note.startswith("freedoms") for note in found["notes"]) == (profile(name).vendor == "amd")


def test_a_component_that_both_masks_have_is_one_and_those_that_are_not_known_here_are_none():
    """As in Linux, which takes XCR0 | IA32_XSS (fpu__init_system_xstate())."""
    registers = leaves("sapphire-rapids")
    xcr0, xss = registers[13][0], registers[13][1]
    both = {13: {0: [xcr0[0] | 1 << 20 | 1 << 30, *xcr0[1:]], 1: [*xss[:2], xss[2] | 1 << 9, xss[3]]}}
    one = of_registers({0: registers[0]} | both)
    assert set(one.sizes) == set(profile("sapphire-rapids").sizes)


@pytest.mark.parametrize("vendor", ["CentaurHauls", "VIA VIA VIA ", "  Shanghai  ", "KVMKVMKVM..."])
@pytest.mark.parametrize(("name", "taken_for"), [("zen4", "AMD"), ("sapphire-rapids", "Intel")])
def test_a_vendor_that_is_not_known_is_told_by_where_the_components_are(name, taken_for, vendor):
    registers = leaves(name)
    words = (vendor[:4], vendor[8:], vendor[4:8])  # EBX, ECX, EDX
    registers[0][0][1:] = (int.from_bytes(part.encode(), "little") for part in words)
    one = of_registers(registers)
    assert f"vendor {vendor!r} is not known here: taken for {taken_for}" in one.notes
    assert one.vendor == taken_for.lower()
    assert one.offsets == profile(name).offsets
    one = of_registers({leaf: subs for leaf, subs in registers.items() if leaf})
    assert f"leaf 0 is not in the dump: {taken_for} by where its components are" in one.notes


@pytest.mark.parametrize("name", DUMPED)
def test_each_of_opmask_pkru_and_the_leaf_of_amds_caches_tells_a_vendor_that_a_dump_does_not_name(name):
    registers = leaves(name)
    xstate, caches = registers[13], {leaf: subs for leaf, subs in registers.items() if leaf == 0x8000001D}
    alone = {i: {13: {sub: row for sub, row in xstate.items() if sub in (0, 1, 2, i)}} for i in (5, 9) if i in xstate}
    told = {of_registers(each).vendor for each in (*alone.values(), {13: xstate}, {13: {0: xstate[0]}} | caches)}
    assert told == {profile(name).vendor}
