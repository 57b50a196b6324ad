"""The layers for Flax Linen.

Each is made of the NNX layer of its name, by one function: the same options, numbers and
parameters, but for the channels of the input (and for boxes the size of their window), which Linen
takes from the input that a layer is initialized with. Linen parameters carry no metadata: find
boxes and positions with :func:`jaxbox.optim.find_boxes_by_name` and
:func:`jaxbox.optim.find_positions_by_name`.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from flax import nnx

from jaxbox import layers
from jaxbox.ops import octave as octaves
from jaxbox_kernels.common import layout

__all__ = ["BoxConv", "DOConv", "DclsConv", "OctConv", "OctConvTranspose"]

type _FromInput = Callable[[Mapping[str, Any], Any], Mapping[str, Any]]


class _LinenLayer(nn.Module):
    """Builds its NNX layer for the input that it gets."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Applies the layer; see the NNX layer of this name."""
        layer, from_input = self._nnx_layer, self._from_input
        options = {name: getattr(self, name) for name in self._options}
        module = nnx.bridge.ToLinen(
            layer, kwargs={**options, **from_input(options, x)}, metadata_fn=None
        )
        # Its parameters become this layer's own.
        nn.share_scope(self, module)
        return module(x)


def _linen_layer(layer: type[nnx.Module], from_input: _FromInput, example: str) -> Any:
    """Makes the Linen layer of an NNX layer.

    Args:
      layer: The NNX layer.
      from_input: The options that follow from the input, given the others.
      example: Of its use, for the documentation.

    Returns:
      A class with the NNX layer's other options as attributes.
    """
    parameters = dict(inspect.signature(layer.__init__).parameters)
    for name in ("self", "in_features", "example", "rngs"):
        parameters.pop(name, None)
    defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    return type(
        layer.__name__,
        (_LinenLayer,),
        {
            "__module__": __name__,
            "__doc__": (
                f"The Linen form of :class:`jaxbox.layers.{layer.__name__}`.\n\n"
                f"Attributes: {', '.join(parameters)}; as there.\n\n{example}"
            ),
            "__annotations__": dict.fromkeys(parameters, Any),
            **defaults,
            "_nnx_layer": layer,
            "_from_input": staticmethod(from_input),
            "_options": tuple(parameters),
        },
    )


def _channels(options: Mapping[str, Any], x: jax.Array) -> Mapping[str, Any]:
    del options
    return {"in_features": x.shape[-1]}


def _channels_of_octaves(options: Mapping[str, Any], x: octaves.Features) -> Mapping[str, Any]:
    del options
    present = [octave for octave in octaves.branches(x) if octave is not None]
    return {"in_features": sum(octave.shape[-1] for octave in present)}


def _channels_and_window(options: Mapping[str, Any], x: jax.Array) -> Mapping[str, Any]:
    axes = layout.describe(options["channel_axis"])
    if x.ndim < 3:
        raise ValueError(f"x must be {axes}, got shape {x.shape}.")
    size, channels = layout.split_shape(x.shape, options["channel_axis"])
    return {"in_features": channels, "window": options["window"] or size}


BoxConv = _linen_layer(
    layers.BoxConv,
    _channels_and_window,
    """
    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox.linen import BoxConv
      >>> layer = BoxConv(num_boxes=4)
      >>> x = jnp.ones((2, 64, 128, 16))
      >>> params = layer.init(jax.random.key(0), x)
      >>> params["params"]["theta"].shape
      (16, 4, 4)
      >>> layer.apply(params, x).shape
      (2, 64, 128, 64)
    """,
)
DclsConv = _linen_layer(
    layers.DclsConv,
    _channels,
    """
    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox.linen import DclsConv
      >>> params = DclsConv(8, (17, 17), 34).init(jax.random.key(0), jnp.ones((32, 32, 4)))
      >>> params["params"]["positions"].shape
      (2, 34, 4, 8)
    """,
)
OctConv = _linen_layer(
    layers.OctConv,
    _channels_of_octaves,
    """
    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox.linen import OctConv
      >>> layer = OctConv(8, (3, 3), alpha=(0, 0.5))
      >>> x = jnp.ones((6, 6, 3))
      >>> high, low = layer.apply(layer.init(jax.random.key(0), x), x)
      >>> high.shape, low.shape
      ((6, 6, 4), (3, 3, 4))
    """,
)
OctConvTranspose = _linen_layer(
    layers.OctConvTranspose,
    _channels_of_octaves,
    """
    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox.linen import OctConvTranspose
      >>> layer = OctConvTranspose(8, (3, 3), 2)
      >>> x = (jnp.ones((6, 6, 2)), jnp.ones((3, 3, 2)))
      >>> high, low = layer.apply(layer.init(jax.random.key(0), x), x)
      >>> high.shape, low.shape
      ((12, 12, 4), (6, 6, 4))
    """,
)
DOConv = _linen_layer(
    layers.DOConv,
    _channels,
    """
    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox.linen import DOConv
      >>> params = DOConv(8, (3, 3)).init(jax.random.key(0), jnp.ones((6, 6, 4)))
      >>> jax.tree.map(jnp.shape, params["params"])
      {'bias': (8,), 'deviation': (3, 3, 9, 4), 'weight': (9, 4, 8)}
    """,
)
