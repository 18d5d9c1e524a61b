"""The contract between the two stages: columns, footer, derived quantities. Knows no file and no metric."""
