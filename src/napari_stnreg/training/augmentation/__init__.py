"""Random spatial and intensity augmentation with known transforms."""
