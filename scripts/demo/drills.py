"""Copy drills: recall a segment of tokens by its key, among others.

They teach the attention heads to copy before the grammar can be learned by heart. Segments are
random tokens, or words and digits as the grammar has them.
"""

import random
from dataclasses import dataclass

import words
from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """Token ids and from where on they are to be predicted."""

    ids: tuple[int, ...]
    start: int


@dataclass(slots=True)
class Drills:
    """Makes drills for one tokenizer; keeps a pool of tokenised words."""

    tokenizer: Tokenizer
    first_plain: int
    rng: random.Random
    pool: list[list[int]]

    @classmethod
    def create(cls, tokenizer: Tokenizer, first_plain: int, seed: int) -> "Drills":
        rng = random.Random(seed)
        texts = [words.word(rng, words.TRAIN) for _ in range(4000)]
        texts += [text.title() for text in texts[:1500]]
        texts += [str(rng.randint(0, 9999)) for _ in range(2500)]
        texts += [f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}" for _ in range(800)]
        pool = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        return cls(tokenizer, first_plain, rng, pool)

    def segment(self) -> list[int]:
        """Two to nine random tokens, or one to four words with spaces between them."""
        if self.rng.random() < 0.4:
            size = self.tokenizer.get_vocab_size()
            return [
                self.rng.randrange(self.first_plain, size) for _ in range(self.rng.randint(2, 9))
            ]
        space = self.tokenizer.token_to_id("Ġ")
        ids: list[int] = []
        for index in range(self.rng.choice([1, 1, 2, 2, 3, 4])):
            ids += [space] if index else []
            ids += self.rng.choice(self.pool)
        return ids

    def drill(self) -> Sequence:
        """`key:segment;` a few times, then one of the keys again, whose segment must follow."""
        vocabulary = self.tokenizer.token_to_id
        colon, comma = vocabulary(":"), vocabulary(",")
        keys = self.rng.sample(self.pool, self.rng.randint(1, 4))
        pairs = [(key, self.segment()) for key in keys]
        ids = [vocabulary("<bos>"), vocabulary("<start_of_turn>")]
        for key, segment in pairs:
            ids += [*key, colon, *segment, comma]
        key, segment = self.rng.choice(pairs)
        ids += [vocabulary("<end_of_turn>"), *key, colon, vocabulary("<escape>")]
        return Sequence(
            ids=(*ids, *segment, vocabulary("<escape>"), vocabulary("<end_of_turn>")),
            start=len(ids),
        )
