"""Machine code of other versions goes, in time, and never what is in use."""

import os
import subprocess
import sys
import time
from fcntl import LOCK_EX, flock

from sim.engine import cache


def versions(place, number):
    """Directories of so many other versions, the first used a day ago, and each one a day before that."""
    found = [place / f"engine-{i:016x}" for i in range(number)]
    for i, path in enumerate(found):
        path.mkdir()
        (path / "loop.run-1.py311.nbi").write_bytes(b"code")
        mark = path / cache.COMPLETE if i % 2 else path
        mark.touch()
        os.utime(mark, (time.time() - 86400 * (i + 1),) * 2)
    return found


def test_of_what_other_versions_made_stays_what_was_used_last_or_is_in_use(tmp_path, monkeypatch):
    used, *others = versions(tmp_path, cache.KEPT + 6)
    (tmp_path / f".{others[-1].name}.77").mkdir()
    *_, young, locked, old = others
    (young / cache.COMPLETE).touch()
    monkeypatch.setattr(cache, "directory", lambda: used)
    with open(locked / cache.LOCK, "w") as file:
        flock(file, LOCK_EX)
        os.utime(locked, (0, 0))
        with cache.making() as missing:
            assert missing
    there = {path for path in tmp_path.iterdir() if path != used}
    assert there == {*others[: cache.KEPT - 1], young, locked}
    assert not old.exists()


def test_of_many_versions_none_goes_that_was_used_within_the_hour(tmp_path, monkeypatch):
    used, *others = versions(tmp_path, cache.KEPT + 3)
    for each in others:
        (each / cache.COMPLETE).touch()
    cache.prune(used)
    assert {path for path in tmp_path.iterdir() if path != used} == set(others)


def test_what_has_gone_was_not_used(tmp_path):
    assert cache._last_use(tmp_path / "gone") == 0


def test_of_processes_that_delete_at_once_none_fails_and_no_more_goes(tmp_path):
    used, *others = versions(tmp_path, cache.KEPT + 41)
    text = f"from pathlib import Path; from sim.engine.cache import prune; prune(Path({str(used)!r}))"
    processes = [subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate()[1] for process in processes] == [b""] * 4
    assert set(tmp_path.iterdir()) == {used, *others[: cache.KEPT]}


def test_while_one_process_deletes_another_that_sees_half_of_it_deletes_nothing(tmp_path):
    used, *others = versions(tmp_path, cache.KEPT + 6)
    place = os.open(tmp_path, os.O_RDONLY)
    try:
        flock(place, LOCK_EX)
        cache.prune(used)
        assert set(tmp_path.iterdir()) == {used, *others}
    finally:
        os.close(place)
    cache.prune(used)
    assert set(tmp_path.iterdir()) == {used, *others[: cache.KEPT]}
