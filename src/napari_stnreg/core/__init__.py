"""Foundations that every other package uses: grids, images, units, errors, settings, progress, devices, safe file writing."""
