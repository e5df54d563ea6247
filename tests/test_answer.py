"""The first screen says what was asked, with the numbers of the ledger, and how sure they are."""

import math
import re
from dataclasses import replace
from pathlib import Path

import fake_host
import numpy as np
import pandas as pd
import pytest
import worlds
from screens import fake, fits, flat

import sim
from sim import experiment
from sim.analysis.pricing import with_tables
from sim.costs import table as cost_tables
from sim.costs.price import design_matrix, in_tsc
from sim.kernel import strategies
from sim.report import amounts
from sim.report.names import labels
from sim.report.shown import shown
from sim.results.columns import KEY_COLUMNS, ROWS, SCHEMAS
from sim.scenario.cases import cases
from sim.scenario.reading import read

pytestmark = pytest.mark.usefixtures("few_draws")


# What a scenario asks is answered.


def test_where_the_writes_of_ia32_xss_are_asked_about_they_come_first_and_in_the_mail_of_all_cases():
    comparison = fake("xss-mismatch")
    text = flat(fits(comparison))
    assert re.search(
        r"ANSWER XSAVES guest-only cost .* more than nothing carried, in writes of IA32_XSS alone, and ", text
    )
    sizes = []
    for case in comparison.results.cases:
        found = comparison.answers.difference(case["case"], "xstate-guest", "free-ssp")
        sizes.append(abs(found.xss.mean / found.own_without_xss.mean))
        assert any(
            amounts.si(found.xss.mean) in line.replace("[", " ").split() for line in comparison.mail().splitlines()
        )
    assert (
        f"the writes of IA32_XSS are {min(sizes):.2g} to {max(sizes):.2g} times the rest" in text or min(sizes) >= 100
    )


def test_what_other_state_costs_is_said_beside_the_answer_where_it_is_asked_about(ran):
    assert fake("amx-guest").results.manifest["resolved"]["run"]["beside"] == ["XTILEDATA"]
    comparison = sim.compare(ran(**{"run.beside": ["AVX"], "run.contrasts": [["manual-load", "xstate-guest"]]}))
    case = comparison.results.cases[0]
    ledger = comparison.results.ledger
    ledger = ledger[(ledger["strategy"] == "free-ssp") & ledger["operation"].isin(["XSAVES", "XRSTORS"])]
    rows = with_tables(comparison.results)[case["case"]].rows
    cycles = 0.0
    for op in ledger.itertuples():
        term = "written" if op.operation == "XSAVES" else "loaded"
        for level in ("", op.level if op.level == "memory" else None):
            found = [rows.get(f"{op.operation}/{term}/{what}{'@memory' * bool(level)}") for what in ("YMM", "*")]
            if level is not None and op.components & 4:
                cycles += op.count * next(row.value for row in found if row) / cost_tables.current(case["cpu"]).ratio
    cycles /= 3 * case["vcpus"] * case["measure_s"]
    found, over = comparison.answers.of_component(case["case"], "free-ssp", 4)
    assert found.mean == pytest.approx(cycles, rel=0.02)  # what is initialised is not in it
    assert over.low < found.mean < over.high
    us = amounts.with_half(1e6 * found.mean / case["tsc_hz"], 1e6 * (found.high - found.mean) / case["tsc_hz"])
    assert f"Saving and loading AVX cost {us} us per vCPU-second with nothing carried" in flat(fits(comparison))


def test_where_it_is_asked_who_survives_the_sound_and_the_unsound_are_named():
    comparison = fake("host-sss")
    text = flat(fits(comparison))
    assert re.search(
        r"ANSWER Sound with host_shadow_stacks = fpstate: .*XSAVES guest-only at .*; unsound: MSRs load/put ", text
    )
    assert "Sound with host_shadow_stacks = off or return-to-user: all 5, from" in text
    assert "Nothing carried is cheaper" not in text
    assert "Sound with host_shadow_stacks = fpstate" in flat(comparison.mail())


def test_a_host_without_vcpus_has_no_guests_in_its_answer():
    assert "guests" not in fits(fake("context-switch1"))


def test_the_strategies_that_do_what_the_reference_does_fit_beside_each_case(tmp_path):
    """Without guests that are most; with v6.6 there is another reference."""
    path = tmp_path / "threads.toml"
    host = worlds.web("all").partition("[guests.web]")[0]
    path.write_text(host.replace("[host]", '[host]\nkernel = ["v7.3", "v6.6"]') + '[threads.t]\ncompute = "1 ms"\n')
    text = fits(sim.compare(experiment.run(path, jobs=1, simulate=fake_host.simulate)))
    assert "v7.3, beside carrying nothing (free-ssp = no-cet = " in text


def test_one_vcpu_on_one_cpu_is_no_plural(ran):
    comparison = sim.compare(ran(**{"guests.web.vcpus": 1, "host.cpus": 1}))
    for text in (fits(comparison), comparison.mail(), comparison.summary()):
        assert "1 CPU (" in flat(text)
        assert re.search(r" 1 vCPU\b", flat(text))


@pytest.mark.parametrize(
    ("name", "label"),
    [("manual-load", "mine.toml"), ("mine", "mine"), ("a (b) c, which is too long (really)", "really")],
)
def test_names_of_the_users_own_are_written_as_they_are(ran, tmp_path, name, label):
    source = (Path(strategies.__file__).parent / "data/strategies/manual-load.toml").read_text(encoding="utf-8")
    own = tmp_path / "mine.toml"
    own.write_text(re.sub(r"(?m)^name = .*$", f'name = "{name}"', source))
    comparison = sim.compare(ran(**{"run.strategies": [str(own), "xstate-guest"]}))
    called = labels(comparison.results.cases[0])
    assert label in [text for each, text in called.items() if each not in strategies.names()]
    text = flat(fits(comparison))
    assert f"; {label} " in text
    assert label.capitalize() not in text
    pair = {"run.contrasts": [[str(own), "xstate-guest"]]}
    assert f"ANSWER {label} cost " in flat(fits(sim.compare(ran(**pair))))


def test_long_names_of_the_users_own_fit(ran, tmp_path):
    folder = Path(strategies.__file__).parent / "data" / "strategies"
    source = (folder / "manual-load.toml").read_text(encoding="utf-8")
    files = []
    for i, name in enumerate(["x" * 60, "mine, and a name of many words", "manual-load"]):
        files.append(tmp_path / f"own{i}.toml")
        files[-1].write_text(re.sub(r"(?m)^name = .*$", f'name = "{name}"', source), encoding="utf-8")
    results = ran(**{"run.strategies": ["manual-load", *map(str, files)]})
    text = fits(sim.compare(results))
    assert labels(results.cases[0])["manual-load"] in text
    assert len(set(labels(results.cases[0]).values())) == len(results.cases[0]["strategies"])


# What it says.


def test_the_numbers_are_those_of_the_ledger(ran):
    """Cycles per vCPU-second, microseconds and shares by hand, from counts and the rows of the cost table."""
    results = ran(**{"run.contrasts": [["manual-load", "xstate-guest"]]})
    comparison = sim.compare(results)
    case = results.cases[0]
    table = cost_tables.current("sapphire-rapids")
    ledger = results.ledger
    keys = list(ledger[list(KEY_COLUMNS)].itertuples(index=False, name=None))
    price = design_matrix(keys, table) @ in_tsc(table, np.array([row.value for row in table.rows.values()]))
    cycles = (ledger["count"] * price).groupby([ledger["strategy"], ledger["replication"]]).sum()
    per_second = cycles / (case["vcpus"] * case["measure_s"])
    moved = per_second["manual-load"] - per_second["xstate-guest"]
    document = comparison.document()["cases"][0]
    contrast = document["contrasts"][0]
    assert contrast["own"]["mean"] == pytest.approx(moved.mean())
    assert contrast["own"]["unit"] == "cycles/vCPU-s"
    half = 4.302653 * moved.std(ddof=1) / math.sqrt(3)  # Student's t of 2 degrees of freedom, 97.5 %
    assert contrast["own"]["high"] - contrast["own"]["mean"] == pytest.approx(half, rel=1e-5)
    us = moved.mean() / case["tsc_hz"] * 1e6
    share = 100 * us / 1e6 * case["vcpus"] / case["cpus"]
    text = flat(comparison.answer())
    said = amounts.with_half(us, half / case["tsc_hz"] * 1e6)
    assert f"cost {said} us per vCPU-second more than XSAVES guest-only: {amounts.percent(share)} % of all CPUs" in text
    own = per_second["manual-load"] - per_second["free-ssp"]
    strategy = document["strategies"]["manual-load"]
    assert strategy["own"]["mean"] == pytest.approx(own.mean())
    assert strategy["range"]["low"] < strategy["range"]["median"] < strategy["range"]["high"]
    row = next(line for line in comparison.answer().splitlines() if line.startswith("   MSRs load/put (09"))
    assert amounts.si(own.mean()) in row.split()


def test_the_load_is_the_schedules(ran):
    results = ran()
    case = results.cases[0]
    metrics = results.metrics.groupby("metric")["value"].mean()
    load = sim.compare(results).document()["cases"][0]["load"]
    seconds = case["measure_s"] * case["vcpus"]
    for name, metric in (("exits", "vm_exits"), ("load_puts", "vcpu_loads"), ("kvm_runs", "kvm_run_round_trips")):
        assert load[name] == pytest.approx(metrics[metric] / seconds)
    assert load["busy"] == pytest.approx(1 - metrics["idle_cycles"] / metrics["elapsed_cycles"])
    line = next(line for line in sim.compare(results).answer().splitlines() if line.startswith("  Sapphire Rapids  "))
    assert f"{load['exits']:.0f}" in line.split()


def test_a_host_without_vcpus_is_told_per_cpu_second_and_per_switch():
    results = experiment.run("context-switch1", replications=3, jobs=1, simulate=fake_host.simulate)
    comparison = sim.compare(results)
    text = fits(comparison)
    assert "per CPU-second" in text
    assert "vCPU-second" not in text
    document = comparison.document()["cases"][0]
    per_switch = document["strategies"]["xstate-all"]["own"]["mean"] / document["load"]["switches"]
    row = next(line for line in text.splitlines() if line.startswith("   XSAVES all tasks"))
    assert f"{per_switch:.3g}" in row.split()


def test_strategies_that_do_the_same_are_one_line(ran):
    comparison = sim.compare(ran())
    text = comparison.answer()
    assert "beside carrying nothing" in text
    assert "free-ssp = no-cet" in flat(text)
    case = shown(comparison, comparison.answers).cases[0]
    assert case.same == ("no-cet",)
    assert [line.names for line in case.lines if "no-cet" in line.names] == []


def test_what_iA32_xss_does_is_a_line_of_its_own(ran):  # noqa: N802
    results = ran(**{"host.cpu": ["zen4"], "run.contrasts": [["manual-load", "xstate-guest"]]})
    comparison = sim.compare(results)
    found = comparison.answers.difference(results.cases[0]["case"], "xstate-guest", "free-ssp")
    assert found.xss.mean < -1000 < 0 < found.own_without_xss.mean
    assert found.own.mean == pytest.approx(found.xss.mean + found.own_without_xss.mean)
    text = comparison.answer()
    assert "IA32_XSS apart (*)" in flat(text)
    row = next(line for line in text.splitlines() if "and IA32_XSS saves" in line)
    assert amounts.si(-found.xss.mean) in row.split()
    assert f"{amounts.si(-found.range_xss.high)} to {amounts.si(-found.range_xss.low)}" in row


def test_one_replication_is_not_tested(ran):
    comparison = sim.compare(ran(**{"run.replications": 1, "run.contrasts": [["manual-load", "xstate-guest"]]}))
    text = fits(comparison)
    assert "NOT TESTED" in text
    assert "+-" not in text
    assert "no difference shown" not in text
    assert "NOT TESTED" in comparison.mail()


def test_without_contrasts_the_least_and_the_most_expensive_are_named(ran):
    comparison = sim.compare(ran())
    text = flat(fits(comparison))
    assert re.search(
        r"ANSWER Per vCPU-second more than nothing carried: XSAVES guest-only cost .*, the least; MSRs", text
    )


def test_what_costs_less_than_the_reference_is_not_said_to_cost_a_negative_amount_more(ran):
    two = {"run.strategies": ["xstate-guest"], "run.reference": "manual-load"}
    text = flat(fits(sim.compare(ran(**two))))
    assert re.search(r"ANSWER XSAVES guest-only cost \d\S* \+- .* less than MSRs load/put \(09/19\)\.", text)
    three = two | {"run.strategies": ["xstate-guest", "manual-exit"]}
    text = flat(fits(sim.compare(ran(**three))))
    beside = r"ANSWER Per vCPU-second, beside MSRs load/put \(09/19\): XSAVES guest-only cost \d"
    assert re.search(beside + r"[^;]* less, the least; MSRs at each VM exit \d[^;]* more, the most\.", text)


def test_the_heading_of_cases_stands_above_those_that_have_one_strategy(ran):
    alone = {"run.strategies": ["no-cet"], "run.reference": "no-cet", "sweep": {"host.hz": [100, 250]}}
    assert re.search(r"\n  hz\n  100 .* no-cet alone", fits(sim.compare(ran(**alone))))


def test_a_contrast_of_two_that_do_the_same_says_so(ran):
    pairs = [["manual-load", "manual-run-guarded"]]
    text = flat(fits(sim.compare(ran(**{"run.contrasts": pairs}))))
    assert "MSRs load/put (09/19) and MSRs at KVM_RUN (flag) do exactly the same." in text


def test_an_unsound_strategy_has_no_cost_to_compare(ran):
    results = ran(
        **{"run.strategies": ["manual-load", "manual-lazy"], "run.contrasts": [["manual-lazy", "manual-load"]]}
    )
    text = flat(fits(sim.compare(results)))
    assert "no answer, since one of them violates integrity" in text
    assert "UNSOUND manual-lazy: not comparable" in text
    assert "MSRs load/put (15/19) cost" not in text


def test_an_unsound_reference_leaves_nothing_to_compare_with(ran):
    results = ran(**{"run.strategies": ["manual-load", "manual-lazy", "xstate-guest"]})
    text = flat(fits(sim.compare(results, "manual-lazy")))
    assert "(manual-lazy) violates integrity: there is no cost to compare with" in text
    two = ran(**{"run.strategies": ["manual-load", "manual-lazy"], "host.kernel": ["v6.18", "v6.19", "v7.3"]})
    assert "manual-lazy is unsound" in fits(sim.compare(two, "manual-lazy"))


def test_a_violation_that_is_not_documented_is_called_that(ran):
    wrong = fake_host.altered(
        lambda case, record: replace(record, integrity={"wrong-value": 2} if record.strategy == "xstate-all" else {})
    )
    assert "UNSOUND xstate-all (NOT documented): not comparable" in flat(fits(sim.compare(ran(simulate=wrong))))


def test_a_reference_alone_is_nothing_to_compare(ran):
    assert "free-ssp alone was run" in fits(sim.compare(ran(**{"run.strategies": ["free-ssp"]})))


@pytest.mark.parametrize("finished", [1, 4, 8, 14])
def test_what_an_incomplete_run_has_of_all_strategies_is_the_answer(ran, tmp_path, finished):
    left = iter(range(finished))

    def stops(case, timed_by, names, replication):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return fake_host.simulate(case, timed_by, names, replication)

    with pytest.raises(experiment.Interrupted):
        ran(simulate=stops, out=tmp_path / "r", **{"host.cpu": ["sapphire-rapids", "zen4"], "run.replications": 8})
    comparison = sim.compare(sim.load(tmp_path / "r", incomplete_ok=True))
    text = fits(comparison)
    assert "THE RUN IS NOT COMPLETE (status interrupted)" in text
    first, second = min(finished, 8), max(finished - 8, 0)
    name = comparison.results.cases[0]["case"]
    assert comparison.answers.difference(name, "manual-load", "free-ssp").own.n == first
    if not second:
        assert "no replication was finished" in text


def test_results_in_which_each_strategy_timed_its_own_host_say_so(ran, tmp_path):
    """As fpswitch 0.1.0 left them: no schedule that all walked."""

    def alone(case, timed_by, names, replication):
        return [
            replace(record, timed_by=record.strategy)
            for name in dict.fromkeys((timed_by, *names))
            for record in fake_host.simulate(case, name, (name,), replication)
        ]

    results = ran(simulate=lambda *work: fake_host.simulate(*work))
    case = cases(read(tmp_path / "host.toml"))[0]
    old = [record for r in range(3) for record in alone(case, "free-ssp", results.cases[0]["strategies"], r)]
    manifest = {**results.manifest, "cases": [{**case, "timed_by": None} for case in results.cases]}
    frames = _frames(old)
    comparison = sim.compare(type(results).of(frames, manifest, results.costs))
    text = fits(comparison)
    assert "Results of fpswitch 0.1.0" in text
    assert comparison.answers.difference(results.cases[0]["case"], "manual-load", "free-ssp").own.mean > 0


def _frames(records):
    """The tables of records, whoever timed them."""

    return {
        name: pd.DataFrame(
            [
                (*record.part, *about, *map(float if name == "metrics" else int, amounts))
                for record in records
                for about, *amounts in sorted(zip(*ROWS[name](record), strict=True))
            ],
            columns=schema.names,
        )
        for name, schema in SCHEMAS.items()
    }


def test_a_contrast_of_two_cases_is_told_with_both_and_its_range(ran):
    pair = ["free-ssp@sapphire-rapids v6.18", "free-ssp@zen4 v6.18"]
    comparison = sim.compare(ran(**{"host.cpu": ["sapphire-rapids", "zen4"], "run.contrasts": [pair]}))
    [found] = comparison.answers.contrasts()
    assert found.own.unit == "us/vCPU-s"  # their clocks differ
    sides = ["Sapphire Rapids", "Zen 4"] if found.own.mean > 0 else ["Zen 4", "Sapphire Rapids"]
    amount = amounts.with_half(abs(found.own.mean), found.own.high - found.own.mean)
    text = flat(fits(comparison))
    assert f"Nothing carried with {sides[0]} cost {amount} us per vCPU-second more than with {sides[1]}" in text
    low, high = sorted(math.copysign(1, found.own.mean) * end for end in (found.range.low, found.range.high))
    over = f"over the range of the costs, drawn apart for each CPU {amounts.three_digits(low)} to"
    assert f"{over} {amounts.three_digits(high)}" in text
    first, second = comparison.document()["cases"]
    assert ([first["contrasts"][0][side] for side in "ab"], second["contrasts"]) == (pair, [])
    assert first["contrasts"][0]["own"]["mean"] == pytest.approx(found.own.mean)


def test_two_cases_that_do_the_same_are_said_to(ran):
    pair = ["free-ssp@sapphire-rapids v6.19", "free-ssp@sapphire-rapids v6.18"]
    text = flat(fits(sim.compare(ran(**{"host.kernel": ["v6.18", "v6.19"], "run.contrasts": [pair]}))))
    assert "Nothing carried with v6.19 and nothing carried with v6.18 do exactly the same." in text


def test_with_feedback_the_host_is_shown_and_without_it_is_said_not_to_be(ran):
    pair = {"run.contrasts": [["manual-load", "xstate-guest"]]}
    without = sim.compare(ran(**pair))
    assert "NOT SHOWN how the host reacts" in flat(fits(without))
    assert without.document()["cases"][0]["contrasts"][0]["feedback"] is None
    comparison = sim.compare(ran(**pair, **{"run.feedback": True}))
    text = flat(fits(comparison))
    assert "NOT SHOWN how the host reacts" not in text
    feedback = comparison.answers.feedback(comparison.results.cases[0]["case"], "manual-load", "xstate-guest")
    guest = next(each for each in feedback.host if each.metric == "guest_cycles")
    said = amounts.with_half(guest.percent, 100 * (guest.high - guest.mean) / guest.of)
    assert f"HOST MSRs load/put (09/19) less XSAVES guest-only: guest cycles {said} %" in text
    assert comparison.document()["cases"][0]["contrasts"][0]["feedback"] == feedback.document()


def test_what_a_hand_off_takes_comes_first_where_it_was_asked_about():
    comparison = sim.compare(experiment.run("context-switch1", replications=3, jobs=1, simulate=fake_host.simulate))
    assert comparison.independent is not None
    assert "ANSWER A hand-off takes " in flat(fits(comparison))


# Sureness.


def test_two_cpus_with_the_same_assumed_row_are_not_compared_by_it(ran):
    pair = {"run.contrasts": [["manual-load", "xstate-guest"]]}
    text = flat(sim.compare(ran(**{"host.cpu": ["sapphire-rapids", "zen4"], **pair})).answer())
    said = re.search(r"Sapphire Rapids and Zen 4 have the same assumed (.*?): comparing them says nothing", text)
    assert said
    tables = [cost_tables.current(name).rows for name in ("sapphire-rapids", "zen4")]
    for operation in said[1].split(", "):
        assert any(
            row.operation == operation and row.grade == "assumed" and tables[1][row.id].grade == "assumed"
            for row in tables[0].values()
        )
    assert "have the same assumed" not in flat(sim.compare(ran(**pair)).answer())


def test_what_the_text_says_would_turn_the_order_turns_it(ran):
    results = ran(**{"run.contrasts": [["manual-load", "xstate-guest"]]})
    comparison = sim.compare(results)
    text = flat(comparison.answer())
    percent = int(re.search(r"cost < (\d+) % of their values", text)[1])
    by_row = comparison.answers.by_row(results.cases[0]["case"], "manual-load", "xstate-guest")
    more = sum(cycles for cycles in by_row.values() if cycles > 0)
    less = sum(cycles for cycles in by_row.values() if cycles < 0)
    assert more * percent / 100 + less > 0 > more * (percent - 1) / 100 + less
    assert sum(by_row.values()) == pytest.approx(
        comparison.answers.difference(results.cases[0]["case"], "manual-load", "xstate-guest").own.mean
    )
