"""fpswitch price: which input is refused, what is printed, and what is read from perf; fpswitch flow --cost."""

import gzip
import html
import lzma
import quopri
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import run, run_json
from test_price import ZEN4, costs, priced

from sim.analysis.price_load import Load
from sim.costs.price import Prices
from sim.errors import InputError
from sim.kernel import flows
from sim.kernel.config import Settings
from sim.trace.reading import perf_kvm_stat

RATES = ("--exits", "20000/s", "--load-put", "2000/s", "--kvm-run", "500/s", "--switches", "3000/s")
REPORT = (Path(__file__).parent / "data" / "perf" / "kvm-stat-report.txt").read_text(encoding="utf-8")

# What cannot be.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"load_put": 2000, "kvm_run": 2001}, "each KVM_RUN is one of the load/put pairs"),
        ({"load_put": 2000, "kvm_run": 500, "switches": 1499}, "allowed: 1500/s switches or more"),
        ({"load_put": 2000, "switches": 3999, "between": {"user": 1.0}}, "with these shares between take 4000/s"),
        ({"exits": -1}, "exits -1/s"),
        ({"switches": float("nan")}, "switches nan/s"),
        ({"load_put": float("inf")}, "load-put inf/s"),
        ({"fastpath": {"wrmsr-icr": -3}}, "exits wrmsr-icr -3/s"),
        ({"fastpath": {"cpuid": 3}}, "unknown fastpath exit 'cpuid'"),
        ({"between": {"nobody": 1.0}}, "unknown thread between 'nobody'"),
        ({"between": {"user": 0.5, "idle": 0.4}}, "sum to 0.9"),
        ({"between": {"user": 1.5, "idle": -0.5}}, "from 0 to 1"),
    ],
)
def test_rates_that_cannot_be_together_are_one_message(given, message):
    with pytest.raises(InputError, match=message):
        Load(**given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no rate is given (allowed: one or more of --exits, --load-put, --kvm-run, --switches)"),
        (("--exits", "20000"), "--exits '20000' is not a rate (allowed: a rate like '20000/s'"),
        (("--exits", "-5/s"), "--exits '-5/s' is not a rate"),
        (("--exits", "1e400/s"), "--exits '1e400/s' is not a rate"),
        (("--kvm-run", "often"), "--kvm-run 'often' is not a rate"),
        (("--load-put", "1/s", "--kvm-run", "2/s"), "each KVM_RUN is one of the load/put pairs"),
        (("--load-put", "2/s", "--switches", "1/s"), "allowed: 2/s switches or more"),
        (("--exits", "cpuid=5/s"), "unknown fastpath exit 'cpuid'"),
        (("--exits", "1/s", "--exits", "2/s"), "a second rate for exits"),
        (("--exits", "1/s", "--cpu", "zen6"), "unknown CPU 'zen6'"),
        (("--exits", "1/s", "--kernel", "v6.1"), "unknown kernel version 'v6.1'"),
        (("--exits", "1/s", "--strategies", "manul-load"), "did you mean 'manual-load'"),
        (("--exits", "1/s", "--cpu", "skylake-sp", "--strategies", "xstate-guest"), "no supervisor shadow stacks"),
        (("--exits", "1/s", "--cpu", "zen4", "--strategies", "msr-autoload"), "SVM has no MSR load and store lists"),
        (("--exits", "1/s", "--guest-xss", "0x4000"), "guest IA32_XSS 0x4000: allowed are bits of 0x1800"),
        (("--exits", "1/s", "--guest-ssp", "often"), "unknown --guest-ssp 'often'"),
        (("--exits", "1/s", "--buffer", "L3"), "unknown --buffer 'L3'"),
        (("--exits", "1/s", "--registers", "SSE,MMX"), "--registers 'MMX' on sapphire-rapids (allowed: FP, SSE,"),
        (("--exits", "1/s", "--cpu", "zen3", "--registers", "AVX-512"), "--registers 'AVX-512' on zen3"),
        (("--exits", "1/s", "--between", "user=much"), "--between 'user=much'"),
        (("--exits", "1/s", "--tsc", "2.6"), "--tsc '2.6' is not a rate"),
        (("--exits", "1/s", "--costs", "zen44"), "unknown cost table 'zen44'"),
        (("--exits", "1/s", "--duration", "3 s"), "go with --perf-kvm-stat"),
        (("--perf-kvm-stat", "nothere.txt"), "cannot read nothere.txt: No such file or directory"),
        (("--exits", "1e12/s"), "% of a CPU with free-ssp, every cost at its low end"),
        (("--cpu", "zen4", "--load-put", "5000000/s"), "allowed: rates of one CPU"),
    ],
)
def test_wrong_input_is_one_message_and_status_2(capsys, options, message):
    status, out, err = run(capsys, "price", *options)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


def test_rates_of_a_file_that_no_cpu_can_have_are_refused_with_its_name(capsys, tmp_path):
    path = tmp_path / "report"
    path.write_text(REPORT)
    counted = ("--cpu", "sapphire-rapids", "--load-put", "10/s", "--perf-kvm-stat", str(path), "--duration")
    assert run(capsys, "price", *counted, "9 s")[0] == 0
    status, out, err = run(capsys, "price", *counted, "1 us")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"fpswitch: {path}: at these rates the operations alone take")


# What is printed.


@pytest.mark.parametrize("cpu", ["zen4", "sapphire-rapids", "skylake-sp", "granite-rapids"])
@pytest.mark.parametrize("rates", [RATES, ("--exits", "5kHz"), ("--switches", "5kHz"), ("--kvm-run", "1/s")])
def test_the_text_fits_a_screen_and_begins_with_the_answer(capsys, cpu, rates):
    status, out, err = run(capsys, "price", "--cpu", cpu, *rates)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 72
    assert len(lines) <= 41
    rule = lines.index("=" * 72)
    assert lines[rule + 1].startswith("ANSWER" if cpu != "skylake-sp" else " ")
    assert lines.index(next(line for line in lines if line.startswith("ASSUMED"))) > rule + 3


def test_the_text_and_the_document_say_the_same(capsys):
    _, out, _ = run(capsys, "price", "--cpu", "zen4", *RATES)
    document = run_json(capsys, "price", "--cpu", "zen4", *RATES)
    assert "free-ssp = no-cet" in out
    assert "20000 exits handled in the kernel, 2000 load/put" in out
    assert document["load"] == {
        "exits": 20000, "fastpath": {}, "load_put": 2000, "kvm_run": 500, "switches": 3000, "task_switches": 0,
        "vm_entries": 22000, "between": {"user": 1.0},
    }  # fmt: skip
    manual = document["strategies"]["manual-load"]
    said = " ".join(out.split())
    spread = manual["own_without_xss"]
    ends = f"{spread['low'] / 1e6:.2f}M to {spread['high'] / 1e6:.2f}M"
    assert f"manual-load +{spread['value'] / 1e6:.2f}M ({ends}; 0.077 %)" in said
    (contrast,) = document["contrasts"]
    assert (contrast["a"], contrast["b"]) == ("manual-load", "xstate-guest")
    ends = [f"{contrast['own_without_xss'][end] / 1e6:.2f}M" for end in ("value", "low", "high")]
    assert f"manual-load costs {ends[0]} cycles/s ({ends[1]} to {ends[2]}; 0.073 % of a CPU) more than xstate" in said
    xss = document["strategies"]["xstate-guest"]["xss_range"]
    assert document["strategies"]["xstate-guest"]["xss"] == xss["value"] == pytest.approx(-8.8e6)
    assert f"switched at VM exits, is apart: -8.80M ({xss['low'] / 1e6:.1f}M to {xss['high'] / 1e6:.2f}M;" in said
    assert manual["percent_of_cpu"]["value"] == pytest.approx(100 * manual["cycles"]["value"] / document["tsc_hz"])
    assert manual["per_event"]["exit"]["operations"] == {}
    assert sum(manual["per_event"]["kvm_run"]["operations"].values()) == 7
    assert sum(manual["rows"].values()) == pytest.approx(manual["difference"]["value"])
    assert document["strategies"]["manual-run"]["unsound"]
    assert document["left_out"].keys() == {"msr-autoload"}
    assert document["reference"] == "free-ssp"
    for each in document["strategies"].values():
        spread = each["difference"]
        assert spread["low"] <= spread["value"] <= spread["high"]


def test_what_was_assumed_is_said_with_the_option_that_says_otherwise(capsys):
    out = " ".join(run(capsys, "price", "--load-put", "10/s")[1].split())
    for option in ("--between", "--guest-ssp", "--guest-xss", "--registers", "--buffer", "--kvm-run", "--switches"):
        assert f"({option})" in out
    assert "invd has no fastpath here" not in out
    out = " ".join(run(capsys, "price", *RATES, "--exits", "invd=3/s", "--kernel", "v6.6")[1].split())
    assert "invd has no fastpath here" in out
    assert "guests have no CET" in out
    assert "--guest-ssp" not in out


def test_an_own_strategy_of_a_shipped_name_is_shown_with_its_file(capsys, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "manual-load"\ntitle = "mine"\nmechanism = "none"\nsource = "me"\n', encoding="utf-8")
    document = run_json(capsys, "price", *RATES, "--strategies", f"manual-load,{path}")
    assert document["strategies"].keys() == {"free-ssp", "manual-load", str(path)}
    assert document["strategies"][str(path)]["difference"]["value"] == 0


def test_it_needs_no_simulator_no_pandas_and_no_scipy():
    script = (
        "import sys\nfrom sim.cli import main\n"
        f"try:\n    main(['price', *{RATES!r}])\n"
        "except SystemExit:\n    pass\n"
        "heavy = ('simpy', 'pandas', 'scipy', 'pyarrow', 'matplotlib')\n"
        "print(*(module for module in heavy if module in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cet-s on ")
    assert done.stderr.split() == []


def test_the_contrast_of_two_strategies_is_drawn_and_not_the_difference_of_their_ends():
    found = priced()
    (contrast,) = found.contrasts
    a, b = (found[name].difference for name in (contrast.a, contrast.b))
    assert contrast.own.value == pytest.approx(a.own.value - b.own.value)
    assert contrast.all.value == pytest.approx(a.all.value - b.all.value)
    assert a.own.low - b.own.high < contrast.own.low < contrast.own.value < contrast.own.high < a.own.high - b.own.low


def test_one_answers_of_the_strategies_that_one_asks_about():
    assert priced().asked == ("manual-load", "xstate-guest")
    assert priced(Load(exits=20_000)).asked == ("manual-load", "xstate-guest")
    few = priced(strategies=("independent", "user-return", "manual-run"))
    assert few.asked == ("independent", "user-return")
    assert [(each.a, each.b) for each in few.contrasts] == [("user-return", "independent")]
    assert len(priced(strategies=("independent", "user-return", "manual-exit", "manual-load")).contrasts) == 6
    ideas = priced(strategies=("independent", "user-return", "manual-exit", "manual-load-nozero", "xstate-all"))
    assert ideas.asked == ("xstate-all", "manual-exit")


@pytest.mark.parametrize("cpu", ["zen4", "sapphire-rapids"])
def test_without_load_put_pairs_the_answer_says_that_they_are_what_costs(capsys, cpu):
    out = " ".join(run(capsys, "price", "--cpu", cpu, "--exits", "20000/s")[1].split())
    assert "manual-load and xstate-guest cost nothing more; all their cost is at load/put pairs" in out
    assert ("IA32_XSS, switched at VM exits, is apart: -8.00M" in out) == (cpu == "zen4")


def test_rates_have_no_exponents_and_shares_no_more_than_five_characters(capsys):
    rates = ("--exits", "1500000/s", "--load-put", "0.25/s")
    out = run(capsys, "price", *rates)[1]
    assert "1500000 exits handled in the kernel, 0.25" in " ".join(out.split())
    assert not re.search(r"\de[+-]\d", out + run(capsys, "price", "--exits", "1e9/s")[2])
    strategies = run_json(capsys, "price", *rates)["strategies"]
    shares = {name: each["percent_of_cpu"]["value"] for name, each in strategies.items()}
    assert max(shares.values()) > 100 > min(shares.values())
    over = ", ".join(name for name, share in shares.items() if share > 100)
    assert f"a CPU does not have enough cycles for these rates with {over}, each cost" in " ".join(out.split())
    assert re.search(rf"manual-exit +\S+G {shares['manual-exit']:.1f} ", out)


def test_what_rates_leave_open_is_said_with_how_much_it_changes(capsys):
    out = " ".join(run(capsys, "price", "--cpu", "zen4", *RATES)[1].split())
    document = run_json(capsys, "price", "--cpu", "zen4", *RATES)
    by_option = {each["option"]: each["per_pair"] for each in document["unsaid"] if each["strategy"] == "xstate-guest"}
    for option, per_pair in by_option.items():
        least, *_, most = sorted(per_pair, key=per_pair.get)
        range_ = f"{per_pair[least]:.0f} to {per_pair[most]:.0f}"
        assert f"{range_} (--{option.replace('_', '-')} {least} to {most})" in out
        for value, cycles in per_pair.items():
            options = (f"--{option.replace('_', '-')}", value, *(("--switches", "4000/s") if value == "user" else ()))
            given = run_json(capsys, "price", "--cpu", "zen4", *RATES, *options)["strategies"]["xstate-guest"]
            assert given["per_load_put"]["cycles"] == pytest.approx(cycles)
    assert "manual-load" not in {each["strategy"] for each in document["unsaid"]}


# perf kvm stat.


def test_the_report_of_perf_kvm_stat_is_read():
    found = perf_kvm_stat.parse(REPORT, "report")
    assert found.exits["MSR_WRITE"] == 520
    assert (found.total, found.others, found.lost, found.vendor) == (866, 0, 0, "vmx")
    assert found.handled_s == pytest.approx(1.81536745)
    assert found.recorded_s is None


def old(text):
    """As perf of Linux v3.9 printed it: no Min Time, no Max Time."""
    return "\n".join(line[:53] + line[77:] if "us (" in line else line for line in text.splitlines())


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
    ],
)
def test_what_versions_of_perf_and_mailers_make_of_it_is_read_too(text, total, others):
    found = perf_kvm_stat.parse(text, "report")
    assert (found.total, found.others) == (total, others)


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
    assert perf_kvm_stat.parse(text.replace("Total Samples:866", "Total Samples:699"), "svm").vendor == "svm"


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
        (REPORT.replace("MSR_READ", "DABT_LOW"), "DABT_LOW is an exit reason of arm64"),
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


# fpswitch flow --cost.


def test_a_flow_s_lines_add_up_to_its_totals_and_to_the_price(capsys):
    plain = run_json(capsys, "flow", "preempt", "--cpu", "zen4")
    document = run_json(capsys, "flow", "preempt", "--cpu", "zen4", "--cost")
    events = [event for step in document["steps"] for event in step["events"] if "operation" in event]
    totals = document["totals"]
    for key in ("cycles", "low", "high"):
        assert sum(event[key] for event in events) == totals[key]
        assert sum(phase[key] for phase in totals["by_phase"].values()) == totals[key]
    assert all(event["low"] <= event["cycles"] <= event["high"] for event in events)
    assert sum(totals["by_grade"].values()) == pytest.approx(totals["cycles"], abs=len(events) / 2)
    prices = Prices(ZEN4)
    assert totals["cycles"] == sum(prices[op] for op in flows.run("preempt", Settings(cpu="zen4")).operations)
    for event in events:
        grades = {ZEN4.rows[row].grade for row in event["rows"]}
        assert event["grade"] in grades
        assert event["grade"] == "assumed" or "assumed" not in grades
    for step in document["steps"]:
        for event in step["events"]:
            for key in ("cycles", "low", "high", "grade", "rows"):
                event.pop(key, None)
    assert {key: value for key, value in document.items() if key != "totals"} == plain


def test_a_flow_is_priced_with_the_table_that_is_named(capsys):
    zen5 = run_json(capsys, "flow", "halt", "--cpu", "zen4", "--costs", "zen5")["totals"]
    assert zen5["cost_table"] == "zen5"
    prices = Prices(costs("zen5"))
    assert zen5["cycles"] == sum(prices[op] for op in flows.run("halt", Settings(cpu="zen4")).operations)


def test_the_text_of_a_priced_flow_has_cycles_range_grade_and_rows(capsys):
    _, out, _ = run(capsys, "flow", "preempt", "--cpu", "zen4", "--strategy", "manual-load", "--cost")
    assert "200 [100 to 300] assumed\n        rests on WRMSR(PLx_SSP)/base" in out
    assert max(map(len, out.splitlines())) <= 100


def test_every_flow_of_every_strategy_can_be_priced(capsys):
    for flow in flows.FLOWS:
        document = run_json(capsys, "flow", flow, "--cost", "--no-mitigations")
        assert document["totals"]["low"] <= document["totals"]["cycles"] <= document["totals"]["high"], flow


@pytest.mark.parametrize(("cpu", "steps"), [("sapphire-rapids", 1), ("zen4", 2)])
def test_flow_shows_any_fastpath_exit(capsys, cpu, steps):
    document = run_json(capsys, "flow", "fastpath-exit", "--reason", "preemption-timer", "--cpu", cpu)
    assert document["operations"]["VM entry"] == 1
    assert len(document["steps"]) == steps  # SVM has no preemption timer: the fastpath does not know the reason


def test_flow_names_the_exits_that_there_are(capsys):
    status, _, err = run(capsys, "flow", "fastpath-exit", "--reason", "cpuid")
    assert status == 2
    assert "unknown fastpath exit 'cpuid'" in err
    assert "hlt-event-pending" in err
