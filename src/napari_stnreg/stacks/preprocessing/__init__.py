"""Prepare sections for matching: features, artifact masks and an optional encoder."""
