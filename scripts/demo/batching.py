"""From examples to token ids to padded batches of sequences of similar length.

Padding is on the right and causal attention never looks there, so no attention mask is needed.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Many
from pathlib import Path

import torch
from drills import Sequence
from grammar import Example
from transformers import PreTrainedTokenizerFast

IGNORED = -100


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise SystemExit(f"{folder} has no chat template")
    return tokenizer


def prompt_text(tokenizer: PreTrainedTokenizerFast, example: Example) -> str:
    """The prompt as the chat template renders it."""
    text = tokenizer.apply_chat_template(
        [dict(message) for message in example.messages],
        tools=[dict(tool) for tool in example.tools] or None,
        tokenize=False,
        add_generation_prompt=True,
    )
    assert isinstance(text, str)
    return text


def encode(tokenizer: PreTrainedTokenizerFast, example: Example) -> Sequence:
    """Prompt, expected text and stop token; only what follows the prompt is learned."""
    backend = tokenizer.backend_tokenizer
    prompt = backend.encode(prompt_text(tokenizer, example), add_special_tokens=False).ids
    answer = backend.encode(example.expected + example.stop, add_special_tokens=False).ids
    return Sequence(ids=(*prompt, *answer), start=len(prompt))


def collate(sequences: Many[Sequence], pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids [batch, length] and next-token labels of the same shape."""
    length = max(len(sequence.ids) for sequence in sequences) - 1
    inputs = torch.full((len(sequences), length), pad)
    labels = torch.full((len(sequences), length), IGNORED)
    for row, sequence in enumerate(sequences):
        ids = torch.tensor(sequence.ids)
        inputs[row, : len(ids) - 1] = ids[:-1]
        labels[row, sequence.start - 1 : len(ids) - 1] = ids[sequence.start :]
    return inputs, labels


def buckets(
    sequences: Many[Sequence], padding: float = 1.25
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches in which the longest sequence is little longer than the mean of its batch."""
    ordered = sorted(sequences, key=lambda sequence: len(sequence.ids))
    start, total = 0, 0
    for end, sequence in enumerate(ordered):
        length, rows = len(sequence.ids), end - start
        if rows >= 8 and length * (rows + 1) > padding * (total + length):
            yield collate(ordered[start:end])
            start, total = end, 0
        total += length
    yield collate(ordered[start:])
