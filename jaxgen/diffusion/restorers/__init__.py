"""Restorers: a finished model of pictures undoes what a task did to one, without having learned to."""
