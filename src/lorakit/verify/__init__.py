"""Whether two things give the same logits, with numbers.

parity.py compares, verdict.py tells rounding from an error, forms.py what a form of the weights
may cost, answers.py asks for greedy answers, prompts.py chooses what to compare on, sides.py makes
the things compared: an open model with adapters, PEFT itself, recorded logits.
opening.py reads what `lorakit verify` is told of its two sides, and other.py compares them. These
and answers.py are loaded when they are first asked for, as they open and run models.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lorakit.verify.forms import FORMS as FORMS
from lorakit.verify.forms import CostLimits as CostLimits
from lorakit.verify.forms import Form as Form
from lorakit.verify.parity import TOLERANCE as TOLERANCE
from lorakit.verify.parity import LogitsOf as LogitsOf
from lorakit.verify.parity import ParityReport as ParityReport
from lorakit.verify.parity import PromptParity as PromptParity
from lorakit.verify.parity import Rounding as Rounding
from lorakit.verify.parity import verify as verify
from lorakit.verify.prompts import PromptChoice as PromptChoice
from lorakit.verify.prompts import prompts_for as prompts_for
from lorakit.verify.sides import adapted as adapted
from lorakit.verify.sides import built_in as built_in
from lorakit.verify.sides import merged_weights as merged_weights
from lorakit.verify.sides import peft_logits as peft_logits
from lorakit.verify.sides import recorded as recorded
from lorakit.verify.sides import scale_steps as scale_steps
from lorakit.verify.sides import verify_conversion as verify_conversion

if TYPE_CHECKING:
    from lorakit.verify.answers import Again as Again
    from lorakit.verify.answers import AnswerReport as AnswerReport
    from lorakit.verify.answers import compare_answers as compare_answers
    from lorakit.verify.opening import Opening as Opening
    from lorakit.verify.other import verify_against as verify_against
else:
    _LATE = {
        "Again": "answers",
        "AnswerReport": "answers",
        "compare_answers": "answers",
        "Opening": "opening",
        "verify_against": "other",
    }

    def __getattr__(name: str) -> object:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"lorakit.verify.{_LATE[name]}"), name)
