"""Registration from landmarks: fits with leave-one-out errors, an editable list of pairs, and live warping."""
