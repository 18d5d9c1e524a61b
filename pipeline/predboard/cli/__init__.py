"""The command `predboard`: flags, commands and what the terminal shows. Knows no figure and no file format."""
