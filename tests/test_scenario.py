"""Scenario files: shipped ones, round trips, quantities, distributions, bases, and the manual."""

import math
import pickle
from decimal import Decimal
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from command import run, run_json
from hypothesis import given
from hypothesis import strategies as st
from scenario_files import SCHEMA, SMALL, names, schema_errors, times, written

from sim.errors import InputError
from sim.kernel.config import boot
from sim.kernel.strategies import ORDER
from sim.scenario import document, units
from sim.scenario.cases import cases, contrasts
from sim.scenario.distribution import Distribution, Intervals
from sim.scenario.reading import read
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


# Shipped scenarios by name


def test_a_shipped_scenario_is_read_by_its_name_from_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert read("rfc-question") == read(ROOT / "scenarios/rfc-question.toml")
    (tmp_path / "rfc-question").write_text(SMALL, encoding="utf-8")
    assert read("rfc-question") != read("./rfc-question") == read(Path("rfc-question"))
    variant = written(tmp_path, 'extends = "rfc-question"\ntitle = "more CPUs"\n[host]\ncpus = 8\n')
    assert read(variant).guests == read("rfc-question").guests


# The JSON Schema and the manual


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
    text = (ROOT / "docs/scenarios.md").read_text(encoding="utf-8")
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


def test_an_interrupt_while_a_scenario_is_written_down_is_not_lost(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    scenario = read("rfc-question")
    monkeypatch.setattr(units, "written", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scenario.written()
