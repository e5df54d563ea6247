"""Tables of `perf kvm stat`, as people send them, in place of rates."""

import gzip
import html
import lzma
import quopri
import re

import pytest
from command import run, run_json
from perf_reports import REPORT

from sim.errors import InputError
from sim.trace.reading import perf_kvm_stat

# perf kvm stat.


def test_the_report_of_perf_kvm_stat_is_read():
    found = perf_kvm_stat.parse(REPORT, "report")
    assert found.exits["MSR_WRITE"] == 520
    assert (found.total, found.others, found.lost, found.vendor) == (866, 0, 0, "vmx")
    assert found.handled_s == pytest.approx(1.81536745)
    assert found.recorded_s is None


def old(text):
    """As perf of Linux v3.9 printed it: no Min Time, no Max Time."""
    return "\n".join(
        line[:53] + line[77:] if "us (" in line or "Min Time" in line else line for line in text.splitlines()
    )


MAILED = """On Tuesday somebody wrote (recorded for 5 seconds):
>> > Analyze events for all VMs, all VCPUs:
>> >              VM-EXIT    Samples  Samples%     Time%    Min Time    Max
>> > Time         Avg time
>> >   EXTERNAL_INTERRUPT     471831    59.89%    68.58%      0.64us
>> > 65.42us      2.34us ( +-   0.11% )
>> >            MSR_WRITE     238932    30.33%    23.07%      0.48us
>> > 41.05us      1.56us ( +-   0.14% )
>> > [..]
>> > Total Samples:787803, Total events handled time:1611193.84us.
"""


@pytest.mark.parametrize(
    ("text", "total", "others"),
    [
        (REPORT, 866, 0),
        (old(REPORT), 866, 0),
        (REPORT.replace(" ", "\N{NO-BREAK SPACE}").replace("\n", "\r\n"), 866, 0),
        ("\n".join(f"> > {line}" for line in REPORT.splitlines()), 866, 0),
        (REPORT[: REPORT.index("Total")], 866, 0),
        (quopri.encodestring(REPORT.encode()).decode(), 866, 0),
        ("<pre>" + html.escape(REPORT) + "</pre>", 866, 0),
        ("\x1b[H\x1b[2J" + REPORT, 866, 0),
        (REPORT.replace("MSR_READ", " UNKNOWN").replace("     HLT", " UNKNOWN"), 866, 0),
        (MAILED, 787803, 787803 - 471831 - 238932),
        (re.sub(r"(\d)\.(\d\d)(us|%)", r"\1,\2\3", REPORT), 866, 0),
        (REPORT.replace("MSR_READ", " NM excp").replace("     HLT", " UD excp"), 866, 0),
        (re.sub(r"(?m)(?<=\S) {2,}(?=\S)", " | ", REPORT), 866, 0),
    ],
)
def test_what_versions_of_perf_and_mailers_make_of_it_is_read_too(text, total, others):
    found = perf_kvm_stat.parse(text, "report")
    assert (found.total, found.others) == (total, others)
    if text is not MAILED:
        assert sum(found.took_s.values()) == pytest.approx(1.81536745, rel=1e-3)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bytes])
def test_a_table_may_be_packed(pack, tmp_path):
    path = tmp_path / "report"
    path.write_bytes(pack(REPORT.encode()))
    assert perf_kvm_stat.read(str(path)).total == 866
    path.write_bytes(pack(REPORT.encode())[:-9])
    if pack is not bytes:
        with pytest.raises(InputError, match=r"cannot read .*report: "):
            perf_kvm_stat.read(str(path))


def test_how_long_was_recorded_is_found_where_people_write_it():
    assert perf_kvm_stat.parse(MAILED, "mail").recorded_s == 5
    assert perf_kvm_stat.parse("w/o this patch (duration:10s):\n" + REPORT, "mail").recorded_s == 10
    assert perf_kvm_stat.parse(REPORT + "  10.0023 seconds time elapsed\n", "mail").recorded_s == 10.0023


def test_of_perf_kvm_stat_live_the_first_table_is_left_out():
    tables = [f"12:10:{second:02}.786799\n{REPORT}" for second in (10, 11, 13)]
    found = perf_kvm_stat.parse("".join(tables), "live")
    assert (found.total, found.recorded_s) == (2 * 866, pytest.approx(3))
    midnight = perf_kvm_stat.parse(f"23:59:59.000000{REPORT}00:00:01.500000{REPORT}", "live")
    assert (midnight.total, midnight.recorded_s) == (866, pytest.approx(2.5))


def test_svm_has_small_letters():
    text = REPORT.replace("MSR_WRITE", "      msr").replace("HLT", "hlt")
    text = "\n".join(line for line in text.splitlines() if not line.strip()[:1].isupper() or "Samples" in line)
    text = text.replace("Total Samples:866", "Total Samples:699")
    assert perf_kvm_stat.parse(text, "svm").vendor == "svm"
    assert perf_kvm_stat.parse(text.replace("   msr", "UNKNOWN"), "svm").vendor == "svm"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no table of VM exits"),
        ("PERFILE2\0\0", "no table of VM exits"),
        (REPORT.replace("VM-EXIT", "MMIO Access"), "a table of MMIO Access"),
        (REPORT + REPORT, "2 tables"),
        (REPORT.replace("Samples:866", "Samples:800"), "866 samples in the rows, and 800"),
        (REPORT.replace("MSR_READ", "     HLT"), "HLT is there twice"),
        ("VM-EXIT Samples Samples% Time%\n", "without a row"),
        ("VM-EXIT Samples Samples% Time%\n\nTotal Samples:0, Total events handled time:0.00us.\n", "Total Samples:0"),
        (REPORT.replace("MSR_READ", "DABT_LOW"), "DABT_LOW is an exit reason of arm64"),
        (REPORT.replace("       520 ", "     5,200 "), "cannot be read: 'MSR_WRITE 5,200 60.05% 0.07%"),
        (REPORT.replace("       520 ", "     5 200 "), "cannot be read: 'MSR_WRITE 5 200 60.05% 0.07%"),
        (REPORT.replace("       520 ", f" {'5' * 5000} "), "a number of 5000 digits"),
        (REPORT.replace("  10123.40us", "     10.12ms"), "cannot be read: 'HLT 179 20.67% 99.82% 64.53us"),
        (REPORT[: REPORT.index("8.09us")], "cannot be read: 'EPT_MISCONFIG 68 7.85% 0.03% 5.53us 64.64us'"),
    ],
)
def test_other_text_is_called_what_it_is(text, message):
    with pytest.raises(InputError, match=message):
        perf_kvm_stat.parse(text, "report")


def test_the_exits_of_load_put_pairs_and_of_a_reason_are_among_those_that_perf_counted(capsys, tmp_path):
    path = tmp_path / "report.txt"
    path.write_text(REPORT, encoding="utf-8")
    document = run_json(
        capsys, "price", "--perf-kvm-stat", str(path), "--duration", "2 s", "--cpus", "2", "--load-put", "20/s",
        "--exits", "wrmsr-tsc-deadline=100/s",
    )  # fmt: skip
    load = document["load"]
    assert load["vm_entries"] == pytest.approx(866 / 4)
    assert load["fastpath"] == {"preemption-timer": 18 / 4, "wrmsr-tsc-deadline": 100}
    assert load["exits"] == pytest.approx(866 / 4 - 20 - 100 - 18 / 4)


ONLY_CPUID = """
             VM-EXIT    Samples  Samples%     Time%         Avg time
               CPUID       1000   100.00%   100.00%      1.40us ( +-   4.68% )
Total Samples:1000, Total events handled time:1400.00us.
"""
WITH_IO = REPORT.replace("EPT_MISCONFIG ", "IO_INSTRUCTION")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (REPORT, ("--load-put", "20/s"), "does not say how long perf recorded (needed: --duration, such as '10 s')"),
        (REPORT, ("--duration", "1 s"), "its 179 HLT exits are among them, in part or all (needed: --load-put; 0/s"),
        (REPORT, ("--duration", "1 s", "--kvm-run", "5/s"), "(needed: --load-put; 0/s for none)"),
        (WITH_IO, ("--duration", "1 s"), "its 179 HLT and 68 I/O port exits are among them, in part or all (needed: "),
        (WITH_IO, ("--duration", "1 s"), "(needed: --load-put and --kvm-run; 0/s for none)"),
        (WITH_IO, ("--duration", "1 s", "--load-put", "20/s"), "(needed: --kvm-run; 0/s for none)"),
        (WITH_IO.lower().replace("vm-exit    samples  samples%", "VM-EXIT Samples Samples%")[:-65],
         ("--duration", "1 s", "--cpu", "zen4"), "its 179 HLT and"),
        (ONLY_CPUID, ("--duration", "1 s"), "how many load/put pairs there were (needed: --load-put; 0/s for none)"),
        (REPORT.replace("PREEMPTION_TIMER", "io").lower().replace("vm-exit    samples  samples%",
         "VM-EXIT Samples Samples%")[:-65], ("--duration", "1 s", "--load-put", "5/s", "--kvm-run", "0/s"),
         "are SVM's, and sapphire-rapids, the default, has VMX (needed: --cpu)"),
    ],
)  # fmt: skip
def test_what_a_table_of_exits_does_not_say_is_asked_for_and_never_guessed(capsys, tmp_path, text, options, message):
    path = tmp_path / "report.txt"
    path.write_text(text, encoding="utf-8")
    status, out, err = run(capsys, "price", "--perf-kvm-stat", str(path), *options)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


def test_what_may_be_wrong_with_counted_exits_stands_above_the_answer(capsys, tmp_path):
    path = tmp_path / "report.txt"
    path.write_text(REPORT, encoding="utf-8")
    options = ("--cpu", "zen4", "--perf-kvm-stat", str(path), "--duration", "1 s", "--load-put", "200/s")
    status, out, err = run(capsys, "price", *options)
    assert (status, err) == (0, "")
    said = " ".join(out[: out.index("ANSWER")].split())
    assert "are VMX's, and the CPU has SVM" in said
    assert "are of one CPU (--cpus)" in said
    assert len(run_json(capsys, "price", *options)["notes"]) == 2
    assert len(run_json(capsys, "price", *options, "--cpus", "1")["notes"]) == 1


def test_more_pairs_than_perf_counted_exits_are_refused(capsys, tmp_path):
    path = tmp_path / "report.txt"
    path.write_text(REPORT, encoding="utf-8")
    options = ("--perf-kvm-stat", str(path), "--duration", "1 s", "--load-put", "1000/s")
    status, out, err = run(capsys, "price", *options)
    assert (status, out) == (2, "")
    assert "866/s exits in all, and 1018/s are asked for" in err


TUI = """KVM event statistics (4 entries)
+-----------+---------+---------+--------------+--------+---------------+---------------+-----------------+
|Event name | Samples | Sample% |    Time (ns) |  Time% | Max Time (ns) | Min Time (ns) | Mean Time (ns)  |
+-----------+---------+---------+--------------+--------+---------------+---------------+-----------------+
| idle-halt |  150279 |  91.00% | 159738246175 | 99.00% |      37789103 |          3435 |        1062944  |
|       msr |    7682 |   4.00% |    131930697 |  0.00% |        221743 |           441 |          17174  |
| interrupt |    3150 |   1.00% |     20785385 |  0.00% |         45438 |          2684 |           6598  |
| write_cr4 |    2516 |   1.00% |      7146034 |  0.00% |         53700 |          2524 |           2840  |
+-----------+---------+---------+--------------+--------+---------------+---------------+-----------------+
"""
"""As somebody posted it, of a Zen 5 with Idle HLT."""


@pytest.mark.parametrize("boxed", [True, False])
def test_the_tui_of_perf_kvm_stat_is_read(boxed):
    text = TUI if boxed else re.sub(r"(?m)^\+.*\n|\|", "", TUI)
    found = perf_kvm_stat.parse(f"$ perf kvm stat report\n{text}", "report")
    assert found.exits == {"idle-halt": 150279, "msr": 7682, "interrupt": 3150, "write_cr4": 2516}
    assert (found.vendor, found.halts, found.others) == ("svm", 150279, 0)
    assert found.took_s["interrupt"] == pytest.approx(20785385e-9)
    for reason, mean_ns in (("idle-halt", 1062944), ("msr", 17174), ("interrupt", 6598), ("write_cr4", 2840)):
        assert int(found.took_s[reason] / found.exits[reason] * 1e9) == pytest.approx(mean_ns, abs=1)


def test_an_idle_halt_is_a_halt_and_no_work_of_the_host(tmp_path, capsys):
    (tmp_path / "table").write_text(TUI)
    options = ("--perf-kvm-stat", str(tmp_path / "table"), "--duration", "60 s", "--vcpus", "4")
    run(capsys, "new", str(tmp_path / "host.toml"), *options)
    written = (tmp_path / "host.toml").read_text()
    assert re.search(r'^sleep = "1\.06\d* ms"$', written, re.MULTILINE)
    assert "[guests.vm.exits.other]" not in written


@pytest.mark.parametrize("text", ["a" * 200_000, "a." * 100_000, "HLT" + " " * 200_000])
def test_a_long_word_takes_time_in_proportion(text):
    """A minute and more where each of its letters begins a row."""
    longer = REPORT.replace("Total", f"{text}\n\nTotal", 1)
    assert perf_kvm_stat.parse(longer, "report").exits == perf_kvm_stat.parse(REPORT, "report").exits
