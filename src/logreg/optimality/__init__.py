"""How far a fit is from its optimum, in words; whether a finite optimum exists; which problem coefficients solve."""
