"""The `shopstream` command: thin, one file per group of commands."""
