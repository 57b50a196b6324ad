"""A clear error where a function that has only reverse-mode derivatives is used in forward mode.

JAX's own error, for `jax.custom_vjp`, names neither the function nor what to use instead.
"""

from collections.abc import Sequence
from typing import NoReturn

import jax
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# The identity, whose derivative in forward mode is `_tangent`. Reverse mode transposes `_tangent`
# and never computes it; forward mode computes it, which is the error.
_primal = Primitive("reverse_mode_only")
_tangent = Primitive("reverse_mode_only_tangent")


def reverse_mode_only(x: Array, function: str) -> Array:
    """Returns `x`; to differentiate it in forward mode is an error.

    Args:
      x: an argument of the function, before the function uses it.
      function: the name of the function, for the message.

    Raises:
      TypeError: by `jax.jvp`, `jax.jacfwd`, `jax.hessian` and by calling what `jax.linearize`
        returns.

    Example:
      >>> import jax
      >>> from jaxbox_kernels.common.reverse_mode import reverse_mode_only
      >>> jax.grad(lambda x: reverse_mode_only(x, "my_function") ** 2)(3.0)
      Array(6., dtype=float32, weak_type=True)
    """
    identity: Array = _primal.bind(x, function=function)
    return identity


def _refuse(*_: object, function: str) -> NoReturn:
    raise TypeError(
        f"{function} has no forward-mode derivative, which jax.jvp, jax.jacfwd, jax.linearize and "
        f"jax.hessian use. Use reverse mode: jax.grad, jax.vjp or jax.jacrev; for second "
        f"derivatives jax.jacrev(jax.jacrev(f)) in place of jax.hessian(f), and for the product of "
        f"a Hessian with v jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), v))."
    )


def _differentiate(
    primals: Sequence[Array], tangents: Sequence[Array | ad.Zero], *, function: str
) -> tuple[Array, Array | ad.Zero]:
    (x,), (tangent,) = primals, tangents
    if not isinstance(tangent, ad.Zero):
        tangent = _tangent.bind(tangent, function=function)
    return reverse_mode_only(x, function), tangent


def _keep(x: jax.core.ShapedArray, *, function: str) -> jax.core.ShapedArray:
    del function
    return x


_primal.def_impl(lambda x, **_: x)
_primal.def_abstract_eval(_keep)
ad.primitive_jvps[_primal] = _differentiate
batching.defvectorized(_primal)
mlir.register_lowering(_primal, lambda _context, x, **_: [x])

_tangent.def_impl(_refuse)
_tangent.def_abstract_eval(_keep)
ad.deflinear2(_tangent, lambda cotangent, _x, **_: [cotangent])
batching.defvectorized(_tangent)
mlir.register_lowering(_tangent, _refuse)
