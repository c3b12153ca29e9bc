"""The loop: from two images and settings to a transform, coarse to fine, as a generator of progress."""
