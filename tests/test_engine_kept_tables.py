"""Tables that the compiled engine keeps on the disk: found again, right or not read, and not too many."""

import os
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import engine_mode  # first of all: the loop as plain Python  # noqa: F401
import pytest
from hosts import RICH, changed, from_text

import sim
from sim.engine import build, cache, kept_tables, simulation, table
from sim.engine.table import Points, Table
from sim.engine.transitions import Transitions
from sim.kernel.config import Settings, boot

DIRECTORY = kept_tables.directory  # which tests otherwise do without
STRATEGIES = ("xstate-guest", "manual-load")


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """The directory of the tables, empty; as in a process that has asked nothing yet."""
    monkeypatch.setattr(kept_tables, "directory", lambda: tmp_path)
    monkeypatch.setattr(table, "_tables", {})
    return tmp_path


def simulated(case):
    """The records of a new process."""
    table._tables.clear()
    return simulation.simulate(case, STRATEGIES[0], STRATEGIES, 0)


@pytest.fixture
def case():
    """The host with everything in it, for a moment."""
    return changed(from_text(RICH)[0], measure=1e-3, warmup=0.5e-3)


@pytest.fixture
def asked(monkeypatch):
    """What the kernel model is asked."""
    found, ask = [], Transitions.answer
    monkeypatch.setattr(Transitions, "answer", lambda self, each: found.append(each) or ask(self, each))
    return found


def test_a_process_that_finds_tables_asks_nothing_and_gives_the_same_records(kept, case, asked):
    wanted = simulated(case)
    assert len(list(kept.iterdir())) == len(STRATEGIES)
    assert asked
    asked.clear()
    assert simulated(case) == wanted
    assert asked == []


def test_a_process_goes_on_where_another_ended(kept, case, asked):
    first = changed(case, measure=0.2e-3)
    simulated(first)
    before = len(asked)
    wanted = simulated(case)
    more = len(asked) - before
    assert simulated(case) == wanted
    assert len(asked) == before + more
    for each in kept.iterdir():
        each.unlink()
    asked.clear()
    assert simulated(case) == wanted
    assert more < len(asked)


def test_a_table_that_is_kept_again_has_a_piece_with_the_new_rows_and_is_read_as_the_same(kept, case):
    table._tables.clear()
    for measure in (0.2e-3, 1e-3):
        simulation.simulate(changed(case, measure=measure), STRATEGIES[0], STRATEGIES, 0)
    for key, of in table._tables.items():
        pieces = kept_tables.read(of._name)
        assert len(pieces) == 2
        assert sum(len(piece["uses"]) for piece in pieces) == of.count
        found = Table(boot(key[0]), build.POINTS, integrity=key[1])
        counted = [each for each in range(24) if each not in (2, 17, 18)]  # how often, and prices
        assert (found.rows[: found.count, counted] == of.rows[: of.count, counted]).all()
        for name in ("uses", "keys", "level_keys", "found", "renewed"):
            assert getattr(found, name) == getattr(of, name)
        assert (found.levels[: found._levels] == of.levels[: of._levels]).all()
        assert found.model.kept() == of.model.kept()


def cut(content):
    return content[: len(content) // 2]


def with_a_bit_flipped(content):
    return content[:-20] + bytes([content[-20] ^ 4]) + content[-19:]


def with_another_head(content):
    return b"something else\n" + content


@pytest.mark.parametrize("damage", [cut, with_a_bit_flipped, with_another_head, lambda content: b""])
def test_what_is_not_as_it_was_written_is_not_read_and_written_again(kept, case, asked, damage):
    wanted = simulated(case)
    for path in kept.iterdir():
        path.write_bytes(damage(path.read_bytes()))
    asked.clear()
    assert simulated(case) == wanted
    assert asked
    assert all(kept_tables.read(path.stem) for path in kept.iterdir())
    assert len(list(kept.iterdir())) == len(STRATEGIES)


def test_points_have_other_numbers_in_another_process(kept, case):
    simulated(case)
    for key, of in table._tables.items():
        other = Points(list(reversed(build.POINTS.all)))
        found = Table(boot(key[0]), other, integrity=key[1])
        assert found.count == of.count
        for one, two in zip(of.rows[: of.count].tolist(), found.rows[: of.count].tolist(), strict=True):
            assert build.POINTS.all[one[0] >> 48] == other.all[two[0] >> 48]
            assert one[1] == two[1]
        assert found.model.fragments.values == of.model.fragments.values
        assert found.model.shapes.values == of.model.shapes.values


def test_a_file_is_of_one_kernel_model():
    settings = [Settings(), Settings(strategy="manual-load"), Settings(kernel="v7.3"), Settings(cpu="zen4")]
    names = {kept_tables.name_of(boot(each), integrity=each is settings[0]) for each in (*settings, Settings())}
    assert len(names) == len(settings) + 1
    config = boot(settings[1])
    other = replace(config, strategy=replace(config.strategy, zero=config.strategy.zero - 1))
    assert kept_tables.name_of(other, integrity=True) != kept_tables.name_of(config, integrity=True)


def test_a_file_is_of_one_version_of_the_sources(monkeypatch):
    name = kept_tables.name_of(boot(Settings()), integrity=True)
    monkeypatch.setattr(kept_tables, "_sources", lambda: "others")
    assert kept_tables.name_of(boot(Settings()), integrity=True) != name


def test_each_process_finds_the_same_file():
    script = (
        "from sim.engine import kept_tables; from sim.kernel.config import Settings, boot;"
        "print(kept_tables.name_of(boot(Settings(kernel='v7.3')), integrity=True))"
    )
    names = {
        subprocess.run(
            [sys.executable, "-c", script], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "12"
    }
    assert len(names) == 1


EDITED = """
from pathlib import Path
import sim.kernel.process as process
source = Path(process.__file__)
{edit}
from sim.engine import kept_tables
from sim.kernel.config import Settings, boot
name = kept_tables.name_of(boot(Settings()), integrity=True)
kept_tables.write(name, 1, kept_tables.packed({{"of": "the code in memory"}}))
print(name, kept_tables.read(name))
"""


@pytest.mark.parametrize("edit", ["source.write_text(source.read_text() + '#')", "other.replace(source)"])
def test_a_process_whose_sources_have_changed_since_it_imported_them_keeps_nothing_under_the_hash_of_the_new_ones(
    tmp_path, edit
):
    shutil.copytree(Path(sim.__file__).parent, tmp_path / "sim", ignore=shutil.ignore_patterns("__pycache__"))
    other = tmp_path / "other.py"
    other.write_bytes((tmp_path / "sim/kernel/process.py").read_bytes() + b"#")
    os.utime(other, (0, 0))  # as rsync or tar leave it
    found = []
    for each in (f"other = Path({str(other)!r}); {edit}", ""):
        ran = subprocess.run(
            [sys.executable, "-c", EDITED.format(edit=each)],
            env=os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.append(ran.stdout)
    edited, fresh = found
    assert edited == "None []\n"
    assert fresh.endswith(" [{'of': 'the code in memory'}]\n")
    assert len(list((tmp_path / "cache/tables").iterdir())) == 1


def test_a_table_with_fewer_rows_does_not_replace_one_with_more(kept):
    kept_tables.write("name", 20, kept_tables.packed({"of": "one"}))
    kept_tables.write("name", 20, kept_tables.packed({"of": "another"}))
    assert kept_tables.read("name") == [{"of": "one"}]
    kept_tables.write("name", 21, kept_tables.packed({"of": "another"}))
    assert kept_tables.read("name") == [{"of": "another"}]


def test_tables_that_nobody_has_used_for_longest_go(kept, monkeypatch):
    monkeypatch.setattr(kept_tables, "MOST_BYTES", 3000)
    for i, name in enumerate("abc"):
        kept_tables.write(name, 1, kept_tables.packed({"": os.urandom(800)}))
        os.utime(kept / f"{name}.table", (i, i))
    assert kept_tables.read("a")
    kept_tables.write("d", 1, kept_tables.packed({"": os.urandom(800)}))
    assert sorted(path.stem for path in kept.iterdir()) == ["a", "c", "d"]


def test_what_others_keep_in_the_same_directory_is_not_deleted(kept, monkeypatch):
    monkeypatch.setattr(kept_tables, "MOST_BYTES", 3000)
    (kept / "results.parquet").write_bytes(bytes(4000))
    os.utime(kept / "results.parquet", (0, 0))
    (kept / ".half.table").write_bytes(bytes(4000))
    os.utime(kept / ".half.table", (0, 0))
    (kept / "folder").mkdir()
    kept_tables.write("a", 1, kept_tables.packed({"": os.urandom(800)}))
    assert sorted(path.name for path in kept.iterdir()) == ["a.table", "folder", "results.parquet"]


def test_nothing_is_kept_where_nothing_can_be_written(case, monkeypatch, tmp_path):
    monkeypatch.setattr(kept_tables, "directory", lambda: tmp_path / "not there")
    monkeypatch.setattr(table, "_tables", {})
    assert simulated(case)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_whole_and_no_table_is_not_looked_into_without_its_hash(kept):
    content = zlib.compress(b"not a pickle")
    (kept / "name.table").write_bytes(b"%s 1 %s\n" % (kept_tables.FORMAT, b"0" * 64) + content)
    assert kept_tables.read("name") == []


def test_tables_lie_beside_the_machine_code_of_all_versions(monkeypatch, tmp_path):
    for version in ("engine-a", "engine-b"):
        monkeypatch.setattr(cache, "directory", lambda version=version: tmp_path / version)
        assert DIRECTORY() == tmp_path / "tables"
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]


@pytest.mark.parametrize("machine_code", [None, "engine-a"])
def test_where_no_machine_code_is_kept_or_a_file_is_in_the_way_no_table_is(monkeypatch, tmp_path, machine_code):
    (tmp_path / "tables").touch()
    monkeypatch.setattr(cache, "directory", lambda: machine_code and tmp_path / machine_code)
    assert DIRECTORY() is None
    monkeypatch.setattr(kept_tables, "directory", DIRECTORY)
    kept_tables.write("name", 1, kept_tables.packed({"of": "one"}))
    assert kept_tables.read("name") == []
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]


def test_a_kernel_model_whose_sources_may_be_others_has_no_name(monkeypatch):
    monkeypatch.setattr(cache, "IMPORTED_AT", 0.0)
    monkeypatch.setattr(kept_tables, "_sources", kept_tables._sources.__wrapped__)
    assert kept_tables.name_of(boot(Settings()), integrity=True) is None


@pytest.mark.parametrize("head", [b"another-format 1 00", b"fpswitch-table 1", b"fpswitch-table many 00", b""])
def test_a_file_with_another_head_is_deleted_and_replaced(kept, head):
    path = kept / "name.table"
    path.write_bytes(head + b"\n")
    assert kept_tables.read("name") == []
    assert not path.exists()
    path.write_bytes(head + b"\n")
    kept_tables.write("name", 1, kept_tables.packed({"of": "one"}))
    assert kept_tables.read("name") == [{"of": "one"}]


def test_a_table_that_cannot_be_put_into_its_place_leaves_nothing(kept, monkeypatch):
    def cannot(*paths):
        raise OSError(28, "No space left on device")

    kept_tables.write("name", 1, kept_tables.packed({"of": "one"}))
    monkeypatch.setattr(os, "replace", cannot)
    kept_tables.write("name", 2, kept_tables.packed({"of": "another"}))
    monkeypatch.undo()
    assert [path.name for path in kept.iterdir()] == ["name.table"]


def test_a_configuration_whose_values_have_no_lasting_text_is_an_error():
    with pytest.raises(TypeError, match="a configuration with a object"):
        kept_tables._plain({"of": object()})
