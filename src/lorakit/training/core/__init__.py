"""One training step on a transformers model: exact gradients of the adapter, fast. Needs torch.

`spec` says what is trained and imports no torch; `model` is the way in.
"""
