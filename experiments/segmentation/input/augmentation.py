"""Random augmentation of a training sample."""

from dataclasses import dataclass

import cv2
import grain
import numpy as np

from experiments.segmentation.data.source import Sample


@dataclass(frozen=True)
class Augmentation:
    """The limits of the random changes to training samples.

    The paper's recipe is `Augmentation(flip=0.5, rotation=7.5, scale=0.12)`.

    Attributes:
      flip: the probability of mirroring left to right.
      rotation: the largest angle in degrees, less than 180; angles are uniform in both directions.
      scale: the largest change of size, less than 1; factors are uniform in `1 - scale` to
        `1 + scale`.

    Raises:
      ValueError: an attribute is not allowed.

    Source: the code of Burkov & Lempitsky 2018.
    """

    flip: float = 0.5
    rotation: float = 0.0
    scale: float = 0.0

    def __post_init__(self) -> None:
        for name, largest, allowed in (
            ("flip", self.flip <= 1, "from 0 to 1"),
            ("rotation", self.rotation < 180, "at least 0 and less than 180 degrees"),
            ("scale", self.scale < 1, "at least 0 and less than 1"),
        ):
            value = getattr(self, name)
            if not (value >= 0 and largest):
                raise ValueError(f"{name} must be {allowed}, got {value}")


class RandomAugmentation(grain.transforms.RandomMap):
    """Mirrors, rotates and scales image and label together, within an `Augmentation`'s limits."""

    def __init__(self, augmentation: Augmentation):
        self._augmentation = augmentation

    def random_map(self, element: Sample, rng: np.random.Generator) -> Sample:
        """Returns a changed copy of the sample."""
        limits = self._augmentation
        return warp(
            element,
            mirrored=rng.random() < limits.flip,
            degrees=rng.uniform(-limits.rotation, limits.rotation),
            factor=rng.uniform(1 - limits.scale, 1 + limits.scale),
        )


def warp(sample: Sample, *, mirrored: bool, degrees: float, factor: float) -> Sample:
    """Mirrors a sample, then rotates and scales it about its centre.

    Image (bilinear) and label (nearest) go through the same affine map; pixels outside the image
    repeat the border. Without rotation and scaling no pixel changes its value.

    Args:
      sample: the sample, which is left unchanged.
      mirrored: whether left and right are swapped first.
      degrees: the angle of rotation, counter-clockwise as the picture is seen.
      factor: the factor by which things become larger.

    Returns:
      A sample of the same size.
    """
    image, label = sample["image"], sample["label"]
    if mirrored:
        image, label = image[:, ::-1], label[:, ::-1]
    if degrees == 0 and factor == 1:
        return Sample(image=image, label=label)
    height, width = label.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, factor)

    def move(pixels: np.ndarray, interpolation: int) -> np.ndarray:
        return cv2.warpAffine(
            np.ascontiguousarray(pixels),
            matrix,
            (width, height),
            flags=interpolation,
            borderMode=cv2.BORDER_REPLICATE,
        )

    return Sample(image=move(image, cv2.INTER_LINEAR), label=move(label, cv2.INTER_NEAREST))
