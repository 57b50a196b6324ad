"""Powers of two in which planes and rows are measured, so that no sum over- or underflows.

They are given by the biased exponent of float32: the power of two of exponent `e` is
`2**(e - 127)`. A product with a power of two is not rounded.
"""

import jax.numpy as jnp
from jax import Array, lax

_BIAS, _MANTISSA_BITS = 127, 23
_SMALLEST, _LARGEST = 1, 254


def exponent(magnitude: Array) -> Array:
    """The exponent of the largest power of two up to a magnitude, float32."""
    bits = lax.bitcast_convert_type(magnitude, jnp.int32)
    exponents = lax.shift_right_logical(bits, jnp.int32(_MANTISSA_BITS))
    return jnp.maximum(exponents, _SMALLEST)  # That of 0 and of subnormal numbers would be 0.


def exponent_of_planes(planes: Array) -> Array:
    """The exponents `(N, C)` of the largest magnitudes in planes `(N, C, ...)`."""
    magnitudes = jnp.abs(planes).astype(jnp.float32)
    return exponent(jnp.max(magnitudes, axis=tuple(range(2, planes.ndim)), initial=0))


def exponent_of_channels(planes: Array) -> Array:
    """The exponents `(C,)` of the largest magnitudes in each channel of planes `(N, C, ...)`."""
    return jnp.max(exponent_of_planes(planes), axis=0, initial=_SMALLEST)


def power(exponent: Array) -> Array:
    """The power of two of an exponent; 0 if it is too small to be a normal float32 number."""
    bits = lax.shift_left(jnp.clip(exponent, 0, _LARGEST), jnp.int32(_MANTISSA_BITS))
    return lax.bitcast_convert_type(bits, jnp.float32)


def inverse(exponent: Array) -> Array:
    """The inverse of the power of two of an exponent; twice that for the largest exponent."""
    return power(jnp.maximum(2 * _BIAS - exponent, _SMALLEST))


def quotient(bits: int, exponent: Array) -> tuple[Array, Array]:
    """`2**bits` over the power of two of an exponent, as two factors in the range of float32."""
    return _factors(bits + _BIAS - exponent)


def product(*exponents: Array) -> tuple[Array, Array]:
    """The product of powers of two, by their exponents, as two factors in the range of float32."""
    return _factors(sum(exponents[1:], exponents[0]) - len(exponents) * _BIAS)


def _factors(logarithm: Array) -> tuple[Array, Array]:
    half = lax.shift_right_arithmetic(logarithm, jnp.full_like(logarithm, 1))
    return power(half + _BIAS), power(logarithm - half + _BIAS)
