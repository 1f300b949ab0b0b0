"""lorakit: LoRA adapters for language models, where the user is."""

__version__ = "0.1.0"
