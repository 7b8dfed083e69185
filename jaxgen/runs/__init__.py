"""Runs: a config turned into compiled functions, checkpoints, and the directory that tells the run's whole story."""
