"""The boxes that a page shows, at many steps of training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.segmentation.saved_run import SavedRun
from experiments.segmentation.training.box_history import Moment
from jaxbox.analysis import BoxLayer, box_layers

_MOST_BOXES = 32  # As in the pictures of `jaxbox.plots`; more hide each other.
_MOST_MOMENTS = 60  # The page of a run of a thousand epochs would have tens of megabytes.


def box_motion(run: SavedRun, history: Mapping[int, Sequence[Moment]]) -> dict[str, Any] | None:
    """The most important boxes of each layer through training; None if the network has no boxes.

    Args:
      run: the run.
      history: the boxes of each layer by the step, or nothing if the run did not record them; then
        those of its checkpoints are shown.
    """
    final = box_layers(run.trained)
    if not final:
        return None
    moments = dict(history) or {
        step: [_moment(layer) for layer in box_layers(model)] for step, model in run.history.items()
    }
    newest = int(run.state.step)
    moments = {step: layers for step, layers in moments.items() if step <= newest}
    moments[newest] = [_moment(layer) for layer in final]
    steps = _spread(sorted(moments))
    return {
        "steps": steps,
        "layers": [
            _layer(layer, [moments[step][number] for step in steps])
            for number, layer in enumerate(final)
        ],
    }


def _moment(layer: BoxLayer) -> Moment:
    return Moment(np.asarray(layer.theta), np.asarray(layer.importance))


def _spread(steps: Sequence[int]) -> list[int]:
    """At most so many of the steps as the page has room for, with the first and the last."""
    chosen = np.linspace(0, len(steps) - 1, min(_MOST_MOMENTS, len(steps)))
    return [steps[index] for index in chosen.round().astype(int).tolist()]


def _layer(layer: BoxLayer, moments: Sequence[Moment]) -> dict[str, Any]:
    """A layer's most important boxes at each moment, the most important last."""
    order = np.argsort(np.asarray(layer.importance), axis=None, stable=True)[-_MOST_BOXES:]
    channels, indices = np.unravel_index(order, layer.importance.shape)
    theta = np.stack([moment.theta[channels, indices] for moment in moments])
    importance = np.stack([moment.importance[channels, indices] for moment in moments])
    return {
        "name": layer.name,
        "window": list(layer.window or ()),
        "total": int(layer.importance.size),
        "boxes": [
            {"channel": channel, "box": box}
            for channel, box in zip(channels.tolist(), indices.tolist(), strict=True)
        ],
        "theta": np.round(theta.astype(np.float64), 2).tolist(),
        "importance": [[float(f"{value:.3g}") for value in row] for row in importance.tolist()],
    }
