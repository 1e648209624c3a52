"""Upper bounds on objective - minimum at a point, rounding errors included: what a certificate is made of."""
