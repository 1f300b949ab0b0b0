"""What the tests of images share: a prompt with an image in it, and its logits."""

import numpy as np

from lorakit.engines.protocol import Row

BEFORE, AFTER = [1, 20, 30, 40, 50, 60], [70, 80, 90]


def prompt(image):
    return [*BEFORE, *image.ids, *AFTER]


def last_logits(engine, image, adapters=(), logits="last"):
    sequence = engine.open_sequence()
    tokens = np.array(prompt(image), np.int64)
    row = Row(
        sequence=sequence, tokens=tokens, adapters=adapters, logits=logits, images=image.images
    )
    result = engine.forward([row])[0].copy()
    engine.close_sequence(sequence)
    return result
