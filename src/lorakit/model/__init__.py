"""The user's objects: open, Model, its adapters, conversations."""
