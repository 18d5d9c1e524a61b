"""Turns parts into one state for each panel and step. It knows nothing of drawing."""
