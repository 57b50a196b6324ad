"""ENet and its variants in Table 3 of the box convolution paper, as tables of blocks.

`reg` is a regular bottleneck, `d2` one of dilation 2 and `asym5` one with a 5x1 and a 1x5
convolution. Blocks whose name ends in `_4` are for 1/4 of the image's resolution, where the encoder
has less dropout than at 1/8.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxbox.models.architecture import Architecture
from jaxbox.models.blocks import Bottleneck, BoxBlock, Downsampling, InitialBlock, Upsampling
from jaxbox.models.convolution import PatchConvTranspose

__all__ = ["PAPER", "PYTORCH"]


@dataclass(frozen=True)
class _Options:
    """The options of blocks in which the networks of Table 3 and of the PyTorch code differ.

    Attributes:
      conv_bias: Whether the 3x3 convolutions have biases.
      box_bias: Whether the 1x1 convolutions of BoxENet's box blocks have biases.
      epsilon: The epsilon of BatchNorm outside of box blocks.
      decoder: The options of the bottlenecks after the first upsampling.
      box_dropout: The dropout of BoxENet's box blocks at 1/4, at 1/8, at 1/4 again and at 1/2.
      only_box_dropout: The dropout of BoxOnlyENet's box blocks at these places.
      only_down_dropout: The dropout of BoxOnlyENet's downsampling to 1/8.
    """

    conv_bias: bool
    box_bias: bool
    epsilon: float
    decoder: Mapping[str, Any]
    box_dropout: tuple[float, float, float, float]
    only_box_dropout: tuple[float, float, float, float]
    only_down_dropout: float


class _Blocks:
    """The blocks that several of the networks have."""

    def __init__(self, options: _Options) -> None:
        epsilon = options.epsilon
        plain: dict[str, Any] = {"use_bias": options.conv_bias, "epsilon": epsilon}
        self.initial = partial(InitialBlock, channels=16, **plain)
        self.down64 = partial(Downsampling, channels=64, dropout=0.01, **plain)
        self.down128 = partial(Downsampling, channels=128, dropout=0.1, **plain)
        self.up64 = partial(Upsampling, channels=64, epsilon=epsilon)
        self.up16 = partial(Upsampling, channels=16, epsilon=epsilon)
        self.reg_4 = partial(Bottleneck, dropout=0.01, **plain)
        self.reg = partial(Bottleneck, dropout=0.1, **plain)
        self.asym5 = partial(Bottleneck, dropout=0.1, asymmetric=5, epsilon=epsilon)
        self.decoder = partial(Bottleneck, **plain, **options.decoder)


_CLASSIFIER = partial(PatchConvTranspose, use_bias=True)


def _enet(options: _Options) -> Architecture:
    b = _Blocks(options)
    reg, asym5 = b.reg, b.asym5
    d2, d4, d8, d16 = (partial(reg, dilation=dilation) for dilation in (2, 4, 8, 16))
    blocks = (
        b.initial,
        *(b.down64, *(b.reg_4,) * 4),
        *(b.down128, *(reg, d2, asym5, d4, reg, d8, asym5, d16) * 2),
        *(b.up64, b.decoder, b.decoder),
        *(b.up16, b.decoder),
    )
    return Architecture(blocks, _CLASSIFIER)


def _boxenet(options: _Options) -> Architecture:
    b = _Blocks(options)
    box_4, box, box_decoder_4, box_decoder_2 = (
        partial(BoxBlock, num_boxes=num_boxes, dropout=dropout, use_bias=options.box_bias)
        for num_boxes, dropout in zip((4, 4, 4, 2), options.box_dropout, strict=True)
    )
    blocks = (
        b.initial,
        *(b.down64, *(b.reg_4, box_4) * 2),
        *(b.down128, *(b.reg, box, b.asym5, box) * 4),
        *(b.up64, b.decoder, box_decoder_4),
        *(b.up16, box_decoder_2),
    )
    return Architecture(blocks, _CLASSIFIER)


def _enet_minus(options: _Options) -> Architecture:
    b = _Blocks(options)
    blocks = (
        b.initial,
        *(b.down64, b.reg_4, b.reg_4),
        *(b.down128, *(b.reg, b.asym5) * 4),
        *(b.up64, b.decoder),
        b.up16,
    )
    return Architecture(blocks, _CLASSIFIER)


def _boxonlyenet(options: _Options) -> Architecture:
    b = _Blocks(options)
    box_4, box, box_decoder_4, box_decoder_2 = (
        partial(BoxBlock, num_boxes=4, dropout=dropout, use_bias=False)
        for dropout in options.only_box_dropout
    )
    blocks = (
        b.initial,
        *(b.down64, *(box_4,) * 4),
        *(partial(b.down128, dropout=options.only_down_dropout), *(box,) * 16),
        *(b.up64, box_decoder_4, box_decoder_4),
        *(b.up16, box_decoder_2),
    )
    return Architecture(blocks, _CLASSIFIER)


def _networks(options: _Options) -> dict[str, Architecture]:
    boxenet = _boxenet(options)
    return {
        "enet": _enet(options),
        "boxenet": boxenet,
        "boxenet-frozen": boxenet.with_frozen_boxes(),
        "enet-minus": _enet_minus(options),
        "boxonlyenet": _boxonlyenet(options),
    }


PAPER = _networks(
    _Options(
        conv_bias=True,
        box_bias=True,
        epsilon=1e-5,
        decoder={"prelu": False},
        box_dropout=(0.15, 0.25, 0.15, 0.15),
        only_box_dropout=(0.15, 0.25, 0.15, 0.15),
        only_down_dropout=0.1,
    )
)
PYTORCH = _networks(
    _Options(
        conv_bias=False,
        box_bias=False,
        epsilon=1e-3,
        decoder={"prelu": True, "dropout": 0.1},
        box_dropout=(0.15, 0.25, 0.1, 0.1),
        only_box_dropout=(0.15, 0.4, 0.15, 0.05),
        only_down_dropout=0.01,
    )
)
