"""The options that all layers of convolutions have in common, and their checks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx
from flax.typing import Dtype, PrecisionLike

from jaxbox.arguments import (
    check_callable,
    check_dtype,
    check_flag,
    check_padding,
    check_precision,
    check_rngs,
    sizes_per_axis,
)

__all__ = ["check_conv_options", "per_axis_if_needed"]


def check_conv_options(
    rank: int,
    *,
    padding: Any,
    dtype: Dtype | None,
    param_dtype: Dtype,
    precision: PrecisionLike,
    flags: Mapping[str, bool],
    functions: Mapping[str, Callable[..., Any]],
    rngs: nnx.Rngs,
    transposed: bool = False,
) -> Any:
    """Checks the options of a layer of convolutions.

    Args:
      rank: The number of spatial axes.
      padding: The padding.
      dtype: The dtype of the computation, or `None`.
      param_dtype: The dtype of the parameters.
      precision: The precision of products.
      flags: Options that are on or off, by their names.
      functions: Functions, such as initializers, by their names.
      rngs: The random keys.
      transposed: Whether convolutions are transposed, which know fewer paddings.

    Returns:
      The padding, of Python's numbers.

    Raises:
      TypeError: An option is of the wrong type.
      ValueError: An option is out of range.
    """
    for name, flag in flags.items():
        check_flag(name, flag)
    for name, function in functions.items():
        check_callable(name, function)
    if dtype is not None:
        check_dtype("dtype", dtype)
    check_dtype("param_dtype", param_dtype)
    check_precision(precision)
    check_rngs(rngs)
    return check_padding(padding, rank, transposed=transposed)


def per_axis_if_needed(name: str, sizes: int | Sequence[int], rank: int) -> int | tuple[int, ...]:
    """Returns strides or dilations as one number for all axes or as one for each.

    Raises:
      TypeError: A size is not an integer.
      ValueError: There are not `rank` sizes, or one is below 1.
    """
    each = sizes_per_axis(name, sizes, rank)
    return each if isinstance(sizes, Sequence) else each[0]
