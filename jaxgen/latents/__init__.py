"""Latents of trained runs: lines between them, directions through them, and those of real pictures."""
