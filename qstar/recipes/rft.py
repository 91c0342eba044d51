"""RFT: rejection-sampling fine-tuning (Yuan et al. 2023).

The base, fine-tuned on human rationales, writes a hundred rationales a question, once. The base is trained on every
different right one, and on the human ones.

Differs from the paper: rationales are different where their texts are; the paper compares their lists of equations.
"""

from dataclasses import dataclass

from qstar.recipes.recipe import Hint, Recipe, Start
from qstar.settings import Count, NonNegative


@dataclass(frozen=True)
class RFT(Recipe):
    """Rejection-sampling fine-tuning: different right samples of a fine-tuned model, beside human rationales."""

    human: bool = True
    samples: Count = 100
    sample_from: Start = "sft"
    sft_steps: Count = 500
    temperature: NonNegative = 0.7
    few_shot: bool = False
    hint: Hint = "never"
    unique: bool = True
