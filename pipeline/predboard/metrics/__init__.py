"""Turns counts into numbers with intervals. It knows nothing of pictures and files."""
