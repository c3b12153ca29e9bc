"""Registration of movies and 4D scans against their known motion."""

import json
import warnings

import nibabel as nib
import numpy as np
import pytest
import tifffile
from scipy.ndimage import center_of_mass, gaussian_filter

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.core.errors import InputError, RegistrationWarning
from napari_stnreg.datasets.movie import make_movie
from napari_stnreg.registration.optimizers.gauss_newton import GaussNewtonFitter


def displacements(result):
    spacing = result.grid.spacing.reshape(-1, *[1] * result.grid.ndim)
    return [transform.displacement(result.grid) / spacing for transform in result.transforms]


def errors(movie, result):
    return movie.errors(displacements(result))


@pytest.fixture(scope="module")
def rigid():
    return make_movie(8, (96, 112), "rigid", noise=0.3, seed=1)


@pytest.mark.parametrize("family", ["translation", "rigid", "affine"])
def test_linear_motion_is_found_to_a_small_fraction_of_a_pixel(family):
    movie = make_movie(6, (96, 112), family, noise=0.2, seed=2)
    result = sr.register_series(movie.frames, family=family)
    assert errors(movie, result).max() < 0.06
    assert movie.errors(np.zeros((6, 2, 96, 112)))[1:].min() > 0.4
    assert result.complete
    assert not result.failed


@pytest.mark.parametrize("reference", ["first", "mean", "previous"])
def test_every_reference_finds_the_motion(rigid, reference):
    assert errors(rigid, sr.register_series(rigid.frames, reference=reference)).max() < 0.15


def test_an_index_or_an_image_as_the_reference(rigid):
    by_index = sr.register_series(rigid.frames, reference=3)
    assert by_index.reference_frame == 3
    by_image = sr.register_series(rigid.frames, reference=rigid.frames[3])
    a, b = (np.array([t.as_matrix() for t in one.transforms]) for one in (by_index, by_image))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(a[3], np.eye(3), atol=2e-3)


def test_anisotropic_volumes_in_world_units():
    movie = make_movie(4, (14, 40, 44), "rigid", noise=0.1, amplitude=2.0, seed=3)
    result = sr.register_series(movie.frames, spacing=(2.0, 0.5, 0.5), unit="um")
    assert result.grid.unit == "um"
    assert errors(movie, result).max() < 0.1
    assert movie.errors(np.zeros((4, 3, 14, 40, 44)))[1:].min() > 0.4


def test_large_jumps_are_found_by_phase_correlation():
    movie = make_movie(6, (128, 128), "translation", noise=0.2, amplitude=25.0, seed=4)
    assert np.abs(movie.matrices[:, :2, 2]).max() > 15
    assert errors(movie, sr.register_series(movie.frames, family="translation")).max() < 0.1


def test_a_deformation_is_found_and_composed_to_one_field():
    movie = make_movie(4, (64, 64), "elastic", noise=0.2, amplitude=2.0, seed=5)
    bleached = movie.frames * (0.8 ** np.arange(4))[:, None, None]
    unmoved = movie.errors(np.zeros((4, 2, 64, 64)))[1:].mean()
    for reference in ("first", "previous"):
        result = sr.register_series(bleached, family="translation+diffeomorphic", reference=reference)
        assert errors(movie, result)[1:].mean() < 0.2 * unmoved
    by_hand = sr.register_series(movie.frames, family="translation+diffeomorphic", smoothness=1.0, similarity="lncc")
    assert by_hand.settings.smoothness == 1.0
    assert by_hand.settings.similarity == "lncc"


def test_frames_that_show_something_else_are_named(rigid):
    frames = rigid.frames.copy()
    frames[4] = np.random.default_rng(0).normal(size=frames[4].shape)
    frames[6] = np.nan
    with pytest.warns(RegistrationWarning, match=r"2 frames failed: frame 4 \(.*frame 6"):
        result = sr.register_series(frames)
    assert sorted(result.failed) == result.bridged == [4, 6]
    assert result.verdict == "doubtful"
    between = np.mean([result.transform(i).as_matrix()[:, 2] for i in (3, 5)], axis=0)
    np.testing.assert_allclose(result.transform(4).as_matrix()[:, 2], between, atol=0.1)
    row = result.motion[4]
    center = (np.array(rigid.frames.shape[1:]) - 1) / 2
    np.testing.assert_allclose([row["dy"], row["dx"]], result.transform(4).map_points([center])[0] - center, atol=0.1)
    assert result.motion["failed"].tolist() == [i in (4, 6) for i in range(8)]
    good = [i for i in range(8) if i not in (4, 6)]
    assert errors(rigid, result)[good].max() < 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegistrationWarning)
        mean = sr.register_series(frames, reference="mean")
        assert sorted(mean.failed) == [4, 6]
        assert errors(rigid, mean)[good].max() < 0.1
        chained = sr.register_series(frames, reference="previous")
    assert errors(rigid, chained)[7] < 0.2  # the chain leaves out what failed


def test_a_series_of_unrelated_frames_failed_as_a_whole(tmp_path):
    rng = np.random.default_rng(3)
    frames = gaussian_filter(rng.normal(size=(6, 96, 96)), (0, 2, 2)).astype(np.float32)
    with pytest.warns(RegistrationWarning, match="The registration of the series failed"):
        result = sr.register_series(frames, output=tmp_path / "out")
    assert result.verdict == "failed"
    assert result.confidence < 0.1
    assert "frames that were judged" in result.reasons[0]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["verdict"] == "failed"
    assert sr.SeriesResult.load(tmp_path / "out", frames).reasons == result.reasons


@pytest.mark.parametrize("reference", ["first", "mean", "previous"])
def test_a_noisy_series_that_is_aligned_is_good(reference):
    movie = make_movie(6, (96, 96), "rigid", noise=1.0, seed=4)
    result = sr.register_series(movie.frames, reference=reference)
    assert result.verdict == "good", result.reasons


def test_failed_frame_is_written_at_the_mean_of_its_neighbors(tmp_path):
    movie = make_movie(6, (64, 64), "translation", noise=0.05, seed=5)
    frames = movie.frames.copy()
    frames[3] = 0
    frames[3, 30:34, 30:34] = 100  # a mark at a known place, unlike the other frames
    with pytest.warns(RegistrationWarning, match="Its place is interpolated"):
        result = sr.register_series(frames, family="translation", output=tmp_path / "out", output_format="tiff")
    written = tifffile.imread(tmp_path / "out" / "registered.ome.tif")[3]
    shift = np.mean([result.transform(i).as_matrix()[:2, 2] for i in (2, 4)], axis=0)
    place = np.array(center_of_mass(written > 50))
    np.testing.assert_allclose(place, 31.5 - shift, atol=0.5)


def test_smoothing_over_time_removes_jitter_and_fills_failed_frames():
    movie = make_movie(24, (64, 64), "translation", noise=0.1, amplitude=0.0, seed=6)
    course = 3 * np.sin(np.arange(24) / 5)
    frames = np.stack([np.roll(movie.frames[0], round(float(c)), 0) for c in course])
    raw = sr.register_series(frames, family="translation")
    smooth = sr.register_series(frames, family="translation", temporal_smoothing=2.0)
    a, b = ([t.as_matrix()[0, 2] for t in one.transforms] for one in (raw, smooth))
    assert np.abs(np.diff(b, 2)).max() < 0.3 * np.abs(np.diff(a, 2)).max()
    assert np.abs(np.array(b) - course).max() < 0.6
    rotations = sr.register_series(make_movie(6, (64, 64), "rigid", seed=7).frames, temporal_smoothing=1.0)
    for transform in rotations.transforms:
        linear = transform.as_matrix()[:2, :2]
        np.testing.assert_allclose(linear @ linear.T, np.eye(2), atol=1e-9)


def test_one_transform_moves_all_channels(rigid):
    channels = np.stack([rigid.frames, 2 * rigid.frames + 5], axis=1)
    result = sr.register_series(channels, axes="tcyx", channel=0)
    warped = result.warp()
    assert warped.shape == (8, 96, 112, 2)
    np.testing.assert_allclose(warped[..., 1], 2 * warped[..., 0] + 5, atol=0.2)
    labels = result.warp((rigid.frames > 0).astype(np.uint8), interpolation="nearest")
    assert set(np.unique(labels)) <= {0, 1}


@pytest.mark.parametrize("output_format", ["zarr", "tiff"])
@pytest.mark.parametrize(("reference", "smoothing"), [("first", 0.0), ("mean", 0.0), ("previous", 1.0)])
def test_a_stopped_run_is_resumed_bit_by_bit(rigid, tmp_path, output_format, reference, smoothing):
    options = {"reference": reference, "temporal_smoothing": smoothing, "output_format": output_format}
    steps = []
    with pytest.warns(RegistrationWarning, match="only 4 of 8 frames|only 0 of 8 frames"):
        part = sr.register_series(
            rigid.frames, output=tmp_path / "out", progress=steps.append, stop=lambda: len(steps) == 4, **options
        )
    assert not part.complete
    assert part.stop_reason == "stopped"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["complete"] is False
    assert report["registered_frames"] == len(part) < 8
    with pytest.raises(InputError, match="--resume"):
        sr.register_series(rigid.frames, output=tmp_path / "out", **options)
    with pytest.raises(InputError, match=r"another run .*settings"):
        sr.register_series(rigid.frames, output=tmp_path / "out", resume=True, family="affine", **options)
    resumed = sr.register_series(rigid.frames, output=tmp_path / "out", resume=True, **options)
    whole = sr.register_series(rigid.frames, output=tmp_path / "whole", **options)
    assert resumed.complete
    name = "registered.ome.zarr" if output_format == "zarr" else "registered.ome.tif"
    a, b = (np.stack([f.data for f in sr.open_series(tmp_path / one / name)]) for one in ("out", "whole"))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(a, whole.warp(), atol=1e-6)
    assert (tmp_path / "out" / "motion.csv").read_bytes() == (tmp_path / "whole" / "motion.csv").read_bytes()
    assert "<svg" in (tmp_path / "out" / "motion.svg").read_text()


def test_a_frame_that_only_seemed_to_fail_before_a_stop_is_written_as_without_it(tmp_path):
    """With few frames done, the first noisy one stands out; with all of them, it does not."""
    movie = make_movie(12, (64, 64), "translation", noise=0.0, seed=6)
    noise = np.random.default_rng(0).normal(0, 3 * movie.frames.std(), movie.frames.shape)
    frames = movie.frames + np.where(np.arange(12)[:, None, None] < 4, 0.02, 1.0) * noise
    options = {"family": "translation", "output_format": "tiff"}
    steps = []
    with pytest.warns(RegistrationWarning, match="only 5 of 12 frames"):
        part = sr.register_series(
            frames, output=tmp_path / "out", progress=steps.append, stop=lambda: len(steps) == 5, **options
        )
    assert part.bridged == [4]
    resumed = sr.register_series(frames, output=tmp_path / "out", resume=True, **options)
    assert resumed.bridged == []
    sr.register_series(frames, output=tmp_path / "whole", **options)
    a, b = (tifffile.imread(tmp_path / one / "registered.ome.tif") for one in ("out", "whole"))
    np.testing.assert_array_equal(a, b)


def test_frames_are_read_one_at_a_time(rigid):
    class Counted:
        shape, dtype = rigid.frames.shape, rigid.frames.dtype

        def __init__(self):
            self.read = []

        def __getitem__(self, key):
            self.read.append(key)
            part = rigid.frames[key]
            assert part.shape == rigid.frames.shape[1:]
            return part

    counted = Counted()
    sr.register_series(counted)
    assert 8 <= len(counted.read) <= 8 + 3 + 5  # the first frame's properties, and those that are judged again


def test_the_frames_cover_the_union_if_asked(tmp_path):
    movie = make_movie(4, (48, 48), "translation", noise=0.0, seed=3)
    settings = sr.RegistrationSettings(family="translation", extent="union")
    result = sr.register_series(movie.frames, settings, output=tmp_path / "out", output_format="tiff")
    plain = sr.register_series(movie.frames, family="translation")
    larger = np.subtract(result.output_grid.shape, plain.grid.shape)
    assert (larger > 0).any()
    written = tifffile.imread(tmp_path / "out" / "registered.ome.tif")
    np.testing.assert_array_equal(written, result.warp())
    start = plain.grid.origin - result.output_grid.origin
    assert np.allclose(start, start.round())  # on the lattice of the reference
    inner = tuple(slice(k, k + n) for k, n in zip(start.round().astype(int), plain.grid.shape, strict=True))
    np.testing.assert_allclose(written[0][inner], movie.frames[0], atol=1e-4)
    assert sr.SeriesResult.load(tmp_path / "out", movie.frames).output_grid == result.output_grid


def test_tiff_nifti_and_zarr_are_movies(rigid, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "plain.tif", rigid.frames, photometric="minisblack")
    tifffile.imwrite(
        tmp_path / "imagej.tif", rigid.frames[:, None], imagej=True, resolution=(2, 2), compression="zlib",
        metadata={"axes": "TZYX", "unit": "um", "finterval": 0.5},
    )  # fmt: skip
    scan = np.stack([rigid.frames[:3].transpose(2, 1, 0)] * 6, axis=2)  # x, y, z, t
    nib.save(nib.Nifti1Image(np.moveaxis(scan, 3, -1), np.diag([0.5, 0.5, 2, 1])), tmp_path / "scan.nii.gz")
    plain, imagej = sr.open_series(tmp_path / "plain.tif"), sr.open_series(tmp_path / "imagej.tif")
    assert len(plain) == len(imagej) == 8
    assert imagej[0].grid.unit == "um"
    np.testing.assert_allclose(imagej[0].grid.spacing, 0.5)
    assert imagej.interval == 0.5
    np.testing.assert_array_equal(imagej[5].data, rigid.frames[5])
    result = sr.register_series(tmp_path / "imagej.tif")
    assert errors(rigid, result).max() < 0.1
    assert result.motion["time"][2] == 1.0
    assert len(sr.open_series(tmp_path / "scan.nii.gz")) == 3
    nib.save(nib.Nifti1Image(scan[..., 0], np.eye(4)), tmp_path / "one.nii")
    with pytest.raises(InputError, match="single image"):
        sr.open_series(tmp_path / "one.nii")


def test_the_command_writes_resumes_and_refuses(rigid, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("movie.tif", rigid.frames, photometric="minisblack")
    assert main(["register-series", "movie.tif", "-o", "out", "--reference", "mean"]) == 0
    assert "8 of 8 frames registered" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"registered.ome.tif", "motion.csv", "motion.svg", "report.json"} <= names
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["family"] == "rigid"
    assert main(["register-series", "movie.tif", "-o", "out"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["register-series", "movie.tif", "-o", "other", "--reference", "99"]) == 2
    assert "There is no frame 99" in capsys.readouterr().err
    tifffile.imwrite("flat.tif", rigid.frames[0])
    assert main(["register-series", "flat.tif", "-o", "third"]) == 2


def test_a_failed_frame_is_named_and_exits_with_3(rigid, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    frames = rigid.frames.copy()
    frames[5] = np.random.default_rng(1).normal(size=frames[5].shape)
    tifffile.imwrite("movie.tif", frames, photometric="minisblack")
    assert main(["register-series", "movie.tif", "-o", "out"]) == 3
    assert "1 failed" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["failed_frames"]) == ["5"]
    assert report["complete"] is True
    assert main(["register-series", "movie.tif", "-o", "out", "--overwrite", "--accept"]) == 0
    rows = (tmp_path / "out" / "motion.csv").read_text().splitlines()
    assert [row.split(",")[-1] for row in rows] == ["failed", *"00000100"]


def test_bad_input_is_a_sentence(rigid):
    with pytest.raises(InputError, match="axes="):
        sr.register_series(np.zeros((3, 4)))
    with pytest.raises(InputError, match="constant"):
        sr.register_series(np.zeros((3, 32, 32)))
    ramp = np.arange(16.0) * np.ones((2, 16, 1))
    with pytest.raises(InputError, match=r"The channels of .* together are constant.* Choose a channel"):
        sr.register_series(np.stack([ramp, 15 - ramp], axis=1), axes="tcyx")
    with pytest.raises(InputError, match="temporal smoothing"):
        sr.register_series(rigid.frames, temporal_smoothing=-1)
    with pytest.raises(InputError, match="no reference 'lst'"):
        sr.register_series(rigid.frames, reference="lst")


def test_the_same_input_gives_the_same_bits(rigid):
    a, b = (sr.register_series(rigid.frames, family="affine") for _ in range(2))
    assert [t.as_matrix().tobytes() for t in a.transforms] == [t.as_matrix().tobytes() for t in b.transforms]


def test_the_reference_pyramid_is_made_once(rigid, monkeypatch):
    made = []
    original = GaussNewtonFitter.__init__

    def counting(self, *arguments, **options):
        made.append(1)
        original(self, *arguments, **options)

    monkeypatch.setattr(GaussNewtonFitter, "__init__", counting)
    sr.register_series(rigid.frames)
    assert len(made) == 1


@pytest.mark.parametrize("reference", ["first", "mean", "previous"])
def test_a_saved_series_is_loaded_with_the_same_transforms(rigid, tmp_path, reference):
    options = {"reference": reference, "temporal_smoothing": 1.0}
    result = sr.register_series(rigid.frames, output=tmp_path / "out", **options)
    loaded = sr.SeriesResult.load(tmp_path / "out", rigid.frames)
    np.testing.assert_array_equal(loaded.warp(), result.warp())
    assert loaded.complete
    with pytest.raises(InputError, match="8"):
        sr.SeriesResult.load(tmp_path / "out", rigid.frames[:5])
    with pytest.raises(InputError, match="not the folder"):
        sr.SeriesResult.load(tmp_path)


def test_deformations_are_loaded_and_an_unfinished_run_is_named(tmp_path):
    movie = make_movie(3, (64, 72), "elastic", noise=0.1, seed=4)
    result = sr.register_series(movie.frames, family="diffeomorphic", output=tmp_path / "out")
    np.testing.assert_array_equal(sr.SeriesResult.load(tmp_path / "out", movie.frames).warp(), result.warp())
    with pytest.warns(RegistrationWarning, match="only 0 of 3"):
        sr.register_series(movie.frames, reference="mean", output=tmp_path / "half", stop=lambda: True)
    with pytest.raises(InputError, match="no registered frame"):
        sr.SeriesResult.load(tmp_path / "half", movie.frames)


def test_the_command_warps_labels_and_writes_four_axes_of_nifti(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    movie = make_movie(4, (12, 40, 44), "rigid", noise=0.1, amplitude=2.0, seed=3)
    scan = nib.Nifti1Image(movie.frames.transpose(3, 2, 1, 0), np.diag([1, 1, 2, 1]))
    nib.save(scan, "scan.nii.gz")
    labels = (movie.frames > np.median(movie.frames)).astype(np.uint8) * 7
    nib.save(nib.Nifti1Image(labels.transpose(3, 2, 1, 0), np.diag([1, 1, 2, 1])), "labels.nii.gz")
    assert main(["register-series", "scan.nii.gz", "-o", "out"]) == 0
    assert main(["apply-series", "out", "scan.nii.gz", "-o", "moved.nii.gz"]) == 0
    moved = nib.load("moved.nii.gz")
    assert moved.shape == (44, 40, 12, 4)
    np.testing.assert_allclose(moved.affine, scan.affine, atol=1e-6)
    stored = np.stack([f.data for f in sr.open_series("out/registered.ome.zarr")])
    np.testing.assert_allclose(moved.get_fdata().transpose(3, 2, 1, 0), stored, atol=1e-5)
    assert main(["apply-series", "out", "labels.nii.gz", "-o", "moved_labels.nii.gz"]) == 0
    assert set(np.unique(nib.load("moved_labels.nii.gz").get_fdata())) == {0, 7}
    assert main(["apply-series", "out", "labels.nii.gz", "-o", "moved_labels.nii.gz"]) == 2
    assert "moved_labels" in capsys.readouterr().err


def test_the_registered_frames_have_a_pyramid(tmp_path):
    import zarr

    movie = make_movie(2, (64, 600), "translation", noise=0.1, seed=5)
    sr.register_series(movie.frames, family="translation", output=tmp_path / "out")
    group = zarr.open_group(str(tmp_path / "out" / "registered.ome.zarr"), mode="r")
    assert [group[level].shape for level in ("0", "1")] == [(2, 64, 600), (2, 64, 300)]
    full = np.asarray(group["0"])
    np.testing.assert_allclose(group["1"][...], (full[..., ::2] + full[..., 1::2]) / 2, atol=1e-6)
    coarse = sr.read_series(tmp_path / "out" / "registered.ome.zarr" / "1")[0].grid
    np.testing.assert_allclose([coarse.spacing, coarse.origin], [[1, 2], [0, 0.5]])
