"""Scenario files: what is read is what is written, and every case is complete."""

import json
import math
import pickle
import tomllib
from decimal import Decimal
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from command import run, run_json
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

import sim
from sim.costs.table import current
from sim.errors import InputError
from sim.kernel.config import boot
from sim.kernel.strategies import ORDER
from sim.scenario import document
from sim.scenario.cases import base_slice, cases, contrasts
from sim.scenario.contrasts import Contrast, Operand
from sim.scenario.distribution import Distribution, Intervals, Times
from sim.scenario.reading import read, vary
from sim.scenario.units import (
    FLOWS,
    PERCENT,
    RATES,
    SIZES,
    TIMES,
    flow_text,
    parsed,
    percent_text,
    rate_text,
    size_text,
    time_text,
)
from sim.scenario.writing import toml_text

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(ROOT.glob("scenarios/*.toml"))
PROMISED = {
    "rfc-question", "context-switch1", "exit-storm", "overcommit", "idle-fleet", "ipi-storm", "amx-guest",
    "kernel-eras", "xss-mismatch", "host-sss", "preemption-models", "apx-guests", "mediated-vpmu",
    "mitigation-placement", "halt-polling", "overcommit-ratio", "fleet",
}  # fmt: skip

SMALL = """
title = "small"
[run]
measure = "10 ms"
[host]
cpus = 4
cpu = ["sapphire-rapids"]
tsc = "2 GHz"
[guests.web]
[guests.web.exits.io]
every = "20 kHz"
"""


def written(folder, text, name="scenario.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def names(path, **overrides):
    return [case.name for case in cases(read(path, overrides))]


# Shipped files


def test_the_promised_scenarios_are_there():
    assert {path.stem for path in SHIPPED} == PROMISED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_strategy_of_each_case_boots(path):
    for case in cases(read(path)):
        assert case.reference in case.strategies
        assert list(case.strategies) == sorted(case.strategies, key=ORDER.index)
        for strategy in case.strategies:
            boot(case.settings(strategy))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_scenario_names_its_schema_says_what_it_asks_and_where_its_rates_come_from(path):
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    assert (path.parent / first.removeprefix("#:schema ")).resolve() == document.SCHEMA_FILE
    header = " ".join(rest[: next(i for i, line in enumerate(rest) if line.startswith("title"))])
    assert "How to read it" in header
    assert "assumed" in header
    assert all(len(line) <= 120 for line in rest)


def test_the_flagship_has_both_cpus_with_all_strategies_that_each_has():
    spr, zen4 = cases(read(ROOT / "scenarios/rfc-question.toml"))
    assert (spr.name, zen4.name) == ("sapphire-rapids v6.18", "zen4 v6.18")
    of_apx = {"guest-fpstate", "regs-entry-exit", "regs-outer-loop", "hardware-xcr0"}
    assert spr.strategies == tuple(name for name in ORDER if name not in of_apx)
    assert set(spr.strategies) - set(zen4.strategies) == {"msr-autoload"}


# Round trips


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_show_prints_is_the_same_scenario(path, capsys, tmp_path):
    status, shown, err = run(capsys, "show", str(path))
    assert (status, err) == (0, "")
    assert read(written(tmp_path, shown)) == read(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_scenario_of_a_case_is_a_complete_scenario_with_that_one_case(path, tmp_path):
    for case in cases(read(path)):
        again = read(written(tmp_path, toml_text(case.scenario)))
        (only,) = cases(again)
        assert again == only.scenario == case.scenario
        assert (only.strategies, only.reference, only.tsc_hz) == (case.strategies, case.reference, case.tsc_hz)


def test_show_prints_one_case_and_one_json_document(capsys):
    path = str(ROOT / "scenarios/xss-mismatch.toml")
    name = "zen4 v6.19 kernel.guest_xss=0x800"
    both = run_json(capsys, "show", path)
    assert [each["case"] for each in both["cases"]] == names(path)
    one = run_json(capsys, "show", path, "--case", name)
    assert [each["case"] for each in one["cases"]] == [name]
    assert one["scenario"] == one["cases"][0]["scenario"]
    assert one["scenario"]["kernel"]["guest_xss"] == 0x800
    assert one["scenario"]["host"]["l1"] == "32 KiB"


def test_a_case_goes_to_another_process():
    case = cases(read(ROOT / "scenarios/overcommit.toml"))[0]
    assert pickle.loads(pickle.dumps(case)) == case


# Quantities


@pytest.mark.parametrize(
    ("text", "units", "most"),
    [
        (time_text, TIMES, 3600.0),
        (rate_text, RATES, 1e12),
        (size_text, SIZES, 2.0**40),
        (flow_text, FLOWS, 1e12),
        (percent_text, PERCENT, 1.0),
    ],
)
@given(data=st.data())
def test_a_quantity_that_is_written_is_read_as_the_same_double(text, units, most, data):
    value = data.draw(st.floats(0, most))
    assert parsed(text(value), "", units, "", most) == value


@given(st.integers(0, 10**6), st.sampled_from(sorted(TIMES)))
def test_a_time_is_the_double_nearest_to_what_the_file_says(thousandths, unit):
    number = Decimal(thousandths) / 1000
    worth = {"ns": "1e-9", "us": "1e-6", "ms": "1e-3", "s": "1", "min": "60"}[unit]
    assert parsed(f"{number} {unit}", "", TIMES, "", math.inf) == float(number * Decimal(worth))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 ns"), (2e-3, "2 ms"), (33.3e-6, "33.3 us"), (1.5, "1.5 s"), (750e-9, "750 ns"), (90.0, "90 s")],
)
def test_a_time_is_written_as_a_person_would(value, text):
    assert time_text(value) == text


# Distributions


def times(value, kind=Times):
    return TypeAdapter(kind).validate_python(value)


def test_a_rate_is_exponential_with_its_inverse_as_mean():
    assert times("20 kHz", Intervals) == Distribution(kind="exponential", mean=50e-6)
    assert times("20 kHz", Intervals) == times({"exponential": "50 us"})


def test_a_time_is_constant():
    assert times("2 ms") == times({"constant": "2 ms"}) == Distribution(kind="constant", mean=2e-3)


def test_the_mean_of_a_lognormal_is_its_arithmetic_mean():
    found = times({"lognormal": "2 ms", "sigma": 0.8})
    sample = np.random.default_rng(7).lognormal(found.mu, found.sigma, 200_000)
    error = sample.std() / math.sqrt(len(sample))
    assert abs(sample.mean() - 2e-3) < 5 * error
    assert np.median(sample) == pytest.approx(2e-3 * math.exp(-0.32), rel=0.02)


def test_an_empirical_one_has_the_samples_of_a_csv_column(tmp_path):
    path = tmp_path / "sleeps.csv"
    path.write_text("cpu,sleep\n0,1.5\n1,2.5\n0,0\n", encoding="utf-8")
    found = times({"empirical": str(path), "column": "sleep", "unit": "us"})
    assert found.values == pytest.approx((1.5e-6, 2.5e-6, 0))
    assert found.mean == pytest.approx(4e-6 / 3)


def test_an_empirical_one_that_is_written_is_bound_to_the_contents_of_its_file(tmp_path):
    (tmp_path / "d.csv").write_text("t\n1\n", encoding="utf-8")
    text = SMALL + '[threads.d]\ncompute = { empirical = "d.csv", column = "t", unit = "ms" }\n'
    scenario = read(written(tmp_path, text))
    copy = written(tmp_path, toml_text(scenario), "copy.toml")
    assert read(copy) == scenario
    (tmp_path / "d.csv").write_text("t\n2\n", encoding="utf-8")
    with pytest.raises(InputError, match="the file with that sha256"):
        read(copy)


# extends


def test_extends_merges_tables_and_replaces_values_lists_and_distributions(tmp_path):
    written(tmp_path, SMALL + "[guests.db]\nvms = 3\n", "base.toml")
    over = """
    extends = "base.toml"
    title = "variant"
    [host]
    cpu = ["zen4"]
    [guests.web.exits.io]
    every = { lognormal = "1 ms", sigma = 0.5 }
    time = "1 us"
    """
    scenario = read(written(tmp_path, over))
    assert scenario.title == "variant"
    assert scenario.host.cpu == ("zen4",)
    assert scenario.host.cpus == 4
    assert scenario.guests["db"].vms == 3
    exit_ = scenario.guests["web"].exits["io"]
    assert (exit_.every.kind, exit_.every.sigma, exit_.time.mean) == ("lognormal", 0.5, 1e-6)
    last = 'extends = "scenario.toml"\n[guests.web.exits.io]\nevery = { exponential = "3 ms" }\n'
    every = read(written(tmp_path, last, "last.toml")).guests["web"].exits["io"].every
    assert every == Distribution(kind="exponential", mean=3e-3)


def test_a_file_is_relative_to_the_scenario_file_that_names_it(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "d.csv").write_text("t\n1\n", encoding="utf-8")
    thread = '[threads.d]\ncompute = { empirical = "d.csv", column = "t", unit = "ms" }\n'
    written(tmp_path / "base", SMALL + thread, "base.toml")
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\ntitle = "t"\nsource = "s"\nmechanism = "fpstate"\nguest_fpstates = true\n', encoding="utf-8"
    )
    over = 'extends = "base/base.toml"\n[run]\nstrategies = ["mine.toml", "no-cet"]\nreference = "no-cet"\n'
    scenario = read(written(tmp_path, over))
    assert scenario.threads["d"].compute.mean == 1e-3
    assert scenario.run.strategies == (str(tmp_path / "mine.toml"), "no-cet")
    assert cases(scenario)[0].strategies == ("no-cet", "mine")


# Cases


def test_cases_are_cpus_times_kernels_times_the_points_of_the_sweep(tmp_path):
    text = SMALL.replace('["sapphire-rapids"]', '["sapphire-rapids", "zen4"]\nkernel = ["v6.18", "v6.19"]')
    text += '[sweep]\n"guests.web.exits.io.every" = ["1 kHz", "2 kHz"]\n"host.cpus" = [1, 2, 3]\n'
    found = cases(read(written(tmp_path, text)))
    assert len(found) == len({case.name for case in found}) == 2 * 2 * 2 * 3
    assert found[0].name == "sapphire-rapids v6.18 guests.web.exits.io.every=1 kHz host.cpus=1"
    for case in found:
        assert case.scenario.host.cpus == case.sweep["host.cpus"]
        rate = case.sweep["guests.web.exits.io.every"]
        assert case.scenario.guests["web"].exits["io"].every == times(rate, Intervals)
        assert case.scenario.host.base_slice == base_slice(case.scenario.host.cpus)


def test_a_sweep_reaches_keys_that_the_file_leaves_to_their_defaults(tmp_path):
    text = SMALL + '[sweep]\n"kernel.guest_xss" = [0x800, 0x1800]\n"host.base_slice" = ["1 ms"]\n'
    found = cases(read(written(tmp_path, text)))
    assert [case.scenario.kernel.guest_xss for case in found] == [0x800, 0x1800]
    assert [case.name.split()[2] for case in found] == ["kernel.guest_xss=0x800", "kernel.guest_xss=0x1800"]


TILES = """
title = "tiles"
run = { measure = "5 ms", replications = 1 }
[host]
cpus = 1
cpu = ["sapphire-rapids"]
[guests.g]
fpu = { components = ["XTILEDATA"], every = "100 us" }
[sweep]
"""


def test_what_a_value_needs_may_be_set_by_the_sweep_alone(tmp_path):
    (case,) = cases(read(written(tmp_path, TILES + '"kernel.guest_amx" = [true]\n')))
    assert case.scenario.kernel.guest_amx
    with pytest.raises(InputError, match=r"components: found XTILEDATA.*\(with kernel.guest_amx=false\)"):
        read(written(tmp_path, TILES + '"kernel.guest_amx" = [true, false]\n'))


def test_a_required_key_may_be_set_by_the_sweep_alone(tmp_path):
    text = SMALL.replace("cpus = 4\n", "").replace('every = "20 kHz"\n', "")
    text += '[sweep]\n"host.cpus" = [2, 8]\n"guests.web.exits.io.every" = ["1 kHz", "1 ms"]\n'
    path = written(tmp_path, text)
    assert [case.scenario.host.cpus for case in cases(read(path))] == [2, 2, 8, 8]
    assert read(written(tmp_path, toml_text(read(path)), "again.toml")) == read(path)
    assert schema_errors(text) == []
    with pytest.raises(InputError, match=r"host\.cpus: the key is missing"):
        read(written(tmp_path, text.replace("host.cpus", "host.hz").replace("[2, 8]", "[250, 1000]")))


def test_what_is_wrong_at_each_point_of_a_sweep_is_not_put_down_to_one(tmp_path):
    text = SMALL + 'vmm = "1 ms"\n[sweep]\n"host.cpus" = [2, 8]\n'
    with pytest.raises(InputError, match=r"'userspace'; here it is 'kernel'$"):
        read(written(tmp_path, text))


@pytest.mark.parametrize(("cpus", "ms"), [(1, 0.7), (2, 1.4), (3, 1.4), (4, 2.1), (7, 2.1), (8, 2.8), (256, 2.8)])
def test_the_base_slice_grows_with_the_logarithm_of_the_cpus(cpus, ms):
    assert base_slice(cpus) == pytest.approx(ms / 1000)


def test_a_case_without_supervisor_shadow_stacks_has_no_cet_alone_as_its_own_reference(tmp_path):
    text = SMALL.replace('["sapphire-rapids"]', '["skylake-sp", "zen4"]\nkernel = ["v6.6", "v6.18"]')
    found = {case.name: case for case in cases(read(written(tmp_path, text)))}
    for name in ("skylake-sp v6.6", "skylake-sp v6.18", "zen4 v6.6"):
        assert (found[name].strategies, found[name].reference) == (("no-cet",), "no-cet")
    assert found["zen4 v6.18"].reference == "free-ssp"


def test_a_hypothetical_strategy_is_there_if_it_is_named_and_hypothetical_is_true(tmp_path):
    text = SMALL.replace("sapphire-rapids", "zen4") + "[kernel]\nhypothetical = true\n"
    path = written(tmp_path, text)
    assert "msr-autoload" not in cases(read(path))[0].strategies
    (case,) = cases(read(path, {"run.strategies": ["msr-autoload"]}))
    assert case.strategies == ("free-ssp", "msr-autoload")


def test_the_reference_is_always_run(tmp_path):
    (case,) = cases(read(written(tmp_path, SMALL), {"run.strategies": ["xstate-guest"], "run.reference": "no-cet"}))
    assert case.strategies == ("no-cet", "xstate-guest")


# What times the schedule, how many replications, and what is asked about


def case_by_name(text, tmp_path, **overrides):
    return {case.name: case for case in cases(read(written(tmp_path, text), overrides))}


ERAS = SMALL.replace('tsc = "2 GHz"', 'kernel = ["v6.6", "v6.18"]')
NEW, OLD = "sapphire-rapids v6.18", "sapphire-rapids v6.6"


def test_the_tsc_is_that_of_the_cpu_profile_where_the_scenario_does_not_say(tmp_path):
    text = SMALL.replace('["sapphire-rapids"]', '["sapphire-rapids", "zen4"]')
    by_profile = text.replace('tsc = "2 GHz"', 'tsc = { zen4 = "2 GHz" }')
    assert [case.tsc_hz for case in cases(read(written(tmp_path, text)))] == [2e9, 2e9]
    assert [case.tsc_hz for case in cases(read(written(tmp_path, by_profile)))] == [2.592e9, 2e9]
    by_none = text.replace('tsc = "2 GHz"', "")
    assert [case.tsc_hz for case in cases(read(written(tmp_path, by_none)))] == [2.592e9, 2.596e9]


def test_free_ssp_times_the_schedule_and_no_cet_where_the_case_lacks_it(tmp_path):
    found = case_by_name(ERAS, tmp_path)
    assert (found[OLD].timed_by, found[NEW].timed_by) == ("no-cet", "free-ssp")


def test_neither_the_reference_nor_the_strategies_change_what_times_the_schedule(tmp_path):
    found = case_by_name(ERAS, tmp_path, **{"run.reference": "xstate-all"})
    assert (found[OLD].timed_by, found[NEW].timed_by) == ("no-cet", "free-ssp")
    (case,) = cases(read(written(tmp_path, SMALL), {"run.strategies": ["no-cet"], "run.reference": "no-cet"}))
    assert (case.timed_by, case.strategies) == ("free-ssp", ("no-cet",))


def test_a_strategy_that_is_named_times_the_schedule_of_each_case_that_can_have_it(tmp_path):
    found = case_by_name(ERAS, tmp_path, **{"run.timed_by": "manual-load"})
    assert (found[OLD].timed_by, found[NEW].timed_by) == ("no-cet", "manual-load")
    with pytest.raises(InputError, match=r"timed_by: strategy manual-load on v6\.6"):
        read(written(tmp_path, ERAS), {"host.kernel": ["v6.6"], "run.timed_by": "manual-load"})


def bounds(path, **overrides):
    return read(path, overrides).run.replication_bounds


def test_replications_are_exact_where_they_are_given_and_else_follow_from_precision(tmp_path):
    path = written(tmp_path, SMALL)
    run_ = read(path).run
    assert (run_.replications, run_.precision, run_.replication_bounds) == (None, 0.02, (10, 100))
    run_ = read(path, {"run.replications": 3}).run
    assert (run_.replications, run_.precision, run_.replication_bounds) == (3, None, (3, 3))
    assert bounds(path, **{"run.max_replications": 20}) == (10, 20)


@pytest.mark.parametrize(
    ("below", "above", "found", "precision"),
    [
        ("replications = 3", 'precision = "1 %"', (10, 100), 0.01),
        ('precision = "1 %"\nmin_replications = 5', "replications = 3", (3, 3), None),
        ("replications = 3", 'warmup = "1 ms"', (3, 3), None),
        ('precision = "1 %"', "min_replications = 5", (5, 100), 0.01),
    ],
)
def test_what_a_variant_says_of_replications_takes_the_place_of_what_its_base_says(
    tmp_path, below, above, found, precision
):
    written(tmp_path, SMALL.replace("[run]", f"[run]\n{below}"), "base.toml")
    variant = written(tmp_path, f'extends = "base.toml"\n[run]\n{above}\n')
    assert bounds(variant) == found
    assert read(variant).run.precision == precision


def test_an_option_takes_the_place_of_either_way_to_say_how_many_replications(tmp_path):
    exact = written(tmp_path, SMALL.replace("[run]", "[run]\nreplications = 3"), "exact.toml")
    rule = written(tmp_path, SMALL.replace("[run]", '[run]\nprecision = "1 %"'), "rule.toml")
    assert bounds(exact, **{"run.precision": "1 %"}) == (10, 100)
    assert bounds(rule, **{"run.replications": 7}) == (7, 7)
    with pytest.raises(InputError, match="beside replications"):
        bounds(rule, **{"run.replications": 7, "run.precision": "1 %"})


def test_a_scenario_is_varied_as_its_file_would_be(tmp_path):
    path = written(tmp_path, SMALL)
    for over in ({"run.replications": 7}, {"run.precision": "1 %"}, {"guests.web.vcpus": 3, "host.cpu": ["zen4"]}):
        assert vary(read(path), over) == read(path, over)
    with pytest.raises(InputError, match="unknown key 'vcpu'"):
        vary(read(path), {"guests.web.vcpu": 3})


def test_what_contrasts_name_is_run_in_each_case_that_can_have_both(tmp_path):
    pair = ("manual-load", "xstate-guest")
    asked = {"run.contrasts": [list(pair)], "run.strategies": ["no-cet"]}
    found = case_by_name(ERAS, tmp_path, **asked)
    assert (found[OLD].strategies, found[OLD].contrasts) == (("no-cet",), ())
    assert (found[NEW].strategies, found[NEW].contrasts) == (("no-cet", "free-ssp", *pair), (pair,))
    scenario = read(tmp_path / "scenario.toml", asked)
    assert contrasts(scenario, cases(scenario)) == (Contrast(Operand(pair[0], NEW), Operand(pair[1], NEW)),)


def test_a_contrast_between_two_cases_runs_each_strategy_where_it_is_named(tmp_path):
    asked = {"run.contrasts": [[f"xstate-guest@{NEW}", f"no-cet@{OLD}"]], "run.strategies": ["no-cet"]}
    scenario = read(written(tmp_path, ERAS), asked)
    old, new = cases(scenario)
    assert (old.strategies, old.contrasts) == (("no-cet",), ())
    assert (new.strategies, new.contrasts) == (("no-cet", "free-ssp", "xstate-guest"), ())
    assert contrasts(scenario, (old, new)) == (Contrast(Operand("xstate-guest", NEW), Operand("no-cet", OLD)),)
    assert contrasts(scenario, (new,)) == ()


def test_a_contrast_may_name_a_file_which_is_relative_to_the_scenario_and_a_case(tmp_path):
    (tmp_path / "mine@home.toml").write_text(
        'name = "mine"\ntitle = "t"\nsource = "s"\nmechanism = "fpstate"\nguest_fpstates = true\n', encoding="utf-8"
    )
    pair = f'contrasts = [["mine@home.toml@{NEW}", "no-cet@{NEW}"], ["mine@home.toml", "free-ssp"]]'
    scenario = read(written(tmp_path, SMALL.replace("[run]", f"[run]\n{pair}")))
    mine, (case,) = str(tmp_path / "mine@home.toml"), cases(scenario)
    assert scenario.run.contrasts[0][0] == f"{mine}@{NEW}"
    assert case.contrasts == (("mine", "no-cet"), ("mine", "free-ssp"))
    assert "mine" in case.strategies
    assert [contrast.a.strategy for contrast in contrasts(scenario, [case])] == ["mine", "mine"]


def test_the_cases_that_run_names_are_simulated_and_no_others(tmp_path):
    path = written(tmp_path, ERAS)
    assert names(path, **{"run.cases": [NEW]}) == [NEW]
    assert names(path, **{"run.cases": [NEW, OLD]}) == [OLD, NEW]


def test_a_guest_without_cet_has_no_use_for_an_xss(tmp_path):
    (case,) = cases(read(written(tmp_path, SMALL + "[kernel]\nguest_xss = 0x800\n")))
    assert boot(case.settings("no-cet")).guest_xss == 0
    assert boot(case.settings("xstate-guest")).guest_xss == 0x800


def test_a_guest_without_pku_costs_two_xsetbv_per_exit(tmp_path):
    """The question: linux-kernel, 30 May 2023, "x86/fpu/xstate: clear XSAVE features if DISABLED_MASK set"."""
    text = SMALL.replace("sapphire-rapids", "ice-lake-sp").replace("cpus = 4", 'cpus = 1\nkernel = ["v6.6"]')
    path = written(tmp_path, text.replace("[run]", "[run]\nreplications = 1") + "[kernel]\nguest_xcr0 = 0xe7\n")
    count, cycles = (sim.run(path).ledger.groupby("operation")[each].sum() for each in ("count", "cycles"))
    assert count["XSETBV"] == 2 * count["VM exit"] > 100
    assert cycles["XSETBV"] / count["VM exit"] == 2 * current("ice-lake-sp").rows["XSETBV/base"].value
    assert "RDPKRU" not in count  # neither XCR0 nor CR4 has PKU
    assert "guest_xcr0 = 0xe7" in toml_text(read(path))


def test_a_time_in_cycles_is_whole(tmp_path):
    (case,) = cases(read(written(tmp_path, SMALL)))
    assert case.cycles(1.26e-9) == 3
    assert type(case.cycles(1.0)) is int


def test_options_take_the_place_of_keys(tmp_path, capsys):
    path = str(written(tmp_path, SMALL))
    options = ("--strategies", "no-cet, xstate-guest", "--reference", "no-cet", "--replications", "3", "--seed", "7")
    run_ = run_json(capsys, "show", path, *options)["scenario"]["run"]
    assert (run_["replications"], run_["seed"], run_["reference"]) == (3, 7, "no-cet")
    assert run_["strategies"] == ["no-cet", "xstate-guest"]
    assert run_json(capsys, "show", path, "--strategies", "all")["scenario"]["run"]["strategies"] == "all"


def resolved(capsys, *arguments):
    return run_json(capsys, "show", *arguments)["scenario"]


def test_any_key_may_be_set_with_a_toml_value_or_a_bare_word(tmp_path, capsys):
    path = str(written(tmp_path, SMALL))
    settings = (
        "host.cpus = 64",
        "host.scheduler=round-robin",
        "guests.web.demand=1 ms",
        "guests.web.arrivals=1 kHz",
        "guests.web.affinity=[1, 63]",
        "kernel.guest_xss=0x800",
        "run.integrity=false",
        'threads.noise={ compute = { exponential = "1 ms" }, sleep = "2 ms" }',
        'sweep."host.hz"=[250, 1000]',
    )
    found = resolved(capsys, path, *(text for each in settings for text in ("--set", each)))
    assert (found["host"]["cpus"], found["host"]["scheduler"]) == (64, "round-robin")
    assert (found["guests"]["web"]["demand"], found["guests"]["web"]["affinity"]) == ("1 ms", [1, 63])
    assert (found["kernel"]["guest_xss"], found["run"]["integrity"]) == (0x800, False)
    assert found["threads"]["noise"]["compute"] == {"exponential": "1 ms"}
    assert found["sweep"] == {"host.hz": [250, 1000]}


def test_each_option_stands_for_a_key(tmp_path, capsys):
    path = str(written(tmp_path, SMALL))
    found = resolved(
        capsys, path, "--cpu", "zen4, zen5", "--kernel", "v6.18,v6.19", "--measure", "3 ms", "--precision", "1 %",
        "--feedback", "--contrast", "manual-load,xstate-guest", "--contrast", "no-cet@zen4 v6.18,no-cet@zen4 v6.19",
        "--case", "zen4 v6.19", "--case", "zen4 v6.18",
    )  # fmt: skip
    assert (found["host"]["cpu"], found["host"]["kernel"]) == (["zen4", "zen5"], ["v6.18", "v6.19"])
    of_run = {key: found["run"][key] for key in ("measure", "precision", "feedback", "contrasts", "cases")}
    assert of_run == {
        "measure": "3 ms",
        "precision": "1 %",
        "feedback": True,
        "contrasts": [["manual-load", "xstate-guest"], ["no-cet@zen4 v6.18", "no-cet@zen4 v6.19"]],
        "cases": ["zen4 v6.19", "zen4 v6.18"],
    }


def test_the_same_options_run_what_they_show(tmp_path, capsys):
    options = ("--set", "guests.web.vcpus=2", "--measure", "1 ms", "--replications", "1", "--strategies", "no-cet")
    path, out = str(written(tmp_path, SMALL)), tmp_path / "out"
    assert run(capsys, "run", path, *options, "--out", str(out), "--no-figures")[0] == 0
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    shown = resolved(capsys, path, *options)
    assert manifest["resolved"]["host"].pop("costs") == {"sapphire-rapids": "costs.json#sapphire-rapids"}
    assert shown["host"].pop("costs") == {}
    assert shown["run"].pop("engine") == "simpy"  # no part of what is run: manifest["engines"] says which did it
    assert manifest["resolved"] == shown


def test_in_python_any_key_may_be_set_and_errors_name_the_argument(tmp_path):
    path = str(written(tmp_path, SMALL))
    over = {"guests.web.vcpus": 2, "run.measure": "1 ms"}
    results = sim.run(path, overrides=over, strategies=["no-cet"], reference="no-cet", replications=1)
    assert results.manifest["resolved"]["guests"]["web"]["vcpus"] == 2
    for what in (path, read(path)):
        with pytest.raises(InputError, match=r"^strategies: found 'no-cet'; .* a list in \[ \], such as \['no-cet'\]"):
            sim.run(what, strategies="no-cet")
        with pytest.raises(InputError, match=r"^guests\.web\.vcpus: found 0; allowed: 1 to 65536"):
            sim.run(what, overrides={"guests.web.vcpus": 0})


# Shipped scenarios by name


def test_a_shipped_scenario_is_read_by_its_name_from_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert read("rfc-question") == read(ROOT / "scenarios/rfc-question.toml")
    (tmp_path / "rfc-question").write_text(SMALL, encoding="utf-8")
    assert read("rfc-question") != read("./rfc-question") == read(Path("rfc-question"))
    variant = written(tmp_path, 'extends = "rfc-question"\ntitle = "more CPUs"\n[host]\ncpus = 8\n')
    assert read(variant).guests == read("rfc-question").guests


# The JSON Schema and the manual


SCHEMA = json.loads(document.SCHEMA_FILE.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def schema_errors(text):
    return [error.json_path for error in VALIDATOR.iter_errors(tomllib.loads(text))]


def test_the_shipped_schema_and_the_manual_are_current():
    assert document.schema() == SCHEMA
    assert document.PAGE.read_text(encoding="utf-8").endswith(document.MARKER + "\n" + document.page())


def test_the_schema_is_a_json_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_scenario_and_its_resolved_form_fit_the_schema(path):
    assert schema_errors(path.read_text(encoding="utf-8")) == []
    assert schema_errors(toml_text(read(path))) == []


@pytest.mark.parametrize(
    ("wrong", "at"),
    [
        ('measure = "10"', "$.run.measure"),
        ("measure = 0.01", "$.run.measure"),
        ('measure = "10 kHz"', "$.run.measure"),
        ('measure = "10 ms"\nmesure = "1 s"', "$.run"),
        ("", "$.run"),
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(wrong, at, tmp_path):
    text = SMALL.replace('measure = "10 ms"', wrong)
    assert at in schema_errors(text)
    with pytest.raises(InputError):
        read(written(tmp_path, text))


def test_a_variant_may_leave_out_what_its_base_has_to_say():
    assert schema_errors('extends = "base.toml"\n[guests.web.exits.io]\ntime = "1 us"\n') == []
    assert schema_errors('extends = "base.toml"\n[guests.web.exits.io]\ntme = "1 us"\n') != []


def test_the_examples_of_the_manual_are_scenarios(tmp_path):
    text = document.PAGE.read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```toml\n")[1:]]
    web, sweep, asked, between, variant = blocks
    read(written(tmp_path, web, "web.toml"))
    assert len(cases(read(written(tmp_path, web + sweep)))) == 2 * 3 * 2
    for block in (asked, between):
        scenario = read(written(tmp_path, f'extends = "web.toml"\n{block}'), {"host.kernel": ["v6.18", "v6.19"]})
        assert contrasts(scenario, cases(scenario))
    assert names(written(tmp_path, variant)) == ["zen5 v6.18"]


def test_each_key_has_a_meaning_in_the_manual():
    for definition in [SCHEMA, *SCHEMA["$defs"].values()]:
        for key, each in definition.get("properties", {}).items():
            assert each.get("description"), key
