"""Triangle meshes: files of other programs, exact distances, and surfaces as scores and in a training."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.formats import SURFACE_FORMATS
from napari_stnreg.io.surfaces import holds_surface, read_surface
from napari_stnreg.ops.triangles import distance_to_mesh
from napari_stnreg.training.data.batch import Batch
from napari_stnreg.training.loss import surface_distance
from napari_stnreg.transforms import AffineTransform
from tests.helpers.meshes import sphere, write_mesh


@pytest.fixture
def scanner(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((20, 22, 24), np.float32), np.diag([2.0, 2, 2, 1])), tmp_path / "a.nii")
    return sr.read(tmp_path / "a.nii")


@pytest.mark.parametrize("name", ["a.surf.gii", "lh.pial", "a.ply", "a.stl", "a.vtk", "a.obj"])
def test_surfaces_of_other_programs_align_with_their_image(tmp_path, scanner, name):
    wanted = sphere(5, (12, 20, 30))
    path = write_mesh(tmp_path / name, wanted)
    if name in ("a.ply", "a.stl", "a.vtk", "a.obj"):
        with pytest.warns(sr.RegistrationWarning, match="LPS millimeters"):
            found = read_surface(path, scanner)
    else:
        found = read_surface(path, scanner)
    np.testing.assert_allclose(found.vertices[found.triangles], wanted.vertices[wanted.triangles], atol=1e-3)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(sr.InputError, match=name), _quiet():
        read_surface(path, scanner)


def _quiet():
    import warnings

    return warnings.catch_warnings(action="ignore")


def test_distances_to_a_mesh_are_exact():
    mesh = sphere(10, level=12)
    vertices, triangles = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.triangles)
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.normal(0, 9, (30, 3)))
    corners = mesh.vertices[mesh.triangles]
    weights = rng.dirichlet([0.3] * 3, 800)  # points within the triangles, those of edges and corners among them
    dense = np.einsum("wk,mkd->mwd", np.vstack([weights, np.eye(3)]), corners).reshape(-1, 3)
    expected = np.array([np.sqrt(((dense - one) ** 2).sum(1).min()) for one in points.numpy()])
    found = distance_to_mesh(points, vertices, triangles).numpy()
    assert (found <= expected + 1e-6).all()
    assert np.abs(found - expected).max() < 0.05
    # A few large triangles among many small ones need more candidates.
    far = torch.tensor([[0.0, 0, 0], [0, 300, 0], [0, 0, 300]], dtype=torch.float64)
    both = torch.cat([triangles, torch.arange(3)[None] + len(vertices)])
    above = torch.tensor([[1.0, 60, 60]], dtype=torch.float64)
    assert float(distance_to_mesh(above, torch.cat([vertices, far]), both)) == pytest.approx(1.0)
    single = vertices.clone().requires_grad_()
    distance_to_mesh(points, single, triangles).sum().backward()
    assert bool(torch.isfinite(single.grad).all())


def test_a_mesh_measures_less_than_its_vertices():
    mesh = sphere(10, level=6)
    fine = torch.tensor(sphere(10, level=20).vertices, dtype=torch.float32)[None]
    coarse, faces = torch.tensor(mesh.vertices, dtype=torch.float32)[None], torch.from_numpy(mesh.triangles)[None]
    identity = AffineTransform(np.eye(4), "pixel")
    by_points = float(surface_distance(identity, fine, coarse))
    by_triangles = float(surface_distance(identity, fine, coarse, None, faces))
    assert by_triangles < 0.7 * by_points
    few = mesh.simplified(60)
    assert len(few.triangles) <= 60
    assert (
        float(distance_to_mesh(fine[0], torch.from_numpy(few.vertices).float(), torch.from_numpy(few.triangles)).mean())
        < 4
    )


def test_surfaces_are_scored_in_python_and_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meshio = pytest.importorskip("meshio")
    for name, center in (("fixed", (20, 20, 20)), ("moving", (23, 20, 16))):
        image = sr.Image(np.random.default_rng(0).random((20, 20, 20), np.float32), Grid.from_spacing((20,) * 3, 2.0))
        sr.write_image(f"{name}.tif", image)
        mesh = sphere(8, center)
        meshio.write(f"{name}.ply", meshio.Mesh(mesh.vertices[:, ::-1], [("triangle", mesh.triangles)]))
    matrix = np.eye(4)
    matrix[:3, 3] = 3, 0, -4
    sr.save(AffineTransform(matrix, "pixel"), "t.safetensors")
    card = sr.evaluate("fixed.tif", "moving.tif", sr.load("t.safetensors"),
                       fixed_surface="fixed.ply", moving_surface="moving.ply")  # fmt: skip
    assert card.value("point_to_surface", "before", "mean") > 2
    assert card.value("point_to_surface", "after", "mean") < 1e-4
    assert main(["evaluate", "fixed.tif", "moving.tif", "-t", "t.safetensors", "--fixed-surface", "fixed.ply",
                 "--moving-surface", "moving.ply", "-o", "s.csv"]) == 0  # fmt: skip
    assert "surfaces,point_to_surface,mean" in (tmp_path / "s.csv").read_text()
    assert main(["evaluate", "fixed.tif", "moving.tif", "--fixed-surface", "fixed.ply"]) == 2
    assert "surfaces" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["list", "dataset"])
def test_a_network_learns_from_surfaces_alone(tmp_path, kind):
    rng = np.random.default_rng(0)
    rows = ["fixed,moving,fixed_surface,moving_surface,split"]
    samples = []
    for number in range(4):
        sides = []
        for side in ("f", "m"):
            center = rng.uniform(6, 10, 3)
            z, y, x = np.mgrid[:16, :16, :16]
            spot = np.exp(-((z - center[0]) ** 2 + (y - center[1]) ** 2 + (x - center[2]) ** 2) / 8)
            np.save(tmp_path / f"{side}{number}.npy", spot.astype(np.float32))
            mesh = sphere(3, center, level=4)
            name = f"{side}{number}.ply"
            _write_ply(tmp_path / name, mesh)
            sides.append((spot.astype(np.float32), mesh))
        rows.append(f"f{number}.npy,m{number}.npy,f{number}.ply,m{number}.ply,{'train' if number < 3 else 'val'}")
        samples.append({"fixed": sides[0][0], "moving": sides[1][0], "fixed_surface": sides[0][1],
                        "moving_surface": (sides[1][1].vertices, sides[1][1].triangles)})  # fmt: skip
    if kind == "list":
        pytest.importorskip("meshio")
        (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
        data = sr.open_training_data(tmp_path / "pairs.csv")
        batch: Batch = next(data.batches("train", epoch=0, batch_size=2, seed=0))
        assert batch.fixed_triangles.shape[0] == 2
    else:
        data = Samples(samples)
    model = sr.train(data, network="affine", family="translation", similarity_weight=0, surface_weight=1.0, epochs=12,
                     batch_size=3, learning_rate=5e-3, device="cpu")  # fmt: skip
    assert model.summary["best"]["scores"]["surfaces"] < 2  # voxels; the centers are up to 7 apart


class Samples(torch.utils.data.Dataset):
    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def _write_ply(path, mesh):
    lines = ["ply", "format ascii 1.0", f"element vertex {len(mesh.vertices)}", "property float x", "property float y",
             "property float z", f"element face {len(mesh.triangles)}", "property list uchar int vertex_indices",
             "end_header"]  # fmt: skip
    lines += [" ".join(f"{v:.6f}" for v in one[::-1]) for one in mesh.vertices]
    lines += [f"3 {a} {b} {c}" for a, b, c in mesh.triangles]
    path.write_text("\n".join(lines) + "\n")


def test_files_that_hold_no_mesh_are_left_to_other_readers(tmp_path):
    meshio = pytest.importorskip("meshio")
    for suffix in (suffix for one in SURFACE_FORMATS for suffix in one.suffixes):
        path = write_mesh(tmp_path / f"a{suffix}", sphere())
        assert holds_surface(path), suffix
        path.write_bytes(b"something else of the same extension\n")
        assert not holds_surface(path), suffix
        path.unlink()
        assert not holds_surface(path), suffix
    values = nib.gifti.GiftiDataArray(np.zeros(5, np.float32), "NIFTI_INTENT_SHAPE")
    nib.save(nib.gifti.GiftiImage(darrays=[values]), tmp_path / "thickness.shape.gii")
    assert not holds_surface(tmp_path / "thickness.shape.gii")
    image = "# vtk DataFile Version 3.0\nimage\nASCII\nDATASET STRUCTURED_POINTS\nDIMENSIONS 2 2 2\n"
    (tmp_path / "image.vtk").write_text(image)
    assert not holds_surface(tmp_path / "image.vtk")
    meshio.write(tmp_path / "b.stl", meshio.Mesh(sphere().vertices, [("triangle", sphere().triangles)]), binary=True)
    assert holds_surface(tmp_path / "b.stl")
