"""What shells complete: a table of all commands, read off their parsers, and a script for each."""
