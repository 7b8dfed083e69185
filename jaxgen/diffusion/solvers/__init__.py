"""Solvers of the reverse process, each a table of coefficients that one scan follows."""
