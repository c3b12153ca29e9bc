"""Transform families: from parameters to a transform, the grid generator of a spatial transformer."""
