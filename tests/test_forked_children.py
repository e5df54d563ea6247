"""A lock ends with the process that took it, also where children that were forked from it live on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import worlds
from command import run as run_command

from sim.errors import InputError
from sim.results.lock import Lock

SMALL = worlds.small(replications=6)
HERE = Path(__file__).parent
DRIVER = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from sim import experiment
from sim.experiment.design import Design

def waits(*work):
    time.sleep(600)

def says(number):
    print(os.getpid(), flush=True)
    time.sleep(600)

scenario, out = sys.argv[1:]
fork = multiprocessing.get_context("fork")
"""
FORKS = {
    "an executor": """
def says_and_waits(*work):
    says(0)

experiment.run(scenario, out=out, executor=ProcessPoolExecutor(1, fork), simulate=says_and_waits)
""",
    "an executor for a design": """
def says_and_waits(*work):
    says(0)

executor = ProcessPoolExecutor(1, fork)
experiment.run_design(scenario, Design.parsed("lhs:2", ["host.cpus=2..9"]), out, executor=executor,
                      simulate=says_and_waits)
""",
    "multiprocessing": """
def forks(*work):
    fork.Process(target=says, args=(0,)).start()
    time.sleep(600)

experiment.run(scenario, out=out, jobs=1, simulate=forks)
""",
}


@pytest.mark.parametrize(
    "kind", ["an executor", "multiprocessing", pytest.param("an executor for a design", marks=pytest.mark.slow)]
)
def test_forked_children_of_a_killed_driver_do_not_keep_its_lock(kind, scenario, tmp_path, capsys):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER + FORKS[kind], scenario, tmp_path / "r"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        child = int(driver.stdout.readline())
        design = ["--design", "lhs:2", "--range", "host.cpus=2..9"] if "design" in kind else []
        command = ["run", scenario, "--jobs", "1", *design, "--out", tmp_path / "r"]
        status, _, error = run_command(capsys, *command)
        assert (status, f"process {driver.pid} on" in error) == (2, True)
        driver.kill()
        driver.wait()
        status, _, error = run_command(capsys, *command)
        os.kill(child, 0)  # it is still there
        assert (status, "has a run in progress" in error) == (0, False)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.stdout.close()


def test_a_forked_child_neither_ends_the_lock_of_its_parent_nor_has_it(tmp_path):
    with Lock(tmp_path / "r") as lock, Lock(tmp_path / "second"):
        child = os.fork()
        if not child:
            lock.release()
            os._exit(len(_descriptors(tmp_path)))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(_descriptors(tmp_path)) == 2
        for name in ("r", "second"):
            with pytest.raises(InputError, match="has a run in progress"):
                Lock(tmp_path / name)
    with Lock(tmp_path / "r"), Lock(tmp_path / "second"):
        pass


def _descriptors(place):
    """Those of this process that are files of a directory."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            if os.readlink(each).startswith(f"{place}{os.sep}"):
                found.append(int(each.name))
        except OSError:  # the one that reads the directory
            pass
    return found
