"""Parts that the methods share: factors of a Hessian, estimates of its inverse, lengths of steps."""
