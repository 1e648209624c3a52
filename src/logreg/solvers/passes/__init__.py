"""Passes over the rows: what each accumulates, and the driver that makes them."""
