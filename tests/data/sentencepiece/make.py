"""Trains tokenizer.model on this repository's pages, and records what SentencePiece makes of texts.

python tests/data/sentencepiece/make.py      (pip install sentencepiece; made with 0.2.3)
"""

import json
from pathlib import Path

import sentencepiece

from lorakit.merge.gguf.corpus import RUNS, SPACES, TEXTS

HERE = Path(__file__).parent
PAGES = HERE.parents[2] / "docs"
NAMES = ("concepts.md", "engines.md", "merge.md", "safety.md")


def main() -> None:
    lines = [line for name in NAMES for line in (PAGES / name).read_text("utf-8").splitlines()]
    lines += [text for text in TEXTS for _ in range(20)] + ["    x", "  y", "        z"] * 20
    with (HERE / "tokenizer.model").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=700,
            byte_fallback=True,
            character_coverage=0.995,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            user_defined_symbols=["<mask>"],
            num_threads=1,
            minloglevel=2,
        )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(HERE / "tokenizer.model"))
    texts = [*TEXTS, *(f"a{space * length}b" for space in SPACES for length in RUNS)]
    found = {
        "pieces": [processor.id_to_piece(i) for i in range(processor.vocab_size())],
        "scores": [processor.get_score(i) for i in range(processor.vocab_size())],
        "ids": [processor.encode(text) for text in texts],
    }
    (HERE / "recorded.json").write_text(json.dumps(found) + "\n", "utf-8")


if __name__ == "__main__":
    main()
