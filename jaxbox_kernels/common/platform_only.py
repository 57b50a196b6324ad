"""Functions that can be compiled for one platform alone, and say so when compiled for another.

The platform is not known when JAX traces: a program that is traced on a machine without a GPU may
be exported for one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array, lax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import mlir


def platform_only[Result](
    function: Callable[..., Result], platform: str, *, reason: str
) -> Callable[..., Result]:
    """Makes a function raise a `ValueError` when it is compiled for another platform.

    Args:
      function: takes arrays and returns an array or a list of arrays.
      platform: a platform of `jax.lax.platform_dependent`, as `"cuda"`.
      reason: what the error says, to which the platforms of the program are added.
    """

    def run(*arrays: Array) -> Result:
        jaxpr, result = jax.make_jaxpr(function, return_shape=True)(*arrays)
        if jaxpr.effects:  # Pallas interprets the kernels, which it can do on any platform.
            return function(*arrays)
        tree = jax.tree.structure(result)

        def kernels(*arrays: Array) -> Any:
            return jaxpr_as_fun(jaxpr)(*arrays)

        def elsewhere(*_: Array) -> Any:
            return _elsewhere.bind(avals=tuple(jaxpr.out_avals), reason=reason)

        branches = {platform: kernels}
        outputs = lax.platform_dependent(*arrays, default=elsewhere, **branches)
        unflattened: Result = jax.tree.unflatten(tree, outputs)
        return unflattened

    return run


def not_exported(array: Array, *, reason: str) -> Array:
    """Returns an array as it is, but raises a `ValueError` with a reason in `jax.export`."""
    (same,) = _not_exported.bind(array, reason=reason)
    unchanged: Array = same
    return unchanged


def _refuse(context: mlir.LoweringRuleContext, *, reason: str, **_: object) -> Sequence[Any]:
    platforms = " and ".join(context.module_context.platforms)
    raise ValueError(f"{reason}; got a program for {platforms}.")


def _refuse_export(context: mlir.LoweringRuleContext, array: Any, *, reason: str) -> Sequence[Any]:
    if context.module_context.lowering_parameters.for_export:
        raise ValueError(reason)
    return [array]


def _avals_of_elsewhere(*, avals: tuple[Any, ...], **_: object) -> list[Any]:
    return list(avals)


def _aval_of_not_exported(array: Any, **_: object) -> list[Any]:
    return [array]


_elsewhere = Primitive("elsewhere")
_elsewhere.multiple_results = True
_elsewhere.def_abstract_eval(_avals_of_elsewhere)
mlir.register_lowering(_elsewhere, _refuse)

_not_exported = Primitive("not_exported")
_not_exported.multiple_results = True
_not_exported.def_abstract_eval(_aval_of_not_exported)
mlir.register_lowering(_not_exported, _refuse_export)
