"""`fpswitch calibrate --guest`: its code on bare emulated machines, its plan, and its refusals.

QEMU (TCG) and Bochs run guest_code.c as it is, behind a boot sector of tests/guest.  QEMU's TCG has no XSAVES; Bochs
has, and supervisor shadow stacks with it.  Bochs 2.7 puts the compacted YMM area at 416 and not at 576, over the
header, and does not tell CET_U from CET_S in XSTATE_BV; from 3.0 on all of it is compared.  Debian's 3.1 has AMX; it
stores rows and bytes per row of a TILECFG the wrong way round, so that what it stored cannot be restored.  No emulator
has XFD; QEMU ignores writes of it.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import native
import pytest
from command import run
from guest_plan import NO_PROGRAMS

from sim import calibrate
from sim.calibrate import guest, programs, rounds, samples
from sim.calibrate.guest import About, GuestRow
from sim.costs.check import check
from sim.costs.table import load
from sim.xsave.components import CET_S, CET_U

SOURCES = Path(calibrate.__file__).parent
HERE = Path(__file__).parent / "guest"
HEADER = (SOURCES / "guest.h").read_text()
SECTOR = 512
CODE_BYTES, ROWS_BYTES = 0x8000, 0x5000
"""As in boot.S."""


def defined(name):
    return int(re.search(rf"#define {name} (\w+)", HEADER)[1], 0)


compiles = pytest.mark.skipif(bool(native.refusal()), reason=native.refusal())
QEMU = shutil.which("qemu-system-x86_64")
BOCHS = shutil.which("bochs-bin")
BIOS, VGA = Path("/usr/share/bochs/BIOS-bochs-latest"), Path("/usr/share/vgabios/vgabios.bin")


# On a bare machine.


def segments(elf):
    """Address and bytes of what a 64-bit ELF file loads."""
    table, count = struct.unpack_from("<Q", elf, 32)[0], struct.unpack_from("<H", elf, 56)[0]
    for i in range(count):
        kind, _, offset, at, _, size, _, _ = struct.unpack_from("<IIQQQQQQ", elf, table + 56 * i)
        if kind == 1 and size:
            yield at, elf[offset : offset + size]


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """Writes a disk that runs rows of a plan: boot sector, code, rows."""
    folder = tmp_path_factory.mktemp("bare")
    program = folder / "bare"
    flags = [*programs.flags("guest_code"), "-Werror", "-Wl,--section-start=.boot=0x7c00", "-Wl,-e,bare"]
    command = [*programs.compiler(), *flags, "-I", SOURCES, "-o", program, SOURCES / "guest_code.c", HERE / "boot.S"]
    subprocess.run(command, check=True)
    memory = bytearray(defined("SHARED_AT"))
    for at, data in segments(program.read_bytes()):
        memory[at : at + len(data)] = data
    at = defined("CODE_AT")
    assert not any(memory[at + CODE_BYTES :])
    head = memory[0x7C00 : 0x7C00 + SECTOR - 2] + b"\x55\xaa" + memory[at : at + CODE_BYTES]

    def write(plan):
        shared = struct.pack("<5Q", len(plan), 0, 0, 0, 0)
        shared += b"".join(struct.pack("<9Q", *(int(x, 16) for x in row.line.split())) for row in plan)
        path = folder / "disk"
        path.write_bytes((head + shared.ljust(ROWS_BYTES, b"\0")).ljust(20 * 16 * 63 * SECTOR, b"\0"))
        return path

    return write


def results(written, plan):
    """What struct guest_shared holds after the rows: xcr0, xss, xsaves, shadow stacks, and the result of each row."""
    data = written[written.rindex(b"RESULTS:") + 8 :]
    count, *about = struct.unpack_from("<5Q", data)
    assert count == len(plan)
    names = ("chain_before", "ticks", "empty", "chain_after", "in_use", "kept", "fault")
    at = 40 + 72 * defined("ROWS_MAX")
    found = [dict(zip(names, struct.unpack_from("<7Q", data, at + 56 * i), strict=True)) for i in range(count)]
    return about, dict(zip(plan, found, strict=True))


def in_qemu(disk, plan):
    path = disk(plan)
    written = path.with_name("written")
    command = [QEMU, "-accel", "tcg", "-cpu", "max", "-m", "64", "-display", "none", "-serial", "none"]
    command += ["-monitor", "none", "-net", "none", "-no-reboot", "-drive", f"format=raw,file={path}"]
    command += ["-debugcon", f"file:{written}", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
    subprocess.run(command, timeout=60, check=False, capture_output=True)
    return results(written.read_bytes(), plan)


def in_bochs(disk, plan, model="tigerlake"):
    path = disk(plan)
    settings = path.with_name("bochsrc")
    written = b""
    for silent in ("sound: driver=dummy\nspeaker: enabled=0\n", ""):  # refused where no sound was compiled in
        settings.write_text(
            f"cpu: model={model}, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=0\nmemory: guest=64, host=64\n"
            f"romimage: file={BIOS}\nvgaromimage: file={VGA}\nboot: disk\n"
            f"ata0-master: type=disk, path={path}, mode=flat, cylinders=20, heads=16, spt=63\n"
            f'display_library: rfb, options="timeout=0"\nport_e9_hack: enabled=1\nlog: {path.with_name("log")}\n'
            f"panic: action=fatal\n{silent}"
        )
        command = [BOCHS, "-q", "-f", settings]
        written = subprocess.run(
            command,
            input=b"c\n" * 9,
            capture_output=True,
            timeout=60,
            check=False,  # c: to its debugger
        ).stdout
        if b"RESULTS:" in written:
            break
    return results(written, plan)


def bare_plan(offered):
    """Of the whole plan what ends on a machine without a hypervisor: no HLT, after which nobody goes on."""
    return [row for row in guest.guest_plan(offered, ()) if row.operation != "EXIT_HLT"]


@compiles
@pytest.mark.skipif(QEMU is None, reason="no qemu-system-x86_64 (Debian: qemu-system-x86)")
def test_the_guests_code_runs_all_its_rows_on_a_bare_machine_and_an_exception_ends_no_other_row(disk):
    plan = bare_plan(About(0x7, 0, True))
    (xcr0, xss, xsaves, _), found = in_qemu(disk, plan)
    assert xcr0 & 7 == 7
    lacks = {"WRMSRNS"} | (set() if xsaves else {"XSAVES", "XRSTORS"})
    for row, result in found.items():
        assert result["chain_before"] > 0
        if row.operation in lacks:
            assert result["fault"] == 6 + 1  # #UD
        else:
            assert (result["fault"], result["in_use"]) == (0, row.in_use)
            assert min(result["ticks"], result["empty"], result["chain_after"]) > 0
    assert xss == 0 or xsaves


has_bochs = pytest.mark.skipif(
    not (BOCHS and BIOS.exists() and VGA.exists()), reason="no Bochs (Debian: bochs, bochsbios and vgabios)"
)
NOT_THERE = {0x1C4: 13 + 1, 0x1C5: 13 + 1}
"""XFD and XFD_ERR: #GP."""


def of_bochs(*options):
    said = subprocess.run([BOCHS, *options], capture_output=True, text=True, check=False)
    return said.stdout + said.stderr


@compiles
@has_bochs
def test_xsaves_and_xrstors_with_supervisor_shadow_stacks_run_where_an_emulator_has_them(disk):
    """XSTATE_BV of what XSAVES wrote has PL0-2_SSP where they are in use; Bochs writes all, whatever was modified."""
    as_specified = float(re.search(r"Bochs x86 Emulator (\d+\.\d+)", of_bochs("--help"))[1]) >= 3
    plan = [row for row in bare_plan(About(0x207, CET_U | CET_S, True)) if as_specified or not row.in_use & 4]
    (_, _, xsaves, shadow_stacks), found = in_bochs(disk, plan)
    assert (xsaves, shadow_stacks) == (1, 1)
    states = {row: result for row, result in found.items() if row.operation in ("XSAVES", "XRSTORS")}
    assert {row.in_use & CET_S for row in states} == {0, CET_S}
    assert {row.xss for row in states} == {CET_U, CET_U | CET_S}
    shown = ~0 if as_specified else 7
    assert {row: result["in_use"] & shown for row, result in states.items()} == {
        row: row.in_use & shown for row in states
    }
    others = {row: result["fault"] for row, result in found.items() if row.operation != "WRMSRNS"}
    assert others == {row: NOT_THERE.get(row.msr, 0) for row in others}  # SPEC_CTRL is there; PKRU is written
    assert not any(result["kept"] for result in states.values())


@compiles
@has_bochs
def test_tiles_are_in_use_and_touched_where_an_emulator_has_amx(disk):
    if "sapphire_rapids" not in of_bochs("--help", "cpu").split():
        pytest.skip("Bochs without sapphire_rapids, before 3.0")
    cfg, data = 1 << 17, 1 << 18
    plan = [row for row in bare_plan(About(0x602E7, CET_U | CET_S, True)) if row.operation in ("XSAVES", "XRSTORS")]
    (xcr0, _, _, _), found = in_bochs(disk, plan, "sapphire_rapids")
    if not xcr0 & data:
        pytest.skip("Bochs without AMX, as its configure has it by default")
    assert {row.in_use & (cfg | data) for row in plan} == {0, cfg, data, cfg | data}
    for row, result in found.items():
        needs_config = row.touched and row.in_use & cfg and row.in_use & data  # TILEZERO
        assert result["fault"] == (6 + 1 if needs_config else 0), row
        if not needs_config:
            assert result["in_use"] == row.in_use & ~cfg, row


# The plan.


def test_the_plan_is_written_as_the_header_has_it():
    operations = re.search(r"enum operation \{(.*?)\}", HEADER, re.DOTALL)[1]
    assert tuple(re.findall(r"\w+", operations)) == (*guest.OPERATIONS, "OPERATIONS")
    assert defined("REPETITIONS") == guest.REPETITIONS
    assert f"-Wl,-Ttext={defined('CODE_AT'):#x}" in programs.flags("guest_code")
    fields = re.search(r"struct guest_row \{(.*?)\};", HEADER, re.DOTALL)[1]
    assert re.findall(r"uint64_t (\w+);", fields) == list(GuestRow.__dataclass_fields__)
    line = GuestRow("WRMSR", 0x800, msr=0x6A4, second=0x1000).line
    assert line == "6 800 0 0 0 0 6a4 0 1000"


@pytest.mark.parametrize("offered", [About(0x7, 0, False), About(0x602E7, CET_U | CET_S, True)])
def test_the_plan_fits_and_no_row_is_twice_in_it(offered):
    plan = guest.guest_plan(offered, ())
    assert len(plan) == len(set(plan)) <= defined("ROWS_MAX")
    assert not any(row.requested & ~(offered.xcr0 | row.xss) or row.in_use & ~row.requested for row in plan)
    assert any(row.msr == 0x6A4 for row in plan) == offered.shadow_stacks


# This machine.


def refusal(made):
    """Why there can be no guest here, or nothing."""
    try:
        guest.about(made, max(os.sched_getaffinity(0)))
    except rounds.Unavailable as reason:
        return str(reason)
    return ""


@compiles
def test_where_there_can_be_no_guest_the_command_says_why_in_one_line_with_status_2_and_writes_nothing(
    made, tmp_path, capsys
):
    why = refusal(made)
    if not why:
        pytest.skip("KVM runs guests here")
    status, out, err = run(capsys, "calibrate", "-o", tmp_path / "mine.toml", "--guest", "--quick")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("fpswitch: calibrate --guest: ")
    assert list(tmp_path.iterdir()) == []
    if Path("/sys/module/kvm_pvm").exists() and os.access("/dev/kvm", os.R_OK | os.W_OK):
        assert re.search(r"KVM interprets its guests here: an add takes \d+ TSC cycles in a guest, \d+ times", err)


@compiles
def test_without_access_to_dev_kvm_the_program_names_it(made):
    """As nobody, where this runs as root."""
    if os.geteuid() and os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm is open to this user")
    user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp())
    try:
        program, code = (shutil.copy(each, folder) for each in (made.guest, made.guest_code))
        folder.chmod(0o755)
        command = [program, str(max(os.sched_getaffinity(0))), code, "about", "4"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **user)
    finally:
        shutil.rmtree(folder)
    assert (done.returncode, done.stdout) == (3, "")
    assert re.fullmatch(r"/dev/kvm: .*\n", done.stderr)


def test_a_kvm_that_offers_no_xsaves_is_refused(monkeypatch):
    said = json.dumps({"xcr0": 7, "xss": 0, "xsaves": 0, "shadow_stacks": 0})
    monkeypatch.setattr(guest, "output", lambda _: said)
    with pytest.raises(rounds.Unavailable, match="KVM offers its guests no XSAVES"):
        guest.about(NO_PROGRAMS, 0)


@compiles
def test_a_plan_that_is_not_understood_is_not_run(made):
    done = subprocess.run([made.guest, "0"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")


@compiles
def test_where_kvm_runs_guests_a_quick_run_has_their_rows(made, tmp_path, capsys):
    if why := refusal(made):
        pytest.skip(why)
    path = tmp_path / "mine.toml"
    status, out, _ = run(capsys, "calibrate", "-o", path, "--guest", "--quick", "--json")
    assert status == 0
    table = load(path, checked=False)
    assert check(table) == []
    assert "guest" not in json.loads(out)["left_out"]
    mine = {row.operation for row in table.rows.values() if row.table == path.stem and row.grade == "measured"}
    assert {"XSAVES", "XRSTORS", "RDMSR(FS_BASE)", "WRMSR(FS_BASE)"} <= mine


def test_a_sample_has_what_all_others_have_and_more():
    assert guest.SAMPLE.names[: len(samples.SAMPLE.names)] == samples.SAMPLE.names
    source = (SOURCES / "guest.c").read_text()
    fields = re.search(r"struct guest_sample \{(.*?)\};", source, re.DOTALL)[1]
    assert tuple(re.findall(r"uint64_t (\w+);", fields)) == guest.SAMPLE.names[len(samples.SAMPLE.names) :]
    assert replace(GuestRow("XSAVES"), same=True).line.split()[4] == "1"
