"""Warp images and geometry (points, shapes, tracks, vectors, surfaces) through a transform."""
