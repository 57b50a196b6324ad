"""Functions that can be compiled for CUDA alone, and say so when compiled for another platform.

The platform is not known when JAX traces: a program that is traced on a machine without a GPU may
be exported for one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array, lax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import mlir


def cuda_only(function: Callable[..., Array]) -> Callable[..., Array]:
    """Makes a function raise a `ValueError` when it is compiled for a platform other than CUDA."""

    def run(*arrays: Array) -> Array:
        jaxpr, result = jax.make_jaxpr(function, return_shape=True)(*arrays)
        if jaxpr.effects:  # Pallas interprets the kernels, which it can do on any platform.
            return function(*arrays)

        def kernels(*arrays: Array) -> Any:
            (output,) = jaxpr_as_fun(jaxpr)(*arrays)
            return output

        def elsewhere(*_: Array) -> Any:
            return _elsewhere.bind(shape=result.shape, dtype=result.dtype)

        output: Array = lax.platform_dependent(*arrays, cuda=kernels, default=elsewhere)
        return output

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
