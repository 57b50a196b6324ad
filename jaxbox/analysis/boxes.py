"""Statistics of boxes: importance, minimum size and symmetry."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxbox import boxes
from jaxbox.arguments import check_number, to_array
from jaxbox.boxes import Window
from jaxbox.models.network import SegmentationNetwork, check_network

__all__ = ["BoxLayer", "at_minimum", "box_layers", "importance", "share_at_minimum", "symmetry"]

# Training projects boxes to the minimum size up to rounding, and noise enlarges them a little.
_TOLERANCE = 0.01


class BoxLayer(NamedTuple):
    """The boxes of one layer.

    Attributes:
      name: The layer's name in a figure.
      theta: The boxes, `(C, F, 4)`, in pixels of the layer's feature map; of two numbers for
        signals and of six for volumes.
      window: The size of the feature map in pixels, `(h, w)`, `(l,)` for signals or `(d, h, w)` for
        volumes, or `None` if it is not known.
      importance: The importance of each box, `(C, F)`.
    """

    name: str
    theta: jax.Array
    window: Window | None
    importance: jax.Array


def importance(incoming: ArrayLike, outgoing: ArrayLike) -> jax.Array:
    """Computes the importance of boxes between two convolutions.

    It is the mean absolute weight of the box's channel in the convolution after the boxes, times
    the largest absolute weight that makes the box's input channel in the convolution before them.

    Source: Burkov & Lempitsky 2018, section 4, "Box statistics".

    Args:
      incoming: The kernel of the convolution before the boxes, `(..., inputs, C)`.
      outgoing: The kernel of the convolution after the boxes, `(..., C * F, outputs)`.

    Returns:
      The importance of each box, `(C, F)`.

    Raises:
      TypeError: A kernel is not of a real floating dtype.
      ValueError: A kernel is empty, or the channels of the two kernels do not fit together.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.analysis import importance
      >>> incoming = jnp.array([[1.0, 5.0], [-3.0, 0.0]])  # Two inputs, two channels.
      >>> outgoing = jnp.array([[1.0, 1.0], [0.0, -4.0], [0.0, 2.0], [0.0, 0.0]])  # Of two boxes.
      >>> importance(incoming, outgoing).tolist()
      [[3.0, 6.0], [5.0, 0.0]]
    """
    incoming = jnp.abs(to_array("incoming", incoming))
    outgoing = jnp.abs(to_array("outgoing", outgoing))
    empty = 0 in incoming.shape or 0 in outgoing.shape
    if (
        empty
        or incoming.ndim < 2
        or outgoing.ndim < 2
        or outgoing.shape[-2] % (channels := incoming.shape[-1])
    ):
        raise ValueError(
            "incoming must be (..., inputs, C) and outgoing (..., C * F, outputs), "
            f"got shapes {incoming.shape} and {outgoing.shape}."
        )
    largest = jnp.max(incoming, axis=range(incoming.ndim - 1))
    mean = jnp.mean(outgoing, axis=(*range(outgoing.ndim - 2), outgoing.ndim - 1))
    return largest[:, None] * mean.reshape(channels, -1)


def box_layers(model: SegmentationNetwork) -> list[BoxLayer]:
    """Lists the boxes of a network, layer by layer, with their importance.

    The convolution before the boxes is the 1x1 convolution of their block. The convolution after
    them is the one with which the next block, or the classifier, reads the output of their block.
    An upsampling block reads it with two convolutions, which count as one with the outputs of both.
    If the kernel is larger than 1x1, the mean is over its pixels too. As in the paper, BatchNorm is
    ignored, and so are the later blocks, which read the boxes' block as well.
    `jaxbox.models.pruning.contributions` measures what boxes add to the output of their block.

    Source: Burkov & Lempitsky 2018, section 4, "Box statistics".

    Args:
      model: The network.

    Returns:
      The layers in the order in which the network applies them; none if it has no boxes.

    Raises:
      TypeError: `model` is no network.
      ValueError: The network has been pruned.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import analysis, models
      >>> model = models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(0))
      >>> layers = analysis.box_layers(model)
      >>> len(layers), layers[0].name, layers[0].theta.shape, layers[0].importance.shape
      (5, 'box layer 1', (16, 4, 4), (16, 4))
    """
    check_network(model)
    layers = []
    readers = [*(block.input_convs for block in model.blocks), (model.classifier,)]
    for number, (index, block) in enumerate(model.box_blocks(), start=1):
        before: Any
        (before,), after = block.input_convs, readers[index + 1]
        outgoing = jnp.concatenate([conv.kernel[...] for conv in after], axis=-1)
        weights = importance(before.kernel[...], outgoing)
        conv = block.boxes
        layers.append(BoxLayer(f"box layer {number}", conv.valid_theta, conv.window, weights))
    return layers


def at_minimum(
    theta: ArrayLike, *, min_size: float = 1.0, tolerance: float = _TOLERANCE
) -> jax.Array:
    """Tells which boxes have shrunk to the minimum size in both width and height.

    Source: Burkov & Lempitsky 2018, section 4, "Box statistics".

    Args:
      theta: The boxes, `(..., 4)`, in pixels; of two numbers for signals, of six for volumes.
      min_size: The smallest width and height that training allows, in pixels.
      tolerance: The excess width and height, in pixels, up to which a box counts.

    Returns:
      Booleans `(...)`.

    Raises:
      TypeError: `theta` is not floating, or a number is none.
      ValueError: The last axis of `theta` is not 4, or a number is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.analysis import at_minimum
      >>> at_minimum(jnp.array([[3.0, 4.0, -0.5, 0.5], [3.0, 4.0, -2.0, 2.0]])).tolist()
      [True, False]
    """
    theta = boxes.check_theta(theta)
    min_size = check_number("min_size", min_size)
    tolerance = check_number("tolerance", tolerance, may_be_zero=True)
    return jnp.all(theta[..., 1::2] - theta[..., 0::2] <= min_size + tolerance, axis=-1)


def share_at_minimum(
    theta: ArrayLike, *, min_size: float = 1.0, tolerance: float = _TOLERANCE
) -> jax.Array:
    """Returns the share of boxes that have shrunk to the minimum size.

    Source: Burkov & Lempitsky 2018, section 4, "Box statistics".

    Args:
      theta: The boxes, `(..., 4)`, in pixels; of two numbers for signals, of six for volumes.
      min_size: The smallest width and height that training allows, in pixels.
      tolerance: The excess width and height, in pixels, up to which a box counts.

    Returns:
      A scalar from 0 to 1.

    Raises:
      TypeError: `theta` is not floating, or a number is none.
      ValueError: The last axis of `theta` is not 4, 2 or 6, there are no boxes, or a number is out
        of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.analysis import share_at_minimum
      >>> share_at_minimum(jnp.array([[3.0, 4.0, -0.5, 0.5], [3.0, 4.0, -2.0, 2.0]])).item()
      0.5
    """
    counted = at_minimum(theta, min_size=min_size, tolerance=tolerance)
    if not counted.size:
        raise ValueError(f"theta must have boxes, got shape {jnp.shape(theta)}.")
    return jnp.mean(counted, dtype=jnp.float32)


def symmetry(theta: ArrayLike) -> jax.Array:
    """Measures how symmetric boxes are about the vertical axis through their output pixel.

    It is the area of the intersection of a box and its mirror image, divided by the area of their
    union: `min(-x_min, x_max) / max(-x_min, x_max)`. It is 1 for a box that is its own mirror image
    and 0 for a box that lies wholly on one side.

    Source: Burkov & Lempitsky 2018, section 4, "Box statistics", which gives no measure.

    Args:
      theta: The boxes, `(..., 4)`, in pixels; of two numbers for signals, of six for volumes.

    Returns:
      Numbers from 0 to 1, `(...)`.

    Raises:
      TypeError: `theta` is not floating.
      ValueError: The last axis of `theta` is not 4, 2 or 6.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.analysis import symmetry
      >>> theta = jnp.array([[-2.0, 2.0, 0.0, 9.0], [-1.0, 4.0, -1.0, 1.0], [1.0, 3.0, 0.0, 1.0]])
      >>> symmetry(theta).tolist()
      [1.0, 0.25, 0.0]
    """
    theta = boxes.check_theta(theta)
    left, right = -theta[..., 0], theta[..., 1]
    return jnp.maximum(jnp.minimum(left, right), 0) / jnp.maximum(left, right)
