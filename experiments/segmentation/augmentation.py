"""Random changes to a training sample."""

import grain
import numpy as np

from segmentation.source import Sample


class RandomHorizontalFlip(grain.transforms.RandomMap):
    """Mirrors image and label together, left to right, in half of the cases."""

    def random_map(self, element: Sample, rng: np.random.Generator) -> Sample:
        """Returns the sample as it is or mirrored; the argument is left unchanged."""
        if rng.random() < 0.5:
            return element
        return Sample(image=element["image"][:, ::-1], label=element["label"][:, ::-1])
