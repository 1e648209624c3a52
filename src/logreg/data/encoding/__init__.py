"""Encodes values as numbers: columns of a table as features, classes as labels."""
