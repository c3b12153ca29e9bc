"""The localization networks and the spatial transformer as a layer, on known maps and against torch's own functions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks import (
    FreeParameters,
    SequentialNetwork,
    SpatialTransformer,
    make_network,
    new_network,
    sampling_grid,
    warp_batch,
)
from napari_stnreg.networks.matching import solve_affine
from napari_stnreg.ops.interpolation import normalized
from napari_stnreg.transforms import AffineTransform, chain, make_family
from tests.helpers.scenes import grid

SHAPES = {2: (30, 37), 3: (14, 20, 17)}
KINDS = [
    ("affine", {}),
    ("affine", {"family": "translation"}),
    ("affine", {"family": "rigid"}),
    ("affine", {"family": "similarity", "shrink": 2}),
    ("tps", {"points": 3}),
    ("dirnet", {"spacing": 4}),
    ("dirnet", {"spacing": 8, "shrink": 2}),
    ("matching", {"features": [8, 16], "depth": 1}),
    ("voxelmorph", {}),
    ("voxelmorph", {"resolution": "half"}),
    ("voxelmorph", {"family": "displacement"}),
    ("voxelmorph", {"family": "displacement", "resolution": "half"}),
    ("affine+voxelmorph", {"affine": {"family": "rigid"}}),
]


def shaken(network, amount: float = 0.05):
    """The network with weights that make it answer something."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(amount * torch.randn_like(parameter))
    return network


def pictures(shape, batch=2, channels=1):
    return torch.rand(batch, channels, *shape), torch.rand(batch, channels, *shape)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(("name", "options"), [k for k in KINDS if k[0] != "matching"])
def test_new_network_predicts_the_identity(name, options, ndim):
    shape = SHAPES[ndim]
    network = new_network(name, ndim, 1, shape, options)
    lattice = grid(shape, extent=50.0)
    found = network.transform(*pictures(shape), lattice)
    points = torch.tensor(lattice.points()[None], dtype=torch.float32)
    assert torch.allclose(found.on_grid(lattice), points.expand(2, *points.shape[1:]), atol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(("name", "options"), KINDS)
def test_a_description_builds_the_network_again(name, options, ndim):
    shape = SHAPES[ndim]
    network = shaken(new_network(name, ndim, 1, shape, options)).eval()
    again = make_network(json.loads(json.dumps(network.config()))).eval()
    again.load_state_dict(network.state_dict())
    lattice, images = grid(shape), pictures(shape)
    with torch.no_grad():
        one, other = (n.transform(*images, lattice).on_grid(lattice) for n in (network, again))
    assert torch.equal(one, other)


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_every_weight_of_a_network_takes_part_in_the_loss(name, options):
    shape = SHAPES[2]
    network = shaken(new_network(name, 2, 1, shape, options))
    fixed, moving = pictures(shape)
    lattice = grid(shape)
    (warp_batch(moving, network.transform(fixed, moving, lattice), lattice) - fixed).square().mean().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in network.parameters())


@pytest.mark.parametrize(("name", "options"), [k for k in KINDS if k[0] not in ("affine", "matching", "tps")])
def test_the_sampler_reads_where_the_transform_points(name, options):
    shape = SHAPES[3]
    network = shaken(new_network(name, 3, 1, shape, options))
    lattice, elsewhere = grid(shape, extent=(20.0, 30.0, 25.0), offset=3.0), grid((9, 11, 8), extent=22.0, offset=2.0)
    found = network.transform(*pictures(shape), lattice)
    onto = grid((7, 8, 9), extent=18.0, offset=3.5)
    with torch.no_grad():
        points = found.on_grid(onto).double()
        inverse = torch.tensor(np.linalg.inv(elsewhere.linear))
        index = (points - torch.tensor(elsewhere.origin.copy())) @ inverse.T
        wanted = normalized(index, elsewhere.shape)
        assert torch.allclose(sampling_grid(found, onto, elsewhere).double(), wanted, atol=1e-4)


def test_fields_on_rotated_lattices():
    turned = grid((20, 24), turn=[[0.8, -0.6], [0.6, 0.8]])
    family = make_family("displacement")
    found = family(torch.randn(2, 2, 20, 24), turned)
    onto = grid((15, 15), extent=40.0)
    with torch.no_grad():
        index = (found.on_grid(onto).double() - torch.tensor(turned.origin.copy())) @ torch.tensor(
            np.linalg.inv(turned.linear)
        ).T
        assert torch.allclose(sampling_grid(found, onto, turned).double(), normalized(index, turned.shape), atol=1e-4)


def test_voxelmorph_is_independent_of_padding():
    # a lattice whose sides are multiples already, and one that reaches it by padding with the same border
    network = shaken(new_network("voxelmorph", 2, 1, (32, 48)), 0.1).eval()
    fixed, moving = pictures((30, 44), batch=1)
    small = grid((30, 44), extent=(30.0, 44.0))
    pads = (2, 2, 1, 1)
    big = small.cropped((-1, -2), (31, 46))
    with torch.no_grad():
        one = network.transform(fixed, moving, small)
        other = network.transform(*(F.pad(x, pads, mode="replicate") for x in (fixed, moving)), big)
        assert torch.allclose(one.on_grid(small), other.on_grid(small), atol=1e-4)
        assert float((one.on_grid(small) - torch.tensor(small.points(), dtype=torch.float32)).abs().max()) > 0.1


def test_whole_image_networks_take_the_middle_of_larger_images():
    network = shaken(new_network("affine", 2, 1, (32, 32)), 0.1).eval()
    fixed, moving = pictures((32, 32), batch=1)
    small = grid((32, 32), extent=32.0)
    # of an odd number of voxels more, the extra one lies before
    big, pads = small.cropped((-5, -5), (36, 36)), (5, 4, 5, 4)
    with torch.no_grad():
        one = network.transform(fixed, moving, small)
        other = network.transform(F.pad(fixed, pads), F.pad(moving, pads), big)
    assert np.allclose(one.as_matrix(), other.as_matrix(), atol=1e-5)


def test_dirnet_never_folds_for_any_output():
    network = shaken(new_network("dirnet", 2, 1, (40, 40), {"spacing": 8}), 3.0)
    lattice = grid((40, 40), extent=40.0)
    with torch.no_grad():
        found = network.transform(*pictures((40, 40), batch=1), lattice)
    assert found.coefficients.abs().max() > 0.35 * 8
    assert found.jacobian_determinant(lattice).min() > 0


def test_two_dirnets_in_a_row_reach_farther_than_one_and_do_not_fold():
    options = {"dirnet": [{"spacing": 16, "shrink": 2}, {"spacing": 8}]}
    network = shaken(new_network("dirnet+dirnet", 2, 1, (48, 48), options), 3.0)
    lattice = grid((48, 48), extent=48.0)
    with torch.no_grad():
        found = network.transform(*pictures((48, 48), batch=1), lattice)
        places = found.on_grid(lattice)[0].double().numpy()
    assert np.abs(places - lattice.points()).max() > 0.4 * 8  # which is all that one at a spacing of 8 can do
    inner = np.stack(np.gradient(places, axis=(0, 1)), axis=-2)
    assert np.linalg.det(inner).min() > 0


@pytest.mark.parametrize("ndim", [2, 3])
def test_matching_recognizes_texture_before_training(ndim):
    shape = {2: (64, 64), 3: (32, 32, 32)}[ndim]
    network = new_network("matching", ndim, 1, shape, {"features": [16, 32], "depth": 1}).eval()
    texture = torch.rand(1, 1, *shape)
    moving = torch.roll(texture, (4, -4), (2, 3))  # one cell
    lattice = grid(shape, extent=float(shape[0]))
    with torch.no_grad():
        still = network.transform(texture, texture, lattice).map_points(np.zeros((1, ndim)))
        found = network.transform(texture, moving, lattice).map_points(np.zeros((1, ndim)))
    assert np.abs(still).max() < 0.3
    assert found[0, :2] == pytest.approx([4, -4], abs=1.0)


def test_matches_are_joined_by_the_affine_that_made_them():
    points, rng = torch.rand(40, 3, dtype=torch.float64) - 0.5, np.random.default_rng(0)
    matrix, shift = torch.tensor(0.3 * rng.normal(size=(3, 3))), torch.tensor([0.1, -0.2, 0.3]).double()
    moved = points + points @ matrix.T + shift
    weight = torch.rand(1, 40, dtype=torch.float64)
    moved[:5] += 1.0  # wrong, and known to be
    weight[:, :5] = 0
    theta = solve_affine(points, moved[None], weight, ridge=1e-9)
    assert torch.allclose(theta[0, :3], shift, atol=1e-6)
    assert torch.allclose(theta[0, 3:].reshape(3, 3), matrix, atol=1e-6)


def test_stages_apply_the_later_one_first_and_read_the_image_once():
    lattice = grid((24, 24), extent=24.0)
    shift = make_family("translation")
    first, second = FreeParameters(make_family("affine"), lattice), FreeParameters(shift, lattice)
    with torch.no_grad():
        first.pair_parameters.copy_(torch.tensor([[0.1, 0.0, 0.2, -0.1, 0.3, 0.0]]))
        second.pair_parameters.copy_(torch.tensor([[0.0, 0.5]]))
    both = SequentialNetwork([first, second])
    fixed, moving = pictures((24, 24), batch=1)
    a, b = (one.transform(fixed, moving, lattice) for one in (first, second))
    points = np.array([[1.0, 2.0], [-5.0, 3.0]])
    assert np.allclose(both.transform(fixed, moving, lattice).map_points(points), a.map_points(b.map_points(points)))
    assert isinstance(both.transform(fixed, moving, lattice), AffineTransform)


def test_stages_receive_the_image_warped_so_far():
    class Seen(FreeParameters):
        def transform(self, fixed, moving, grid):
            self.shown = moving
            return super().transform(fixed, moving, grid)

    lattice = grid((24, 24), extent=24.0)
    first, second = FreeParameters(make_family("translation"), lattice), Seen(make_family("translation"), lattice)
    with torch.no_grad():
        first.pair_parameters.copy_(torch.tensor([[0.0, 0.3]]))
    fixed, moving = pictures((24, 24), batch=1)
    SequentialNetwork([first, second]).transform(fixed, moving, lattice)
    assert torch.equal(second.shown, warp_batch(moving, first.transform(fixed, moving, lattice), lattice))


def test_repeated_stage_sees_what_it_has_left():
    lattice = grid((24, 24), extent=24.0)
    stages = [FreeParameters(make_family("translation"), lattice) for _ in range(2)]
    with torch.no_grad():
        stages[0].pair_parameters.copy_(torch.tensor([[0.0, 0.3]]))
        stages[1].pair_parameters.copy_(torch.tensor([[0.1, 0.0]]))
    images = pictures((24, 24), batch=1)
    once = [one.transform(*images, lattice).map_points(np.zeros((1, 2))) for one in stages]
    both = SequentialNetwork(stages, passes=(2, 1)).transform(*images, lattice)
    assert np.allclose(both.map_points(np.zeros((1, 2))), 2 * once[0] + once[1])
    with pytest.raises(InputError, match="needs at least one pass"):
        SequentialNetwork(stages, passes=(2, 0))


def test_passes_of_stages_are_part_of_the_description():
    both = new_network("voxelmorph+voxelmorph", 2, 1, (32, 32))
    assert "passes" not in both.config(), "files of earlier models stay as they are"
    both.passes = (2, 1)
    assert make_network(both.config()).passes == (2, 1)


@pytest.mark.parametrize("name", ["voxelmrph", "affine+tsp", "auto-encoder+affine", ""])
def test_unknown_network_is_refused(name):
    with pytest.raises(InputError, match=r"There is no network .*Choose from affine, "):
        new_network(name, 2, 1, (16, 16))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("affine", {"family": "bspline"}, "has the families"),
        ("voxelmorph", {"family": "affine"}, "has the families"),
        ("voxelmorph", {"encoder": [8, 8], "decoder": [8]}, "as many decoder as encoder channels"),
        ("voxelmorph", {"resolution": "third"}, "full or half"),
        ("dirnet", {"spacing": 6}, "power of two"),
        ("dirnet", {"spacing": 4, "shrink": 8}, "power of two up to its control spacing, not by 8"),
        ("matching", {"features": []}, "A matching network needs features"),
        ("matching", {"ridge": 0.0}, "a ridge above 0"),
        ("affine", {"depth": 3}, "cannot be made"),
        ("affine+voxelmorph", {"family": "rigid"}, "given by network name"),
    ],
)
def test_invalid_network_options_are_refused(name, options, words):
    with pytest.raises(InputError, match=words):
        new_network(name, 2, 1, (32, 32), options)


class TestSpatialTransformer:
    def test_untrained_transformer_is_the_identity(self):
        features = torch.rand(3, 7, 20, 23)
        layer = SpatialTransformer.with_cnn(7, (20, 23))
        assert torch.allclose(layer(features), features, atol=1e-5)

    @pytest.mark.parametrize("family", ["translation", "rigid", "similarity", "affine", "tps", "bspline"])
    @pytest.mark.parametrize("shape", [(20, 23), (9, 12, 10)])
    def test_transformer_accepts_any_family_and_trains_its_localization(self, family, shape):
        layer = SpatialTransformer.with_cnn(5, shape, family)
        features = torch.rand(2, 5, *shape)
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        (layer(features) * features.flip(2)).mean().backward()
        head = layer.localization.head[-1]
        assert head.weight.grad.abs().max() > 0
        optimizer.step()
        assert not torch.allclose(layer(features), features, atol=1e-6)

    def test_sampler_agrees_with_torch_in_value_and_gradient(self):
        # torch's own grid generator, in its x-y order and its frame from -1 to 1
        height, width = 18, 26
        features = torch.rand(2, 4, height, width)
        ours = (0.2 * torch.randn(2, 6)).requires_grad_()
        theirs = ours.detach().clone().requires_grad_()
        layer = SpatialTransformer(family="affine", padding="zeros")
        result = layer(features, parameters=ours)
        radius = np.sqrt((height**2 + width**2) / 12)
        ty, tx = theirs[:, 0] * radius, theirs[:, 1] * radius
        yy, yx, xy, xx = theirs[:, 2] + 1, theirs[:, 3], theirs[:, 4], theirs[:, 5] + 1
        rows = torch.stack(
            [xx, xy * height / width, 2 * tx / width, yx * width / height, yy, 2 * ty / height], dim=1
        ).reshape(2, 2, 3)
        coordinates = F.affine_grid(rows, [2, 4, height, width], align_corners=False)
        wanted = F.grid_sample(features, coordinates, align_corners=False)
        assert torch.allclose(result, wanted, atol=1e-4)
        weight = torch.rand_like(wanted)
        (result * weight).sum().backward()
        (wanted * weight).sum().backward()
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-3, atol=1e-2)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("shape", [(18, 26), (9, 12, 10)])
    @pytest.mark.parametrize("output_scale", [1.0, 0.5, 1.7])
    def test_theta_is_the_matrix_of_the_paper(self, shape, dtype, output_scale):
        ndim = len(shape)
        output = [int(n * output_scale) for n in shape]
        features = torch.rand(3, 2, *shape, dtype=dtype)
        theta = torch.eye(ndim, ndim + 1, dtype=dtype) + 0.3 * torch.randn(3, ndim, ndim + 1, dtype=dtype)
        layer = SpatialTransformer(output_shape=output, antialias=False)
        wanted = F.grid_sample(
            features, F.affine_grid(theta, [3, 2, *output], align_corners=False), align_corners=False
        )
        result = layer(features, theta)
        assert result.dtype == dtype
        torch.testing.assert_close(result, wanted, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-4)
        torch.testing.assert_close(layer(features, theta[:1])[:1], result[:1])
        torch.testing.assert_close(layer(features[:1], theta)[0], result[0])

    def test_a_localization_may_predict_theta(self):
        class Mirror(torch.nn.Module):
            def forward(self, features):
                return torch.tensor([[-1.0, 0, 0], [0, 1, 0]]).expand(len(features), 2, 3)

        features = torch.rand(2, 3, 5, 7)
        torch.testing.assert_close(SpatialTransformer(Mirror())(features), features.flip(-1), rtol=0, atol=1e-5)

    def test_the_gradient_reaches_the_feature_maps_too(self):
        features = torch.rand(1, 3, 12, 12, requires_grad=True)
        SpatialTransformer(family="rigid")(features, parameters=torch.tensor([[0.1, 0.2, 0.3]])).sum().backward()
        assert features.grad.abs().max() > 0

    def test_nearest_has_no_gradient_with_respect_to_the_parameters(self):
        features = torch.rand(1, 2, 16, 16)
        for kernel, has in (("nearest", False), ("linear", True), ("cubic", True)):
            theta = torch.tensor([[0.05, -0.1]], requires_grad=True)
            result = SpatialTransformer(family="translation", kernel=kernel)(features, parameters=theta)
            gradient = torch.autograd.grad(result.square().sum(), theta, allow_unused=True)[0]
            assert (gradient is not None and bool((gradient != 0).any())) == has

    def test_labels_stay_labels_under_nearest(self):
        labels = torch.randint(0, 9, (1, 1, 20, 20)).float()
        result = SpatialTransformer(family="rigid", kernel="nearest")(
            labels, parameters=torch.tensor([[0.1, 0.0, 0.4]])
        )
        assert set(result.unique().tolist()) <= set(range(9))

    def test_a_coarser_output_of_fine_stripes_is_gray(self):
        stripes = torch.zeros(1, 1, 64, 64)
        stripes[..., ::2] = 1
        theta = torch.tensor([[0.0, 0.3]])  # shifted so that point sampling would meet the stripes unevenly
        inner = (slice(None), slice(None), slice(6, -6), slice(6, -6))
        kind = {"family": "translation", "output_shape": (28, 28), "padding": "border"}
        smooth = SpatialTransformer(**kind)(stripes, parameters=theta)[inner]
        moire = SpatialTransformer(**kind, antialias=False)(stripes, parameters=theta)[inner]
        assert float((smooth - 0.5).abs().max()) < 0.15
        assert float((moire - 0.5).abs().max()) > 0.4

    def test_a_finer_output_of_a_ramp_is_the_ramp(self):
        y, x = np.mgrid[:20, :30]
        ramp = torch.tensor(2.0 * y - x, dtype=torch.float32)[None, None]
        fine = SpatialTransformer(family="translation", output_shape=(40, 90), padding="border")
        result = fine(ramp, parameters=torch.zeros(1, 2))[0, 0].numpy()
        y, x = np.meshgrid((np.arange(40) + 0.5) / 2 - 0.5, (np.arange(90) + 0.5) / 3 - 0.5, indexing="ij")
        assert np.allclose(result[2:-2, 3:-3], (2 * y - x)[2:-2, 3:-3], atol=1e-4)

    @pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
    def test_padding_sets_values_outside(self, padding):
        features = torch.ones(1, 1, 10, 10)
        shift = torch.tensor([[0.0, 1.0]])
        result = SpatialTransformer(family="translation", padding=padding)(features, parameters=shift)
        assert float(result.min()) == (0.0 if padding == "zeros" else 1.0)

    def test_transformer_learns_to_attend_inside_a_network(self):
        # a spot anywhere in the picture; only the middle reaches the loss
        torch.manual_seed(1)
        y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
        centers = 12 + 14 * (torch.rand(64, 2) - 0.5)
        spots = torch.exp(-((y - centers[:, :1, None]) ** 2 + (x - centers[:, 1:, None]) ** 2) / 18)[:, None]
        layer = SpatialTransformer.with_cnn(1, (24, 24), "translation", output_shape=(24, 24))
        optimizer = torch.optim.Adam(layer.parameters(), 2e-3)
        middle = torch.exp(-((y - 11.5) ** 2 + (x - 11.5) ** 2) / 18)
        for _ in range(120):
            optimizer.zero_grad()
            loss = (layer(spots) - middle).square().mean()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            found = layer.transform(spots)
            read = found(torch.zeros(1, 1, 2))[:, 0]  # where the middle of the output is read, about the middle
        assert float((read - (centers - 11.5)).norm(dim=1).mean()) < 1.0

    def test_invalid_arguments_are_refused(self):
        with pytest.raises(InputError, match="no localization"):
            SpatialTransformer()(torch.rand(1, 1, 8, 8))
        with pytest.raises(InputError, match="This family needs"):
            SpatialTransformer()(torch.rand(1, 1, 8, 8), parameters=torch.zeros(1, 5))
        for theta in (torch.zeros(1, 6), torch.zeros(2, 3), torch.zeros(1, 3, 4), torch.zeros(1, 3, 2)):
            with pytest.raises(InputError, match="theta has the shape"):
                SpatialTransformer()(torch.rand(1, 1, 8, 8), theta)
        with pytest.raises(InputError, match="family is rigid"):
            SpatialTransformer(family="rigid")(torch.rand(1, 1, 8, 8), torch.eye(2, 3)[None])
        with pytest.raises(InputError, match="2 feature maps and 3 transforms"):
            SpatialTransformer()(torch.rand(2, 1, 8, 8), torch.zeros(3, 2, 3))
        with pytest.raises(InputError, match="not both"):
            SpatialTransformer()(torch.rand(1, 1, 8, 8), torch.zeros(1, 2, 3), parameters=torch.zeros(1, 6))
        with pytest.raises(InputError, match="2D only"):
            SpatialTransformer(kernel="cubic")(torch.rand(1, 1, 8, 8, 8), parameters=torch.zeros(1, 12))
        with pytest.raises(InputError, match="kernel is one of"):
            SpatialTransformer(kernel="sinc")


def test_free_parameters_find_a_known_shift_in_the_loop_a_network_would_use():
    y, x = np.mgrid[:32, :32]

    def spot(cy, cx):
        return torch.tensor(np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 40), dtype=torch.float32)[None, None]

    lattice = Grid.from_spacing((32, 32), origin=(-15.5, -15.5))
    fixed, moving = spot(16, 16), spot(19, 13)
    free = FreeParameters(make_family("translation"), lattice)
    optimizer = torch.optim.Adam(free.parameters(), 0.02)
    for _ in range(80):
        optimizer.zero_grad()
        (warp_batch(moving, free.transform(fixed, moving, lattice), lattice) - fixed).square().mean().backward()
        optimizer.step()
    found = free.transform(fixed, moving, lattice).map_points([[0.0, 0.0]])
    assert np.allclose(found, [[3.0, -3.0]], atol=0.05)
    with pytest.raises(InputError, match="cannot be saved as a model"):
        free.config()


def test_chained_affines_and_fields_are_sampled_once():
    lattice = grid((20, 24))
    family = make_family("diffeomorphic")
    field = family(0.5 * torch.randn(2, 2, 20, 24), lattice)
    turn = make_family("rigid")(torch.tensor([[0.1, 0.0, 0.2], [0.0, 0.1, -0.2]]), lattice)
    both = chain(field, turn)
    with torch.no_grad():
        index = (both.on_grid(lattice).double() - torch.tensor(lattice.origin.copy())) / lattice.spacing[0]
        index[..., 1] *= lattice.spacing[0] / lattice.spacing[1]
        assert torch.allclose(
            sampling_grid(both, lattice, lattice).double(), normalized(index, lattice.shape), atol=1e-4
        )


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("shape", [(16, 16), (8, 8, 8)])
def test_invalid_parameters_give_invalid_values(shape, padding):
    layer = SpatialTransformer(family="translation", padding=padding)
    parameters = torch.full((2, len(shape)), torch.nan, requires_grad=True)
    warped = layer(torch.rand(2, 1, *shape), parameters=parameters)
    warped.sum().backward()  # torch alone ends the program here in 2D
    assert warped.isnan().all()
