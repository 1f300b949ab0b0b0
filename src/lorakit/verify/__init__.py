"""Whether two things give the same logits, with numbers.

parity.py compares, prompts.py chooses what to compare on, sides.py makes the things compared: an
open model with adapters, PEFT itself, or recorded logits.
"""

from lorakit.verify.parity import TOLERANCE as TOLERANCE
from lorakit.verify.parity import LogitsOf as LogitsOf
from lorakit.verify.parity import ParityReport as ParityReport
from lorakit.verify.parity import PromptParity as PromptParity
from lorakit.verify.parity import verify as verify
from lorakit.verify.prompts import prompts_for as prompts_for
from lorakit.verify.sides import adapted as adapted
from lorakit.verify.sides import built_in as built_in
from lorakit.verify.sides import peft_logits as peft_logits
from lorakit.verify.sides import recorded as recorded
from lorakit.verify.sides import verify_conversion as verify_conversion
