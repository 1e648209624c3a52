"""The methods, one a file: each requests passes and takes steps until a bound on the gap is small enough."""
