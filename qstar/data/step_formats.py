"""Step labels in the formats of others, and in TRL's.

    Math-Shepherd   {"input": "Q Step 1: ... ки\\n...", "label": "Q Step 1: ... +\\n...", "task": ...}
    PRM800K         {"question": {"problem": ...}, "label": {"steps": [{"completions": [{"text", "rating"}], ...}]}}
    OmegaPRM        {"question": ..., "reasoning_steps": {"text", "mc_value", "children": [...]}}      a tree
    OmegaPRM        {"question": ..., "reasoning_steps": [{"solution_prefix", "mc_value"}, ...]}       its prefixes

All become {"prompt", "completions", "labels"}. A step that belongs to several solutions is labelled in the first of
them; its label is null in the others, so that it counts once.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from qstar.settings import shown

Record = dict[str, Any]
RIGHT = {1: True, 0: True, -1: False}
"""Ratings of PRM800K; neutral steps count as right (Lightman et al. 2023)."""


def stepwise(record: Record, where: str) -> list[Record]:
    """The labelled solutions of a record in one of these formats; any other record as it is.

    Raises ValueError for a record that begins like one of these formats and does not follow it.
    """
    for known, read in FORMATS.items():
        if set(known) <= record.keys():
            try:
                solutions = list(read(record))
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(f"{where}: not as {' and '.join(known)} have it: {error!r}") from error
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            return solutions
    return [record]


def trl(record: Record, separator: str = "\n") -> Record | None:
    """The solution in TRL's stepwise format, whose labels are booleans: a share is true where it is above 0.

    A separator that every step but the last ends with is left out, for TRL adds it. None where a step has no label.
    """
    steps, labels = record["completions"], record["labels"]
    if any(label is None for label in labels):
        return None
    if all(step.endswith(separator) for step in steps[:-1]):
        steps = [step.removesuffix(separator) for step in steps]
    return {"prompt": record["prompt"], "completions": list(steps), "labels": [label > 0 for label in labels]}


def _math_shepherd(record: Record) -> Iterator[Record]:
    question, _, rest = record["label"].partition("Step 1:")
    steps, labels = [], []
    for line in re.split(r"\n(?=Step [0-9]+:)", f"Step 1:{rest}"):
        step = re.fullmatch(r"(.*?)\s*([+-])", line.rstrip(), re.DOTALL)
        if not rest or step is None:
            raise ValueError(f"label: {line[-60:]!r} does not end with + or -")
        steps.append(step[1])
        labels.append(step[2] == "+")
    yield {"prompt": question, "completions": steps, "labels": labels}


def _prm800k(record: Record) -> Iterator[Record]:
    prompt, before = f"{record['question']['problem']}\n", []
    taken: list[bool | None] = []
    for step in record["label"]["steps"]:
        completions, chosen, human = step["completions"] or [], step["chosen_completion"], step["human_completion"]
        for number, completion in enumerate(completions):
            label = RIGHT.get(completion["rating"])
            if number != chosen and label is not None:
                none = [None] * len(before)
                yield {"prompt": prompt, "completions": [*before, completion["text"]], "labels": [*none, label]}
        if chosen is not None:
            before.append(completions[chosen]["text"])
            taken.append(RIGHT.get(completions[chosen]["rating"]))
        elif human is not None:
            before.append(human["text"])
            taken.append(None)  # not rated
        else:
            break
    if any(label is not None for label in taken):
        yield {"prompt": prompt, "completions": before, "labels": taken}


def _omega(record: Record) -> Iterator[Record]:
    steps = record["reasoning_steps"]
    yield from (_tree if isinstance(steps, dict) else _prefixes)(record["question"], steps)


def _tree(question: str, root: Record) -> Iterator[Record]:
    """A solution for every leaf."""
    seen: set[int] = set()

    def leaves(node: Record, path: Sequence[Record]) -> Iterator[Sequence[Record]]:
        if not node["children"]:
            yield path
        for child in node["children"]:
            yield from leaves(child, (*path, child))

    for path in leaves(root, ()):
        if path:
            labels = [None if id(node) in seen else _share(node) for node in path]
            seen.update(map(id, path))
            steps = [node["text"] for node in path]
            yield {"prompt": f"{question}\n", "completions": steps, "labels": labels}


def _prefixes(question: str, steps: Sequence[Record]) -> Iterator[Record]:
    """A solution of one step for every prefix that goes beyond the question."""
    for step in steps:
        if not step["solution_prefix"].startswith(question):
            raise ValueError(f"solution_prefix {step['solution_prefix'][:60]!r} does not begin with the question")
        text = step["solution_prefix"][len(question) :].lstrip("\n")
        if text:
            yield {"prompt": f"{question}\n", "completions": [text], "labels": [_share(step)]}


def _share(node: Record) -> float:
    share = node["mc_value"]
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ValueError(f"mc_value is {shown(share)}, expected a number from 0 to 1")
    return float(share)


FORMATS: dict[tuple[str, ...], Callable[[Record], Iterator[Record]]] = {
    ("input", "label", "task"): _math_shepherd,
    ("question", "label", "labeler"): _prm800k,
    ("question", "reasoning_steps"): _omega,
}
"""By the entries that tell a format from the others."""
