"""Statistical inference: standard errors, intervals and tests of the coefficients of an unpenalized fit."""
