"""Arrays and words become pictures. Nothing here knows a metric or a file."""
