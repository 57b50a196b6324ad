"""The counts of the paper's Table 3."""

import pytest
from flax import nnx

from jaxbox.layers import BoxConv
from jaxbox.models.cost import cost
from jaxbox.models.features import FeatureMap
from jaxbox.models.layer_costs import layer_cost
from tests.cases.networks import abstract

# Parameters and multiply-adds at 512x1024 with 19 classes; rounded, they are Table 3's figures.
TABLE_3 = {
    "enet": (355_959, 4_600_627_200),
    "boxenet": (242_539, 3_467_640_832),
    "enet-minus": (201_331, 2_950_168_576),
    "boxonlyenet": (124_419, 2_290_089_984),
    "erfnet": (2_059_119, 30_875_844_608),
    "boxerfnet": (1_040_319, 16_041_639_936),
    "erfnet-minus": (1_020_463, 15_826_681_856),
}
SIZE = (512, 1024)


@pytest.mark.parametrize("name", TABLE_3)
def test_counts_of_table_3(name):
    counted = cost(abstract(name, 19, SIZE), SIZE)
    assert counted[:2] == TABLE_3[name]


def test_the_true_count_takes_transposed_convolutions_once():
    model = abstract("erfnet", 19, SIZE)
    counted = cost(model, SIZE)
    # Kernel times outputs of the two upsampling blocks and the classifier.
    transposed = 9 * (128 * 64 * 128 * 256 + 64 * 16 * 256 * 512 + 16 * 19 * 512 * 1024)
    assert counted.multiply_adds - counted.true_multiply_adds == transposed * 3 // 4


@pytest.mark.parametrize("name", TABLE_3)
def test_the_count_is_for_any_size_of_image(name):
    model = abstract(name, 19, SIZE)
    half = cost(model, (SIZE[0] // 2, SIZE[1]))
    assert (half.parameters, 2 * half.multiply_adds) == TABLE_3[name]


def test_boxes_of_signals_have_no_cost_in_a_network_for_images():
    layer = BoxConv(2, 3, window=(8,), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_dims=1"):
        layer_cost(layer, FeatureMap(4, 6, 2))
