"""Panels of multi-label runs: the interface and the order are those of `predboard.panels`."""
