"""Solve for the position of every section from the pairwise matches."""
