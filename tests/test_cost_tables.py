"""Tables derived from tables, wrong tables, and the command `costs`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import sim
from sim.cli import main
from sim.costs.check import check
from sim.costs.rows import RATIO, CostTable
from sim.costs.table import current, load, names
from sim.errors import InputError

# Tables from tables.


def test_a_derived_table_inherits_rows_and_overrides_those_that_it_has_itself():
    zen4, zen5 = current("zen4"), current("zen5")
    own, inherited = zen5.rows["VM exit/base"], zen5.rows["XSAVEC/written/FP"]
    assert (own.table, inherited.table, inherited.origin) == ("zen5", "zen4", ("zen4:XSAVEC/written/FP",))
    assert own.high < zen4.rows["VM exit/base"].high
    assert inherited.value == zen4.rows["XSAVEC/written/FP"].value
    assert inherited.low < zen4.rows["XSAVEC/written/FP"].low
    assert current("granite-rapids").rows["XSAVEC/base"].table == "sapphire-rapids"  # two steps up, still visible


@pytest.mark.parametrize("name", [name for name in names() if current(name).derived_from])
def test_rows_that_are_drawn_as_one_stay_one_in_a_table_that_inherits_them(name):
    child, parent = current(name), current(current(name).derived_from)
    own = current(name).name
    there = [row.id for row in child.rows.values() if row.priced and row.table != own]
    together = {(a, b) for a in there for b in there if parent.rows[a].factor == parent.rows[b].factor}
    assert len(together) > len(there)
    assert {(a, b) for a in there for b in there if child.rows[a].factor == child.rows[b].factor} == together
    assert all(row.factor in child.rows for row in child.rows.values())


def test_what_was_measured_or_published_for_another_cpu_is_only_derived_for_this_one(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('title = "mine"\ndate = "2026"\nderived_from = "zen4"\ninherited_spread = 0.1\nrows = []\n')
    table = load(file)
    assert not [r for r in table.rows.values() if r.grade == "measured"]
    assert not [r for r in table.rows.values() if r.term == "total"]
    assert {r.grade for r in table.rows.values() if r.term == "reference"} == {"published"}
    assert table.rows[RATIO].grade == "derived"


def test_a_stand_in_follows_a_row_that_the_derived_table_overrides(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'title = "mine"\ndate = "2026"\nderived_from = "sapphire-rapids"\nrows = [\n'
        '{ operation = "XRSTOR", term = "loaded", component = "FP", value = 50, low = 40, high = 60,\n'
        '  grade = "assumed", source = "a test", conditions = "because" } ]\n'.replace("\n  grade", " grade")
    )
    table = load(file)
    assert table.rows["XRSTORS/loaded/FP"].value == 50
    assert table.rows["XRSTORS/loaded/FP"].factor == "XRSTOR/loaded/FP"


# Wrong tables.


def with_row(table: CostTable, row_id: str, **changes) -> CostTable:
    row = replace(table.rows[row_id], **changes)
    return replace(table, rows={**{k: v for k, v in table.rows.items() if k != row_id}, row.id: row})


@pytest.mark.parametrize(
    ("row", "changes", "finding"),
    [
        ("IBPB/base", {"source": ""}, "no source"),
        ("IBPB/base", {"value": 10}, "outside its range"),
        ("IBPB/base", {"low": 3, "high": 2, "value": 2}, "low 3 is above high 2"),
        ("IBPB/base", {"low": -1}, "negative"),
        ("IBPB/base", {"value": float("nan")}, "finite"),
        ("IBPB/base", {"operation": "IPBP"}, "unknown operation 'IPBP'"),
        ("IBPB/base", {"operation": "WRMSR"}, "unknown operation 'WRMSR'"),
        ("IBPB/base", {"term": "written"}, "unknown term 'written'"),
        ("IBPB/base", {"level": "L2"}, "has no buffer"),
        ("IBPB/base", {"clock": "ns"}, "unknown clock"),
        ("IBPB/base", {"distribution": "normal"}, "unknown distribution 'normal'"),
        ("IBPB/base", {"date": "soon"}, "date 'soon'"),
        ("IBPB/base", {"date": "2026-13"}, "date '2026-13'"),
        ("IBPB/base", {"high": 10**400}, "finite"),
        ("IBPB/base", {"high": float("inf")}, "finite"),
        ("IBPB/base", {"operation": "IBPP"}, "did you mean 'IBPB'?"),
        ("IBPB/base", {"grade": "certain"}, "unknown grade"),
        ("IBPB/base", {"conditions": "it seems right"}, "does not say why"),
        ("IBPB/base", {"low": 3000, "high": 3000}, "without a range"),
        ("IBPB/base", {"grade": "published"}, "graded published, but it says 'nobody has'"),
        ("IBPB/base", {"grade": "published", "source": "hearsay", "conditions": ""}, "cannot open 'hearsay'"),
        ("IBPB/base", {"grade": "published", "source": "hearsay, Nov 2019", "conditions": ""}, "cannot open 'hearsay,"),
        ("VM exit/base", {"source": "hearsay"}, "graded derived, but a reader cannot open 'hearsay'"),
        ("IBPB/base", {"grade": "measured", "source": "us", "conditions": "CPU: x; kernel: y"}, "do not say 'method:'"),
        ("IBPB/base", {"grade": "measured", "source": "us", "conditions": "method: a timer"}, "do not say 'CPU:'"),
        ("XGETBV(1)/base", {"source": "measured by us"}, "nothing that a reader can open"),
        ("XGETBV(1)/base", {"conditions": "CPU: x; kernel: y; method: estimated"}, "but it says 'estimated'"),
        ("XGETBV(1)/base", {"conditions": "CPU: x; kernel: y; method: derived from XSAVEC"}, "says 'derived from'"),
        ("IBPB/base", {"grade": "derived"}, "without an origin"),
        ("VM exit/base", {"origin": ("fastpath/reference",)}, "is not a row of this table"),
        ("VM exit/base", {"origin": ("VM exit/base",)}, "its own origin"),
        ("XSAVEC/written/FP", {"component": "X87"}, "unknown component 'X87'"),
        ("XSAVEC/written/FP", {"component": ""}, "takes one component"),
        ("XSAVEC/base", {"component": "FP"}, "takes no component"),
        ("XSAVEC/base@L2", {"level": "L3"}, "unknown level 'L3'"),
        (RATIO, {"operation": "ratio"}, "core cycles cannot be converted"),
        (RATIO, {"low": 0}, "nor a ratio zero"),
    ],
)
def test_check_finds(row, changes, finding):
    problems = check(with_row(current("zen4"), row, **changes))
    assert any(finding in problem for problem in problems), problems
    assert all(problem.startswith("zen4: ") for problem in problems)


ROW = (
    '{ operation = "IBPB", term = "base", value = 5, low = 1, high = 9, grade = "assumed", source = "x", '
    'conditions = "because" }'
)


@pytest.mark.parametrize(
    "source",
    [
        "https://example.org/mail", "github.com/owner/name @9e1ab93", "Linux commit 7649412af3ea", "arXiv:2501.11179",
        "doi:10.1145/3373376.3378474", "20251030224246.3456492-4-seanjc@google.com",
    ],
)  # fmt: skip
def test_check_takes_a_source_that_can_be_opened(source):
    assert check(with_row(current("zen4"), "IBPB/base", grade="published", source=source, conditions="")) == []


HEAD = 'title = "t"\ndate = "2026"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows = [", ["mine.toml"]),
        (HEAD, ["key 'rows' is missing"]),
        (HEAD + "row = []\nrows = []", ["unknown key 'row'", "did you mean 'rows'?", "allowed: "]),
        (HEAD + f"rows = [{ROW.replace('grade', 'garde')}]", ["row 1 (IBPB base)", "'garde'", "did you mean 'grade'?"]),
        (HEAD + f"rows = [{ROW.replace('value = 5, ', '')}]", ["row 1 (IBPB base)", "key 'value' is missing"]),
        (HEAD + f"rows = [{ROW.replace('= 5', '= true')}]", ["row 1 (IBPB base)", "value", "found true"]),
        (HEAD + f"rows = [{ROW.replace('= 5', '= ' + repr('5'))}]", ["value: found '5'; allowed: a number"]),
        (HEAD + "rows = [3]", ["row 1", "found 3"]),
        (HEAD + f"rows = [{ROW.replace('= 5', '= 50')}]\nderived_from = 'zen4'", ["IBPB/base", "outside its range"]),
        (HEAD + f"rows = [{ROW}, {ROW}]\nderived_from = 'zen4'", ["two rows with the key IBPB/base"]),
        (
            HEAD + "rows = [" + ROW.replace('"x"', '"{note}"') + "]\ntexts.nte = 'x'",
            ["row 1, source", "'note'", "'nte'?"],
        ),
        (HEAD + "rows = []\nderived_from = 'zen6'", ["derived_from: unknown cost table 'zen6'", "did you mean 'zen"]),
        (HEAD + "rows = []\nderived_from = '{file}'", ["derived from itself"]),
        (HEAD + "rows = []\nderived_from = 'x.toml'", ["derived_from: 'x.toml': there is no such file beside it"]),
        *(
            (HEAD + f"rows = []\ninherited_spread = {spread}", [f"inherited_spread: found {spread}; allowed: 0 to 1"])
            for spread in ("-0.1", "30.0", "nan")
        ),
        (
            HEAD + "rows = []\nstand_ins = { XSAVES = 'XSAVE_C' }",
            ["stand_ins: unknown operation 'XSAVE_C'", "'XSAVEC'?"],
        ),
        (HEAD + "rows = [\n  3;\n]", ["not TOML: ", "at line 4", ": 3;"]),
        (HEAD + f"rows = [{ROW}]", ["no row core cycles per TSC cycle/ratio"]),
    ],
)
def test_a_wrong_file_gets_one_message_that_says_where_and_what_is_allowed(tmp_path, text, said):
    file = tmp_path / "mine.toml"
    file.write_text(text.replace("{file}", str(file)))
    with pytest.raises(InputError) as error:
        load(file)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in ("mine.toml", *said))


def test_a_table_that_is_not_there_gets_a_message_with_the_nearest_name():
    with pytest.raises(InputError, match="unknown cost table 'zen44'; did you mean 'zen4'"):
        load("zen44")
    with pytest.raises(InputError, match=r"cost table nowhere\.toml: .*No such file"):
        load("nowhere.toml")


def test_a_table_from_which_a_file_is_derived_lies_beside_that_file(tmp_path, monkeypatch):
    (tmp_path / "base.toml").write_text(f'{HEAD}derived_from = "zen4"\nrows = [{ROW}]')
    (tmp_path / "mine.toml").write_text(f'{HEAD}derived_from = "base.toml"\nrows = []')
    monkeypatch.chdir("/")
    assert load(tmp_path / "mine.toml").rows["IBPB/base"].value == 5


def test_a_file_whose_name_does_not_end_in_toml_gets_a_message(tmp_path):
    (tmp_path / "mine.txt").write_text(f'{HEAD}derived_from = "zen4"\nrows = [{ROW}]')
    with pytest.raises(InputError, match=r"must end in \.toml"):
        load(tmp_path / "mine.txt")


def test_a_file_that_is_not_text_gets_a_message(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cost table "):
        load(file)


# The command.


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["costs", *arguments])
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


def test_show_as_json_is_the_name_and_all_rows(capsys):
    status, out, err = run(capsys, "show", "zen4", "--json")
    document = json.loads(out)
    assert (status, err, list(document), document["name"]) == (0, "", ["name", "rows"], "zen4")
    assert [row["id"] for row in document["rows"]] == list(current("zen4").rows)
    assert set(document["rows"][0]) >= {"value", "low", "high", "distribution", "clock", "grade", "source", "date"}


def test_show_as_text_has_every_row_and_every_source(capsys):
    _, out, _ = run(capsys, "show", "zen5")
    assert "VM exit/software" in out
    assert "Linux commit 7649412af3ea" in out
    assert max(map(len, out.splitlines())) <= 115
    headers, row = (out.splitlines()[n].split("  ") for n in (2, 4))
    cells = dict(zip(filter(None, map(str.strip, headers)), filter(None, map(str.strip, row)), strict=True))
    assert (cells["clock"], cells["grade"], cells["written in"]) == ("tsc", "assumed", "zen5")


def test_list_has_every_table(capsys):
    _, out, _ = run(capsys, "list")
    assert all(name in out for name in names())
    document = json.loads(run(capsys, "list", "--json")[1])
    assert [table["name"] for table in document["tables"]] == names()


def test_check_exits_1_on_a_table_with_a_defect_and_0_on_one_without(capsys, tmp_path):
    assert run(capsys, "check", "zen4")[:2] == (
        0,
        "zen4: 205 rows, nothing found\n".replace("205", str(len(current("zen4").rows))),
    )
    file = tmp_path / "mine.toml"
    file.write_text(f'{HEAD}derived_from = "zen4"\nrows = [{ROW.replace("= 5", "= 50")}]')
    status, out, _ = run(capsys, "check", str(file))
    assert (status, out) == (1, "mine: IBPB/base: value 50 is outside its range 1 to 9\n")


def test_diff_shows_the_rows_in_which_two_tables_differ_and_no_others(capsys, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(f'{HEAD}derived_from = "emerald-rapids"\nrows = [{ROW}]')
    document = json.loads(run(capsys, "diff", "emerald-rapids", str(file), "--json")[1])
    assert [row["id"] for row in document["rows"]] == ["IBPB/base"]
    assert document["rows"][0]["b"] == {"value": 5, "low": 1, "high": 9, "clock": "core", "grade": "assumed"}
    assert "no difference" in run(capsys, "diff", "zen4", "zen4")[1]


def test_an_unknown_table_ends_the_command_with_status_2_and_one_line(capsys):
    status, out, err = run(capsys, "show", "zen44")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1


# Tables that lack rows.


HOST = 'title = "t"\n[host]\ncpus = 1\ncpu = ["zen4"]\ncosts = { zen4 = "COSTS" }\n[guests.web]\nvcpus = 1\n'
SHIPPED = Path(sim.__file__).parent / "costs" / "tables"


def run_with(costs, tmp_path, capsys):
    (tmp_path / "host.toml").write_text(HOST.replace("COSTS", str(costs)))
    with pytest.raises(SystemExit) as ended:
        main(["run", str(tmp_path / "host.toml"), "--measure", "1 ms", "--replications", "2", "--no-figures",
              "--out", str(tmp_path / "out")])  # fmt: skip
    return ended.value.code or 0, capsys.readouterr().err


def test_a_run_names_all_rows_that_a_table_of_ones_own_lacks_before_it_begins(tmp_path, capsys):
    lines = (SHIPPED / "zen4.toml").read_text().splitlines(keepends=True)
    kept = [line for line in lines if 'operation = "IBPB"' not in line and 'operation = "KVM_RUN"' not in line]
    (tmp_path / "mine.toml").write_text("".join(kept))
    status, err = run_with(tmp_path / "mine.toml", tmp_path, capsys)
    assert status == 2
    for said in ("host.costs.zen4", "mine.toml", "3 of the rows of zen4", "KVM_RUN/", "IBPB/base", "derived_from"):
        assert said in err
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine.toml").write_text('title = "t"\ndate = "2026"\nderived_from = "zen4"\nrows = []\n')
    status, err = run_with(tmp_path / "mine.toml", tmp_path, capsys)
    assert status == 0, err


def test_a_table_of_ones_own_may_lack_what_only_some_settings_run(tmp_path, capsys):
    lines = (SHIPPED / "zen4.toml").read_text().splitlines(keepends=True)
    some = ("PUSH2", "RDMSRLIST", "VM-exit MSR store(*)", "WRMSR(PMU)", "vPMU sample")
    kept = [line for line in lines if not any(f'operation = "{each}"' in line for each in some)]
    assert len(kept) <= len(lines) - 5
    (tmp_path / "mine.toml").write_text("".join(kept))
    status, err = run_with(tmp_path / "mine.toml", tmp_path, capsys)
    assert status == 0, err
