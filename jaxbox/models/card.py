"""The model card: what a file of weights says of its network."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxbox.arguments import check_choice, check_sequence, to_real
from jaxbox.models.catalogue import NETWORKS, VARIANTS, Variant
from jaxbox.models.network import check_image_size

__all__ = ["ModelCard", "decode_card", "encode_card"]

type Levels = tuple[float, float, float]
type Color = tuple[int, int, int]

DTypeName = Literal["float32", "bfloat16"]

# The version of the form in which a card is written.
_VERSION: Final = 1


@dataclass(frozen=True)
class ModelCard:
    """What is needed to build a trained network, to use it, and to judge its use.

    Attributes:
      architecture: The name of the network, a key of `NETWORKS`.
      image_size: The size `(H, W)` in pixels of the images that it was trained on.
      classes: The names of the classes, in the order of the logits.
      mean: The mean of red, green and blue in the training images, of values from 0 to 1.
      std: Their standard deviations. A pixel `x` from 0 to 255 becomes `(x / 255 - mean) / std`.
      license: On what terms the weights may be used, such as `"CC0-1.0"`. The licence of the images
        that they were trained on may restrict them.
      variant: `"paper"` or `"pytorch"`, as in :func:`jaxbox.models.create`.
      dtype: The dtype of the computation, `"float32"` or `"bfloat16"`. Weights are float32.
      colors: The 8-bit RGB colour of each class in pictures, or `None`.
      more: Whatever else is to be recorded, in types that JSON has, such as scores.

    Raises:
      TypeError: An attribute is of the wrong type, or `more` is not made of JSON's types.
      ValueError: `architecture`, `variant` or `dtype` is unknown; a number is out of range; there
        are no classes, two have the same name, or there is not one colour for each.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.models import ModelCard
      >>> card = ModelCard(
      ...     "boxenet", (96, 192), ("road", "car"), mean=(0.5,) * 3, std=(0.25,) * 3,
      ...     license="CC0-1.0", more={"scores": {"mean_iou": 0.5}},
      ... )
      >>> card.normalize(jnp.full((96, 192, 3), 255, jnp.uint8))[0, 0].tolist()
      [2.0, 2.0, 2.0]
    """

    architecture: str
    image_size: tuple[int, int]
    classes: tuple[str, ...]
    mean: Levels
    std: Levels
    license: str
    variant: Variant = "paper"
    dtype: DTypeName = "float32"
    colors: tuple[Color, ...] | None = None
    more: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        check_choice("architecture", self.architecture, tuple(NETWORKS))
        check_choice("variant", self.variant, tuple(VARIANTS))
        check_choice("dtype", self.dtype, get_args(DTypeName))
        if not isinstance(self.license, str) or not self.license:
            raise TypeError(f"license must be a text that is not empty, got {self.license!r}.")
        classes = _names(self.classes)
        colors = None if self.colors is None else _colors(self.colors, len(classes))
        for name, value in (
            ("image_size", check_image_size(self.image_size)),
            ("classes", classes),
            ("mean", _levels("mean", self.mean, -math.inf)),
            ("std", _levels("std", self.std, 0)),
            ("colors", colors),
            ("more", _json_object(self.more)),
        ):
            object.__setattr__(self, name, value)

    def normalize(self, images: ArrayLike) -> jax.Array:
        """Makes the network's input of pictures.

        Args:
          images: `(..., H, W, 3)`, RGB, with values from 0 to 255 of any dtype.

        Returns:
          `(x / 255 - mean) / std` in float32.

        Raises:
          ValueError: The last axis of `images` is not of length 3.
        """
        pixels = jnp.asarray(images, jnp.float32)
        if not pixels.ndim or pixels.shape[-1] != len(self.mean):
            raise ValueError(f"images must be (..., H, W, 3), got shape {pixels.shape}.")
        mean, std = (
            jnp.broadcast_to(jnp.array(levels, jnp.float32), pixels.shape)
            for levels in (self.mean, self.std)
        )
        return (pixels / 255 - mean) / std


def encode_card(card: ModelCard) -> str:
    """Returns a card as JSON, from which :func:`decode_card` makes the same card."""
    entries = {name: getattr(card, name) for name in _READERS}
    return json.dumps({"version": _VERSION, **entries}, allow_nan=False)


def decode_card(text: str) -> ModelCard:
    """Returns the card that a JSON text holds.

    Raises:
      TypeError: An entry is of the wrong type.
      ValueError: The text is no card, one of another version, or an entry is out of range.
    """
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the card is not JSON ({error}).") from error
    if not isinstance(entries, dict):
        raise ValueError("the card is no JSON object.")
    version = entries.pop("version", None)
    if version != _VERSION:
        raise ValueError(f"the card has the version {version!r}, and this jaxbox reads {_VERSION}.")
    if entries.keys() != _READERS.keys():
        odd = ", ".join(sorted(entries.keys() ^ _READERS.keys()))
        raise ValueError(f"the card lacks entries or has others than this jaxbox knows: {odd}.")
    return ModelCard(**{name: read(entries[name]) for name, read in _READERS.items()})


def _as_it_is(value: Any) -> Any:
    return value


def _tuples(value: Any) -> Any:
    """Makes tuples of JSON's lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


# The entries of a card, with what makes an attribute of the JSON value.
_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "architecture": _as_it_is,
    "variant": _as_it_is,
    "image_size": _tuples,
    "dtype": _as_it_is,
    "classes": _tuples,
    "colors": _tuples,
    "mean": _tuples,
    "std": _tuples,
    "license": _as_it_is,
    "more": _as_it_is,
}


def _names(classes: Any) -> tuple[str, ...]:
    check_sequence("classes", classes, "names")
    names = tuple(classes)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"classes must be names, got {names!r}.")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"classes must be one or more different names, got {names!r}.")
    return names


def _levels(name: str, levels: Any, least: float) -> tuple[float, ...]:
    check_sequence(name, levels, "three numbers")
    try:
        numbers = tuple(map(to_real, levels))
    except TypeError:
        raise TypeError(f"{name} must be three numbers, got {levels!r}.") from None
    if len(numbers) != 3 or not all(least < number < math.inf for number in numbers):
        above = "" if least == -math.inf else f" above {least}"
        raise ValueError(f"{name} must be three finite numbers{above}, got {levels!r}.")
    return numbers


def _colors(colors: Any, number: int) -> tuple[Color, ...]:
    check_sequence("colors", colors, "colours")
    for color in colors:
        check_sequence("each of colors", color, "three integers")
    found = tuple(tuple(color) for color in colors)
    if len(found) != number or not all(
        len(color) == 3 and all(type(n) is int and 0 <= n <= 255 for n in color) for color in found
    ):
        raise ValueError(
            f"colors must be three integers from 0 to 255 for each of {number} classes, got "
            f"{colors!r}."
        )
    return found


def _json_object(value: Any) -> dict[str, Any]:
    """Returns a mapping in the types that JSON gives back."""
    try:
        # A card that was saved and loaded is then the card that it was.
        found = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"more must be an object that JSON can hold ({error}).") from None
    return dict(found)
