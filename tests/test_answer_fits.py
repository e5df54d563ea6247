"""The first screen and the mail fit, whatever was run."""

import json
import math
import re
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import fake_host
import numpy as np
import pytest
from command import run as run_command
from screens import HOST, fake, fits, flat

import sim
from sim import experiment
from sim.kernel import strategies
from sim.report import amounts, layout, tables
from sim.report import mail as mails
from sim.report.names import labels, titles
from sim.report.shown import MOST_CASES, SOME_CASES, chosen
from sim.scenario import shipped

pytestmark = pytest.mark.usefixtures("few_draws")


# It fits, whatever was run.


@pytest.mark.parametrize("name", shipped.names())
def test_every_shipped_scenario_fits_on_a_screen_and_begins_with_the_answer(name):
    comparison = sim.compare(experiment.run(name, replications=2, jobs=1, simulate=fake_host.simulate))
    text = fits(comparison)
    assert " ..." not in comparison.mail()
    words = [line.split()[0] for line in text.splitlines() if line[:1].isupper() and line.split()[0].isupper()]
    assert words[0] == "ANSWER"
    assert {"HOW", "LOAD", "CITE", "MORE"} <= set(words)
    for each in comparison.results.manifest["resolved"]["run"]["contrasts"]:
        if "@" not in each[0]:
            assert all(labels(comparison.results.cases[-1])[side].lower() in flat(text).lower() for side in each)


@pytest.mark.parametrize(
    ("cpus", "kernels"),
    [(1, 1), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((2, 1), (1, 2), (3, 1), (2, 2))), (2, 3)],
    ids=str,
)
@pytest.mark.parametrize("number", [2, 5, 15])
def test_one_to_six_cases_of_two_to_fifteen_strategies_fit(ran, cpus, kernels, number):
    names = strategies.names()
    chosen_names = ["free-ssp", *[name for name in names if name != "free-ssp"][-(number - 1) :]]
    results = ran(
        **{
            "host.cpu": ["sapphire-rapids", "emerald-rapids", "granite-rapids"][:cpus],
            "host.kernel": ["v6.18", "v6.19", "v7.3"][:kernels],
            "run.strategies": chosen_names,
        }
    )
    assert len(results.cases) == cpus * kernels
    assert {len(case["strategies"]) for case in results.cases} == {number}
    text = fits(sim.compare(results))
    for case, title in titles(results.cases).short.items():
        assert title in text, case


@pytest.mark.parametrize("number", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 30)), 10, 11])
def test_a_sweep_shows_its_table_by_value(ran, number):
    counts = [1 + i for i in range(number)]
    results = ran(**{"sweep": {"guests.web.vms": counts}, "run.contrasts": [["manual-load", "xstate-guest"]]})
    text = fits(sim.compare(results))
    rows = [line.split() for line in text.splitlines()]
    shown_counts = [row[0] for row in rows if re.fullmatch(r"\d+", row[0] if row else "") and "+-" in row]
    assert shown_counts == [str(counts[i]) for i in chosen(number)]
    assert ("fpswitch compare --full has all" in text) == (number > MOST_CASES)


def test_of_a_thousand_cases_some_are_shown_at_equal_distances_with_both_ends():
    found = chosen(1000)
    assert (found[0], found[-1], len(found)) == (0, 999, SOME_CASES)
    assert set(np.diff(found)) <= {142, 143}
    assert chosen(MOST_CASES) == list(range(MOST_CASES))


def test_a_sweep_shows_the_load_by_value_and_names_the_case_of_its_units(ran):
    counts = [1, 2, 3, 4]
    results = ran(**{"sweep": {"guests.web.vms": counts}, "run.contrasts": [["manual-load", "xstate-guest"]]})
    comparison = sim.compare(results)
    text = fits(comparison)
    load = text[text.index("LOAD") :].splitlines()[2:]
    for count, case, line in zip(counts, results.cases, load, strict=False):
        assert line.split()[:2] == [str(count), f"{comparison.answers.load(case['case']).exits:.0f}"]
    puts = comparison.answers.load(results.cases[0]["case"]).load_puts
    assert f"Here (vms = 1): {puts:.0f} load+puts per vCPU-second" in flat(text)
    mail = comparison.mail().splitlines()
    head = next(line for line in mail if line.startswith("  vms "))
    assert [line.split()[0] for line in mail[mail.index(head) + 1 :]][:4] == [str(count) for count in counts]


def test_the_load_of_a_case_has_its_whole_title_where_the_screen_has_room(ran):
    models = ["SapphireRapids-v2", "Cascadelake-Server-v5", "EPYC-Rome-v4"]
    text = fits(sim.compare(ran(sweep={"guests.web.cpu_model": models})))
    load = text[text.index("LOAD") :].splitlines()[2:5]
    assert [line.split()[0] for line in load] == models


def only_once(case, record):
    """In one case manual-load runs its own operations thrice as often, but in one replication of the three alone."""
    if record.strategy != "manual-load" or case.sweep.get("guests.web.vms") != 2:
        return record
    times = 3 if record.replication == 0 else 1
    return replace(record, ledger=tuple((op, n * times, cycles * times) for op, n, cycles in record.ledger))


def test_of_a_sweep_no_amount_is_claimed_that_is_not_shown(ran):
    results = ran(
        fake_host.altered(only_once),
        **{"sweep": {"guests.web.vms": [1, 2, 3, 4]}, "run.contrasts": [["manual-load", "xstate-guest"]]},
    )
    comparison = sim.compare(results)
    tests = [
        comparison.answers.difference(c["case"], "manual-load", "xstate-guest").p_without_xss for c in results.cases
    ]
    assert [p >= 0.05 for p in tests] == [False, True, False, False]
    said = re.search(r"ANSWER (.*? of all CPUs\.)", flat(fits(comparison)))[1]
    assert "; no difference shown with vms = 2: " in said
    assert "(vms = 2)" not in said
    assert f"p by case: < 1e-4 to {tests[1]:.2g}." in flat(comparison.answer()) or min(tests) > 1e-4
    alone = sim.compare(
        ran(
            fake_host.altered(only_once),
            **{"sweep": {"guests.web.vms": [2]}, "run.contrasts": [["manual-load", "xstate-guest"]]},
        )
    )
    assert re.search(
        r"MSRs load/put \(09/19\) less XSAVES guest-only, .*: .* us per vCPU-second; no difference shown\.",
        flat(fits(alone)),
    )


def test_each_contrast_has_its_own_p_in_the_order_of_the_answer(ran):
    pairs = [["manual-load", "xstate-guest"], ["manual-load@sapphire-rapids v6.18", "manual-load@zen4 v6.18"]]
    comparison = sim.compare(ran(**{"host.cpu": ["sapphire-rapids", "zen4"], "run.contrasts": pairs}))
    within, between = comparison.answers.contrasts()[0], comparison.answers.contrasts()[-1]
    text = flat(fits(comparison))
    said = re.search(r"p by case, in the order of the answer: (.*?); (.*?)\. ", text)
    assert f"{within.p_without_xss:.2g}" in said[1] or within.p_without_xss < 1e-4
    assert said[2] == (f"{between.p:.2g}" if between.p >= 1e-4 else "< 1e-4")
    assert "those of two cases paired by their random streams" in text
    assert "random streams" not in fits(sim.compare(ran(**{"run.contrasts": pairs[:1]})))


def test_a_mail_of_contrasts_of_two_cases_alone_says_what_rests_on_assumed_costs():
    comparison = fake("mitigation-placement")
    shares = [math.floor(100 * each.assumed) for each in comparison.answers.contrasts()]
    assert min(shares) > 0
    low, high = min(shares), max(shares)
    said = f"{low} %" if low == high else f"{low} to {high} %"
    assert f"simulated, {said} of it on assumed costs" in flat(comparison.mail())


@pytest.mark.parametrize("name", ["mediated-vpmu", "mitigation-placement", "preemption-models"])
def test_a_mail_of_contrasts_of_two_cases_alone_has_each_with_its_amount_and_range(name):
    comparison = fake(name)
    mail = comparison.mail()
    found = comparison.answers.contrasts()
    rows = [line for line in mail.splitlines() if line.startswith("  ") and " less " in line]
    for each, line in zip(found, rows, strict=True):
        scale = 1.0 if each.own.unit.startswith("us") else 1e6 / comparison.results.cases[0]["tsc_hz"]
        assert amounts.with_half(scale * each.own.mean, scale * (each.own.high - each.own.mean)) in line
        assert line.endswith(
            " to ".join(amounts.three_digits(scale * end) for end in (each.range.low, each.range.high))
        )
        assert (" * " in line) == (each.verdict == "not shown")
    assert "nothing to compare" not in mail
    assert "(*) no difference shown" in flat(mail) or all(each.verdict != "not shown" for each in found)


def test_a_mail_about_the_schedule_does_not_say_that_nothing_rests_on_assumed_costs():
    """A wake-up waits for switches and barriers, too, whose costs are assumed."""
    assert "simulated, each cost at its value]" in flat(fake("halt-polling", replications=1).mail())


# The parts.


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (186.9, 9.4, "187 +- 9"), (5.04, 0.31, "5.0 +- 0.3"), (189.4, 10.2, "189 +- 10"), (4.8, 0.0213, "4.80 +- 0.02"),
        (0.0, 0.0, "0"), (14551.2, 234.0, "14551 +- 234"), (3.14159, math.nan, "3.14"), (math.nan, math.nan, "-"),
    ],
)  # fmt: skip
def test_a_mean_has_the_digits_that_its_interval_allows(mean, half, text):
    assert amounts.with_half(mean, half) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0374, "0.037"), (0.00102, "0.0010"), (12.4, "12"), (1.44, "1.4"), (0, "0"), (2e-5, "<0.0001")],
)
def test_a_share_has_two_digits(value, text):
    assert amounts.percent(value) == text


def test_what_loses_least_is_shortened_first_and_blank_lines_come_back():
    long, short = [["a"] * 6, ["a"] * 3], [["b"] * 5, ["b"]]
    parts = [layout.part(*long, losses=[5.0], gap=False), layout.part(*short, losses=[1.0])]
    assert layout.fitted(parts, 20) == ["a"] * 6 + [""] + ["b"] * 5
    assert layout.fitted(parts, 9) == ["a"] * 6 + ["", "b"]
    assert layout.fitted(parts, 5) == ["a"] * 3 + ["", "b"]
    for most, _ in product(range(1, 13), range(1)):
        assert len(layout.fitted(parts, most)) <= most


def test_run_prints_one_of_its_three_texts_or_json(tmp_path, capsys, monkeypatch):
    whole = experiment.run
    monkeypatch.setattr(
        experiment, "run", lambda *a, **k: whole(*a, **{**k, "simulate": fake_host.simulate, "jobs": 1})
    )
    (tmp_path / "host.toml").write_text(HOST)
    monkeypatch.chdir(tmp_path)
    out = "r"
    words = ["run", "host.toml", "--out", out, "--no-figures"]
    monkeypatch.setattr(sys, "argv", ["fpswitch", *words])
    status, screen, _ = run_command(capsys, *words)
    assert (status, screen.splitlines()[0]) == (0, "host: A host")
    assert "fpswitch compare r --full | --mail; fpswitch report r -o report.html" in flat(screen)
    _, full, _ = run_command(capsys, "compare", out, "--full")
    assert "Where it goes" in full
    assert "Tables and manifest:" in full
    _, mail, _ = run_command(capsys, "compare", out, "--mail")
    assert mail.startswith("[fpswitch ")
    assert "Reproduce: fpswitch run host.toml" in flat(mail)
    assert "--seed 1" in mail
    assert "--out" not in mail
    assert f"(costs.json: {json.loads(Path(out, 'manifest.json').read_text())['files']['costs.json'][:12]})" in flat(
        mail
    )
    status, text, err = run_command(capsys, "compare", out, "--mail", "--json")
    assert (status, text) == (2, "")
    assert "--full, --mail, --json" in err


@pytest.mark.parametrize(
    "command",
    [
        [],  # of sim.run(), whose arguments are no command line
        ["fpswitch", "run", "host.toml", *("--set", "host.cpus=3") * 9, "--measure", "10 ms", "--cpu", "zen4"],
    ],
)
def test_a_mail_whose_command_is_not_known_or_does_not_fit_names_the_manifest_and_never_a_part_of_the_command(command):
    manifest = {"command": command, "seed": 1, "replications": 2, "files": {"costs.json": "0" * 64}}
    assert (
        flat("\n".join(mails._reproduce(manifest)))
        == "Reproduce: fpswitch run manifest.json, from the result directory (costs.json: 000000000000)"
    )


@pytest.mark.parametrize("cell", ["-2106 +- 4196", "x -12.1 - 13.0", "3 +- 3", "0.00066"])
def test_a_number_of_a_case_never_touches_the_one_before_it(cell):
    assert tables._at_right(cell).startswith(" ")
    assert tables._at_right(cell).replace(" ", "") == cell.replace(" ", "")


@pytest.mark.parametrize(
    ("name", "said"), [("rfc-question", "4 of 9 strategies"), ("kernel-eras", "2 of 9 strategies.")]
)
def test_a_mail_says_how_much_of_the_table_it_leaves_out(name, said):
    assert said in fake(name).mail()


def test_the_mail_of_a_run_that_kept_nothing_names_no_directory(ran):
    assert sim.compare(ran()).mail().splitlines()[-1] == "Reproduce: sim.run() of host as it is here; nothing was kept"
