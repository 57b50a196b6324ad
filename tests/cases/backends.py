"""The backends that the suite of the box convolution runs on, and the cases that each runs."""

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

import jaxbox
from jaxbox_kernels import cpu, mosaic_gpu
from jaxbox_kernels.backend import Backend, Options, always_suitable
from jaxbox_kernels.cpu import library
from jaxbox_kernels.xla.backend import (
    INTEGRAL_IMAGES,
    OVERLAP_MATRICES,
    OVERLAP_MATRICES_IN_FLOAT32,
)
from tests.cases import box_conv as cases

EXACT = Options()
_INTEGRAL, _WHOLE = Options(normalize=False), Options(whole_pixels=True)


@dataclass(frozen=True)
class Case:
    """One program and the kinds of boxes that it is given.

    Attributes:
      size: `(H, W)`.
      options: what the backend computes.
      batch: the number of images.
      channels: the number of channels.
      boxes: the number of boxes of each channel.
      kinds: draw boxes.
    """

    size: tuple[int, int]
    options: Options = EXACT
    batch: int = 1
    channels: int = 2
    boxes: int = 3
    kinds: tuple[Callable, ...] = (cases.boxes_of_all_kinds,)

    def __str__(self):
        shape = "x".join(map(str, (self.batch, self.channels, self.boxes, *self.size)))
        integral = "" if self.options.normalize else "-integral"
        whole = "-whole_pixels" if self.options.whole_pixels else ""
        return shape + integral + whole + ("-channels_last" if self.options.channels_last else "")


@dataclass(frozen=True)
class Tested:
    """A backend in the suite.

    Attributes:
      backend: computes the box convolution.
      cases: what it runs.
      slow: what it runs besides, by hand, where each program takes long to compile.
      draws: the number of random draws of boxes of each kind.
      rounds: whether it rounds boxes by itself if told that they are on whole pixels.
      machine: the context in which it runs.
    """

    backend: Backend
    cases: tuple[Case, ...]
    draws: int
    slow: tuple[Case, ...] = ()
    rounds: bool = False
    machine: Callable[[], AbstractContextManager] = contextlib.nullcontext


# For all backends. On GPUs: one strip of 128 columns and several, whole ones and not; rows that
# tiles divide and that none do; several images, and more boxes than a program adds up.
SMALL = (
    Case((1, 1)),
    Case((1, 9)),
    Case((9, 1)),
    Case((8, 128)),
    Case((3, 330)),
    Case((7, 129)),
    Case((5, 7), _INTEGRAL, batch=2, boxes=6),
    Case((6, 131), _WHOLE),
)


def _many(size, options=EXACT):
    return Case(size, options, batch=2, channels=6, boxes=8)


def _at_edges(options):
    kinds = (
        cases.boxes_of_all_kinds,
        cases.boxes_on_whole_pixels,
        cases.boxes_on_edges,
        cases.boxes_with_one_bound_on_an_edge,
        cases.boxes_one_rounding_error_off_edges,
    )
    return Case((6, 9), options, batch=2, channels=4, boxes=8, kinds=kinds)


# For the two forms in XLA, whose programs are fast: more than 2,000 boxes.
MEDIUM = (
    _at_edges(EXACT),
    _at_edges(_INTEGRAL),
    *map(_many, [(1, 70), (70, 1), (5, 7), (17, 23), (45, 60), (64, 70)]),
    *(_many(size, _INTEGRAL) for size in [(1, 70), (70, 1), (17, 23)]),
)

# For the operation by XLA, which chooses a form by the size of the image.
LARGE = (*map(_many, [(64, 128), (71, 251), (1, 330)]), _many((200, 130), _INTEGRAL))
WHOLE_PIXELS = tuple(
    Case(size, replace(_WHOLE, normalize=normalize), batch=2, channels=4, boxes=8)
    for size in [(1, 1), (1, 9), (9, 1), (7, 11), (64, 128), (3, 330)]
    for normalize in (True, False)
)

# What CI runs of these for backends whose programs take seconds to compile. Each kind of size, and
# integrals in two dimensions, are among them; the others are run by hand.
FORM_CASES = (
    Case((1, 1)),
    Case((3, 330)),
    _at_edges(EXACT),
    _at_edges(_INTEGRAL),
    *map(_many, [(1, 70), (70, 1), (17, 23), (64, 70)]),
)
OP_CASES = (
    *LARGE,
    *(case for case in WHOLE_PIXELS if case.options.normalize or case.size in [(7, 11), (3, 330)]),
)
# Interpreting takes as long for a plane as XLA does for thousands. One case has several of each.
INTERPRETED_CASES = tuple(
    case if case.batch > 1 else replace(case, channels=1, boxes=2)
    for case in SMALL
    if case.size in [(1, 1), (8, 128), (3, 330), (5, 7), (6, 131)]
)


def _others(cases, chosen):
    """The cases that are not among the chosen ones."""
    return tuple(case for case in cases if case not in chosen)


# For backends that read images with channels last: more outputs of a pixel than are computed
# together, and fewer, which do not divide them.
CHANNELS_LAST = tuple(
    replace(case, options=replace(case.options, channels_last=True), channels=channels)
    for case in (*SMALL, _at_edges(EXACT), _many((45, 60)), _many((71, 251)), WHOLE_PIXELS[-1])
    for channels in ((1, 5) if case in SMALL else (3,))
)


def _op(x, theta, options):
    """The operation by XLA with channels last, as a backend on planes."""
    output = jaxbox.box_conv(
        jnp.moveaxis(x, 1, -1),
        theta,
        normalize=options.normalize,
        whole_pixels=options.whole_pixels,
        implementation="xla",
    )
    return jnp.moveaxis(output, -1, 1).reshape(*x.shape[:2], theta.shape[1], *x.shape[2:])


def _op_backward(x, theta, g, options):
    if x is None:  # The gradient with respect to `x` is the same for every `x`.
        x = jnp.zeros((*g.shape[:2], *g.shape[3:]), g.dtype)
    _, pull_back = jax.vjp(functools.partial(_op, options=options), x, theta)
    return pull_back(g)


@contextlib.contextmanager
def interpreted():
    """Interprets Mosaic kernels, on any machine."""
    with plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(detect_races=True)):
        yield


@contextlib.contextmanager
def native_kernels():
    """Skips the test if the package was installed without its native kernels."""
    if reason := library.why_missing():
        pytest.skip(reason)
    yield


_OP = Backend("jaxbox.box_conv", _op, _op_backward, always_suitable, maps_images=True)
_NATIVE = cpu.load()
_MOSAIC = mosaic_gpu.load()
# Another name, or the programs that were interpreted would be found compiled.
_MOSAIC_INTERPRETED = replace(_MOSAIC, name="mosaic_gpu, interpreted")

# Those whose programs are fast on CPUs.
ON_CPU = ("overlap_matrices", "overlap_matrices_in_float32", "integral_images", "native")
BACKENDS = {
    "overlap_matrices": Tested(
        OVERLAP_MATRICES, FORM_CASES, draws=4, slow=_others(SMALL[:-1] + MEDIUM, FORM_CASES)
    ),
    "overlap_matrices_in_float32": Tested(
        OVERLAP_MATRICES_IN_FLOAT32,
        FORM_CASES,
        draws=4,
        slow=_others(SMALL[:-1] + MEDIUM, FORM_CASES),
    ),
    "integral_images": Tested(
        INTEGRAL_IMAGES,
        (*FORM_CASES, SMALL[-1]),
        draws=4,
        slow=_others(SMALL[:-1] + MEDIUM, FORM_CASES),
    ),
    "box_conv": Tested(
        _OP, OP_CASES, draws=1, slow=_others(LARGE + WHOLE_PIXELS, OP_CASES), rounds=True
    ),
    "native": Tested(
        _NATIVE,
        SMALL + MEDIUM + LARGE + WHOLE_PIXELS + CHANNELS_LAST,
        draws=1,
        machine=native_kernels,
    ),
    "mosaic_interpreted": Tested(
        _MOSAIC_INTERPRETED,
        INTERPRETED_CASES,
        draws=1,
        slow=_others(SMALL, INTERPRETED_CASES),
        machine=interpreted,
    ),
    "mosaic_gpu": Tested(_MOSAIC, SMALL + MEDIUM + LARGE + WHOLE_PIXELS, draws=4),
}


@functools.partial(jax.jit, static_argnames=("backend", "options"))
def run(x, theta, g, *, backend, options=EXACT):
    """The output and the gradients of a backend, in one program.

    With `options.whole_pixels`, the gradient with respect to `theta` is not asked for.
    """
    output = backend.forward(x, theta, options)
    return output, *backend.backward(None if options.whole_pixels else x, theta, g, options)
