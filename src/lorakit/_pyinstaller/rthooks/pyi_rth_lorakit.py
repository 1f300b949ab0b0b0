"""Runs before the program itself: in a child process, what the child is for, and no more."""

from lorakit.children import freeze_support

freeze_support()
