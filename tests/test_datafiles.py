"""Strategy and carried-state files of the user's own: what is refused, and in which words."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from sim.cli import main
from sim.errors import InputError
from sim.kernel import carried, strategies
from sim.kernel.carried import carried_state
from sim.kernel.config import Settings, boot
from sim.kernel.strategies import LOAD_POINTS, MAX_LABEL, SAVE_POINTS, strategy

DOCUMENT = Path(__file__).parent.parent / "docs" / "strategy-files.md"
EXAMPLES = re.findall(r"(?ms)^```toml\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"))

POINTS = {"save_at": '["vm_exit"]', "load_at": '["vm_entry"]'}
STRATEGIES = {
    "none": {},
    "msr": POINTS,
    "msr-list": POINTS,
    "user-return": POINTS,
    "fpstate": {"guest_fpstates": "true"},
    "independent": POINTS,
}
"""What each mechanism needs, as TOML."""

CARRIED = {
    "name": '"mine"',
    "title": '"t"',
    "msrs": "{ A = 1, B = 2, C = 3 }",
    "size_bytes": "24",
    "per_task_msr": "false",
    "source": '"s"',
    "xfeature": "12",
}


def toml(keys):
    return "".join(f"{key} = {value}\n" for key, value in keys.items() if value is not None)


def strategy_file(tmp_path, mechanism, **changes):
    keys = {"name": '"mine"', "title": '"t"', "source": '"s"', "mechanism": f'"{mechanism}"'}
    return written(tmp_path, toml(keys | STRATEGIES[mechanism] | changes))


def carried_file(tmp_path, **changes):
    return written(tmp_path, toml(CARRIED | changes))


def written(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(load, path):
    with pytest.raises(InputError) as error:
        load(path)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 400 + len(path)
    return message


# What is right.


@pytest.mark.parametrize("name", strategies.names())
def test_every_shipped_strategy_loads(name):
    assert strategy(name).name == name


@pytest.mark.parametrize("name", carried.names())
def test_every_shipped_carried_state_loads(name):
    assert carried_state(name).name == name


@pytest.mark.parametrize("mechanism", STRATEGIES)
def test_what_each_mechanism_needs_is_enough(tmp_path, mechanism):
    assert strategy(strategy_file(tmp_path, mechanism)).mechanism == mechanism


def test_a_carried_state_with_and_without_an_xfeature_is_right(tmp_path):
    assert carried_state(carried_file(tmp_path)).mask == 1 << 12
    other = tmp_path / "other"
    other.mkdir()
    assert carried_state(carried_file(other, xfeature=None, msrs="{ A = 0xffffffff }", size_bytes="8")).mask == 0


# Strategies.

WITH_POINTS = [mechanism for mechanism, needs in STRATEGIES.items() if "save_at" in needs]
OTHERS = {
    "zero": ("1", ["msr"]),
    "lazy": ("true", ["msr"]),
    "normal_fpstates": ("true", ["fpstate"]),
    "guest_fpstates": ("true", ["fpstate"]),
    "resident": ("true", ["fpstate"]),
    "late": ("true", ["independent"]),
    "sets_cache": ("false", ["user-return"]),
    "restore": ("0", ["user-return"]),
}


@pytest.mark.parametrize("mechanism", STRATEGIES)
@pytest.mark.parametrize("key", OTHERS)
def test_a_key_is_taken_by_its_mechanism_only(tmp_path, key, mechanism):
    value, belongs_to = OTHERS[key]
    path = strategy_file(tmp_path, mechanism, **{key: value})
    if mechanism in belongs_to:
        strategy(path)
    else:
        assert f"{key} goes with mechanism {belongs_to[0]!r} only, and this one is {mechanism!r}" in refusal(
            strategy, path
        )


@pytest.mark.parametrize("mechanism", WITH_POINTS)
@pytest.mark.parametrize(("key", "points"), [("save_at", SAVE_POINTS), ("load_at", LOAD_POINTS)])
def test_a_mechanism_that_copies_needs_points_to_save_and_to_load(tmp_path, mechanism, key, points):
    for value in (None, "[]"):
        message = refusal(strategy, strategy_file(tmp_path, mechanism, **{key: value}))
        assert f"mechanism {mechanism!r} needs {key}" in message
        assert ", ".join(points) in message


@pytest.mark.parametrize("mechanism", ["none", "fpstate"])
@pytest.mark.parametrize("key", POINTS)
def test_none_and_fpstate_take_no_points(tmp_path, mechanism, key):
    message = refusal(strategy, strategy_file(tmp_path, mechanism, **{key: POINTS[key]}))
    assert f"{key} does not go with mechanism {mechanism!r}" in message


def test_an_fpstate_strategy_puts_the_xfeature_into_some_fpstate(tmp_path):
    assert "needs normal_fpstates or guest_fpstates" in refusal(
        strategy, strategy_file(tmp_path, "fpstate", guest_fpstates="false", resident="true")
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": '""'}, "name is empty"),
        ({"name": '"  "'}, "name is empty"),
        ({"name": r'"a\nb"'}, "one line"),
        ({"save_at": '["vm_entry"]'}, "save_at = 'vm_entry' (allowed: vm_exit,"),
        ({"save_at": '["vm_exit", "sched_out", "vm_exit"]'}, "save_at has a point twice"),
        ({"load_at": '["sched_in", "sched_in"]'}, "load_at has a point twice"),
        ({"save_at": '"vm_exit"'}, "save_at: "),
        ({"needs": '"svm"'}, "needs = 'svm'"),
        ({"zero": "-1"}, "zero = -1 (allowed: 0 to 64"),
        ({"zero": "65"}, "zero = 65 (allowed: 0 to 64"),
        ({"zero": "9" * 4000}, "zero = 99999"),
        ({"zero": "9" * 5000}, "4300 digits"),
        ({"zero": "0x" + "f" * 5000}, "4300 digits"),
        ({"zero": "1.0"}, "zero: "),
        ({"title": "['" + "x" * 5000 + "']"}, "title: "),
        ({"title": "[" * 3000 + "]" * 3000}, "nested too deeply"),
        ({"title": None}, "mine.toml: missing key 'title'"),
        ({"title": None, "titel": "''"}, "mine.toml: unknown key 'titel'; did you mean 'title'?"),
        ({"guard": "'yes'"}, "mine.toml: guard: found 'yes'; allowed: true or false"),
        ({"needs": "true"}, "mine.toml: needs: found true; allowed: a text in quotes"),
        ({"save_at": "[3]"}, "mine.toml: save_at[0]: found 3; allowed: a text in quotes"),
        ({"guard": "True"}, "mine.toml: not TOML: Invalid value (at line "),
        ({"source": None}, "mine.toml: missing key 'source'"),
        ({"sorce": "1"}, "unknown key 'sorce'; did you mean 'source'?"),
        ({"colour": "1"}, "unknown key 'colour' (allowed: "),
        ({"label": '"' + "x" * 500 + '"'}, f"(allowed: one line of {MAX_LABEL} characters at most)"),
        ({"label": r'"a\nb"'}, r"label = 'a\nb' (allowed: one line"),
    ],
    ids=range(27),
)
def test_a_wrong_strategy_file_is_one_line_that_says_what(tmp_path, changes, says):
    assert says in refusal(strategy, strategy_file(tmp_path, "msr", **changes))


@pytest.mark.parametrize(("mechanism", "key"), [("msr", "zero"), ("user-return", "restore")])
def test_a_strategy_writes_no_more_msrs_than_are_carried(tmp_path, mechanism, key):
    boot(Settings(strategy=strategy_file(tmp_path, mechanism, **{key: "3"})))
    with pytest.raises(InputError, match=f"strategy mine: {key} = 4, and cet-s has 3 MSRs"):
        boot(Settings(strategy=strategy_file(tmp_path, mechanism, **{key: "4"})))


def test_an_unknown_mechanism_is_refused_with_those_there_are(tmp_path):
    path = written(tmp_path, 'name = "mine"\ntitle = "t"\nsource = "s"\nmechanism = "msrs"\n')
    assert "mechanism = 'msrs' (allowed: none, msr, msr-list, " in refusal(strategy, path)


# Carried states.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": '""'}, "name is empty"),
        ({"msrs": "{}", "xfeature": None}, "msrs is empty (allowed without an xfeature"),
        ({"msrs": "{}"}, "0 MSRs and 24 bytes (allowed with xfeature 12"),
        ({"short": '"a\\nb"'}, "short is not one line"),
        ({"xfeature": "15", "per_task_msr": "true"}, "per_task_msr = true with an xfeature"),
        ({"msrs": "{ A = -1, B = 2, C = 3 }"}, "msrs.A = -1 (allowed: 0 to 0xffffffff)"),
        ({"msrs": "{ A = 0x100000000, B = 2, C = 3 }"}, "msrs.A = 4294967296 (allowed: 0 to 0xffffffff)"),
        ({"msrs": "{ A = 1, B = 2, C = 0x1 }"}, "msrs.C and msrs.A are both 0x1"),
        ({"msrs": '{ A = 1, "a\\nb" = 2, C = 3 }'}, "msrs has the name 'a\\nb'"),
        ({"msrs": '{ A = 1, "a\\nb" = "2", C = 3 }'}, "'msrs.a\\nb': "),
        ({"msrs": "[1, 2, 3]"}, "msrs: "),
        ({"size_bytes": "0"}, "size_bytes = 0 (allowed: 1 or more)"),
        ({"size_bytes": "-24"}, "size_bytes = -24 (allowed: 1 or more)"),
        ({"xfeature": "11"}, "xfeature = 11 (allowed: 12 (CET_KERNEL), 14 (UINTR), 15 (LBR), 19 (APX), or no xfeature"),
        ({"xfeature": "-1"}, "xfeature = -1 (allowed: 12"),
        ({"xfeature": "9" * 4000}, "xfeature = 999"),
        ({"msrs": "{ A = 1, B = 2 }"}, "2 MSRs and 24 bytes (allowed with xfeature 12: 3 MSRs and 24 bytes)"),
        ({"size_bytes": "32"}, "3 MSRs and 32 bytes (allowed with xfeature 12: 3 MSRs and 24 bytes)"),
        ({"source": None}, "mine.toml: missing key 'source'"),
        ({"clear_by": "{ XOR = 16 }"}, "clear_by without save_by"),
    ],
    ids=range(20),
)
def test_a_wrong_carried_state_file_is_one_line_that_says_what(tmp_path, changes, says):
    assert says in refusal(carried_state, carried_file(tmp_path, **changes))


# Names and paths.


def test_a_name_with_a_slash_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path(strategy_file(tmp_path, "none")).rename(tmp_path / "mine")
    assert strategy(str(path)).name == strategy("./mine").name == "mine"
    assert refusal(strategy, "mine").startswith("unknown strategy 'mine'")
    assert "No such file" in refusal(strategy, "./xstate-guest")


def test_a_file_that_is_empty_gets_no_hint():
    assert refusal(strategy, "/dev/null") == "/dev/null: missing key 'name'"


@pytest.mark.parametrize(("name", "near"), [("xstate-gest", "xstate-guest"), ("lazy", None), ("nil", None), ("", None)])
def test_a_name_is_suggested_only_if_it_is_close(name, near):
    message = refusal(strategy, name)
    assert f"did you mean {near!r}?" in message if near else "did you mean" not in message


def test_why_a_strategy_is_unsound_is_told_by_what_the_host_does(tmp_path):
    sentences = 'unsound = "always"\nunsound_with_host_shadow_stacks = {{ {} = "there" }}\n'.format
    path = Path(strategy_file(tmp_path, "none"))
    text = path.read_text(encoding="utf-8")
    path.write_text(text + sentences("fpstate"), encoding="utf-8")
    how = strategy(str(path))
    assert [how.why_unsound(host) for host in ("off", "fpstate", "return-to-user")] == ["always", "there", "always"]
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(text + sentences("fpstates"), encoding="utf-8")
    assert "'fpstate' or 'return-to-user'" in refusal(strategy, str(wrong))


@pytest.mark.parametrize("command", [["strategies", "--strategy"], ["flow", "preempt", "--strategy"]])
def test_a_wrong_file_is_exit_2_and_one_line_on_standard_error(capsys, tmp_path, command):
    with pytest.raises(SystemExit) as stop:
        main([*command, strategy_file(tmp_path, "none", zero="1")])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.count("\n") == 1
    assert "zero goes with mechanism 'msr' only" in err


# The document.


def test_the_examples_of_the_document_load_and_boot(tmp_path):
    found = {}
    for number, text in enumerate(EXAMPLES):
        path = tmp_path / f"example{number}.toml"
        path.write_text(text, encoding="utf-8")
        if "mechanism" in text:
            how = strategy(str(path))
            found[how.mechanism] = how
            boot(Settings(strategy=str(path)))
        else:
            found["carried"] = carried_state(str(path))
            boot(Settings(carried=str(path), strategy="manual-load"))
    assert set(found) == {"independent", "user-return", "carried"}
    assert found["independent"].late
    assert not found["user-return"].sets_cache


@pytest.mark.parametrize("kind", [strategies.Strategy, carried.CarriedState])
def test_the_document_has_every_key_mechanism_and_point(kind):
    text = DOCUMENT.read_text(encoding="utf-8")
    words = [*kind.__dataclass_fields__, *strategies.MECHANISMS, *SAVE_POINTS, *LOAD_POINTS]
    assert [word for word in words if f"`{word}`" not in text] == []


def test_a_strategy_with_a_shipped_ones_name_is_called_by_its_file_too_and_any_other_by_its_name(tmp_path):
    mine, named = strategy_file(tmp_path, "fpstate", name='"manual-load"'), strategy("manual-load").name
    assert (strategy(mine).name, named) == ("manual-load (mine.toml)", "manual-load")
    assert boot(Settings(strategy=mine)).strategy.name == "manual-load (mine.toml)"
    assert strategy(strategy_file(tmp_path, "fpstate", name='"another"')).name == "another"


def test_a_user_return_msr_that_there_is_not_is_refused_and_all_others_run():
    from sim.kernel import flows
    from sim.kernel.uret import URET_MSRS

    with pytest.raises(InputError, match="unknown user-return MSR 'LSTARS'; did you mean 'LSTAR'"):
        boot(Settings(guest_uret_msrs=("LSTARS",)))
    assert flows.run("preempt", Settings(guest_uret_msrs=URET_MSRS)).operations


def test_a_users_file_that_has_changed_is_read_again(tmp_path):
    for load, file in ((strategy, lambda **keys: strategy_file(tmp_path, "msr", **keys)),
                       (carried_state, lambda **keys: carried_file(tmp_path, **keys))):  # fmt: skip
        for title in ("before", "afterwards"):
            assert load(file(title=f'"{title}"')).title == title


def test_a_label_has_the_characters_that_the_page_allows_and_no_more(tmp_path):
    (most,) = map(int, re.findall(r"`label` \| .* of at most (\d+) characters", DOCUMENT.read_text(encoding="utf-8")))
    assert strategy(strategy_file(tmp_path, "none", label=f'"{"x" * most}"')).label == "x" * most
    assert "label = " in refusal(strategy, strategy_file(tmp_path, "none", label=f'"{"x" * (most + 1)}"'))


def test_what_a_strategy_file_leaves_out_has_the_default_that_the_page_gives(tmp_path):
    """Switches are `false` unless the table gives another default; texts and lists are empty."""
    read = asdict(strategy(strategy_file(tmp_path, "none")))
    for required in ("name", "title", "source", "mechanism"):
        read.pop(required)
    on = {key for key, default in read.items() if default}
    assert {key: read[key] for key in on} == {"sets_cache": True, "restore": 1, "guest_has_cet": True}
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    for key in on:
        (row,) = (line for line in rows if line.startswith(f"| `{key}`"))
        assert f"default: {str(read[key]).lower()} |" in row.replace("`true`", "true")
