"""From parts to one state for each panel and step. Knows nothing of drawing."""
