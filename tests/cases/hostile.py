"""Values that callers pass by mistake, by the kind of argument, and what has to become of each."""

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Made(NamedTuple):
    """A value that is made anew for each call, because calls change it."""

    make: Callable[[], Any]


class Kind(NamedTuple):
    """The values of an argument.

    Attributes:
      valid: The value with which the call is valid.
      same: Other spellings of `valid`, which give the same result.
      wrong: Values to refuse by a TypeError or ValueError that names the argument.
      unclear: Values to refuse so, or to take. The result is valid then.
    """

    valid: Any
    same: tuple[Any, ...] = ()
    wrong: tuple[Any, ...] = ()
    unclear: tuple[Any, ...] = ()

    def or_none(self) -> "Kind":
        """Returns the kind of an argument that may be `None` too."""
        wrong = tuple(value for value in self.wrong if value is not None)
        return self._replace(wrong=wrong, unclear=(*self.unclear, None))

    def without(self, *values: Any) -> "Kind":
        """Returns the kind without some of the wrong values, found by their type and value."""
        removed = {(type(value), repr(value)) for value in values}
        wrong = (value for value in self.wrong if (type(value), repr(value)) not in removed)
        return self._replace(wrong=tuple(wrong), unclear=(*self.unclear, *values))


class _Odd:
    def __repr__(self) -> str:
        return "an object"


# What no argument of jaxbox may be.
JUNK: tuple[Any, ...] = (
    *(None, _Odd(), Ellipsis, NotImplemented, ValueError("x"), 1j, np.complex64(1), 10**30),
    *("", "3", "no such", "\0", b"", b"3", bytearray(b"33"), "é" * 5000),
    *([], (), {}, {3}, {3: 3}, [[]], [[1], [1, 2]], [None], {"a": None}, [[[[[1.0]]]]]),
    *(math.nan, np.float32(math.nan), math.inf, -math.inf, Decimal("NaN")),
    *(np.array("3"), np.array([1, None], object), np.array([], np.float32), np.void(b"33")),
    *(np.datetime64("2020-01-01"), Made(lambda: iter([3, 3])), Made(lambda: jax.random.key(0))),
)


def count(valid: int, minimum: int = 1) -> Kind:
    """The values of an integer."""
    return Kind(
        valid,
        same=(np.int64(valid), np.int8(valid), np.uint32(valid)),
        wrong=(
            *JUNK,
            *(True, False, np.True_, float(valid), np.float32(valid), str(valid), valid + 0.5),
            *(Fraction(valid), Decimal(valid), complex(valid), jnp.float32(valid)),
            *([valid], (valid,), np.array([valid]), jnp.array([valid]), np.array(float(valid))),
            *(minimum - 1, np.int64(minimum - 1), -7, -(10**30), 2**63, np.uint64(2**63)),
        ),
        unclear=(minimum, valid + 1, 2 * valid, np.array(valid), jnp.array(valid)),
    )


def flag(valid: bool) -> Kind:
    """The values of an argument that is on or off."""
    return Kind(
        valid,
        same=(np.bool_(valid),),
        wrong=(*JUNK, 0, 1, -1, 0.0, 1.0, np.int8(1), "no", "False", "True", [valid], (valid,)),
        unclear=(not valid, np.array(valid), jnp.array(valid)),
    )


def fraction(valid: float) -> Kind:
    """The values of a number from 0 to 1."""
    return Kind(
        valid,
        same=(np.float64(valid), np.float32(valid), np.float16(valid)),
        wrong=(
            *JUNK,
            *(True, np.False_, -0.1, 1.1, -1, 2, -1e-30, np.float32(1.0001), str(valid), 10**400),
            *([valid], [valid] * 3, np.array([valid]), jnp.array([valid, valid]), complex(valid)),
        ),
        unclear=(0, 1, 0.0, 1.0, np.int8(1), Fraction(1, 2), Decimal("0.5"), jnp.float32(valid)),
    )


def number(valid: float, *, zero: bool = False) -> Kind:
    """The values of a positive number, or of one that may be zero."""
    zeros = (0, 0.0, -0.0, np.float32(0))
    return Kind(
        valid,
        same=(np.float64(valid), np.float32(valid), jnp.float32(valid), np.array(valid)),
        wrong=(
            *JUNK,
            *(True, np.True_, -1, -1e-30, np.float32(-1), 10**400, -(10**400), str(valid)),
            *([valid], np.array([valid]), jnp.array([valid] * 2), complex(valid), jnp.nan),
            *(() if zero else zeros),
        ),
        unclear=(1, 3, np.int8(2), Fraction(1, 2), Decimal("0.5"), *(zeros if zero else ())),
    ).without(10**30)


def choice(valid: Any, *others: Any) -> Kind:
    """The values of one of several names or numbers."""
    text = isinstance(valid, str)
    near = (
        (valid.upper(), valid + " ", valid[:-1], valid.encode()) if text else (float(valid), "-1")
    )
    return Kind(
        valid,
        wrong=(*JUNK, *near, [valid], (valid,), {valid}, 0, 5, True, np.array([valid, valid])),
        unclear=(*others, np.str_(valid) if text else np.int64(valid)),
    )


def sizes(valid: Sequence[int], *others: Any) -> Kind:
    """The values of a size for each axis."""
    first, *rest = valid
    wrong = (
        *((0, *rest), (-3, *rest), (True, *rest), (float(first), *rest), (str(first), *rest)),
        *((None, *rest), ([first], *rest), (math.nan, *rest), (10**30, *rest), (1j, *rest)),
        *((first,) * 4, np.array(valid, float), np.array([valid]), [list(valid)] * 2),
        *("".join(map(str, valid)), bytes(valid), bytearray(valid), dict.fromkeys((5, 7), 1)),
        *({5, 7}, True, np.True_, 0, -1, 3.0, np.float32(3), Made(lambda: iter(valid))),
    )
    return Kind(
        tuple(valid),
        same=(list(valid), tuple(map(np.int64, valid)), [*map(np.uint8, valid)]),
        wrong=(*JUNK, *wrong),
        unclear=(
            *others,
            np.array(valid),
            jnp.array(valid),
            range(3, 5),
            (1,) * len(valid),
            2,
            (3,),
        ),
    )


def padding(valid: Any, *others: Any) -> Kind:
    """The values of a padding of two axes."""
    return Kind(
        valid,
        wrong=(
            *JUNK,
            *("SAMES", "same ", "CAUSAL", b"SAME", True, 1.0, np.float32(1), [1], [1, 1, 1]),
            *([1.0, 1], [(1, 1), (1,)], [(1, 1), (1, 1, 1)], [True, 1], [[[1, 1]], 1], [1, None]),
            *(b"\1\1", {1: 1, 2: 2}, {1, 2}, [(1, "1"), 1], [(1, 1.0), 1], (10**30, 1), 2**63),
        ),
        unclear=(
            *others,
            *(
                "VALID",
                "SAME",
                "same",
                "valid",
                "CIRCULAR",
                "REFLECT",
                "SAME_LOWER",
                0,
                1,
                np.int64(1),
            ),
            *([1, 2], (0, 1), [(1, 2), 3], [[1, 2], (0, 0)], np.array([1, 1]), range(2), -1),
        ),
    )


def dtype(valid: Any = jnp.float32) -> Kind:
    """The values of a floating dtype."""
    spelled = np.dtype(valid)
    junk = tuple(value for value in JUNK if not isinstance(value, np.ndarray | np.generic))
    return Kind(
        valid,
        same=(spelled, spelled.name, spelled.type),
        wrong=(
            *junk,
            *(int, bool, complex, object, str, "int32", "uint8", "bool", "complex64", "float", 32),
            *("f", np.int8, jnp.int32, "float33", [np.float32], (np.float32, 2), "V4", np.ndarray),
        ),
        unclear=(jnp.bfloat16, "float16", jnp.float16, float, "float64", np.array(1.0)),
    ).without("float", "f")


def function(valid: Any, *, optional: bool = False) -> Kind:
    """The values of a function; what a function returns is its author's business."""
    kind = Kind(valid, wrong=(*JUNK, 0, 1.0, True, "zeros", np.ones(3), jnp.ones(3)))
    return kind.or_none() if optional else kind


def rngs() -> Kind:
    """The values of Flax's random keys."""
    return Kind(
        Made(lambda: nnx.Rngs(0)),
        wrong=(
            *JUNK,
            *(0, 1, True, np.ones(2, np.uint32), nnx.Rngs, "params", jax.random.PRNGKey(0)),
            *(
                Made(lambda: np.random.default_rng(0)),
                Made(lambda: nnx.Rngs(dropout=0)),
                {"params": 0},
            ),
        ),
        unclear=(Made(lambda: nnx.Rngs(params=0)), Made(lambda: nnx.Rngs(1, dropout=2))),
    )


def array(
    value: Any,
    *,
    axes: Sequence[int] = (),
    rank: bool = True,
    integer: bool = False,
    listed: bool = True,
) -> Kind:
    """The values of an array of numbers.

    Args:
      value: A valid one.
      axes: The axes whose lengths are fixed.
      rank: Whether the number of axes is fixed.
      integer: Whether the numbers are integers, not floats.
      listed: Whether nested lists are taken too.
    """
    valid = np.asarray(value, np.int32 if integer else np.float32)
    other = valid.astype(float) if integer else np.ones(valid.shape, int)
    strings = np.full(valid.shape, "1")
    junk = tuple(
        v for v in JUNK if listed or not isinstance(v, list) or not v or v[0] is None or v[0] == [1]
    )
    longer = [np.concatenate([valid, np.take(valid, [0], axis)], axis) for axis in axes]
    shorter = [np.delete(valid, 0, axis) for axis in axes]
    other_ranks = [valid[0], valid[None], np.array(1, valid.dtype)] if rank else []
    wrong = (
        *junk,
        *(other, other.tolist(), valid.astype(complex), valid.astype(bool), strings),
        *(strings.tolist(), valid.astype(object), str(valid), valid.astype("S1")),
        *(1.0, True, 0, len),
        *(item for item in (*longer, *shorter, *other_ranks)),
    )
    unclear: tuple[Any, ...] = (
        (valid.astype(np.int64),)
        if integer
        else (
            *(valid.astype(np.float16), valid.astype(np.float64), jnp.asarray(valid, jnp.bfloat16)),
            *(np.full_like(valid, math.nan), np.full_like(valid, math.inf), np.zeros_like(valid)),
            *(-valid, 3e38 * np.sign(valid), 1e-40 * valid),
        )
    )
    same = (valid, jnp.asarray(valid).copy(), *((valid.tolist(),) if listed else ()))
    kind = Kind(jnp.asarray(valid), same=same, wrong=wrong, unclear=unclear)
    return kind if rank else kind.without([[[[[1.0]]]]])


def instance(make: Callable[[], Any], *near: Any) -> Kind:
    """The values of an object of a class, such as a model; `near` is what looks like one."""
    return Kind(Made(make), wrong=(*JUNK, 0, 1.0, True, jnp.ones((2, 4)), len, *near))
