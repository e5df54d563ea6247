"""The compiled loop is compiled once on a machine, and what is kept of it is whole, whatever happens meanwhile."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_engine_limits import small

from sim.engine import cache, choice, loop

ENGINE = Path(cache.__file__).parent


@pytest.fixture
def compiles(monkeypatch):
    """How often the loop is compiled, as far as the choice of an engine goes; numba is there."""
    times = []
    monkeypatch.setattr(choice, "find_spec", lambda name: name)
    monkeypatch.setattr(loop, "compile_all", lambda: times.append(1))
    return times


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """An empty cache directory."""
    monkeypatch.setattr(cache, "directory", lambda: tmp_path)
    return tmp_path


def prepared(*cases, **how):
    """What is said where these cases are going to be simulated."""
    said = []
    choice.prepare(cases, said.append, **how)
    return said


@pytest.mark.parametrize(
    ("found", "engine", "asked"), [(None, "compiled", True), ("numba", "simpy", False)], ids=["no numba", "not wanted"]
)
def test_nothing_is_compiled_without_numba_or_for_nobody(monkeypatch, compiles, found, engine, asked):
    monkeypatch.setattr(choice, "find_spec", lambda name: found)
    assert prepared(small(engine), asked=asked) == []
    assert compiles == []


def test_the_loop_is_compiled_once_and_where_it_is_kept_is_said(kept, compiles):
    (sentence,) = prepared(small())
    assert sentence == f"compiling the loop, once per machine and version: about 15 s (kept in {kept})"
    assert len(compiles) == 1
    cache.complete()
    assert prepared(small(), asked=True) == []
    assert len(compiles) == 1


def test_who_comes_while_another_process_compiles_says_so_and_waits(kept, compiles):
    assert not cache.is_being_made()
    with cache.making():
        assert cache.is_being_made()
        (sentence,) = prepared(small())
    assert sentence == f"waiting for another process that compiles the loop (kept in {kept})"
    assert not cache.is_being_made()


@pytest.mark.parametrize("here", [True, False])
def test_without_a_cache_directory_whoever_simulates_compiles_in_memory(monkeypatch, compiles, here):
    monkeypatch.setattr(cache, "directory", lambda: None)
    (sentence,) = prepared(asked=True, here=here)
    assert sentence.startswith("compiling the loop in memory: about 15 s in each process")
    assert len(compiles) == here
    with cache.making():
        assert not cache.is_being_made()
    cache.complete()
    cache.clear()
    assert not cache.is_complete()


def test_where_files_cannot_be_locked_nobody_waits(kept, monkeypatch):
    def cannot(*arguments):
        raise OSError("No locks available")

    monkeypatch.setattr(cache, "flock", cannot)
    with cache.making(), cache.making():
        assert not cache.is_being_made()


def test_a_cache_directory_that_cannot_be_made_is_none(monkeypatch, tmp_path):
    pytest.importorskip("numba")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "new"))
    made = cache.directory.__wrapped__()
    assert made is not None
    assert made.parent == tmp_path / "new"
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "below"))
    assert cache.directory.__wrapped__() is None


def test_a_cpu_of_which_proc_says_nothing_has_the_name_that_python_knows(monkeypatch):
    def cannot(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", cannot)
    monkeypatch.setattr(cache.platform, "processor", lambda: "a processor")
    assert cache._cpu() == "a processor"


def test_the_key_covers_every_module_of_the_host_from_which_machine_code_has_constants():
    found = set()
    for path in ENGINE.glob("*.py"):
        tree = ast.parse(path.read_text())
        names = {
            alias.asname or alias.name: f"{node.module.removeprefix('sim.host.')}.py"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sim.host.")
            for alias in node.names
        }
        machine_code = [
            each
            for each in tree.body
            if isinstance(each, ast.FunctionDef)
            and any(isinstance(of, ast.Name) and of.id in ("compiled", "entry") for of in each.decorator_list)
        ]
        if path.name == "layout.py":  # whose numbers all others have
            machine_code = tree.body
        used = {node.id for each in machine_code for node in ast.walk(each) if isinstance(node, ast.Name)}
        found |= {names[name] for name in used & names.keys()}
    assert found == set(cache.CONSTANTS)


# With processes and a compiler, of which one small entry of the loop is enough.

ONE_ENTRY = """
import sys
from sim.engine import cache, choice, loop
loop.ENTRIES = ((loop.schedule_event, 5),)
choice.prepare((), print, asked=True)
loop.compile_all()
stats = loop.schedule_event.stats
print(sum(stats.cache_hits.values()), "read,", sum(stats.cache_misses.values()), "made;", cache.is_complete())
"""


def start(directory):
    """A process that needs the entry."""
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_DISABLE_JIT"}
    return subprocess.Popen(
        [sys.executable, "-c", ONE_ENTRY],
        env=kept | {cache.VARIABLE: str(directory), "PYTHONPATH": str(ENGINE.parent.parent)},
        stdout=subprocess.PIPE,
        text=True,
    )


def lines(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return out.splitlines()


@pytest.mark.slow
def test_of_many_processes_that_start_on_an_empty_cache_one_compiles_and_all_others_read(tmp_path):
    pytest.importorskip("numba")
    found = [lines(each) for each in [start(tmp_path) for _ in range(5)]]
    assert sorted(each[-1] for each in found) == ["0 read, 1 made; True", *["1 read, 0 made; True"] * 4]
    assert all(len(each) <= 2 for each in found)
    (first,) = [each for each in found if each[-1].startswith("0 read")]
    assert first[0].startswith("compiling the loop, once per machine and version")


@pytest.mark.slow
def test_what_is_kept_and_not_whole_is_made_again(tmp_path):
    pytest.importorskip("numba")
    assert lines(start(tmp_path))[-1] == "0 read, 1 made; True"
    (index,) = tmp_path.rglob("*.nbi")
    index.write_bytes(index.read_bytes()[:5])
    assert lines(start(tmp_path))[-1] == "0 read, 1 made; True"
    assert lines(start(tmp_path)) == ["1 read, 0 made; True"]


@pytest.mark.slow
def test_where_nothing_can_be_kept_the_loop_is_compiled_in_memory_and_the_run_says_so(tmp_path):
    pytest.importorskip("numba")
    (tmp_path / "file").touch()
    said, how = lines(start(tmp_path / "file"))
    assert said.endswith("(no cache directory can be written)")
    assert how == "0 read, 1 made; False"
