"""The panel that trains a network: choosing images, the form, the run in the background, curves and pictures."""
