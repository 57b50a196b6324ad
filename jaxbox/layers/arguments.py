"""Arguments that the layers check in the same way."""

from collections.abc import Sequence

__all__ = ["check_feature_group_count", "sizes_per_axis"]


def sizes_per_axis(
    name: str, sizes: int | Sequence[int], rank: int | None = None
) -> tuple[int, ...]:
    """Returns an argument as one size for each spatial axis.

    Args:
      name: The name of the argument, for the error message.
      sizes: One size for every axis, or one for each.
      rank: The number of spatial axes, or `None` if `sizes` decides it.

    Returns:
      The sizes.

    Raises:
      ValueError: There are not `rank` sizes, or one is below 1.

    Example:
      >>> from jaxbox.layers.arguments import sizes_per_axis
      >>> sizes_per_axis("dilation", 2, rank=3)
      (2, 2, 2)
    """
    sizes = (sizes,) * (rank or 1) if isinstance(sizes, int) else tuple(sizes)
    if min(sizes, default=0) < 1 or len(sizes) != (rank or len(sizes)):
        expected = "positive" if rank is None else f"{rank} positive"
        raise ValueError(f"{name} must be {expected} sizes, got {sizes}.")
    return sizes


def check_feature_group_count(in_features: int, out_features: int, count: int) -> None:
    """Checks that a number of groups divides the channels of the input and of the output.

    Raises:
      ValueError: It does not, or a number is below 1.
    """
    if min(in_features, out_features, count) < 1 or in_features % count or out_features % count:
        raise ValueError(
            "feature_group_count must divide in_features and out_features, all at least 1; got "
            f"{count}, {in_features} and {out_features}."
        )
