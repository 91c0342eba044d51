"""Solutions from elsewhere: of a self-training run, a search or another labelling, or a file of JSON lines.

A line of a file has the id of its `problem` and what was written: `completion`, or its steps as `completions`; the
token ids that were sampled as `completion_ids`, and another `prompt` than the task's, where there are any.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qstar.data import labelled as labelled
from qstar.data import rationales
from qstar.data.rationales import HINTED, Store
from qstar.data.tokenizer import Tokenizer
from qstar.files import Json
from qstar.runs import replay, solve
from qstar.search.labelling import Solution
from qstar.settings import INT32, shown
from qstar.tasks import labels, lines
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

    Raises FileNotFoundError; ValueError for a line that is no solution, for problems that the task does not have, and
    where there is no solution.
    """
    path = Path(source)
    improved, solved = path / rationales.FOLDER, path / solve.FOLDER
    if improved.is_dir():
        every = _of_store(improved, task)
    elif solved.is_dir():
        every = _of_search(solved, task)
    elif path.is_file() or (path / labels.LABELS).is_file():
        every = _of_file(path / labels.LABELS if path.is_dir() else path, problems, task)
    else:
        raise FileNotFoundError(
            f"source = {source!r} is neither a file of JSON lines nor a run with {rationales.FOLDER}/, {solve.FOLDER}/ "
            f"or {labels.LABELS}: expected the directory of a run of qstar-improve, qstar-solve or qstar-label, or "
            "lines with problem and completion"
        )
    by_problem: dict[str, list[Given]] = {name: [] for name in problems}
    for given in every:
        if given.problem not in by_problem:
            raise ValueError(
                f"{given.where}: problem {shown(given.problem)} is none of {task.name}: give the task= and split= that "
                "the solutions are of"
            )
        by_problem[given.problem].append(given)
    if not any(by_problem.values()):
        raise ValueError(
            f"source = {source!r} holds no solution: expected lines with problem and completion, or a run with "
            "finished ones; without source= they are sampled from the model"
        )
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


def _of_search(folder: Path, task: Task) -> list[Given]:
    """Every finished solution of a search that says something, in one piece, whatever the steps it was searched by."""
    columns = ["batch", "problem", "prompt", "written", "tokens", "finished", "place"]
    stored = replay.trees(Store.open(folder).rows(columns=columns).to_pylist())
    leaves = (
        _leaf(_path(tree.rows, row), folder, task)
        for batch in stored.values()
        for tree in batch
        for row in tree.rows.values()
        if row["place"]["final"] and row["finished"]
    )
    return [given for given in leaves if given.text.strip()]


def _path(tree: Mapping[int, dict], row: dict) -> list[dict]:
    """Rows from the first step to this one."""
    steps = []
    while row["place"]["parent"] >= 0:
        steps.append(row)
        row = tree[row["place"]["parent"]]
    return steps[::-1]


def _leaf(steps: Sequence[dict], folder: Path, task: Task) -> Given:
    last, text = steps[-1], "".join(step["written"] for step in steps)
    ids = tuple(id for step in steps for id in step["tokens"])
    where = f"{folder}, batch {last['batch']}, node {last['place']['node']}"
    return Given(last["problem"], last["prompt"], task.steps(text), ids, where)


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
    if ids is not None and not (isinstance(ids, list) and all(map(_is_id, ids))):
        raise ValueError(f"{where}: completion_ids is {str(ids)[:60]}, expected token ids")
    if not isinstance(record.get("prompt", ""), str):
        raise ValueError(f"{where}: prompt is {str(record['prompt'])[:60]}, expected a text")
    if name not in problems:
        return Given(name, "", tuple(steps), None, where)  # named by `read`
    prompt = record.get("prompt", task.prompt(problems[name]))
    return Given(name, prompt, tuple(steps), None if ids is None else tuple(ids), where)


def _is_id(value: Json) -> bool:
    return type(value) is int and 0 <= value <= INT32


def encoded(given: Given, tokenizer: Tokenizer) -> list[int]:
    """Token ids of prompt and solution."""
    if given.ids is None:
        prompt, completion = _pair(given, tokenizer)
        return [*prompt, *completion]
    return [*tokenizer.encode_prompt(given.prompt), *given.ids]


def _pair(given: Given, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    try:
        return tokenizer.encode_pair(given.prompt, given.text)
    except ValueError as error:  # a character that the tokenizer does not have
        raise ValueError(f"{given.where}: {error}") from error


def cut(problem: int, given: Given, right: bool, tokenizer: Tokenizer) -> Solution:
    """The solution with the tokens of each step; an end-of-text token belongs to the last one.

    Raises ValueError for no steps, for ids of another text, for characters that the tokenizer lacks, and where two
    steps end in one token.
    """
    if not given.steps:
        raise ValueError(f"{given.where}: the solution is empty")
    ids = given.ids if given.ids is not None else _pair(given, tokenizer)[1]
    ends = [end + 1 for end in labelled.last_tokens(given.steps, ids, tokenizer, given.where)]
    ends[-1] = len(ids)
    pieces = tuple(tuple(ids[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True))
    return Solution(problem, given.prompt, tuple(given.steps), pieces, right, given.where)
