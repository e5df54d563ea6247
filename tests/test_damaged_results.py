"""A damaged result directory is one message that names what is wrong, in every kind of damage."""

import copy
import io
import json
import random
import re
import shutil
import tarfile
from pathlib import Path

import fake_host
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import run as run_command

import sim
from sim import experiment
from sim.analysis.uncertainty.report import read_cases
from sim.errors import InputError
from sim.results import load
from sim.results import manifest as manifests
from sim.results.tables import SCHEMAS

OF_0_1 = Path(__file__).parent / "data" / "results-0.1.0.tar.xz"
"""A result directory that fpswitch 0.1.0 wrote."""

WRONG = (None, True, -1, 0, 1e300, 10**40, "", " ", "zen4", "a\nb", "\x1b[2J", [], ["all"], {}, {"constant": 1}, [[1]])
"""What no key of a manifest can be all of."""


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """The directory of 0.1.0, which has no hashes that would find everything at once."""
    place = tmp_path_factory.mktemp("old")
    with tarfile.open(OF_0_1) as archive:
        archive.extractall(place, filter="data")
    return place / "results-0.1.0"


@pytest.fixture
def copied(old, tmp_path):
    return Path(shutil.copytree(old, tmp_path / "copied"))


def refusal(directory):
    with pytest.raises(InputError) as caught:
        load(directory)
    return clear(str(caught.value), directory)


def clear(message, directory):
    assert str(directory) in message
    assert message.isprintable()
    assert len(message) < 500 + len(str(directory))
    return message.replace(str(directory), "DIR")


def test_results_of_0_1_0_are_read_with_a_note_and_repeated(old, tmp_path, capsys):
    results = load(old)
    assert len(results.notes) == 1
    assert "0.1.0" in results.notes[0]
    status, out, err = run_command(capsys, "compare", str(old))
    assert (status, err.count("without hashes"), err.count("\n")) == (0, 1, 1)
    assert "manual-load" in out
    again = experiment.run(old / "manifest.json", jobs=1, simulate=fake_host.simulate)
    assert again.costs == results.costs
    assert [case["strategies"] for case in again.cases] == [case["strategies"] for case in results.cases]
    assert any("was made with" in note for note in again.notes)


def test_tables_that_a_run_replaces_while_they_are_checked_are_those_of_the_manifest(copied, monkeypatch):
    path, check = copied / "metrics.parquet", manifests.check_files
    wanted = load(copied).metrics
    table = pq.read_table(path)
    pairs = zip(table["metric"].to_pylist(), table["value"].to_pylist(), strict=True)
    values = pa.array([value + (metric == "vm_exits") for metric, value in pairs], pa.float64())
    i = table.schema.get_field_index("value")
    pq.write_table(table.set_column(i, table.schema.field(i), values), other := copied / "other")

    def checks(*arguments):
        check(*arguments)
        other.replace(path)

    monkeypatch.setattr(manifests, "check_files", checks)
    found = load(copied)
    assert not other.exists()
    assert found.metrics.equals(wanted)


# The manifest.


def places(node, path=()):
    """Every place in a JSON document."""
    if path:
        yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*path, key))


def changed(document, path, value):
    found = copy.deepcopy(document)
    at = found
    for key in path[:-1]:
        at = at[key]
    if value is KeyError:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return found


def test_no_wrong_value_anywhere_in_a_manifest_gets_past_loading_to_where_it_breaks_something(copied):
    document = json.loads((copied / "manifest.json").read_text())
    chosen = random.Random(1)
    all_places = [path for path in places(document) if "resolved" not in path]
    refused = 0
    for path in chosen.sample(all_places, 40):
        for value in chosen.sample((*WRONG, KeyError), 2):
            damaged = changed(document, path, value)
            if damaged == document:
                continue
            (copied / "manifest.json").write_text(json.dumps(damaged))
            try:
                results = load(copied)
            except InputError as error:
                clear(str(error), copied)
                refused += 1
            else:  # something that nobody reads, or another right value
                sim.compare(results).df_integrity()
                read_cases(results)
    assert refused > 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((("status",), "done"), "status: Input should be 'running', 'complete'"),
        ((("replications",), 0), "replications: Input should be greater than or equal to 1, found 0"),
        ((("replications",), 2), "row 95 of .*, 2.: no replication of this strategy"),
        ((("replications",), 4), "is there 9 of 12 times, and not for .* replication 3"),
        ((("cases", 0, "tsc_hz"), "2 GHz"), r"cases\[0\]\.tsc_hz: Input should be a valid number, found '2 GHz'"),
        ((("cases", 0, "tsc_hz"), -2e9), r"cases\[0\]\.tsc_hz: Input should be greater than 0"),
        ((("cases", 0, "reference"), "no-cet"), "unknown reference 'no-cet'"),
        ((("cases", 0, "strategies", 1), "free-ssp"), "strategy 'free-ssp' is there 2 times"),
        ((("cases", 0, "cost_table"), "zen4"), "lacks the cost table 'zen4' of case 'sapphire-rapids v6.18'"),
        ((("cases", 0, "cost_table_sha256"), "0" * 64), "is not the table of the run"),
        ((("cases", 0, "settings", "manual-load", "strategy"), "by hand"), "unknown strategy 'by hand'"),
        ((("cases", 0, "settings", "manual-load", "guest_xss"), 7), "guest IA32_XSS 0x7"),
        ((("resolved", "host", "hz"), 100), "'resolved' is not what the run wrote"),
        ((("resolved", "title"), "another"), "resolved.title is not that of the scenario"),
        ((("cases", 0, "resolved", "guests", "web", "vcpus"), "2"), "resolved.guests is not that of the scenario"),
        ((("cases", 0, "resolved", "threads"), []), r"cases\[0\]\.resolved\.threads: Input should be a valid dict"),
        ((("versions",), {}), r"versions\.fpswitch: Field required"),
        ((("format",), "fpswitch results 3"), "not the manifest of a result directory"),
    ],
    ids=lambda change: ".".join(map(str, change[0])) if isinstance(change, tuple) else "",
)
def test_what_is_wrong_in_a_manifest_is_named(copied, change, message):
    document = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(changed(document, *change)))
    with pytest.raises(InputError, match=message):
        load(copied)
    refusal(copied)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a": NaN}', b'{"a": "\\ud800"}', b"[" * 100_000, b"1" * 5000, b"{}"],
    ids=["empty", "cut", "list", "null", "utf-16", "nan", "surrogate", "deep", "long number", "no keys"],
)
@pytest.mark.parametrize("name", ["manifest.json", "costs.json"])
def test_what_is_no_document_of_ours_is_one_message(copied, name, content):
    (copied / name).write_bytes(content)
    assert name in refusal(copied)


# The cost tables.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((("sapphire-rapids",), 7), "sapphire-rapids: not a cost table"),
        ((("sapphire-rapids", "rows"), {}), "rows: Input should be a valid array"),
        ((("sapphire-rapids", "rows", 3), None), "row 4: Input should be an object"),
        ((("sapphire-rapids", "rows", 3, "value"), "7"), "row 4, value: Input should be a valid"),
        ((("sapphire-rapids", "rows", 5, "low"), 1e9), "row 6 .*low 1000000000.0 is above high"),
        ((("sapphire-rapids", "rows", 3, "clock"), KeyError), "row 4, clock: Field required"),
        ((("sapphire-rapids", "rows", 3, "factor"), "none"), "the factor 'none', which is not one of its rows"),
        ((("sapphire-rapids", "rows", 0), KeyError), "no row 'core cycles per TSC cycle/ratio'"),
        ((("sapphire-rapids", "title"), "another"), "is not the table of the run"),
        ((("sapphire-rapids",), KeyError), "lacks the cost table 'sapphire-rapids'"),
    ],
    ids=lambda change: ".".join(map(str, change[0])) if isinstance(change, tuple) else "",
)
def test_what_is_wrong_in_a_cost_table_is_named(copied, change, message):
    document = json.loads((copied / "costs.json").read_text())
    (copied / "costs.json").write_text(json.dumps(changed(document, *change)))
    assert "DIR/costs.json" in refusal(copied)
    with pytest.raises(InputError, match=message):
        load(copied)


# The tables.


def rewritten(directory, name, change):
    frame = pd.read_parquet(directory / f"{name}.parquet")
    found = change(frame)
    schema = SCHEMAS[name].remove(1)  # 0.1.0 had no timed_by
    table = pa.Table.from_pandas(frame if found is None else found, schema=schema, preserve_index=False)
    pq.write_table(table, directory / f"{name}.parquet")


def put(column, value, row=7):
    def change(frame):
        frame.loc[row, column] = value

    return change


def moved(frame):
    """A cycle from one row to the next: all sums stay."""
    frame.loc[0, "count"] += 100
    frame.loc[0, "cycles"] += 1
    frame.loc[1, "cycles"] -= 1


def rows(*values):
    return lambda frame: pd.DataFrame([("sapphire-rapids v6.18", "free-ssp", 0, *values)], columns=frame.columns)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "ledger",
            put("case", "zen6 v6.18"),
            r"row 8 of \d+ .'zen6 v6.18'.*no replication of this strategy in this case",
        ),
        ("ledger", put("strategy", "no-cet"), "row 8 .*'no-cet'.*no replication"),
        ("metrics", put("replication", 3), "row 8 .*no replication"),
        ("metrics", put("replication", -1), "row 8 .*no replication"),
        ("ledger", put("count", -1), "row 8 .*count is not in its range .allowed: 0 to 9007199254740992., found -1"),
        ("ledger", put("cycles", 1 << 62), "row 8 .*cycles is not in its range"),
        ("ledger", put("cycles", 1), "the operations of .* took .* cycles, and by metrics.parquet"),
        ("ledger", put("rfbm", -5), "row 8 .*rfbm is not in its range"),
        ("ledger", put("level", "L3"), "row 8 .*level is none of nothing, L1, L2, memory, found 'L3'"),
        ("ledger", put("thread_kind", "guest"), "row 8 .*thread_kind is none of user, vcpu, kthread, idle"),
        ("ledger", put("operation", "XSAVE9"), "row 8 .*unknown operation 'XSAVE9'"),
        ("ledger", moved, r"row 1 of \d+: .* times, is .* cycles, and by costs.json"),
        ("ledger", lambda frame: frame.drop(frame.index[3]), "took .* cycles, and by metrics.parquet"),
        ("ledger", lambda frame: pd.concat([frame, frame.tail(1)]), "a second row of this thread_kind"),
        (
            "ledger",
            lambda frame: pd.concat([frame, frame.head(1)]),
            r"row (\d+) of \1 .*a second row of this thread_kind",
        ),
        ("metrics", put("value", np.inf), "row 8 .*value is not in its range .*, found inf"),
        (
            "metrics",
            lambda frame: frame.drop(frame.index[3]),
            "is there 8 of 9 times, and not for sapphire-rapids v6.18",
        ),
        ("metrics", lambda frame: frame[frame["metric"] != "elapsed_cycles"], "no 'elapsed_cycles'"),
        ("metrics", lambda frame: frame[frame["metric"] != "guest_cycles"], "metrics of the results lack guest_cycles"),
        ("metrics", lambda frame: frame.head(0), "nothing of sapphire-rapids v6.18, free-ssp, replication 0"),
        ("latency", rows("vcpu", 64, 64, 1), "row 1 of 1 .*low is not below high"),
        ("latency", rows("task", 64, 72, 1), "row 1 of 1 .*histogram is none of vcpu, thread, found 'task'"),
        ("latency", rows("vcpu", 64, 72, -1), "row 1 of 1 .*count is not in its range"),
        ("integrity", rows("theft", 1), "row 1 of 1 .*kind is none of"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(copied, name, change, message):
    rewritten(copied, name, change)
    with pytest.raises(InputError, match=message) as caught:
        sim.compare(load(copied)).df_metrics()
    clear(str(caught.value), copied)


def test_a_table_that_would_fill_the_memory_is_refused_before_it_is_read(copied):
    path = copied / "ledger.parquet"
    row = pq.read_table(path).slice(0, 1)
    many = pa.concat_tables([row]).take(pa.array(np.zeros(200_000, dtype=np.int64)))
    pq.write_table(many, path, compression="zstd")
    assert path.stat().st_size < 30_000
    assert "200000 rows (allowed: up to 90000, for a run of 9 parts)" in refusal(copied)
    long = row.set_column(row.schema.names.index("phase"), row.schema.field("phase"), pa.array(["x" * 100_000_000]))
    pq.write_table(long, path, compression="zstd")
    assert path.stat().st_size < 30_000
    assert "bytes, unpacked, (allowed: up to 90000000, for a run of 9 parts)" in refusal(copied)


def test_what_is_not_a_number_is_named(copied):
    table = pq.read_table(copied / "metrics.parquet")
    values = table["value"].to_numpy().copy()
    values[7] = np.nan
    pq.write_table(table.set_column(5, SCHEMAS["metrics"].field("value"), pa.array(values)), copied / "metrics.parquet")
    assert "row 8 " in (message := refusal(copied))
    assert "found nan" in message


OTHER_COLUMNS = {
    "renamed": (lambda table, last: table.rename_columns([*table.schema.names[:-1], "worth"]),
                "no column '{last}', which the {name} table has"),
    "type": (lambda table, last: table.set_column(table.num_columns - 1, last, table[last].cast(pa.float32())),
             r"column {last} is float \(allowed: (int64|double)\)"),
    "null": (lambda table, last: pa.concat_tables([table, one_row(table), one_row(table)]),
             r"column case has 2 empty values \(allowed: none\)"),
    "one null": (lambda table, last: pa.concat_tables([table, one_row(table)]),
                 r"column case has 1 empty value \(allowed: none\)"),
    "more": (lambda table, last: table.append_column("more\n", pa.nulls(len(table))),
             r"column 'more\\n', which the {name} table does not have"),
    "order": (lambda table, last: table.select(table.schema.names[::-1]),
              "columns in another order than case, strategy, replication, .*{last}"),
}  # fmt: skip


def one_row(table):
    """A row of a table without its case."""
    return pa.Table.from_pylist(
        [{field.name: "" if field.type == pa.string() else 0 for field in table.schema} | {"case": None}], table.schema
    )


@pytest.mark.parametrize("kind", OTHER_COLUMNS)
@pytest.mark.parametrize("name", SCHEMAS)
def test_other_columns_than_the_documented_ones_are_named(copied, name, kind):
    """Arrow writes them: with pandas, since 3.0, the type of the first text alone would be refused."""
    change, message = OTHER_COLUMNS[kind]
    path = copied / f"{name}.parquet"
    table = pq.read_table(path)
    table = table.cast(pa.schema([field.with_nullable(True) for field in table.schema]))
    pq.write_table(table, path)
    load(copied)  # what is not changed is no damage
    last = table.schema.names[-1]
    pq.write_table(change(table, last), path)
    assert re.fullmatch(f"DIR/{name}.parquet: {message.format(name=name, last=last)}", refusal(copied))


def test_a_table_with_bytes_changed_is_one_message_or_the_same_table(copied):
    chosen = random.Random(2)
    refused = 0
    for name in SCHEMAS:
        whole = (copied / f"{name}.parquet").read_bytes()
        before = pd.read_parquet(copied / f"{name}.parquet")
        for _ in range(12):
            content = bytearray(whole)
            for _ in range(chosen.randint(1, 4)):
                content[chosen.randrange(len(content))] = chosen.randrange(256)
            cut = chosen.choice([len(content), chosen.randrange(len(content))])
            (copied / f"{name}.parquet").write_bytes(bytes(content[:cut]))
            try:
                results = load(copied)
            except InputError as error:
                clear(str(error), copied)
                refused += 1
            else:
                assert len(getattr(results, name)) == len(before)
                read_cases(results)
        (copied / f"{name}.parquet").write_bytes(whole)
    assert refused > 30


# With hashes.


@pytest.mark.parametrize("name", ["manifest.json", "costs.json", *(f"{name}.parquet" for name in SCHEMAS)])
def test_any_change_of_a_file_of_todays_form_is_found(old, tmp_path, name):
    out = tmp_path / "r"
    experiment.run(old / "manifest.json", jobs=1, simulate=fake_host.simulate, out=out)
    whole = (out / name).read_bytes()
    chosen = random.Random(3)
    for at in chosen.sample(range(len(whole)), 8):
        other = bytes([whole[at] ^ 1 << chosen.randrange(7)])
        if name == "manifest.json" and whole[at : at + 1].isspace() and other.isspace():
            continue
        (out / name).write_bytes(whole[:at] + other + whole[at + 1 :])
        refusal(out)
    (out / name).write_bytes(whole)
    load(out)
    (out / name).unlink()
    refusal(out)


def test_a_manifest_that_names_a_file_elsewhere_is_refused(old, tmp_path):
    experiment.run(old / "manifest.json", jobs=1, simulate=fake_host.simulate, out=tmp_path / "r")
    document = manifests.read(tmp_path / "r")
    for place in ("../secret", "/etc/passwd", "inputs/../../secret"):
        manifests.write(tmp_path / "r", {**document, "files": {**document["files"], place: "0" * 64}})
        assert "below the directory" in refusal(tmp_path / "r")


def test_the_archive_is_what_0_1_0_wrote():
    with tarfile.open(OF_0_1) as archive:
        manifest = archive.extractfile("results-0.1.0/manifest.json")
        document = json.load(io.TextIOWrapper(manifest))
    assert document["versions"]["fpswitch"] == "0.1.0"
    assert document["format"] == manifests.FORMAT_OF_0_1
