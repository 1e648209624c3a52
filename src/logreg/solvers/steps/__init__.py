"""Parts of the methods: factors of a Hessian, estimates of its inverse, lengths of steps."""
