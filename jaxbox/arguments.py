"""Checks of arguments that operations, layers, blocks and optimizers share.

Each function names the argument, its value and what is allowed. A value of the wrong kind is a
`TypeError`, one out of range a `ValueError`.
"""

import math
import numbers
import operator
from collections.abc import Collection, Sequence
from typing import Any, Final, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

__all__ = [
    "check_callable",
    "check_choice",
    "check_count",
    "check_dtype",
    "check_feature_group_count",
    "check_flag",
    "check_fraction",
    "check_key",
    "check_number",
    "check_padding",
    "check_precision",
    "check_rngs",
    "check_sequence",
    "is_sequence",
    "is_traced",
    "sizes_per_axis",
    "to_array",
    "to_real",
]

# No axis can be longer: indices are int32.
_LARGEST_COUNT: Final = 2**31 - 1

# The names of paddings that `jaxbox_kernels.common.conv` knows.
_PADDINGS: Final = ("SAME", "VALID", "SAME_LOWER", "CIRCULAR", "REFLECT")
_PADDINGS_ALONG_ONE_AXIS: Final = (*_PADDINGS, "CAUSAL")
_TRANSPOSED_PADDINGS: Final = ("SAME", "VALID", "CIRCULAR")


def is_traced(value: Any) -> bool:
    """Tells whether a value is only known when a compiled function runs."""
    return isinstance(value, jax.core.Tracer)


def check_count(name: str, value: Any, *, minimum: int = 1) -> int:
    """Checks an integer and returns it as an `int`.

    Raises:
      TypeError: `value` is not an integer; `True` and 3.0 are none.
      ValueError: `value` is below `minimum`, or above what an axis can have.

    Example:
      >>> from jaxbox.arguments import check_count
      >>> check_count("num_boxes", 4)
      4
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}.") from None
    if count < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}.")
    if count > _LARGEST_COUNT:
        raise ValueError(f"{name} must be at most {_LARGEST_COUNT}, got {value!r}.")
    return count


def check_number(name: str, value: Any, *, may_be_zero: bool = False) -> Any:
    """Checks that a number is positive and finite, as far as it is known, and returns it.

    Numbers of Python and NumPy are returned as `float`, arrays of JAX as they are.

    Args:
      name: The name of the argument, for the error message.
      value: A real number or a scalar array. Only the shape and dtype of a traced one are checked.
      may_be_zero: Whether 0 is allowed too.

    Raises:
      TypeError: `value` is not a real number.
      ValueError: `value` is out of range.

    Example:
      >>> from jaxbox.arguments import check_number
      >>> check_number("gain", 2.5)
      2.5
    """
    allowed = "finite and not negative" if may_be_zero else "positive and finite"
    if not _is_real(value):
        raise TypeError(f"{name} must be a real number, {allowed}, got {value!r}.")
    if not is_traced(value):
        number = _to_float(value)
        if not math.isfinite(number) or number < 0 or (number == 0 and not may_be_zero):
            raise ValueError(f"{name} must be {allowed}, got {value}.")
    # JAX would promote to NumPy's dtypes, and refuses large integers.
    return value if isinstance(value, jax.Array) else _to_float(value)


def check_fraction(name: str, value: Any) -> None:
    """Checks a number from 0 to 1.

    Raises:
      TypeError: `value` is not a real number.
      ValueError: `value` is out of range.

    Example:
      >>> from jaxbox.arguments import check_fraction
      >>> check_fraction("dropout", 0.25)
    """
    # Fractions are real numbers too, and traced numbers cannot be compared.
    real = _is_real(value) or isinstance(value, numbers.Rational)
    if not real or isinstance(value, bool) or is_traced(value):
        raise TypeError(f"{name} must be a number from 0 to 1, got {value!r}.")
    # JAX would trace a comparison of its arrays.
    if not 0 <= _to_float(value) <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value}.")


def check_flag(name: str, value: Any) -> bool:
    """Checks a boolean and returns it.

    Raises:
      TypeError: `value` is not a boolean; "no" and 1 are none.

    Example:
      >>> from jaxbox.arguments import check_flag
      >>> check_flag("use_bias", False)
      False
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}.")
    return bool(value)


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Checks that a value is one of those allowed, and of the same type.

    Raises:
      ValueError: It is not.

    Example:
      >>> from jaxbox.arguments import check_choice
      >>> check_choice("pooling", "floor", ("floor", "ceil"))
    """
    # Values that cannot be compared or hashed, such as arrays, are none of the choices.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        allowed = ", ".join(map(str, choices))
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")


def check_dtype(name: str, dtype: DTypeLike | None) -> None:
    """Checks that a dtype is a real floating one.

    Raises:
      TypeError: It is not, or `dtype` is no dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.arguments import check_dtype
      >>> check_dtype("param_dtype", jnp.bfloat16)
    """
    # NumPy takes `None` for float64, and an array for its dtype.
    is_dtype = dtype is not None and not isinstance(dtype, jax.Array | np.ndarray | np.generic)
    try:
        found = jnp.dtype(dtype) if is_dtype else None
    except (TypeError, ValueError):
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise TypeError(f"{name} must be floating, got {found or repr(dtype)}.")


def check_callable(name: str, value: Any) -> None:
    """Checks that a function, such as an initializer, is one.

    Raises:
      TypeError: `value` cannot be called.
    """
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}.")


def check_rngs(rngs: Any, *streams: str) -> None:
    """Checks that random keys for parameters can be drawn, as from `flax.nnx.Rngs`.

    Args:
      rngs: The random keys.
      *streams: The streams that are needed besides `params`.

    Raises:
      TypeError: They cannot.
    """
    for stream in ("params", *streams):
        if not callable(getattr(rngs, stream, None)):
            raise TypeError(
                f"rngs must be flax.nnx.Rngs with a stream `{stream}` or a default one, such as "
                f"nnx.Rngs(0); got {rngs!r}."
            )


def sizes_per_axis(
    name: str, sizes: int | Sequence[int], rank: int | None = None
) -> tuple[int, ...]:
    """Returns an argument as one size for each spatial axis.

    Args:
      name: The name of the argument, for the error message.
      sizes: One size for every axis, or one for each.
      rank: The number of spatial axes, or `None` if `sizes` decides it: one to three.

    Returns:
      The sizes.

    Raises:
      TypeError: A size is not an integer.
      ValueError: There are not `rank` sizes, or one is below 1.

    Example:
      >>> from jaxbox.arguments import sizes_per_axis
      >>> sizes_per_axis("dilation", 2, rank=3)
      (2, 2, 2)
    """
    expected = "1 to 3 positive sizes" if rank is None else f"{rank} positive sizes"
    message = f"{name} must be {expected}, got {sizes!r}."
    each = [sizes] * (rank or 1) if _is_integer(sizes) else sizes
    if not is_sequence(each) or not all(map(_is_integer, each)):
        raise TypeError(message)
    counts = tuple(map(int, each))
    lengths = (1, 2, 3) if rank is None else (rank,)
    if len(counts) not in lengths or min(counts) < 1 or max(counts) > _LARGEST_COUNT:
        raise ValueError(message)
    return counts


def check_feature_group_count(
    in_features: int, out_features: int, count: int
) -> tuple[int, int, int]:
    """Checks that a number of groups divides the channels of the input and of the output.

    Returns:
      The three numbers, as `int`.

    Raises:
      TypeError: A number is not an integer.
      ValueError: `count` does not divide the channels, or a number is below 1.
    """
    inputs = check_count("in_features", in_features)
    outputs = check_count("out_features", out_features)
    groups = check_count("feature_group_count", count)
    if inputs % groups or outputs % groups:
        raise ValueError(
            "feature_group_count must divide in_features and out_features; got "
            f"{groups}, {inputs} and {outputs}."
        )
    return inputs, outputs, groups


def check_padding(padding: Any, rank: int, *, transposed: bool = False) -> Any:
    """Checks the padding of a convolution and returns it in Python's numbers.

    Args:
      padding: A name, or a number of pixels for all sides, or for each axis a number or a pair
        (before, after). Numbers may be negative, which crops. As in JAX, the names that JAX knows
        may be written small.
      rank: The number of spatial axes.
      transposed: Whether the convolution is transposed, which knows fewer names.

    Returns:
      The name, the number, or a list of numbers and pairs.

    Raises:
      TypeError: `padding` is of another kind.
      ValueError: The name is unknown, a number is too large, or there are not `rank` numbers or
        pairs.

    Example:
      >>> from jaxbox.arguments import check_padding
      >>> check_padding([1, (0, 2)], 2)
      [1, (0, 2)]
    """
    names: tuple[str, ...] = _PADDINGS_ALONG_ONE_AXIS if rank == 1 else _PADDINGS
    if transposed:
        names = _TRANSPOSED_PADDINGS
    message = (
        f"padding must be one of {', '.join(names)}, a number, or for each of the {rank} axes a "
        f"number or a pair of numbers; got {padding!r}."
    )
    if isinstance(padding, str):
        known = padding.upper() in {"SAME", "VALID", "SAME_LOWER"} & set(names)
        if padding not in names and not known:
            raise ValueError(message)
        return padding
    pads = [padding] if _is_integer(padding) else padding
    if not is_sequence(pads):
        raise TypeError(message)
    pairs = [pad for pad in pads if not _is_integer(pad)]
    if not all(isinstance(p, tuple | list) and all(map(_is_integer, p)) for p in pairs):
        raise TypeError(message)
    numbers = [n for pad in pads for n in ([pad] if _is_integer(pad) else pad)]
    if any(len(pair) != 2 for pair in pairs) or any(abs(int(n)) > _LARGEST_COUNT for n in numbers):
        raise ValueError(message)
    if _is_integer(padding):
        return int(padding)
    if len(pads) != rank:
        raise ValueError(message)
    return [int(pad) if _is_integer(pad) else tuple(map(int, pad)) for pad in pads]


def check_precision(precision: Any) -> None:
    """Checks the precision of products: what `jax.lax.dot_general` takes.

    Raises:
      TypeError: `precision` is of another kind.
      ValueError: The name is unknown.

    Example:
      >>> from jaxbox.arguments import check_precision
      >>> check_precision("highest")
    """
    each = precision if isinstance(precision, tuple | list) and len(precision) == 2 else [precision]
    for value in each:
        if value is None or isinstance(value, lax.DotAlgorithm | lax.DotAlgorithmPreset):
            continue
        message = (
            "precision must be None, a jax.lax.Precision or its name, or a pair of them; got "
            f"{precision!r}."
        )
        if not isinstance(value, str | lax.Precision):
            raise TypeError(message)
        if value not in lax.DotAlgorithmPreset.__members__:
            try:
                lax.Precision(value)
            except (KeyError, ValueError):
                raise ValueError(message) from None


def check_key(name: str, value: Any) -> None:
    """Checks a random key of JAX, of the new or of the old kind.

    Raises:
      TypeError: It is none.

    Example:
      >>> import jax
      >>> from jaxbox.arguments import check_key
      >>> check_key("key", jax.random.key(0))
    """
    is_key = False
    if isinstance(value, jax.Array | np.ndarray):
        new = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        is_key = value.ndim == 0 if new else value.ndim == 1 and value.dtype == np.uint32
    if not is_key:
        raise TypeError(f"{name} must be a random key, as from jax.random.key; got {value!r}.")


def check_sequence(name: str, value: Any, elements: str) -> None:
    """Checks a sequence, such as a tuple, a list or an array, but not a text.

    Args:
      name: The name of the argument, for the error message.
      value: The sequence.
      elements: What the elements are, in the plural, for the error message.

    Raises:
      TypeError: `value` is no sequence; a set, an iterator and a text are none.

    Example:
      >>> from jaxbox.arguments import check_sequence
      >>> check_sequence("layers", (1, 2), "layers")
    """
    if not is_sequence(value):
        raise TypeError(f"{name} must be a sequence of {elements}, got {_short(value)}.")


def to_array(name: str, value: ArrayLike) -> jax.Array:
    """Returns an argument as an array, after a check that it is one of real floating numbers.

    Args:
      name: The name of the argument, for the error message.
      value: An array of JAX or NumPy, a nested list of floats, or a float.

    Raises:
      TypeError: `value` is of another dtype, or no array.

    Example:
      >>> from jaxbox.arguments import to_array
      >>> to_array("theta", [-0.5, 0.5, -1.0, 1.0]).shape
      (4,)
    """
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"{name} must be an array of a real floating dtype, got {_short(value)}."
        ) from None
    if not jnp.issubdtype(array.dtype, jnp.floating):
        integers = array.dtype == bool or jnp.issubdtype(array.dtype, jnp.integer)
        hint = "; convert it first, as by .astype(jnp.float32)" if integers else ""
        raise TypeError(f"{name} must be of a real floating dtype, got {array.dtype}{hint}.")
    return array


def to_real(value: Any) -> float:
    """Returns a real number as a float, infinite if it is too large for one.

    Raises:
      TypeError: `value` is not a real number; `True` and "3" are none.

    Example:
      >>> from jaxbox.arguments import to_real
      >>> to_real(3)
      3.0
    """
    if not _is_real(value):
        raise TypeError(f"must be a real number, got {value!r}")
    return _to_float(value)


def _short(value: Any) -> str:
    """Returns how a value is written, cut off if it is long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _to_float(value: Any) -> float:
    """Returns a real number as a float, infinite if it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    """Tells whether a value is a sequence or an array of at least one axis, but not a text."""
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    """Tells whether a value is a real number or a scalar array of one."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        kinds = (jnp.floating, jnp.integer)
        return value.ndim == 0 and any(jnp.issubdtype(value.dtype, kind) for kind in kinds)
    return isinstance(value, int | float) and not isinstance(value, bool)
