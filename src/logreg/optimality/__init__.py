"""Certificates of a fit, separation of the classes, and the penalty that given coefficients minimize."""
