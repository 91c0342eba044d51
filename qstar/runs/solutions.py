"""Solutions that come from elsewhere: the rationales of a self-training run, or a file of JSON lines.

A line of a file has the id of its `problem` and what was written: `completion`, or its steps as `completions`; the
token ids that were sampled as `completion_ids`, and another `prompt` than the task's, where there are any.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qstar.data import labelled as labelled
from qstar.data import rationales
from qstar.data.rationales import HINTED, Store
from qstar.data.tokenizer import Tokenizer
from qstar.search.labelling import Solution
from qstar.tasks import lines
from qstar.tasks.problem import Problem, Task


@dataclass(frozen=True)
class Given:
    """What was written after a prompt, in steps."""

    problem: str  # id
    prompt: str
    steps: tuple[str, ...]
    ids: tuple[int, ...] | None  # as they were sampled; None: the text is encoded
    where: str

    @property
    def text(self) -> str:
        return "".join(self.steps)


def read(source: str, problems: Mapping[str, Problem], task: Task) -> dict[str, list[Given]]:
    """The solutions of a run directory or a file, by problem, in the order of the problems.

    Raises FileNotFoundError; ValueError for a line that is no solution, and for problems that the task does not have.
    """
    path = Path(source)
    store = path / rationales.FOLDER
    if not path.is_file() and not store.is_dir():
        raise FileNotFoundError(
            f"source = {source!r} is neither a file of JSON lines nor a run with {rationales.FOLDER}/: expected the "
            "directory of a qstar-improve run, or lines with problem and completion"
        )
    every = _of_store(store, task) if store.is_dir() else _of_file(path, problems, task)
    by_problem: dict[str, list[Given]] = {name: [] for name in problems}
    for given in every:
        if given.problem not in by_problem:
            raise ValueError(
                f"{given.where}: problem {given.problem!r} is none of {task.name}: give the task= and split= that the "
                "solutions are of"
            )
        by_problem[given.problem].append(given)
    return {name: solutions for name, solutions in by_problem.items() if solutions}


def _of_store(folder: Path, task: Task) -> list[Given]:
    """Samples without a hint that were finished; those that say nothing have no steps."""
    columns = ["iteration", "batch", "problem", "prompt", "written", "tokens", "finished"]
    rows = Store.open(folder).rows(~HINTED, columns).to_pylist()
    return [
        Given(
            row["problem"],
            row["prompt"],
            task.steps(row["written"]),
            tuple(row["tokens"]),
            f"{folder}, iteration {row['iteration']}, batch {row['batch']}",
        )
        for row in rows
        if row["finished"] and row["written"].strip()
    ]


def _of_file(path: Path, problems: Mapping[str, Problem], task: Task) -> list[Given]:
    return [_given(record, where, problems, task) for where, record in lines.json_lines(path)]


def _given(record: dict, where: str, problems: Mapping[str, Problem], task: Task) -> Given:
    name, steps, ids = record.get("problem"), record.get("completions"), record.get("completion_ids")
    if steps is None and isinstance(record.get("completion"), str):
        steps = task.steps(record["completion"])
    texts = isinstance(steps, list | tuple) and steps and all(isinstance(step, str) and step for step in steps)
    if not isinstance(name, str) or not texts:
        raise ValueError(
            f"{where}: expected problem (the id of a question) and completion (a text), or completions (its steps); it "
            f"has {', '.join(record) or 'nothing'}"
        )
    if ids is not None and not (isinstance(ids, list) and all(isinstance(id, int) for id in ids)):
        raise ValueError(f"{where}: completion_ids is {str(ids)[:60]}, expected token ids")
    if name not in problems:
        return Given(name, "", tuple(steps), None, where)  # named by `read`
    prompt = record.get("prompt", task.prompt(problems[name]))
    return Given(name, prompt, tuple(steps), None if ids is None else tuple(ids), where)


def encoded(given: Given, tokenizer: Tokenizer) -> list[int]:
    """Token ids of prompt and solution."""
    if given.ids is None:
        prompt, completion = tokenizer.encode_pair(given.prompt, given.text)
        return [*prompt, *completion]
    return [*tokenizer.encode_prompt(given.prompt), *given.ids]


def cut(problem: int, given: Given, right: bool, tokenizer: Tokenizer) -> Solution:
    """The solution with the tokens of each step; an end-of-text token belongs to the last one.

    Raises ValueError for no steps, for ids of another text, and where two steps end in one token.
    """
    if not given.steps:
        raise ValueError(f"{given.where}: the solution is empty")
    ids = given.ids if given.ids is not None else tokenizer.encode_pair(given.prompt, given.text)[1]
    ends = [end + 1 for end in labelled.last_tokens(given.steps, ids, tokenizer, given.where)]
    ends[-1] = len(ids)
    pieces = tuple(tuple(ids[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True))
    return Solution(problem, given.prompt, tuple(given.steps), pieces, right, given.where)
