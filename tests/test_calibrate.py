"""What `fpswitch calibrate` makes of samples, of this machine, and of a machine on which it cannot run."""

import csv
import json
import os
import re
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path

import native
import numpy as np
import pytest

from sim import calibrate
from sim.calibrate import calls, differences, fit, machine, programs, rounds, samples, writing
from sim.calibrate.plan import LEVELS, OPERATIONS, Timing, Variant, ladder, plan
from sim.calibrate.rows import Instructions, Line, of_instructions
from sim.calibrate.samples import Interval, median_interval
from sim.cli import main
from sim.costs.check import check
from sim.costs.price import Prices, composed, terms
from sim.costs.rows import RATIO
from sim.costs.table import load
from sim.errors import InputError

SOURCES = Path(calibrate.__file__).parent
CPU = 3
NO_PROGRAMS = programs.Programs(*[Path("none")] * len(programs.Programs.__dataclass_fields__))


measures = pytest.mark.skipif(bool(native.refusal()), reason=native.refusal())


def run(capsys, *arguments):
    try:
        main(["calibrate", *map(str, arguments)])
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One quick run on this machine: the table, and what --json said."""
    path = tmp_path_factory.mktemp("calibrate") / "mine.toml"
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("click.echo", lambda text="", **_: said.append(text))
        with pytest.raises(SystemExit) as stop:
            main(["calibrate", "-o", str(path), "--quick", "--budget", "5", "--json"])
    assert not stop.value.code
    return path, json.loads(said[0])


def mine(path):
    """The rows of the table itself, without those that it inherits."""
    return [row for row in load(path, checked=False).rows.values() if row.table == path.stem]


# Samples.


def made(rows, cycles, *, ratio=1.4, repetitions=40, empty=300, noise=0.0, seed=1):
    """Samples of rows that take so many core cycles on a core that runs ``ratio`` times as fast as the TSC."""
    rng = np.random.default_rng(seed)
    found = np.zeros(len(rows), samples.SAMPLE)
    found["row"] = rows
    found["chain_before"] = found["chain_after"] = round(samples.CHAIN_ADDS / ratio)
    found["empty"] = empty
    taken = np.asarray(cycles) * repetitions / ratio * (1 + noise * rng.standard_normal(len(rows)))
    found["ticks"] = np.round(empty + taken)
    found["cpu_before"] = found["cpu_after"] = CPU | 1 << 12  # node 1
    return found


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.42])
def test_core_cycles_come_out_whatever_the_ratio_of_the_clocks(ratio):
    found = made([0] * 20 + [1] * 20, [227.0] * 20 + [376.0] * 20, ratio=ratio, noise=0.01)
    reduce = rounds.by_row(2, [40, 40], core=True)
    assert reduce(found, np.ones(40, bool)) == pytest.approx([227, 376], rel=0.01)


def test_samples_that_changed_the_cpu_met_two_clocks_or_lost_their_state_do_not_count():
    found = made([0] * 6, [100.0] * 6)
    found["cpu_after"][0] = CPU + 1
    found["cpu_before"][1] = found["cpu_after"][1] = CPU + 1  # wholly on another CPU
    found["chain_after"][2] = 1.1 * found["chain_before"][2]
    found["chain_before"][3] = 30 * found["chain_after"][3]  # an interrupt in the chain
    found["in_use"][4] = 6
    calm = samples.undisturbed(found, CPU)
    assert calm.tolist() == [False, False, False, False, True, True]
    assert samples.as_wanted(found, np.array([0], np.uint64)).tolist() == [True, True, True, True, False, True]


def test_a_third_of_disturbed_blocks_leaves_the_median_within_one_percent():
    rng = np.random.default_rng(5)
    cycles = np.where(rng.random(300) < 0.33, 100 * (1 + rng.exponential(20, 300)), 100 + rng.standard_normal(300))
    reduced = rounds.by_row(1, [40], core=True)(made([0] * 300, cycles), np.ones(300, bool))
    assert reduced[0] == pytest.approx(100, rel=0.01)


def test_what_is_far_from_the_median_is_left_out_and_nothing_else():
    near = np.random.default_rng(2).normal(100, 1, 200)
    kept = samples.without_outliers(np.concatenate([near, [60.0, 140.0, 9000.0]]))
    assert kept.tolist() == near.tolist()
    assert samples.without_outliers(np.full(5, 7.0)).tolist() == [7.0] * 5


def test_a_row_with_too_few_samples_that_count_has_no_number():
    found = made([0] * 5 + [1] * 2, [100.0] * 7)
    assert np.isnan(rounds.by_row(3, [40] * 3, core=True)(found, np.ones(7, bool))).tolist() == [False, True, True]


@pytest.mark.parametrize("count", [6, 9, 15, 40])
def test_the_interval_covers_the_true_median_at_least_as_often_as_it_says(count):
    rng = np.random.default_rng(count)
    draws = rng.exponential(size=(1500, count))  # skewed, as timings are
    intervals = [median_interval(draw) for draw in draws]
    covered = np.mean([each.low <= np.log(2) <= each.high for each in intervals])
    assert covered >= samples.CONFIDENCE - 3 * np.sqrt(0.95 * 0.05 / 1500)


def test_the_interval_is_the_textbook_one():
    ten = median_interval(np.arange(1.0, 11.0))
    assert (ten.value, ten.low, ten.high) == (5.5, 2.0, 9.0)  # 97.9 %: Conover, order statistics 2 and 9 of 10
    assert median_interval(np.array([3.0, np.nan, 1.0])) == Interval(2.0, 1.0, 3.0)
    assert median_interval(np.array([np.nan])) is None


def test_a_difference_is_taken_within_a_pass_so_that_a_drift_drops_out():
    passes, sets = 50, 3
    drift = np.repeat(np.linspace(10_000, 20_000, passes), sets)
    rows = np.tile([2, 0, 1], passes)
    found = made(rows, drift + np.array([0.0, 20.0, -8.0])[rows], ratio=1.0, repetitions=40)
    counts = np.ones(len(rows), bool)
    counts[: len(rows) // 3][rows[: len(rows) // 3] == 1] = False  # row 1 counts in the later passes only
    reduced = rounds.beside_the_first(sets, 40)(found, counts)
    assert reduced[sets:] == pytest.approx([0, 20, -8], abs=0.1)


def test_a_pass_without_its_first_row_says_nothing_about_differences():
    rows = np.tile([0, 1], 8)
    counts = np.ones(16, bool)
    counts[rows == 0] = False
    assert np.isnan(rounds.beside_the_first(2, 40)(made(rows, [100.0] * 16), counts)[3])


# Rounds.


class Spent:
    """A progress bar that remembers."""

    seconds = 0.0

    def update(self, n):
        self.seconds += n


def stage(tmp_path, script, budget_s, least=6, settled=lambda _: True):
    program = tmp_path / f"program{len(list(tmp_path.iterdir()))}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    reduce = rounds.by_row(1, [40], core=True)
    return rounds.Stage(program, (), "", np.zeros(1, np.uint64), reduce, budget_s, least, settled)


def emitting(tmp_path):
    file = tmp_path / "samples"
    file.write_bytes(made([0] * 5, [100.0] * 5).tobytes())
    return f"cat {file}"


def test_measuring_ends_with_the_least_rounds_when_the_intervals_are_small(tmp_path):
    spent = Spent()
    found = rounds.measure({"a": stage(tmp_path, emitting(tmp_path), 60, settled=rounds.small)}, CPU, spent)
    assert found["a"].processes == 6
    assert found["a"].values == pytest.approx(np.full((1, 6), 100), rel=0.01)
    assert spent.seconds == pytest.approx(60)  # the bar is full


def test_measuring_ends_when_the_time_is_used_up(tmp_path):
    found = rounds.measure({"a": stage(tmp_path, emitting(tmp_path), 0.2, settled=lambda _: False)}, CPU, Spent())
    assert found["a"].processes >= rounds.FEWEST


def test_stages_take_turns(tmp_path):
    log = tmp_path / "log"
    stages = {
        name: stage(tmp_path, f"echo {name} >> {log}; {emitting(tmp_path)}", 60, least=3) for name in ("a", "b")
    }  # fmt: skip
    rounds.measure(stages, CPU, Spent())
    lines = log.read_text().split()
    assert sorted(lines) == ["a"] * 3 + ["b"] * 3
    assert {lines[0], lines[1]} == {"a", "b"}


def test_a_stage_that_cannot_run_has_its_reason_in_place_of_numbers(tmp_path):
    stages = {
        "vm": stage(tmp_path, "echo '/dev/kvm: No such file or directory' >&2; exit 3", 5),
        "moved": stage(tmp_path, emitting(tmp_path), 0.2),
    }
    found = rounds.measure(stages, CPU + 1, Spent())
    assert str(found["vm"]) == "/dev/kvm: No such file or directory"
    assert "every sample was disturbed" in str(found["moved"])


def test_a_machine_that_is_too_busy_is_one_message():
    here = machine.Machine("", "", 6, 0, 0, "", "", "", "", 7, tuple(range(8)), 32768)
    timings = plan(here, False)
    values = np.full((len(timings), 6), 100.0)
    values[timings.index(Timing(Variant("XRSTOR", level="memory"), 7))] = np.nan
    found = Instructions(here, timings, rounds.Measured(values, np.ones(6), 10, 9))
    with pytest.raises(InputError, match=r"no undisturbed sample of XRSTOR \(memory\); this machine is too busy"):
        of_instructions(found)


@pytest.fixture
def flat(monkeypatch):
    """What `calibrate` makes of a machine with AMX on which all takes 100 cycles and no sample of KVM_RUN counts."""

    def found(stages, *_):
        flat = {name: np.full((len(each.in_use), 6), 100.0) for name, each in stages.items()}
        beside = {name: np.concatenate([values, 0 * values]) for name, values in flat.items()}
        numbers = {"xsave": flat["xsave"], "hand-off": beside["hand-off"], "vm": np.full_like(beside["vm"], np.nan)}
        found = {name: rounds.Measured(values, np.ones(6), 100, 0) for name, values in numbers.items()}
        return found | {name: rounds.Unavailable("no such call") for name in calls.WHERE}

    here = machine.Machine("", "GenuineIntel", 6, 0x8F, 0, "", "", "", "kvm_intel", 0x600E7, (), 32768)
    monkeypatch.setattr(calibrate, "this_machine", lambda _: here)
    monkeypatch.setattr(calibrate, "refuse_other_machines", lambda: None)
    monkeypatch.setattr(calibrate, "compiled", lambda: nullcontext(NO_PROGRAMS))
    monkeypatch.setattr(rounds, "measure", found)
    return calibrate.calibrate(CPU, 1, True, "", lambda _: nullcontext(Spent()))


def test_a_stage_without_one_undisturbed_sample_is_left_out_and_the_table_says_why(flat):
    """As on a machine where something brings SSE into use within every round trip."""
    why = "every sample of exit to KVM (CPUID) was disturbed, or left other components in use"
    assert flat.left_out == {"vm": why} | dict.fromkeys(calls.WHERE, "no such call")
    assert list(flat.processes) == ["xsave", "hand-off"]
    assert f"# No rows of KVM_RUN: {why}.\n" in flat.table
    rows = [line for line in flat.table.splitlines() if line.startswith("  {")]
    assert any("pipe hand-off" in line for line in rows)
    assert not any("KVM" in line for line in rows)


def test_no_row_that_is_inherited_adds_to_what_was_measured(flat, tmp_path):
    """Sapphire Rapids' table has terms of AMX tiles, also of XSAVE."""
    path = tmp_path / "flat.toml"
    path.write_text(flat.table)
    table = load(path, checked=False)
    assert table.derived_from == "sapphire-rapids"
    whole = [row for row in table.rows.values() if row.term == "total"]
    assert {row.operation for row in whole} == {"XSAVE", "XSAVEC", "XSAVEOPT", "XRSTOR"}
    assert [composed(row, table) for row in whole] == pytest.approx([100] * len(whole))


def test_exits_that_cost_what_nested_ones_do_are_said_to_be_in_every_row():
    here = machine.Machine("", "", 6, 0, 0, "", "", "", "", 7, tuple(range(8)), 32768)
    plan_ = differences.vm_plan(here)
    exits = next(row.cpuids for row in plan_ if row.cpuids)
    for cost, nested in ((1500.0, False), (9000.0, True)):
        values = np.full((2 * len(plan_), 6), exits * cost)
        lines = differences.of_vm(plan_, rounds.Measured(values, np.ones(6), 100, 0))
        assert {"nested" in line.conditions for line in lines} == {nested}


# The terms of a price.

SETS = tuple(range(32))


def instruction(base, presence, absence=(0,) * 5, *, processes=12, noise=0.003, seed=3):
    rng = np.random.default_rng(seed)
    exact = [
        base + sum(presence[i] if each >> i & 1 else absence[i] for i in range(5)) for each in SETS
    ]  # fmt: skip
    return np.array(exact)[:, None] * (1 + noise * rng.standard_normal((len(SETS), processes)))


def test_the_terms_of_a_save_are_recovered():
    truth = (19, 0, 7, 18, 31)
    found = fit.warm(SETS, instruction(139, truth))
    assert found.base.value == pytest.approx(139, rel=0.01)
    assert [found.components[i].value for i in range(5)] == pytest.approx(truth, abs=1)
    assert all(found.components[i].low <= truth[i] <= found.components[i].high for i in range(5))
    assert found.misfit < 0.02


def test_components_that_a_restore_initialises_more_slowly_than_it_loads_become_terms_of_their_absence():
    found = fit.warm(SETS, instruction(370, (0, 0, 0, 9, 30), (17, 8, 5, 0, 0)), None)
    assert found.base_set == 0b00111
    assert found.base.value == pytest.approx(370, rel=0.01)
    assert [found.components[i].value for i in range(5)] == pytest.approx((17, 8, 5, 9, 30), abs=2)


def test_a_set_without_a_number_does_not_disturb_the_fit():
    values = instruction(139, (19, 0, 7, 18, 31))
    values[[5, 9]] = np.nan
    found = fit.warm(SETS, values)
    assert found.components[4].value == pytest.approx(31, abs=1)


def test_what_a_level_adds_is_never_negative():
    warm = instruction(200, (10,) * 5)
    found = fit.colder(SETS, warm * 0.99, warm)
    assert found.base.value >= 0
    assert all(each.value >= 0 and each.low >= 0 for each in found.components.values())


def test_nested_sets_are_those_that_programs_leave():
    assert [f"{each:x}" for each in fit.nested(ladder(0xE7)) if each] == ["2", "3", "7", "27", "67", "e7"]
    assert 0xE6 in fit.nested([each for each in range(256) if not each & ~0xE7])


def test_the_ladder_tells_every_component_apart():
    for xcr0 in (0x7, 0xE7, 0x602E7):
        rungs = ladder(xcr0)
        numbers = [i for i in range(20) if xcr0 >> i & 1]
        matrix = [[1, *(each >> i & 1 for i in numbers)] for each in rungs]
        assert np.linalg.matrix_rank(matrix) == len(numbers) + 1


# The file.


def test_the_file_is_written_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "mine.toml"
    path.write_text("before")

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        writing.write(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [0.04, 99.96, 117.4, 1234.5, -3.3])
def test_rounding_keeps_the_value_in_its_range(value):
    rounded = writing.rounded(Interval(value, value - 0.01, value + 0.01))
    assert rounded[1] <= rounded[0] <= rounded[2]


def test_a_difference_whose_interval_spans_zero_is_written_down_as_that(tmp_path):
    values = np.array([[5000.0] * 6] * 3 + [[0.0] * 6] * 2 + [[-4, -2, -1, 1, 2, 3]])
    seen = rounds.Measured(values, np.ones(6), 100, 0)
    whole, control, line = differences.of_switches((0, 0, 7), seen)
    assert (control.component, control.number) == ("", Interval(0, 0, 0))
    assert (line.term, line.number.low, line.number.high) == ("difference", -4, 3)
    assert "spans zero" in line.conditions
    texts = {"switches": "CPU: x; kernel: y; method: z", "own": "measured by `fpswitch calibrate`"}
    ratio = Line(*RATIO.rsplit("/", 1), Interval(1, 1, 1), "measured", "{switches}", clock="tsc")
    path = tmp_path / "mine.toml"
    path.write_text(
        writing.table(writing.Header([], "t", "2026-11-25", "", 0, "", texts), [ratio, whole, control, line])
    )
    assert check(load(path)) == []
    assert load(path).rows["pipe hand-off/difference/FP SSE YMM"].low == -4


# This machine.


@measures
def test_the_sources_compile_without_a_warning(tmp_path):
    for source in SOURCES.glob("*.c"):
        command = [*programs.compiler(), *programs.flags(source.stem), "-Werror", "-o", tmp_path / source.stem, source]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), source.name


@measures
def test_a_quick_run_gives_a_table_that_passes_the_check(measured):
    path, said = measured
    table = load(path, checked=False)
    assert check(table) == []
    assert said["table"] == str(path)
    assert table.derived_from == said["derived_from"]
    measured_rows = [row for row in mine(path) if row.grade == "measured"]
    assert {"XSAVE", "XRSTOR"} <= {row.operation for row in measured_rows if row.term == "total"}
    assert {row.level for row in measured_rows if row.term == "total"} == set(LEVELS)
    for row in measured_rows:
        assert row.source.startswith("measured by `fpswitch calibrate`")
        assert all(word in row.conditions for word in ("microcode", "kernel: Linux", "method: ", "processes"))
    assert not list(path.parent.glob(".*"))


@measures
def test_the_supervisor_forms_of_that_table_say_that_user_forms_stand_in(measured):
    path, said = measured
    rows = [row for row in mine(path) if row.operation in ("XSAVES", "XRSTORS")]
    assert {row.grade for row in rows} == {"derived"}
    in_place_terms = (
        {"writing", "written", "loaded", "initialised"} if set(calls.WHERE) - set(said["left_out"]) else set()
    )
    for row in rows:
        if row.level or row.term not in in_place_terms:
            assert "stands in for" in row.conditions


@measures
def test_that_table_prices_a_warm_save_and_restore_as_they_were_measured(measured):
    table = load(measured[0])
    warm = [row for row in table.rows.values() if row.term == "total" and not row.level]
    off = [abs(composed(row, table) / row.value - 1) for row in warm]
    assert len(warm) > 10
    assert np.median(off) < 0.05
    assert max(off) < 0.25  # a few seconds on a machine that others use


@measures
def test_that_table_prices_every_level(measured):
    prices = Prices(load(measured[0]))
    for operation in ("XSAVE", "XSAVES", "XRSTOR", "XRSTORS"):
        key = ("vcpu", "switch", operation, 7, 7, 0)
        assert terms((*key, "memory"), prices.table)
        assert prices[*key, ""] <= prices[*key, "L2"] <= prices[*key, "memory"]


@measures
def test_a_control_differs_by_less_than_two_percent_of_the_whole(measured):
    rows = load(measured[0]).rows
    for whole in (differences.HAND_OFF, differences.ROUND_TRIP):
        if f"{whole}/reference" in rows:
            control = rows[f"{whole}, {differences.CONTROL}/difference"]
            assert abs(control.value) < 0.02 * rows[f"{whole}/reference"].value


@measures
def test_every_variant_of_every_rung_is_in_the_list_beside_the_table(measured):
    path, _ = measured
    with path.with_suffix(".csv").open() as file:
        found = list(csv.DictReader(file))
    keys = {(row["operation"], row["area"], row["touched"], row["level"], int(row["in_use"], 16)) for row in found}
    assert len(keys) == len(found)
    sets = {key[4] for key in keys}
    assert {key[:4] for key in keys if key[0] == "XRSTOR"} == {
        ("XRSTOR", area, touched, level)
        for area in ("same", "other") for touched in ("yes", "no") for level in ("L1", "L2", "memory")
    }  # fmt: skip
    assert len(keys) == len({key[:4] for key in keys}) * len(sets)  # every variant of every set
    assert sum(row["value"] != "" for row in found) > 0.6 * len(found)


@measures
def test_the_modified_optimisation_shows_where_the_cpu_has_it(tmp_path):
    """XSAVEOPT to the area of the last XRSTOR leaves out what was not touched, on any CPU that has it at all."""
    with programs.compiled() as made_programs:
        here = machine.this_machine(made_programs)
        everything = max(here.sets or ladder(here.xcr0))
        variants = [Variant("XSAVEOPT", same, touched) for same in (False, True) for touched in (False, True)]
        lines = "".join(f"{Timing(each, everything).line}\n" for each in variants)
        cpu = max(os.sched_getaffinity(0))
        command = [made_programs.xsave, str(cpu), "60", str(here.l1d_bytes)]
        done = subprocess.run(command, input=lines.encode(), capture_output=True, check=True)
    found = np.frombuffer(done.stdout, samples.SAMPLE)
    wanted = samples.as_wanted(found, np.array([everything] * 4, np.uint64))
    _, other_touched, same, same_touched = samples.medians_by_row(
        found["row"][wanted], samples.ticks(found[wanted]), 4
    )  # fmt: skip
    assert same <= min(other_touched, same_touched) * 1.05


@measures
def test_a_plan_that_is_not_understood_is_refused():
    with programs.compiled() as made_programs:
        cpu = str(max(os.sched_getaffinity(0)))
        done = subprocess.run(
            [made_programs.xsave, cpu, "1", "32768"], input=b"9 0 0 0 0\n", capture_output=True, check=False
        )
        assert (done.returncode, done.stdout) == (2, b"")
        done = subprocess.run([made_programs.switch, cpu, "1"], input=b"7\n", capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (2, b"")


@measures
@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no access to /dev/kvm")
def test_a_guest_whose_adds_are_slower_than_may_be_is_refused_in_one_sentence():
    def vm(slower):
        command = [made_programs.vm, str(max(os.sched_getaffinity(0))), "1", str(slower)]
        return subprocess.run(command, input=b"0 0 0\n", capture_output=True, check=False)

    with programs.compiled() as made_programs:
        refused, patient = vm(0), vm(10**9)
    said = refused.stderr.decode()
    assert (refused.returncode, refused.stdout, said.count("\n")) == (3, b"", 1)
    assert re.fullmatch(r"KVM interprets its guests here: an add takes \d+ TSC cycles in a guest, \d+ times .*\n", said)
    assert (patient.returncode, len(patient.stdout), patient.stderr) == (0, samples.SAMPLE.itemsize, b"")


@measures
@pytest.mark.skipif(not Path("/sys/module/kvm_pvm").exists(), reason="KVM by another module than kvm_pvm")
def test_under_kvm_pvm_there_are_no_rows_of_kvm_and_the_reason_is_told(measured):
    path, said = measured
    assert "KVM interprets its guests here" in said["left_out"]["vm"]
    assert f"# No rows of KVM_RUN: {said['left_out']['vm']}.\n" in path.read_text()
    assert not any(row.operation.startswith(differences.ROUND_TRIP) for row in mine(path))


# Other machines.


def test_an_emulated_machine_is_refused(monkeypatch):
    probed = json.dumps({"hypervisor": machine.EMULATOR, "vendor": "AuthenticAMD"})
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, probed))
    with pytest.raises(InputError, match="emulated by QEMU's TCG"):
        machine.this_machine(NO_PROGRAMS)


def test_without_a_compiler_it_says_so_and_ends_with_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    status, out, err = run(capsys, "-o", tmp_path / "mine.toml")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "no C compiler found (looked for cc, gcc, clang)" in err
    assert list(tmp_path.iterdir()) == []


@measures
def test_a_compiler_that_fails_is_one_message_and_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CC", shutil.which("false"))
    status, out, err = run(capsys, "-o", tmp_path / "mine.toml")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "cannot compile probe.c" in err


@pytest.mark.parametrize(
    ("system", "architecture", "flags", "said"),
    [
        ("Darwin", "arm64", "", "this is Darwin on arm64; it measures x86_64 under Linux only"),
        ("Linux", "aarch64", "", "this is Linux on aarch64"),
        ("Linux", "x86_64", "fpu fxsr sse2", "this CPU has no XSAVE"),
    ],
)
def test_a_machine_that_cannot_be_measured_is_refused(tmp_path, capsys, monkeypatch, system, architecture, flags, said):
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: architecture)
    monkeypatch.setattr(machine, "_cpuinfo", lambda _: flags)
    status, out, err = run(capsys, "-o", tmp_path / "mine.toml")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "there.toml"], "there.toml already exists; --force overwrites it"),
        (["-o", "mine.json"], "ends in .toml"),
        (["-o", "nowhere/mine.toml"], "there is no directory nowhere"),
        (["-o", "/proc/mine.toml"], "the directory /proc cannot be written to"),
        (["-o", "mine.toml", "--budget", "1000"], "between 1 and 280 seconds"),
        (["-o", "mine.toml", "--on", "4095"], "--on 4095: this process may run on "),
        (["-o", "mine.toml", "--derived-from", "zen44"], "did you mean 'zen4'?"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_measured(tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibrate, "refuse_other_machines", lambda: None)
    Path("there.toml").write_text("mine")
    status, out, err = run(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert Path("there.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("vendor", "family", "model", "table"),
    [
        ("AuthenticAMD", 0x19, 0x11, ("zen4", True)),
        ("AuthenticAMD", 0x19, 0x01, ("zen3", True)),
        ("AuthenticAMD", 0x1A, 0x02, ("zen5", True)),
        ("AuthenticAMD", 0x17, 0x31, ("zen4", False)),
        ("GenuineIntel", 6, 0x8F, ("sapphire-rapids", True)),
        ("GenuineIntel", 6, 0xCF, ("emerald-rapids", True)),
        ("GenuineIntel", 6, 0x9E, ("sapphire-rapids", False)),
    ],
)
def test_what_cannot_be_measured_comes_from_the_table_of_the_cpu(vendor, family, model, table):
    here = machine.Machine("", vendor, family, model, 0, "", "", "", "", 7, (), 32768)
    assert here.nearest == table


def test_operations_of_the_plan_are_those_of_the_source():
    source = (SOURCES / "xsave.c").read_text()
    names = ("XSAVE", "XSAVEC", "XSAVEOPT", "XRSTOR", "XRSTOR_STANDARD", "XGETBV1")
    assert f"enum operation {{ {', '.join(names)}, OPERATIONS }}" in source
    assert len(OPERATIONS) == len(names)
    assert f"#define CHAIN_ADDS {samples.CHAIN_ADDS}\n" in (SOURCES / "timing.h").read_text()


# The kernel module.


def kernel_headers() -> Path | None:
    """A kernel tree to build against: the running kernel's, or one of Debian's packages."""
    trees = [Path("/lib/modules") / os.uname().release / "build", *sorted(Path("/usr/src").glob("linux-headers-*"))]
    return next((each for each in reversed(trees) if (each / "Module.symvers").exists()), None)


@pytest.mark.skipif(kernel_headers() is None, reason="no kernel headers (Debian: apt install linux-headers-amd64)")
@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_the_kernel_module_builds_without_a_warning(tmp_path):
    folder = tmp_path / "fpswitch_bench"
    shutil.copytree(
        SOURCES.parents[1] / "kmod" / "fpswitch_bench", folder, ignore=shutil.ignore_patterns("*.o", "*.ko")
    )
    command = ["make", "-C", folder, f"KDIR={kernel_headers()}", "W=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout + done.stderr.replace("Skipping BTF generation", "")
    assert (folder / "fpswitch_bench.ko").exists()


def test_the_module_says_that_it_has_not_been_run_on_hardware():
    source = (SOURCES.parents[1] / "kmod" / "fpswitch_bench" / "fpswitch_bench.c").read_text()
    assert "NOT YET RUN ON HARDWARE" in source
    assert "not yet run on hardware" in source[source.index("MODULE_DESCRIPTION") :]


def test_the_table_that_the_module_writes_passes_the_check_and_prices_its_msrs():
    """What it wrote under QEMU's software emulation, Linux 6.1."""
    recorded = Path(__file__).parent / "data" / "fpswitch-bench-qemu.toml"
    table = load(recorded)
    assert check(table) == []
    measured = [row for row in table.rows.values() if row.grade == "measured" and row.table == table.name]
    assert len(measured) == 9
    assert terms(("", "", "WRMSR(XSS)"), table) == {"WRMSR(XSS)/base": 1}
    assert table.rows["WRMSR(XSS)/base"].value == 52
    source = (SOURCES.parents[1] / "kmod" / "fpswitch_bench" / "fpswitch_bench.c").read_text()
    written = re.search(r'texts\.own = \\"([^%]*)', source)
    assert written
    assert all(row.source.startswith(written[1]) for row in measured)


def test_a_build_without_kernel_headers_says_what_to_install(tmp_path):
    folder = SOURCES.parents[1] / "kmod" / "fpswitch_bench"
    done = subprocess.run(["make", "-C", folder, f"KDIR={tmp_path}"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"no kernel headers in {tmp_path}: install linux-headers-amd64" in done.stderr
