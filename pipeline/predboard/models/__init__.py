"""From a name to a PyTorch module with its weights. Knows nothing of images on disk."""
