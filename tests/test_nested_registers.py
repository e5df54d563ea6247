"""Registers in nested structures: what is none, how deep they may lie, and what stands around them."""

import json

import pytest

from sim.errors import InputError
from sim.xsave import cpuid
from sim.xsave.cpuid_nested import rows

XSTATE = {0: [7, 832, 2696, 0], 1: [15, 960, 0x100, 0], 2: [256, 576, 0, 0], 8: [128, 0, 1, 0]}
"""Leaf 0DH of a CPU with AVX in XCR0 and PT in IA32_XSS."""


def row_of(registers):
    return dict(zip(("eax", "ebx", "ecx", "edx"), registers, strict=True))


def entries(leaf, subs):
    return [{"leaf": leaf, "subleaf": sub} | row_of(row) for sub, row in subs.items()]


def found(tree):
    return {(leaf, sub): list(registers) for leaf, sub, registers in rows(json.dumps(tree))}


def of(leaf, subs):
    return {(leaf, sub): row for sub, row in subs.items()}


@pytest.mark.parametrize("other", [{3: [0x1C0, 1, 2, 3]}, {0: [7, 7, 7, 7], 5: [1, 1, 1, 1]}])
@pytest.mark.parametrize("leaf", [4, 0x14, 0x8000001D])
def test_sub_leaves_of_another_leaf_are_no_components(leaf, other):
    for tree in (entries(13, XSTATE) + entries(leaf, other), entries(leaf, other) + entries(13, XSTATE)):
        assert found(tree) == of(13, XSTATE) | of(leaf, other)


@pytest.mark.parametrize("sub", [3, 5, 7, 17, 31])
def test_a_component_that_neither_mask_has_makes_it_no_cpu(sub):
    assert not found(entries(13, XSTATE | {sub: [64, 1024, 0, 0]}))
    assert found(entries(13, XSTATE | {sub: [0, 0, 0, 0]}))
    for place, mask in ((0, 0), (1, 2)):
        row = list(XSTATE[place])
        row[mask] |= 1 << sub
        assert found(entries(13, XSTATE | {place: row, sub: [64, 1024, 0, 0]}))


def test_lwp_of_the_high_half_of_xcr0_is_a_component():
    """AMD Family 15h Models 00h-0Fh: XCR0[62], CPUID.0DH sub-leaf 62."""
    leaf = XSTATE | {0: [7, 832, 960, 1 << 30], 62: [128, 832, 0, 0]}
    assert found(entries(13, leaf)) == of(13, leaf)


@pytest.mark.parametrize(("depth", "read"), [(1, True), (30, True), (31, False), (900, False)])
@pytest.mark.parametrize("around", ["[{}]", '{{"a": {}}}'])
def test_what_lies_deeper_than_any_program_writes_is_not_looked_at(depth, read, around):
    text = json.dumps(entries(13, XSTATE))
    for _ in range(depth):
        text = around.format(text)
    assert bool(list(rows(text))) == read


def test_sub_leaves_within_sub_leaves_are_as_deep_as_other_objects():
    tree = {}
    for sub in range(40, 0, -1):
        tree = {"leaf": 4, "subleaf": sub, "eax": 1, "ebx": 2, "ecx": 3, "edx": 4} | (
            {"subleaves": tree} if tree else {}
        )
    read = {sub for leaf, sub in found([*entries(13, XSTATE), tree]) if leaf == 4}
    assert read == set(range(1, max(read) + 1))
    assert max(read) == 31  # the list is around them, and 32 objects one in another are looked at


def test_records_of_one_object_are_no_deeper_than_it_is():
    """Members of one object with a leaf each, as a program prints them that knows no lists."""
    records = [json.dumps(each)[1:-1] for each in entries(13, XSTATE)]
    text = "{" + ", ".join(records) + "}"
    for depth, read in ((29, True), (30, True), (31, True), (32, False)):
        assert bool(list(rows('{"a": ' * depth + text + "}" * depth))) == read, depth


@pytest.mark.parametrize(
    "members", [[7, 832, 2696], [7, 832, 2696, {}], [7, 832, 2696, 0, {"a": 1}], [7, 832, 2696, 0, 0], [{"a": 1}] * 4]
)
def test_four_numbers_are_registers_where_they_are_all_that_a_list_has(members):
    tree = {"13": {str(sub): row for sub, row in XSTATE.items()}}
    assert found(tree) == of(13, XSTATE)
    tree["13"]["0"] = members
    assert (13, 0) not in found(tree)


def test_the_number_of_a_leaf_alone_does_not_show_the_base_of_sub_leaves():
    rows_of = dict(XSTATE) | {1: [15, 960, 0x500, 0], 10: [8, 0, 1, 0]}
    tree = {"a": row_of((1, 2, 3, 4)), "d": {str(sub): row for sub, row in rows_of.items()}}
    assert found(tree) == of(13, rows_of) | {(10, 0): [1, 2, 3, 4]}


@pytest.mark.parametrize("leaf", ["d", "D"])
def test_beside_decimal_numbers_that_zeros_pad_a_letter_shows_the_base_of_leaves(leaf):
    padded = {str(sub): [f"{value:010}" for value in row] for sub, row in XSTATE.items()}
    assert found({leaf: padded}) == of(13, XSTATE)


def test_the_last_numbers_around_registers_are_their_leaf_and_sub_leaf():
    """Of keys by CPU, by leaf and by sub-leaf, however the last of them is said; its base is that of sub-leaves."""
    rows_of = dict(XSTATE) | {1: [15, 960, 0x500, 0], 10: [8, 0, 1, 0]}
    by_key = {str(sub): row_of(row) for sub, row in rows_of.items()}
    by_name = {f"entry {chr(97 + sub)}": {"subleaf": sub} | row_of(row) for sub, row in rows_of.items()}
    others = {key: row for key, row in by_key.items() if key != "0"}
    beside = {"0": by_key["0"] | {"subleaves": others}}
    for subs in (by_key, by_name, beside):
        for tree in ({"d": subs}, {"0": {"d": subs}}):
            assert found(tree) == of(13, rows_of)


@pytest.mark.parametrize("row", [[13, 0, 7, 832, 2696], [13, 0, 7, 832, 2696, 0, 0], [0, 13, 0, 7, 832, 2696, 0]])
def test_a_list_of_five_numbers_or_of_seven_is_no_row(row):
    assert found([[13, sub, *registers] for sub, registers in XSTATE.items()]) == of(13, XSTATE)
    assert not found([row])


@pytest.mark.parametrize("more", ["0", "0 0 0"])
def test_a_text_of_four_numbers_is_registers_and_of_three_or_five_none(more):
    tree = {"13": {str(sub): " ".join(map(str, row)) for sub, row in XSTATE.items()}}
    assert found(tree) == of(13, XSTATE)
    tree["13"]["0"] = "7 832 2696 0 0" if more == "0" else "7 832 2696"
    assert (13, 0) not in found(tree)


def test_an_object_with_one_number_is_that_number_and_with_two_none():
    tree = [{"leaf": 13, "subleaf": 0} | {name: {"value": value} for name, value in zip(
        ("eax", "ebx", "ecx", "edx"), XSTATE[0], strict=True)}]  # fmt: skip
    assert found(tree) == of(13, {0: XSTATE[0]})
    tree[0]["edx"]["mask"] = 1
    assert not found(tree)


@pytest.mark.parametrize("padded", [range(40), range(40, 0, -1), [7] * 40])
def test_lines_of_yaml_are_as_deep_as_they_are_indented_whatever_their_length(padded):
    rows_of = [("0x0000000d:", 0)]
    for sub, row in XSTATE.items():
        rows_of.append((f"0x{sub:02x}:", 2))
        rows_of += [(f"e{n}x: 0x{value:08x}", 4) for n, value in zip("abcd", row, strict=True)]
    text = "".join(
        " " * depth + line + " " * length + "\n" for (line, depth), length in zip(rows_of, padded, strict=False)
    )
    leaf = cpuid.parse(text.splitlines(keepends=True), "the text").leaves[13]
    assert {sub: list(row) for sub, row in leaf.items()} == XSTATE


@pytest.mark.parametrize("leaf_only", [False, True])
def test_a_leaf_alone_before_an_object_numbers_its_sub_leaves_by_their_order(leaf_only):
    subs = {sub: XSTATE[sub] for sub in (0, 1, 2)}
    tree = [[13, *([] if leaf_only else [sub]), row_of(row)] for sub, row in subs.items()]
    assert found(tree) == of(13, subs)
    tree = [{"input": [13] if leaf_only else [13, sub], "eax": row[0], "ebx": row[1], "ecx": row[2], "edx": row[3]}
            for sub, row in subs.items()]  # fmt: skip
    assert found(tree) == of(13, subs)


def test_registers_of_no_leaf_0dh_are_no_cpu():
    with pytest.raises(InputError):
        cpuid.parse([json.dumps(entries(14, XSTATE))], "the text")
