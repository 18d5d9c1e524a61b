"""Runs work on threads, processes or a Ray cluster. It knows nothing of what the work is."""
