"""Answers to tasks of `reasoning_gym` (extra `gym`): right where the task's own scorer says exactly 1.0.

Scorers pay partly for partly right answers (a share for every longer text that holds the right one), so nothing below 1
counts. A gold answer is the question's address, from which its entry is made again: task, settings with the seed,
number, and the answer for readers. Some scorers evaluate what is written: there, calls, attributes and code are refused
before. Where a scorer takes more than right answers for right, more is asked. Every scorer runs in a locked copy of a
worker process with a bound on its time.
"""

import dataclasses
import functools
import importlib.util
import json
import re
from collections.abc import Mapping
from typing import ClassVar

from qstar.tasks import grade, worker

# Tasks of reasoning_gym 0.1.25 whose scorers hand the answer to `eval` or sympy's parser, which evaluates too.
EVALUATED = frozenset(
    "binary_matrix countdown intermediate_integration n_queens polynomial_multiplication puzzle24 simple_integration "
    "spiral_matrix string_insertion".split()
)
# Tasks whose scorers give 1.0 to more than right answers ("not 1754" for 1754; game_of_life_halting to every text;
# puzzle24 to other numbers than the question's). Only the recorded answer's own spelling counts there.
AS_RECORDED = frozenset(
    "coin_flip cryptarithm fraction_simplification game_of_life_halting gsm_symbolic kakurasu knights_knaves "
    "letter_jumble puzzle24 survo time_intervals word_sorting".split()
)
# Tasks with several right answers whose scorers skip what they do not understand: the form of an answer.
FORMS = {
    "quantum_lock": re.compile(r"[ABC](?: ?→ ?[ABC])*"),
    "sokoban": re.compile(r"[UDLR]+"),
    "tower_of_hanoi": re.compile(r"(?:(?:^|\n)Move disk [0-9]+ from Peg [0-9]+ to Peg [0-9]+)+"),
}
_FUNCTION = r"(?:sin|cos|tan|sinh|cosh|tanh|asin|acos|atan|exp|log|ln|sqrt|Abs)"
# Calls of anything but functions of mathematics, attributes, double underscores, words of the language, assignments.
_CODE = re.compile(
    rf"(?<![\w.])(?!{_FUNCTION}\s*\()[A-Za-z_]\w*\s*\(|[)\]}}'\"]\s*\(|[\w)\]}}'\"]\s*\.\s*[A-Za-z_]|__|:="
    r"|\b(?:lambda|or|and|not|if|else|in|is|for|await|yield)\b"
)
LONGEST = 4000  # characters of an answer
MAKING_S = 600.0  # processor time for questions, far above what a thousand need


@dataclasses.dataclass(frozen=True)
class Question:
    """One question of a task."""

    question: str
    answer: str  # for readers and hints; "" where the task has no single one
    gold: str  # what the grader wants: the question's address


def gold(task: str, settings: Mapping[str, object], index: int, answer: str = "") -> str:
    """The gold answer of a task's question `index` under these settings ("seed" and "size" among them)."""
    return _spelled({"task": task, "settings": dict(settings), "index": index, "answer": answer})


def questions(task: str, settings: Mapping[str, object], start: int, stop: int) -> list[Question]:
    """Questions `start` to `stop` of a task under these settings ("seed" and "size" among them), always the same.

    They are made in the worker process, for some tasks walk through sets, whose order differs between processes where
    Python's hashes are not fixed. ValueError where there is no such task, or the settings do not fit it.
    """
    _installed()
    reply = _maker()(_spelled({"task": task, "settings": dict(settings), "start": start, "stop": stop}))
    if reply.status != "done":
        raise ValueError(reply.text.removeprefix("ValueError: ") or f"task {task}: making questions took too long")
    return [Question(**fields) for fields in json.loads(reply.text)]


@dataclasses.dataclass(frozen=True)
class ReasoningGym:
    """The task's own scorer, at exactly 1.0; `seconds` of processor time bound one score."""

    declared: grade.Declared
    seconds: float = 5.0
    name: ClassVar[str] = "reasoning_gym"
    version: ClassVar[int] = 1

    def __post_init__(self):
        _installed()

    def canonical(self, gold: str) -> str:
        address = _address(gold)
        reply = _worker(self.seconds)(gold, "")
        if address["task"] in AS_RECORDED and not address["answer"]:
            raise ValueError(f"gold answer {gold[:200]!r} records no answer, and this task's scorer takes too much")
        if reply.status != "done":
            raise ValueError(f"gold answer {gold[:200]!r}: reasoning_gym makes no such question ({reply.text})")
        return _spelled(address)

    def __call__(self, written: str, gold: str) -> grade.Verdict:
        address = _address(gold)
        task = address["task"]
        answer, problem = grade.settle(written, self.declared, lambda text: text or None, LONGEST)
        if problem:
            return grade.Verdict(False, answer, problem)
        if task in EVALUATED and (not answer.isascii() or _CODE.search(answer)):
            return grade.Verdict(False, answer, "forbidden")
        if any((c.isnumeric() and not c.isascii()) or not (c.isprintable() or c in grade.WHITE) for c in answer):
            return grade.Verdict(False, answer, "unreadable")  # int() reads the digits of all scripts
        if task in FORMS and not FORMS[task].fullmatch(answer):
            return grade.Verdict(False, answer, "unreadable")
        if task in AS_RECORDED and grade.one_space(answer) != grade.one_space(address["answer"]):
            return grade.Verdict(False, answer, "wrong")
        reply = _worker(self.seconds)(gold, answer)
        if reply.status != "done":
            return grade.Verdict(False, answer, reply.status)
        return grade.Verdict(reply.text == "1.0", answer, "right" if reply.text == "1.0" else "wrong")


def _installed() -> None:
    if importlib.util.find_spec("reasoning_gym") is None:
        raise ImportError('tasks of reasoning_gym need the package: pip install ".[gym]"')


def _address(gold: str) -> dict:
    try:
        address = json.loads(gold)
    except ValueError:
        address = None
    if not isinstance(address, dict) or sorted(address) != ["answer", "index", "settings", "task"]:
        raise ValueError(
            f"gold answer {gold[:200]!r} is no address of a reasoning_gym question: questions() makes them"
        )
    return address


def _spelled(address: dict) -> str:
    return json.dumps(address, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


@functools.cache
def _worker(seconds: float) -> worker.Worker:
    return worker.Worker("qstar.tasks.gym:score", seconds)


@functools.cache
def _maker() -> worker.Worker:
    return worker.Worker("qstar.tasks.gym:make", MAKING_S)


# Below: the worker's side, in a locked copy of a process of its own.


def prepare() -> None:
    """Load the package."""
    import reasoning_gym

    reasoning_gym.create_dataset("chain_sum", size=1, seed=0)


def make(order: str) -> str:
    """Questions as JSON."""
    wanted = json.loads(order)
    made, texts = _made(wanted["task"], wanted["settings"]), []
    for index in range(wanted["start"], wanted["stop"]):
        entry = made[index]
        answer = entry["answer"] if isinstance(entry["answer"], str) else ""
        address = gold(wanted["task"], wanted["settings"], index, answer)
        texts.append({"question": entry["question"], "answer": answer, "gold": address})
    return json.dumps(texts)


def _made(task: str, settings: Mapping[str, object]):
    """The questions of a task, made when they are asked for."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        raise ValueError(f"task = {task!r} is none of reasoning_gym's: {', '.join(sorted(DATASETS))}")
    try:
        return reasoning_gym.create_dataset(task, **settings)
    except (TypeError, AssertionError) as error:
        options = {name: value for name, value in settings.items() if name not in ("seed", "size")}
        raise ValueError(f"options = {options} do not fit task {task}: {error}") from error


def score(gold: str, answer: str) -> str:
    """The score as Python spells it. ValueError where the question is another one than the gold answer says."""
    address = _address(gold)
    made = _made(address["task"], address["settings"])
    entry = made[address["index"]]
    if address["answer"] and entry["answer"] != address["answer"]:
        raise ValueError(f"its answer is {entry['answer']!r}; another version of reasoning_gym made the gold answer")
    return repr(float(made.score_answer(answer, entry)))
