"""Scores of held-out rows: metrics and their intervals, calibration, comparison of models, choice along a path."""
