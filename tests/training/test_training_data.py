"""What a network learns from: sets of images, how they are paired, and that nothing held back leaks."""

import csv

import numpy as np
import pytest
import tifffile
import torch

import napari_stnreg as sr
from napari_stnreg import Grid, Image, InputError
from napari_stnreg.io import write_image
from napari_stnreg.models.input_spec import InputSpec, intensities, resample_to_lattice
from napari_stnreg.training.augmentation.spatial import SpatialAugmentation
from napari_stnreg.training.data.datasets import open_training_data
from napari_stnreg.training.data.image_sets import ImageSet
from napari_stnreg.training.data.pair_sampler import MixedSource
from napari_stnreg.training.data.paired_images import Augmentation, PairedImages, augmentation_preset
from napari_stnreg.training.data.pairing import FixedPairs, RandomPairs, neighbors, read_pairs, split_groups


def blob(y, x, size=(24, 20), spacing=1.0, name="blob"):
    rows, columns = np.mgrid[: size[0], : size[1]]
    values = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 20)
    return Image.from_array((255 * values).astype(np.uint8), spacing, name=name)


@pytest.fixture
def folder(tmp_path):
    for subject in range(4):
        for visit in range(2):
            write_image(tmp_path / f"S{subject}_v{visit}.tif", blob(8 + subject, 9 + visit))
    (tmp_path / "readme.txt").write_text("no image")
    return tmp_path


def everything(data, split="train", epoch=0, size=3, seed=5):
    return list(data.batches(split, epoch=epoch, batch_size=size, seed=seed))


def same(a, b):
    return all(torch.equal(x.fixed, y.fixed) and torch.equal(x.moving, y.moving) for x, y in zip(a, b, strict=True))


def test_a_folder_gives_its_images_by_name_and_subject(folder):
    images = ImageSet.from_folder(folder, group=r"^(S\d)")
    assert images.names == sorted(p.stem for p in folder.glob("*.tif"))
    assert images.groups == ["S0", "S0", "S1", "S1", "S2", "S2", "S3", "S3"]
    np.testing.assert_array_equal(images.image(3).data, blob(9, 10).data)


def test_voxels_are_read_on_demand_and_dropped_at_the_limit(folder):
    reads = []
    images = ImageSet.from_folder(folder)
    entries = [e.__class__(e.name, e.group, lambda e=e: (reads.append(e.name), e.load())[1]) for e in images.entries]
    counted = ImageSet(entries, cache_bytes=2 * 24 * 20)
    assert reads == []
    counted.image(0), counted.image(1), counted.image(0)
    assert len(reads) == 2
    counted.image(2)  # drops number 1, which was used longest ago
    counted.image(0)
    assert len(reads) == 3
    counted.image(1)
    assert len(reads) == 4


def test_frames_of_a_file_are_images_of_one_subject(tmp_path):
    frames = np.stack([blob(8 + i, 9).data for i in range(3)])
    tifffile.imwrite(tmp_path / "beat.tif", frames, imagej=True, metadata={"axes": "TYX"})
    images = ImageSet.from_folder(tmp_path)
    assert images.names == ["beat [0]", "beat [1]", "beat [2]"]
    assert set(images.groups) == {"beat"}
    np.testing.assert_array_equal(images.image(2).data, frames[2])


def test_a_stack_gives_its_sections_with_their_pixel_size():
    stack = Image.from_array(np.arange(4 * 6 * 5).reshape(4, 6, 5), (40.0, 3.0, 2.0), unit="nm")
    images = ImageSet.from_stack(stack, stack)
    assert len(images) == 4
    assert images.image(2).grid == Grid.from_spacing((6, 5), (3.0, 2.0), unit="nm")
    np.testing.assert_array_equal(images.image(2).data, stack.data[2])
    np.testing.assert_array_equal(images.labels(2).data, stack.data[2])


def test_an_npz_file_gives_images_labels_subjects_and_spacing(tmp_path):
    data = np.random.default_rng(0).integers(0, 255, (5, 8, 9, 7)).astype(np.uint8)
    np.savez(tmp_path / "set.npz", image=data, label=data > 100, subject=list("aabbc"), voxel_mm=[3.0, 2.0, 1.0])
    images = ImageSet.from_npz(tmp_path / "set.npz", labels="label", group="subject", spacing="voxel_mm", unit="mm")
    assert images.groups == list("aabbc")
    assert images.image(1).grid == Grid.from_spacing((8, 9, 7), (3, 2, 1), unit="mm")
    np.testing.assert_array_equal(images.labels(3).data, data[3] > 100)


def test_no_subject_is_in_both_training_and_validation():
    groups = [f"p{i // 5}" for i in range(60)]
    train, held = split_groups(groups, 0.25, seed=3)
    assert sorted(train + held) == list(range(60))
    assert not {groups[i] for i in train} & {groups[i] for i in held}
    assert len({groups[i] for i in held}) == 3
    assert split_groups(groups, 0.25, seed=4)[1] != held


def test_random_pairs_differ_between_epochs_and_not_between_runs():
    pairs = RandomPairs(range(20), 30)
    first = [pairs.pair(1, 0, i) for i in range(30)]
    assert first == [pairs.pair(1, 0, i) for i in range(30)]
    assert first != [pairs.pair(1, 1, i) for i in range(30)]
    assert all(a != b for a, b in first)


def test_random_pairs_stay_within_a_subject():
    groups = list("aaabbbbcd")
    pairs = RandomPairs(range(9), 50, groups)
    drawn = [pairs.pair(0, 0, i) for i in range(50)]
    assert all(groups[a] == groups[b] and a != b for a, b in drawn)
    assert {groups[a] for a, _ in drawn} == {"a", "b"}


def test_neighbors_reach_max_distance_in_both_directions():
    assert set(neighbors(range(4), 2).pairs) == {(a, b) for a in range(4) for b in range(4) if 0 < abs(a - b) <= 2}


def test_a_list_names_pairs_by_name_file_or_number(folder, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("fixed,moving,split\nS0_v0,S0_v1.tif,train\nS1_v0,3,validation\n")
    images = ImageSet.from_folder(folder)
    assert read_pairs(path, images, images) == [((0, 1), "train"), ((2, 3), "validation")]


def test_csv_list_defines_pairs_and_splits(folder):
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("fixed", "moving", "split"), ("S0_v0.tif", "S0_v1.tif", ""), ("S3_v0.tif", "S3_v1.tif", "val")]
        )
    data = open_training_data(folder / "pairs.csv")
    assert (data.count("train"), data.count("validation")) == (1, 1)
    (batch,) = everything(data, "validation")
    assert int(batch.moving[0, 0].flatten().argmax()) == 11 * 20 + 10


def test_two_folders_are_matched_by_name(tmp_path):
    for side, shift in (("fixed", 0), ("moving", 3)):
        (tmp_path / side).mkdir()
        for i in range(3):
            write_image(tmp_path / side / f"case{i}.png", blob(6 + i, 7 + shift))
    data = open_training_data(tmp_path / "fixed", tmp_path / "moving", validation_fraction=0)
    for batch in everything(data, size=1):
        places = [divmod(int(x[0, 0].flatten().argmax()), 20) for x in (batch.fixed, batch.moving)]
        assert places[0][0] == places[1][0]
        assert places[1][1] - places[0][1] == 3


@pytest.mark.parametrize(("pairing", "count"), [("random", 12), ("template", 11), ("neighbors", 18), ("group", 12)])
def test_every_pairing_opens_a_stack_or_its_images(pairing, count):
    images = [blob(8, 6 + i / 2, name=f"s{i}") for i in range(12)]
    groups = [f"g{i // 4}" for i in range(12)]
    source = ImageSet.from_images(images, groups=groups)
    held = 2 / 12 if pairing == "neighbors" else 0
    data = open_training_data(source, pairing=pairing, validation_fraction=held)
    assert data.count("train") == count
    assert data.count("validation") == (2 if pairing == "neighbors" else 0)
    assert sum(batch.fixed.shape[0] for batch in everything(data)) == count


def test_validation_pairs_are_of_subjects_that_training_never_shows(folder):
    data = open_training_data(folder, pairing="random", group=r"^(S\d)", validation_fraction=0.25, pairs=40)
    held = {data.fixed.groups[i] for pair in data.validation_pairs for i in pair}
    drawn = {data.fixed.groups[i] for e in range(5) for k in range(40) for i in data.pairing.pair(0, e, k)}
    assert len(held) == 1
    assert not held & drawn
    assert drawn | held == {"S0", "S1", "S2", "S3"}


def test_the_same_place_in_a_training_gives_the_same_batches(folder):
    moved = SpatialAugmentation(rotation=10, shift=2, deformation=2, control_spacing=8)
    data = open_training_data(folder, augmentation=Augmentation(joint=moved), validation_fraction=0.25)
    again = open_training_data(folder, augmentation=Augmentation(joint=moved), validation_fraction=0.25)
    everything(again, epoch=0)  # what went before does not matter
    assert same(everything(data, epoch=3), everything(again, epoch=3))
    assert not same(everything(data, epoch=3), everything(data, epoch=2))
    assert same(everything(data, "validation", epoch=0), everything(data, "validation", epoch=9))


def brightest(batch):
    """Centers of brightness of the fixed and the moving image, in voxels of the working grid."""
    found = []
    for side in (batch.fixed, batch.moving):
        weight = side[0, 0].clamp_min(0)
        axes = ((weight.shape[0], (-1, 1)), (weight.shape[1], (1, -1)))
        found.append([float((weight * torch.arange(n).reshape(s)).sum() / weight.sum()) for n, s in axes])
    return found


def test_batches_keep_world_positions_for_any_size_and_spacing():
    coarse = blob(11.5, 9.5, (24, 20), spacing=1.0, name="coarse")
    fine = blob(23.5, 19.5, (48, 40), spacing=0.5, name="fine")  # its middle is at 11.75, 9.75 of the world
    far = fine.replace(grid=fine.grid.translated(np.array([3.0, -2.0])), name="moved")
    images = ImageSet.from_images([coarse, fine, far])
    data = PairedImages(images, images, FixedPairs([(0, 1), (0, 2), (1, 2)]))
    beside, moved, both = (data.draw_pair("train", 0, place, 0) for place in range(3))
    assert beside.moving.shape == (1, 1, 24, 20)
    assert brightest(beside) == [pytest.approx([11.5, 9.5], abs=0.05), pytest.approx([11.75, 9.75], abs=0.05)]
    assert brightest(moved)[1] == pytest.approx([14.75, 7.75], abs=0.05)
    # every pair is seen from the middle of its own fixed image
    assert brightest(both) == [pytest.approx([11.5, 9.5], abs=0.05), pytest.approx([14.5, 7.5], abs=0.05)]


def test_training_pair_is_placed_as_at_inference():
    fixed = blob(11.5, 9.5, (24, 20), name="fixed")
    moving = blob(30, 14, (40, 30), name="moving")
    moving = moving.replace(grid=moving.grid.translated(np.array([-16.0, -5.0])))
    images = ImageSet.from_images([fixed, moving])
    batch = PairedImages(images, images, FixedPairs([(0, 1)])).draw_pair("train", 0, 0, 0)
    input_spec = InputSpec(2, 1, fixed.grid.shape, (1.0, 1.0))
    lattice = input_spec.lattice(fixed.grid)
    seen = resample_to_lattice(intensities(moving, input_spec), moving.grid, lattice)
    assert torch.allclose(batch.moving, seen, atol=1e-5)


def test_images_that_do_not_overlap_in_the_world_are_centered_on_each_other():
    fixed = blob(11.5, 9.5, (24, 20), name="fixed")
    moving = blob(23.5, 19.5, (48, 40), spacing=0.5, name="moving")
    images = ImageSet.from_images([fixed, moving.replace(grid=moving.grid.translated(np.array([500.0, 80.0])))])
    batch = PairedImages(images, images, FixedPairs([(0, 1)])).draw_pair("train", 0, 0, 0)
    assert brightest(batch)[1] == pytest.approx([11.5, 9.5], abs=0.05)


def test_labels_follow_their_images():
    image = blob(8, 9)
    label = image.replace(data=(np.asarray(image.data) > 100).astype(np.uint8) * 3)
    images = ImageSet.from_images([image, image.replace(name="b")], [label, label])
    moved = Augmentation(joint=SpatialAugmentation(rotation=20, shift=4))
    data = PairedImages(images, images, FixedPairs([(0, 1)]), augmentation=moved)
    (batch,) = everything(data)
    assert data.labels == (3,)
    inside = batch.fixed_labels == 3
    assert inside.any()
    assert float(batch.fixed[inside].min()) > 0.3
    assert float(batch.fixed[~inside].max()) < 0.5


def test_mixed_sources_give_pairs_of_each_and_hold_back_those_of_the_first():
    first = ImageSet.from_images([blob(8, 9, name="a"), blob(8, 5, name="b")])
    second = ImageSet.from_images([blob(16, 9, name="c"), blob(16, 5, name="d")])
    parts = [PairedImages(s, s, FixedPairs([(0, 1), (1, 0)]), [(0, 1)]) for s in (first, second)]
    data = MixedSource(*parts)
    rows = [int(x.flatten().argmax()) // 20 for b in everything(data, size=1) for x in b.fixed[:, 0]]
    assert sorted(rows) == [8, 8, 16, 16]
    assert data.count("validation") == 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda p: open_training_data(p / "nowhere"), "does not exist|unsupported"),
        (lambda p: open_training_data(p / "empty"), "has no image"),
        (lambda p: open_training_data(p / "set.npz", image="img"), "has no array 'img'. It holds image"),
        (lambda p: open_training_data(p / "broken.npz"), "not a readable npz file"),
        (lambda p: open_training_data(p / "one.tif"), "a single image. Training needs several"),
        (lambda p: open_training_data(p / "set.npz", group="patient"), "has no array 'patient'"),
        (lambda p: open_training_data(p / "bad.csv"), "columns 'fixed' and 'moving'"),
        (lambda p: open_training_data(p / "gone.csv"), "names 'x.tif', which does not exist"),
        (lambda p: open_training_data(p / "set.npz", pairing="pals"), "no pairing 'pals'"),
        (lambda p: open_training_data(p / "set.npz", pairing="template", template="zz"), "no image 'zz'"),
        (lambda p: open_training_data(p / "set.npz", validation_fraction=1.5), "between 0 and 1"),
        (lambda p: ImageSet.from_folder(p, group="(S"), "not a regular expression"),
        (lambda p: ImageSet.from_folder(p, pattern="one*", group="Z"), "finds no subject in 'one'"),
        (lambda p: ImageSet.from_folder(p, pattern="one*", labels=p / "set"), "is not a folder"),
        (lambda p: SpatialAugmentation(rotation=-1), "rotation must be 0 or more"),
        (lambda p: SpatialAugmentation(deformation=3), "Give control_spacing"),
    ],
)
def test_invalid_data_are_refused(tmp_path, call, sentence):
    (tmp_path / "empty").mkdir()
    write_image(tmp_path / "one.tif", blob(5, 5))
    np.savez(tmp_path / "set.npz", image=np.random.default_rng(0).random((4, 8, 8)))
    (tmp_path / "broken.npz").write_bytes(b"PK not really")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "gone.csv").write_text("fixed,moving\nx.tif,y.tif\n")
    with pytest.raises(InputError, match=sentence) as told:
        call(tmp_path)
    assert "\n" not in str(told.value)


def test_augmentations_by_name_suit_any_grid(folder):
    assert augmentation_preset("none", blob(5, 5).grid) is None
    with pytest.raises(InputError, match="Choose one of none, light, strong"):
        augmentation_preset("heavy", blob(5, 5).grid)
    changes = []
    for name in ("none", "light", "strong"):
        chosen = augmentation_preset(name, blob(5, 5).grid)
        data = open_training_data(folder, pairing="template", augmentation=chosen, validation_fraction=0)
        plain = open_training_data(folder, pairing="template", validation_fraction=0)
        independent = [
            (a.fixed - b.fixed).abs().mean() for a, b in zip(everything(data), everything(plain), strict=True)
        ]
        changes.append(float(np.mean(independent)))
    assert changes[0] == 0
    assert changes[0] < changes[1] < changes[2]


def stairs(seed, count=5, size=48):
    """A label map: regions of equal values."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, count, (size // 8, size // 8)), np.ones((8, 8), int)).astype(np.uint16)


class TestLabelFiles:
    @pytest.fixture
    def both(self, tmp_path):
        """Images and label maps in one folder, as data sets are often shared."""
        rng = np.random.default_rng(0)
        for i in range(4):
            sr.write_image(tmp_path / f"s{i}_T1.tif", sr.Image.from_array(rng.random((48, 48), np.float32)))
            sr.write_image(tmp_path / f"s{i}_seg.tif", sr.Image.from_array(stairs(i)))
        return tmp_path

    def test_patterns_distinguish_images_from_labels(self, both):
        data = open_training_data(both, pattern="*_T1.tif", labels_pattern="*_seg.tif")
        assert data.fixed.names == [f"s{i}_T1" for i in range(4)]
        assert data.labels == (1, 2, 3, 4)
        assert np.array_equal(data.fixed.labels(2).data, stairs(2))
        everything_else = open_training_data(both, labels_pattern="*_seg.tif", pattern="*_T1.tif")
        assert len(everything_else.fixed) == 4

    def test_label_maps_are_not_trained_on(self, both):
        with pytest.raises(InputError, match=r"such as 's0_seg.tif'.*'\*_seg.tif' \(--labels-pattern\).*'\*_T1.tif'"):
            open_training_data(both)
        for path in both.glob("*_T1.tif"):
            path.rename(path.with_name(path.name.replace("_T1", "")))
        with pytest.raises(InputError, match="holds label maps beside the images"):
            open_training_data(both)
        assert len(open_training_data(both, labels_pattern="*_seg.tif").fixed) == 4

    def test_two_contrasts_in_a_folder_are_images(self, both):
        for path in both.glob("*_seg.tif"):
            path.unlink()
            image = sr.Image.from_array(np.random.default_rng(1).random((48, 48), np.float32))
            sr.write_image(path.with_name(path.name.replace("seg", "T2")), image)
        assert len(open_training_data(both).fixed) == 8

    def test_images_are_not_labels(self, both):
        with pytest.raises(InputError, match=r"holds fractions, as images do.*--labels-pattern"):
            open_training_data(both, pattern="*_seg.tif", labels_pattern="*_T1.tif")
        rng = np.random.default_rng(1)
        for i in range(4):
            noise = rng.integers(0, 2000, (48, 48)).astype(np.uint16)
            sr.write_image(both / f"s{i}_seg.tif", sr.Image.from_array(noise))
        with pytest.raises(InputError, match=r"holds [\d,]+ values, as images do"):
            open_training_data(both, pattern="*_T1.tif", labels_pattern="*_seg.tif")

    def test_a_missing_label_map_is_named(self, both):
        (both / "s3_seg.tif").unlink()
        with pytest.raises(InputError, match=r"'s3_T1.tif' has no label map that matches '\*_seg.tif'"):
            open_training_data(both, pattern="*_T1.tif", labels_pattern="*_seg.tif")

    def test_pairs_are_of_one_class(self, tmp_path):
        rng = np.random.default_rng(0)
        np.savez(tmp_path / "d.npz", x=rng.random((40, 12, 12), np.float32), y=np.arange(40)[:, None] % 4)
        data = open_training_data(tmp_path / "d.npz", image="x", classes="y")
        for epoch in range(3):
            pairs = [data.pairing.pair(0, epoch, i) for i in range(data.count("train"))]
            assert all(a % 4 == b % 4 and a != b for a, b in pairs)
        assert len({a for a, _ in pairs}) > 10
        assert all(a % 4 == b % 4 for a, b in data.validation_pairs)
        with pytest.raises(InputError, match="no array 'z'"):
            open_training_data(tmp_path / "d.npz", image="x", classes="z")
