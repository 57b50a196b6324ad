"""Functions that can be compiled for CUDA alone, and say so where a program is for something else.

Tracing cannot tell: what is traced on a machine without a GPU may be exported for one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array, lax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import mlir


def cuda_only(function: Callable[..., Array]) -> Callable[..., Array]:
    """The function, whose program for any other platform is a `ValueError`."""

    def run(*arrays: Array) -> Array:
        jaxpr, result = jax.make_jaxpr(function, return_shape=True)(*arrays)
        if jaxpr.effects:  # Interpreted, and not for any platform.
            return function(*arrays)

        def kernels(*arrays: Array) -> Array:
            (output,) = jaxpr_as_fun(jaxpr)(*arrays)
            return output

        def elsewhere(*_: Array) -> Array:
            return _elsewhere.bind(shape=result.shape, dtype=result.dtype)

        return lax.platform_dependent(*arrays, cuda=kernels, default=elsewhere)

    return run


def _refuse(context: mlir.LoweringRuleContext, **_: object) -> Sequence[Any]:
    platforms = " and ".join(context.module_context.platforms)
    raise ValueError(
        "implementation='mosaic_gpu' cannot serve: it must be compiled for CUDA, that is, run on a "
        f"GPU or exported for one; got a program for {platforms}."
    )


_elsewhere = Primitive("mosaic_gpu_elsewhere")
_elsewhere.def_abstract_eval(jax.core.ShapedArray)
mlir.register_lowering(_elsewhere, _refuse)
