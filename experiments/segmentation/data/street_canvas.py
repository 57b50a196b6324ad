"""A canvas that stores the material of each pixel, and the light that turns it into a picture.

A material is a class, a colour and a texture. Painting only writes material numbers, so label and
picture agree to the pixel, and a scene costs one polygon fill per shape and one shading pass.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from experiments.segmentation.data.classes import VOID

type Color = NDArray[np.float32]
"""An RGB colour; 1 is white."""
type Polygon = Sequence[tuple[float, float]]
"""The corners of a polygon, `(x, y)` in pixels."""

# Each texture is white noise, blurred by this fraction of the picture's height.
_TEXTURE_BLUR = {"plain": 0.03, "rough": 0.006, "leaves": 0.012, "clouds": 0.06}
_TEXTURES = tuple(_TEXTURE_BLUR)
_TEXTURE_SEED = 0
_TEXTURE_MARGIN = 256  # range in pixels from which a picture draws the offset of its textures
_SUBPIXEL_BITS = 4
_SUBPIXELS = 2**_SUBPIXEL_BITS
_SHADE = np.float32(0.55)  # share of the light that remains in a shadow


class Material(NamedTuple):
    """The material of a shape.

    Attributes:
      label: the class, or `VOID`.
      color: the mean colour.
      texture: "plain", "rough", "leaves" or "clouds".
      contrast: standard deviation of the texture relative to the colour.
    """

    label: int
    color: Color
    texture: str = "plain"
    contrast: float = 0.05


@dataclass(frozen=True)
class Light:
    """The light on a scene and the camera that sees it.

    Attributes:
      gain: overall brightness.
      cast: factor on each colour channel.
      slope: relative change of brightness from one edge to the other, along x and y.
      noise: standard deviation of the camera's noise.
    """

    gain: float
    cast: Color
    slope: tuple[float, float]
    noise: float


class Canvas:
    """A scene being painted, later shapes over earlier ones.

    Args:
      size: `(H, W)` in pixels.
      tilt: angle in radians by which all shapes are turned about the centre.
    """

    def __init__(self, size: tuple[int, int], tilt: float):
        self._materials = [Material(VOID, np.zeros(3, np.float32))]
        self._map = np.zeros(size, np.uint16)
        self._shadow = np.zeros(size, np.uint8)
        self._center = size[1] / 2, size[0] / 2
        self._turn = math.cos(tilt), math.sin(tilt)

    def fill(self, polygons: Sequence[Polygon], material: Material) -> None:
        """Fills polygons with one material."""
        self._materials.append(material)
        self._fill(self._map, polygons, len(self._materials) - 1)

    def shade(self, polygon: Polygon) -> None:
        """Puts the ground inside a polygon, and whatever is painted there, in shadow."""
        self._fill(self._shadow, [polygon], 1)

    def _fill(self, target: NDArray, polygons: Sequence[Polygon], value: int) -> None:
        # Plain floats: for a handful of corners, calls into NumPy would take most of the time.
        (center_x, center_y), (cos, sin) = self._center, self._turn
        for polygon in polygons:
            turned = [
                (
                    (center_x + (x - center_x) * cos - (y - center_y) * sin) * _SUBPIXELS,
                    (center_y + (x - center_x) * sin + (y - center_y) * cos) * _SUBPIXELS,
                )
                for x, y in polygon
            ]
            cv2.fillPoly(target, [np.array(turned, np.int32)], value, shift=_SUBPIXEL_BITS)

    def label(self) -> NDArray[np.uint8]:
        """The class of each pixel."""
        return np.array([m.label for m in self._materials], np.uint8)[self._map]

    def picture(self, light: Light, rng: np.random.Generator) -> NDArray[np.uint8]:
        """The scene as a camera sees it, `(H, W, 3)` RGB."""
        height, width = self._map.shape
        textures, noise = _random_crop(height, width, rng)
        colors, contrasts = self._tables()
        # Channels come first until the end because NumPy is slow along an innermost axis of three.
        image = colors.take(self._map, axis=1)
        image *= 1 + np.einsum("thw,thw->hw", contrasts.take(self._map, axis=1), textures)
        image *= light.gain * _slope(height, width, light.slope) * self._soft_shadow()
        image *= light.cast[:, None, None]
        sharp = cv2.merge(list(image))
        seen = cv2.GaussianBlur(sharp, (3, 3), 0.6)
        # The sum is rounded and limited to 0..255.
        bits = cv2.addWeighted(seen, 255, noise, 255 * light.noise, 0, dtype=cv2.CV_8U)
        return np.asarray(bits, np.uint8)

    def _tables(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The colours of all n materials, `(3, n)`, and the contrasts of textures, `(kinds, n)`."""
        materials = self._materials
        colors = np.array([m.color for m in materials], np.float32).T
        contrasts = np.zeros((len(_TEXTURES), len(materials)), np.float32)
        chosen = [_TEXTURES.index(m.texture) for m in materials]
        contrasts[chosen, np.arange(len(materials))] = [m.contrast for m in materials]
        return colors, contrasts

    def _soft_shadow(self) -> NDArray[np.float32]:
        shadow = cv2.blur(self._shadow.astype(np.float32), (3, 3))
        return np.asarray(1 - (1 - _SHADE) * shadow, np.float32)


def _slope(height: int, width: int, slope: tuple[float, float]) -> NDArray[np.float32]:
    x = np.linspace(-slope[0] / 2, slope[0] / 2, width, dtype=np.float32)
    y = np.linspace(-slope[1] / 2, slope[1] / 2, height, dtype=np.float32)
    return 1 + x + y[:, None]


def _random_crop(
    height: int, width: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The textures `(kinds, H, W)` and the camera's noise `(H, W, 3)` for one scene."""
    tiles, noise = _tiles(height, width)
    (y, x), (v, u) = rng.integers(0, _TEXTURE_MARGIN, (2, 2))
    return tiles[:, y : y + height, x : x + width], noise[v : v + height, u : u + width]


@lru_cache(maxsize=4)
def _tiles(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Blurred noise of unit deviation for every texture, and white noise."""
    rng = np.random.default_rng(_TEXTURE_SEED)
    shape = (height + _TEXTURE_MARGIN, width + _TEXTURE_MARGIN)
    tiles = []
    for blur in _TEXTURE_BLUR.values():
        white = rng.standard_normal(shape, np.float32)
        smooth = cv2.GaussianBlur(white, (0, 0), max(blur * height, 0.3))
        tiles.append((smooth - smooth.mean()) / smooth.std())
    return np.stack(tiles), rng.standard_normal((*shape, 3), np.float32)
