"""From values as they were read to numbers: columns of a table to features, classes to labels."""
