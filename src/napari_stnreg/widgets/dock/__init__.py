"""Docking of the panels, their help, and their shared key."""
