"""Transforms written to our own file and read back."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.safetensors_format import load_transform_file
from napari_stnreg.transforms import AffineTransform, ChainTransform, InverseTransform, chain, make_family
from tests.helpers.families import FAMILIES

GRID = Grid.from_spacing((6, 5, 7), (2.0, 0.1, 1 / 3), (1e5, -7, 0.1), unit="um")


def some(name: str, dtype=torch.float32):
    family = make_family(name)
    return family(0.2 * torch.randn(1, *family.parameter_shape(GRID), dtype=dtype), GRID)


def kinds():
    for name in FAMILIES:
        for dtype in (torch.float32, torch.float64):
            yield pytest.param(some(name, dtype), id=f"{name}-{dtype}")
    yield pytest.param(chain(some("affine", torch.float64), some("diffeomorphic")), id="chain")
    yield pytest.param(chain(some("affine"), some("bspline")).inverse(), id="chain of inverses")
    yield pytest.param(InverseTransform(chain(some("affine"), some("tps"))), id="inverse of a chain")


@pytest.mark.parametrize("transform", list(kinds()))
def test_values_read_are_exactly_those_written(transform, tmp_path):
    path = transform.save(tmp_path / "mine", {"seed": 3, "scores": {"ncc": 0.5}})
    assert path.name == "mine.safetensors"
    again, info = load_transform_file(path)
    assert info == {"seed": 3, "scores": {"ncc": 0.5}}
    assert type(again) is type(transform)
    assert (again.ndim, again.unit, again.settings()) == (3, "um", transform.settings())
    before, after = transform.tensors(), again.tensors()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert torch.equal(tensor, after[name])
    np.testing.assert_array_equal(again.map_points(GRID.corners()), transform.map_points(GRID.corners()))


def test_an_inverse_is_kept_as_its_forward_part(tmp_path):
    forward = some("bspline")
    again, _ = load_transform_file(forward.inverse().save(tmp_path / "back.safetensors"))
    assert isinstance(again, InverseTransform)
    assert torch.equal(again.inverse().tensors()["coefficients"], forward.coefficients)


def test_parameters_that_are_still_being_fitted_can_be_saved(tmp_path):
    theta = torch.zeros(1, 6, requires_grad=True)
    again, _ = load_transform_file(make_family("rigid")(theta, GRID).save(tmp_path / "a.safetensors"))
    assert not again.tensors()["matrix"].requires_grad


@pytest.fixture
def good(tmp_path):
    return chain(some("affine"), some("displacement")).save(tmp_path / "good.safetensors")


def rewritten(path, change):
    """The same file with its header changed."""
    with safe_open(path, framework="pt") as stream:
        header = json.loads(stream.metadata()["napari-stnreg"])
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, path, metadata={"napari-stnreg": json.dumps(header)})
    return path


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.3, 0.99])
def test_a_file_cut_short_is_refused(good, fraction):
    content = good.read_bytes()
    good.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(InputError, match="cut short"):
        load_transform_file(good)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="pickle"):
        load_transform_file(path)
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
        with pytest.raises(InputError, match="pickle"):
            load_transform_file(path)


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="holds no transform"):
        load_transform_file(path)
    path.write_text("Lorem ipsum dolor sit amet, " * 20)
    with pytest.raises(InputError, match="neither a transform nor a model"):
        load_transform_file(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_transform_file(tmp_path / "missing.safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        load_transform_file(tmp_path)


def broken_shape(header, tensors):
    tensors["1.field"] = tensors["1.field"][:, :, 1:].contiguous()


def broken_number(header, tensors):
    tensors["1.field"][0, 0, 0, 0, 0] = float("nan")


def broken_dimensions(header, tensors):
    header["ndim"] = 2


def broken_unit(header, tensors):
    header["unit"] = "mm"


def broken_settings(header, tensors):
    header["settings"] = [1, 2]


def broken_family(header, tensors):
    header["settings"]["parts"][1]["family"] = "elastic"


def missing_tensor(header, tensors):
    del tensors["0.matrix"]


def whole_numbers(header, tensors):
    tensors["0.matrix"] = tensors["0.matrix"].to(torch.int32)


@pytest.mark.parametrize(
    "change",
    [
        broken_shape, broken_number, broken_dimensions, broken_unit, broken_settings, broken_family, missing_tensor,
        whole_numbers,
    ],
)  # fmt: skip
def test_a_file_that_contradicts_itself_is_refused(good, change):
    with pytest.raises(InputError, match="damaged"):
        load_transform_file(rewritten(good, change))


def test_newer_file_format_raises_with_advice_to_update(good):
    def newer(header, tensors):
        header["version"] = 2

    with pytest.raises(InputError, match="newer"):
        load_transform_file(rewritten(good, newer))


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = AffineTransform.identity(2).save(tmp_path / "kept.safetensors")
    before = path.read_bytes()

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="No space left"):
        AffineTransform.identity(3).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_notes_that_json_cannot_hold_and_places_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(InputError, match="JSON"):
        AffineTransform.identity(2).save(tmp_path / "a", {"array": np.zeros(3)})
    with pytest.raises(InputError, match="cannot be written"):
        AffineTransform.identity(2).save(tmp_path / "none" / "a")


def test_chains_keep_the_order_of_more_than_ten_parts(tmp_path):
    parts = [p for i in range(6) for p in (shifted(i), some("displacement"))]
    transform = ChainTransform(parts)
    assert len(transform.parts) == 12
    again, _ = load_transform_file(transform.save(tmp_path / "long"))
    np.testing.assert_array_equal(again.map_points(GRID.corners()), transform.map_points(GRID.corners()))


def shifted(by: float) -> AffineTransform:
    matrix = np.eye(4)
    matrix[:3, 3] = by
    return AffineTransform(matrix, "um")
