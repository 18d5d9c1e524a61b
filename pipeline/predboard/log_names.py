"""Name files of a run's log folder that several parts of the package use. It knows nothing of their content."""

ROWS_FILE = "rows.parquet"
"""The derived rows of all steps."""

SUSPECTS_FILE = "suspects.csv"
"""The suspected labels of the last step."""
