"""Predictions beside published numbers: that they are the model's, and that no input passes for evidence."""

from dataclasses import replace

import pytest
from command import run, run_json

from sim.costs.table import current
from sim.errors import InputError
from sim.verification.anchors import predictions as module
from sim.verification.anchors.data import Anchors, Setup, read
from sim.verification.anchors.experiments import EXPERIMENTS, operations
from sim.verification.anchors.predictions import count, predict


@pytest.fixture(scope="module", autouse=True)
def _few_draws():
    """The width of a range is asked for nowhere here, and 4,000 draws of every anchor take two seconds."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "DRAWS", 400)
        yield


@pytest.fixture(scope="module")
def shipped():
    return read()


@pytest.fixture(scope="module")
def by_id(shipped):
    return {each.anchor.id: each for each in predict(shipped)}


def of(shipped, *ids):
    return replace(shipped, anchors=tuple(each for each in shipped.anchors if each.id in ids))


def known_from(shipped, *keys):
    return replace(shipped, anchors=tuple(replace(each, keys=keys) for each in shipped.anchors))


def test_numbers_that_the_table_was_made_from_come_out_and_are_marked(by_id):
    for name in (
        "invd-commit-emr-before",
        "invd-commit-emr-after",
        "invd-commit-turin-before",
        "invd-commit-turin-after",
    ):
        assert by_id[name].predicted == pytest.approx(by_id[name].anchor.published, abs=1)
        assert by_id[name].standing == "input"
    for name in ("agner-xsave", "agner-xsavec", "agner-xrstor"):
        assert by_id[name].predicted == pytest.approx(by_id[name].anchor.published, abs=1)
        assert by_id[name].standing == "input"
    # One WRMSR of another MSR on another CPU: it bounds the assumed row, whose value is the middle of its range.
    row = current("zen4").rows["WRMSR(*)/base"]
    assert by_id["uros-wrmsr"].standing == "input"
    assert row.low <= by_id["uros-wrmsr"].anchor.published <= by_id["uros-wrmsr"].predicted == row.value


def test_a_prediction_is_the_sum_of_the_operations_of_the_experiment(by_id):
    rows = current("emerald-rapids").rows
    transition = sum(rows[f"VM {way}/{term}"].value for way in ("entry", "exit") for term in ("base", "software"))
    swaps = 2 * rows["XSETBV/base"].value + 2 * rows["WRMSR(XSS)/base"].value
    assert by_id["invd-mail-emr-before"].predicted == transition + swaps
    assert by_id["invd-mail-emr-after"].predicted == transition
    assert by_id["invd-mail-emr-step"].predicted == swaps


def test_pkru_inside_the_loop_is_one_read_and_two_writes_more(by_id):
    inside, outside = by_id["invd-commit-turin-before"].operations, by_id["invd-commit-turin-after"].operations
    assert inside - outside == {"RDPKRU": 1, "WRPKRU": 2}
    assert by_id["invd-commit-emr-after"].operations == {"VM exit": 1, "VM entry": 1}


def test_the_halves_and_the_leg_of_kvm_run_sum_to_the_whole(by_id):
    parts = sum(by_id[name].predicted for name in ("kvm-run-in", "vmrun-leg", "kvm-run-out"))
    # VMLOAD and the VM entry are in the leg, VMSAVE of the exit too.
    assert by_id["kvm-run"].predicted == pytest.approx(parts)


def test_nanoseconds_are_of_the_clock_that_the_anchor_names(by_id):
    of_tsc = by_id["cpuid-zen4"]
    assert of_tsc.predicted == pytest.approx(_cycles(of_tsc) / 2.7)
    of_core = by_id["uros-pair"]
    assert of_core.predicted == pytest.approx(_cycles(of_core) * current("zen3").ratio / 3.993)


def _cycles(prediction):
    from sim.costs.price import terms

    table = current(prediction.anchor.cpu)
    return sum(
        n * number * table.rows[row].value * table.scale(table.rows[row])
        for key, n in operations(prediction.anchor.cpu, prediction.anchor.setup).items()
        for row, number in terms(key, table).items()
    )


def test_the_series_that_contradict_each_other_are_kept_apart(by_id):
    mail, commit = by_id["invd-mail-emr-after"], by_id["invd-commit-emr-before"]
    assert (mail.anchor.published, commit.anchor.published) == (1000, 810)
    assert mail.anchor.series != commit.anchor.series
    assert mail.standing == "same as an input"
    assert mail.with_anchors == ("invd-commit-emr-after",)


def test_a_difference_of_two_anchors_is_not_counted_again(by_id):
    step = by_id["invd-mail-turin-step"]
    assert step.standing == "difference of others"
    assert set(step.with_anchors) == {"invd-mail-turin-before", "invd-mail-turin-after"}


def test_a_number_becomes_an_input_when_a_row_names_its_source(shipped, monkeypatch):
    one = known_from(of(shipped, "cpuid-zen4"), "a mail")
    assert predict(one)[0].standing == "untouched"
    table = current("zen4")
    for changed, where in (
        ({"source": "a mail"}, "source"),
        ({"conditions": "between a mail and 1"}, "conditions"),
    ):
        rows = dict(table.rows) | {"VMSAVE/base": replace(table.rows["VMSAVE/base"], **changed)}
        monkeypatch.setattr(module, "load", lambda name, rows=rows: replace(table, rows=rows))
        (found,) = predict(one)
        assert found.standing == "input"
        assert [(touch.row, touch.where) for touch in found.touched] == [("VMSAVE/base", where)]


def test_a_number_becomes_an_input_when_a_row_comes_from_one_that_names_its_source(shipped, monkeypatch):
    one = known_from(of(shipped, "cpuid-zen4"), "a mail")
    table = current("zen4")
    told = replace(table.rows["thread switch in a unikernel/reference"], source="a mail")
    save = replace(table.rows["VMSAVE/base"], origin=(told.id,))
    rows = dict(table.rows) | {told.id: told, save.id: save}
    monkeypatch.setattr(module, "load", lambda name: replace(table, rows=rows))
    (found,) = predict(one)
    assert [touch.row for touch in found.touched] == [told.id]


def test_a_row_that_the_prediction_does_not_use_touches_nothing(shipped, monkeypatch):
    one = known_from(of(shipped, "cpuid-zen4"), "a mail")
    table = current("zen4")
    rows = dict(table.rows) | {"IBPB/base": replace(table.rows["IBPB/base"], source="a mail")}
    monkeypatch.setattr(module, "load", lambda name: replace(table, rows=rows))
    assert predict(one)[0].standing == "untouched"


def test_a_row_whose_range_an_exit_in_the_kernel_bounds_makes_an_input_of_it(by_id):
    exits = ("cpuid-zen4", "hypercall-zen4", "rdmsr-zen4", "pio-zen4")
    assert {by_id[name].standing for name in exits} == {"input"}


def test_floors_are_below_what_was_published(by_id):
    floors = [each for each in by_id.values() if each.anchor.floor]
    assert floors
    for each in floors:
        assert each.predicted < each.anchor.published


def test_each_number_is_counted_once(by_id, shipped):
    counts = count(list(by_id.values()))
    kinds = ("untouched", "inputs", "same_as_an_input", "differences_of_others")
    assert sum(counts[kind] for kind in kinds) == len(shipped.anchors)
    assert counts["floors"] + counts["bounds"] <= counts["untouched"]


def test_every_number_has_a_source_a_date_and_keys_that_are_in_the_source(shipped):
    for each in shipped.anchors:
        assert each.source
        assert each.date
        assert each.keys
        assert any(key in each.source or key in shipped.series[each.series] for key in each.keys), each.id
    for other in shipped.not_expressible:
        assert other.source
        assert other.date
        assert other.why


def test_every_experiment_is_used(shipped):
    assert {each.setup.experiment for each in shipped.anchors} == set(EXPERIMENTS)


def test_an_experiment_that_a_kernel_does_not_have_is_an_error_with_the_anchor(shipped):
    one = of(shipped, "invd-mail-emr-before")
    old = replace(one.anchors[0], setup=replace(one.anchors[0].setup, kernel="v6.6", strategy="no-cet"))
    with pytest.raises(InputError, match=r"anchor 'invd-mail-emr-before': kernel v6\.6 has no fastpath for INVD"):
        predict(replace(one, anchors=(old,)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"setup": Setup("fastpath")}, "unknown experiment 'fastpath'; did you mean 'fastpath-exit'"),
        ({"setup": Setup("instruction", operation="XSAVEC", components=("SEE",))}, "unknown component 'SEE'"),
        ({"setup": Setup("in-kernel-exit", without_rows=("IBPB",))}, "unknown row 'IBPB'"),
        ({"cpu": "zen9"}, "unknown cost table 'zen9'"),
    ],
)
def test_a_wrong_anchor_is_named(shipped, changed, message):
    one = replace(of(shipped, "cpuid-zen4").anchors[0], **changed)
    with pytest.raises(InputError, match="anchor 'cpuid-zen4': ") as error:
        predict(Anchors(shipped.series, (one,)))
    assert message in str(error.value)


FILE = """
[series]
s = "a series"
[[anchors]]
id = "one"
title = "one"
series = "s"
published = 1
unit = "ns"
hertz = 1e9
source = "x"
date = "2026"
keys = ["x"]
cpu = "zen4"
setup = { experiment = "hand-off" }
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('unit = "ns"', 'unit = "us"', "anchors.0.unit: "),
        ("hertz = 1e9", "", "in ns, but without hertz"),
        ('series = "s"', 'series = "t"', "unknown series 't'"),
        ('date = "2026"', "", "anchors.0.date: "),
        ('id = "one"', 'id = "one"\nspeed = 1', "anchors.0.speed: "),
        ("[series]", "[series", "anchors.toml: "),
    ],
)
def test_a_wrong_file_is_one_message(tmp_path, old, new, message):
    path = tmp_path / "anchors.toml"
    path.write_text(FILE)
    read(path)
    path.write_text(FILE.replace(old, new))
    with pytest.raises(InputError) as error:
        read(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_prints_all_and_an_error_in_percent_is_no_failure(capsys, by_id, shipped):
    document = run_json(capsys, "verify", "anchors")
    assert [each["id"] for each in document["anchors"]] == list(by_id)
    assert max(abs(each["error_percent"]) for each in document["anchors"]) > 50
    assert {each["evidence"] for each in document["anchors"] if each["standing"] != "untouched"} == {False}
    assert document["counts"] == count(list(by_id.values()))
    assert len(document["not_expressible"]) == len(shipped.not_expressible)


def test_the_text_fits_a_mail_and_counts_what_is_untouched(capsys, by_id):
    status, out, _ = run(capsys, "verify", "anchors")
    assert status == 0
    assert max(len(line) for line in out.splitlines()) <= 72
    counts = count(list(by_id.values()))
    assert f"Of {len(by_id)} numbers, {counts['untouched']} are untouched." in " ".join(out.split())
    assert out.index("EMR, XCR0/XSS outside") < out.index("== INVD, commit") < out.index("EMR, PKRU inside")
