"""Metrics of images with several labels: mergeable states, and what follows from them. It knows no drawing."""
