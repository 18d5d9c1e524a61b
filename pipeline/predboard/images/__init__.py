"""From data to pictures: manifests, sources, decoding, preprocessing. Knows nothing of runs."""
