"""What an export can be for: a file each, and the table of them."""
