"""From counts to numbers with intervals. Knows nothing of pictures and files."""
