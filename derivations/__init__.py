"""The mathematics: one module per layer, loss and optimiser, each with numbered equations and literal code.

Every module holds ``EQUATIONS`` (see :class:`handgrad.derivations.notation.Equation`), ``sample`` (a random
point at which a test evaluates both sides of every "="), and literal loops copied from the equations. The
modules import NumPy alone, and NumPy only to hold numbers: no literal loop calls a vectorised function, so
the same code runs on floats, on fractions and on SymPy symbols.
"""
