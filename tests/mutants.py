"""Mutation testing of the processor, the kernel and the host: is there a test that fails when the code is wrong?

``make coverage`` finds which tests execute which line and how long each takes; ``make mutants`` then draws from all
mutants that cosmic-ray's operators make of ``sim/xsave``, ``sim/kernel`` and ``sim/host``, and runs for each the tests
that execute its line, the quickest first, until one fails. What survives is printed with its difference.

Not drawn is what no input can show, since it is the language that makes it equal, or that never looks at it:

- changes within annotations, and within protocols, whose methods nobody calls; ``slots=`` of a class;
- ``/`` and other operators for the ``*`` that begins the keyword-only parameters;
- ``is`` for ``==`` (and ``is not`` for ``!=``) with a constant of which Python keeps one object: a string that is a
  name, True, False, None, an integer from -5 to 256, a member of an enumeration.  Whether such a comparison sees the
  difference depends on where the other value was made and not on what the line says.  The result of ``bool()`` is such
  a constant, too.  ``==`` for ``is`` with one that equals nothing else: None, a member of an enumeration.  The same
  between CPUs, threads, tasks, vCPUs, entities of run queues, types and functions, whose classes define no equality;
- another operator or number in an expression of constants that has the same value, such as ``+`` for ``|`` between
  masks without a common bit;
- an order for ``==`` or ``!=`` with a text, where it has the same result for all texts that its Literal type allows:
  ``<=`` with ``"amd"`` for one that allows ``"intel"`` besides;
- ``if TYPE_CHECKING:`` negated; ``not`` where Python's syntax does not allow it.
"""

import argparse
import ast
import difflib
import importlib
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import cache
from inspect import ismodule
from itertools import islice
from operator import eq, ge, gt, le, lt, ne
from pathlib import Path
from queue import SimpleQueue

from coverage import CoverageData

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "build/coverage"
ROOMS = ("xsave", "kernel", "host")
OF_CLASSES = [f"tests/test_frozen.py::test_a_data_class_is_frozen[{room}]" for room in ROOMS]
"""Tests that look at what classes are, and execute no line of them."""
TESTS_S = 60
"""The tests of one mutant take no longer than this without it, the quickest of those that execute its line."""
FIRST_S, FIRST_FILES = 3, 8
"""The first tests, of so few files that pytest has soon read them; most mutants are found by these."""
LEAST_S, PATIENCE = 30, 4
"""A mutant that takes so many seconds, and then so many times as long, is an endless loop, and found."""
OUTCOMES = {0: "survived", 1: "killed", 2: "killed", 4: "killed"}
"""By pytest's exit status: no test failed, or one; 2 and 4: a test file could not be imported."""
LIBRARIES = ("numpy", "pandas", "scipy.stats", "pyarrow.parquet", "pydantic", "hypothesis", "simpy", "pytest", "click")


@dataclass(frozen=True)
class Mutant:
    """One change of one module: the ``occurrence``-th place where the operator applies."""

    path: str
    operator: str
    occurrence: int
    line: int

    def source(self):
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator

        return mutate_code(
            (ROOT / self.path).read_text(encoding="utf-8"), get_operator(self.operator)(), self.occurrence
        )

    def difference(self):
        before = (ROOT / self.path).read_text(encoding="utf-8").splitlines()
        return [
            line
            for line in difflib.unified_diff(before, self.source().splitlines(), lineterm="", n=0)
            if not line.startswith(("---", "+++", "@@"))
        ]


def never_looked_at(tree):
    """The (line, column) spans of annotations, where a change changes nothing that runs, or all imports fail, of
    protocols, of ``slots=`` and of ``TYPE_CHECKING``."""
    for node in ast.walk(tree):
        spans = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.keyword) and node.arg == "slots":
            spans.append(node.value)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            spans.append(node)
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases):
            spans += node.body
        for each in spans:
            if each is not None:
                yield (each.lineno, each.col_offset), (each.end_lineno, each.end_col_offset)


def is_one_object(value):
    """Whether all that equals it and is of its type is, as a rule, this very object."""
    if isinstance(value, str):
        return value.isidentifier()
    return value is None or isinstance(value, (bool, Enum)) or (type(value) is int and -5 <= value <= 256)


def equals_only_itself(value):
    return value is None or (isinstance(value, Enum) and type(value).__eq__ is object.__eq__)


def compared_by_identity(tree):
    """The (line, column) spans of ``is`` between two things, which equal themselves alone, but kinds of exits."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            sides = (node.left, *node.comparators)
            if not any(isinstance(each, ast.Constant) or ast.unparse(each) == "kind" for each in sides):
                yield (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def compared_with(tree, module, is_such):
    """The (line, column) spans of comparisons with a constant, written out or named, of that kind."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                name = ast.unparse(side)
                if isinstance(side, ast.Constant):
                    found = is_such(side.value)
                elif isinstance(side, ast.Call):
                    found = name.startswith("bool(") and is_such(True)
                else:
                    value, *rest = name.split(".")
                    value = vars(module).get(value, module)
                    for each in rest:
                        value = getattr(value, each, module)
                    found = name.rpartition(".")[2].isupper() and is_such(value)
                if found:
                    yield (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


class Computed(ast.NodeTransformer):
    """Puts the value for each expression of numbers and of constants of a module, or of one that it imports."""

    def __init__(self, module):
        self.module = module

    def is_constant(self, node):
        if isinstance(node, ast.BinOp):  # other powers and shifts may be too large to compute
            small = not isinstance(node.op, (ast.Pow, ast.LShift)) or getattr(node.right, "value", 64) in range(64)
            return small and self.is_constant(node.left) and self.is_constant(node.right)
        if isinstance(node, ast.UnaryOp):
            return self.is_constant(node.operand)
        if isinstance(node, ast.Attribute):  # re.ASCII
            return node.attr.isupper() and ismodule(vars(self.module).get(ast.unparse(node.value)))
        return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id.isupper())

    def visit(self, node):
        if isinstance(node, (ast.BinOp, ast.UnaryOp)) and self.is_constant(node):
            try:
                value = eval(ast.unparse(node), dict(vars(self.module)))
            except (ArithmeticError, NameError, TypeError, ValueError):
                return node
            return ast.Constant(value.value if isinstance(value, Enum) else value)
        return self.generic_visit(node)


def module_of(path):
    return importlib.import_module(".".join(Path(path).with_suffix("").parts))


@cache
def alternatives():
    """The sets of values that a Literal type of the simulator allows, perhaps with None."""
    found = []
    for path in (ROOT / "sim").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            optional = isinstance(node, ast.BinOp) and "None" in ast.unparse(node)
            of = node.left if optional else node
            if isinstance(of, ast.Subscript) and ast.unparse(of.value) == "Literal":
                values = {each.value for each in ast.walk(of.slice) if isinstance(each, ast.Constant)}
                found.append(values | {None} if optional else values)
    return found


ORDERS = {ast.Eq: eq, ast.NotEq: ne, ast.Lt: lt, ast.LtE: le, ast.Gt: gt, ast.GtE: ge}


def is_same_of_all_texts(before, after):
    """Whether a text's other comparison has the same result for all values that its type allows."""
    for old, new in zip(ast.walk(before), ast.walk(after), strict=True):
        if isinstance(old, ast.Compare) and type(old.ops[0]) is not type(new.ops[0]):
            text = getattr(old.comparators[0], "value", None)
            one, other = (ORDERS.get(type(each.ops[0])) for each in (old, new))
            values = [value for values in alternatives() if text in values for value in values]
            try:
                return bool(values and isinstance(text, str)) and all(one(x, text) == other(x, text) for x in values)
            except TypeError:  # None, or another operator
                return False
    return False


def is_a_change(mutant):
    """Whether it is Python, and not the same for all values that there are, as far as this program can tell."""
    if not any(each in mutant.operator for each in ("BinaryOperator", "Unary", "Number", "_Eq_", "_NotEq_")):
        return True
    computed, shown = Computed(module_of(mutant.path)), []
    for source in ((ROOT / mutant.path).read_text(encoding="utf-8"), mutant.source()):
        try:
            body = ast.parse(source).body
        except SyntaxError:
            return False
        shown.append([computed.visit(node) for node in body if node.lineno <= mutant.line <= node.end_lineno])
    if "ComparisonOperator" in mutant.operator:
        return not any(map(is_same_of_all_texts, *shown))
    return list(map(ast.dump, shown[0])) != list(map(ast.dump, shown[1]))


def mutants():
    """All mutants, in the order of their modules, which are imported: where that was done no mutant would be run."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    operators = [(name, get_operator(name)) for name in operator_names()]
    operators = [(name, each()) for name, each in operators if not each.arguments() and not name.endswith("/NoOp")]
    found = []
    for path in sorted(path for room in ROOMS for path in (ROOT / "sim" / room).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        module = module_of(path.relative_to(ROOT))
        unseen = list(never_looked_at(tree))
        identity = unseen + list(compared_with(tree, module, is_one_object))
        equality = unseen + list(compared_with(tree, module, equals_only_itself)) + list(compared_by_identity(tree))
        nodes = list(ast_nodes(get_ast(source)))
        for name, operator in operators:
            spans = unseen
            if name.endswith(("_Eq_Is", "_NotEq_IsNot")):
                spans = identity
            elif name.endswith(("_Is_Eq", "_IsNot_NotEq")):
                spans = equality
            places = ((start, node.parent) for node in nodes for start, _ in operator.mutation_positions(node))
            for occurrence, (start, parent) in enumerate(places):
                if parent is not None and parent.type == "parameters":  # the star of keyword-only parameters
                    continue
                if not any(first <= start < last for first, last in spans):
                    found.append(Mutant(str(path.relative_to(ROOT)), name, occurrence, start[0]))
    return found


def drawn(number, seed):
    """So many mutants, and of how many."""
    everything = mutants()
    order = random.Random(seed).sample(everything, len(everything))
    return list(islice((each for each in order if is_a_change(each)), number)), len(everything)


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
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(folder / "tests")]
    os.environ |= {"PYTHONPATH": f"{folder}:{folder / 'tests'}", "NUMBA_DISABLE_JIT": "1"}
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
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


def judge(folder, mutant, tests):
    """killed, survived, endless, "no test" or "not run", and the seconds it took."""
    path, began, found = folder / mutant.path, time.monotonic(), "no test"
    before = path.read_text(encoding="utf-8")
    path.write_text(mutant.source(), encoding="utf-8")
    try:
        for some in filter(None, in_two(tests.of(mutant))):
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
    tests, folders, found = Tests(), SimpleQueue(), {}
    for name in LIBRARIES:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        for job in range(options.jobs):
            folders.put(copied(Path(scratch) / str(job)))

        def one(mutant):
            folder = folders.get()
            try:
                found[mutant], seconds = judge(folder, mutant, tests)
            finally:
                folders.put(folder)
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
