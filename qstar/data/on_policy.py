"""Settings of rollouts: which questions the model answers, how often, and the rewards of its answers."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from qstar import settings
from qstar.data.dataset import Data
from qstar.data.overlong import OVERLONG
from qstar.settings import Count, OneOf, Range, Whole
from qstar.structs import Credited
from qstar.tasks.grading.sandbox import SandboxConfig
from qstar.tasks.rewards import Rewards

DEAD = ("keep", "drop", "refill")


@dataclass(frozen=True)
class RolloutData(Data):
    """Answers of the model that trains to the questions of `task`, sampled at temperature 1."""

    rows: ClassVar[tuple[type, ...]] = (Credited,)
    holds: ClassVar[str] = "the model's own answers to the questions of a task"
    beside: ClassVar[str] = "~experiments task=cups"

    length: Annotated[int, Range(2)] = 256  # most tokens of a prompt and what is generated after it
    samples: Count = 8  # answers to each question; a step has batch_size / samples questions
    max_new_tokens: Whole = 0  # limit of an answer; 0: enough for the task's longest right completion
    few_shot: bool = False  # few-shot examples before a question
    # questions that do not fit into `length` with their answers: error, or skip (left out and counted)
    overlong: Annotated[str, OneOf(OVERLONG)] = "error"
    # Questions whose samples all have the same reward, DAPO's punishment of long texts not counted: trained on with the
    # others, left out (drop), or replaced by other questions, and left out if none is found (refill).
    dead: Annotated[str, OneOf(DEAD)] = "keep"
    refills: Count = 4  # times in a step that such questions are replaced
    sample_batch: Count = 64  # prompts continued in one batch
    rewards: Rewards = field(default_factory=Rewards)  # rewards of an answer
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)  # isolation of the grading processes

    def __post_init__(self):
        settings.check(self, "data")
