"""`price` and `flow --cost`: what is printed, and what is refused."""

import re
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
from command import run, run_json
from perf_reports import REPORT
from test_categories import SPEC_CTRL
from test_price import ZEN4, costs, priced

import sim
from sim.analysis import answers
from sim.analysis.price_load import Load
from sim.costs.price import Prices
from sim.errors import InputError
from sim.kernel import flows
from sim.kernel.config import Settings
from sim.report import units
from sim.report.shown import shown
from sim.results.settings import settings_of

TOGGLE = """
name = "toggle"
title = "written at each exit and entry"
mechanism = "msr"
save_at = ["vm_exit"]
load_at = ["vm_entry"]
zero = 1
source = "a test"
"""
COSTS = """
title = "mine"
date = "2026-11"
derived_from = "sapphire-rapids"

[[rows]]
operation = "VMREAD"
term = "base"
value = 17
low = 15
high = 20
clock = "tsc"
grade = "assumed"
source = "nobody"
conditions = "range chosen because of a test"
"""

RATES = ("--exits", "20000/s", "--load-put", "2000/s", "--kvm-run", "500/s", "--switches", "3000/s")

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
        (("--exits", "20000"), "--exits '20000' is not a rate; allowed: a rate like '20000/s'"),
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
        (("--exits", "1/s", "--guest-xcr0", "0x602e7"), "guest XCR0 0x602e7 has AMX (bits 17 and 18): allowed with"),
        (("--exits", "1/s", "--guest-spec-ctrl", "mine"), "guest_spec_ctrl = 'mine' (allowed: host, other, unwritten)"),
        (("--exits", "1/s", "--no-mitigations", "--mitigations", "ibpb"), "--no-mitigations with --mitigations"),
        (("--exits", "1/s", "--mitigations", "ibpb,foo"), "fpswitch: unknown mitigation 'foo' (allowed: bhb, ibpb, "),
        (("--exits", "1/s", "--vpmu", "mediated"), "the mediated vPMU came with v7.0, and this is v6.18"),
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


def test_what_guests_have_and_how_the_kernel_is_booted_is_priced_as_the_flow_of_the_same_options_has_it(capsys):
    """An exit's operations by the kernel's rules: an XCR0 without PKU swaps it, the guest's own XFD is read."""
    options = ("--cpu", "sapphire-rapids", "--guest-xcr0", "0x600e7", "--guest-amx", "--no-mitigations")
    price = run_json(capsys, "price", "--exits", "1/s", "--strategies", "manual-exit", *options)
    flow = run_json(capsys, "flow", "in-kernel-exit", "--strategy", "manual-exit", "--cost", *options)
    assert price["strategies"]["manual-exit"]["cycles"]["value"] == pytest.approx(
        flow["totals"]["cycles"], abs=0.6 * 20
    )
    assert flow["operations"]["XSETBV"] == 2
    assert flow["operations"]["RDMSR(XFD)"] == 1
    plain = run_json(capsys, "price", "--exits", "1/s", "--strategies", "manual-exit")
    assert plain["strategies"]["manual-exit"]["cycles"] != price["strategies"]["manual-exit"]["cycles"]
    chosen = {"guest_xcr0": 0x600E7, "guest_amx": True, "mitigations": False}
    in_python = sim.price("sapphire-rapids", strategies=["manual-exit"], exits=1, **chosen).document()
    assert in_python["strategies"] == price["strategies"]
    assumed = " ".join(price["assumed"])
    for said in ("guest XCR0 is 0x600e7", "guests have AMX", "mitigations are off"):
        assert said in assumed
        assert said not in " ".join(plain["assumed"])


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


# The command of a first screen, for one's own rates.


def test_the_command_of_a_screen_takes_the_users_own_files_from_the_result_directory(
    ran, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for name, text in (("spec-ctrl", SPEC_CTRL), ("toggle", TOGGLE), ("mine", COSTS)):
        (tmp_path / "a" / f"{name}.toml").write_text(text)
    changes = {"kernel.carried": "./a/spec-ctrl.toml", "host.costs": {"sapphire-rapids": "./a/mine.toml"}}
    ran(out="out", **changes, **{"run.strategies": ["free-ssp", "./a/toggle.toml"], "run.contrasts": []})
    _, screen, _ = run(capsys, "compare", "out")
    said = re.search(r"fpswitch (price .*? --switches \S+)", " ".join(screen.split()))[1]
    (tmp_path / "a").rename(tmp_path / "gone")
    status, out, err = run(capsys, *shlex.split(said))
    assert (status, err) == (0, ""), said
    assert re.match(r"spec-ctrl on Intel .*, Linux v6.18, costs\smine\n", out)
    assert "toggle" in out


def test_a_long_result_directory_is_dir_in_the_command(ran, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec-ctrl.toml").write_text(SPEC_CTRL)
    out = "a-directory-with-a-rather-long-name"
    ran(
        out=out,
        **{"kernel.carried": "./spec-ctrl.toml", "run.strategies": ["free-ssp", "manual-load"], "run.contrasts": []},
    )
    _, screen, _ = run(capsys, "compare", out)
    assert "--carried DIR/inputs/spec-ctrl.toml" in " ".join(screen.split())
    assert f"(DIR: {out})" in " ".join(screen.split())


def test_where_the_screen_has_no_room_for_the_command_it_says_that_full_has_it(ran, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(units, "MOST_LINES", 5)
    for name, text in (("spec-ctrl", SPEC_CTRL), ("toggle", TOGGLE)):
        (tmp_path / f"{name}.toml").write_text(text)
    own = {"run.strategies": ["free-ssp", "./toggle.toml"], "run.contrasts": [], "kernel.carried": "./spec-ctrl.toml"}
    ran(out="out", **own)
    _, screen, _ = run(capsys, "compare", "out")
    assert "fpswitch price" not in screen
    assert "With your own rates: --full." in " ".join(screen.split())
    _, tables, _ = run(capsys, "compare", "out", "--full")
    assert max(map(len, tables.splitlines())) <= 72
    said = re.search(r"fpswitch (price .*? --switches \S+)", " ".join(tables.split()))[1]
    status, out, err = run(capsys, *shlex.split(said))
    assert (status, err) == (0, ""), said
    assert "toggle" in out


# The command that the first screen of a run suggests.


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"guest_amx": True, "guest_xcr0": 0x600E7}, "--guest-xcr0 0x600e7 --guest-amx"),
        ({"guest_xss": 0x800, "guest_spec_ctrl": "other"}, "--guest-xss 0x800 --guest-spec-ctrl other"),
        ({"mitigations": ["ibpb", "verw"]}, "--mitigations ibpb,verw"),
        ({"vmscape_by": "bhb-clear", "ibpb_at": "vcpu_enter_guest"},
         "--vmscape-by bhb-clear --ibpb-at vcpu_enter_guest"),
        ({"apx": False, "pasid": False}, "--no-apx --no-pasid"),
        ({"vpmu": "emulated", "vpmu_in_use": 2, "vpmu_counts_instructions": True},
         "--vpmu-counts-instructions --vpmu emulated --vpmu-in-use 2"),
        ({"mitigations": False, "msr_access": "wrmsrns", "hypothetical": True},
         "--msr-access wrmsrns --hypothetical --no-mitigations"),
    ],
)  # fmt: skip
def test_the_command_for_ones_own_rates_boots_the_kernel_of_the_case(ran, capsys, monkeypatch, changes, options):
    """Every setting of the case that is not the default is an option, and the command's settings are the case's."""
    priced = []
    monkeypatch.setattr("sim.analysis.price.price", lambda load, settings, *more: priced.append(settings))
    monkeypatch.setattr("sim.report.price.document", lambda *_: {})
    monkeypatch.setattr("sim.report.price.text", lambda *_: "")
    comparison = sim.compare(ran(**{f"kernel.{key}": value for key, value in changes.items()}))
    screen = shown(comparison, comparison.answers)
    case = screen.cases[0]
    command = units.command(screen, case, answers.Load(5000.0, 2000.0, 400.0, 0.0, 800.0, 1.0))
    assert f" {options} " in command
    assert run(capsys, *command.split()[1:], "--strategies", "manual-load")[0] == 0
    [settings] = priced
    by_the_cpu = ("guest_uret_msrs", "init_optimisation", "modified_optimisation", "vm_transition_clears_xrstor_info",
                  "legacy_sse_write_marks_avx_in_use")  # fmt: skip
    found, asked = settings["manual-load"], settings_of(case.document, "manual-load")
    assert found == replace(asked, **dict.fromkeys(by_the_cpu))
