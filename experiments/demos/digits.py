"""scikit-learn's handwritten digits, as arrays for the demonstrations."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Digits(NamedTuple):
    """Images of digits.

    Attributes:
      images: the images, `(N, 8, 8, 1)`, with values from 0 to 1.
      labels: the digits that the images show, `(N,)`.
    """

    images: jax.Array
    labels: jax.Array


def load(seed: int) -> tuple[Digits, Digits]:
    """Loads the digits, split into three quarters to train on and a quarter to test on.

    Args:
      seed: the seed of the random split.
    """
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8, 1)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.25, random_state=seed, stratify=labels
    )
    return _digits(train_images, train_labels), _digits(test_images, test_labels)


def _digits(images: ArrayLike, labels: ArrayLike) -> Digits:
    return Digits(jnp.asarray(images, jnp.float32), jnp.asarray(labels, jnp.int32))
