"""What is put in a spool is read again as it was, also by threads, by forked processes and from a copy."""

import copy
import errno
import os
import pickle
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from threading import Event, Thread
from time import sleep

import fake_host
import numpy as np
import pytest
import worlds

import sim
from sim import experiment
from sim.results import load, spool
from sim.results.spool import Spool

SIZES = (0, 1, 1000, spool.IN_MEMORY // 2, spool.IN_MEMORY, 3 * spool.IN_MEMORY, 1, 77)


def filled(values):
    kept = Spool()
    return kept, [kept.array(each) for each in values]


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in SIZES]


def are_there(arrays, values):
    return all(np.array_equal(read(), each) for read, each in zip(arrays, values, strict=True))


@pytest.mark.parametrize("most", [0, 1, 1000, spool.IN_MEMORY, 1 << 40])
def test_what_is_put_there_is_read_as_it_was_in_memory_and_in_a_file(values, most, monkeypatch):
    monkeypatch.setattr(spool, "IN_MEMORY", most)
    kept, arrays = filled(values)
    assert are_there(arrays, values)
    assert are_there(pickle.loads(pickle.dumps(arrays)), values)
    assert are_there(copy.deepcopy(arrays), values)
    kept.close()


_SHARED = []


def _read_and_add(number):
    kept, arrays, values = _SHARED
    for _ in range(20):
        mine = np.full(1000, number)
        if not (np.array_equal(kept.array(mine)(), mine) and are_there(arrays, values)):
            return False
    return True


def test_threads_and_forked_processes_read_and_add_what_is_theirs(values):
    kept, arrays = filled(values)
    _SHARED[:] = kept, arrays, values
    with get_context("fork").Pool(4) as processes:
        of_processes = processes.map_async(_read_and_add, range(8))
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(_read_and_add, range(8, 16)))
        assert all(of_processes.get(60))
    _SHARED.clear()


def test_a_process_forked_while_a_thread_adds_does_not_wait_for_that_thread(monkeypatch):
    original, begun = spool._write, Event()
    monkeypatch.setattr(spool, "IN_MEMORY", 0)

    def slow(file, content, begin):
        begun.set()
        sleep(0.2)
        original(file, content, begin)

    monkeypatch.setattr(spool, "_write", slow)
    kept = Spool()
    thread = Thread(target=kept.put, args=(b"of a thread",))
    thread.start()
    begun.wait()
    if (child := os.fork()) == 0:
        signal.alarm(20)
        os._exit(0 if kept.read(kept.put(b"of a child"), 10) == b"of a child" else 1)
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert kept.read(0, 11) == b"of a thread"


def test_a_comparison_can_be_copied_and_pickled(tmp_path, monkeypatch):
    (tmp_path / "s.toml").write_text(worlds.small(replications=3))
    experiment.run(tmp_path / "s.toml", out=tmp_path / "r", jobs=1, simulate=fake_host.simulate)
    monkeypatch.setattr(spool, "IN_MEMORY", 0)
    comparison = sim.compare(load(tmp_path / "r"))
    answer = comparison.summary()
    for other in (copy.deepcopy(comparison), pickle.loads(pickle.dumps(comparison))):
        assert other.summary() == answer


def test_a_file_that_cannot_be_made_is_named(monkeypatch):
    monkeypatch.setattr(spool, "IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(OSError, match="No usable temporary directory") as found:
        Spool().put(b"some")
    assert found.value.filename == "TMPDIR"


def test_where_the_disk_is_full_the_message_says_what_moves_temporary_files(monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spool, "IN_MEMORY", 0)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"No space left on device \(TMPDIR says where temporary files go") as found:
        Spool().put(b"some")
    assert found.value.filename == tempfile.gettempdir()
    assert found.value.errno == errno.ENOSPC
