"""feabas (YuelongWu/feabas): blocks matched by FFT with a mesh between them, then spring-linked meshes of the stack.

Matching by ``section_matcher`` and solving as ``Stack.optimize_section_list`` does it, with the settings of its default
configuration for thumbnails, which are sections of some hundred pixels as these are: blocks of 150, then 50 pixels,
meshes of 100 pixels, confidence at least 0.35, residues damped by Huber at three section thicknesses. Its settings
for large sections (blocks of 400 and 100) find no block that fits into sections of this size; meshes of 50 pixels are
worse (3.4 for 2.7 pixels, eight sections). Each section is matched with the three after it. The coarse pass by key
points is left out: these sections lie within 20 pixels of each other.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

CONFIG = "working_directory: .\ncpu_budget: 1\nlogfile_level: NONE\nconsole_level: ERROR\nparallel_framework: process\n"
_folder = tempfile.TemporaryDirectory(prefix="feabas-")
(Path(_folder.name) / "configs").mkdir()
(Path(_folder.name) / "configs" / "general_configs.yaml").write_text(CONFIG)
_before = Path.cwd()
os.chdir(_folder.name)  # it looks for its configuration where it is imported
try:
    from feabas import constant, matcher, mesh, optimizer
    from feabas.dal import StreamLoader
finally:
    os.chdir(_before)

NEIGHBORS = 3
NANOMETERS, THICKNESS = 10.0, 80.0
MATCHING = {
    "sigma": 3.5, "conf_thresh": 0.35, "pad": True, "spacings": [150, 50], "shrink_factor": 1, "residue_mode": "huber",
    "residue_len": 3 * THICKNESS / NANOMETERS, "min_boundary_distance": 20, "distributor": "intersect_triangulation",
    "batch_size": 100, "num_workers": 1,
}  # fmt: skip
MESH = 100


def warm_up(raw):
    """Nothing is compiled."""


def align(raw, missing):
    from benchmark.stack_peers import bridged

    present = [z for z in range(len(raw)) if z not in missing]
    loaders = [StreamLoader(raw[z], fillval=0, resolution=NANOMETERS) for z in present]
    height, width = raw.shape[1:]
    meshes = [
        mesh.Mesh.from_bbox((0, 0, width, height), mesh_size=MESH, uid=k, resolution=NANOMETERS, name=f"section {z}")
        for k, z in enumerate(present)
    ]
    stack = optimizer.SLM(meshes)
    for a in range(len(present)):
        for b in range(a + 1, min(a + 1 + NEIGHBORS, len(present))):
            one, other, weight, _ = matcher.section_matcher(
                meshes[a].copy(), meshes[b].copy(), loaders[a], loaders[b], **MATCHING
            )
            if one is not None:
                stack.add_link_from_coordinates(
                    meshes[a].uid, meshes[b].uid, one, other, weight=weight, name=f"{a} {b}", check_duplicates=False
                )
    stack.flag_outcasts()
    moving = constant.MESH_GEAR_MOVING
    stack.optimize_affine_cascade(target_gear=moving)
    stack.anneal(gear=(moving, constant.MESH_GEAR_FIXED), mode=constant.ANNEAL_CONNECTED_RIGID)
    elastic = {"tol": 1e-7, "atol": 0.001, "callback_settings": {"early_stop_thresh": 1.0, "eval_step": 10}}
    stack.optimize_elastic(target_gear=moving, **elastic)
    stack.set_link_residue_huber(3 * THICKNESS / NANOMETERS)
    changed, _ = stack.adjust_link_weight_by_residue(gear=(moving, moving), relax_first=True)
    if changed:
        stack.optimize_elastic(target_gear=moving, **elastic)
    return bridged({z: _map(meshes[k]) for k, z in enumerate(present)}, len(raw))


def _map(section):
    """A map of points (y, x): from the solved mesh back to where it lay; beyond it, the nearest triangle's."""

    def pulled_back(points):
        points = np.asarray(points, dtype=float)
        there = points.reshape(-1, 2)[:, ::-1]
        triangles = section.tri_finder(there, gear=constant.MESH_GEAR_MOVING, extrapolate=True)
        triangles, weights = section.cart2bary(there, gear=constant.MESH_GEAR_MOVING, tid=triangles)
        back = section.bary2cart(triangles, weights, constant.MESH_GEAR_INITIAL)
        return back[:, ::-1].reshape(points.shape)

    return pulled_back
