"""`calibrate` on this machine, on others, and the kernel module."""

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import native
import numpy as np
import pytest
from command import run
from no_programs import NO_PROGRAMS

from sim import calibrate
from sim.calibrate import calls, differences, machine, programs, rounds, samples, writing
from sim.calibrate.plan import LEVELS, OPERATIONS, Timing, Variant, ladder
from sim.calibrate.rows import Line
from sim.calibrate.samples import Interval
from sim.cli import main
from sim.costs.check import check
from sim.costs.price import Prices, composed, terms
from sim.costs.rows import RATIO
from sim.costs.table import load
from sim.errors import InputError

SOURCES = Path(calibrate.__file__).parent


measures = pytest.mark.skipif(bool(native.refusal()), reason=native.refusal())


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


# The file.


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
def test_the_modified_optimisation_shows_where_the_cpu_has_it(made):
    """XSAVEOPT to the area of the last XRSTOR leaves out what was not touched, on any CPU that has it at all."""
    here = machine.this_machine(made)
    everything = max(here.sets or ladder(here.xcr0))
    variants = [Variant("XSAVEOPT", same, touched) for same in (False, True) for touched in (False, True)]
    lines = "".join(f"{Timing(each, everything).line}\n" for each in variants)
    cpu = max(os.sched_getaffinity(0))
    command = [made.xsave, str(cpu), "60", str(here.l1d_bytes)]
    done = subprocess.run(command, input=lines.encode(), capture_output=True, check=True)
    found = np.frombuffer(done.stdout, samples.SAMPLE)
    wanted = samples.as_wanted(found, np.array([everything] * 4, np.uint64))
    _, other_touched, same, same_touched = samples.medians_by_row(
        found["row"][wanted], samples.ticks(found[wanted]), 4
    )  # fmt: skip
    assert same <= min(other_touched, same_touched) * 1.05


@measures
def test_a_plan_that_is_not_understood_is_refused(made):
    cpu = str(max(os.sched_getaffinity(0)))
    done = subprocess.run([made.xsave, cpu, "1", "32768"], input=b"9 0 0 0 0\n", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    done = subprocess.run([made.switch, cpu, "1"], input=b"7\n", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")


@measures
@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no access to /dev/kvm")
def test_a_guest_whose_adds_are_slower_than_may_be_is_refused_in_one_sentence(made):
    def vm(slower):
        command = [made.vm, str(max(os.sched_getaffinity(0))), "1", str(slower)]
        return subprocess.run(command, input=b"0 0 0\n", capture_output=True, check=False)

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
    status, out, err = run(capsys, "calibrate", "-o", tmp_path / "mine.toml")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "no C compiler found (looked for cc, gcc, clang)" in err
    assert list(tmp_path.iterdir()) == []


@measures
def test_a_compiler_that_fails_is_one_message_and_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CC", shutil.which("false"))
    status, out, err = run(capsys, "calibrate", "-o", tmp_path / "mine.toml")
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
    status, out, err = run(capsys, "calibrate", "-o", tmp_path / "mine.toml")
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
    status, out, err = run(capsys, "calibrate", *arguments)
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
