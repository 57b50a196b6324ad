"""Random boxes and images, and how far a result lies from the oracle's."""

import itertools

import hypothesis.strategies as st
import numpy as np

from jaxbox import boxes

# Largest error, relative to the largest magnitude of the same array.
BOUNDS = {"forward": 2e-6, "dx": 5e-6, "dtheta": 2e-5}

# `(H, W)` of images for which the op, computed by XLA, takes each form.
IMAGE_SIZES = {"overlap_matrices": (5, 7), "integral_images": (3, 330)}

# One row, one column and single pixels as often as whole images.
image_sizes = st.one_of(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.just(1), st.integers(1, 70)),
    st.tuples(st.integers(1, 70), st.just(1)),
)


def _inside(rng, size):
    low = rng.uniform(-size / 2, size / 2 - 1)
    return low, rng.uniform(low + 1, size / 2)


def _partly_outside(rng, size):
    low = rng.uniform(-1.5 * size, 1.5 * size - 1)
    return low, low + rng.uniform(1, size + 1)


def _far_outside(rng, size):
    distance, length = rng.uniform(size, 9 * size), rng.uniform(1, 9)
    return _either_side(rng, distance, distance + length)


def _just_outside(rng, size):
    return _either_side(rng, size - 0.5, size - 0.5 + rng.uniform(1, 9))


def _either_side(rng, low, high):
    return (low, high) if rng.random() < 0.5 else (-high, -low)


def _huge(rng, size):
    return -size * rng.uniform(1, 99), size * rng.uniform(1, 99)


def _one_pixel_long(rng, size):
    low = rng.uniform(-size / 2 - 1, size / 2)
    return low, low + 1


def _through_pixel_centres(rng, size):
    low = rng.integers(-size, size)
    return low, low + rng.integers(1, size + 1)


def _along_pixel_edges(rng, size):
    low, high = _through_pixel_centres(rng, size)
    return low - 0.5, high - 0.5


def _one_bound_on_an_edge(rng, size):
    edge, length = rng.integers(-size, size) - 0.5, rng.uniform(1, size + 1)
    return (edge, edge + length) if rng.random() < 0.5 else (edge - length, edge)


_EXTENTS = (
    _inside,
    _partly_outside,
    _far_outside,
    _just_outside,
    _huge,
    _one_pixel_long,
    _through_pixel_centres,
    _along_pixel_edges,
    _one_bound_on_an_edge,
)


def boxes_of_all_kinds(rng, shape, image_size):
    """Boxes `(*shape, 4)`, of an independent kind along each axis; the first lies inside.

    Of huge and outside boxes alone, every result may be the same sum over the whole image. If that
    happens to be close to 0, no float32 sum has the relative accuracy that tests ask for.
    """
    height, width = image_size
    theta = np.empty((*shape, 4), np.float32)
    for box in np.ndindex(*shape):
        along_x, along_y = (_EXTENTS[kind] for kind in rng.integers(len(_EXTENTS), size=2))
        theta[box] = (*along_x(rng, width), *along_y(rng, height))
    theta[(0,) * len(shape)] = (*_inside(rng, width), *_inside(rng, height))
    return theta


def boxes_on_whole_pixels(rng, shape, image_size):
    """Boxes `(*shape, 4)` of all kinds, rounded to whole pixels."""
    return np.asarray(boxes.round_to_pixels(boxes_of_all_kinds(rng, shape, image_size)))


def boxes_on_edges(rng, shape, image_size):
    """Boxes `(*shape, 4)` with all bounds on pixel edges."""
    del image_size
    return _boxes(*_bounds_on_edges(rng, (*shape, 2)))


def boxes_with_one_bound_on_an_edge(rng, shape, image_size):
    """Boxes `(*shape, 4)` with one bound along each axis on a pixel edge."""
    del image_size
    low, high = _bounds_on_edges(rng, (*shape, 2))
    move_low = rng.random(low.shape) < 0.5
    moved = rng.uniform(0, 1, low.shape)
    return _boxes(low - moved * move_low, high + moved * ~move_low)


def boxes_one_rounding_error_off_edges(rng, shape, image_size):
    """Boxes `(*shape, 4)` with all bounds next to a pixel edge; up to 32 boxes.

    Of 32 boxes, the low bounds are both neighbours of each of the 16 edges nearest to the origin,
    along both axes.
    """
    del image_size
    edge, beyond = np.array(list(itertools.product(range(-8, 8), (-99, 99))), np.float32).T
    number = np.prod(shape)
    order = np.stack([rng.permutation(edge.size)[:number] for _ in range(2)], axis=-1)
    order = order.reshape(*shape, 2)
    low = edge[order] - np.float32(0.5)
    high = low + rng.integers(1, 12, low.shape).astype(np.float32)
    return _boxes(np.nextafter(low, beyond[order]), np.nextafter(high, beyond[order]))


def _bounds_on_edges(rng, shape):
    low = rng.integers(-12, 12, shape)
    return low - 0.5, low + rng.integers(1, 12, shape) - 0.5


def _boxes(low, high):
    """Boxes `(..., 4)` of bounds `(..., 2)` along x and y."""
    return np.stack([low, high], axis=-1).reshape(*low.shape[:-1], 4).astype(np.float32)


def boxes_off_edges(rng, shape, image_size):
    """Boxes `(*shape, 4)` at least 0.1 pixels away from every pixel edge, some partly outside."""
    height, width = image_size
    sizes = np.array([width, height])
    low = rng.integers(-sizes, sizes, (*shape, 2))
    bounds = np.stack([low, low + rng.integers(1, sizes + 2, (*shape, 2))], axis=-1)
    bounds = bounds + rng.uniform(-0.4, 0.4, bounds.shape)
    # The lengths that remain are at least 0.2 pixels; a shorter box would be ill-conditioned.
    return bounds.reshape(*shape, 4).astype(np.float32)


def images(rng, shape):
    """Float32 images: of mean 0, or of mean 1 as behind a ReLU."""
    image = rng.normal(size=shape) if rng.random() < 0.5 else rng.uniform(0, 2, shape)
    return image.astype(np.float32)


def to_channels_last(planes):
    """`(N, C, H, W)` or `(N, C, F, H, W)` to `(N, H, W, C)` or `(N, H, W, C * F)`."""
    batch, height, width = planes.shape[0], *planes.shape[-2:]
    return np.moveaxis(np.reshape(planes, (batch, -1, height, width)), 1, -1)


def arguments(rng, size, *, batch=1, channels=2, number=3):
    """Images, boxes of all kinds and a gradient with respect to the output, as planes."""
    x = images(rng, (batch, channels, *size))
    theta = boxes_of_all_kinds(rng, (channels, number), size)
    g = rng.normal(size=(batch, channels, number, *size)).astype(np.float32)
    return x, theta, g


def assert_close(result, expected, kind):
    """Compares with the oracle; `kind` is one of `BOUNDS`."""
    error = relative_error(result, expected)
    assert error <= BOUNDS[kind], f"{kind}: {error:.1e}"


def relative_error(actual, expected):
    """The largest error, relative to the largest magnitude of `expected`."""
    actual = np.asarray(actual, np.float64)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    largest = np.abs(expected).max()
    error = np.abs(actual - expected).max()
    return error if largest == 0 else error / largest
