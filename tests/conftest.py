"""What all tests share: strict promotion rules, and random numbers whose seed can be replayed.

Every test draws from the fixture `rng`. CI draws the same numbers each time; `pytest --seed random`
draws fresh ones, and a failing test prints the `--seed` that draws its numbers again.
"""

import os
import secrets
import sys
import zlib
from pathlib import Path

# Most of the tests' time is compilation. Set XLA_FLAGS to test what users run.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# The programs are not installed. Appended, so that the installed packages are the ones tested.
sys.path.append(str(Path(__file__).parents[1]))

import hypothesis
import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# XLA compiles this generator many times faster on CPU than the default one.
jax.config.update("jax_default_prng_impl", "rbg")

_SEED = pytest.StashKey[int]()


def pytest_addoption(parser):
    parser.addoption(
        "--seed", default="0", help="seed of the `rng` fixture: an integer, or `random`"
    )


def pytest_configure(config):
    seed = config.getoption("--seed")
    # Workers of pytest-xdist get the seed that the main process drew.
    given = getattr(config, "workerinput", {}).get("seed")
    if given is None:
        given = secrets.randbits(32) if seed == "random" else int(seed)
    config.stash[_SEED] = given
    hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
    hypothesis.settings.register_profile("random", derandomize=False, deadline=None)
    hypothesis.settings.load_profile("random" if seed == "random" else "fixed")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["seed"] = node.config.stash[_SEED]


@pytest.fixture
def seed(request):
    """The seed of this run of the tests; a failing test prints how to replay it."""
    value = request.config.stash[_SEED]
    print(f"replay with: pytest --seed {value}")
    return value


@pytest.fixture
def rng(request, seed):
    """A NumPy generator, of the run's seed and the test's own name."""
    return np.random.default_rng([seed, zlib.crc32(request.node.nodeid.encode())])


@pytest.fixture
def relaxed_promotion():
    """For training: Flax's BatchNorm and optax's Adam mix ranks and dtypes."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
