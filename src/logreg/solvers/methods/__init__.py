"""The methods, one a file: each takes steps until a bound on the gap is small enough, or another method is faster."""
