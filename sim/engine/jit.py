"""What numba needs that Python does not: the decorator, calls back into Python, and reads of an array by its address.

Without numba the same functions run as plain Python, which is slow and gives the same numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.engine.cache import directory
from sim.engine.layout import HIGH, NAMES, SHAPES
from sim.engine.plain import Callback as Callback
from sim.engine.plain import Function

try:
    from llvmlite import ir
    from llvmlite.binding import Linkage
    from numba import _dynfunc, config, njit, types
    from numba.core import codegen
    from numba.core.cpu import CPUContext
    from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_global, signature
    from numba.extending import infer_getattr, intrinsic, lower_builtin, lower_getattr_generic

    from sim.engine import jit_types
    from sim.engine.jit_types import WIDE, MemoryType, SectionType, halves, join

    HAVE_NUMBA: Final = not config.DISABLE_JIT
    KEPT_IN: Final = directory()
    if KEPT_IN is not None:
        config.CACHE_DIR = str(KEPT_IN)
except ImportError:
    HAVE_NUMBA = False  # type: ignore[misc]

WIDTH: Final = 4
"""Numbers in a row of a memory's table: the address, and a length for each of an array's dimensions, at most three."""


class Memory:
    """Arrays of 64-bit numbers by name, as the loop sees them: ``a.c[i, j]`` is the same in Python and in numba.

    numba would pass each array on in seven arguments from function to function, which takes minutes to compile; so a
    compiled function gets the address of a table of addresses and lengths.
    """

    def __init__(self, arrays: dict[str, NDArray[np.int64]]) -> None:
        assert tuple(arrays) == NAMES
        self.arrays = arrays
        self.table = np.zeros((len(NAMES), WIDTH), np.int64)
        self.address = self.table.ctypes.data
        for name, array in arrays.items():
            self.put(name, array)

    def put(self, name: str, array: NDArray[np.int64]) -> None:
        """Replaces the array of this name."""
        assert all(fixed in (0, length) for fixed, length in zip(SHAPES[name], array.shape, strict=True))
        assert array.dtype == np.int64
        assert array.flags.c_contiguous
        self.arrays[name] = array
        setattr(self, name, array)
        self.table[NAMES.index(name), : 1 + array.ndim] = (array.ctypes.data, *array.shape)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # all names are there; this tells type checkers so

    @property
    def handle(self) -> Any:
        """What an entry of the loop takes: the address of the table, or in plain Python the arrays."""
        return self.address if HAVE_NUMBA else self


if HAVE_NUMBA:

    @infer_getattr  # type: ignore[misc,untyped-decorator,unused-ignore]
    class _Attributes(AttributeTemplate):  # type: ignore[misc,unused-ignore]
        key = MemoryType

        def generic_resolve(self, of: Any, name: str) -> Any:
            return SectionType(NAMES.index(name), of.wide and name == "t")

    @lower_getattr_generic(MemoryType)  # type: ignore[misc,untyped-decorator,unused-ignore]
    def _attribute(context: Any, builder: Any, of: Any, value: Any, name: str) -> Any:
        return builder.add(value, ir.Constant(ir.IntType(64), NAMES.index(name) * WIDTH * 8))

    def _virtual(section: Any, index: Any) -> int | None:
        """How many columns farther on the second word of a number of 128 bits is, 0: it has none; None: one of 64."""
        column = index[-1].literal_value if section.wide and isinstance(index[-1], types.Literal) else None
        return HIGH[column] - column if column in HIGH else None

    @infer_global(operator.getitem)  # type: ignore[misc,untyped-decorator,unused-ignore]
    class _GetItem(AbstractTemplate):  # type: ignore[misc,unused-ignore]
        prefer_literal = True

        def generic(self, arguments: Any, keywords: Any) -> Any:
            if isinstance(arguments[0], SectionType):
                return signature(types.int64 if _virtual(*arguments) is None else WIDE, *arguments)
            return None

    @infer_global(operator.setitem)  # type: ignore[misc,untyped-decorator,unused-ignore]
    class _SetItem(AbstractTemplate):  # type: ignore[misc,unused-ignore]
        prefer_literal = True

        def generic(self, arguments: Any, keywords: Any) -> Any:
            if isinstance(arguments[0], SectionType):
                return signature(types.none, *arguments)
            return None

    def _number(builder: Any, address: Any, i: int, *, fixed: bool) -> Any:
        """The ``i``-th number at an address; ``fixed``: it never changes, so it need not be read again."""
        integer = ir.IntType(64)
        base = builder.inttoptr(address, integer.as_pointer())
        found = builder.load(builder.gep(base, [ir.Constant(ir.IntType(32), i)]))
        if fixed:
            found.set_metadata("invariant.load", builder.module.add_metadata([]))
        return found

    def _pointer(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        """Where an item is: rows one after the other."""
        section, index = values[:2]
        of = sig.args[1]
        parts = [index]
        if isinstance(of, types.BaseTuple):
            parts = [builder.extract_value(index, i) for i in range(len(of))]
        each = of if isinstance(of, types.BaseTuple) else [of]
        parts = [context.cast(builder, *pair, types.int64) for pair in zip(parts, each, strict=True)]
        flat, integer = parts[0], ir.IntType(64)
        shape = SHAPES[NAMES[sig.args[0].index]]
        for i, part in enumerate(parts[1:], 1):
            length = ir.Constant(integer, shape[i]) if shape[i] else _number(builder, section, i + 1, fixed=True)
            flat = builder.add(builder.mul(flat, length), part)
        base = builder.inttoptr(_number(builder, section, 0, fixed=True), integer.as_pointer())
        return builder.gep(base, [flat])

    def _apart(builder: Any, access: Any, *names: str) -> Any:
        """Tells LLVM that an access is to this array, and this column of it, and so to no other."""
        module = builder.module
        node = module.add_metadata(["fpswitch"])
        for i in range(len(names)):
            node = module.add_metadata([".".join(names[: i + 1]), node])
        access.set_metadata("tbaa", module.add_metadata([node, node, ir.Constant(ir.IntType(64), 0)]))
        return access

    def _item(builder: Any, sig: Any, access: Any, beyond: int = 0) -> Any:
        """The same of an item; a column that is not a constant may be any of the array's."""
        name, last = NAMES[sig.args[0].index], sig.args[1]
        if isinstance(last, types.BaseTuple):
            last = last[-1]
        column = [str(last.literal_value + beyond)] if isinstance(last, types.Literal) and SHAPES[name][-1] else []
        return _apart(builder, access, name, *column)

    @lower_builtin(operator.getitem, SectionType, types.BaseTuple)  # type: ignore[misc,untyped-decorator,unused-ignore]
    @lower_builtin(operator.getitem, SectionType, types.Integer)  # type: ignore[misc,untyped-decorator,unused-ignore]
    def _get_item(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        where, beyond = _pointer(context, builder, sig, values), _virtual(*sig.args)
        low = _item(builder, sig, builder.load(where))
        if not beyond:
            return low if beyond is None else context.cast(builder, low, types.int64, WIDE)
        high = builder.load(builder.gep(where, [ir.Constant(ir.IntType(64), beyond)]))
        return join(builder, low, _item(builder, sig, high, beyond))

    @lower_builtin(operator.setitem, SectionType, types.BaseTuple, types.Any)  # type: ignore[misc,untyped-decorator,unused-ignore]
    @lower_builtin(operator.setitem, SectionType, types.Integer, types.Any)  # type: ignore[misc,untyped-decorator,unused-ignore]
    def _set_item(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        where, beyond = _pointer(context, builder, sig, values), _virtual(*sig.args[:2])
        value = context.cast(builder, values[2], sig.args[2], WIDE if beyond else types.int64)
        if beyond:
            value, high = halves(builder, value)
            above = builder.gep(where, [ir.Constant(ir.IntType(64), beyond)])
            _item(builder, sig, builder.store(high, above), beyond)
        _item(builder, sig, builder.store(value, where))
        return context.get_dummy_value()

    @intrinsic  # type: ignore[misc,untyped-decorator,unused-ignore]
    def memory(typing, address):  # type: ignore[no-untyped-def]
        """The arrays whose table is at an address."""
        return MemoryType()(types.int64), lambda context, builder, sig, values: values[0]

    wide, is_wide, cycles = jit_types.wide, jit_types.is_wide, jit_types.cycles
    _NARROW: Final[dict[str, Any]] = {
        "Memory": MemoryType(), "int": types.int64, "bool": types.boolean, "Virtual": types.int64,
    }  # fmt: skip
    _WIDE: Final[dict[str, Any]] = {**_NARROW, "Memory": MemoryType(wide=True), "Virtual": WIDE}
    _inner: Final[set[str]] = set()

    def compiled(function: Function) -> Function:
        """Machine code of a function that only other compiled functions call: once, for what its annotations say.

        numba would compile it anew for each constant that somebody gives it.  A function of a run queue may be called
        with :func:`wide` arrays, too, and is compiled once more for these.
        """
        options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        made = njit(error_model="numpy", _nrt=False, **options)(function)
        template, given = (
            made.get_call_template,
            [each for name, each in function.__annotations__.items() if name != "return"],
        )

        def of_declared(arguments: Any, keywords: Any) -> Any:
            declared = _WIDE if arguments[0] == _WIDE["Memory"] else _NARROW
            return template(tuple(declared[each] for each in given), keywords)

        made.get_call_template = of_declared
        _inner.add(function.__name__)
        return made

    def entry(function: Function) -> Function:
        """The same of one that Python calls with whole numbers: it is kept in numba's cache, with all that it calls."""
        made: Function = njit(cache=KEPT_IN is not None, error_model="numpy", _nrt=False)(function)
        return made

    def _call(typing: Any, address: Any, *arguments: Any) -> Any:
        signature = types.int64(types.int64, *[types.int64] * len(arguments))

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            integer = ir.IntType(64)
            function = ir.FunctionType(integer, [integer] * (len(values) - 1))
            return builder.call(builder.inttoptr(values[0], function.as_pointer()), values[1:])

        return signature, code

    @intrinsic  # type: ignore[misc,untyped-decorator,unused-ignore]
    def call(typing, address, kind, a, b, c, d):  # type: ignore[no-untyped-def]
        """Calls the :data:`Callback` at an address."""
        return _call(typing, address, kind, a, b, c, d)

    @intrinsic  # type: ignore[misc,untyped-decorator,unused-ignore]
    def load(typing, address, i):  # type: ignore[no-untyped-def]
        """The ``i``-th 64-bit number of the array at an address."""
        signature = types.int64(types.int64, types.int64)

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            integer = ir.IntType(64)
            base = builder.inttoptr(values[0], integer.as_pointer())
            return _apart(builder, builder.load(builder.gep(base, [values[1]])), "outside")

        return signature, code

    @intrinsic  # type: ignore[misc,untyped-decorator,unused-ignore]
    def load_byte(typing, address, i):  # type: ignore[no-untyped-def]
        """The ``i``-th byte of the array at an address."""
        signature = types.int64(types.int64, types.int64)

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            base = builder.inttoptr(values[0], ir.IntType(8).as_pointer())
            byte = _apart(builder, builder.load(builder.gep(base, [values[1]])), "outside")
            return builder.zext(byte, ir.IntType(64))

        return signature, code

    @intrinsic  # type: ignore[misc,untyped-decorator,unused-ignore]
    def store(typing, address, i, value):  # type: ignore[no-untyped-def]
        """Sets the ``i``-th 64-bit number of the array at an address."""
        signature = types.void(types.int64, types.int64, types.int64)

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            base = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
            _apart(builder, builder.store(values[2], builder.gep(base, [values[1]])), "outside")
            return context.get_dummy_value()

        return signature, code

    def _prefetch(context: Any, builder: Any, where: Any) -> Any:
        """To be read, and to stay in all caches."""
        flag, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        name = f"llvm.prefetch.{'p0' if getattr(byte, 'is_opaque', False) else 'p0i8'}"
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        builder.call(function, [builder.bitcast(where, byte), *[ir.Constant(flag, each) for each in (0, 3, 1)]])
        return context.get_dummy_value()

    @intrinsic  # type: ignore[misc,untyped-decorator,unused-ignore]
    def fetch(typing, section, i):  # type: ignore[no-untyped-def]
        """Tells the CPU that the line of the caches at an item will be used soon."""

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return _prefetch(context, builder, _pointer(context, builder, signature, values))

        return types.none(section, i), code

    @intrinsic  # type: ignore[misc,untyped-decorator,unused-ignore]
    def fetch_number(typing, address, i):  # type: ignore[no-untyped-def]
        """The same of the ``i``-th 64-bit number of the array at an address; there may be none."""

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            base = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
            return _prefetch(context, builder, builder.gep(base, [values[1]]))

        return types.none(types.int64, types.int64), code

    @intrinsic  # type: ignore[misc,untyped-decorator,unused-ignore]
    def comes_before(typing, time, key, other_time, other_key):  # type: ignore[no-untyped-def]
        """Whether an event comes before another one: one comparison, of numbers of 128 bits; no key is negative."""

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            time, key, other_time, other_key = values
            return builder.icmp_signed("<", join(builder, key, time), join(builder, other_key, other_time))

        return types.boolean(*[types.int64] * 4), code

    @intrinsic  # type: ignore[misc,untyped-decorator,unused-ignore]
    def trailing_zeros(typing, word):  # type: ignore[no-untyped-def]
        """The number of the lowest bit that is set in a word that is not 0."""

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

        return types.int64(types.int64), code

    def _all_of(libraries: list[Any]) -> list[Any]:
        """Libraries, and those that they call."""
        found = dict.fromkeys(libraries)
        left = list(found)
        while left:
            for library in left.pop()._linking_libraries:
                if library not in found:
                    found[library] = None
                    left.append(library)
        return list(found)

    @contextmanager
    def _generated_once(name: str) -> Iterator[None]:
        """numba links, optimises and generates each function together with all that it calls, and so the innermost
        ones dozens of times.  Here that is done for the entry of this name only.  A numba in which the patched names
        do not exist takes longer, and gives the same code.

        Nothing is vectorised: loops are over a few tokens or threads, and vectors cost each call of their function.
        """
        library = getattr(codegen, "JITCodeLibrary", None)
        finalize, executable = getattr(library, "finalize", None), getattr(CPUContext, "get_executable", None)
        if library is None or finalize is None or executable is None:
            yield
            return

        def only_entry(self: Any) -> None:
            if self.name in _inner:
                self._finalized = True
                return
            self._linking_libraries[:] = _all_of(self._linking_libraries)
            finalize(self)

        def only_inside(self: Any) -> None:
            for function in self._final_module.functions:
                if not function.is_declaration and function.linkage == Linkage.linkonce_odr:
                    function.linkage = "internal"
            optimise(self)

        def only_of_entry(self: Any, of: Any, fndesc: Any, env: Any) -> Any:
            if of.name not in _inner:
                return executable(self, of, fndesc, env)
            of._ensure_finalized()
            return _dynfunc.make_function(fndesc.lookup_module(), fndesc.qualname, "", 0, env, (of,))

        optimise = library._optimize_final_module
        library._optimize_final_module = only_inside
        library.finalize, CPUContext.get_executable = only_entry, only_of_entry
        vectorised = config.LOOP_VECTORIZE, config.SLP_VECTORIZE
        config.LOOP_VECTORIZE = config.SLP_VECTORIZE = False
        try:
            yield
        finally:
            config.LOOP_VECTORIZE, config.SLP_VECTORIZE = vectorised
            library.finalize = finalize
            library._optimize_final_module = optimise
            CPUContext.get_executable = executable

    def compile_entry(function: Any, arguments: int) -> bool:
        """Compiles an entry for this many integer arguments, or reads it from the cache; True if it is kept there."""
        integers = (types.int64,) * arguments
        if integers in function.signatures:  # compiled by a call, whose file may be deleted by now
            return False
        with _generated_once(function.__name__):
            try:
                function.compile(integers)
            except OSError:  # compiled, but there was no room to write it
                return False
        return True

else:
    from sim.engine.plain import (  # noqa: F401
        call,
        comes_before,
        compile_entry,
        compiled,
        cycles,
        entry,
        fetch,
        fetch_number,
        is_wide,
        load,
        load_byte,
        memory,
        store,
        trailing_zeros,
        wide,
    )
