"""Few rows of many features: the problem solved in the span of its rows."""
