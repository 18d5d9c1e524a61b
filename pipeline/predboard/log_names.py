"""Name files of a run's log folder that several parts of the package use. It knows nothing of their content."""

ROWS_FILE = "rows.parquet"
"""The derived rows of all steps."""

SUSPECTS_FILE = "suspects.csv"
"""The suspected labels of the last step."""

RECORD_FILE = ".predboard.json"
"""Our list of the files that we wrote into a log folder, and what they were made from."""

SUMMARY_FILE = "summary.json"
"""A file that only the logs of a run have."""

LEADERBOARD_RUN = "_all_runs"
"""Name of the run that ranks all others of a log folder. No other may have it."""
