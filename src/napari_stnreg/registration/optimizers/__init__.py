"""Optimizers of a registration stage: gradient descent on parameters, and composed updates of a dense field."""
