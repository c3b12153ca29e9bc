"""Foundations of every other package: grids, images, units, errors, settings, progress, devices, atomic writing."""
