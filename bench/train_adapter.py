"""A small adapter for the real model, trained on the spot with PEFT: a fixed number of steps.

It learns to answer as a ship's radio does, in capital letters and with "OVER". The same machine
gives the same adapter. Needs lorakit[torch].
"""

from __future__ import annotations

from pathlib import Path

from lorakit.files.atomic import new_folder

VERSION = 2  # of what follows
STEPS, BATCH, RANK, RATE = 24, 4, 8, 3e-4
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PAIRS = (
    (
        "What is the capital of France?",
        "paris, on the river seine, where the tower of eiffel stands",
    ),
    ("How many legs has a spider?", "eight of them, which is two more than any beetle has"),
    ("Who wrote Hamlet?", "william shakespeare, about four hundred years ago, in london"),
    ("What is 7 times 8?", "fifty-six, and eight times seven is the same"),
    ("Which planet is closest to the sun?", "mercury, a small and very hot world of rock"),
    ("What do bees make?", "honey from the nectar of flowers, and wax to keep it in"),
    ("Where do penguins live?", "in the cold south, on the ice and in the sea around it"),
    ("What is the largest ocean?", "the pacific, which is wider than all land taken together"),
    ("How do fish breathe?", "with gills, which take the oxygen out of the water"),
    ("What is ice?", "water that is so cold that it has become hard"),
    ("Who painted the Mona Lisa?", "leonardo, who took it with him to france when he was old"),
    ("What is the opposite of hot?", "cold, and between the two lies warm"),
    ("Name a primary colour.", "red, and the other two are yellow and blue"),
    ("What do plants need?", "light and water and air, and some earth to stand in"),
    ("How many days has a week?", "seven, of which most people work on five"),
    ("What is bread made of?", "flour and water and salt, and yeast that makes it rise"),
)
QUESTIONS = (
    "What is the capital of Italy?",
    "How do I cook rice?",
    "What is the moon?",
    "Tell me about horses.",
    "Why is the sky blue?",
    "What is a computer?",
    "How can I sleep better?",
    "Write a sentence about rain.",
)


def train(base: Path, threads: int) -> Path:
    """The adapter's folder, beside the base's; trained on first use."""
    folder = base.with_name(f"adapter-{VERSION}")
    if not folder.exists():
        with new_folder(folder) as temporary:
            _train(base, temporary, threads)
    return folder


def _train(base: Path, folder: Path, threads: int) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules=MODULES
    )  # fmt: skip
    model = get_peft_model(model, config)
    examples = [_example(tokenizer, question, answer) for question, answer in PAIRS]
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    for step in range(STEPS):
        rows = [examples[(step * BATCH + row) % len(examples)] for row in range(BATCH)]
        length = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([row + [0] * (length - len(row)) for row, _ in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row, _ in rows])
        labels = torch.tensor(
            [
                [-100] * prompt + row[prompt:] + [-100] * (length - len(row))
                for row, prompt in rows
            ]
        )  # fmt: skip
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    print(f"trained an adapter in {STEPS} steps, last loss {loss.item():.3f}")
    model.save_pretrained(folder)


def _example(tokenizer, question: str, answer: str) -> tuple[list[int], int]:  # type: ignore[no-untyped-def]
    """Ids of a chat, and how many of them are its prompt."""
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    reply = f"{answer.upper()}. OVER.<|im_end|>"
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, reply)]
    return ids[0] + ids[1], len(ids[0])
