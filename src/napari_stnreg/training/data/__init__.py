"""Training data: image sets, pairings and batches."""
