"""Turns the name of a model into a PyTorch module with its weights. It knows nothing of images on disk."""
