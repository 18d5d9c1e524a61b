"""From arrays to pictures. Knows nothing of metrics."""
