"""Rules on metrics, and whether a run passes them. It knows nothing of pictures."""
