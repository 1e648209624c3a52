"""Several runs: grids, searches with Optuna, and the table of their results."""
