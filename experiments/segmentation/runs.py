"""Opening a finished training run, to look at what it learnt."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from flax import nnx

from jaxbox import models
from segmentation.checkpoints import RunError
from segmentation.datasets import open_dataset
from segmentation.source import Source


class Run(NamedTuple):
    """What a run trained, and on what it can be judged.

    Attributes:
      name: the network's, as in `jaxbox.models.NETWORKS`.
      history: the network in evaluation mode after some steps of training, in order: at first after
        none, at last as trained.
      val: the held-out samples, whose classes are those of the logits.
      size: `(H, W)` of its images, in pixels.
    """

    name: str
    history: Mapping[int, models.SegmentationNetwork]
    val: Source
    size: tuple[int, int]

    @property
    def initial(self) -> models.SegmentationNetwork:
        """The network before training."""
        return self.history[0]

    @property
    def trained(self) -> models.SegmentationNetwork:
        """The network as trained."""
        return self.history[max(self.history)]


def open_run(directory: Path) -> Run:
    """Opens a run of `experiments/cityscapes_boxenet.py`.

    Args:
      directory: what the run was given as --out.

    Returns:
      The run, with the network of each checkpoint that was kept.

    Raises:
      DataError: the data set is no longer where it was.
      RunError: there is no run, or it saved no checkpoint.
    """
    settings = directory / "settings.json"
    if not settings.exists():
        raise RunError(f"{directory} holds no run: there is no settings.json")
    recorded = json.loads(settings.read_text())
    dataset = open_dataset(recorded["data"], tuple(recorded["size"]), recorded["seed"])
    initial = models.create(
        recorded["model"],
        num_classes=len(dataset.train.classes),
        image_size=dataset.size,
        rngs=nnx.Rngs(jax.random.key(recorded["seed"], impl="rbg")),
    )
    initial.eval()
    history = {0: initial}
    with ocp.CheckpointManager((directory / "checkpoints").absolute()) as manager:
        for step in sorted(manager.all_steps()):
            saved = manager.restore(step, args=ocp.args.StandardRestore())
            history[step] = nnx.clone(initial)
            _load(history[step], saved)
    if len(history) == 1:
        raise RunError(f"{directory} holds no checkpoint yet")
    return Run(recorded["model"], history, dataset.val, dataset.size)


def _load(model: nnx.Module, saved: Mapping[str, Any]) -> None:
    """Sets a network's parameters and statistics from a checkpoint without its types."""
    for part, kind in (("params", nnx.Param), ("rest", nnx.Not(nnx.Param))):
        for path, variable in nnx.to_flat_state(nnx.state(model, kind)):
            node: Any = saved[part]
            for key in path:
                node = node[str(key)]
            variable.set_value(node["value"])
