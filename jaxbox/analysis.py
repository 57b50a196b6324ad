"""What a network's boxes have become and how far the network sees: the numbers of section 4.

Nothing here draws; `jaxbox.plots` does. Areas of boxes are in `jaxbox.boxes.area`.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxbox.boxes import Window
from jaxbox.models.blocks import BoxBlock, InitialBlock
from jaxbox.models.erf_blocks import TransposedUpsampling
from jaxbox.models.network import SegmentationNetwork

__all__ = [
    "BoxLayer",
    "at_minimum",
    "box_layers",
    "cumulative_energy",
    "energy_curves",
    "gradient_response",
    "importance",
    "saturation_radius",
    "share_at_minimum",
    "symmetry",
]

type Layer = Callable[[jax.Array], jax.Array]
"""Activations as a function of images: `(N, H, W, C)` to `(N, h, w, K)`, each image on its own."""

# Training projects boxes to the minimum with an error of rounding, and noise lifts them off it.
_TOLERANCE = 0.01


class BoxLayer(NamedTuple):
    """The boxes of one layer.

    Attributes:
      name: What to call the layer in a picture.
      theta: The boxes, `(C, F, 4)`, in pixels of the layer's feature map.
      window: `(h, w)`, the feature map's size in pixels, or `None` where it is not known.
      importance: Of each box, `(C, F)`.
    """

    name: str
    theta: jax.Array
    window: Window | None
    importance: jax.Array


def importance(incoming: ArrayLike, outgoing: ArrayLike) -> jax.Array:
    """The importance of boxes between two convolutions.

    The mean absolute weight with which the convolution after the boxes reads the box's channel,
    times the largest absolute weight with which the convolution before them makes the box's input
    channel.

    Source: Burkov & Lempitsky 2018, section 4, "Box statistics".

    Args:
      incoming: Kernel of the convolution before the boxes, `(..., inputs, C)`.
      outgoing: Kernel of the convolution after them, `(..., C * F, outputs)`.

    Returns:
      The importance of each box, `(C, F)`.

    Raises:
      ValueError: The channels of the two kernels do not fit together.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.analysis import importance
      >>> incoming = jnp.array([[1.0, 5.0], [-3.0, 0.0]])  # Two inputs, two channels.
      >>> outgoing = jnp.array([[1.0, 1.0], [0.0, -4.0], [0.0, 2.0], [0.0, 0.0]])  # Of two boxes.
      >>> importance(incoming, outgoing).tolist()
      [[3.0, 6.0], [5.0, 0.0]]
    """
    incoming, outgoing = jnp.abs(jnp.asarray(incoming)), jnp.abs(jnp.asarray(outgoing))
    channels = incoming.shape[-1]
    if incoming.ndim < 2 or outgoing.ndim < 2 or outgoing.shape[-2] % channels:
        raise ValueError(
            "incoming must be (..., inputs, C) and outgoing (..., C * F, outputs), "
            f"got shapes {incoming.shape} and {outgoing.shape}."
        )
    largest = jnp.max(incoming, axis=range(incoming.ndim - 1))
    mean = jnp.mean(outgoing, axis=(*range(outgoing.ndim - 2), outgoing.ndim - 1))
    return largest[:, None] * mean.reshape(channels, -1)


def box_layers(model: SegmentationNetwork) -> list[BoxLayer]:
    """The boxes of a network, layer by layer, with their importance.

    The convolution before the boxes is the 1x1 convolution of their block. A block adds its boxes'
    averages to its input, and the convolution after them is the one with which the next block, or
    the classifier, reads that sum; where an upsampling block reads it with two, they count as one.
    It is 1x1 but in `Downsampling`, ERFNet's blocks and the classifier, whose kernels are averaged
    over their pixels too. As in the paper, BatchNorm is left out and so are the blocks further on,
    which read the sum as well: `jaxbox.models.pruning.contributions` measures what boxes add to it.

    Source: Burkov & Lempitsky 2018, section 4, "Box statistics".

    Args:
      model: Any network. One without boxes has no layers.

    Returns:
      The layers in the order in which the network applies them.

    Raises:
      ValueError: The network has been pruned.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import analysis, models
      >>> model = models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(0))
      >>> layers = analysis.box_layers(model)
      >>> len(layers), layers[0].name, layers[0].theta.shape, layers[0].importance.shape
      (5, 'box layer 1', (16, 4, 4), (16, 4))
    """
    layers: list[BoxLayer] = []
    sequence = [*model.blocks, model.classifier]
    for block, reader in itertools.pairwise(sequence):
        if isinstance(block, BoxBlock):
            boxes = block.boxes
            before: Any = block.branch.layers[0]
            kernels = [conv.kernel[...] for conv in _convolutions_reading(reader)]
            weights = importance(before.kernel[...], jnp.concatenate(kernels, axis=-1))
            name = f"box layer {len(layers) + 1}"
            layers.append(BoxLayer(name, boxes.theta[...], boxes.window, weights))
    return layers


def _convolutions_reading(layer: Any) -> list[Any]:
    """The convolutions to which a block, or the classifier, gives its input."""
    if isinstance(layer, InitialBlock | TransposedUpsampling):
        return [layer.conv]
    sequences = [getattr(layer, name) for name in ("branch", "skip") if hasattr(layer, name)]
    return [sequence.layers[0] for sequence in sequences] or [layer]


def at_minimum(
    theta: ArrayLike, *, min_size: float = 1.0, tolerance: float = _TOLERANCE
) -> jax.Array:
    """Tells which boxes shrank to the minimum, in width and in height.

    Source: Burkov & Lempitsky 2018, section 4, "Box statistics".

    Args:
      theta: Boxes of shape `(..., 4)`, in pixels.
      min_size: The least width and height that training allowed, in pixels.
      tolerance: How much wider and higher than that still counts, in pixels.

    Returns:
      Booleans of shape `(...)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.analysis import at_minimum
      >>> at_minimum(jnp.array([[3.0, 4.0, -0.5, 0.5], [3.0, 4.0, -2.0, 2.0]])).tolist()
      [True, False]
    """
    theta = jnp.asarray(theta)
    return jnp.all(theta[..., 1::2] - theta[..., 0::2] <= min_size + tolerance, axis=-1)


def share_at_minimum(
    theta: ArrayLike, *, min_size: float = 1.0, tolerance: float = _TOLERANCE
) -> jax.Array:
    """The share of boxes that shrank to the minimum, in width and in height.

    Source: Burkov & Lempitsky 2018, section 4, "Box statistics".

    Args:
      theta: Boxes of shape `(..., 4)`, in pixels.
      min_size: As in `at_minimum`.
      tolerance: As in `at_minimum`.

    Returns:
      A scalar from 0 to 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.analysis import share_at_minimum
      >>> share_at_minimum(jnp.array([[3.0, 4.0, -0.5, 0.5], [3.0, 4.0, -2.0, 2.0]])).item()
      0.5
    """
    return jnp.mean(at_minimum(theta, min_size=min_size, tolerance=tolerance), dtype=jnp.float32)


def symmetry(theta: ArrayLike) -> jax.Array:
    """How symmetric boxes are about the vertical axis through the pixel that they compute.

    That is the area that a box shares with its mirror image, divided by the area that the two
    cover together: `min(-x_min, x_max) / max(-x_min, x_max)`, and 0 for a box that lies wholly on
    one side. It is 1 for a box that is its own mirror image.

    Source: Burkov & Lempitsky 2018, section 4, "Box statistics", which gives no measure.

    Args:
      theta: Boxes of shape `(..., 4)`, in pixels.

    Returns:
      Numbers from 0 to 1 of shape `(...)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.analysis import symmetry
      >>> theta = jnp.array([[-2.0, 2.0, 0.0, 9.0], [-1.0, 4.0, -1.0, 1.0], [1.0, 3.0, 0.0, 1.0]])
      >>> symmetry(theta).tolist()
      [1.0, 0.25, 0.0]
    """
    theta = jnp.asarray(theta)
    left, right = -theta[..., 0], theta[..., 1]
    return jnp.maximum(jnp.minimum(left, right), 0) / jnp.maximum(left, right)


def gradient_response(
    layer: Layer, images: ArrayLike, positions: ArrayLike, *, units_at_once: int = 16
) -> jax.Array:
    """Gradient response maps: how much each pixel of an image moves a layer's units at a position.

    For unit `i` at a position the gradient by each pixel is a vector over the image's channels; the
    map is the mean over the layer's units of that vector's length.

    Source: Burkov & Lempitsky 2018, section 4, "Receptive fields analysis".

    Args:
      layer: The activations of a layer as a function of images, `(N, H, W, C)` to `(N, h, w, K)`,
        that treats each image on its own. Of a `SegmentationNetwork` in evaluation mode: the
        network itself for its logits, `lambda images: model.features(images, depth)` for what its
        first blocks return.
      images: `(N, H, W, C)`, of a floating dtype.
      positions: `(N, P, 2)`, integers: the row and the column of `P` units in each image's
        activations.
      units_at_once: For how many units gradients are computed together. More take more memory.

    Returns:
      The maps, `(N, P, H, W)`, of the dtype of `images`.

    Raises:
      TypeError: The positions are not integers.
      ValueError: A shape does not fit, or a position is outside the activations.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.analysis import gradient_response
      >>> def shrink(images):  # Every second pixel, twice and three times.
      ...     return images[:, ::2, ::2] * jnp.array([[[[2.0, -3.0]]]])
      >>> gradient_response(shrink, jnp.ones((1, 2, 4, 1)), [[[0, 1]]])[0, 0]
      Array([[0. , 0. , 2.5, 0. ],
             [0. , 0. , 0. , 0. ]], dtype=float32)
    """
    images, positions, _ = _check_response(layer, images, positions)
    return _map_responses(layer, images, positions, units_at_once, lambda response, _: response)


def cumulative_energy(response: ArrayLike, centre: ArrayLike) -> jax.Array:
    """Cumulative gradient energy: the share of a gradient response map within each radius.

    `E(r)` is the sum of the map over the square window of radius `r`, the pixels no further than
    `r` from the centre along either axis, divided by the sum of the whole map.

    Source: Burkov & Lempitsky 2018, section 4, "Receptive fields analysis".

    Args:
      response: Maps of shape `(..., H, W)`, nowhere negative.
      centre: `(..., 2)`, the row and the column around which windows lie, in pixels. It need not be
        a whole number, and lies in the image.

    Returns:
      `E(r)` for the radii `r = 0, 1, ..., max(H, W)`, `(..., max(H, W) + 1)`. The last is 1. A map
      that is 0 everywhere has no such shares: they are NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.analysis import cumulative_energy
      >>> response = jnp.array([[1.0, 2.0, 3.0, 2.0]])
      >>> cumulative_energy(response, jnp.array([0.0, 2.0])).tolist()
      [0.375, 0.875, 1.0, 1.0, 1.0]
    """
    response = jnp.asarray(response)
    centre = jnp.asarray(centre, response.dtype)
    H, W = response.shape[-2:]
    rows, columns = (
        jnp.abs(jnp.arange(size, dtype=response.dtype) - centre[..., axis, None])
        for axis, size in ((0, H), (1, W))
    )
    distance = jnp.maximum(rows[..., :, None], columns[..., None, :])
    # The first radius whose window has the pixel.
    radius = jnp.ceil(distance).astype(jnp.int32)
    number = max(H, W) + 1

    def sum_by_radius(radius: jax.Array, response: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(response.ravel(), radius.ravel(), number)

    batch = response.shape[:-2]
    radius = jnp.broadcast_to(radius, response.shape).reshape(-1, H, W)
    rings = jax.vmap(sum_by_radius)(radius, response.reshape(-1, H, W))
    energy = jnp.cumsum(rings, axis=-1)
    return (energy / energy[:, -1:]).reshape(*batch, number)


def energy_curves(
    layer: Layer, images: ArrayLike, positions: ArrayLike, *, units_at_once: int = 16
) -> jax.Array:
    """Cumulative gradient energy `E(r)` of a layer's units at some positions of some images.

    That is `cumulative_energy` of `gradient_response`, without keeping the maps. Windows lie around
    the point of the image that the unit is in the middle of: if the activations have a pixel for
    each `s x s` pixels of the image, `s (i + 1/2) - 1/2` for row and column `i`.

    Source: Burkov & Lempitsky 2018, section 4, "Receptive fields analysis", and Figure 4, whose
    curves are means over 30 images and 20 positions in each.

    Args:
      layer: As in `gradient_response`.
      images: As in `gradient_response`.
      positions: As in `gradient_response`.
      units_at_once: As in `gradient_response`.

    Returns:
      `E(r)` for the radii `r = 0, 1, ..., max(H, W)` in pixels of the image,
      `(N, P, max(H, W) + 1)`. Where no pixel moves any unit, as where ReLU leaves 0 in all of them,
      it is NaN; `jnp.nanmean(curves, axis=(0, 1))` is the curve of Figure 4.

    Raises:
      TypeError: The positions are not integers.
      ValueError: A shape does not fit, or a position is outside the activations.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbox
      >>> from jaxbox.analysis import energy_curves
      >>> theta = jnp.array([[[-2.5, 2.5, -0.5, 0.5]]])  # Five pixels wide, one high.
      >>> curves = energy_curves(
      ...     lambda images: jaxbox.box_conv(images, theta), jnp.ones((1, 5, 9, 1)), [[[2, 4]]]
      ... )
      >>> [round(share, 3) for share in curves[0, 0, :4].tolist()]
      [0.2, 0.6, 1.0, 1.0]
    """
    images, positions, size = _check_response(layer, images, positions)
    stride = jnp.array([image / own for image, own in zip(images.shape[1:3], size, strict=True)])

    def energy(response: jax.Array, position: jax.Array) -> jax.Array:
        centre = (position.astype(stride.dtype) + 0.5) * stride - 0.5
        return cumulative_energy(response, centre)

    return _map_responses(layer, images, positions, units_at_once, energy)


def saturation_radius(curve: ArrayLike, share: float = 0.95) -> jax.Array:
    """The radius at which cumulative gradient energy comes close to 1.

    Source: Burkov & Lempitsky 2018, section 4: the radius of an effective receptive field.

    Args:
      curve: `E(r)` for `r = 0, 1, 2, ...`, of shape `(..., R)`.
      share: How close, above 0 and at most 1.

    Returns:
      The least whole radius with `E(r) >= share`, of shape `(...)`, int32.

    Raises:
      ValueError: `share` is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.analysis import saturation_radius
      >>> saturation_radius(jnp.array([0.2, 0.6, 0.96, 1.0])).item()
      2
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}.")
    return jnp.argmax(jnp.asarray(curve) >= share, axis=-1).astype(jnp.int32)


def _check_response(
    layer: Layer, images: ArrayLike, positions: ArrayLike
) -> tuple[jax.Array, jax.Array, tuple[int, int]]:
    """Images and positions as arrays, and the height and width of the activations."""
    images, positions = jnp.asarray(images), np.asarray(positions)
    if images.ndim != 4:
        raise ValueError(f"images must be (N, H, W, C), got shape {images.shape}.")
    if not np.issubdtype(positions.dtype, np.integer):
        raise TypeError(f"positions must be integers, got {positions.dtype}.")
    if positions.ndim != 3 or positions.shape[::2] != (len(images), 2):
        raise ValueError(
            f"positions must be (N, P, 2) with N = {len(images)} images, "
            f"got shape {positions.shape}."
        )
    activations = jax.eval_shape(layer, images)
    if activations.ndim != 4:
        raise ValueError(f"layer must return (N, h, w, K), got shape {activations.shape}.")
    h, w = activations.shape[1:3]
    # JAX would drop or clamp what lies outside.
    if np.any(positions < 0) or np.any(positions >= (h, w)):
        raise ValueError(f"positions must lie in the activations of {h} x {w} pixels.")
    return images, jnp.asarray(positions, jnp.int32), (h, w)


def _map_responses(
    layer: Layer,
    images: jax.Array,
    positions: jax.Array,
    units_at_once: int,
    function: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Applies a function to the gradient response map at each position, and the position."""

    def of_image(arguments: tuple[jax.Array, jax.Array]) -> jax.Array:
        image, positions = arguments
        activations, pull_back = jax.vjp(lambda image: layer(image[None])[0], image)
        K = activations.shape[-1]

        def of_position(position: jax.Array) -> jax.Array:
            def of_unit(unit: jax.Array) -> jax.Array:
                one = jnp.ones((), activations.dtype)
                picked = jnp.zeros_like(activations).at[position[0], position[1], unit].set(one)
                (gradient,) = pull_back(picked)
                return jnp.linalg.norm(gradient, axis=-1)

            units = jnp.arange(K, dtype=jnp.int32)
            responses = jax.lax.map(of_unit, units, batch_size=min(units_at_once, K))
            return function(jnp.mean(responses, axis=0), position)

        return jax.lax.map(of_position, positions)

    # Compiled for this call alone: a cache by `layer` would outlive a change of the weights in it.
    return jax.jit(lambda *arrays: jax.lax.map(of_image, arrays))(images, positions)
