"""Resolution levels of any layout, and stores at a URL, give the same coordinates."""

import numpy as np
import pytest
import zarr
from scipy.ndimage import center_of_mass, gaussian_filter, zoom

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.core.errors import InputError
from napari_stnreg.datasets import SerialSections
from napari_stnreg.stacks.output.canvas import OutputCanvas
from napari_stnreg.stacks.output.ome_zarr import create
from napari_stnreg.stacks.output.render import PixelMap

PIXEL, ORIGIN = 8.0, (100.0, 50.0)
SIZE = (203, 190)


def reduce(stack, layout):
    """A coarser level, its pixel size in fine pixels (y, x), and the place of its first pixel in fine pixels."""
    if layout == "subsampled":
        return stack[:, ::3, ::3], (3, 3), (0, 0)
    if layout.startswith("averaged"):
        even = stack[:, : SIZE[0] // 2 * 2, : SIZE[1] // 2 * 2].astype(float)
        means = even.reshape(len(stack), SIZE[0] // 2, 2, SIZE[1] // 2, 2).mean(axis=(2, 4))
        return means.astype(stack.dtype), (2, 2), (0.5, 0.5)
    shape = (82, 77)  # neither half nor of one factor
    found = np.stack([
        zoom(gaussian_filter(one.astype(float), 0.7), np.divide(shape, SIZE), order=1, grid_mode=True, mode="nearest")
        for one in stack
    ])  # fmt: skip
    ratio = np.divide(SIZE, shape)
    return found.astype(stack.dtype), tuple(ratio), tuple((ratio - 1) / 2)


def write(where, stack, layout):
    """An OME-Zarr image with two levels."""
    small, ratio, first = reduce(stack, layout)
    group = zarr.create_group(str(where), zarr_format=3, overwrite=True)
    datasets = []
    for k, (data, size, place) in enumerate(((stack, (1, 1), (0, 0)), (small, ratio, first))):
        group.create_array(str(k), data=data, chunks=(1, *data.shape[1:]))
        at = [0.0, *(o + PIXEL * p for o, p in zip(ORIGIN, (0, 0) if "undeclared" in layout else place, strict=True))]
        steps = [{"type": "scale", "scale": [40.0, *(PIXEL * float(s) for s in size)]}]
        datasets.append(
            {"path": str(k), "coordinateTransformations": [*steps, {"type": "translation", "translation": at}]}
        )
    axes = [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    return where


def spots(count):
    """Sections with one spot each, which stands out in every resolution, and its place."""
    y, x = np.indices(SIZE)
    at = np.array([(60.3 + 9 * z, 110.8 - 7 * z) for z in range(count)])
    rows = [np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * 9.0**2)) for a, b in at]
    return np.uint16(np.round(np.array(rows) * 60000)), at


def world(source, z):
    """Place of the spot of a section by the metadata of the stack."""
    index = np.array(center_of_mass(source.read(z).astype(float)))
    return np.array(source.origin[1:]) + index * source.spacing[1:]


LAYOUTS = ("subsampled", "averaged", "averaged undeclared", "resized")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_of_every_level_are_in_their_place(tmp_path, layout):
    stack, at = spots(3)
    path = write(tmp_path / "raw.zarr", stack, layout)
    for opened in (sr.open_stack(path, level=1), sr.open_stack(path / "1")):
        for z in range(3):
            np.testing.assert_allclose(world(opened, z), ORIGIN + PIXEL * at[z], atol=0.1 * PIXEL)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("level", [0, 1])
def test_alignment_of_one_level_warps_the_other(tmp_path, layout, level):
    """Each section is shifted by a known amount of fine pixels."""
    stack, at = spots(3)
    path = write(tmp_path / "raw.zarr", stack, layout)
    source, moved = sr.open_stack(path, level=level), np.array([(0, 0), (-6.5, 4.25), (3.0, -2.5)])
    ratio = np.array(source.spacing[1:]) / PIXEL
    canvas = OutputCanvas((-10, -7), tuple(n + 20 for n in source.shape[1:]), source.shape[1:], 8)
    writer = create(
        tmp_path / "out.zarr", source, canvas, canvas.shape,
        attributes={"stack": source.identity(), "finished": True},
    )  # fmt: skip
    for z in range(3):
        writer.write_displacement(z, np.broadcast_to((moved[z] / ratio)[:, None, None], (2, *canvas.field_shape)))
    for other in (0, 1):
        arguments = [str(tmp_path / "out.zarr"), str(path), "--output", str(tmp_path / "w.zarr"), "--overwrite"]
        assert main(["apply-stack", *arguments, "--level", str(other), "--interpolation", "linear"]) == 0
        found = sr.open_stack(tmp_path / "w.zarr")
        for z in range(3):
            np.testing.assert_allclose(world(found, z), ORIGIN + PIXEL * (at[z] - moved[z]), atol=0.1 * PIXEL)


def test_array_of_the_finest_level_fits_a_subsampled_alignment(tmp_path):
    """An array has no pixel size, but the level that was aligned says where its pixels are."""
    stack, at = spots(3)
    source = sr.open_stack(write(tmp_path / "raw.zarr", stack, "subsampled"), level=1)
    canvas = OutputCanvas((0, 0), source.shape[1:], source.shape[1:], 8)
    create(
        tmp_path / "out.zarr", source, canvas, canvas.shape,
        attributes={"stack": source.identity(), "finished": True},
    )  # fmt: skip
    sr.AlignedStack(tmp_path / "out.zarr").apply(stack, tmp_path / "w.zarr", interpolation="linear")
    found = sr.open_stack(tmp_path / "w.zarr")
    for z in range(3):  # an array begins at 0, and its pixels have the size 1
        np.testing.assert_allclose(world(found, z), at[z], atol=0.1)


def test_alignment_of_a_store_at_a_url_equals_that_of_the_folder(tmp_path):
    raw = SerialSections((3, 96, 96), 3)[:]
    group = zarr.create_group("memory://stnreg-levels/raw.zarr", zarr_format=3, overwrite=True)
    group.create_array("0", data=raw, chunks=(1, 96, 96))
    steps = [{"type": "scale", "scale": [40.0, 8.0, 8.0]}]
    axes = [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    np.save(tmp_path / "raw.npy", raw)
    url, file = "memory://stnreg-levels/raw.zarr", (tmp_path / "raw.npy").as_uri()
    for name, stack in (("a", url), ("b", file)):
        assert main(["align", stack, str(tmp_path / f"{name}.zarr"), "--no-deform", "--workers", "1"]) == 0
    one, other = (sr.AlignedStack(tmp_path / f"{name}.zarr") for name in "ab")
    np.testing.assert_array_equal(one.levels[0][:], other.levels[0][:])
    assert sr.open_stack(one.path).spacing == (40.0, 8.0, 8.0)
    assert main(["apply-stack", str(one.path), url, "--output", str(tmp_path / "c.zarr")]) == 0
    np.testing.assert_array_equal(zarr.open(str(tmp_path / "c.zarr"))["0"][:], one.levels[0][:])
    assert sr.open_stack(f"{url}/0").spacing == (40.0, 8.0, 8.0)


@pytest.mark.parametrize("url", ["memory://stnreg-levels/none.zarr", "nothing://host/a.zarr"])
def test_store_that_cannot_be_opened_is_named(url):
    with pytest.raises(InputError, match=r"\.zarr' "):
        sr.open_stack(url)


def test_pixel_map_round_trip():
    pixels = PixelMap((2.0, 1.5), (0.25, -3.0))
    np.testing.assert_allclose(pixels.from_input(pixels.to_input([[3.0, 7.0]])), [[3.0, 7.0]])
