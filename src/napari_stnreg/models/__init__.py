"""Trained models for inference: the model, its file, its input specification and the bundled models."""
