"""Functions of planes and their boxes, under `vmap` and on several devices.

What such a function computes for a plane depends on that plane and on the boxes of its channel
only. So an axis that `vmap` maps becomes more planes, and devices that hold different planes need
not communicate.
"""

import string
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import ArrayMapping, SdyShardingRule, custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxbox_kernels.common.manual_axes import vary_alike


def planewise[Result](function: Callable[..., Result], theta: Array, *planes: Array) -> Result:
    """Applies a function of boxes and planes that returns planes as well.

    Under `vmap` the mapped axis joins `N` or, if boxes are mapped too, `C`. Under `jit` each device
    works on the planes that it holds.

    Args:
      function: takes `theta` and `planes` and returns an array `(N, C, ...)` or a list of such.
      theta: the boxes, `(C, F, 4)`.
      *planes: arrays `(N, C, ...)`.
    """
    # Pallas interprets kernels by ordered callbacks, which cannot be partitioned.
    jaxpr, result = jax.make_jaxpr(function, return_shape=True)(theta, *planes)
    rule = _sharding_rule([theta, *planes], jax.tree.leaves(result))
    mapped = custom_vmap(function if jaxpr.effects else _partitioned(function, rule))

    @mapped.def_vmap
    def _map(size: int, is_mapped: list[bool], theta: Array, *planes: Array) -> tuple[Result, Any]:
        def with_axis(array: Array, has_axis: bool) -> Array:
            return array if has_axis else jnp.broadcast_to(array, (size, *array.shape))

        planes = tuple(
            with_axis(array, has_axis)
            for array, has_axis in zip(planes, is_mapped[1:], strict=True)
        )
        if not is_mapped[0]:
            merged = [lax.collapse(array, 0, 2) for array in planes]
            result = planewise(function, theta, *merged)
            number = planes[0].shape[1]
            result = jax.tree.map(
                lambda array: array.reshape(size, number, *array.shape[1:]), result
            )
            return result, jax.tree.map(lambda _: True, result)
        # From `(V, N, C, ...)` to `(N, V * C, ...)`, where `V` is the mapped axis.
        moved = [jnp.moveaxis(array, 0, 1) for array in planes]
        merged = [lax.collapse(array, 1, 3) for array in moved]
        result = planewise(function, lax.collapse(theta, 0, 2), *merged)
        channels = theta.shape[1]

        def split(array: Array) -> Array:
            array = array.reshape(array.shape[0], size, channels, *array.shape[2:])
            return jnp.moveaxis(array, 1, 0)

        return jax.tree.map(split, result), jax.tree.map(lambda _: True, result)

    output: Result = mapped(theta, *planes)
    # Kernels do not tell that their results vary over devices as their arguments do.
    leaves, tree = jax.tree.flatten(output)
    marked = vary_alike(theta, *planes, *leaves)
    varying: Result = jax.tree.unflatten(tree, marked[-len(leaves) :])
    return varying


def _partitioned[Result](
    function: Callable[..., Result], rule: SdyShardingRule
) -> Callable[..., Result]:
    def shardings(mesh: Mesh, arguments: tuple[Any, ...]) -> tuple[NamedSharding, NamedSharding]:
        """The shardings of boxes and of planes: over images and channels alone."""
        images, channels = (*tuple(arguments[1].sharding.spec), None, None)[:2]
        of_planes = NamedSharding(mesh, PartitionSpec(images, channels))
        return NamedSharding(mesh, PartitionSpec(channels)), of_planes

    def partition(mesh: Mesh, arguments: tuple[Any, ...], result: Any) -> tuple[Any, ...]:
        of_boxes, of_planes = shardings(mesh, arguments)
        of_result = jax.tree.map(lambda _: of_planes, result)

        def on_device(*arrays: Array) -> Result:
            # The caller's mesh may have explicit axes, for which JAX would check shardings here.
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return function(*arrays)

        return mesh, on_device, of_result, (of_boxes, *[of_planes] * len(arguments[1:]))

    def infer(mesh: Mesh, arguments: tuple[Any, ...], result: Any) -> Any:
        _, of_planes = shardings(mesh, arguments)
        return jax.tree.map(lambda _: of_planes, result)

    # JAX resolves the names of a function's arguments, which it cannot do for a partial function.
    def positional(*arrays: Array) -> Result:
        return function(*arrays)

    partitioned = custom_partitioning(positional)
    partitioned.def_partition(
        infer_sharding_from_operands=infer,
        partition=partition,
        sharding_rule=rule,
    )
    return partitioned


def _sharding_rule(arguments: list[Any], results: list[Any]) -> SdyShardingRule:
    """The rule that images `n` and channels `c` may be sharded, and no other axes."""
    letters = iter(string.ascii_lowercase.replace("n", "").replace("c", ""))
    others: list[str] = []

    def axes(shape: tuple[int, ...], *leading: str) -> ArrayMapping:
        rest = [next(letters) for _ in shape[len(leading) :]]
        others.extend(rest)
        return ArrayMapping(*leading, *rest)

    boxes, *planes = arguments
    return SdyShardingRule(
        operand_mappings=(
            axes(boxes.shape, "c"),
            *(axes(array.shape, "n", "c") for array in planes),
        ),
        result_mappings=tuple(axes(array.shape, "n", "c") for array in results),
        need_replication_factors=tuple(others),
    )
