"""Solutions with labels as rows of training text: what reward models are trained on.

A file (`data/record_files.py`) holds records of one of two kinds, in the names that TRL gives them:

    {"prompt": ..., "completion": ..., "label": 1}                       an outcome: every token of it is judged
    {"prompt": ..., "completions": [STEP, ...], "labels": [true, 0.25]}  steps: the last token of each is judged

Prompt and completion may be conversations (`data/trl.py`). The formats of Math-Shepherd, PRM800K and OmegaPRM are read
as well (`data/step_formats.py`).

`completion_ids` are the tokens of a solution that a model wrote: they are judged as they are, and the steps are cut out
of their text without a separator between them. The prompt is never judged, nor is a step whose label is null.
"""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from qstar import settings
from qstar.data import examples, overlong, step_formats, trl
from qstar.data.examples import Completing
from qstar.data.from_file import FileData
from qstar.data.generated import pack_row
from qstar.settings import shown
from qstar.structs import Labelled
from qstar.tasks import labels as step_labels


@dataclass(frozen=True)
class LabelledText(FileData):
    """A file of labelled solutions, with prompt, completion and label, or prompt, completions and labels."""

    rows: ClassVar[tuple[type, ...]] = (Labelled,)
    holds: ClassVar[str] = "labelled solutions"
    example: ClassVar[str] = '{"prompt": "3aegbdh=", "completion": "4;", "label": 1}'
    expected: ClassVar[str] = (
        "prompt, completion and label; prompt, completions and labels; or of Math-Shepherd, PRM800K or OmegaPRM"
    )
    records: ClassVar[str] = "solutions"

    separator: str = "\n"  # text appended to every step that does not end with it
    until_first_wrong: bool = False  # do not judge steps after the first wrong one, whose label is 1/2 or less

    def __post_init__(self):
        super().__post_init__()
        settings.check_line_breaks("data.separator", self.separator)

    def parsed(self, line: dict, where: str, tokenizer: Completing) -> Iterable["Solution"]:
        for solution in step_formats.stepwise(line, where):
            yield _solution(trl.texts(solution, where), where, self, tokenizer)

    def packed(self, records: Sequence["Solution"], seed: int) -> list[Labelled]:
        return rows(records, self.length, seed)


@dataclass(frozen=True)
class Solution:
    """A prompt and a solution, with labels of some of its tokens."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    ends: tuple[int, ...]  # places in the completion of the tokens that are judged
    labels: tuple[float, ...]  # of these
    where: str = field(default="", compare=False)  # it comes from: file and line

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def _solution(record: dict, where: str, cfg: LabelledText, tokenizer: Completing) -> Solution:
    if not isinstance(record.get("prompt"), str):
        raise ValueError(
            f"{where} lacks the text of prompt; it has {', '.join(record) or 'nothing'}: expected {cfg.expected}"
        )
    if "completions" in record or "labels" in record:
        steps, labels = _steps(record, where, "" if "completion_ids" in record else cfg.separator)
        if steps != record["completions"]:
            _check_separator(cfg.separator, tokenizer, where)
    elif isinstance(record.get("completion"), str) and "label" in record:
        steps, labels = [record["completion"]], [record["label"]]
    else:
        raise ValueError(
            f"{where}: expected completion (a text) and label, or completions and labels (lists of one length); it has "
            f"{', '.join(record)}"
        )
    of_steps = "completions" in record
    wrong = [label for label in labels if not step_labels.is_label(label) and not (of_steps and label is None)]
    if wrong:
        raise ValueError(
            f"{where}: label {shown(wrong[0])}: expected true, false or a number from 0 to 1"
            + (", or null for a step that is not judged" if of_steps else "")
        )
    prompt, completion = examples.ids_of(record | {"completion": "".join(steps)}, tokenizer, where)
    if not completion:
        raise ValueError(f"{where}: the solution is empty")
    if not of_steps:
        ends, labels = range(len(completion)), labels * len(completion)
    else:
        ends = last_tokens(steps, completion, tokenizer, where)
        judged = [i for i, label in enumerate(labels) if label is not None]
        ends, labels = [ends[i] for i in judged], [labels[i] for i in judged]
    if not labels:
        raise ValueError(f"{where}: no step has a label: expected true, false or a number for at least one")
    if cfg.until_first_wrong:
        first = next((i for i, label in enumerate(labels) if label <= 0.5), len(labels) - 1)
        ends, labels = ends[: first + 1], labels[: first + 1]
    return Solution(tuple(prompt), tuple(completion), tuple(ends), tuple(map(float, labels)), where)


def _check_separator(separator: str, tokenizer: Completing, where: str) -> None:
    try:
        tokenizer.encode(separator)
    except ValueError as error:
        raise ValueError(
            f"{where}: data.separator = {separator!r} is put after every step, and cannot be: {error}. Give "
            "data.separator= where steps stand as they are, or another text"
        ) from error


def _steps(record: dict, where: str, separator: str) -> tuple[list[str], list]:
    steps, labels = record.get("completions"), record.get("labels")
    lists = isinstance(steps, list) and isinstance(labels, list)
    if not lists or len(steps) != len(labels) or not steps or not all(isinstance(step, str) for step in steps):
        raise ValueError(f"{where}: expected completions, a list of texts, and labels, a list as long")
    return [step if step.endswith(separator) else step + separator for step in steps], labels


def last_tokens(steps: Sequence[str], completion: Sequence[int], tokenizer: Completing, where: str = "") -> list[int]:
    """Place of the token that holds the last character of each step; the steps joined are the completion's text.

    Raises ValueError for steps that are not the text of the completion, for a first step without a token, and where two
    steps end in one token: their labels could not be told apart.
    """
    text, joined = tokenizer.decode(list(completion)), "".join(steps)
    bare = joined.lstrip(" ")  # some tokenizers put a space before a text, some take one away; an end may follow
    if bare not in text:
        bare = bare.rstrip()  # as chat templates trim a reply
    at = text.find(bare)
    if at < 0:
        raise ValueError(f"{where}: the steps are {joined[:60]!r}, but the text of the completion is {text[:60]!r}")
    places: list[int] = []
    whole = tokenizer.lengths(list(completion))
    end = at + len(bare)
    upto = at - (len(joined) - len(joined.lstrip(" ")))
    for step in steps:
        upto = min(upto + len(step), end)
        at = bisect.bisect_left(whole, upto) - 1
        if at < 0:
            raise ValueError(f"{where}: step 1 is {step!r}, which has no token of its own: expected steps of text")
        if places and at <= places[-1]:
            raise ValueError(
                f"{where}: steps {len(places)} and {len(places) + 1} end in the same token of this tokenizer; give a "
                "data.separator that is a token of its own, or longer steps"
            )
        places.append(at)
    return places


def rows(solutions: Sequence[Solution], length: int, seed: int) -> list[Labelled]:
    """Rows [S = length] of numpy leaves that hold every solution once.

    Raises ValueError for no solutions, and for one that is longer than a row.
    """
    if not solutions:
        raise ValueError("there is no labelled solution to train on")
    overlong.check(solutions, length, "solutions")
    filled = examples.filled([len(solution) for solution in solutions], length, seed)
    return [_row([solutions[i] for i in numbers], length) for numbers in filled]


def _row(solutions: Sequence[Solution], length: int) -> Labelled:
    batch = pack_row([[*solution.prompt, *solution.completion] for solution in solutions], length)
    label, judged, mask = np.zeros(length, np.float32), np.zeros(length, bool), np.zeros(length, bool)
    start = 0
    for solution in solutions:
        begin = start + len(solution.prompt)
        start += len(solution)
        mask[begin:start] = True
        judged[begin + np.array(solution.ends)] = True
        label[begin + np.array(solution.ends)] = solution.labels
    return Labelled(batch.tokens, mask, batch.segment, batch.position, label, judged)
