"""What a comparison prints: its summary, its document, and the commands `run` and `compare`."""

import json
from dataclasses import replace

import fake_host
import jsonschema
import pytest
from command import run as run_command
from compared import SCENARIO

import sim
from sim import experiment
from sim.errors import InputError
from sim.report import amounts, summary

pytestmark = pytest.mark.usefixtures("few_draws")


# The summary, the document and the commands.

ESTIMATE = {
    "type": "object",
    "properties": {
        "mean": {"type": "number"},
        "low": {"type": ["number", "null"]},
        "high": {"type": ["number", "null"]},
        "unit": {"type": "string"},
    },
    "required": ["mean", "low", "high", "unit"],
}
RANGE = {
    "type": "object",
    "properties": {end: {"type": "number"} for end in ("low", "median", "high")},
    "required": ["low", "median", "high"],
    "additionalProperties": False,
}
ESTIMATES = ("own", "own_without_xss", "xss")
RANGES = ("range", "range_without_xss", "range_xss")
TESTS = ("p", "p_without_xss", "p_xss")
DOCUMENT = {
    "type": "object",
    "required": ["scenario", "seed", "replications", "manifest", "not_shown", "cases"],
    "additionalProperties": False,
    "properties": {
        "scenario": {"type": "string"},
        "seed": {"type": "integer"},
        "replications": {"type": "integer"},
        "manifest": {"type": "string"},
        "not_shown": {"type": "array", "items": {"type": "string"}},
        "cases": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["case", "cpu", "kernel", "sweep", "load", "contrasts", "strategies"],
                "additionalProperties": False,
                "properties": {
                    "case": {"type": "string"},
                    "cpu": {"type": "string"},
                    "kernel": {"type": "string"},
                    "sweep": {"type": "object"},
                    "load": {
                        "type": "object",
                        "required": ["exits", "switches", "kvm_runs", "halts", "load_puts", "busy"],
                        "additionalProperties": {"type": ["number", "null"]},
                    },
                    "contrasts": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["a", "b", *ESTIMATES, *RANGES, *TESTS, "feedback"],
                            "additionalProperties": False,
                            "properties": {
                                "a": {"type": "string"},
                                "b": {"type": "string"},
                                **dict.fromkeys(ESTIMATES, ESTIMATE),
                                **dict.fromkeys(RANGES, RANGE),
                                **{key: {"type": ["number", "null"]} for key in TESTS},
                                "feedback": {"type": ["object", "null"]},
                            },
                        },
                    },
                    "strategies": {
                        "type": "object",
                        "additionalProperties": {
                            "type": "object",
                            "required": ["metrics", "difference", *ESTIMATES, *RANGES, "integrity"],
                            "additionalProperties": False,
                            "properties": {
                                "metrics": {"type": "object", "minProperties": 30, "additionalProperties": ESTIMATE},
                                "difference": {
                                    "type": "object",
                                    "additionalProperties": {"anyOf": [ESTIMATE, {"type": "null"}]},
                                },
                                **{key: {"anyOf": [ESTIMATE, {"type": "null"}]} for key in ESTIMATES},
                                **{key: {"anyOf": [RANGE, {"type": "null"}]} for key in RANGES},
                                "integrity": {
                                    "type": "object",
                                    "required": ["violations", "kinds"],
                                    "properties": {
                                        "violations": {"type": "integer"},
                                        "kinds": {"type": "object", "additionalProperties": {"type": "integer"}},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def test_the_document_has_the_documented_shape(comparison):
    document = json.loads(json.dumps(comparison.document(), allow_nan=False))
    jsonschema.validate(document, DOCUMENT)
    of = document["cases"][0]["strategies"]
    assert list(of) == ["free-ssp", "manual-load", "manual-lazy", "xstate-guest"]
    assert (of["free-ssp"]["difference"], of["free-ssp"]["own"]) == ({}, None)
    host = of["manual-load"]["difference"].keys() - of["manual-load"]["metrics"].keys()
    assert {"guest_cycles", "halts_per_second"} <= host
    assert {of["manual-load"]["difference"][metric] for metric in host} == {None}
    assert 0 < of["manual-load"]["difference"]["cost"]["assumed_percent"] <= 100
    for name in ("cost", "cost_without_xss", "cpu_share_fpu", "operations_per_vm_exit", "task_fpstate_bytes"):
        assert name in of["manual-load"]["metrics"]
    assert of["manual-lazy"]["integrity"]["violations"] > 0
    assert of["manual-load"]["integrity"] == {"violations": 0, "kinds": {}}


def test_the_document_has_the_headline_with_p_and_range_and_one_number_for_one_quantity(tmp_path):
    path = tmp_path / "asked.toml"
    asked = SCENARIO.replace("[host]", 'contrasts = [["manual-load", "xstate-guest"]]\n[host]', 1)
    path.write_text(asked)
    comparison = sim.compare(experiment.run(path, jobs=1, simulate=fake_host.simulate))
    found = comparison.answers.contrasts()[0]
    contrast = comparison.document()["cases"][0]["contrasts"][0]
    assert contrast["p_without_xss"] == found.p_without_xss
    assert contrast["range_without_xss"]["low"] == found.range_without_xss.low < contrast["own_without_xss"]["mean"]
    of = comparison.document()["cases"][0]["strategies"]["xstate-guest"]
    for metric, name in (("cost", "own"), ("cost_without_xss", "own_without_xss")):
        assert {key: of["difference"][metric][key] for key in ("mean", "low", "high")} == {
            key: of[name][key] for key in ("mean", "low", "high")
        }
        rounded = comparison.df_differences().set_index(["case", "strategy", "metric"])["mean"]
        assert of["difference"][metric]["mean"] == pytest.approx(
            rounded[comparison.results.cases[0]["case"], "xstate-guest", metric], rel=0.05
        )
    line = next(line for line in comparison.summary().splitlines() if line.split()[:2] == ["without", "XSS"])
    assert line.split()[-3:] == [
        amounts.si(found.range_without_xss.low), "to", amounts.si(found.range_without_xss.high)
    ]  # fmt: skip


def test_the_summary_is_at_most_72_columns_wide_and_says_what_is_needed(comparison):
    text = comparison.summary()
    assert max(map(len, text.splitlines())) <= 72
    assert text.isascii()
    for needed in (
        "Who is cheaper?",
        "IA32_XSS",
        "free-ssp(*)",
        "Seed 1, 10 replications",
        "assumed",
        "memory",
        "Holm",
    ):
        assert needed in text
    assert "WARNING" not in text
    assert "documented as" in text  # manual-lazy, which is caught


def test_a_strategy_that_violates_integrity_is_called_neither_cheaper_nor_more_expensive(comparison):
    text = " ".join(comparison.summary().split())
    assert "manual-lazy(!) " in text
    assert text.count("Violates integrity, so its cost is not comparable: manual-lazy.") == 1
    verdicts = [part.split(".")[0] for part in text.split("Than free-ssp, ")[1:]]
    assert len(verdicts) == 2
    assert not any("manual-lazy" in said for said in verdicts)
    assert all("manual-load" in said for said in verdicts)
    assert set(comparison.df_break_even()["strategy"]) <= {"manual-load", "xstate-guest"}


def test_with_a_reference_that_violates_integrity_nothing_is_compared(results):
    text = sim.compare(results, "manual-lazy").summary()
    assert "manual-lazy(*)(!)" in text
    assert "manual-lazy violates integrity, so there is no cost to compare" in " ".join(text.split())
    assert "cheaper:" not in text
    assert "dearer:" not in text


def test_its_repr_is_short(comparison):
    assert "object at" not in repr(comparison)
    assert len(repr(comparison.results)) < 300


@pytest.mark.parametrize("finished", [1, 4, 9])
def test_what_an_interrupted_run_has_finished_can_be_compared(small, tmp_path, finished):
    left = iter(range(finished))

    def stops(*work):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return fake_host.simulate(*work)

    with pytest.raises(experiment.Interrupted):
        experiment.run(small, jobs=1, simulate=stops, out=tmp_path / "r")
    comparison = sim.compare(sim.load(tmp_path / "r", incomplete_ok=True))
    assert "THE RUN IS NOT COMPLETE (status interrupted)" in comparison.summary()
    jsonschema.validate(comparison.document()["cases"][0]["strategies"]["free-ssp"]["integrity"], {"type": "object"})


WHOLE_RUN = experiment.run


def simulated_by(monkeypatch, simulate):
    monkeypatch.setattr(
        experiment, "run", lambda *a, **k: WHOLE_RUN(*a, **{**k, "simulate": simulate, "jobs": k["jobs"] or 1})
    )


def test_run_and_compare_print_the_same(small, tmp_path, capsys, monkeypatch):
    simulated_by(monkeypatch, fake_host.simulate)
    out = tmp_path / "r"
    status, text, err = run_command(capsys, "run", str(small), "--out", str(out), "--no-figures")
    assert (status, err.count("Traceback")) == (0, 0)
    assert err == ""  # which is no terminal, so that it gets no progress bar
    status, again, err = run_command(capsys, "compare", str(out))
    assert (status, again, err) == (0, text, "")
    _, document, _ = run_command(capsys, "run", str(small), "--out", str(out), "--no-figures", "--json")
    document = json.loads(document)
    jsonschema.validate(document, DOCUMENT)
    assert document["manifest"] == str(out / "manifest.json")


def test_all_is_all_strategies_also_as_an_option(small, tmp_path, capsys, monkeypatch):
    simulated_by(monkeypatch, fake_host.simulate)
    options = ("--strategies", "all", "--out", str(tmp_path / "all"), "--no-figures", "--json")
    status, document, _ = run_command(capsys, "run", str(small), *options)
    assert status == 0
    assert {"no-cet", "manual-exit"} <= json.loads(document)["cases"][0]["strategies"].keys()
    assert len(experiment.run(small, strategies="all", jobs=1).cases[0]["strategies"]) > 10
    with pytest.raises(InputError, match=r"found 'manual-load'.*allowed: all or a list in \[ \], such as \["):
        experiment.run(small, strategies="manual-load", jobs=1)


def test_a_strategy_that_is_documented_as_unsound_does_not_fail_a_run_and_another_does(
    small, tmp_path, capsys, monkeypatch
):
    arguments = ("run", str(small), "--no-figures", "--replications", "2", "--out", str(tmp_path / "r"))
    simulated_by(monkeypatch, fake_host.simulate)
    assert run_command(capsys, *arguments)[0] == 0

    simulated_by(monkeypatch, fake_host.altered(lambda case, record: replace(record, integrity={"guest-to-guest": 2})))
    status, out, err = run_command(capsys, *arguments[:-1], str(tmp_path / "altered"))
    assert status == 1
    assert "manual-load violates integrity (4 times), and is not documented as unsound" in err
    assert "manual-lazy violates" not in err
    assert "NOT documented" in " ".join(out.split())


@pytest.mark.parametrize(("stacks", "status"), [("off", 1), ("fpstate", 0), ("return-to-user", 1)])
def test_unsound_with_host_shadow_stacks_is_documented_with_those_only(
    small, tmp_path, capsys, monkeypatch, stacks, status
):
    path = tmp_path / "stacks.toml"
    path.write_text(small.read_text() + f'[kernel]\nhost_shadow_stacks = "{stacks}"\n')

    def wrong(case, record):
        return replace(record, integrity={"wrong-value": 2} if record.strategy == "manual-load" else {})

    simulated_by(monkeypatch, fake_host.altered(wrong))
    arguments = ("--no-figures", "--full", "--replications", "2", "--out", str(tmp_path / "r"))
    got, out, _ = run_command(capsys, "run", str(path), *arguments)
    assert (got, "UNEXPECTED" in out) == (status, status == 1)
    assert ("kvm_put_guest_fpu()" in out) == (status == 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--strategies", "manual-lode"), ("--strategies", "a,,b"), ("--reference", "nobody"), ("--replications", "0"),
        ("--seed", "-1"), ("--jobs", "0"), ("--jobs", "100000"), ("--jobs", "two"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_message_and_status_2(small, tmp_path, capsys, arguments):
    status, out, err = run_command(capsys, "run", str(small), "--out", str(tmp_path / "r"), *arguments)
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("run", "rfc-question", "--design", "lhs:2", "--range", "host.cpus=2..4", "--out", "r"),
        ("fit", "trace", "-o", "fitted.toml"),
        ("uncertainty", "r"),
        ("verify", "statistics"),
        ("verify", "theory"),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("jobs", ["-3", "0", "1025"])
def test_a_wrong_number_of_processes_is_one_message_of_every_command(tmp_path, capsys, monkeypatch, command, jobs):
    monkeypatch.chdir(tmp_path)
    status, out, err = run_command(capsys, *command, "--jobs", jobs)
    assert (status, out, err) == (2, "", f"fpswitch: jobs {jobs} (allowed: 1 to 1024)\n")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_exits_with_130(small, tmp_path, capsys, monkeypatch):
    def interrupted(*work):
        raise KeyboardInterrupt

    simulated_by(monkeypatch, interrupted)
    status, out, err = run_command(capsys, "run", str(small), "--out", str(tmp_path / "r"))
    assert (status, out) == (130, "")
    assert "fpswitch: interrupted after 0 of 40 replications" in err


def test_an_interrupt_before_the_first_replication_is_one_message_and_130(small, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "run", interrupted)
    assert run_command(capsys, "run", str(small)) == (130, "", "fpswitch: interrupted\n")
    monkeypatch.setattr("importlib.import_module", interrupted)
    assert run_command(capsys, "run", str(small)) == (130, "", "fpswitch: interrupted\n")


def test_compare_refuses_what_is_not_a_complete_result(tmp_path, capsys):
    for place in (tmp_path, tmp_path / "nowhere"):
        status, out, err = run_command(capsys, "compare", str(place))
        assert (status, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("value", [-0.001, -0.0, -4e-9])
def test_what_rounds_to_zero_has_no_minus(value):
    assert amounts.fixed(value, 2) == "0.00"
    assert amounts.with_half(value, 0.3) == "0.0 +- 0.3"
    assert summary._fixed(value, 2) == "0.00"
    assert summary._fixed(value, 2, "+") == "+0.00"
    assert amounts.three_digits(-4e-9) == "0.000000"
