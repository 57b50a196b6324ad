"""Tests run under the strictest promotion rules: no dtype or rank is widened by accident."""

import os

# Most of the tests' time is compilation. Set XLA_FLAGS to test what users run.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# XLA compiles this generator many times faster on CPU than the default one.
jax.config.update("jax_default_prng_impl", "rbg")


@pytest.fixture
def relaxed_promotion():
    """For training: Flax's BatchNorm and optax's Adam mix ranks and dtypes."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
