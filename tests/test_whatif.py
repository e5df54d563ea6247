"""What if: strategies on a recorded schedule."""

import json
import re

import pandas as pd
import pytest
from command import run, run_json
from corruption import ACTIVATED, KVM_FPU, TRACES, Trace, text
from hosts import only

from sim.analysis.recorded_run import RecordedRun
from sim.kernel import strategies
from sim.trace.following.replay import REGS
from sim.xsave.components import CET_S

by_trace = pytest.mark.parametrize("path", TRACES, ids=lambda path: path.name.split(".")[0])
HALTS, PIPE, SPINS = (
    next(path for path in TRACES if name in path.name) for name in ("halt-wakeup", "host-pipe", "spin-overcommit")
)


ALONE = """
title = "one vCPU that halts"
[run]
measure = "50 ms"
warmup = "0 ns"
[host]
cpus = 1
cpu = ["zen4"]
kernel = ["v6.18"]
[guests.vm]
demand = "100 us"
sleep = "400 us"
fpu = { components = ["SSE"], every = "1 ms" }
"""


def counts(document, strategy):
    return {name: entry["count"] for name, entry in document["strategies"][strategy]["operations"].items()}


@by_trace
def test_the_model_runs_the_operations_that_the_trace_shows(path, capsys):
    """Every x86_fpu event is an instruction, but for a drop; and a save comes without an event in a swap."""
    document = run_json(capsys, "replay", str(path), "--strategies", "xstate-guest")
    found, recorded = counts(document, "xstate-guest"), document["trace"]["events"]
    assert found["context switch"] == recorded["sched_switch"]
    assert found.get("KVM_RUN", 0) == text(path).count("kvm:kvm_fpu: load")
    assert found["XRSTORS"] + found["XRSTOR"] == recorded["x86_fpu_regs_activated"]
    saves = recorded["x86_fpu_regs_deactivated"] - recorded["x86_fpu_dropped"] + recorded["x86_fpu_copy_dst"]
    trace = Trace.read(path)
    for step, i in zip(trace.steps, trace.next_on_cpu, strict=True):
        saves += step.event == ACTIVATED and step.values[1] == 0 and i is not None and trace.steps[i].event == KVM_FPU
    assert 0 <= found["XSAVES"] - saves <= found["LDMXCSR"]  # kernel_fpu_begin() saves without an event


@pytest.mark.slow
@by_trace
def test_strategies_meet_the_same_world(path, capsys):
    document = run_json(capsys, "replay", str(path), "--cpu", "zen4")
    same = ("context switch", "KVM_RUN", "XRSTOR", "XSAVE", "restore skipped", "LDMXCSR", "FWAIT", "IBPB")
    worlds = {
        name: tuple(counts(document, name).get(operation) for operation in same) for name in document["strategies"]
    }
    assert len(worlds) > 10
    assert len(set(worlds.values())) == 1
    assert document["strategies"]["free-ssp"]["difference"] == 0


@pytest.mark.slow
def test_prices_add_up_and_masks_are_those_of_the_cpu(tmp_path, capsys):
    out = tmp_path / "out"
    document = run_json(capsys, "replay", str(HALTS), "--cpu", "sapphire-rapids", "--out", str(out))
    assert document["machine"]["what_if_max_features"] == "0x61ee7"
    assert document["machine"]["max_features"] == "0x18e7"
    ledger = pd.read_parquet(out / "ledger.parquet")
    seconds = document["trace"]["seconds"]
    for name, entry in document["strategies"].items():
        cycles = ledger[ledger.strategy == name].cycles.sum()
        assert entry["cycles_per_second"] == pytest.approx(cycles / seconds)
        assert cycles == sum(each["cycles"] for each in entry["operations"].values())
    saves = ledger[(ledger.operation == "XSAVES") & (ledger.strategy == "xstate-guest")]
    assert set(saves.rfbm) == {0x20EE7, 0x21EE7}
    assert json.loads((out / "manifest.json").read_text())["status"] == "complete"
    assert json.loads((out / "replay.json").read_text()) == document


def number(text):
    """A number with k, M or G."""
    return float(text.rstrip("kMG")) * {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1], 1)


PRICED = ("--cpu", "zen4", "--reference", "xstate-guest-resident")


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (HALTS, PRICED),
        (PIPE, ()),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((HALTS, ()), (PIPE, PRICED))),
    ],
    ids=["vCPUs, priced", "no vCPUs", "vCPUs", "no vCPUs, priced"],
)
def test_the_table_has_a_hundred_columns_and_the_units_of_a_run(path, capsys, tmp_path, options):
    arguments = (*options, "--strategies", "manual-load,xstate-guest", "--out", str(tmp_path / "out"))
    _, out, _ = run(capsys, "replay", str(path), *arguments)
    assert max(map(len, out.splitlines())) <= 100
    document = json.loads((tmp_path / "out" / "replay.json").read_text())
    seconds, over = document["trace"]["seconds"], document["per"]
    assert over["seconds"] == pytest.approx(over["number"] * seconds)
    guests = document["trace"]["events"].get("kvm_fpu", 0)
    assert over["what"] == ("vCPU" if guests else "CPU")
    assert over["number"] == (len(vcpus(path)) if guests else len(document["trace"]["cpus"]))
    words = [line.split() for line in out.split("switches KVM_RUN", 1)[1].splitlines()[1:]]
    rows = {name: cells for name, *cells in words if len(cells) == (9 if options else 7)}
    for name, entry in document["strategies"].items():
        cells = rows[name]
        switches = counts(document, name)["context switch"] / over["seconds"]
        assert number(cells[0]) == pytest.approx(switches, rel=0.006)
        if options:
            cycles = entry["difference"] * seconds / over["seconds"]
            assert number(cells[-1]) == pytest.approx(cycles, rel=0.006, abs=1e-3)
            assert float(cells[-2]) == pytest.approx(1e6 * cycles / 2.596e9, rel=0.006, abs=1e-6)
        else:
            assert entry["cycles_per_second"] is None


def vcpus(path):
    """The threads that have run a guest, by the text alone."""
    return set(re.findall(r"^ *(.*-?\d+) +(?:\[\d+\]|\d+ \[\d+\]).*kvm:kvm_fpu: load", text(path), re.MULTILINE))


def test_the_reference_runs_too_where_others_are_named(capsys):
    options = ["--cpu", "zen4", "--strategies", "manual-load"]
    document = run_json(capsys, "replay", str(HALTS), *options, "--reference", "no-cet")
    assert set(document["strategies"]) == {"no-cet", "manual-load"}
    assert document["strategies"]["manual-load"]["difference"] > 0
    document = run_json(capsys, "replay", str(HALTS), "--cpu", "skylake-sp", "--strategies", "no-cet")
    assert set(document["strategies"]) == {"no-cet"}


@pytest.mark.slow
def test_settings_say_what_the_trace_cannot(tmp_path, capsys):
    def cycles(*options):
        document = run_json(capsys, "replay", str(HALTS), "--cpu", "zen4", "--strategies", "xstate-guest", *options)
        return document["strategies"]["xstate-guest"]["cycles_per_second"]

    assert cycles("--guest-ssp", "none") < cycles("--guest-ssp", "constant") < cycles("--guest-ssp", "rewritten")

    written = []
    for touched in ("changed", "common", "all"):
        out = tmp_path / touched
        run_json(capsys, "replay", str(HALTS), "--strategies", "xstate-guest", "--touched", touched, "--out", str(out))
        ledger = pd.read_parquet(out / "ledger.parquet")
        saves = ledger[ledger.operation == "XSAVES"]
        written.append(sum(saves.components.map(int.bit_count) * saves["count"]))
    assert written[0] < written[1] < written[2]


def test_without_a_cpu_nothing_is_priced(capsys):
    document = run_json(capsys, "replay", str(HALTS), "--strategies", "free-ssp,manual-load")
    assert list(document["strategies"]) == ["free-ssp", "manual-load"]
    assert document["strategies"]["manual-load"]["cycles_per_second"] is None
    per_second = document["strategies"]["manual-load"]["operations"]["RDMSR(PL0_SSP)"]["per_second"]
    assert per_second == pytest.approx(1977 / document["trace"]["seconds"])


def test_the_text_shows_check_and_table(capsys):
    status, out, err = run(capsys, "replay", str(HALTS), "--cpu", "zen4", "--strategies", "free-ssp,xstate-guest")
    assert (status, err) == (0, "")
    assert "14293 x86_fpu events" in out
    assert "agreement 100.000%" in out
    assert "note: zen4 enables 0x1ae7, and the recorded machine 0x18e7" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cpu", "zen44"], "did you mean 'zen4'"),
        (["--kernel", "v6.14"], "v6.12 is nearest"),
        (["--strategies", "xstate-gest"], "xstate-guest"),
        (["--guest-ssp", "constnt"], "did you mean 'constant'"),
        (["--touched", "everything"], "allowed: all, changed, common"),
        (["--cpu", "skylake-sp", "--strategies", "xstate-guest"], "has no supervisor shadow stacks"),
        (["--reference", "nobody"], "unknown strategy 'nobody'"),
    ],
)
def test_a_wrong_option_is_one_message(options, message, capsys):
    status, out, err = run(capsys, "replay", str(TRACES[0]), *options)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_file_that_is_not_there_or_no_trace_is_one_message(tmp_path, capsys):
    status, _, err = run(capsys, "replay", str(tmp_path / "none"))
    assert (status, err) == (2, f"fpswitch: cannot read {tmp_path / 'none'}: No such file or directory\n")
    for data in (b"PERFILE2\0\0", b"", b"hello\n"):
        path = tmp_path / "some"
        path.write_bytes(data)
        status, _, err = run(capsys, "replay", str(path), "--check")
        assert status == 2
        assert str(path) in err


def test_a_directory_that_is_no_earlier_replays_is_left_alone(capsys, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name, content in (("thesis.txt", "years of work"), ("manifest.json", '{"format": "fpswitch results 2"}')):
        (out / name).write_text(content)
        status, _, err = run(capsys, "replay", str(PIPE), "--check", "--out", str(out))
        assert (status, err.count("\n")) == (2, 1)
        assert "holds no earlier replay" in err
        assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, content)]
        (out / name).unlink()
    assert run(capsys, "replay", str(PIPE), "--check", "--out", str(out))[0] == 0
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run(capsys, "replay", str(PIPE), "--check", "--out", str(out))[0] == 0  # over an earlier replay
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    (out / "manifest.json").write_text('{"status": "complete", "trace": "t", "command": []}')  # as 0.1.0 wrote it
    assert run(capsys, "replay", str(PIPE), "--check", "--out", str(out))[0] == 0
    assert not list(tmp_path.glob(".*"))


def test_an_unsound_strategy_is_marked_and_has_no_cost_to_compare(capsys):
    options = ("--cpu", "zen4", "--strategies", "manual-run,manual-load")
    _, out, _ = run(capsys, "replay", str(PIPE), *options)
    assert re.findall(r"^! (\S+) ", out, re.MULTILINE) == ["manual-run", "UNSOUND,"]
    assert "\n! UNSOUND, so its cost is not comparable: manual-run\n" in out
    document = run_json(capsys, "replay", str(PIPE), *options)["strategies"]
    assert document["manual-run"]["unsound"] == strategies.strategy("manual-run").unsound.replace(
        "{carried}", "PL0-2_SSP"
    )
    assert not document["manual-load"]["unsound"]


def test_guests_that_were_in_kvm_run_before_the_recording_have_written_what_is_carried(tmp_path, capsys):
    lines = text(SPINS).splitlines(keepends=True)
    begin = max(number for number, line in enumerate(lines) if "kvm:kvm_fpu: load" in line) + 1
    end = next(number for number, line in enumerate(lines[begin:], begin) if "kvm:kvm_fpu: unload" in line)
    trace = tmp_path / "inside.txt"
    trace.write_text("".join([line for line in lines if line.startswith("#")] + lines[begin:end]))
    names = ("manual-run", "manual-run-guarded", "manual-load", "manual-lazy", "user-return")
    document = run_json(capsys, "replay", str(trace), "--strategies", ",".join((*names, "independent")))
    saved = {name: counts(document, name)["RDMSR(PL0_SSP)"] for name in names}
    assert min(saved.values()) > 100
    assert max(saved.values()) - min(saved.values()) <= 4  # of each vCPU, at the first exit or before the first write
    extra = counts(document, "independent")["XSAVES"] - counts(document, "manual-run")["XSAVES"]
    assert abs(extra - saved["manual-run"]) <= 4


@pytest.mark.parametrize(("use", "without"), [("constant", 4), ("none", None)])
def test_cet_s_is_in_use_where_guests_write_it_whatever_the_recorded_guests_did(use, without, tmp_path, capsys):
    """The recorded guests have CET_S in their fpstates, and never used it."""
    options = ("--strategies", "xstate-guest", "--cpu", "zen4", "--guest-ssp", use, "--out", str(tmp_path / "out"))
    run_json(capsys, "replay", str(HALTS), *options)
    rows = pd.read_parquet(tmp_path / "out" / "ledger.parquet")
    loads = rows[
        (rows.strategy == "xstate-guest") & (rows.operation == "XRSTORS") & (rows.phase == "kvm-load-guest-fpu")
    ]
    number, loaded = loads["count"].sum(), loads[loads.components & CET_S > 0]["count"].sum()
    assert number > 1000
    assert loaded == 0 if without is None else number - without <= loaded <= number  # each vCPU's first load


@pytest.mark.parametrize(("use", "share"), [("constant", 0.0), ("rewritten", 1.0)])
def test_saves_write_again_only_what_a_guest_has_written_since_the_recording_began(use, share, tmp_path, capsys):
    """This vCPU is alone on its CPU, and never restored: what it wrote once, memory has had for long."""
    case = only(ALONE)
    events = frozenset(("sched_switch", "sched_wakeup", "kvm_fpu", "kvm_entry", "kvm_exit", *REGS))
    trace, out = tmp_path / "alone.txt", tmp_path / "out"
    trace.write_text("\n".join(RecordedRun(case, "xstate-guest", 0, only=events).lines()) + "\n")
    options = ("--strategies", "xstate-guest", "--cpu", "zen4", "--guest-ssp", use, "--out", str(out))
    run_json(capsys, "replay", str(trace), *options)
    rows = pd.read_parquet(out / "ledger.parquet")
    saves = rows[(rows.strategy == "xstate-guest") & (rows.operation == "XSAVES") & (rows.rfbm & CET_S > 0)]
    assert saves["count"].sum() > 50
    assert saves[saves.components & CET_S > 0]["count"].sum() == share * saves["count"].sum()
