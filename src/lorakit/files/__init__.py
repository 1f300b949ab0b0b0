"""Bytes on disk: opened without trust, written whole, kept where they can be made again."""
