"""Training networks, what a trained model is, and its file."""
