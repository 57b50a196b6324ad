"""ENet and the variants of it in Table 3 of the box convolution paper, as tables of blocks.

The number in a name is the block's share of the image's resolution, as in 1/8, or its dilation
(`d`), kernel size (`asym`) or channels (`down`, `up`). Dropout and biases are those with which the
parameters and the operations come out as in Table 3.
"""

from functools import partial

from jaxbox.models.blocks import Bottleneck, BoxBlock, Downsampling, InitialBlock, Upsampling
from jaxbox.models.convolution import PatchConvTranspose
from jaxbox.models.network import Architecture

__all__ = ["BOX_ENET", "ENET", "ENET_MINUS"]

_initial = partial(InitialBlock, channels=16)
_down64 = partial(Downsampling, channels=64, dropout=0.01)
_down128 = partial(Downsampling, channels=128, dropout=0.1)
_up64 = partial(Upsampling, channels=64)
_up16 = partial(Upsampling, channels=16)
_classifier = partial(PatchConvTranspose, use_bias=True)

_reg4 = partial(Bottleneck, dropout=0.01)
_reg8 = partial(Bottleneck, dropout=0.1)
_d2, _d4, _d8, _d16 = (partial(_reg8, dilation=dilation) for dilation in (2, 4, 8, 16))
_asym5 = partial(_reg8, asymmetric=5)
_decoder_reg = partial(Bottleneck, prelu=False)

_box2 = partial(BoxBlock, num_boxes=2, dropout=0.15)
_box4 = partial(BoxBlock, num_boxes=4, dropout=0.15)
_box8 = partial(BoxBlock, num_boxes=4, dropout=0.25)

ENET = Architecture(
    blocks=(
        _initial,
        *(_down64, _reg4, _reg4, _reg4, _reg4),
        _down128,
        *(_reg8, _d2, _asym5, _d4, _reg8, _d8, _asym5, _d16) * 2,
        *(_up64, _decoder_reg, _decoder_reg),
        *(_up16, _decoder_reg),
    ),
    classifier=_classifier,
)
BOX_ENET = Architecture(
    blocks=(
        _initial,
        *(_down64, _reg4, _box4, _reg4, _box4),
        _down128,
        *(_reg8, _box8, _asym5, _box8, _reg8, _box8, _asym5, _box8) * 2,
        *(_up64, _decoder_reg, _box4),
        *(_up16, _box2),
    ),
    classifier=_classifier,
)
ENET_MINUS = Architecture(
    blocks=(
        _initial,
        *(_down64, _reg4, _reg4),
        _down128,
        *(_reg8, _asym5, _reg8, _asym5) * 2,
        *(_up64, _decoder_reg),
        _up16,
    ),
    classifier=_classifier,
)
