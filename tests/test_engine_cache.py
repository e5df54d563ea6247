"""The compiled loop is compiled once on a machine, and what is kept of it is whole, whatever happens meanwhile."""

import ast
import os
import random
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from test_engine_limits import SMALL, small

import sim
from sim.engine import cache, choice, loop

ENGINE = Path(cache.__file__).parent


@pytest.fixture
def compiles(monkeypatch):
    """How often the loop is compiled, as far as the choice of an engine goes; numba is there, and may compile."""
    times = []
    monkeypatch.setattr(choice, "find_spec", lambda name: name)
    monkeypatch.delenv(choice.DISABLED, raising=False)
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


CODE = "engine/loop.run-1.py311.1.nbc"
NAMES = ("engine/loop.run-1.py311.nbi", CODE)


def zeroed_page(content):
    return content[:8192] + bytes(4096) + content[12288:]


def flipped_bit(content):
    return content[:9000] + bytes([content[9000] ^ 4]) + content[9001:]


@pytest.fixture
def made(kept):
    """The same with two files of numba's, and the mark."""
    for i, name in enumerate(NAMES):
        (kept / name).parent.mkdir(exist_ok=True)
        (kept / name).write_bytes(random.Random(i).randbytes(16384))
    cache.complete()
    assert cache.is_complete()
    return kept


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "damage", [zeroed_page, flipped_bit, lambda content: content[:-1], lambda content: content + b"\0", None]
)
def test_what_is_kept_and_not_as_it_was_made_is_said_to_be_and_deleted_and_made_again(made, compiles, name, damage):
    if damage is None:
        (made / name).unlink()
    else:
        (made / name).write_bytes(damage((made / name).read_bytes()))
    assert not cache.is_complete()
    (sentence,) = prepared(small())
    assert sentence == f"compiling the loop again, about 15 s: {name} is not as it was made (kept in {made})"
    assert len(compiles) == 1
    with cache.making() as missing:
        assert missing
        assert not list(made.rglob("*.nb?"))
        cache.complete()
    with cache.making() as missing:
        assert not missing


def test_damage_to_the_mark_is_found(made):
    mark = made / cache.COMPLETE
    content = mark.read_bytes()
    for i, byte in list(enumerate(content))[::3]:
        if chr(byte).isspace():
            continue
        mark.write_bytes(content[:i] + bytes([byte ^ 1 << i % 8]) + content[i + 1 :])
        assert not cache.is_complete()
    for end in range(0, len(content), 5):
        mark.write_bytes(content[:end])
        assert cache.damaged() == cache.COMPLETE
    mark.write_bytes(content)
    assert cache.is_complete()


def test_a_file_that_was_kept_later_is_no_reason_to_make_all_again(made):
    later = made / "engine" / "loop.cross-2.py311.1.nbc"
    later.write_bytes(b"later")
    assert cache.is_complete()
    with cache.making() as missing:
        assert not missing
    assert later.exists()


def test_what_a_process_kept_that_did_not_get_to_the_end_is_not_trusted(made, compiles):
    (made / cache.COMPLETE).unlink()
    (sentence,) = prepared(small())
    assert sentence.startswith("compiling the loop, once per machine")
    with cache.making() as missing:
        assert missing
        assert not list(made.rglob("*.nb?"))


def test_all_is_on_the_disk_before_it_is_said_to_be_complete(kept, made, monkeypatch):
    (kept / cache.COMPLETE).unlink()
    synced = {}
    monkeypatch.setattr(cache, "sync", lambda path: synced.update({path: (kept / cache.COMPLETE).exists()}))
    cache.complete()
    before = {made / "engine", *(made / name for name in NAMES)}
    assert synced == dict.fromkeys(before, False) | {made: True}


def test_who_comes_while_another_process_compiles_says_so_and_waits(kept, compiles):
    assert not cache.is_being_made()
    with cache.making():
        assert cache.is_being_made()
        (sentence,) = prepared(small())
    assert sentence == f"waiting for another process that compiles the loop (kept in {kept})"
    assert not cache.is_being_made()


def test_what_a_process_finds_complete_has_been_used(made):
    os.utime(made / cache.COMPLETE, (0, 0))
    assert cache.is_complete()
    assert time.time() - (made / cache.COMPLETE).stat().st_mtime < 3600


def test_a_user_without_a_home_keeps_nothing(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    for variable in (cache.VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert cache.directory.__wrapped__() is None


def test_who_has_waited_for_another_process_finds_what_that_made(made, monkeypatch):
    mark = (made / cache.COMPLETE).read_bytes()
    (made / cache.COMPLETE).unlink()
    monkeypatch.setattr(cache, "flock", lambda *arguments: (made / cache.COMPLETE).write_bytes(mark))
    with cache.making() as missing:
        assert not missing
    assert cache.is_complete()


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


def test_a_process_that_imported_other_sources_has_no_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "new"))
    monkeypatch.setattr(cache, "IMPORTED_AT", 0.0)
    assert cache.is_outdated()
    assert cache.directory.__wrapped__() is None
    assert not (tmp_path / "new").exists()


def test_a_cpu_of_which_proc_says_nothing_has_the_name_that_python_knows(monkeypatch):
    def cannot(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", cannot)
    monkeypatch.setattr(cache.platform, "processor", lambda: "a processor")
    assert cache._cpu() == "a processor"


@pytest.mark.parametrize("name", ["NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"])
def test_code_for_another_target_than_this_cpu_is_kept_apart(monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    here = cache._key()
    monkeypatch.setenv(name, "generic")
    assert cache._key() != here


def test_the_key_covers_every_module_of_the_host_from_which_machine_code_has_constants():
    found = set()
    for path in ENGINE.glob("*.py"):
        tree = ast.parse(path.read_text())
        names = {
            alias.asname or alias.name: {f"{node.module.removeprefix('sim.host.')}.py"}
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sim.host.")
            for alias in node.names
        }
        for each in tree.body:  # constants made from others
            if isinstance(each, ast.Assign | ast.AnnAssign) and each.value is not None:
                targets = each.targets if isinstance(each, ast.Assign) else [each.target]
                made_from = {node.id for node in ast.walk(each.value) if isinstance(node, ast.Name)} & names.keys()
                if made_from:
                    modules = set().union(*(names[name] for name in made_from))
                    names.update((target.id, modules) for target in targets if isinstance(target, ast.Name))
        machine_code = [
            each
            for each in tree.body
            if isinstance(each, ast.FunctionDef)
            and any(isinstance(of, ast.Name) and of.id in ("compiled", "entry") for of in each.decorator_list)
        ]
        if path.name == "layout.py":  # whose numbers all others have
            machine_code = tree.body
        used = {node.id for each in machine_code for node in ast.walk(each) if isinstance(node, ast.Name)}
        found = found.union(*(names[name] for name in used & names.keys()))
    assert found == set(cache.CONSTANTS)


EDITED = """
from pathlib import Path
from sim.engine import cache, choice
source = Path(cache.__file__).with_name("scheduler.py")
{before}
kept = cache.directory()
{after}
cache.complete()
print(kept is not None, cache.is_complete())
choice.prepare((), print, asked=kept is None, here=False)
"""


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("", "", "True True\n"),
        ("source.write_text(source.read_text() + '#')", "", "False False\n"),
        ("", "source.write_text(source.read_text() + '#')", "True False\n"),
    ],
)
def test_a_process_whose_sources_have_changed_since_it_imported_them_marks_no_machine_code_as_complete(
    tmp_path, before, after, found
):
    pytest.importorskip("numba")
    shutil.copytree(Path(sim.__file__).parent, tmp_path / "sim", ignore=shutil.ignore_patterns("__pycache__"))
    ran = subprocess.run(
        [sys.executable, "-c", EDITED.format(before=before, after=after)],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.startswith(found)
    assert ("in memory" in ran.stdout) == ("(sources have changed since this process began)" in ran.stdout)
    assert ("in memory" in ran.stdout) == bool(before)


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


SIMULATED = f"""
from hosts import only
from sim.engine import choice
case = only({SMALL.replace("ENGINE", "compiled")!r})
choice.prepare([case], print)
print(choice.simulate(case, "xstate-guest", (), 0))
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
def test_code_that_is_kept_and_not_whole_is_made_again(tmp_path):
    pytest.importorskip("numba")
    assert lines(start(tmp_path))[-1] == "0 read, 1 made; True"
    for pattern, damage in (("*.nbi", lambda content: content[:5]), ("*.nbc", zeroed_page), ("*.nbc", flipped_bit)):
        (path,) = tmp_path.rglob(pattern)
        path.write_bytes(damage(path.read_bytes()))
        said, how = lines(start(tmp_path))
        assert said.startswith(f"compiling the loop again, about 15 s: {path.relative_to(*tmp_path.iterdir())} is not")
        assert how == "0 read, 1 made; True"
        assert lines(start(tmp_path)) == ["1 read, 0 made; True"]


@pytest.mark.slow
def test_a_run_with_a_zeroed_page_in_the_loop_compiles_it_again_and_has_the_same_records(tmp_path):
    pytest.importorskip("numba")
    (tmp_path / "again.py").write_text(SIMULATED)
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_DISABLE_JIT"}
    kept |= {cache.VARIABLE: str(tmp_path / "kept"), "PYTHONPATH": f"{ENGINE.parent.parent}:{Path(__file__).parent}"}
    run = partial(subprocess.run, [sys.executable, tmp_path / "again.py"], env=kept, text=True, timeout=600)
    first = run(stdout=subprocess.PIPE, check=True).stdout.splitlines()
    (code,) = (tmp_path / "kept").rglob("loop.run-*.nbc")
    code.write_bytes(zeroed_page(code.read_bytes()))
    second = run(stdout=subprocess.PIPE, check=True).stdout.splitlines()
    assert "is not as it was made" in second[0]
    assert first[1:] == second[1:]
    assert run(stdout=subprocess.PIPE, check=True).stdout.splitlines() == first[1:]


@pytest.mark.slow
def test_where_nothing_can_be_kept_the_loop_is_compiled_in_memory_and_the_run_says_so(tmp_path):
    pytest.importorskip("numba")
    (tmp_path / "file").touch()
    said, how = lines(start(tmp_path / "file"))
    assert said.endswith("(no cache directory can be written)")
    assert how == "0 read, 1 made; False"
