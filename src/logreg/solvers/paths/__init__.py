"""Fits of several strengths: regularization paths, over all rows and without each fold."""
