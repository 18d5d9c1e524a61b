"""Predictions that another program saved, turned into a run. Knows nothing of models."""
