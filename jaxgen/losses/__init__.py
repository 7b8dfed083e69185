"""Losses: pure functions and frozen dataclasses over arrays; they import jax only."""
