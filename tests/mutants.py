"""Mutation testing of the processor, the kernel and the host: is there a test that fails when the code is wrong?

``make coverage`` finds which tests execute which line and how long each takes; ``make mutants`` then draws from all
mutants that cosmic-ray's operators make of ``sim/xsave``, ``sim/kernel`` and ``sim/host``, and runs for each the tests
that execute its line, the quickest first, until one fails. What survives is printed with its difference.
Most mutants are found where the code of a function is exchanged in a process that has the tests already
(:mod:`exchanged`); the others, and what survives there, have a process that imports the mutant.
"""

import argparse
import ast
import importlib
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from queue import SimpleQueue

import exchanged
from coverage import CoverageData
from drawn_mutants import ROOMS, ROOT, all_modules, drawn

MEASURED = ROOT / "build/coverage"
OF_CLASSES = [f"tests/test_frozen.py::test_a_data_class_is_frozen[{room}]" for room in ROOMS]
"""Tests that look at what classes are, and execute no line of them."""
TESTS_S = 60
"""The tests of one mutant take no longer than this without it, the quickest of those that execute its line."""
FIRST_S, FIRST_FILES = 3, 8
"""The first tests, of so few files that pytest has soon read them; most mutants are found by these."""
LEAST_S, PATIENCE = 30, 4
"""A mutant that takes so many seconds, and then so many times as long, is an endless loop, and found."""
LEAST_WARM_S = 10
"""As LEAST_S, where nothing is imported."""
OUTCOMES = {0: "survived", 1: "killed", 2: "killed", 4: "killed"}
"""By pytest's exit status: no test failed, or one; 2 and 4: a test file could not be imported."""
LIBRARIES = ("numpy", "pandas", "scipy.stats", "pyarrow.parquet", "pydantic", "hypothesis", "simpy", "pytest", "click")


class Tests:
    """Which tests execute a line, and how long each takes, as `make coverage` left it."""

    def __init__(self):
        self.data = CoverageData(str(MEASURED / "data"))
        self.data.read()
        self.seconds = {}
        for case in ET.parse(MEASURED / "tests.xml").iter("testcase"):
            name = f"{case.get('classname').replace('.', '/')}.py::{case.get('name')}"
            self.seconds[name] = float(case.get("time"))

    def of(self, mutant):
        """Names of tests and their seconds, the quickest first, and what differs in its parameters alone later.

        What runs when its module is imported, or once and is then cached, is tested by all tests of the module, and by
        those of files that import it, which may look at a constant and execute nothing.
        """
        lines = self.data.contexts_by_lineno(str(ROOT / mutant.path))
        if mutant.line in in_functions(mutant.path) and set(lines.get(mutant.line, ())) - {""}:
            lines = {mutant.line: lines.get(mutant.line, ())}
        else:
            files = importing(".".join(Path(mutant.path).with_suffix("").parts))
            lines[0] = OF_CLASSES + [name for name in self.seconds if name.partition("::")[0] in files]
        found = {name.partition("|")[0] for names in lines.values() for name in names} & set(self.seconds)
        seen, cost = Counter(), {}
        for name in sorted(found, key=self.seconds.get):
            function = name.partition("[")[0]
            seen[function] += 1
            cost[name] = self.seconds[name] * seen[function]
        chosen, total = [], 0.0
        for name in sorted(cost, key=cost.get):
            total += self.seconds[name]
            if chosen and total > TESTS_S:
                break
            chosen.append((name, self.seconds[name]))
        return chosen


@cache
def in_functions(path):
    """The lines that run when a function is called."""
    return {
        line
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        for line in range(node.body[0].lineno, node.end_lineno + 1)
    }


@cache
def importing(module):
    """The test files that import a module."""
    text = re.compile(
        rf"^(?:from {module} import |from {module.rpartition('.')[0]} import .*\b{module.rpartition('.')[2]}\b)", re.M
    )
    return {f"tests/{path.name}" for path in (ROOT / "tests").glob("test_*.py") if text.search(path.read_text())}


def in_two(tests):
    """Tests and their seconds: some quick ones of a few files, and the others."""
    total, files = 0.0, set()
    for number, (name, seconds) in enumerate(tests):
        total += seconds
        files.add(name.partition("::")[0])
        if number and (total > FIRST_S or len(files) > FIRST_FILES):
            return tests[:number], tests[number:]
    return tests, []


def run_tests(folder, names):
    """In a process of its own, which has the libraries already: exits with 0 where all tests pass."""
    import pytest

    os.setsid()
    exchanged.enter(folder)
    listed = folder / "build" / "listed.txt"
    listed.parent.mkdir(exist_ok=True)
    listed.write_text("\n".join(names))
    os._exit(
        int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0", f"@{listed}"]))
    )


def copied(folder):
    """A copy of the checkout, which runs."""
    kept = ("sim", "tests", "scenarios", "docs", "notebooks", "benchmarks", "kmod", "README.md", "pyproject.toml")
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
        elif path.name in kept:
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    if outcome(folder, ["tests/test_masks.py"], 300) != "survived":
        sys.exit("the tests fail without a mutant")
    path = folder / "sim/kernel/masks.py"
    source = path.read_text(encoding="utf-8")
    path.write_text("raise AssertionError\n", encoding="utf-8")
    if outcome(folder, ["tests/test_masks.py"], 300) != "killed":
        sys.exit("the tests do not run the mutants")
    path.write_text(source, encoding="utf-8")
    return folder


def warmed(folder, files, modules):
    """A process that has the tests of these files, which pass."""
    warm, path = exchanged.Process(folder, sorted({*files, "tests/test_masks.py"}), modules), "sim/kernel/masks.py"
    source = (folder / path).read_text(encoding="utf-8")
    wrong = source.replace("return -(-size // unit) * unit", "return size // unit * unit")
    test = "tests/test_masks.py::test_a_guest_fpstate_is_whole_pages_of_its_size_and_64_bytes_before_it[4033-2]"
    for after, expected in ((source, "survived"), (wrong, "killed")):
        if warm.judge(path, after, [test], 60) != expected:
            warm.close()
            sys.exit("the tests do not see what is exchanged")
    return warm


def outcome(folder, names, seconds):
    """What the tests make of the sources in ``folder``; they may take so many seconds."""
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(folder, names))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        os.killpg(process.pid, 9)
        process.join()
        return "endless"
    return OUTCOMES.get(process.exitcode, "not run")


def judge(folder, warm, mutant, tests):
    """killed, survived, endless, "no test" or "not run", and the seconds it took."""
    path, began, found = folder / mutant.path, time.monotonic(), "no test"
    before, chosen = path.read_text(encoding="utf-8"), tests.of(mutant)
    names, seconds = [name for name, _ in chosen], sum(seconds for _, seconds in chosen)
    quick = warm.judge(mutant.path, mutant.source(), names, LEAST_WARM_S + PATIENCE * seconds)
    if quick in ("killed", "endless"):
        return quick, time.monotonic() - began
    path.write_text(mutant.source(), encoding="utf-8")
    try:
        for some in filter(None, in_two(chosen)):
            names, seconds = zip(*some, strict=True)
            found = outcome(folder, names, LEAST_S + PATIENCE * sum(seconds))
            if found != "survived":
                break
        return found, time.monotonic() - began
    finally:
        path.write_text(before, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--most", type=float, default=5.0, help="per cent of them that may survive")
    options = parser.parse_args()
    with ProcessPoolExecutor(1) as elsewhere:
        chosen, number_of_all = elsewhere.submit(drawn, options.number, options.seed).result()
    tests, places, found = Tests(), SimpleQueue(), {}
    for name in LIBRARIES:
        importlib.import_module(name)
    files = sorted({name.partition("::")[0] for mutant in chosen for name, _ in tests.of(mutant)})
    modules = [".".join(Path(path).with_suffix("").parts) for path in all_modules()]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool, ExitStack() as stack:
        for job in range(options.jobs):
            folder = copied(Path(scratch) / str(job))
            warm = warmed(folder, files, modules)
            stack.callback(warm.close)
            places.put((folder, warm))

        def one(mutant):
            place = places.get()
            try:
                found[mutant], seconds = judge(*place, mutant, tests)
            finally:
                places.put(place)
            print(
                f"{len(found):4} {found[mutant]:8} {seconds:5.1f} s  {mutant.path}:{mutant.line} {mutant.operator}",
                flush=True,
            )

        list(pool.map(one, chosen))
    counts = Counter(found.values())
    left = [mutant for mutant in chosen if found[mutant] in ("survived", "no test", "not run")]
    for mutant in left:
        print(f"\n{mutant.path}:{mutant.line}: {mutant.operator}, {found[mutant]}", *mutant.difference(), sep="\n")
    share = 100 * len(left) / len(chosen)
    print(f"\n{len(chosen)} of {number_of_all} mutants (seed {options.seed}): {dict(counts)}; {share:.1f} % survive")
    (ROOT / "build/mutants.json").write_text(
        json.dumps([[m.path, m.line, m.operator, m.occurrence, found[m]] for m in chosen])
    )
    return int(share > options.most)


if __name__ == "__main__":
    sys.exit(main())
