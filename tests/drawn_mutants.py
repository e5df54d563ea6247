"""Which changes of the model :mod:`mutants` draws.

Not drawn is what no input can show, since it is the language that makes it equal, or that never looks at it:

- changes within annotations, and within protocols, whose methods nobody calls; ``slots=`` of a class, and ``strict=``
  of zip(), which fails where the program itself is wrong, as an assertion does;
- ``/`` and other operators for the ``*`` that begins the keyword-only parameters;
- ``is`` for ``==`` (and ``is not`` for ``!=``) with a constant of which Python keeps one object: a string that is a
  name, True, False, None, an integer from -5 to 256, a member of an enumeration.  Whether such a comparison sees the
  difference depends on where the other value was made and not on what the line says.  The result of ``bool()`` is such
  a constant, too.  ``==`` for ``is`` with one that equals nothing else: None, a member of an enumeration.  The same
  between CPUs, threads, tasks, vCPUs, entities of run queues, types and functions, whose classes define no equality;
- another operator or number in an expression of constants that has the same value, such as ``+`` for ``|`` between
  masks without a common bit;
- ``>=`` for ``==``, and ``<`` for ``!=``, between a number under a mask and that mask, which no such number exceeds;
- an order for ``==`` or ``!=`` with a text, where it has the same result for all texts that its Literal type allows:
  ``<=`` with ``"amd"`` for one that allows ``"intel"`` besides;
- ``if TYPE_CHECKING:`` negated; ``not`` where Python's syntax does not allow it.
"""

import ast
import difflib
import importlib
import random
from dataclasses import dataclass
from enum import Enum
from functools import cache
from inspect import ismodule
from itertools import islice
from operator import eq, ge, gt, le, lt, ne
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("xsave", "kernel", "host")


@dataclass(frozen=True)
class Mutant:
    """One change of one module: the ``occurrence``-th place where the operator applies."""

    path: str
    operator: str
    occurrence: int
    line: int

    def source(self):
        return changed(self)

    def difference(self):
        before = (ROOT / self.path).read_text(encoding="utf-8").splitlines()
        return [
            line
            for line in difflib.unified_diff(before, self.source().splitlines(), lineterm="", n=0)
            if not line.startswith(("---", "+++", "@@"))
        ]


@cache
def changed(mutant):
    """The source of its module with the change."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = (ROOT / mutant.path).read_text(encoding="utf-8")
    return mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)


def never_looked_at(tree):
    """The (line, column) spans of annotations, where a change changes nothing that runs, or all imports fail, of
    protocols, of ``slots=``, ``strict=`` and ``TYPE_CHECKING``."""
    for node in ast.walk(tree):
        spans = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.keyword) and node.arg in ("slots", "strict"):
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


def is_same_of_all_masks(before, after):
    """Whether a masked number is compared with the mask itself, and now by an order."""
    for old, new in zip(ast.walk(before), ast.walk(after), strict=True):
        if isinstance(old, ast.Compare) and type(old.ops[0]) is not type(new.ops[0]):
            masked = old.left.right if isinstance(old.left, ast.BinOp) and isinstance(old.left.op, ast.BitAnd) else None
            turned = (type(old.ops[0]), type(new.ops[0])) in ((ast.Eq, ast.GtE), (ast.NotEq, ast.Lt))
            return turned and masked is not None and ast.dump(masked) == ast.dump(old.comparators[0])
    return False


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
    try:
        compile(mutant.source(), mutant.path, "exec", dont_inherit=True)
    except SyntaxError:
        return False
    if not any(each in mutant.operator for each in ("BinaryOperator", "Unary", "Number", "_Eq_", "_NotEq_")):
        return True
    computed, shown = Computed(module_of(mutant.path)), []
    for source in ((ROOT / mutant.path).read_text(encoding="utf-8"), mutant.source()):
        body = ast.parse(source).body
        shown.append([computed.visit(node) for node in body if node.lineno <= mutant.line <= node.end_lineno])
    if "ComparisonOperator" in mutant.operator:
        return not any(map(is_same_of_all_texts, *shown)) and not any(map(is_same_of_all_masks, *shown))
    return list(map(ast.dump, shown[0])) != list(map(ast.dump, shown[1]))


def all_modules():
    return sorted(str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / "sim" / room).rglob("*.py"))


def mutants(paths):
    """All mutants of these modules, in their order; they are imported: where that was done no mutant would be run."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    operators = [(name, get_operator(name)) for name in operator_names()]
    operators = [(name, each()) for name, each in operators if not each.arguments() and not name.endswith("/NoOp")]
    found = []
    for path in paths:
        source = (ROOT / path).read_text(encoding="utf-8")
        tree = ast.parse(source)
        module = module_of(path)
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
                    found.append(Mutant(path, name, occurrence, start[0]))
    return found


def drawn(number, seed):
    """So many mutants, and of how many."""
    everything = mutants(all_modules())
    order = random.Random(seed).sample(everything, len(everything))
    return list(islice((each for each in order if is_a_change(each)), number)), len(everything)
