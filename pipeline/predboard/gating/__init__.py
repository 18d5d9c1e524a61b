"""Rules on metrics, and whether a run passes them. Knows nothing of pictures."""
