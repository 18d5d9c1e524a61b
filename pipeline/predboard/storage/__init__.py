"""Runs on disk and in object storage. Knows nothing of models, metrics or TensorBoard."""
