"""PEFT adapter folders: adapter_config.json and adapter_model.safetensors."""

from lorakit.formats.peft.express import cannot_express
from lorakit.formats.peft.pickled import PICKLE
from lorakit.formats.peft.read import WEIGHTS, read_peft
from lorakit.formats.peft.write import patterns_note, write_peft

__all__ = ["PICKLE", "WEIGHTS", "cannot_express", "patterns_note", "read_peft", "write_peft"]
