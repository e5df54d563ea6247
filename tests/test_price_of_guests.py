"""What single guests have, and what is posted and not merged: `price`, `flow` and the command that a run suggests."""

import pytest
from command import run, run_json

import sim
from sim.analysis import answers
from sim.analysis.event_costs import event_costs
from sim.analysis.guest_settings import for_all
from sim.kernel.config import boot
from sim.kernel.guests import features
from sim.report import units
from sim.report.shown import shown
from sim.results.settings import settings_of
from sim.scenario.schema import Guest

RATES = ("--exits", "20000/s", "--load-put", "2000/s", "--kvm-run", "500/s", "--switches", "3000/s")
GUESTS = [
    ({"xcr0": 0x600E7, "amx": True}, "--guest-xcr0 0x600e7 --guest-amx"),
    ({"xss": 0x800}, "--guest-xss 0x800"),
    ({"pku": False, "spec_ctrl": "other"}, "--guest-xcr0 0xe7 --guest-spec-ctrl other"),
    ({"cpu_model": "SapphireRapids-v3"}, "--guest-amx --no-guest-cet"),
    ({"cpu_model": "Skylake-Server-v5,-pku"}, "--guest-xcr0 0xe7 --no-guest-cet"),
    ({"cpu_model": "Skylake-Server-v1"}, None),
    ({"cpu_model": "qemu64,+xsave"}, None),
]


def first_case(comparison):
    screen = shown(comparison, comparison.answers)
    return screen, screen.cases[0]


@pytest.mark.parametrize(("given", "options"), GUESTS)
def test_the_command_for_ones_own_rates_has_what_all_guests_have_or_says_what_it_lacks(ran, given, options):
    """The features that price's guests then have are those of the simulated ones."""
    comparison = sim.compare(ran(**{f"guests.web.{key}": value for key, value in given.items()}))
    screen, case = first_case(comparison)
    asked = settings_of(case.document, "manual-load")
    of_guests = for_all(case.document, asked)
    text = " ".join(comparison.answer().split())
    command = units.command(screen, case, answers.Load(5000.0, 2000.0, 400.0, 0.0, 800.0, 1.0))
    if options is None:
        assert of_guests is None
        assert "(of one CPU; without guests.web.cpu_model): fpswitch price" in text
        assert "--guest-x" not in command
        return
    assert f" {options} " in command
    assert "(of one CPU): fpswitch price" in text
    config, has = boot(of_guests), features(boot(asked), Guest.model_validate(given).choice)
    found = features(config)
    assert (found.xcr0, found.pku, found.fpstate_size) == (has.xcr0, has.pku, has.fpstate_size)
    assert found.xss == has.xss


def test_guests_that_differ_have_no_settings_in_common(ran):
    case = ran().cases[0]
    settings, web = settings_of(case, "manual-load"), case["resolved"]["guests"]["web"]

    def of(**guests):
        return for_all(case | {"resolved": case["resolved"] | {"guests": guests}}, settings)

    assert of(a=web, b=web) is settings
    assert of(a=web | {"xcr0": 0xE7}, b=web | {"xcr0": 0xE7}).guest_xcr0 == 0xE7
    assert of(a=web | {"xcr0": 0xE7}, b=web) is None


def test_what_is_posted_and_not_merged_is_priced_as_flow_has_it(capsys):
    options = ("--vmscape-by", "bhb-clear", "--ibpb-at", "vcpu_enter_guest", "--no-pasid")
    price = run_json(capsys, "price", "--kvm-run", "1/s", "--strategies", "manual-load", *options)
    flow = run_json(capsys, "flow", "userspace-exit", "--strategy", "manual-load", "--cost", *options)
    found = price["strategies"]["manual-load"]["cycles"]["value"]
    assert found == pytest.approx(flow["totals"]["cycles"], abs=0.6 * 40)
    assert "IBPB" not in flow["operations"]
    assumed = " ".join(price["assumed"])
    for said in ("vmscape_by is bhb-clear (--vmscape-by)", "ibpb_at is vcpu_enter_guest", "PASID off (--no-pasid)"):
        assert said in assumed
    assert run(capsys, "price", *RATES, "--vmscape-by", "lfence")[0] == 2
    assert run(capsys, "flow", "preempt", "--ibpb-at", "vcpu_load()")[0] == 2


def test_the_command_has_the_host_s_own_tsc_and_where_its_buffers_are(ran, tmp_path, capsys):
    """So that `price` has the screen's cycles of a pair, and its share of a CPU."""
    results = ran(out=tmp_path / "r", **{"host.tsc": "1.25 GHz", "host.buffer_level": "memory"})
    comparison = sim.compare(results)
    screen, case = first_case(comparison)
    load = answers.Load(5000.0, 2000.0, 400.0, 0.0, 800.0, 1.0)
    command = units.command(screen, case, load).split()[1:]
    assert command[command.index("--tsc") + 1] == "1.25GHz"
    priced = run_json(capsys, *command)
    assert priced["tsc_hz"] == 1.25e9
    table = screen.answers.table(case.name)
    (pair,) = (
        each.own for each in event_costs(case.document, "xstate-guest", "free-ssp", table, load) if "put" in each.event
    )
    assert priced["strategies"]["xstate-guest"]["per_load_put"]["cycles"] == pytest.approx(pair.cycles)
    usual, usual_case = first_case(sim.compare(ran()))
    assert not {"--tsc", "--buffer"} & set(units.command(usual, usual_case, load).split())
