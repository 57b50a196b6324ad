"""A linear function with a transpose of its own, which every transformation of JAX knows.

The derivative of a function in forward mode is linear in the tangents, and its derivative in
reverse mode is the transpose of that. A `jax.custom_jvp` whose rule applies such a linear function
has both: reverse mode computes the given transpose, and never what would be its transposition
operation by operation. `jax.custom_vjp` has reverse mode alone, and
`jax.custom_derivatives.linear_call` has no `jax.vmap`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

type Function = Callable[..., Sequence[Array]]
type Cotangents = list[Array | None]


@dataclass(frozen=True)
class LinearMap:
    """A function that is linear in its last arguments, and its transpose.

    Hashable, if its functions are, so that JAX need not trace it again.

    Attributes:
      function: takes `residuals` and then the arguments in which it is linear, and returns a
        sequence of arrays. It can be differentiated in forward mode with respect to all arguments.
      transpose: takes the same residuals and then cotangents of the results of `function`, and
        returns a cotangent of each argument in which that is linear. It can be differentiated too.
      residuals: the number of first arguments in which the function is not linear.
    """

    function: Function
    transpose: Function
    residuals: int

    def __call__(self, *arguments: Array) -> tuple[Array, ...]:
        """Applies the function.

        Args:
          *arguments: the residuals, then what the function is linear in.

        Example:
          >>> import jax
          >>> import jax.numpy as jnp
          >>> from jaxbox_kernels.common.linear_map import LinearMap
          >>> halve = LinearMap(lambda x: [x / 2], lambda g: [0.5 * g], residuals=0)
          >>> jax.grad(lambda x: halve(x)[0])(3.0).item()
          0.5
        """
        # JAX looks into the parameters of a primitive for what its lowering has to know.
        jaxpr = _jitted.trace(*arguments, function=self.function).jaxpr
        return tuple(_linear_map.bind(*arguments, linear_map=self, jaxpr=jaxpr))

    @property
    def transposed(self) -> "LinearMap":
        """The transpose, whose transpose is this map."""
        return LinearMap(self.transpose, self.function, self.residuals)


@dataclass(frozen=True)
class _Mapped:
    """A function under `jax.vmap`, hashable.

    Attributes:
      function: the function.
      axes: the axis of each argument that is mapped, 0 or None; later arguments are mapped over 0.
    """

    function: Function
    axes: tuple[int | None, ...]

    def __call__(self, *arguments: Array) -> Sequence[Array]:
        axes = (*self.axes, *[0] * (len(arguments) - len(self.axes)))
        mapped: Sequence[Array] = jax.vmap(self.function, axes)(*arguments)
        return mapped


@functools.partial(jax.jit, static_argnames="function")
def _jitted(*arguments: Array, function: Function) -> tuple[Array, ...]:
    return tuple(function(*arguments))


def _evaluate(*arguments: Array, linear_map: LinearMap, jaxpr: Any) -> Sequence[Array]:
    del linear_map
    results: Sequence[Array] = jaxpr_as_fun(jaxpr)(*arguments)
    return results


def _differentiate(
    primals: Sequence[Array],
    tangents: Sequence[Array | ad.Zero],
    *,
    linear_map: LinearMap,
    jaxpr: Any,
) -> tuple[Sequence[Array], Sequence[Array | ad.Zero]]:
    del jaxpr
    number = linear_map.residuals
    residuals, arguments = primals[:number], primals[number:]
    parts: list[Sequence[Array]] = []
    if not all(isinstance(tangent, ad.Zero) for tangent in tangents[number:]):
        parts.append(linear_map(*residuals, *map(ad.instantiate_zeros, tangents[number:])))
    if not all(isinstance(tangent, ad.Zero) for tangent in tangents[:number]):
        _, part = jax.jvp(
            lambda *residuals: tuple(linear_map.function(*residuals, *arguments)),
            tuple(residuals),
            tuple(map(ad.instantiate_zeros, tangents[:number])),
        )
        parts.append(part)
    tangents_of_results = [sum(each[1:], start=each[0]) for each in zip(*parts, strict=True)]
    return linear_map(*primals), tangents_of_results


def _transpose(
    cotangents: Sequence[Array | ad.Zero], *arguments: Any, linear_map: LinearMap, jaxpr: Any
) -> Cotangents:
    del jaxpr
    number = linear_map.residuals
    whole = map(ad.instantiate_zeros, cotangents)
    results = linear_map.transposed(*arguments[:number], *whole)
    needed = [
        result if ad.is_undefined_primal(argument) else None
        for result, argument in zip(results, arguments[number:], strict=True)
    ]
    return [*[None] * number, *needed]


def _batch(
    arguments: Sequence[Array], axes: Sequence[int | None], *, linear_map: LinearMap, jaxpr: Any
) -> tuple[Sequence[Array], Sequence[int]]:
    del jaxpr
    (size,) = {
        argument.shape[axis]
        for argument, axis in zip(arguments, axes, strict=True)
        if axis is not None
    }
    number = linear_map.residuals
    is_mapped = [axis is not None for axis in axes[:number]]
    moved = [
        argument if axis is None else jnp.moveaxis(argument, axis, 0)
        for argument, axis in zip(arguments, axes, strict=True)
    ]
    # The transpose returns a cotangent for each example of each linear argument.
    whole = [
        jnp.broadcast_to(argument, (size, *argument.shape)) if axis is None else argument
        for argument, axis in zip(moved[number:], axes[number:], strict=True)
    ]
    of_residuals = tuple(0 if mapped else None for mapped in is_mapped)
    mapped_map = LinearMap(
        _Mapped(linear_map.function, of_residuals),
        _Mapped(linear_map.transpose, of_residuals),
        number,
    )
    results = mapped_map(*moved[:number], *whole)
    return results, [0] * len(results)


_linear_map = Primitive("linear_map")
_linear_map.multiple_results = True
_linear_map.def_impl(
    lambda *arguments, linear_map, **_: _jitted(*arguments, function=linear_map.function)
)
_linear_map.def_abstract_eval(lambda *_, jaxpr, **__: jaxpr.out_avals)
ad.primitive_jvps[_linear_map] = _differentiate
ad.primitive_transposes[_linear_map] = _transpose
batching.primitive_batchers[_linear_map] = _batch
mlir.register_lowering(_linear_map, mlir.lower_fun(_evaluate, multiple_results=True))
