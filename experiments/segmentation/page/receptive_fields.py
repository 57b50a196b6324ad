"""How far a network sees, before and after training, for a page."""

from collections.abc import Sequence
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib import colormaps
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.segmentation.data.source import Sample
from experiments.segmentation.input.pipeline import normalize
from experiments.segmentation.page.data_uri import jpeg_uri
from experiments.segmentation.saved_run import SavedRun
from jaxbox import analysis

_MOST_IMAGES = 4  # Enough that the page shows the network and not an image.
_CURVE_POINTS = 100


def receptive_fields(run: SavedRun, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The mean gradient response of the logits at the middle of images, and its energy.

    Args:
      run: the run, whose network before training and newest network are measured.
      samples: the images.
    """
    images = jnp.asarray(np.stack([normalize(each)["image"] for each in samples[:_MOST_IMAGES]]))
    size = jax.eval_shape(run.trained, images).shape[1:3]
    middle = np.array(size, np.int32) // 2
    positions = np.tile(middle, (len(images), 1, 1))

    @jax.jit  # Or both networks would be compiled, although they differ in their numbers alone.
    def respond(params: nnx.State, model_state: nnx.State, images: jax.Array) -> jax.Array:
        def logits(images: jax.Array) -> jax.Array:
            return run.trainer.logits(params, model_state, images)

        return analysis.gradient_response(logits, images, positions).mean(axis=(0, 1))

    centre = (middle + 0.5) * np.array(images.shape[1:3]) / size - 0.5
    states = {"before training": run.states[0], "after training": run.state}
    bar = tqdm(states.items(), desc="receptive fields", disable=None, leave=False)
    return [
        _field(caption, respond(state.params, state.model_state, images), centre)
        for caption, state in bar
    ]


def _field(caption: str, response: jax.Array, centre: NDArray[np.float64]) -> dict[str, Any]:
    """What the page shows of a gradient response map, `(H, W)`, with its centre in pixels."""
    energy = np.asarray(analysis.cumulative_energy(response, centre))
    stride = -(-len(energy) // _CURVE_POINTS)
    radii = list(range(0, len(energy), stride))
    return {
        "caption": caption,
        "picture": jpeg_uri(_heat_map(np.asarray(response))),
        "radius": int(analysis.saturation_radius(energy)),
        "radii": radii,
        "energy": [round(float(value), 4) for value in energy[radii]],
    }


def _heat_map(response: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A map in colours; its root, so that the faint surroundings of the middle are seen."""
    largest = max(float(response.max()), float(np.finfo(np.float32).tiny))
    relative = np.sqrt(response / largest)
    colors = (colormaps["magma"](relative)[..., :3] * 255).astype(np.uint8)
    # JPEG would blur maps of few pixels.
    factor = max(1, round(480 / response.shape[1]))
    return np.asarray(
        cv2.resize(colors, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST), np.uint8
    )
