"""The command that fits a scenario to a trace: what it says, and what it refuses."""

import os
import re

import pytest
from click.testing import CliRunner
from command import run_json
from corruption import NAMED, text

from sim.cli import cli, main
from sim.scenario.reading import read
from sim.trace.fit import estimate


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    return said.err


def test_an_existing_scenario_is_replaced_only_by_force(tmp_path, capsys):
    out = tmp_path / "mine.toml"
    out.write_text("precious")
    command = ["fit", str(NAMED["host-builds"]), "-o", str(out), "--no-check"]
    assert f"{out} exists; --force replaces it" in refused(command, capsys)
    assert out.read_text() == "precious"
    assert CliRunner().invoke(cli, [*command, "--force"]).exit_code == 0
    assert read(out).title == "Fitted to host-builds.txt.gz"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine.samples", "mine.toml"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, capsys, monkeypatch):
    out = tmp_path / "mine.toml"
    samples = tmp_path / "mine.samples"
    out.write_text("precious")
    samples.mkdir()
    (samples / "old.csv").write_text("us\n1\n")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    trace = tmp_path.parent / "short.txt"
    trace.write_text("\n".join(text(NAMED["host-builds"]).split("\n")[:99]))  # of which there are notes
    message = refused(["fit", str(trace), "-o", str(out), "--no-check", "--force"], capsys)
    assert "No space left on device" in message
    assert out.read_text() == "precious"
    assert [each.name for each in samples.iterdir()] == ["old.csv"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine.samples", "mine.toml"]


@pytest.mark.parametrize("event", ["sched_switch", "sched_wakeup"])
def test_a_trace_without_the_events_says_how_to_record_them_and_writes_nothing(event, tmp_path, capsys):
    trace = tmp_path / "trace.txt"
    trace.write_text("\n".join(line for line in text(NAMED["host-builds"]).split("\n") if event not in line))
    message = refused(["fit", str(trace), "-o", str(tmp_path / "mine.toml")], capsys)
    assert f"has no sched:{event} events; this records them" in message
    assert [each.name for each in tmp_path.iterdir()] == ["trace.txt"]


def test_a_cpu_without_the_recorded_strategy_is_said(tmp_path, capsys):
    arguments = ["fit", str(NAMED["vcpu-halt-wakeup"]), "-o", str(tmp_path / "mine.toml"), "--no-check"]
    document = run_json(capsys, *arguments, "--cpu", "skylake-sp")
    assert document["strategy"] == "no-cet"
    assert "skylake-sp cannot have the recorded strategy, xstate-guest: no-cet instead" in document["notes"]


def test_the_nearest_cpu_is_one_that_exists(tmp_path, capsys):
    """v6.12 leaves CET_S off on every CPU, so that a profile without it is nearest, which is made up."""
    trace, twin = tmp_path / "run.txt", tmp_path / "mine.toml"
    host = [
        "--set",
        'host.kernel=["v6.12"]',
        "--set",
        'host.cpu=["emerald-rapids"]',
        "--set",
        'run.strategies=["no-cet"]',
    ]
    exported = ["export", "overcommit", "-o", trace, "--duration", "5 ms", "--set", "run.contrasts=[]", *host]
    run_json(capsys, *exported)
    assert run_json(capsys, "fit", trace, "-o", twin, "--no-check")["cpu"] == "emerald-rapids"


def test_a_kernel_that_is_none_of_the_models_is_said_with_the_nearest_and_what_may_differ(tmp_path, capsys):
    trace, out = tmp_path / "trace.txt", tmp_path / "mine.toml"
    trace.write_text(text(NAMED["vcpu-halt-wakeup"]).replace("kernel 6.18.44 ", "kernel 6.14.3 ", 1))
    document = run_json(capsys, "fit", str(trace), "-o", str(out), "--no-check")
    says = "Linux 6.14 lies between v6.12 and v6.17; v6.12 is nearest: it differs in rows 6 ("
    assert any(each.startswith(says) and each.endswith("; followed as v6.12") for each in document["notes"])
    assert says in out.read_text()
    document = run_json(capsys, "fit", str(NAMED["vcpu-halt-wakeup"]), "-o", str(out), "--no-check", "--force")
    assert not any("nearest:" in each for each in document["notes"])


def test_recordings_that_follow_one_another_are_refused(tmp_path, capsys):
    both = tmp_path / "both.txt"
    both.write_text(text(NAMED["host-builds"]) * 2)
    message = refused(["fit", str(both), "-o", str(tmp_path / "mine.toml")], capsys)
    assert "holds 2 recordings" in message
    assert [each.name for each in tmp_path.iterdir()] == ["both.txt"]


def test_the_scenario_must_be_named_as_one(tmp_path, capsys):
    assert "'.toml'" in refused(["fit", str(NAMED["host-builds"]), "-o", str(tmp_path / "mine.txt")], capsys)


@pytest.mark.parametrize(
    ("said", "option", "model", "known"),
    [
        ("", [], "voluntary", False), ("# uname -v: #1 SMP PREEMPT_NONE Debian 6.18", [], "none", True),
        ("# Dynamic Preempt: full", [], "full", True), ("# uname: #1 SMP PREEMPT_DYNAMIC", [], "voluntary", False),
        ("", ["--recorded-preemption", "none"], "none", True),
    ],
)  # fmt: skip
def test_the_preemption_model_is_written_and_said_to_be_known_or_not(said, option, model, known, tmp_path, capsys):
    trace, out = tmp_path / "trace.txt", tmp_path / "mine.toml"
    trace.write_text(said + "\n" + text(NAMED["host-builds"]))
    document = run_json(capsys, "fit", str(trace), "-o", str(out), "--no-check", *option)
    assert read(out).host.preemption == model
    assert any("preemption model" in note for note in document["notes"]) != known


def test_a_preemption_model_that_the_kernel_does_not_have_is_refused(tmp_path, capsys):
    command = ["fit", str(NAMED["host-builds"]), "-o", str(tmp_path / "mine.toml"), "--recorded-preemption", "eager"]
    assert "found 'eager'; allowed with Linux v6.18: " in refused(command, capsys)
    assert list(tmp_path.iterdir()) == []


def test_without_the_check_the_model_follows_the_beginning_and_the_fit_is_that_of_all(tmp_path, capsys, monkeypatch):
    trace = str(NAMED["host-builds"])
    for name, followed in (("all", 10**9), ("some", 600)):
        monkeypatch.setattr(estimate, "FOLLOWED", followed)
        run_json(capsys, "fit", trace, "-o", str(tmp_path / f"{name}.toml"), "--no-check")
    whole, some = read(tmp_path / "all.toml"), read(tmp_path / "some.toml")
    assert whole.threads.keys() == some.threads.keys()
    for name, entry in whole.threads.items():
        assert some.threads[name].compute.mean == pytest.approx(entry.compute.mean, rel=0.05)
        sleeps = [each and each.mean for each in (some.threads[name].sleep, entry.sleep)]
        assert sleeps[0] == sleeps[1]


def test_another_kernel_needs_the_simulation(tmp_path, capsys):
    command = ["fit", str(NAMED["host-builds"]), "-o", str(tmp_path / "mine.toml"), "--no-check", "--kernel", "v7.3"]
    assert "--no-check simulates nothing" in refused(command, capsys)
    command = ["fit", str(NAMED["host-builds"]), "-o", str(tmp_path / "mine.toml"), "--preemption", "eager"]
    assert "--preemption" in refused(command, capsys)
    command = ["fit", str(NAMED["host-builds"]), "-o", str(tmp_path / "mine.toml"), "--kernel", "v6.1"]
    assert "Linux 6.1 is older than v6.6" in refused(command, capsys)
    packed = NAMED["vcpu-out-exits"].read_bytes()
    (trace := tmp_path / "start.txt.gz").write_bytes(packed[: len(packed) // 8])
    command = ["fit", str(trace), "-o", str(tmp_path / "mine.toml"), "--kernel", "v6.12"]
    assert "strategy xstate-guest on v6.12: its KVM has no CET for guests" in refused(command, capsys)
    assert list(tmp_path.iterdir()) == [trace]  # so that the corrected command needs no --force


def test_entries_with_few_samples_are_named_as_in_the_scenario(tmp_path):
    out = tmp_path / "mine.toml"
    said = CliRunner().invoke(cli, ["fit", str(NAMED["host-pipe"]), "-o", str(out), "--no-check"])
    (few,) = re.findall(r"the mean alone: (.*)", said.stdout)
    names = few.split(", ")
    assert len(names) == len(set(names))
    assert set(names) <= set(read(out).threads)


def test_a_trace_whose_end_is_cut_off_is_fitted_with_a_note(tmp_path):
    packed = NAMED["host-builds"].read_bytes()
    cut = tmp_path / "cut.txt.gz"
    cut.write_bytes(packed[: len(packed) // 2])
    said = CliRunner().invoke(cli, ["fit", str(cut), "-o", str(tmp_path / "mine.toml"), "--no-check"])
    assert said.exit_code == 0
    assert "the end of the trace is cut off" in said.stdout
