"""Wrong scenario files and options: one line with the path, what was found and what is allowed, and exit status 2."""

import tempfile
import tomllib
from pathlib import Path

import pytest
import tomlkit
from command import run
from hypothesis import given, settings
from hypothesis import strategies as st
from wrong_scenarios import (
    EXIT,
    GOOD,
    GUEST,
    RUN,
    THREAD,
    TSC,
    also,
    instead,
    refusal,
)

from sim.errors import InputError
from sim.scenario.reading import read


def test_the_file_that_the_wrong_ones_differ_from_is_right(folder, capsys):
    (folder / "good.toml").write_text(GOOD, encoding="utf-8")
    assert run(capsys, "show", "good.toml")[0] == 0


def test_a_byte_order_mark_is_no_error(folder, capsys):
    (folder / "good.toml").write_text(GOOD, encoding="utf-8-sig")
    assert run(capsys, "show", "good.toml")[0] == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no.toml", "No such file or directory"),
        ("./", "Is a directory"),
        ("good.csv/x.toml", "Not a directory"),
        ("./a\0b", "null"),
        ("./two\nlines", "'./two\\nlines': cannot be read"),
        ("", "unknown scenario ''"),
        (".", "unknown scenario '.'"),
        ("a\0b", "unknown scenario 'a\\x00b'"),
        ("good", "unknown scenario 'good'"),
        ("rfc-qestion", "did you mean 'rfc-question'?"),
        ("results", "unknown scenario 'results' (allowed: "),  # and no guess: nothing is like it
        ("rfc_question", "the path of a file ends in .toml or has a /"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(name, says, folder, capsys):
    assert says in refusal(capsys, "show", name)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--strategies", "xstate-gest"), "--strategies: unknown strategy 'xstate-gest'; did you mean 'xstate-guest'?"),
        (("--strategies", ""), "--strategies: unknown strategy ''"),
        (("--strategies", "no-cet,no-cet"), "--strategies: found 'no-cet' twice"),
        (("--strategies", "no.toml"), "--strategies: strategy file"),
        (("--reference", "free"), "--reference: unknown strategy 'free'; did you mean 'free-ssp'?"),
        (("--reference", ""), "--reference: found ''"),
        (("--replications", "0"), "--replications: found 0; allowed: 1 to 100000"),
        (("--seed", "-1"), "--seed: found -1; allowed: 0 or more"),
        (("--case", "sapphire-rapids v6.19"), "--case: unknown case 'sapphire-rapids v6.19'; did you mean 'sapphire-"),
        (("--contrast", "no-cet"), "--contrast 'no-cet': allowed are two strategies, as in manual-load,xstate-guest"),
        (("--contrast", "no-cet,fre-ssp"), "--contrast: unknown strategy 'fre-ssp'; did you mean 'free-ssp'?"),
        (("--contrast", "no-cet@x,free-ssp@y"), "--contrast: unknown case 'x'"),
        (("--cpu", "zen4,zen6"), "--cpu: unknown CPU 'zen6'; did you mean 'zen"),
        (("--kernel", "v6.18,v6.18"), "--kernel: found 'v6.18' twice"),
        (("--measure", "10"), "--measure: found '10'; allowed: a time like '2 ms'"),
        (("--precision", "0 %"), "--precision: found '0 %'; allowed: a share above 0"),
        (("--precision", "1 %", "--replications", "3"), "--precision: found beside replications"),
        (("--set", "guests.web.vcpus=0"), "--set guests.web.vcpus: found 0; allowed: 1 to 65536"),
        (("--set", "guests.wbe.vcpus=2"), "--set guests.wbe.vcpus: unknown name in guests 'wbe'; did you mean 'web'?"),
        (("--set", "guests.web.exits.oi.every=1 ms"), "unknown name in exits 'oi'; did you mean 'io'?"),
        (("--set", "guests.web.vcpu=2"), "--set guests.web.vcpu: unknown key 'vcpu'; did you mean 'vcpus'?"),
        (("--set", "guest.web.vcpus=2"), "--set guest.web.vcpus: guest: unknown key 'guest'; did you mean 'guests'?"),
        (("--set", "host.cpu=zen4"), "--set host.cpu: found 'zen4'; allowed: a list in [ ], such as ['zen4']"),
        (("--set", "host.cpu=64"), "--set host.cpu: found 64; did you mean 'cpus'? cpu is a list in [ ]"),
        (("--set", "host.kernel=6.10"), "--set host.kernel: found '6.10'; allowed: a list in [ ], such as ['6.10']"),
        (
            ("--set", "host.kernel=[6.10]"),
            "found 6.1; allowed: a text in quotes (without quotes, TOML reads 6.10 as 6.1)",
        ),
        (("--kernel", "6.18,v6.18"), "--kernel: found 'v6.18' twice"),
        (("--set", "host.cpu=[zen4]"), "--set host.cpu: found '[zen4]', which is not TOML"),
        (("--set", "host.cpus"), "--set: found 'host.cpus'; allowed: KEY=VALUE"),
        (("--set", "=3"), "--set: found '=3'; allowed: KEY=VALUE"),
        (("--set", "host..cpus=3"), "--set: found 'host..cpus=3'; allowed: KEY=VALUE"),
        (("--set", "run.seed=3", "--seed", "4"), "--set run.seed: found beside --seed; allowed: one of them"),
    ],
)
def test_an_option_goes_through_the_same_checks(options, says, folder, capsys):
    (folder / "good.toml").write_text(GOOD, encoding="utf-8")
    assert says in refusal(capsys, "show", "good.toml", *options)


def test_a_kernel_may_be_named_without_its_v(folder, capsys):
    (folder / "good.toml").write_text(GOOD, encoding="utf-8")
    status, shown, _ = run(capsys, "show", "good.toml", "--kernel", "6.18,v6.19")
    assert (status, 'kernel = ["v6.18", "v6.19"]' in shown) == (0, True)
    for command in (("flow", "vcpu-switch"), ("price", "--exits", "20kHz"), ("strategies",), ("snapshot",)):
        assert run(capsys, *command, "--kernel", "6.18")[:2] == run(capsys, *command, "--kernel", "v6.18")[:2]


def test_a_reference_that_is_named_is_possible_somewhere(folder, capsys):
    old = also(TSC, 'kernel = ["v6.6"]')
    (folder / "old.toml").write_text(old, encoding="utf-8")
    assert "--reference: strategy xstate-all on v6.6" in refusal(
        capsys, "show", "old.toml", "--reference", "xstate-all"
    )
    assert run(capsys, "show", "old.toml")[0] == 0  # nobody has named free-ssp
    (folder / "both.toml").write_text(old.replace('["v6.6"]', '["v6.6", "v6.18"]'), encoding="utf-8")
    assert run(capsys, "show", "both.toml", "--reference", "xstate-all")[0] == 0


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ('vpmu = "mediated"', "kernel.vpmu: the mediated vPMU came with v7.0"),
        ('host_shadow_stacks = "fpstate"', "kernel.host_shadow_stacks: host shadow stacks need a kernel with CET_S"),
    ],
)
def test_a_setting_that_no_strategy_can_have_is_named_not_what_the_others_lack_besides(key, says, folder, capsys):
    """v6.6 gives no guest CET, so that only no-cet would be possible; the setting is what is left to change."""
    old = also(TSC, 'kernel = ["v6.6"]').replace("[kernel]", f"[kernel]\n{key}")
    (folder / "old.toml").write_text(old, encoding="utf-8")
    assert says in refusal(capsys, "show", "old.toml")


def test_what_is_wrong_in_a_base_is_said_of_the_base(folder, capsys):
    (folder / "base.toml").write_text(also(RUN, "sed = 2"), encoding="utf-8")
    (folder / "over.toml").write_text('extends = "base.toml"\ntitle = "over"\n', encoding="utf-8")
    assert refusal(capsys, "show", "over.toml").startswith("fpswitch: base.toml: run.sed: unknown key 'sed'")


def test_what_a_variant_makes_wrong_is_said_of_the_variant(folder, capsys):
    (folder / "base.toml").write_text(GOOD, encoding="utf-8")
    (folder / "over.toml").write_text('extends = "base.toml"\n[guests.web]\nvcpus = 0\n', encoding="utf-8")
    assert refusal(capsys, "show", "over.toml").startswith("fpswitch: over.toml: guests.web.vcpus: found 0")


def test_a_long_value_is_shortened(folder, capsys):
    (folder / "long.toml").write_text(instead(GUEST, f'vcpus = "{"x" * 5000}"'), encoding="utf-8")
    assert len(refusal(capsys, "show", "long.toml")) < 300


ESCAPE = "\x1b[31mR\x07\u202e"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("run", "strategies"), [f"{ESCAPE}.toml"]),
        (("run", "contrasts"), [[f"no-cet@{ESCAPE}", f"no-cet@{ESCAPE}2"]]),
        (("run", "cases"), [ESCAPE]),
        (("host", "costs"), {"sapphire-rapids": f"{ESCAPE}.toml"}),
        (("host", "costs"), {ESCAPE: "zen4"}),
        (("host", "tsc"), {ESCAPE: "2 GHz"}),
        (("kernel", "carried"), f"./{ESCAPE}"),
        (("guests", "web", "demand"), {"empirical": f"{ESCAPE}.csv", "column": "t", "unit": "us"}),
        (("guests", "web", "demand"), {"empirical": "escape.csv", "column": "t", "unit": "us"}),
        (("sweep", "kernel.carried"), [f"{ESCAPE}.toml"]),
        (("extends",), f"{ESCAPE}.toml"),
        (("guests", ESCAPE), {}),
    ],
)
def test_control_characters_of_a_file_do_not_reach_the_terminal(path, value, folder, capsys):
    (folder / "escape.csv").write_text(f"{ESCAPE}\n1\n", encoding="utf-8")
    data = tomllib.loads(GOOD)
    table = data
    for key in path[:-1]:
        table = table.setdefault(key, {})
    table[path[-1]] = value
    (folder / "escape.toml").write_text(tomlkit.dumps(data), encoding="utf-8")
    assert refusal(capsys, "show", "escape.toml").rstrip("\n").isprintable()


def test_a_message_stays_short_with_a_long_name_and_with_many_that_are_allowed(folder, capsys):
    sweep_ = f'[sweep]\n"guests.web.vms" = {list(range(1, 200))}\n'
    (folder / "many.toml").write_text(GOOD + sweep_, encoding="utf-8")
    message = refusal(capsys, "show", "many.toml", "--case", "sapphire-rapids v6.18 guests.web.vms=200")
    assert "did you mean 'sapphire-rapids v6.18 guests.web.vms=" in message
    assert " more)" in message
    assert len(message) < 1500
    (folder / "good.toml").write_text(GOOD, encoding="utf-8")
    assert len(refusal(capsys, "show", "good.toml", "--cpu", "x" * 5000)) < 500


def paths(table, above=()):
    for key, value in table.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from paths(value, (*above, key))


COMPLETE = (
    GOOD.replace(EXIT, EXIT + "\ntime = { lognormal = '1 us', sigma = 0.5 }").replace(
        THREAD, THREAD + "\naffinity = [1]\nfpu = { components = ['AVX'], share = 0.5 }"
    )
    + '[sweep]\n"host.hz" = [250, 1000]\n'
)

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8) | st.sampled_from(
    ["2 ms", "1 kHz", "all", "x.toml"]
)
PLAIN = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | TEXT
JUNK = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=5
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(paths(tomllib.loads(COMPLETE)))), JUNK, st.none() | TEXT)
def test_whatever_stands_at_a_path_it_is_read_or_refused_in_one_line(path, junk, new_key):
    data = tomllib.loads(COMPLETE)
    table = data
    for key in path[:-1]:
        table = table[key]
    table[path[-1] if new_key is None else new_key] = junk
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "junk.toml"
        file.write_text(tomlkit.dumps(data), encoding="utf-8")
        message = ""
        try:
            read(file)
        except InputError as error:
            message = str(error)
        assert message.isprintable(), message
        assert len(message) < 1000
