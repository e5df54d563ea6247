"""fpswitch strategies: what each strategy sets up on each kernel."""

import command
import pytest

from sim.errors import InputError
from sim.kernel import strategies, versions
from sim.report.kernel_tables import strategy_rows
from sim.xsave import profiles

MASKS = (
    "host_xcr0", "host_xss", "normal_save", "normal_restore", "guest_save", "guest_restore", "guest_xcr0", "guest_xss",
)  # fmt: skip
FLAGS = ("swaps_xcr0", "swaps_xss", "kvm_offers_cet", "guest_has_cet")
SIZES = ("normal_bytes", "guest_bytes")


def run(capsys, *arguments):
    return command.run(capsys, "strategies", *arguments)


def run_json(capsys, *arguments):
    return command.run_json(capsys, "strategies", *arguments)


def row_of(kernel, cpu, name, **options):
    (row,) = strategy_rows([kernel], cpu, names=[name], **options)
    return row


def masks_of(kernel, cpu, name, **options):
    row = row_of(kernel, cpu, name, **options)
    assert not row.refused
    return row.masks


# Host XSS, save and restore RFBM of normal fpstates, then of guest ones: fpu_kernel_cfg.default_features and
# guest_default_cfg.features with and without component 12, and max_features without PKRU.

SAPPHIRE_RAPIDS = {
    "no-cet": (0x8C00, 0x20EE7, 0x60CE7, 0x20EE7, 0x60CE7),
    "manual-run": (0x8C00, 0x20EE7, 0x60CE7, 0x20EE7, 0x60CE7),
    "manual-load": (0x8C00, 0x20EE7, 0x60CE7, 0x20EE7, 0x60CE7),
    "xstate-guest": (0x9C00, 0x20EE7, 0x61CE7, 0x21EE7, 0x61CE7),
    "xstate-all": (0x9C00, 0x21EE7, 0x61CE7, 0x21EE7, 0x61CE7),
    "xstate-all-resident": (0x9C00, 0x21EE7, 0x60CE7, 0x21EE7, 0x61CE7),
    "xstate-guest-resident": (0x9C00, 0x20EE7, 0x60CE7, 0x21EE7, 0x61CE7),
}
GENOA = {
    "no-cet": (0x800, 0xAE7, 0x8E7, 0xAE7, 0x8E7),
    "manual-run": (0x800, 0xAE7, 0x8E7, 0xAE7, 0x8E7),
    "manual-load": (0x800, 0xAE7, 0x8E7, 0xAE7, 0x8E7),
    "xstate-guest": (0x1800, 0xAE7, 0x18E7, 0x1AE7, 0x18E7),
    "xstate-all": (0x1800, 0x1AE7, 0x18E7, 0x1AE7, 0x18E7),
    "xstate-all-resident": (0x1800, 0x1AE7, 0x8E7, 0x1AE7, 0x18E7),
    "xstate-guest-resident": (0x1800, 0xAE7, 0x8E7, 0x1AE7, 0x18E7),
}
TABLE = [
    (cpu, name, masks)
    for cpu, table in (("sapphire-rapids", SAPPHIRE_RAPIDS), ("zen4", GENOA))
    for name, masks in table.items()
]


@pytest.mark.parametrize("kernel", ["rfc", "v6.18", "v6.19"])
@pytest.mark.parametrize(("cpu", "name", "masks"), TABLE)
def test_xss_and_save_and_restore_masks_are_those_of_the_design(kernel, cpu, name, masks):
    got = masks_of(kernel, cpu, name)
    assert (got.host_xss, got.normal_save, got.normal_restore, got.guest_save, got.guest_restore) == masks


def test_a_guest_with_both_cet_components_matches_the_host_on_zen4_only_if_cet_s_is_enabled():
    assert masks_of("v6.18", "zen4", "manual-load", guest_xss=0x1800).swaps_xss
    assert not masks_of("v6.18", "zen4", "xstate-guest", guest_xss=0x1800).swaps_xss


def test_a_guest_with_cet_u_only_matches_the_host_on_zen4_only_if_cet_s_is_not_enabled():
    assert not masks_of("v6.18", "zen4", "manual-load", guest_xss=0x800).swaps_xss
    assert masks_of("v6.18", "zen4", "xstate-guest", guest_xss=0x800).swaps_xss


@pytest.mark.parametrize("guest_xss", [0, 0x800, 0x1000, 0x1800])
@pytest.mark.parametrize("name", ["manual-load", "xstate-guest", "xstate-all", "free-ssp"])
def test_on_a_cpu_with_pasid_and_lbr_every_guest_has_another_xss_than_the_host(name, guest_xss):
    assert masks_of("v6.18", "sapphire-rapids", name, guest_xss=guest_xss).swaps_xss


def test_the_guest_has_the_same_xss_under_every_strategy_with_cet():
    rows = [row for row in strategy_rows(["v6.18"]) if row.strategy != "no-cet"]
    assert {row.masks.guest_xss for row in rows} == {0x1800}


def test_kvm_offers_cet_by_its_own_rule_only_with_both_bits_in_host_xss():
    for row in strategy_rows(["v6.18", "v6.19"]):
        assert row.masks.kvm_offers_cet == (row.masks.host_xss & 0x1800 == 0x1800)


def test_a_strategy_that_overrides_kvms_rule_says_so():
    for row in strategy_rows(["rfc", "v6.18", "v6.19"]):
        overridden = row.masks.guest_has_cet and not row.masks.kvm_offers_cet
        assert any("overridden" in note for note in row.overrides) == overridden


def test_the_merged_strategy_on_a_merged_kernel_is_not_hypothetical():
    for cpu in ("sapphire-rapids", "zen4"):
        row = row_of("v6.18", cpu, "xstate-guest")
        assert not row.hypothetical
        assert not row.overrides


def test_the_v6_series_of_kvm_gives_no_cet_on_svm():
    row = row_of("rfc", "zen4", "xstate-guest")
    assert not row.masks.kvm_offers_cet
    assert any("SVM" in note for note in row.overrides)


def test_unsound_strategies_are_those_that_are_known_to_be():
    unsound = {row.strategy for row in strategy_rows(["v6.18"]) if row.unsound}
    assert unsound == {"manual-run", "manual-lazy", "xstate-all-resident"}
    with_stacks = {row.strategy for row in strategy_rows(["v6.18"], host_shadow_stacks="return-to-user") if row.unsound}
    assert with_stacks == unsound | {"user-return"}


def test_on_v6_6_only_a_guest_without_cet_makes_sense():
    rows = strategy_rows(["v6.6"])
    assert [row.strategy for row in rows if not row.refused] == ["no-cet"]
    assert all("v6.6" in row.refused for row in rows if row.refused)


@pytest.mark.parametrize("cpu", ["skylake-sp", "ibt-no-shstk"])
def test_without_supervisor_shadow_stacks_only_a_guest_without_cet_makes_sense(cpu):
    assert {row.strategy for row in strategy_rows(cpu=cpu) if not row.refused} == {"no-cet"}


def test_msr_lists_on_amd_make_sense_only_as_a_hypothesis():
    assert "SVM has no MSR load" in row_of("v6.18", "zen4", "msr-autoload").refused
    row = row_of("v6.18", "zen4", "msr-autoload", hypothetical=True)
    assert row.masks
    assert row.overrides


def test_host_shadow_stacks_in_fpstates_put_cet_s_into_normal_ones():
    assert masks_of("v6.18", "zen4", "manual-load", host_shadow_stacks="fpstate").normal_save == 0x1AE7
    assert masks_of("v6.18", "zen4", "manual-load", host_shadow_stacks="return-to-user").normal_save == 0xAE7
    row = row_of("v6.18", "zen4", "xstate-guest", host_shadow_stacks="fpstate")
    assert any("supervisor shadow stacks" in note for note in row.overrides)


def test_24_bytes_are_the_whole_difference_in_size_on_genoa():
    assert masks_of("v6.18", "zen4", "xstate-guest").normal_bytes == 2456
    assert masks_of("v6.18", "zen4", "xstate-guest").guest_bytes == 2480
    assert masks_of("v6.18", "zen4", "xstate-all").normal_bytes == 2480


# The command.


def test_without_kernel_every_strategy_is_listed_for_each_of_the_four():
    rows = strategy_rows()
    assert [(row.kernel, row.strategy) for row in rows] == [
        (kernel, name) for kernel in versions.names() for name in strategies.names()
    ]


@pytest.mark.parametrize("cpu", profiles.names())
def test_text_names_every_strategy_and_fits_100_columns(capsys, cpu):
    status, out, err = run(capsys, "--cpu", cpu)
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    for name in strategies.names():
        assert name in out


def test_text_shows_masks_as_the_kernel_prints_them_and_the_reason_for_what_is_refused(capsys):
    _, out, _ = run(capsys, "--kernel", "v6.18", "--cpu", "zen4")
    assert "0xae7/0x18e7" in out
    assert "SVM has no MSR load" in out
    assert "overridden here" in out
    assert "UNSOUND" in out


def test_json_is_one_document_with_the_same_keys_in_every_row(capsys):
    document = run_json(capsys, "--cpu", "zen4")
    assert document["cpu"] == "zen4"
    assert len({tuple(row) for row in document["rows"]}) == 1
    for row in document["rows"]:
        if row["refused"]:
            assert all(row[key] is None for key in MASKS + FLAGS + SIZES)
        else:
            assert all(row[key] == hex(int(row[key], 16)) for key in MASKS)
            assert all(type(row[key]) is bool for key in FLAGS)
            assert all(type(row[key]) is int for key in SIZES)


def test_json_says_what_the_guest_has(capsys):
    document = run_json(
        capsys, "--kernel", "v6.18", "--cpu", "zen4", "--guest-xss", "0x800", "--strategy", "xstate-guest"
    )
    assert document["guest_xss"] == "0x800"
    (row,) = document["rows"]
    assert (row["host_xss"], row["guest_xss"], row["swaps_xss"]) == ("0x1800", "0x800", True)


def test_guest_xss_applies_to_guests_with_cet_only(capsys):
    document = run_json(capsys, "--kernel", "v6.18", "--guest-xss", "0x1800")
    assert [row["strategy"] for row in document["rows"] if row["refused"]] == []
    xss = {row["strategy"]: row["guest_xss"] for row in document["rows"]}
    assert xss.pop("no-cet") == "0x0"
    assert set(xss.values()) == {"0x1800"}


@pytest.mark.parametrize("arguments", [[], ["--guest-xss", "0x800"]])
def test_a_reason_that_many_share_is_printed_once_with_the_list_of_them(capsys, arguments):
    _, out, _ = run(capsys, "--kernel", "v6.6", *arguments)
    text = " ".join(out.split())
    assert text.count("its KVM has no CET for guests") == 1
    assert f"{', '.join(strategies.names()[1:])}: this strategy on v6.6: its KVM has no CET" in text
    document = run_json(capsys, "--kernel", "v6.6", *arguments)
    assert sum(bool(row["refused"]) for row in document["rows"]) == 14


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cpu", "zen9"], "zen9"),
        (["--kernel", "v9.9"], "v9.9"),
        (["--strategy", "xstate-gest"], "did you mean 'xstate-guest'"),
        (["--strategy", "nowhere.toml"], "nowhere.toml"),
        (["--guest-xss", "cet"], "cet"),
        (["--guest-xss", ""], "not a number"),
        (["--guest-xss", "0x1_800"], "not a number"),
        (["--guest-xss", "+6144"], "not a number"),
        (["--guest-xss", "٦"], "not a number"),
        (["--guest-xss", "0x8000"], "0x8000"),
        (["--host-shadow-stacks", "on"], "off, fpstate, return-to-user"),
        (["--kernel", ""], "kernel"),
        (["--cpu", ""], "CPU"),
    ],
)
def test_wrong_input_is_exit_2_and_one_line(capsys, arguments, says):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert says in err


def test_wrong_input_never_becomes_a_row():
    with pytest.raises(InputError):
        strategy_rows(guest_xss=-1)
