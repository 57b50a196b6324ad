"""How far a network sees: gradient response maps and their cumulative energy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxbox.arguments import check_callable, check_count, check_fraction, is_traced, to_array

__all__ = [
    "Layer",
    "cumulative_energy",
    "energy_curves",
    "gradient_response",
    "saturation_radius",
]

type Layer = Callable[[jax.Array], jax.Array]
"""A function from images to activations, `(N, H, W, C)` to `(N, h, w, K)`, image by image."""


def gradient_response(
    layer: Layer, images: ArrayLike, positions: ArrayLike, *, units_at_once: int = 16
) -> jax.Array:
    """Computes gradient response maps: how much each pixel of an image moves units of a layer.

    The gradient of a unit with respect to a pixel is a vector over the image's channels. The map at
    a position is the mean length of this vector over the units at the position, one per channel.

    Source: Burkov & Lempitsky 2018, section 4, "Receptive fields analysis".

    Args:
      layer: A function from images `(N, H, W, C)` to a layer's activations `(N, h, w, K)`, which
        must depend on their own image only. For a `SegmentationNetwork` in evaluation mode this is
        the network itself for its logits, or `lambda images: model.features(images, depth)` for the
        features that its first blocks return.
      images: The images, `(N, H, W, C)`, of a floating dtype.
      positions: The row and column of each of `P` positions in each image's activations,
        `(N, P, 2)`, integers.
      units_at_once: The number of units whose gradients are computed together. A larger number
        takes more memory.

    Returns:
      The maps, `(N, P, H, W)`, of the dtype of `images`.

    Raises:
      TypeError: An argument is of the wrong type, or the positions are not integers.
      ValueError: A shape does not fit, or a position is outside the activations; under `jax.jit`,
        where positions are not known, the latter is not checked.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.analysis import gradient_response
      >>> def shrink(images):  # Every second pixel, times 2 and times -3.
      ...     return images[:, ::2, ::2] * jnp.array([[[[2.0, -3.0]]]])
      >>> gradient_response(shrink, jnp.ones((1, 2, 4, 1)), [[[0, 1]]])[0, 0]
      Array([[0. , 0. , 2.5, 0. ],
             [0. , 0. , 0. , 0. ]], dtype=float32)
    """
    images, positions, _ = _check_arguments(layer, images, positions)
    return _map_responses(layer, images, positions, units_at_once, lambda response, _: response)


def cumulative_energy(response: ArrayLike, centre: ArrayLike) -> jax.Array:
    """Computes cumulative gradient energy: the share of a gradient response map within each radius.

    `E(r)` is the sum of the map over the square window of radius `r`, which has the pixels at most
    `r` from the centre along both axes, divided by the sum of the whole map.

    Source: Burkov & Lempitsky 2018, section 4, "Receptive fields analysis".

    Args:
      response: The maps, `(..., H, W)`, without negative values.
      centre: The row and column of the centre of the windows, `(..., 2)`, in pixels. It lies in the
        image, and may lie between pixels.

    Returns:
      `E(r)` for the radii `r = 0, 1, ..., max(H, W)`, `(..., max(H, W) + 1)`. The last is 1. If a
      map is 0 everywhere, all are NaN.

    Raises:
      TypeError: An array is not of a real floating dtype.
      ValueError: A shape does not fit, or a centre is outside the image.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.analysis import cumulative_energy
      >>> response = jnp.array([[1.0, 2.0, 3.0, 2.0]])
      >>> cumulative_energy(response, jnp.array([0.0, 2.0])).tolist()
      [0.375, 0.875, 1.0, 1.0, 1.0]
    """
    response = to_array("response", response)
    if response.ndim < 2 or 0 in response.shape:
        raise ValueError(f"response must be (..., H, W), got shape {response.shape}.")
    H, W = response.shape[-2:]
    centre = _check_centre(centre, response)
    rows, columns = (
        jnp.abs(_along_last_axis(size, centre) - centre[..., axis, None])
        for axis, size in ((0, H), (1, W))
    )
    distance = jnp.maximum(rows[..., :, None], columns[..., None, :])
    # The radius of the smallest window that has the pixel.
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
    """Computes the cumulative gradient energy `E(r)` of a layer's units at positions of images.

    This is `cumulative_energy` of `gradient_response`, without storing the maps. The centre of the
    windows is the point of the image at the middle of the unit's pixel: if a pixel of the
    activations covers `s x s` pixels of the image, `s (i + 1/2) - 1/2` for row and column `i`.

    Source: Burkov & Lempitsky 2018, section 4, "Receptive fields analysis", and Figure 4, whose
    curves are means over 30 images and 20 positions in each.

    Args:
      layer: A function from images to a layer's activations, as in `gradient_response`.
      images: The images, `(N, H, W, C)`, of a floating dtype.
      positions: The row and column of each of `P` positions in each image's activations,
        `(N, P, 2)`, integers.
      units_at_once: The number of units whose gradients are computed together. A larger number
        takes more memory.

    Returns:
      `E(r)` for the radii `r = 0, 1, ..., max(H, W)` in pixels of the image,
      `(N, P, max(H, W) + 1)`. It is NaN where no pixel moves any unit, for instance because ReLU
      makes all of them 0. `jnp.nanmean(curves, axis=(0, 1))` is the curve of Figure 4.

    Raises:
      TypeError: The positions are not integers.
      ValueError: A shape does not fit, or a position is outside the activations; under `jax.jit`,
        where positions are not known, the latter is not checked.

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
    images, positions, size = _check_arguments(layer, images, positions)
    stride = jnp.array([image / own for image, own in zip(images.shape[1:3], size, strict=True)])

    def energy(response: jax.Array, position: jax.Array) -> jax.Array:
        centre = (position.astype(stride.dtype) + 0.5) * stride - 0.5
        return cumulative_energy(response, centre)

    return _map_responses(layer, images, positions, units_at_once, energy)


def saturation_radius(curve: ArrayLike, share: float = 0.95) -> jax.Array:
    """Returns the radius at which cumulative gradient energy comes close to 1.

    Source: Burkov & Lempitsky 2018, section 4: the radius of an effective receptive field.

    Args:
      curve: `E(r)` for `r = 0, 1, 2, ...`, `(..., R)`.
      share: The share of the energy to reach, above 0 and at most 1.

    Returns:
      The smallest `r` with `E(r) >= share`, `(...)`, int32.

    Raises:
      TypeError: `curve` is not of a real floating dtype, or `share` no real number.
      ValueError: `share` is out of range, or `curve` is empty.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.analysis import saturation_radius
      >>> saturation_radius(jnp.array([0.2, 0.6, 0.96, 1.0])).item()
      2
    """
    check_fraction("share", share)
    if not share:
        raise ValueError(f"share must be above 0 and at most 1, got {share}.")
    curve = to_array("curve", curve)
    if not curve.ndim or not curve.shape[-1]:
        raise ValueError(f"curve must be (..., R) with R at least 1, got shape {curve.shape}.")
    return jnp.argmax(curve >= float(share), axis=-1).astype(jnp.int32)


def _check_arguments(
    layer: Layer, images: ArrayLike, positions: ArrayLike
) -> tuple[jax.Array, jax.Array, tuple[int, int]]:
    """Returns images and positions as arrays, and the height and width of the activations."""
    check_callable("layer", layer)
    images = to_array("images", images)
    places = _to_places(positions)
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must be (N, H, W, C), got shape {images.shape}.")
    if not np.issubdtype(places.dtype, np.integer):
        raise TypeError(f"positions must be integers, got {places.dtype}.")
    if places.ndim != 3 or places.shape[::2] != (len(images), 2):
        raise ValueError(
            f"positions must be (N, P, 2) with N = {len(images)} images, got shape {places.shape}."
        )
    activations = jax.eval_shape(layer, images)
    if not isinstance(activations, jax.ShapeDtypeStruct):
        raise TypeError(f"layer must return an array, got a {type(activations).__name__}.")
    if not jnp.issubdtype(activations.dtype, jnp.floating):
        raise TypeError(f"layer must return a real floating dtype, got {activations.dtype}.")
    shape = activations.shape
    if len(shape) != 4 or shape[0] != len(images) or 0 in shape:
        raise ValueError(f"layer must return (N, h, w, K) for N images, got shape {shape}.")
    h, w = activations.shape[1:3]
    # JAX silently drops or clamps an index that is out of bounds.
    if isinstance(places, np.ndarray) and (np.any(places < 0) or np.any(places >= (h, w))):
        raise ValueError(f"positions must lie in the activations of {h} x {w} pixels.")
    return images, jnp.asarray(places, jnp.int32), (h, w)


def _to_places(positions: ArrayLike) -> np.ndarray | jax.Array:
    """Returns positions as an array of NumPy, or as they are where they are traced."""
    if isinstance(positions, jax.Array) and is_traced(positions):
        return positions
    try:
        return np.asarray(positions)
    except (TypeError, ValueError):
        raise TypeError(f"positions must be integers, got {positions!r}.") from None


def _along_last_axis(size: int, like: jax.Array) -> jax.Array:
    """Returns 0, 1, ... along the last axis, with the number of axes and the dtype of `like`."""
    return jnp.arange(size, dtype=like.dtype).reshape((1,) * (like.ndim - 1) + (size,))


def _check_centre(centre: ArrayLike, response: jax.Array) -> jax.Array:
    """Returns the centres `(..., 2)` of maps `(..., H, W)`, in the dtype of the maps."""
    centre = to_array("centre", centre).astype(response.dtype)
    batch = response.shape[:-2]
    if centre.shape not in ((*batch, 2), (2,)):
        raise ValueError(
            f"centre must be (..., 2) for each of the maps (..., H, W), whose shape is "
            f"{response.shape}; got shape {centre.shape}."
        )
    if not is_traced(centre):
        farthest = np.array(response.shape[-2:]) - 0.5
        inside = (np.asarray(centre) >= -0.5) & (np.asarray(centre) <= farthest)
        if not inside.all():
            raise ValueError(f"centre must lie in the image, got {centre} for {response.shape}.")
    return centre


def _map_responses(
    layer: Layer,
    images: jax.Array,
    positions: jax.Array,
    units_at_once: int,
    function: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Applies a function to the gradient response map at each position and to the position."""
    units_at_once = check_count("units_at_once", units_at_once)

    def of_image(arguments: tuple[jax.Array, jax.Array]) -> Any:
        image, positions = arguments
        activations, pull_back = jax.vjp(lambda image: layer(image[None])[0], image)
        K = activations.shape[-1]

        def of_position(position: jax.Array) -> jax.Array:
            def of_unit(unit: jax.Array) -> jax.Array:
                one = jnp.ones((), activations.dtype)
                picked = jnp.zeros_like(activations).at[position[0], position[1], unit].set(one)
                (dx,) = pull_back(picked)
                length: jax.Array = jnp.linalg.norm(dx, axis=-1)
                return length

            units = jnp.arange(K, dtype=jnp.int32)
            responses = jax.lax.map(of_unit, units, batch_size=min(units_at_once, K))
            return function(jnp.mean(responses, axis=0), position)

        return jax.lax.map(of_position, positions)

    # Compiled anew in each call: a cache by `layer` would not notice that its weights have changed.
    mapped: jax.Array = jax.jit(lambda *arrays: jax.lax.map(of_image, arrays))(images, positions)
    return mapped
