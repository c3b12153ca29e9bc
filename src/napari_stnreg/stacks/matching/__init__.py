"""Match pairs of sections: pair selection, coarse pose search and fine spline fit."""
