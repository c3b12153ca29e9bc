"""SOFIMA (google-research/sofima): flow by cross-correlation, cleaned, then a spring mesh relaxed for each section.

The steps and all settings are those of its notebook for the alignment of EM sections: patches of 160 pixels at a stride
of 40, at full and half resolution, the coarser flow filling what is uncertain in the finer; peak ratio and sharpness at
least 1.6; the mesh of each section relaxed against the one before. The least number of connected vectors, 400 of
125 x 125 in the notebook, is scaled with the sections. Patches that are mostly empty are left out, as in the default
configuration of its pipeline; masking the correlation itself, too, takes twice the time and changes the errors by less
than 0.03 pixels. Missing sections are skipped, the flow then being that to the last one before.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from connectomics.common import bounding_box
from scipy.interpolate import RegularGridInterpolator
from sofima import flow_field, flow_utils, map_utils, mesh

PATCH, STRIDE = 160, 40
CLEAN = {"min_peak_ratio": 1.6, "min_peak_sharpness": 1.6, "max_magnitude": 80, "max_deviation": 20}
LEAST_SHARE = 400 / 125**2
SPRINGS = mesh.IntegrationConfig(
    dt=0.001, gamma=0.0, k0=0.01, k=0.1, stride=STRIDE, num_iters=1000, max_iters=100000, stop_v_max=0.005,
    dt_max=1000, start_cap=0.01, final_cap=10, prefer_orig_order=True,
)  # fmt: skip


def warm_up(raw):
    """Compile for this shape."""
    align(raw[:2], frozenset())


def align(raw, missing):
    from benchmark.stack_peers import bridged

    present = [z for z in range(len(raw)) if z not in missing]
    fine = [raw[z].astype(np.float32) for z in present]
    height, width = (n // 2 * 2 for n in raw.shape[1:])
    coarse = [s[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3)) for s in fine]
    flows, flows2 = _flows(fine), _flows(coarse)
    one, two = (flow_utils.clean_flow(f, **CLEAN) for f in (flows, flows2))
    box, half = (bounding_box.BoundingBox(start=(0, 0, 0), size=(f.shape[-1], f.shape[-2], 1)) for f in (one, two))
    filled = np.zeros_like(one)
    for z in range(two.shape[1]):
        filled[:, z : z + 1] = map_utils.resample_map(two[:, z : z + 1], half, box, 2, 1) * 2
    least = round(LEAST_SHARE * one.shape[-1] * one.shape[-2])
    flow = flow_utils.reconcile_flows((one, filled), max_gradient=0, max_deviation=20, min_patch_size=least)
    origin = np.zeros(2)
    solved = [np.zeros_like(flow[:, :1])]
    for z in range(flow.shape[1]):
        before = map_utils.compose_maps_fast(flow[:, z : z + 1], origin, STRIDE, solved[-1], origin, STRIDE)
        found, _, _ = mesh.relax_mesh(np.zeros_like(solved[0]), before, SPRINGS)
        solved.append(np.array(found))
    joined = np.concatenate(solved, axis=1)
    box = bounding_box.BoundingBox(start=(0, 0, 0), size=(joined.shape[-1], joined.shape[-2], joined.shape[1]))
    back = map_utils.fill_missing(map_utils.invert_map(joined, box, box, STRIDE), extrapolate=True)
    return bridged({z: _map(back[:, k]) for k, z in enumerate(present)}, len(raw))


def _flows(sections):
    """Flow of each section to the one before, ``(4, z, y, x)`` at all nodes; NaN where nothing was found."""
    found, calculator = [], flow_field.JAXMaskedXCorrWithStatsCalculator()
    for before, here in pairwise(sections):
        found.append(
            calculator.flow_field(
                before, here, PATCH, STRIDE, pre_mask=before == 0, post_mask=here == 0,
                mask_only_for_patch_selection=True, batch_size=256,
            )
        )  # fmt: skip
    pad = PATCH // 2 // STRIDE
    return np.pad(np.stack(found, axis=1), ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=np.nan)


def _map(relative):
    """A map of points (y, x) from one in SOFIMA's form: offsets (x, y) at the nodes; linear between and beyond."""
    nodes = tuple(np.arange(n) * STRIDE for n in relative.shape[1:])
    absolute = np.stack([relative[1] + nodes[0][:, None], relative[0] + nodes[1]], axis=-1)
    read = RegularGridInterpolator(nodes, absolute, bounds_error=False, fill_value=None)
    return lambda points: read(np.asarray(points, dtype=float))
