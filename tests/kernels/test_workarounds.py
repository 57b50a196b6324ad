"""The workarounds for XLA can be switched off, and change no numbers."""

import jax
import jax.numpy as jnp
import pytest

from jaxbox_kernels.common import xla_hints
from jaxbox_kernels.common.workarounds import Workaround, disabled, enabled
from jaxbox_kernels.xla.backend import INTEGRAL_IMAGES
from tests.cases.backends import run
from tests.cases.box_conv import arguments, assert_close
from tests.oracles import box_conv as oracle

_HINTS = {
    Workaround.COMPUTE_ONCE: xla_hints.compute_once,
    Workaround.READ_AGAIN: xla_hints.read_again,
    Workaround.DO_NOT_FUSE: xla_hints.do_not_fuse,
}


@pytest.mark.parametrize("workaround", _HINTS)
def test_a_hint_switched_off_is_in_no_program(workaround):
    hint = jax.jit(_HINTS[workaround])

    def hints():
        return hint.lower(jnp.ones(3)).as_text().count("optimization_barrier")

    assert hints() == 1
    with disabled(workaround):
        # JAX does not find in its caches what it traced before.
        assert hints() == 0
        assert [other for other in Workaround if not enabled(other)] == [workaround]
    assert hints() == 1
    with disabled():
        assert not any(map(enabled, Workaround))
        assert hints() == 0
    assert all(map(enabled, Workaround))


def test_switches_add_up_and_are_put_back_after_an_error():
    with pytest.raises(KeyError), disabled(Workaround.CHUNKS):  # noqa: PT012
        with disabled(Workaround.READ_AGAIN):
            assert not enabled(Workaround.CHUNKS)
            assert not enabled(Workaround.READ_AGAIN)
        assert enabled(Workaround.READ_AGAIN)
        raise KeyError
    assert enabled(Workaround.CHUNKS)


def test_without_workarounds_the_numbers_are_right(rng):
    x, theta, g = arguments(rng, (19, 45))
    with disabled():
        output, dx, dtheta = run(x, theta, g, backend=INTEGRAL_IMAGES)
    expected_dx, expected_dtheta = oracle.backward(x, theta, g)
    assert_close(output, oracle.forward(x, theta), "forward")
    assert_close(dx, expected_dx, "dx")
    assert_close(dtheta, expected_dtheta, "dtheta")
