"""Judge an alignment with and without ground truth."""
