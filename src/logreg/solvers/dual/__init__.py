"""The dual problem: few rows of many features, solved in the span of the rows (kernel logistic regression)."""
