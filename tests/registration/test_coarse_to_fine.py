"""Two networks of one kind in a row, the first at a lower resolution."""

import torch

from napari_stnreg import Grid
from napari_stnreg.networks import VoxelMorph, make_network, new_network

SIZES = {"encoder": [4, 8], "decoder": [8, 8], "final": [8], "resolution": "half"}


def test_a_network_that_shrinks_gives_the_field_of_the_small_image_in_the_world_of_the_large_one():
    torch.manual_seed(0)
    small = VoxelMorph(2, **SIZES)
    large = VoxelMorph(2, **SIZES, shrink=2)
    torch.nn.init.normal_(small.flow.weight, 0, 0.1)
    large.load_state_dict(small.state_dict())
    pair = torch.rand(2, 1, 1, 32, 24)
    blocks = torch.nn.functional.avg_pool2d(pair.flatten(0, 1), 2).reshape(2, 1, 1, 16, 12)
    grid = Grid.from_spacing((32, 24), (2.0, 3.0), unit="mm")
    with torch.no_grad():
        seen = large.transform(pair[0], pair[1], grid).displacement(grid)
        alone = small.transform(blocks[0], blocks[1], grid.resized((16, 12))).displacement(grid)
    assert abs(seen).max() > 0.5
    assert abs(seen - alone).max() < 1e-3


def test_two_networks_of_one_name_take_their_options_from_a_list():
    options = {"voxelmorph": [{**SIZES, "shrink": 2}, SIZES]}
    network = new_network("voxelmorph+voxelmorph", 2, 1, (32, 32), options)
    assert [stage.shrink for stage in network.networks()] == [2, 1]
    again = make_network(network.config())
    assert [stage.shrink for stage in again.networks()] == [2, 1]
