"""fpswitch patches: the RFC's patches, alone and together, and what the model finds when it runs them."""

from itertools import chain, combinations

import command
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError
from sim.kernel.config import Settings, boot
from sim.kernel.masks import PAGE
from sim.kernel.patches import ALL_PATCHES, PATCHES, effect
from sim.report.patch_tables import (
    Allocation,
    allocation_rows,
    cpus_that_show_patch_6,
    interesting_subsets,
    parse_subset,
    patch_rows,
    subset_name,
)
from sim.xsave import profiles

CET_U, CET_S = 0x800, 0x1000
CET_CPUS = [name for name in profiles.names() if "SHSTK" in profiles.profile(name).features]
VMX_CET_CPUS = [name for name in CET_CPUS if profiles.profile(name).vendor == "intel"]
SUBSETS = [frozenset(c) for c in chain.from_iterable(combinations(range(1, 9), n) for n in range(9))]

subsets = st.frozensets(st.integers(1, 8))


def run(capsys, *arguments):
    return command.run(capsys, "patches", *arguments)


def run_json(capsys, *arguments):
    return command.run_json(capsys, "patches", *arguments)


def row_of(*patches, cpu="sapphire-rapids"):
    (row,) = patch_rows(cpu, [frozenset(patches)])
    return row


def result(row):
    """All that a subset leads to, whatever was asked for."""
    return row.effect.patches, row.masks, row.kvm_offers_cet, row.allocation, row.amx, row.verdict


# What patches do.


@pytest.mark.parametrize("cpu", CET_CPUS)
@pytest.mark.parametrize("patches", [(3,), (1, 3), (1, 2, 3), (1, 2, 3, 4), (3, 4)])
def test_3_without_5_puts_cet_s_into_every_task(cpu, patches):
    row = row_of(*patches, cpu=cpu)
    assert row.masks.xss & CET_S
    assert row.masks.host_default & row.masks.guest_default & row.masks.restore_mask & CET_S
    assert row.cet_s_in_normal_fpstates
    assert row.verdict.sound


@pytest.mark.parametrize("cpu", VMX_CET_CPUS)
@pytest.mark.parametrize("patches", [(3, 4, 5), (1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6, 8)])
def test_4_and_5_without_7_lose_the_guests_ssps_and_the_integrity_check_says_so(cpu, patches):
    row = row_of(*patches, cpu=cpu)
    assert row.kvm_offers_cet
    assert not (row.masks.host_default | row.masks.guest_default) & CET_S
    assert row.masks.restore_mask & CET_S
    assert row.verdict.sound is False
    found = {(sequence, finding.kind, finding.what) for sequence, finding in row.verdict.findings}
    assert found == {
        ("preempted by a user task", "wrong-value", "CET_KERNEL"),
        ("exit to user space", "wrong-value", "CET_KERNEL"),
    }  # and a halt loses nothing: idle has no user FPU, so the registers stay the guest's
    assert "guest loses its SSPs: wrong-value CET_KERNEL" in row.verdict.summary


@pytest.mark.parametrize("cpu", VMX_CET_CPUS)
@pytest.mark.parametrize("patches", [range(1, 9), range(1, 8), (3, 4, 5, 7), (1, 2, 3, 4, 5, 7)])
def test_3_4_5_and_7_make_cet_s_guest_only_and_sound(cpu, patches):
    row = row_of(*patches, cpu=cpu)
    assert not row.masks.host_default & CET_S
    assert row.masks.guest_default & row.masks.restore_mask & row.masks.xss & CET_S
    assert row.verdict.sound
    assert row.verdict.summary == "sound"


def test_no_subset_leaks_or_corrupts_anything_but_the_guests_own_ssps():
    for row in patch_rows("sapphire-rapids", SUBSETS):
        assert {(finding.kind, finding.what) for _, finding in row.verdict.findings} <= {("wrong-value", "CET_KERNEL")}
        loses = {3, 4, 5} <= row.effect.patches and 7 not in row.effect.patches
        assert row.verdict.sound is not loses


@pytest.mark.parametrize("cpu", CET_CPUS)
@pytest.mark.parametrize("patches", [(3, 4, 8), (1, 2, 3, 4, 7, 8), (1, 2, 3, 4, 6, 7, 8)])
def test_8_warns_about_a_normal_fpstate_with_a_guest_only_feature(cpu, patches):
    row = row_of(*patches, cpu=cpu)
    assert row.verdict.warnings
    assert all("normal fpstate" in warning for warning in row.verdict.warnings)
    assert "WARN_ON_FPU" in row.verdict.summary
    assert row.verdict.sound  # it warns and changes nothing


@pytest.mark.parametrize("cpu", CET_CPUS)
def test_8_never_warns_with_all_eight(cpu):
    assert not row_of(*ALL_PATCHES, cpu=cpu).verdict.warnings


def test_8_warns_exactly_where_it_builds_and_5_does_not():
    for row in patch_rows("sapphire-rapids", SUBSETS):
        assert bool(row.verdict.warnings) == (8 in row.effect.patches and 5 not in row.effect.patches)


def test_patch_1_decides_about_cet_u_on_a_cpu_with_ibt_and_without_shstk():
    for patches in SUBSETS:
        row = row_of(*patches, cpu="ibt-no-shstk")
        assert bool(row.masks.max_features & CET_U) == (1 in patches)
        assert bool(row.masks.xss & CET_U) == (1 in patches)
        assert not row.masks.max_features & CET_S
        assert not row.kvm_offers_cet
        assert row.verdict.sound is None
        assert "ibt-no-shstk" in row.verdict.not_run


@pytest.mark.parametrize("cpu", [name for name in profiles.names() if name != "ibt-no-shstk"])
def test_patch_1_changes_nothing_on_any_other_cpu(cpu):
    assert row_of(1, cpu=cpu).masks == row_of(cpu=cpu).masks


def test_without_patch_1_tasks_with_ibt_get_each_others_u_cet_where_there_is_no_shstk_and_nowhere_else():
    for patches in SUBSETS:
        tasks = row_of(*patches, cpu="ibt-no-shstk").tasks
        assert tasks.sound is (1 in patches)
        assert {(finding.kind, finding.what) for _, finding in tasks.findings} <= {("wrong-value", "CET_USER")}
    for cpu in CET_CPUS:
        assert row_of(cpu=cpu).tasks.sound is (True if "IBT" in profiles.profile(cpu).features else None)


@pytest.mark.parametrize("cpu", ["zen4", "zen5"])
def test_if_kvm_gave_amds_guests_cet_a_subset_would_be_as_sound_as_on_intel(cpu):
    for patches in interesting_subsets():
        amd, intel = row_of(*patches, cpu=cpu), row_of(*patches)
        assert intel.forced is None
        assert amd.verdict.sound
        assert (amd.forced is None) == (3 not in amd.effect.patches)
        if amd.forced:
            assert (amd.forced.sound, amd.forced.summary) == (intel.verdict.sound, intel.verdict.summary)


def test_each_patch_says_what_became_of_it():
    fates = {patch.number: patch.fate for patch in PATCHES}
    commits = {
        2: "1937e18cc3cf",
        3: "8b05b3c98816",
        4: "151bf232494d",
        5: "7bc4ed75f2d6",
        6: "7c2c89364d92",
        7: "509e880b7795",
    }
    assert all(commit in fates[number] for number, commit in commits.items())
    assert [number for number, fate in fates.items() if fate.startswith("dropped")] == [1, 8]


# What does not build.


@pytest.mark.parametrize("number", [5, 6, 7, 8])
def test_5_to_8_do_not_build_without_4(number):
    notes = effect(frozenset((3, number))).notes
    assert any(note.startswith(f"{number} does not build without 4") for note in notes)


def test_4_does_not_build_without_3():
    assert any(note.startswith("4 does not build without 3") for note in effect(frozenset((1, 2, 4))).notes)


@given(subsets, st.sampled_from(["sapphire-rapids", "zen4", "ibt-no-shstk"]))
def test_a_subset_is_the_same_as_without_what_does_not_build(patches, cpu):
    row = row_of(*patches, cpu=cpu)
    buildable = {n for n in patches if n in (1, 2, 3) or (n == 4 and 3 in patches) or {3, 4} <= patches}
    assert row.effect.patches == buildable
    assert result(row) == result(row_of(*buildable, cpu=cpu))


@given(subsets)
def test_4_alone_changes_nothing(patches):
    if not patches & {5, 6, 7, 8}:
        with_4, without = row_of(*patches, 4), row_of(*(patches - {4}))
        assert result(with_4)[1:] == result(without)[1:]


def test_a_note_that_4_has_no_effect_is_there_exactly_where_none_of_those_is_that_use_it():
    for patches in SUBSETS:
        noted = any(note.startswith("4 has no effect") for note in effect(patches).notes)
        assert noted == ({3, 4} <= patches and not patches & {5, 6, 7, 8}), patches


@pytest.mark.parametrize(
    ("note", "with_", "without"),
    [("8 needs the declaration", 8, 7), ("2 has no effect with 7", 2, None), ("6 has no effect without 5", 6, 5)],
)
def test_a_note_of_a_patch_beside_another_is_there_exactly_where_it_builds_so(note, with_, without):
    for patches in SUBSETS:
        noted = any(each.startswith(note) for each in effect(patches).notes)
        builds = {3, 4} <= patches and (with_ != 2 or 7 in patches)
        assert noted == (builds and with_ in patches and without not in patches), patches


@pytest.mark.parametrize("cpu", CET_CPUS)
def test_masks_are_those_of_the_kernel_that_boots(cpu):
    for row in patch_rows(cpu):
        assert row.masks == boot(Settings(cpu=cpu, kernel="rfc", patches=row.asked)).masks


# Sizes and allocation.


def test_v6_6_allocates_16_bytes_too_few_on_zen4():
    row = row_of(cpu="zen4")
    assert (row.allocation.allocated, row.allocation.needed, row.allocation.difference) == (2440, 2456, -16)
    assert row.allocation.short
    assert row.allocation.hidden_by_pages


def test_patch_2_allocates_what_is_needed_on_every_cpu():
    for cpu in profiles.names():
        assert row_of(2, cpu=cpu).allocation.difference == 0
        assert row_of(1, 2, 3, cpu=cpu).allocation.difference == 0


def test_page_rounding_hides_the_missing_bytes_on_every_cpu():
    rows = allocation_rows()
    assert {row.cpu for row in rows} == set(profiles.names())
    assert all(each.pages_suffice for row in rows for each in (row.now, row.with_cet))
    assert {row.cpu for row in rows if row.now.short} == {"zen4", "zen5"}
    assert all(row.now.hidden_by_pages for row in rows if row.now.short)


def test_xsaves_writes_beyond_the_allocation_on_amd_as_soon_as_guests_have_cet_and_not_before():
    rows = {row.cpu: row for row in allocation_rows()}
    assert all(row.written_now <= row.now.allocated for row in rows.values())
    beyond = {name for name, row in rows.items() if (row.written_with_cet or 0) > row.with_cet.allocated}
    assert beyond == {"zen4", "zen5"}
    assert rows["zen4"].written_with_cet == rows["zen4"].with_cet.needed == 2480
    assert rows["ice-lake-sp"].written_with_cet is None


def test_no_shipped_cpu_shows_patch_6():
    assert cpus_that_show_patch_6() == []


def test_pages_do_not_hide_what_crosses_their_end():
    assert not Allocation(PAGE - 64, PAGE).pages_suffice
    assert Allocation(PAGE - 72, PAGE - 64).hidden_by_pages
    assert not Allocation(PAGE, PAGE).hidden_by_pages


@given(subsets, st.sampled_from(profiles.names()))
def test_7_makes_2_redundant(patches, cpu):
    with_7 = patches | {3, 4, 7}
    assert row_of(*with_7, 2, cpu=cpu).allocation == row_of(*(with_7 - {2}), cpu=cpu).allocation


def test_the_permission_of_a_guest_with_amx_has_room_with_and_without_patch_6():
    for cpu in VMX_CET_CPUS:
        for patches in (ALL_PATCHES, ALL_PATCHES - {6}):
            amx = row_of(*patches, cpu=cpu).amx
            if "AMX_TILE" in profiles.profile(cpu).features:
                assert (amx.allocated, amx.needed) == (10752, 10752)  # the gap before TILECFG swallows the 24 bytes
            else:
                assert amx is None


# The command.


def test_every_single_patch_every_prefix_and_the_gaps_are_reported():
    names = [subset_name(patches) for patches in interesting_subsets()]
    assert len(set(names)) == len(names)
    assert set(names) == {
        "none", *"12345678", "1,2", "1-3", "1-4", "1-5", "1-6", "1-7", "1-8", "1-5,7", "1-4,7,8", "3,4,8",
    }  # fmt: skip


@given(subsets)
def test_the_name_of_a_subset_is_read_back(patches):
    assert parse_subset(subset_name(patches)) == patches


@pytest.mark.parametrize("text", ["", "x", "9", "0", "3-1", "1-99999999999", "1,", "1--3", "-1", "1-", "1;2", "²"])
def test_what_is_no_subset_is_an_input_error(text):
    with pytest.raises(InputError):
        parse_subset(text)


@pytest.mark.parametrize("cpu", profiles.names())
def test_text_fits_100_columns(capsys, cpu):
    for arguments in ([], ["--subset", "3,4,8"], ["--subset", "none"], ["--subset", "5-8"]):
        status, out, err = run(capsys, "--cpu", cpu, *arguments)
        assert (status, err) == (0, "")
        assert max(map(len, out.splitlines())) <= 100


def test_text_says_that_later_patches_use_what_patch_4_defines(capsys):
    _, out, _ = run(capsys)
    assert "fpu_kernel_dynamic_xfeatures names CET_S; patches 5-8 use it" in out
    assert "nothing uses it" not in out


def test_text_of_a_subset_says_what_does_not_build_and_what_was_found(capsys):
    _, out, _ = run(capsys, "--subset", "1-3,5")
    assert "5 does not build without 4" in out
    _, out, _ = run(capsys, "--subset", "1-5")
    assert "guest loses its SSPs: wrong-value CET_KERNEL" in out


def test_json_is_one_document(capsys):
    document = run_json(capsys)
    assert list(document) == ["cpu", "patches", "subsets", "allocation", "cpus_that_show_patch_6"]
    assert [patch["number"] for patch in document["patches"]] == list(range(1, 9))
    assert len(document["subsets"]) == len(interesting_subsets())
    assert len({tuple(row) for row in document["subsets"]}) == 1
    assert len(document["allocation"]) == len(profiles.names())
    everything = document["subsets"][-1]
    assert everything["patches"] == everything["builds"] == list(range(1, 9))
    assert (everything["normal_save"], everything["guest_save"]) == ("0x20ee7", "0x21ee7")
    assert (everything["restore"], everything["xss"]) == ("0x61ce7", "0x9c00")
    assert everything["verdict"]["sound"] is True


def test_json_of_one_subset_has_the_same_form(capsys):
    document = run_json(capsys, "--subset", "1-5")
    (row,) = document["subsets"]
    assert row["patches"] == [1, 2, 3, 4, 5]
    assert row["verdict"]["sound"] is False
    assert row["verdict"]["findings"][0]["what"] == "CET_KERNEL"
    (every,) = {tuple(each) for each in run_json(capsys)["subsets"]}
    assert tuple(row) == every


def test_json_for_a_cpu_without_shstk_says_why_nothing_was_run(capsys):
    for row in run_json(capsys, "--cpu", "ibt-no-shstk")["subsets"]:
        assert row["verdict"]["sound"] is None
        assert row["verdict"]["not_run"]
        assert row["tasks"]["sound"] is (1 in row["patches"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cpu", "zen9"], "zen9"),
        (["--cpu", ""], "CPU"),
        (["--subset", "9"], "1 to 8"),
        (["--subset", "five"], "five"),
        (["--subset", ""], "subset"),
    ],
)
def test_wrong_input_is_exit_2_and_one_line(capsys, arguments, says):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert says in err
