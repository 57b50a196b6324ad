"""ERFNet and the variants of it in Table 3 of the box convolution paper, as tables of blocks.

The number in a name is the block's share of the image's resolution, as in 1/8, or its dilation
(`d`) or channels (`down`, `up`). The paper says that BoxERFNet has no dilation; both of the
authors' code bases keep 2 and 4, and Table 3 does not depend on it. That nothing rectifies what the
boxes average is in the authors' code and in Table 3's count of operations.
"""

from functools import partial

from jaxbox.models.architecture import Architecture
from jaxbox.models.blocks import BoxBlock, InitialBlock, NonBottleneck1D, TransposedUpsampling
from jaxbox.models.convolution import UpsamplingConv

__all__ = ["PAPER", "PYTORCH"]


def _tables(*, use_bias: bool, down_dropout: tuple[float, float]) -> dict[str, Architecture]:
    """The networks, with or without biases in the convolutions.

    `down_dropout` is that of the downsampling to 1/4 and to 1/8.
    """
    down16 = partial(InitialBlock, channels=16, use_bias=use_bias, prelu=False)
    down64 = partial(down16, channels=64, dropout=down_dropout[0])
    down128 = partial(down16, channels=128, dropout=down_dropout[1])
    up64 = partial(TransposedUpsampling, channels=64, use_bias=use_bias)
    up16 = partial(TransposedUpsampling, channels=16, use_bias=use_bias)
    classifier = partial(UpsamplingConv, use_bias=True)

    nb = partial(NonBottleneck1D, use_bias=use_bias)
    nb4 = partial(nb, dropout=0.03)
    d2, d4, d8, d16 = (partial(nb, dropout=0.3, dilation=dilation) for dilation in (2, 4, 8, 16))
    box = partial(BoxBlock, num_boxes=4, use_bias=use_bias, relu=False)
    box4, box8 = partial(box, dropout=0.03), partial(box, dropout=0.3)

    box_erfnet = Architecture(
        blocks=(
            down16,
            *(down64, nb4, box4),
            *(down128, *(d2, box8, d4, box8) * 2),
            *(up64, nb),
            *(up16, nb),
        ),
        classifier=classifier,
    )
    return {
        "erfnet": Architecture(
            blocks=(
                down16,
                *(down64, *(nb4,) * 5),
                *(down128, *(d2, d4, d8, d16) * 2),
                *(up64, nb, nb),
                *(up16, nb, nb),
            ),
            classifier=classifier,
        ),
        "boxerfnet": box_erfnet,
        "boxerfnet-frozen": box_erfnet.with_frozen_boxes(),
        "erfnet-minus": Architecture(
            blocks=(
                down16,
                *(down64, nb4),
                *(down128, *(d2, d4) * 2),
                *(up64, nb),
                *(up16, nb),
            ),
            classifier=classifier,
        ),
    }


PAPER = _tables(use_bias=True, down_dropout=(0, 0))
PYTORCH = _tables(use_bias=False, down_dropout=(0.03, 0.3))
