"""What the tests of all that programs do with runs share: a trained run, and a small network."""

from pathlib import Path

import pytest

from jaxbox.models import catalogue
from tests.cases.networks import SMALL_ENET
from tests.cases.runs import TRAINING, train


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of 13 steps, one more than an epoch. Tests must not change it."""
    directory = tmp_path_factory.mktemp("trained")
    arguments = ["--model", "enet-minus", *TRAINING, "--steps", "13", "--out", "enet-minus-0"]
    done = train(*arguments, cwd=directory)
    assert done.returncode == 0, done.stderr
    return directory / "enet-minus-0"


@pytest.fixture(scope="module")
def small_network():
    """Puts a network that compiles faster in the place of BoxENet; it has every kind of block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalogue.VARIANTS["paper"], "boxenet", SMALL_ENET)
        yield
