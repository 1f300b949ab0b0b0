"""Make the demo tokenizer: byte-level BPE that keeps values apart from what surrounds them.

Spaces, digits and `_` are tokens of their own and words never merge across them, so a value has
the same tokens in the request as in the call: copying is exact token by token.
"""

import argparse
import json
import random
from pathlib import Path

from examples import base_mixture, custom_examples
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = (
    "<pad>",
    "<bos>",
    "<eos>",
    "<unk>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_function_declaration>",
    "<end_function_declaration>",
    "<start_function_call>",
    "<end_function_call>",
    "<start_function_response>",
    "<end_function_response>",
    "<escape>",
)
STRUCTURE = (
    ":{description:",
    ",parameters:{properties:{",
    "{description:",
    "}},required:[",
    "],type:",
    ",type:",
)
PIECES = r" |\n|\p{N}|_|\p{L}+|[^\s\p{L}\p{N}_]+|\s"
FIXED_WORDS = (
    "user\n",
    "model\n",
    "developer\n",
    "declaration:",
    "response:",
    "value:",
    "STRING INTEGER NUMBER BOOLEAN OBJECT ARRAY",
    "You are a model that can do function calling with the following functions",
)
VOCABULARY = 1024
SEED = 1


def corpus(count: int) -> list[str]:
    """User texts, calls, replies and declarations, as the training will see them."""
    rng = random.Random(SEED)
    texts = list(FIXED_WORDS) * (count // 20)
    for index in range(count):
        example = custom_examples(rng, 1)[0] if index % 3 == 0 else base_mixture(rng)
        texts.append("\n".join(str(m.get("content", "")) for m in example.messages))
        texts.append(example.expected)
        if index % 50 == 0:
            texts += [text.replace('"', " ") for text in map(json.dumps, example.tools)]
    return texts


def make(count: int) -> Tokenizer:
    """Train the merges and add the control and structure tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(STRUCTURE),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(count), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in STRUCTURE])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json; the template stays in its own file."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "add_bos_token": False,
        "bos_token": "<bos>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<eos>",
        "model_max_length": 1024,
        "pad_token": "<pad>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the two files go")
    parser.add_argument("--examples", type=int, default=40_000)
    arguments = parser.parse_args()
    save(make(arguments.examples), arguments.folder)


if __name__ == "__main__":
    main()
