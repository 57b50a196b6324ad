"""Tests run under the strictest promotion rules: no dtype or rank is widened by accident."""

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# XLA compiles this generator many times faster on CPU than the default one.
jax.config.update("jax_default_prng_impl", "rbg")
