"""Axes follow the labels or the file, in every order, in panels and when layers are written."""

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers._source import layer_source as opened_from
from napari_builtins.io import imread

import napari_stnreg as sr
from napari_stnreg.core.errors import InputError
from napari_stnreg.io import tiff
from napari_stnreg.io.image import read_content
from napari_stnreg.io.napari_layers import LAYOUTS, layout_of
from napari_stnreg.napari_plugin.readers import write_image

SIZES = {"t": 3, "c": 2, "z": 5, "y": 12, "x": 14}
ALL = [layout for layouts in LAYOUTS.values() for layout in layouts]


def _array(layout):
    """Every value tells its index: 1000 t + 500 c + 10 z + y / 10 in float."""
    whole = sum(
        np.arange(SIZES[name]).reshape([-1 if name == other else 1 for other in "tczyx"]) * step
        for name, step in zip("tczyx", (1000, 500, 30, 2, 0.1), strict=True)
    )
    taken = whole[tuple(slice(None) if name in layout else 1 for name in "tczyx")]
    order = [name for name in "tczyx" if name in layout]
    return taken.transpose([order.index(name) for name in layout]).astype(np.float32)


def _expected(layout, frame):
    """Frame of the layout as (z, y, x) and channels last."""
    order = [name for name in "zyxc" if name in layout]
    data = _array(layout)
    data = data.take(frame, axis=layout.index("t")) if "t" in layout else data
    rest = layout.replace("t", "")
    return data.transpose([rest.index(name) for name in order])


@pytest.mark.parametrize("layout", ALL)
@pytest.mark.parametrize("upper", [True, False])
def test_labeled_layers_are_read_in_every_order(layout, upper):
    from napari_stnreg.widgets.common.layer_io import guess_layout, layer_source

    viewer = ViewerModel()
    scale = [{"t": 2.0, "c": 1.0, "z": 5.0, "y": 0.5, "x": 0.25}[name] for name in layout]
    labels = [name.upper() if upper else {"t": "time", "c": "channel"}.get(name, name) for name in layout]
    layer = viewer.add_image(_array(layout), axis_labels=labels, scale=scale)
    assert guess_layout(layer) == layout
    source = layer_source(layer, viewer)
    assert source.frames == (3 if "t" in layout else 1)
    np.testing.assert_allclose(source.grid.spacing, [5.0, 0.5, 0.25][-source.grid.ndim :])
    np.testing.assert_array_equal(source.image(source.frames - 1).data, _expected(layout, source.frames - 1))


@pytest.mark.parametrize("labels", ["yxz", "xyz", "tyxz", "xyzt", "czxy"])
def test_an_order_that_no_image_has_is_refused(labels):
    with pytest.raises(InputError, match="Transpose"):
        layout_of(labels, len(labels), "a")


@pytest.mark.parametrize(
    ("axes", "how"),
    [("TZCYX", "imagej"), ("CZYX", "ome"), ("ZCYX", "ome"), ("TYX", "imagej"), ("TCYX", "ome")],
)
def test_a_layer_that_napari_opened_from_a_tiff_has_the_axes_of_the_file(tmp_path, axes, how):
    from napari_stnreg.widgets.common.layer_io import guess_layout

    path = tmp_path / ("a.ome.tif" if how == "ome" else "a.tif")
    layout = axes.lower()
    tifffile.imwrite(path, _array(layout), metadata={"axes": axes}, photometric="minisblack", **{how: True})
    viewer = ViewerModel()
    with opened_from(path=str(path)):
        layer = viewer.add_image(imread(str(path)))
    assert guess_layout(layer) == layout
    read = sr.read_image(path, 1 if "T" in axes else None)
    np.testing.assert_array_equal(read.data, _expected(layout, 1))


@pytest.mark.parametrize("layout", ["tczyx", "ztyx", "tyx", "zcyx", "cyx", "zyx"])
def test_a_labeled_layer_is_written_by_its_axes(tmp_path, layout):
    scale = [{"t": 2.0, "c": 1.0, "z": 5.0, "y": 0.5, "x": 0.25}[name] for name in layout]
    meta = {"name": "a", "axis_labels": tuple(layout), "scale": scale, "units": ("um",) * len(layout)}
    write_image(str(tmp_path / "a.ome.tif"), _array(layout), meta)
    frames = sr.read_series(tmp_path / "a.ome.tif")
    assert len(frames) == (3 if "t" in layout else 1)
    np.testing.assert_array_equal(frames[-1].data, _expected(layout, len(frames) - 1))
    np.testing.assert_allclose(frames[0].grid.spacing, [5.0, 0.5, 0.25][-frames[0].ndim :])


@pytest.mark.parametrize(
    ("axes", "options"),
    [("TZCYX", {"imagej": True}), ("CZTYX", {}), ("TCYX", {"compression": "zlib"}), ("TYXS", {"photometric": "rgb"}),
     ("SYX", {"photometric": "rgb", "planarconfig": "separate"})],
)  # fmt: skip
def test_large_tiff_files_are_read_frame_by_frame_and_as_they_are_shown(tmp_path, monkeypatch, axes, options):
    sizes = {"T": 3, "Z": 4, "C": 2, "Y": 20, "X": 24, "S": 3}
    data = np.random.default_rng(0).integers(0, 255, [sizes[axis] for axis in axes]).astype(np.uint8)
    path = tmp_path / ("a.tif" if "imagej" in options else "a.ome.tif")
    tifffile.imwrite(path, data, metadata={"axes": axes}, **options)
    order = [axes.index(axis) for axis in "TZYXCS" if axis in axes]
    expected = data.transpose(order) if "T" in axes else data.transpose(order)[None]
    monkeypatch.setattr(tiff, "LAZY_BYTES", 0)
    whole = tifffile.TiffPageSeries.asarray
    if "T" in axes:
        monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", None)  # a frame is read alone
    content = read_content(path)
    assert content.frames == len(expected)
    for frame, wanted in enumerate(expected):
        np.testing.assert_array_equal(content.load(frame), wanted)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", whole)
    (level,) = content.levels()
    shown = np.asarray(level)
    if "C" in axes:
        shown = np.moveaxis(shown, 0, -1)
    np.testing.assert_array_equal(shown, expected if "T" in axes else expected[0])


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "rowsperstrip": 7}, {"tile": (32, 32)},
                                     {"compression": "jpeg", "tile": (32, 32)}])  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3])
def test_a_coarser_resolution_of_a_plane_is_read_in_strips(tmp_path, monkeypatch, options, channels):
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 255, (13, 17, channels)), np.ones((8, 8, 1)))[:101].astype(np.uint8)
    path = tmp_path / "a.ome.tif"
    plane = image if channels == 3 else image[..., 0]
    extra = {"photometric": "rgb"} if channels == 3 else {"photometric": "minisblack"}
    tifffile.imwrite(path, plane, metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, **extra, **options)
    whole = sr.read(path)
    monkeypatch.setattr(tiff, "_CHUNK", 24)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", None)  # the plane is never read as a whole
    coarse = sr.read(f"{path}/2")
    assert (coarse.name, coarse.grid.shape) == ("a", (26, 34))
    blocks = whole.data[:100].astype(float).reshape(25, 4, 34, 4, -1).mean((1, 3))
    np.testing.assert_allclose(coarse.data[:25].reshape(blocks.shape), blocks, atol=0.51)
    np.testing.assert_allclose(coarse.grid.spacing, [2, 2])
    np.testing.assert_allclose(coarse.grid.origin, [0.75, 0.75])
    with pytest.raises(sr.InputError, match="no resolution 7"):
        sr.read(f"{path}/7")
    monkeypatch.setattr(tiff, "LAZY_BYTES", 0)
    monkeypatch.setattr(tiff, "_SHOWN_WHOLE", 40)
    shown = read_content(path).levels()
    assert [one.shape[:2] for one in shown] == [(101, 136), (51, 68), (26, 34)]
    np.testing.assert_array_equal(np.asarray(shown[2]), coarse.data)


def test_the_levels_of_a_tiff_pyramid_are_shown_by_napari(tmp_path, monkeypatch):
    image = np.kron(np.arange(80, dtype=np.uint8).reshape(8, 10), np.ones((16, 16), np.uint8))
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        file.write(image, subifds=1, tile=(32, 32))
        file.write(image[::2, ::2], subfiletype=1, tile=(32, 32))
    assert read_content(tmp_path / "a.ome.tif").levels is None  # small images are read at once
    monkeypatch.setattr(tiff, "LAZY_BYTES", 0)
    levels = read_content(tmp_path / "a.ome.tif").levels()
    assert [level.shape for level in levels] == [(128, 160), (64, 80)]
    np.testing.assert_array_equal(np.asarray(levels[1]), image[::2, ::2])
    np.testing.assert_array_equal(sr.read(tmp_path / "a.ome.tif" / "1").data, image[::2, ::2])
    np.testing.assert_allclose(sr.read(tmp_path / "a.ome.tif" / "2").data, image[::4, ::4])
