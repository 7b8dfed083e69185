"""Measures of generated images: pure functions and streaming states over features and pixels."""
