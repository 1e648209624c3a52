"""Estimators with scikit-learn's interface, for notebooks and pipelines."""
