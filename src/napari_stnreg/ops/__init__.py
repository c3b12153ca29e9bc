"""Array operations on torch tensors: sampling, filters, B-spline bases and Jacobians."""
