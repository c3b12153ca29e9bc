"""Choose a trained model: those of the session, those bundled and those from a file."""
