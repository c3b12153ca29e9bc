"""Registration of a pair, coarse to fine, as a generator of progress."""
