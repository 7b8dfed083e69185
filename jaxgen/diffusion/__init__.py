"""Diffusion as a small algebra of pure maths: process, prediction, weight, times, solver, guide. No Flax here.

Time t runs from 0 (data) to 1 (noise); x_t = alpha(t) x_0 + sigma(t) eps. Solvers and guides know only a denoiser
D(x_t, t) -> x_0, so every prediction, guide and solver can be combined.
"""
