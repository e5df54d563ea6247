"""Which rows of a dump count: in what order leaves come, what is said twice, and what needs several rows."""

import pytest
from cpu_dumps import DUMPED, PRINTED, as_cpuid, leaves, same_cpu

from sim.errors import InputError
from sim.xsave import cpuid, imported
from sim.xsave.profiles import of_data, profile


def parsed(rows):
    return cpuid.parse([as_cpuid(*row) + "\n" for row in rows], "the dump")


def rows_of(name):
    return [(leaf, sub, *row) for leaf, subs in leaves(name).items() for sub, row in sorted(subs.items())]


@pytest.mark.parametrize("name", DUMPED)
def test_leaves_may_come_in_any_order(name):
    found = parsed(reversed(rows_of(name)))
    assert same_cpu(of_data("x", imported.document(found, "the dump")), profile(name))


@pytest.mark.parametrize("leaf", [1, 4, 7, 0x16, 0x80000002])
@pytest.mark.parametrize("place", [2, 3, 4, 5])
def test_what_differs_between_cpus_of_a_machine_is_that_of_the_first_and_ends_nothing(leaf, place):
    rows = [*rows_of("sapphire-rapids"), (leaf, 0, 9, 9, 1 << 26, 9)]
    other = list(rows[-1])
    other[place] ^= 1 << 8
    found = parsed([*rows, tuple(other), (0x80000004, 0, 1, 2, 3, 4)])
    first = leaves("sapphire-rapids").get(leaf, {}).get(0, (9, 9, 1 << 26, 9))
    assert (found.registers(leaf), found.registers(0x80000004)) == (tuple(first), (1, 2, 3, 4))


def test_leaf_0_may_stand_twice_before_leaf_0dh_and_the_first_counts():
    head, *others = rows_of("zen4")
    found = parsed([head, (0, 0, 0x20, 1, 2, 3), *others])
    assert found.vendor == "AuthenticAMD"
    assert found.registers(13, 2) == tuple(leaves("zen4")[13][2])


@pytest.mark.parametrize("lacking", [None, 0x80000002, 0x80000003, 0x80000004])
def test_a_brand_string_is_all_of_three_leaves_without_the_zeros_behind_it(lacking):
    """Intel SDM vol. 2, CPUID, leaves 80000002H to 80000004H: 48 characters, in EAX, EBX, ECX and EDX of each."""
    brand = "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    words = [int.from_bytes(brand.encode().ljust(48, b"\0")[k : k + 4], "little") for k in range(0, 48, 4)]
    rows = [(0x80000002 + k, 0, *words[4 * k : 4 * k + 4]) for k in range(3)]
    found = parsed([*rows_of("sapphire-rapids"), *(row for row in rows if row[0] != lacking)])
    assert found.brand == ("" if lacking else brand)


def test_a_sub_leaf_of_which_no_line_says_the_leaf_is_none():
    row = PRINTED["kcpuid"](13, 1, 7, 0x340, 0x340, 0) + "\n"
    with pytest.raises(InputError, match="has no CPUID registers"):
        cpuid.parse([row], "the dump")
    found = cpuid.parse([row, *(PRINTED["kcpuid"](*each) + "\n" for each in rows_of("zen4"))], "the dump")
    assert {leaf: set(subs) for leaf, subs in found.leaves.items()} == {
        leaf: set(subs) for leaf, subs in leaves("zen4").items()
    }


@pytest.mark.parametrize("rows", [[(13, 0)], [(13, 0), (13, 1)], [(13, 0), (13, 2)]])
def test_a_table_needs_no_other_row_than_leaf_0dh_sub_leaf_0(rows):
    registers = leaves("zen4")
    lines = [f"{leaf:08x} {sub:x} " + " ".join(f"{each:08x}" for each in registers[leaf][sub]) for leaf, sub in rows]
    assert cpuid.parse([line + "\n" for line in lines], "the table").leaves[13].keys() == {sub for _, sub in rows}


def test_each_table_of_libcpuid_is_of_its_leaves():
    """Rows are leaves in two of them, and sub-leaves of one leaf in the others."""
    tables = {
        "basic_cpuid": lambda row: (row, 0), "ext_cpuid": lambda row: (0x80000000 + row, 0),
        "intel_fn4": lambda row: (4, row), "intel_fn11": lambda row: (11, row),
        "amd_fn8000001dh": lambda row: (0x8000001D, row),
    }  # fmt: skip
    (form,) = (pattern for what, pattern in cpuid.FORMS if what == "libcpuid")
    for table, place in tables.items():
        text = "".join(f"{table}[{row}]=0000000{row} 00000002 00000003 00000004\n" for row in range(4))
        found = [(leaf, sub, registers) for _, leaf, sub, registers in cpuid._matches(form, text)]
        assert found == [(*place(row), (row, 2, 3, 4)) for row in range(4)], table
