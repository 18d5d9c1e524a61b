"""Finds, decodes and preprocesses images: from what --data names to arrays. It knows nothing of models or of runs."""
