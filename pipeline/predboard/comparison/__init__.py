"""Two runs side by side: which images changed, and how sure a difference is. Knows nothing of models."""
