"""Every test runs with the strictest promotion rules, so that no dtype or rank is widened by accident."""

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
