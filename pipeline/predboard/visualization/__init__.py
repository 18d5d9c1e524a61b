"""Stage two: states to TensorBoard event files. Knows nothing of torch."""
