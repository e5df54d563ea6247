"""The table of kernel versions: complete, sourced, in step with its page, and equal where nothing changed."""

import dataclasses
import json
import re
from importlib import resources
from pathlib import Path

import pytest
from command import run, run_json
from pydantic import TypeAdapter, ValidationError

from sim.errors import InputError
from sim.kernel import releases, versions
from sim.kernel.releases import release
from sim.kernel.versions import KernelVersion
from sim.xsave import components as c

TOML = resources.files("sim.kernel").joinpath("versions.toml").read_text(encoding="utf-8")
PAGE = Path(__file__).parents[1] / "docs" / "kernel-versions.md"

NAMES = ("v6.6", "rfc", "v6.12", "v6.17", "v6.18", "v6.19", "v7.3")
V66, RFC, V612, V617, V618, V619, V73 = map(versions.version, NAMES)


def fields_that_differ(a: KernelVersion, b: KernelVersion) -> set[str]:
    names = {field.name for field in dataclasses.fields(KernelVersion)} - {"name", "title"}
    return {name for name in names if getattr(a, name) != getattr(b, name)}


def test_page_is_what_the_code_prints():
    assert PAGE.read_text(encoding="utf-8") == versions.markdown(), (
        "docs/kernel-versions.md is stale: python -m sim.kernel.versions > docs/kernel-versions.md"
    )


def test_names_are_the_seven_kernels_in_order():
    assert versions.names() == NAMES
    assert [versions.version(name).name for name in versions.names()] == list(versions.names())


def test_rows_are_the_twenty_two_differences_and_the_ibpb():
    assert [row.number for row in versions.differences()] == list(range(1, 24))


@pytest.mark.parametrize("row", versions.differences(), ids=lambda row: str(row.number))
def test_every_cell_says_where_it_is_from_and_how_it_was_checked(row):
    table = versions.parse(TOML)
    for name, cell in row.cells.items():
        assert cell.says, name
        assert ".c" in cell.source or ".h" in cell.source, (name, "no Linux file")
        assert any(tree in cell.checked for tree in table.trees) or cell.checked.startswith("mail: "), name
        assert not {"v7.1.5", "v7.2.13"} & set(cell.checked.split()), (name, "these are only cross-checks")


@pytest.mark.parametrize("row", versions.differences(), ids=lambda row: str(row.number))
def test_a_column_is_checked_in_its_own_version_and_rfc_claims_no_tree(row):
    for name, tree in (
        ("v6.6", "v6.6.0"), ("v6.12", "v6.12.117 and v6.12.0"), ("v6.17", "v6.17.0"), ("v6.18", "v6.18.2"),
        ("v6.19", "v6.19.0"), ("v7.3", "v7.3.4"),
    ):  # fmt: skip
        assert row.cells[name].checked.startswith(tree)
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


def test_v6_19_differs_from_v6_18_in_the_place_of_xcr0_and_xss_and_in_two_fixes():
    assert fields_that_differ(V618, V619) == {"xfeatures_swapped", "guest_xfd_write_clears_xstate_bv", "directed_yield"}


def test_v7_3_differs_from_v6_19_in_the_scheduler_alone():
    assert fields_that_differ(V619, V73) == {"preemption_models", "preemption_default", "hrtick", "slice_rules"}


def test_lazy_preemption_came_after_v6_12_and_none_and_voluntary_went_before_v7_3():
    assert [name for name in NAMES if "lazy" in versions.version(name).preemption_models] == [
        "v6.17", "v6.18", "v6.19", "v7.3",
    ]  # fmt: skip
    assert [name for name in NAMES if "voluntary" not in versions.version(name).preemption_models] == ["v7.3"]
    for name in NAMES:
        kernel = versions.version(name)
        assert "full" in kernel.preemption_models
        assert kernel.preemption_default in kernel.preemption_models


def test_v6_17_has_guest_only_cet_s_and_gives_it_to_nobody():
    assert fields_that_differ(V617, V618) == {
        "guest_xss",
        "kvm_cet",
        "fastpath",
        "cet_msr_ioctl_asks_cpuid",
        "cet_msr_ioctl_loads_fpu",
        "init_reset_components",
        "clear_user_states_updates_xfd",
    }
    assert (V617.guest_only, V617.gives_cet) == (c.CET_S, False)


def test_v6_12_lts_is_v6_6_with_newer_fastpaths_and_what_stable_releases_brought():
    assert fields_that_differ(V66, V612) == {
        "guest_allocation",
        "fastpath",
        "fastpath_handled",
        "signal_opens_pkru",
        "clear_user_states_updates_xfd",
        "guest_xfd_write_clears_xstate_bv",
        "preempted_needs_wants_to_run",
        "halt_poll_ns_shrink",
        "tracepoints",
        "ibpb_exit_to_user",
        "mitigations",
    }


def test_sentence_as_before_means_the_same_values():
    for row in versions.differences():
        for name, cell in row.cells.items():
            for other in versions.names():
                if cell.says == f"As {other}.":
                    assert cell.values == row.cells[other].values, (row.number, name)


def test_masks_of_the_rfc_and_of_the_merged_code_agree_on_cet_s():
    for kernel in (RFC, V617, V618, V619, V73):
        assert kernel.guest_only == c.CET_S
        assert kernel.supervisor_supported == c.PASID | c.CET_U | c.CET_S
    for kernel in (V66, V612):
        assert kernel.guest_only == 0
        assert kernel.supervisor_supported == c.PASID | c.CET_U


def test_user_components_are_the_same_but_for_apx():
    old = c.FP | c.SSE | c.AVX | c.MPX | c.AVX512 | c.PKRU | c.XTILE
    assert {kernel.user_supported for kernel in (V66, RFC, V612)} == {old}
    assert {kernel.user_supported for kernel in (V617, V618, V619, V73)} == {old | c.APX}


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
    assert not any(kernel.kvm_cet.svm for kernel in (V66, RFC, V612, V617))


def test_tsc_deadline_re_enters_on_svm_since_v6_18_and_nothing_did_in_v6_6():
    assert V66.fastpath.svm == RFC.fastpath.svm == ()
    assert [kernel.name for kernel in map(versions.version, NAMES) if "wrmsr-tsc-deadline" in kernel.fastpath.svm] == [
        "v6.18", "v6.19", "v7.3",
    ]  # fmt: skip


@pytest.mark.parametrize("name", versions.names())
@pytest.mark.parametrize("vendor", ["vmx", "svm"])
def test_an_exit_either_re_enters_or_is_handled(name, vendor):
    kernel = versions.version(name)
    assert not set(kernel.fastpath[vendor]) & set(kernel.fastpath_handled[vendor])


def test_svm_has_no_preemption_timer_and_no_immediate_wrmsr():
    for name in versions.names():
        kernel = versions.version(name)
        assert not {"preemption-timer", "wrmsr-imm"} & {*kernel.fastpath.svm, *kernel.fastpath_handled.svm}


def test_a_name_that_is_no_release_is_told_the_right_ones():
    with pytest.raises(InputError, match=r"unknown kernel version 'rcf'; did you mean 'rfc'\? \(allowed: rfc, v6.12"):
        versions.version("rcf")


NEAREST = {
    # release: the nearest kernel, differences for sure, differences perhaps
    (5, 10): ("v6.6", [2, 5, 6, 11, 13, 17, 19, 21, 22], []),
    (5, 13): ("v6.6", [2, 5, 11, 21], [6, 13, 17, 19, 22]),  # 5.10 restores PKRU of the task, 5.15 does not
    (5, 15): ("v6.6", [2, 5, 6, 11, 19, 21, 22], []),
    (6, 1): ("v6.6", [2, 5, 6, 9, 10, 11, 15, 17, 21, 22], []),
    (6, 4): ("v6.6", [5, 21], [2, 6, 9, 10, 11, 15, 17, 22]),  # what stable 6.1 has, 6.5.0 may not
    (6, 5): ("v6.6", [5, 21], []),
    (6, 7): ("v6.6", [], []),
    (6, 8): ("v6.6", [22], []),
    (6, 10): ("v6.6", [9, 15, 22], []),
    (6, 11): ("v6.6", [9, 10, 13, 14, 15, 22], []),
    (6, 13): ("v6.12", [6, 10, 11, 17, 19, 22, 23], []),
    (6, 14): ("v6.12", [6, 8, 10, 11, 15, 17, 19, 22, 23], []),
    (6, 15): ("v6.12", [4, 8, 10, 11, 15, 17, 19, 22, 23], []),  # 1 to 3, 5, 16 and 18 are v6.16's: see v6.17
    (6, 16): ("v6.17", [5, 6, 17, 21], []),
    (7, 0): ("v6.19", [19], []),
    (7, 1): ("v7.3", [21], []),
    (7, 2): ("v7.3", [21], []),
}


def numbers(text: str) -> list[int]:
    return [int(each) for each in re.findall(r"(\d+) \([A-Zk]", text)]


@pytest.mark.parametrize("wanted", NEAREST)
def test_a_release_between_two_kernels_gets_the_nearest_and_what_differs_or_may(wanted):
    near = versions.nearest(wanted)
    kernel, surely, perhaps = NEAREST[wanted]
    assert near.kernel == kernel
    sure, _, maybe = near.says.partition("may differ in")
    assert (numbers(sure), numbers(maybe)) == (surely, perhaps)
    assert (near.differs, near.may_differ) == (tuple(surely), tuple(perhaps))
    where = "lies between " if wanted > (6, 6) else "is older than v6.6, "
    assert near.says.startswith(f"Linux {wanted[0]}.{wanted[1]} {where}")


READ = releases.read_releases()


@pytest.mark.parametrize("name", READ)
def test_a_release_that_was_read_says_where_and_differs_in_values_that_its_row_has(name):
    found = READ[name]
    number = ".".join(map(str, release(name)))
    assert found.tree.name.startswith(number)
    assert "/" in found.tree.repository or found.tree.repository.endswith(number)
    assert re.fullmatch(r"[0-9a-f]{40}|[\d.]+-\d", found.tree.commit)
    rows = {row.number: row for row in versions.differences()}
    numbered = [each.number for each in found.differs]
    assert numbered == sorted(set(numbered))
    for each in found.differs:
        here = rows[each.number].cells[found.like].values
        assert set(each.values) <= set(here)
        assert all(value != here[key] for key, value in each.values.items())
        assert ".c" in each.source or ".h" in each.source or ".S" in each.source or "Kconfig" in each.source
        assert each.until == "" or release(each.until) > release(name)
        TypeAdapter(KernelVersion).validate_json(
            json.dumps({**dataclasses.asdict(versions.version(found.like)), **each.values})
        )


def test_every_release_that_was_read_is_on_the_page_and_in_the_help(capsys):
    page = PAGE.read_text(encoding="utf-8")
    _, text, _ = run(capsys, "kernels", "--help")
    listed = " ".join(text.split())
    assert all(f"\n**{name}**, as " in page for name in READ)
    assert all(name in listed for name in READ if name != "v7.1")  # "v7.0 to v7.2"


@pytest.mark.parametrize("missing", ["like", "tree", "differs"])
def test_a_release_that_lacks_something_is_an_error_at_load(missing):
    other = {"like": 'like = "v6.6"', "tree": "tree = {name='a', repository='b', commit='c', about='d'}", "differs": ""}
    del other[missing]
    row = "" if missing == "differs" else '[[release."v6.7".differs]]\nnumber = 1\nsays = "a"\nsource = "b"'
    text = "\n".join(['[release."v6.7"]', *other.values(), row, '[beyond]\nsays = "a"\nsource = "b"'])
    with pytest.raises(ValidationError, match=missing):
        releases.parse(text)


def test_a_release_of_the_model_has_nothing_to_be_said():
    assert [
        (versions.nearest(release(name)).kernel, versions.nearest(release(name)).says)
        for name in NAMES
        if name != "rfc"
    ] == [(name, "") for name in NAMES if name != "rfc"]


@pytest.mark.parametrize(
    ("wanted", "kernel", "says"), [((4, 19), "v6.6", "older than v6.6"), ((7, 4), "v7.3", "newer than v7.3")]
)
def test_a_release_beyond_the_ends_gets_the_end_and_no_more(wanted, kernel, says):
    near = versions.nearest(wanted)
    assert near.kernel == kernel
    assert says in near.says
    assert "not known here" in near.says


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("6.12", "the model's row for it is 'v6.12'"),
        ("v6.18.35", "the model's row for it is 'v6.18'"),
        ("6.14.0-rc2+", "v6.12 is nearest"),
        ("7.4", "newer than v7.3"),
        ("v5.20", "there is no Linux v5.20: the last v5 was v5.19"),
        ("6.20.1-rc1", "there is no Linux v6.20: the last v6 was v6.19"),
        ("v8", "a release has two numbers, as v7.3 has"),
        ("6", "a release has two numbers"),
        ("7.21", "there is no Linux v7.21: v7 has not come so far"),
    ],
)
def test_a_name_that_is_another_release_is_told_the_nearest_and_no_fuzzy_match(name, message):
    with pytest.raises(InputError) as error:
        versions.version(name)
    assert message in str(error.value)
    assert "did you mean" not in str(error.value)
    assert "(allowed: v6.6, rfc, v6.12," in str(error.value)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_like_no_other(name):
    with pytest.raises(InputError, match=r"unknown kernel version '[ ]?' [(]allowed: rfc, "):
        versions.version(name)


def test_the_release_before_one_that_never_was_is_a_release():
    for major, minor in ((2, 6), (3, 19), (4, 20), (5, 19), (6, 19)):  # the tags of Linux
        assert releases.release(f"v{major}.{minor}") == (major, minor)
        assert releases.release(f"v{major}.{minor + 1}") is None


def test_fpswitch_kernels_has_the_whole_table(capsys):
    table = run_json(capsys, "kernels")
    assert [each["name"] for each in table["kernels"]] == list(NAMES)
    for row, written in zip(versions.differences(), table["differences"], strict=True):
        assert written["number"] == row.number
        for name, cell in row.cells.items():
            assert written["kernels"][name]["values"] == cell.values
            assert written["kernels"][name]["source"] == cell.source
    status, text, _ = run(capsys, "kernels")
    assert status == 0
    assert "tracepoints: v6.6 (v6.6, rfc) | v6.12 (v6.12) | v6.18 (v6.17, v6.18, v6.19, v7.3)" in text


def test_fpswitch_kernels_of_one_kernel_says_what_it_does_and_of_another_release_what_is_nearest(capsys):
    status, text, _ = run(capsys, "kernels", "v6.17")
    assert status == 0
    assert all(f"\n{row.number:2} {row.topic}\n" in text for row in versions.differences())
    status, text, _ = run(capsys, "kernels", "v6.14")
    assert status == 0
    assert "v6.12 is nearest" in text
    assert "perishh/linux-6.14 @ 16b95dcdf585" in text
    assert "write_pkru_reads: no" in text
    found = run_json(capsys, "kernels", "v6.14.8-rc2")
    assert [each["number"] for each in found["differs"]] == NEAREST[6, 14][1]
    assert found["nearest"] == "v6.12"
    assert found["read"]["name"] == "6.14.0"
    found = run_json(capsys, "kernels", "6.15")
    assert found["read"] is None
    assert [each["number"] for each in found["may_differ"]] == NEAREST[6, 15][2]
    assert {each["says"] for each in found["differs"]} == {None}
    _, text, _ = run(capsys, "kernels", "6.12.117")
    assert text == run(capsys, "kernels", "v6.12")[1]


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
        ("svm = []", 'svm = ["cpuid", "io"]', "v6.6, fastpath.svm.0: 'cpuid' is wrong"),
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


def test_a_cell_without_values_is_an_error_at_load():
    text = TOML.replace("values = { struct_fpu", "value = { struct_fpu")
    with pytest.raises(InputError, match=r"difference 16, v6\.6: missing values"):
        versions.parse(text)


def test_a_value_that_no_field_takes_is_an_error_at_load():
    text = TOML.replace("values = { struct_fpu", "values = { colour = 1, struct_fpu")
    with pytest.raises(InputError, match=r"all values of v6.6: unknown key 'colour'"):
        versions.parse(text)


def test_a_value_in_two_rows_is_an_error_at_load():
    text = TOML.replace("values = { struct_fpu", "values = { guest_only = 1, struct_fpu")
    with pytest.raises(InputError, match=r"difference 16, v6.6: guest_only is already set"):
        versions.parse(text)


LIKE = '\n[kernels.mine]\ntitle = "Mine"\nabout = "An example."\nas = "v6.18"\nchecked = "nowhere"\n\n[trees]\n'


def test_a_kernel_that_is_as_another_has_its_values_where_it_says_nothing_else():
    table = versions.parse(TOML.replace("\n[trees]\n", LIKE, 1))
    assert fields_that_differ(table.kernels["mine"], V618) == set()
    assert {(row.cells["mine"].says, row.cells["mine"].checked) for row in table.differences} == {
        ("As v6.18.", "nowhere")
    }


def test_a_kernel_cannot_be_as_one_that_is_not_above_it():
    with pytest.raises(InputError, match=r"kernels\.mine\.as: unknown kernel above it 'mine'"):
        versions.parse(TOML.replace("\n[trees]\n", LIKE.replace("v6.18", "mine"), 1))
