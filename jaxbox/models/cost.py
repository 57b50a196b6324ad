"""What a network costs: parameters and multiply-adds, counted from its structure."""

from jaxbox.models.features import FeatureMap
from jaxbox.models.layer_costs import Cost, layer_cost
from jaxbox.models.network import SegmentationNetwork, check_image_size, check_network

__all__ = ["Cost", "cost"]


def cost(model: SegmentationNetwork, image_size: tuple[int, int]) -> Cost:
    """Counts what a network costs for one image.

    For each output element, a convolution costs the number of weights that make it, and 1 more
    if there is a bias. DCLS and DO-Conv cost what the convolution costs that they compute. An
    octave convolution costs what its paths cost, and 1 for each element that pooling reads or that
    is the sum of two paths. A box convolution, rounded to whole pixels, costs 1 for each input
    element and 5 for each output element; one by weighted boxes costs what a box and a 1x1
    convolution cost. A 2x2 max pool costs 4 for each output element; unpooling, activations and
    residual sums cost 1. BatchNorm and dropout cost nothing. This gives every figure of the paper's
    Table 3.

    Source: Burkov & Lempitsky 2018, Table 3.

    Args:
      model: The network, not prepared by `jaxbox.models.inference.for_inference`. It may hold
        shapes in place of arrays, as `nnx.eval_shape` returns it.
      image_size: The size `(H, W)` of the image in pixels.

    Returns:
      The counts.

    Raises:
      TypeError: `model` is no network, `image_size` is not made of integers, or the network has a
        layer of a kind that is not in the table.
      ValueError: `image_size` is not two multiples of 8.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import models
      >>> from jaxbox.models.cost import cost
      >>> model = nnx.eval_shape(lambda: models.create("enet", 19, (512, 1024), rngs=nnx.Rngs(0)))
      >>> cost(model, (512, 1024)).multiply_adds
      4600627200
    """
    check_network(model)
    features, total = FeatureMap(*check_image_size(image_size), 3), Cost()
    for block in model.blocks:
        features, added = block.cost(features)
        total += added
    _, added = layer_cost(model.classifier, features)
    return total + added
