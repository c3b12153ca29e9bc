"""The gradient that similarities give without a graph, against that of their loss."""

from __future__ import annotations

import pytest
import torch

from napari_stnreg.losses import WeightedSum, make_similarity
from napari_stnreg.losses.base import Similarity
from napari_stnreg.losses.ncc import NormalizedCrossCorrelation

MADE = {
    "ncc": lambda: make_similarity("ncc"),
    "squared ncc": lambda: make_similarity("ncc", squared=True),
    "lncc": lambda: make_similarity("lncc", radius=2),
    "mi": lambda: make_similarity("mi", bins=16),
    "sum": lambda: WeightedSum([(make_similarity("lncc", radius=2), 0.5), (make_similarity("ncc", squared=True), 2.0)]),
}


def images(shape: tuple[int, ...], *, masked: bool) -> list[torch.Tensor | None]:
    made = torch.Generator().manual_seed(3)
    fixed = torch.rand((1, 1, *shape), generator=made)
    warped = 0.5 * fixed + 0.5 * torch.rand((1, 1, *shape), generator=made)
    if not masked:
        return [fixed, None, warped, None]
    first, second = (torch.rand((1, 1, *shape), generator=made).round() for _ in range(2))
    return [fixed.where(first > 0, torch.nan), first, warped.where(second > 0, torch.nan), second]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(40, 31), (18, 20, 22), (170, 40)])
@pytest.mark.parametrize("name", MADE)
def test_value_and_gradient_are_those_of_the_loss(name: str, shape: tuple[int, ...], masked: bool):
    fixed, fixed_weight, warped, weight = images(shape, masked=masked)
    similarity = MADE[name]()
    similarity.prepare(fixed, fixed_weight)
    value, gradient = similarity.value_and_gradient(warped, weight)
    expected, by_graph = Similarity.value_and_gradient(similarity, warped, weight)
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, by_graph, atol=1e-4 * float(by_graph.abs().max()), rtol=1e-3)


def test_a_constant_image_has_no_gradient():
    similarity = make_similarity("ncc")
    similarity.prepare(torch.rand((1, 1, 20, 20), generator=torch.Generator().manual_seed(0)))
    value, gradient = similarity.value_and_gradient(torch.full((1, 1, 20, 20), 3.3))
    assert float(value) == 1.0
    assert gradient is not None
    assert not gradient.any()


def test_a_similarity_that_changes_the_loss_changes_the_gradient():
    class Doubled(NormalizedCrossCorrelation, selectable=False):
        def __call__(self, warped, weight=None):
            return 2 * super().__call__(warped, weight)

    fixed, _, warped, _ = images((20, 21), masked=False)
    plain, doubled = make_similarity("ncc"), Doubled()
    for similarity in (plain, doubled):
        similarity.prepare(fixed)
    torch.testing.assert_close(doubled.value_and_gradient(warped)[1], 2 * plain.value_and_gradient(warped)[1])
