"""V-STaR (Hosseini et al. 2024): wrong samples are worth something too, to a verifier.

The generator: 16 samples a question, the first ones by a model fine-tuned on human rationales; the base is trained on
the right ones of all iterations and on the human ones. All samples, right and wrong, go to the verifier with
their labels (verifier.jsonl), and as preferences, each right one of a question, human ones included, against each
wrong one (pairs.jsonl); DPO from the first generator, `method=dpo model.source=RUN/iteration_0`, trains the verifier.
"""

from dataclasses import dataclass

from qstar.recipes.recipe import Growth, Hint, Memory, Recipe, Start
from qstar.settings import Count, NonNegative


@dataclass(frozen=True)
class VSTaR(Recipe):
    """V-STaR, the generator: right samples of all iterations beside human rationales; its verifier gets all samples."""

    human: bool = True
    iterations: Count = 3
    samples: Count = 16
    sample_from: Start = "sft"
    sft_steps: Count = 500
    temperature: NonNegative = 0.7
    few_shot: bool = False
    hint: Hint = "never"
    memory: Memory = "all"
    unique: bool = True
    growth: Growth = 1.0
    verifier: bool = True
