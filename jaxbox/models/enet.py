"""ENet and the variants of it in Table 3 of the box convolution paper, as tables of blocks.

The number in a name is the block's share of the image's resolution, as in 1/8, or its dilation
(`d`), kernel size (`asym`) or channels (`down`, `up`).
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
class _Details:
    """In what the networks that were counted for Table 3 and the authors' PyTorch code differ.

    Attributes:
      conv_bias: Whether the 3x3 convolutions have biases.
      box_bias: Whether the 1x1 convolutions of BoxENet's box blocks have biases.
      epsilon: Of BatchNorm, but for that in box blocks.
      decoder: Options of the bottlenecks after the first upsampling.
      box_dropout: Of BoxENet's box blocks at 1/4, at 1/8, at 1/4 again and at 1/2.
      only_box_dropout: The same of BoxOnlyENet.
      only_down_dropout: Of BoxOnlyENet's downsampling to 1/8.
    """

    conv_bias: bool
    box_bias: bool
    epsilon: float
    decoder: Mapping[str, Any]
    box_dropout: tuple[float, float, float, float]
    only_box_dropout: tuple[float, float, float, float]
    only_down_dropout: float


def _tables(details: _Details) -> dict[str, Architecture]:
    plain: dict[str, Any] = {"use_bias": details.conv_bias, "epsilon": details.epsilon}
    initial = partial(InitialBlock, channels=16, **plain)
    down64 = partial(Downsampling, channels=64, dropout=0.01, **plain)
    down128 = partial(Downsampling, channels=128, dropout=0.1, **plain)
    up64 = partial(Upsampling, channels=64, epsilon=details.epsilon)
    up16 = partial(Upsampling, channels=16, epsilon=details.epsilon)
    classifier = partial(PatchConvTranspose, use_bias=True)

    reg4 = partial(Bottleneck, dropout=0.01, **plain)
    reg8 = partial(Bottleneck, dropout=0.1, **plain)
    d2, d4, d8, d16 = (partial(reg8, dilation=dilation) for dilation in (2, 4, 8, 16))
    asym5 = partial(Bottleneck, dropout=0.1, asymmetric=5, epsilon=details.epsilon)
    decoder = partial(Bottleneck, **plain, **details.decoder)

    box4, box8, box_decoder4, box_decoder2 = (
        partial(BoxBlock, num_boxes=num_boxes, dropout=dropout, use_bias=details.box_bias)
        for num_boxes, dropout in zip((4, 4, 4, 2), details.box_dropout, strict=True)
    )
    only_down128 = partial(down128, dropout=details.only_down_dropout)
    only4, only8, only_decoder4, only_decoder2 = (
        partial(BoxBlock, num_boxes=4, dropout=dropout, use_bias=False)
        for dropout in details.only_box_dropout
    )
    box_enet = Architecture(
        blocks=(
            initial,
            *(down64, *(reg4, box4) * 2),
            *(down128, *(reg8, box8, asym5, box8) * 4),
            *(up64, decoder, box_decoder4),
            *(up16, box_decoder2),
        ),
        classifier=classifier,
    )
    return {
        "enet": Architecture(
            blocks=(
                initial,
                *(down64, reg4, reg4, reg4, reg4),
                down128,
                *(reg8, d2, asym5, d4, reg8, d8, asym5, d16) * 2,
                *(up64, decoder, decoder),
                *(up16, decoder),
            ),
            classifier=classifier,
        ),
        "boxenet": box_enet,
        "boxenet-frozen": box_enet.with_frozen_boxes(),
        "enet-minus": Architecture(
            blocks=(
                initial,
                *(down64, reg4, reg4),
                down128,
                *(reg8, asym5, reg8, asym5) * 2,
                *(up64, decoder),
                up16,
            ),
            classifier=classifier,
        ),
        "boxonlyenet": Architecture(
            blocks=(
                initial,
                *(down64, *(only4,) * 4),
                *(only_down128, *(only8,) * 16),
                *(up64, only_decoder4, only_decoder4),
                *(up16, only_decoder2),
            ),
            classifier=classifier,
        ),
    }


PAPER = _tables(
    _Details(
        conv_bias=True,
        box_bias=True,
        epsilon=1e-5,
        decoder={"prelu": False},
        box_dropout=(0.15, 0.25, 0.15, 0.15),
        only_box_dropout=(0.15, 0.25, 0.15, 0.15),
        only_down_dropout=0.1,
    )
)
PYTORCH = _tables(
    _Details(
        conv_bias=False,
        box_bias=False,
        epsilon=1e-3,
        decoder={"prelu": True, "dropout": 0.1},
        box_dropout=(0.15, 0.25, 0.1, 0.1),
        only_box_dropout=(0.15, 0.4, 0.15, 0.05),
        only_down_dropout=0.01,
    )
)
