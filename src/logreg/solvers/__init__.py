"""Exact (batch) solvers, and certificates in float64: they request passes over the rows and hold none."""
