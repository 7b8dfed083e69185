"""Evaluation: what is measured and drawn of a run, image by image or set against set."""
