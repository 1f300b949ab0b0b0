"""The reference engine: a transformers model and every kind of adapter. Needs extra `torch`."""
