"""The command `predboard`: flags, commands and what the terminal shows. It knows no metric and no file format."""
