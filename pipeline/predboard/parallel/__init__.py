"""Where work runs: threads, processes, a Ray cluster. Knows nothing of what the work is."""
