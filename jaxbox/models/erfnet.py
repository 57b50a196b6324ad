"""ERFNet and its variants in Table 3 of the box convolution paper, as tables of blocks.

`nb` is a non-bottleneck-1D block and `d2` one of dilation 2. Blocks whose name ends in `_4` are for
1/4 of the image's resolution, where the encoder has less dropout than at 1/8.

The paper says that BoxERFNet has no dilation, but both of the authors' code bases keep dilations 2
and 4; Table 3 does not depend on it. Box blocks here have no ReLU before the boxes, as in the
authors' code and in Table 3's count of operations.
"""

from functools import partial

from jaxbox.models.architecture import Architecture
from jaxbox.models.blocks import BoxBlock, InitialBlock, NonBottleneck1D, TransposedUpsampling
from jaxbox.models.convolution import UpsamplingConv

__all__ = ["PAPER", "PYTORCH"]


def _networks(*, use_bias: bool, down_dropout: tuple[float, float]) -> dict[str, Architecture]:
    """Returns the networks by their names.

    Args:
      use_bias: Whether convolutions have biases.
      down_dropout: The dropout of the downsampling to 1/4 and to 1/8.
    """
    down16 = partial(InitialBlock, channels=16, use_bias=use_bias, prelu=False)
    down64 = partial(down16, channels=64, dropout=down_dropout[0])
    down128 = partial(down16, channels=128, dropout=down_dropout[1])
    up64, up16 = (
        partial(TransposedUpsampling, channels=channels, use_bias=use_bias) for channels in (64, 16)
    )
    nb = partial(NonBottleneck1D, use_bias=use_bias)
    nb_4 = partial(nb, dropout=0.03)
    d2, d4, d8, d16 = (partial(nb, dropout=0.3, dilation=dilation) for dilation in (2, 4, 8, 16))
    box_4, box = (
        partial(BoxBlock, num_boxes=4, use_bias=use_bias, relu=False, dropout=dropout)
        for dropout in (0.03, 0.3)
    )
    erfnet = (
        down16,
        *(down64, *(nb_4,) * 5),
        *(down128, *(d2, d4, d8, d16) * 2),
        *(up64, nb, nb),
        *(up16, nb, nb),
    )
    boxerfnet = (
        down16,
        *(down64, nb_4, box_4),
        *(down128, *(d2, box, d4, box) * 2),
        *(up64, nb),
        *(up16, nb),
    )
    erfnet_minus = (down16, *(down64, nb_4), *(down128, *(d2, d4) * 2), *(up64, nb), *(up16, nb))
    classifier = partial(UpsamplingConv, use_bias=True)
    with_boxes = Architecture(boxerfnet, classifier)
    return {
        "erfnet": Architecture(erfnet, classifier),
        "boxerfnet": with_boxes,
        "boxerfnet-frozen": with_boxes.with_frozen_boxes(),
        "erfnet-minus": Architecture(erfnet_minus, classifier),
    }


PAPER = _networks(use_bias=True, down_dropout=(0, 0))
PYTORCH = _networks(use_bias=False, down_dropout=(0.03, 0.3))
