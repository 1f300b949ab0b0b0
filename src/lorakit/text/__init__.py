"""Text to token ids and back; the ids that stand for the positions of an image."""
