"""The types of what the loop has that numba does not know: arrays by name, and whole numbers of 128 bits."""

from __future__ import annotations

import operator
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core.typeconv import Conversion
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model

WORD, DOUBLE = ir.IntType(64), ir.IntType(128)
DIGIT: Final = 21
"""Bits of a digit in long division: a remainder and a digit fit in 64 bits if the divisor is below 2^43."""


class MemoryType(types.Type):  # type: ignore[misc,unused-ignore]
    """The arrays of a replication; ``wide``: with virtual times of 128 bits."""

    def __init__(self, wide: bool = False) -> None:
        self.wide = wide
        super().__init__("WideMemory" if wide else "Memory")


class SectionType(types.Type):  # type: ignore[misc,unused-ignore]
    """One of the arrays, by its place among them; ``wide``: the one with virtual times, where these have 128 bits."""

    def __init__(self, index: int, wide: bool = False) -> None:
        self.index = index
        self.wide = wide
        super().__init__(f"{'Wide' if wide else ''}Section{index}")


@register_model(MemoryType)  # type: ignore[misc,untyped-decorator,unused-ignore]
@register_model(SectionType)  # type: ignore[misc,untyped-decorator,unused-ignore]
class _AddressModel(models.PrimitiveModel):  # type: ignore[misc,unused-ignore]
    def __init__(self, manager: Any, of: Any) -> None:
        super().__init__(manager, of, ir.IntType(64))


class WideType(types.Type):  # type: ignore[misc,unused-ignore]
    """A number of 128 bits, which any other whole number can become."""

    def __init__(self) -> None:
        super().__init__("Wide")

    def can_convert_from(self, typing: Any, other: Any) -> Any:
        """Without loss."""
        return Conversion.safe if isinstance(other, (types.Integer, types.Boolean)) else None


WIDE: Final = WideType()


@register_model(WideType)  # type: ignore[misc,untyped-decorator,unused-ignore]
class _WideModel(models.PrimitiveModel):  # type: ignore[misc,unused-ignore]
    def __init__(self, manager: Any, of: Any) -> None:
        super().__init__(manager, of, DOUBLE)


@lower_cast(types.Integer, WideType)  # type: ignore[misc,untyped-decorator,unused-ignore]
@lower_cast(types.IntegerLiteral, WideType)  # type: ignore[misc,untyped-decorator,unused-ignore]
@lower_cast(types.Boolean, WideType)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _widen(context: Any, builder: Any, of: Any, to: Any, value: Any) -> Any:
    return builder.sext(context.cast(builder, value, of, types.int64), DOUBLE)


def join(builder: Any, low: Any, high: Any) -> Any:
    """The number of two words."""
    above = builder.shl(builder.zext(high, DOUBLE), ir.Constant(DOUBLE, 64))
    return builder.or_(above, builder.zext(low, DOUBLE))


def halves(builder: Any, number: Any) -> tuple[Any, Any]:
    """The two words of a number, the lower one first."""
    return builder.trunc(number, WORD), builder.trunc(builder.ashr(number, ir.Constant(DOUBLE, 64)), WORD)


def _divide(builder: Any, number: Any, divisor: Any) -> Any:
    """Rounded down; the divisor is positive and below 2^43.  LLVM would call a function that may not be there."""
    by, one = builder.trunc(divisor, WORD), ir.Constant(WORD, 1)
    short = builder.trunc(number, WORD)
    fits = builder.icmp_signed("==", builder.sext(short, DOUBLE), number)
    with builder.if_else(fits, likely=True) as (then, otherwise):
        with then:
            quotient = builder.sdiv(short, by)
            rest = builder.sub(short, builder.mul(quotient, by))
            below = builder.icmp_signed("<", rest, ir.Constant(WORD, 0))
            quick = builder.sext(builder.select(below, builder.sub(quotient, one), quotient), DOUBLE)
            from_quick = builder.block
        with otherwise:
            sign = builder.ashr(number, ir.Constant(DOUBLE, 127))
            left, total = builder.xor(number, sign), ir.Constant(DOUBLE, 0)
            rest = ir.Constant(WORD, 0)
            for shift in range(126, -1, -DIGIT):
                digit = builder.trunc(builder.lshr(left, ir.Constant(DOUBLE, shift)), WORD)
                digit = builder.and_(digit, ir.Constant(WORD, (1 << DIGIT) - 1))
                rest = builder.or_(builder.shl(rest, ir.Constant(WORD, DIGIT)), digit)
                quotient = builder.udiv(rest, by)
                rest = builder.sub(rest, builder.mul(quotient, by))
                total = builder.or_(builder.shl(total, ir.Constant(DOUBLE, DIGIT)), builder.zext(quotient, DOUBLE))
            slow = builder.xor(total, sign)
            from_slow = builder.block
    found = builder.phi(DOUBLE)
    found.add_incoming(quick, from_quick)
    found.add_incoming(slow, from_slow)
    return found


def _chosen(relation: str) -> Any:
    return lambda builder, one, other: builder.select(builder.icmp_signed(relation, one, other), one, other)


def _operator(of: Any, make: Any, result: Any) -> None:
    """Makes ``of``, an operator or a function of one or two numbers, work if one of them is wide."""

    @infer_global(of)  # type: ignore[misc,untyped-decorator,unused-ignore]
    class _Operator(AbstractTemplate):  # type: ignore[misc,unused-ignore]
        def generic(self, arguments: Any, keywords: Any) -> Any:
            others = (WideType, types.Integer, types.Boolean)
            if WIDE in arguments and all(isinstance(each, others) for each in arguments):
                return signature(result, *[WIDE] * len(arguments))
            return None

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return make(builder, *values)

    for n in (1, 2):
        lower_builtin(of, *[WideType] * n)(code)


for _of, _make in (
    (operator.add, lambda builder, one, other: builder.add(one, other)),
    (operator.iadd, lambda builder, one, other: builder.add(one, other)),
    (operator.sub, lambda builder, one, other: builder.sub(one, other)),
    (operator.isub, lambda builder, one, other: builder.sub(one, other)),
    (operator.mul, lambda builder, one, other: builder.mul(one, other)),
    (operator.neg, lambda builder, one: builder.neg(one)),
    (operator.floordiv, _divide),
    (min, _chosen("<")),
    (max, _chosen(">")),
):
    _operator(_of, _make, WIDE)
for _of, _relation in (
    (operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">="), (operator.eq, "=="),
    (operator.ne, "!="),
):  # fmt: skip
    _operator(_of, lambda builder, one, other, how=_relation: builder.icmp_signed(how, one, other), types.boolean)


@intrinsic  # type: ignore[misc,untyped-decorator,unused-ignore]
def wide(typing, a):  # type: ignore[no-untyped-def]
    """The same arrays, with virtual times of 128 bits."""
    return MemoryType(wide=True)(a), lambda context, builder, sig, values: values[0]


@intrinsic  # type: ignore[misc,untyped-decorator,unused-ignore]
def is_wide(typing, a):  # type: ignore[no-untyped-def]
    """Whether virtual times have 128 bits; a constant where it is compiled."""
    return types.boolean(a), lambda context, builder, sig, values: ir.Constant(ir.IntType(1), int(a.wide))


@intrinsic  # type: ignore[misc,untyped-decorator,unused-ignore]
def cycles(typing, number):  # type: ignore[no-untyped-def]
    """A number of 128 bits that fits in 64, because it is a wall time."""

    def code(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return halves(builder, values[0])[0] if isinstance(number, WideType) else values[0]

    return types.int64(number), code
