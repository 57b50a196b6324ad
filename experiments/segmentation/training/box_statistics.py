"""How the boxes of each layer learnt in an epoch, and how large they are after it."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from experiments.segmentation.training.trainer import TrainState
from jaxbox import optim
from jaxbox.analysis import BoxLayer, share_at_minimum
from jaxbox.models import SegmentationNetwork

MEASURES = {
    "moved": "movement in the epoch, pixels",
    "gradient_to_noise": "gradient over noise",
    "at_minimum": "share at the minimum size",
}
"""What is measured of each layer, with its label in a figure."""


def box_statistics(model: SegmentationNetwork, state: TrainState) -> dict[str, dict[str, float]]:
    """Measures the boxes of each layer since tracking began.

    Args:
      model: the network with the parameters of `state`.
      state: the state of a training whose optimizer tracks boxes.

    Returns:
      By the layer's name: `moved`, the mean movement of a side in pixels; `gradient_to_noise`, the
      median of the sides' mean gradients over their deviations; `at_minimum`, the share of boxes
      at the minimum size.
    """
    tracks = optim.box_tracks(state.opt_state, state.params)
    statistics: dict[str, dict[str, float]] = {}
    for number, (index, block) in enumerate(model.box_blocks(), start=1):
        track = next(t for path, t in tracks.items() if path.startswith(f"blocks.{index}."))
        statistics[f"box layer {number}"] = {
            "moved": float(track.moved.mean()),
            "gradient_to_noise": float(jnp.median(track.gradient_to_noise)),
            "at_minimum": float(share_at_minimum(block.boxes.valid_theta)),
        }
    return statistics


def box_sizes(layers: Sequence[BoxLayer]) -> dict[str, float]:
    """Measures the boxes of each layer.

    Args:
      layers: the layers of boxes.

    Returns:
      By `NAME/LAYER`: `box_width` and `box_height`, the means in pixels of the layer's feature map;
      `box_at_minimum`, the share of boxes at the minimum size; `box_importance`, the mean.
    """
    sizes: dict[str, float] = {}
    for layer in layers:
        theta = np.asarray(layer.theta, np.float64)
        measured: dict[str, float] = {
            "width": (theta[..., 1] - theta[..., 0]).mean(),
            "height": (theta[..., 3] - theta[..., 2]).mean(),
            "at_minimum": share_at_minimum(layer.theta).item(),
            "importance": np.asarray(layer.importance, np.float64).mean(),
        }
        sizes |= {f"box_{name}/{layer.name}": float(value) for name, value in measured.items()}
    return sizes
