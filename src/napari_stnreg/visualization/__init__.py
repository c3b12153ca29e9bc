"""Deformations and comparisons as plain arrays: grids, arrows, Jacobians, overlays, checkerboards."""
