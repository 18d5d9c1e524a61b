"""Rows of multi-label predictions: the names of the modules are those of `predboard.predictions`."""
