"""What a dump of CPUID registers leaves out comes from CPUs that have the most in common with it."""

import pytest
from cpu_dumps import DUMPED, VENDORS, as_cpuid, leaves, of_registers, without

from sim.xsave import cpuid, imported
from sim.xsave.components import ALL, EXTENDED, SUPERVISOR, USER, bits
from sim.xsave.profile_data import shipped
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


@pytest.mark.parametrize(("name", "taken_for"), [("zen4", "AMD"), ("sapphire-rapids", "Intel")])
def test_a_vendor_that_is_not_known_is_told_by_where_the_components_are(name, taken_for):
    registers = leaves(name)
    registers[0][0][1:] = (int.from_bytes(part, "little") for part in (b"Cent", b"auls", b"aurH"))
    one = of_registers(registers)
    assert f"vendor 'CentaurHauls' is not known here: taken for {taken_for}" in one.notes
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
