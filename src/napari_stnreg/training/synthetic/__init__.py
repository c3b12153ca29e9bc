"""Synthetic training pairs: shapes and heads of random contrast."""
