"""Mutants within functions, put into a process that has collected the tests already: a few tenths of a second for most.

A child of this process exchanges the code of the functions that the mutant changes, and runs the tests that
:mod:`mutants` has chosen, first those that have found many.  What runs when a module is imported or a test collected
has run without the mutant then, and so have programs that a test starts: only a failure counts.
"""

import functools
import gc
import importlib
import inspect
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType

OPTIONS = ("-x", "-q", "--tb=no", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0")


def exchanged(before, after):
    """The (old, new) codes of the functions that differ; None if what runs at import differs."""

    def inner(code):
        return [each for each in code.co_consts if isinstance(each, CodeType)]

    def without_inner(code):  # nor with the columns in which functions end
        consts = tuple(None if isinstance(each, CodeType) else each for each in code.co_consts)
        return code.replace(co_consts=consts, co_linetable=b"")

    if len(inner(before)) != len(inner(after)) or without_inner(before) != without_inner(after):
        return None
    found = []
    for old, new in zip(inner(before), inner(after), strict=True):
        if old.co_flags & inspect.CO_OPTIMIZED:  # a function
            found += [(old, new)] if old != new else []
        elif (of_class := exchanged(old, new)) is None:
            return None
        else:
            found += of_class
    return found


class Waiting:
    """A pytest plugin: once the tests are collected, it waits for mutants in place of running them."""

    def __init__(self, pipe, modules):
        self.pipe, self.modules = pipe, modules
        self.has_found = Counter()
        self.note = None

    def pytest_collection(self):
        import hypothesis

        # An example that fails is enough: nobody looks at the smallest.
        phases = hypothesis.Phase.explicit, hypothesis.Phase.generate
        hypothesis.settings.register_profile("mutants", phases=phases, database=None, deadline=None)
        hypothesis.settings.load_profile("mutants")

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.note.write_text(report.nodeid)

    def pytest_runtestloop(self, session):
        for module in self.modules:
            importlib.import_module(module)
        gc.unfreeze()
        functions, cached = {}, []
        for each in gc.get_objects():
            if isinstance(each, FunctionType):
                functions.setdefault(each.__code__, []).append(each)
            elif isinstance(each, functools._lru_cache_wrapper) and each.__module__.startswith(("sim", "test")):
                cached.append(each)
        items = {item.nodeid: item for item in session.items}
        gc.freeze()
        self.pipe.send("collected")
        while request := self.pipe.recv():
            path, before, after, names, seconds = request
            pairs = exchanged(*(compile(source, path, "exec", dont_inherit=True) for source in (before, after)))
            ordered = sorted(names, key=lambda name: -self.has_found[name])
            chosen = [items[name] for name in ordered if name in items]
            if pairs is None or not chosen or any(old not in functions for old, _ in pairs):
                self.pipe.send("not here")
                continue
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
                self.note = Path(scratch, "failed")
                if not (child := os.fork()):
                    os.setsid()
                    # What a mutant writes is not kept, nor found by another.
                    os.environ |= {"PYTEST_DEBUG_TEMPROOT": scratch, "XDG_CACHE_HOME": scratch, "HOME": scratch}
                    session.items[:] = chosen
                    run(session, [(function, new) for old, new in pairs for function in functions[old]], cached)
                self.pipe.send(ended(child, seconds))
                if self.note.exists():
                    self.has_found[self.note.read_text()] += 1
        return True


def run(session, changes, cached):
    """Runs the tests in this process, which ends with 0 where all pass, and with 2 where none has run."""
    from _pytest.main import pytest_runtestloop

    has_changed = False
    try:
        for function, code in changes:
            function.__code__ = code  # ValueError: with other variables of an outer function
        for each in cached:
            each.cache_clear()
        has_changed = True
        pytest_runtestloop(session)
    finally:
        os._exit((1 if session.testsfailed else 0) if has_changed else 2)


OUTCOMES = {0: "survived", 1: "killed"}


def ended(child, seconds):
    """What a child says, which may take so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return OUTCOMES.get(os.waitstatus_to_exitcode(status), "not here")
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)  # and what it has started, if it came so far as to lead a group
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "endless"


def enter(folder):
    """Makes this process one of a copy of the checkout, which prints nothing."""
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(folder / "tests")]
    os.environ |= {"PYTHONPATH": f"{folder}:{folder / 'tests'}", "NUMBA_DISABLE_JIT": "1"}
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)


def serve(pipe, folder, files, modules):
    import pytest

    enter(folder)
    pytest.main([*OPTIONS, *files], plugins=[Waiting(pipe, modules)])


class Process:
    """A process with the tests of these files, of a copy of the checkout in ``folder``."""

    def __init__(self, folder, files, modules):
        self.folder = folder
        self.pipe, theirs = multiprocessing.Pipe()
        arguments = (theirs, folder, files, modules)
        self.process = multiprocessing.get_context("fork").Process(target=serve, args=arguments)
        self.process.start()
        theirs.close()
        if self.pipe.recv() != "collected":
            sys.exit("the tests were not collected")

    def judge(self, path, after, names, seconds):
        """survived, killed, endless, or "not here": the mutant is in no function, or none of the tests is here."""
        before = (self.folder / path).read_text(encoding="utf-8")
        self.pipe.send((str(self.folder / path), before, after, names, seconds))
        return self.pipe.recv()

    def close(self):
        self.pipe.send(None)
        self.process.join()
