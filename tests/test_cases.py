"""From a scenario file to cases: sweeps, what times the schedule, contrasts, and options in place of keys."""

import json

import pytest
from command import run, run_json
from scenario_files import SMALL, names, schema_errors, times, written

import sim
from sim.costs.table import current
from sim.errors import InputError
from sim.kernel.config import boot
from sim.scenario.cases import base_slice, cases, contrasts
from sim.scenario.contrasts import Contrast, Operand
from sim.scenario.distribution import Intervals
from sim.scenario.reading import read, vary
from sim.scenario.writing import toml_text

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


STACKS = """
title = "host shadow stacks before KVM has CET"
[run]
measure = "5 ms"
BESIDE
[host]
cpus = 1
cpu = ["emerald-rapids"]
kernel = ["v6.17"]
[kernel]
host_shadow_stacks = "fpstate"
[guests.g]
"""


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        (
            'strategies = "all"',
            "run.reference and run.timed_by: the default is not possible: strategy free-ssp",
        ),
        ('strategies = ["xstate-guest"]\nreference = "xstate-guest"', "run.timed_by: the default is not possible"),
        ('reference = "manual-load"\ntimed_by = "manual-exit"', "run.reference and run.timed_by: strategy manual-load"),
    ],
)
def test_one_message_refuses_the_reference_and_what_times_the_schedule(beside, said, tmp_path):
    with pytest.raises(InputError, match=said) as refused:
        read(written(tmp_path, STACKS.replace("BESIDE", beside)))
    assert str(refused.value).count("v6.17: xstate-guest") == 1


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


def test_what_a_guest_has_is_a_mask_or_a_list_of_components(tmp_path):
    lists = 'guest_xcr0 = ["FP", "SSE", "AVX", "YMM", "OPMASK", "ZMM_Hi256", "Hi16_ZMM"]\nguest_xss = ["CET_U"]\n'
    scenario = read(written(tmp_path, SMALL + "[kernel]\n" + lists))
    assert (scenario.kernel.guest_xcr0, scenario.kernel.guest_xss) == (0xE7, 0x800)
    assert "guest_xcr0 = 0xe7" in toml_text(scenario)


@pytest.mark.parametrize("found", ['["FP", "SSE", "PKU"]', "[1, 2]", '"AVX"'])
def test_a_component_that_there_is_not_is_refused_with_those_that_there_are(tmp_path, found):
    with pytest.raises(InputError, match=r"kernel\.guest_xcr0: found .*allowed: .*") as error:
        read(written(tmp_path, SMALL + f"[kernel]\nguest_xcr0 = {found}\n"))
    assert len(str(error.value)) < 1000
    assert found == '"AVX"' or "PKRU" in str(error.value)


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
