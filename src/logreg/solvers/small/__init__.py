"""Newton's method, without passes, for problems so small that the bookkeeping of passes would take the time."""
