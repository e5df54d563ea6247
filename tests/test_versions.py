"""The table of kernel versions: complete, sourced, in step with its page, and equal where nothing changed."""

import dataclasses
from importlib import resources
from pathlib import Path

import pytest

from sim.errors import InputError
from sim.kernel import versions
from sim.kernel.versions import KernelVersion
from sim.xsave import components as c

TOML = resources.files("sim.kernel").joinpath("versions.toml").read_text(encoding="utf-8")
PAGE = Path(__file__).parents[1] / "docs" / "kernel-versions.md"

V66, RFC, V618, V619 = (versions.version(name) for name in ("v6.6", "rfc", "v6.18", "v6.19"))


def fields_that_differ(a: KernelVersion, b: KernelVersion) -> set[str]:
    names = {field.name for field in dataclasses.fields(KernelVersion)} - {"name", "title"}
    return {name for name in names if getattr(a, name) != getattr(b, name)}


def test_page_is_what_the_code_prints():
    assert PAGE.read_text(encoding="utf-8") == versions.markdown(), (
        "docs/kernel-versions.md is stale: python -m sim.kernel.versions > docs/kernel-versions.md"
    )


def test_names_are_the_four_kernels_in_order():
    assert versions.names() == ("v6.6", "rfc", "v6.18", "v6.19")
    assert [versions.version(name).name for name in versions.names()] == list(versions.names())


def test_rows_are_the_seventeen_differences_and_the_ibpb():
    assert [row.number for row in versions.differences()] == list(range(1, 19))


@pytest.mark.parametrize("row", versions.differences(), ids=lambda row: str(row.number))
def test_every_cell_says_where_it_is_from_and_how_it_was_checked(row):
    table = versions.parse(TOML)
    for name, cell in row.cells.items():
        assert cell.says, name
        assert ".c" in cell.source or ".h" in cell.source, (name, "no Linux file")
        assert any(tree in cell.checked for tree in table.trees) or cell.checked.startswith("mail: "), name
        assert "v7.1.5" not in cell.checked, (name, "7.1.5 is only a cross-check")


@pytest.mark.parametrize("row", versions.differences(), ids=lambda row: str(row.number))
def test_a_column_is_checked_in_its_own_version_and_rfc_claims_no_tree(row):
    assert row.cells["v6.6"].checked.startswith("v6.6.0")
    assert row.cells["v6.18"].checked.startswith("v6.18.2")
    assert row.cells["v6.19"].checked.startswith("v6.19.0")
    assert row.cells["rfc"].checked.startswith(("inferred from v6.6.0: ", "mail: "))


def test_every_mail_that_a_row_names_is_listed_and_every_listed_mail_is_named():
    table = versions.parse(TOML)
    text = " ".join(cell.source + cell.checked for row in table.differences for cell in row.cells.values())
    assert [mail for mail in table.mails if mail not in text] == []


def test_every_row_differs_somewhere():
    for row in versions.differences():
        cells = list(row.cells.values())
        assert any(cell.values != cells[0].values for cell in cells[1:]), row.number


def test_rfc_differs_from_v6_6_only_where_its_patches_touch():
    assert fields_that_differ(V66, RFC) == {
        "supervisor_supported",
        "cet_u_needs",
        "guest_only",
        "guest_allocation",
        "guest_xss",
        "kvm_cet",
        "cet_msr_ioctl_loads_fpu",
    }


def test_rfc_cells_that_are_only_inferred_have_the_values_of_v6_6():
    for row in versions.differences():
        if row.cells["rfc"].checked.startswith("inferred"):
            assert row.cells["rfc"].values == row.cells["v6.6"].values, row.number


def test_v6_19_differs_from_v6_18_only_in_the_place_of_xcr0_and_xss_and_in_the_xfd_fix():
    assert fields_that_differ(V618, V619) == {"xfeatures_swapped", "guest_xfd_write_clears_xstate_bv"}


def test_sentence_as_before_means_the_same_values():
    for row in versions.differences():
        for name, cell in row.cells.items():
            for other in versions.names():
                if cell.says == f"As {other}.":
                    assert cell.values == row.cells[other].values, (row.number, name)


def test_masks_of_the_rfc_and_of_the_merged_code_agree_on_cet_s():
    for kernel in (RFC, V618, V619):
        assert kernel.guest_only == c.CET_S
        assert kernel.supervisor_supported == c.PASID | c.CET_U | c.CET_S
    assert V66.guest_only == 0
    assert V66.supervisor_supported == c.PASID | c.CET_U


def test_user_components_are_the_same_but_for_apx():
    old = c.FP | c.SSE | c.AVX | c.MPX | c.AVX512 | c.PKRU | c.XTILE
    assert V66.user_supported == RFC.user_supported == old
    assert V618.user_supported == V619.user_supported == old | c.APX


def test_only_the_rfc_keeps_component_11_for_ibt_alone():
    assert [name for name in versions.names() if "IBT" in versions.version(name).cet_u_needs] == ["rfc"]


@pytest.mark.parametrize("name", versions.names())
def test_masks_stay_within_what_the_fpu_core_supports(name):
    kernel = versions.version(name)
    assert kernel.user_supported & ~c.USER == 0
    assert kernel.supervisor_supported & ~c.SUPERVISOR == 0
    assert kernel.guest_only & ~kernel.supervisor_supported == 0
    assert kernel.init_reset_components & ~(kernel.user_supported | kernel.supervisor_supported) == 0
    for vendor in ("vmx", "svm"):
        assert kernel.guest_xss[vendor] & ~kernel.supervisor_supported == 0


@pytest.mark.parametrize("name", versions.names())
@pytest.mark.parametrize("vendor", ["vmx", "svm"])
def test_kvm_offers_xss_exactly_where_it_has_cet(name, vendor):
    kernel = versions.version(name)
    assert kernel.guest_xss[vendor] == (c.CET_U | c.CET_S if kernel.kvm_cet[vendor] else 0)


def test_no_kernel_before_v6_18_gives_an_amd_guest_cet():
    assert not V66.kvm_cet.svm
    assert not RFC.kvm_cet.svm


def test_nothing_re_enters_on_svm_before_v6_18():
    assert V66.fastpath.svm == RFC.fastpath.svm == ()


@pytest.mark.parametrize("name", versions.names())
@pytest.mark.parametrize("vendor", ["vmx", "svm"])
def test_an_exit_either_re_enters_or_is_handled(name, vendor):
    kernel = versions.version(name)
    assert not set(kernel.fastpath[vendor]) & set(kernel.fastpath_handled[vendor])


def test_svm_has_no_preemption_timer_and_no_immediate_wrmsr():
    for name in versions.names():
        kernel = versions.version(name)
        assert not {"preemption-timer", "wrmsr-imm"} & {*kernel.fastpath.svm, *kernel.fastpath_handled.svm}


def test_a_wrong_name_is_told_the_right_ones():
    with pytest.raises(InputError, match=rf"unknown kernel version 'v6.16' \(allowed: {', '.join(versions.names())}\)"):
        versions.version("v6.16")


def test_a_version_cannot_be_changed_and_can_be_a_key():
    with pytest.raises(dataclasses.FrozenInstanceError):
        V66.guest_only = 1
    assert {V66: 1}[versions.version("v6.6")] == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'need_fpu_load_set_on = "next"',
            'need_fpu_load_set_on = "both"',
            "v6.6, need_fpu_load_set_on: 'both' is wrong",
        ),
        ("signal_opens_pkru = false", "signal_opens_pkru = 0", "v6.6, signal_opens_pkru: 0 is wrong"),
        ("halt_poll_ns_shrink = 0", "halt_poll_ns_shrink = false", "v6.6, halt_poll_ns_shrink: False is wrong"),
        ("kvm_cet = { vmx = false, svm = false }", "kvm_cet = { vmx = false }", "v6.6, kvm_cet.svm"),
        ("svm = []", 'svm = ["cpuid"]', "v6.6, fastpath.svm.0: 'cpuid' is wrong"),
        ("guest_only = 0x0, ", "", "difference 6, rfc, values: unknown key 'guest_only'"),
        ("guest_only = 0x1000, ", "", "difference 6, rfc, values: missing guest_only"),
        ("tracepoints = ", "tracepoint = ", "difference 15, rfc, values: unknown key 'tracepoints'; did you mean"),
        ('checked = "v6.6.0"\n', "", "difference 1, v6.6: missing checked"),
        ('checked = "v6.6.0"', 'checked = " "', "difference 1, v6.6.checked: ' ' is not a text"),
        ('checked = "v6.6.0"', 'note = "?"\nchecked = "v6.6.0"', "difference 1, v6.6: unknown key 'note'"),
        ("[difference.rfc]", "[difference.rcf]", "difference 1: unknown key 'rcf'; did you mean 'rfc'"),
        ("number = 4", "number = 5", "not numbered"),
        ("\n[mails]", "\n[letters]", "the file: unknown key 'letters'"),
    ],
)
def test_a_mistake_in_the_table_is_an_error_at_load(old, new, message):
    assert old in TOML
    with pytest.raises(InputError) as error:
        versions.parse(TOML.replace(old, new, 1))
    assert message in str(error.value)


def test_a_value_that_no_field_takes_is_an_error_at_load():
    text = TOML.replace("values = { struct_fpu", "values = { colour = 1, struct_fpu")
    with pytest.raises(InputError, match=r"all values of v6.6: unknown key 'colour'"):
        versions.parse(text)


def test_a_value_in_two_rows_is_an_error_at_load():
    text = TOML.replace("values = { struct_fpu", "values = { guest_only = 1, struct_fpu")
    with pytest.raises(InputError, match=r"difference 16, v6.6: guest_only is already set"):
        versions.parse(text)
