"""Passes over the rows: one class for each set of accumulators, and the driver of all passes."""
