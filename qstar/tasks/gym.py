# ruff: noqa: RUF001  (logical signs that look like letters)
"""Answers to tasks of `reasoning_gym` (extra `gym`): the recorded answer, or what the task's own scorer takes as right.

Most tasks have one right answer, which the package records. It is compared here: the same text line by line, the same
number, the same JSON. The package's scorers are not asked: they pay 1.0 for "nan", for 16.91°1, for numbers that are
near, for any text at all. Tasks with several right answers (`FORMS`) are: an answer must have the task's form to the
last character, the scorer must give it exactly 1.0, and where the scorer lets more pass, more is asked (`_sound`).
A gold answer is the question's address, from which its entry is made again: task, settings with the seed, number, and
the answer for readers. Some recorded answers cannot be right; such questions are marked (`Question.flaw`). What the
package computes is computed in a locked copy of a worker process with a bound on its time.
"""

import dataclasses
import decimal
import functools
import importlib.util
import json
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import ClassVar

from qstar.tasks.grading import grade, notation, spelling, symbolic, worker

# Tasks of reasoning_gym 0.1.25 whose scorers hand the answer to `eval` or sympy's parser, which evaluates too.
EVALUATED = frozenset(
    "binary_matrix countdown intermediate_integration n_queens polynomial_multiplication puzzle24 simple_integration "
    "spiral_matrix string_insertion".split()
)
_WORDS = r'"[^"\\]*"'
_ARITHMETIC = re.compile(r"(?!.*(?:\*\*|//))[0-9+\-*/() ]+")
# An expression of one letter, of constants and of functions of mathematics.
_INTEGRAL = re.compile(
    r"(?:(?:sin|cos|tan|sinh|cosh|tanh|asin|acos|atan|exp|log|sqrt)(?=\()|(?:pi|E|C|[A-BF-MPRT-Za-z])(?![A-Za-z0-9_(])"
    r"|[0-9]+(?:\.[0-9]+)?(?![A-Za-z_.])|[+\-*/() ])+"
)
# Tasks with several right answers, and the form of one.
FORMS = {
    "countdown": _ARITHMETIC,
    "graph_color": re.compile(r'\{\s*"[0-9]+"\s*:\s*[0-9]+(?:\s*,\s*"[0-9]+"\s*:\s*[0-9]+)*\s*\}'),
    "intermediate_integration": _INTEGRAL,
    "jugs": re.compile(r'\[\s*"(?:fill|empty|pour) [A-Z>-]+"(?:\s*,\s*"(?:fill|empty|pour) [A-Z>-]+")*\s*\]'),
    "knight_swap": re.compile(r'No|\[\s*"[wB],[A-Z][0-9]+,[A-Z][0-9]+"(?:\s*,\s*"[wB],[A-Z][0-9]+,[A-Z][0-9]+")*\s*\]'),
    "n_queens": re.compile(r"[Q_](?: [Q_])*(?:\n[Q_](?: [Q_])*)*"),
    "palindrome_generation": re.compile(r"[A-Za-z]+"),
    "palindrome_partitioning": re.compile(rf"\[\s*\[\s*{_WORDS}[^\\{{}}:]*\]\s*\]"),
    "polynomial_multiplication": re.compile(r"(?:[a-zA-Z](?![A-Za-z0-9_(])|[0-9]+(?![A-Za-z_.])|[+\-*/() ])+"),
    "propositional_logic": re.compile(r"[A-Z¬∧∨→↔() ]+"),
    "puzzle24": _ARITHMETIC,
    "quantum_lock": re.compile(r"[ABC](?: ?→ ?[ABC])*"),
    "rubiks_cube": re.compile(r"[UDLRFBMES]'?(?: [UDLRFBMES]'?)*"),
    "rush_hour": re.compile(r"[A-Z][+-][1-9](?: [A-Z][+-][1-9])*"),
    "shortest_path": re.compile(r"infeasible|(?:up|down|left|right)(?: (?:up|down|left|right))*"),
    "simple_integration": _INTEGRAL,
    "sokoban": re.compile(r"[UDLR]+"),
    "tower_of_hanoi": re.compile(r"(?:(?:^|\n)Move disk [0-9]+ from Peg [0-9]+ to Peg [0-9]+)+"),
    "word_ladder": re.compile(r"[A-Za-z]+(?:, ?[A-Za-z]+)+"),
}
UNORDERED = frozenset({"polynomial_equations"})  # whose answer is a list of numbers in any order
# A scorer that skips what the question does not allow, and no recorded answer.
UNGRADED = frozenset({"boxnet"})
_FUNCTION = r"(?:sin|cos|tan|sinh|cosh|tanh|asin|acos|atan|exp|log|ln|sqrt|Abs)"
# Calls of anything but functions of mathematics, attributes, double underscores, words of the language, assignments.
_CODE = re.compile(
    rf"(?<![\w.])(?!{_FUNCTION}\s*\()[A-Za-z_]\w*\s*\(|[)\]}}'\"]\s*\(|[\w)\]}}'\"]\s*\.\s*[A-Za-z_]|__|:="
    r"|\b(?:lambda|or|and|not|if|else|in|is|for|await|yield)\b"
)
# A recorded answer that only restates the question, or is no value.
_UNSOLVED = re.compile(r"\b(?:Integral|Derivative|Piecewise|RootOf|Sum|Limit|nan|zoo|oo)\b")
_INTEGRALS = ("intermediate_integration", "simple_integration")
LONGEST = 20_000  # characters of an answer: nine disks of tower_of_hanoi take 18,000
MAKING_S = 600.0  # processor time for questions, far above what a thousand need


@dataclasses.dataclass(frozen=True)
class Question:
    """One question of a task."""

    question: str
    answer: str  # for readers and hints; "" where the task has no single one
    gold: str  # what the grader expects: the question's address
    flaw: str = ""  # why the recorded answer cannot be right; "" where nothing speaks against it


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
    """The recorded answer, or one that the task's scorer accepts; `seconds` of processor time bound one score.

    `strict` compares with a recorded answer as text alone.
    """

    declared: grade.Declared
    seconds: float = 5.0
    strict: bool = False
    name: ClassVar[str] = "reasoning_gym"
    version: ClassVar[int] = 3

    def __post_init__(self):
        _installed()

    def canonical(self, gold: str) -> str:
        address = _address(gold)
        task = address["task"]
        if task not in FORMS and (task in UNGRADED or not address["answer"]):
            raise ValueError(f"gold answer {gold[:200]!r} records no answer, and this task's scorer takes too much")
        reply = _worker(self.seconds)(gold, address["answer"], "gold")
        if reply.status != "done":
            raise ValueError(f"gold answer {gold[:200]!r}: reasoning_gym makes no such question ({reply.text})")
        if reply.text:
            raise ValueError(f"gold answer {gold[:200]!r} cannot be right: {reply.text}")
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
        if task not in FORMS:
            right = recorded(answer, address["answer"], self.strict, ordered=task not in UNORDERED)
            return grade.Verdict(right, answer, "right" if right else "wrong")
        plain = next(filter(FORMS[task].fullmatch, [answer] if self.strict else spelling.unwrapped(answer)), None)
        if plain is None:
            return grade.Verdict(False, answer, "unreadable")
        reply = _worker(self.seconds)(gold, plain, "")
        if reply.status != "done":
            return grade.Verdict(False, answer, reply.status)
        return grade.Verdict(reply.text == "1.0", answer, "right" if reply.text == "1.0" else "wrong")


def recorded(answer: str, gold: str, strict: bool = False, ordered: bool = True) -> bool:
    """Whether an answer is the recorded one: the same lines; without `strict` also the same number, list or JSON."""
    if not gold.strip():
        return False
    if strict or _lines(answer) == _lines(gold):
        return _lines(answer) == _lines(gold)
    if any(_lines(text) == _lines(gold) for text in spelling.unwrapped(answer)):
        return True
    answer = spelling.bare(answer)
    if gold in ("True", "False", "Yes", "No"):
        return answer.lower() == gold.lower()
    if not ordered:
        numbers = [_numbers(text) for text in (gold, answer)]
        return None not in numbers and sorted(numbers[0]) == sorted(numbers[1])
    for read in (_measured, _complex, _fraction, _numbers, _json):
        value = read(gold)
        if value is not None:
            return read(answer) == value
    return False


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.strip(grade.WHITE).split("\n")]


_DECIMAL = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"


def _measured(text: str) -> decimal.Decimal | None:
    """A number, also with a sign of degrees."""
    number = spelling.measured(text) if re.match(rf"[-+\N{{MINUS SIGN}} ]*(?:{_DECIMAL}|[0-9])", text) else None
    return number.value if number is not None and number.unit <= {"degree"} and len(number.unit) < 2 else None


def _complex(text: str) -> tuple[decimal.Decimal, decimal.Decimal] | None:
    """The parts of 48.0 + 36.0i."""
    match = re.fullmatch(rf"\(?({_DECIMAL}) ?([-+]) ?((?!-){_DECIMAL})i\)?", text)
    if match is None or (text[0] == "(") != (text[-1] == ")"):
        return None
    imaginary = decimal.Decimal(match[3])
    return decimal.Decimal(match[1]), -imaginary if match[2] == "-" else imaginary


def _fraction(text: str) -> tuple[int, int] | None:
    """Both numbers of 79/173, which is not reduced: 158/346 differs."""
    match = re.fullmatch(r"\$?(?:([0-9]+) ?/ ?([0-9]+)|\\[dt]?frac ?\{([0-9]+)\} ?\{([0-9]+)\})\$?", text)
    return None if match is None else (int(match[1] or match[3]), int(match[2] or match[4]))


def _numbers(text: str) -> list[decimal.Decimal] | None:
    """Numbers between commas."""
    parts = re.split(r", ?", text)
    return [decimal.Decimal(part) for part in parts] if all(re.fullmatch(_DECIMAL, part) for part in parts) else None


def _json(text: str) -> str | None:
    """One spelling of JSON, also of a list that Python printed. Numbers keep theirs: 1.0 is not 1."""
    if text[:1] not in ("[", "{"):
        return None

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    def refuse(name: str) -> None:
        raise ValueError(name)

    for spelled in dict.fromkeys((text, text.replace("'", '"'))):
        try:
            value = json.loads(
                spelled, object_pairs_hook=once, parse_constant=refuse, parse_float=decimal.Decimal, parse_int=int
            )
            return json.dumps(value, sort_keys=True, default=lambda number: f"decimal {number}")
        except (ValueError, RecursionError, TypeError):
            continue
    return None


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
            f"gold answer {gold[:200]!r} is not an address of a reasoning_gym question: questions() makes them"
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
    ordered = json.loads(order)
    task = ordered["task"]
    made, texts = _made(task, ordered["settings"]), []
    for index in range(ordered["start"], ordered["stop"]):
        entry = made[index]
        answer = entry["answer"] if isinstance(entry["answer"], str) else ""
        address = gold(task, ordered["settings"], index, answer)
        flaw = _flaw(task, made, entry) if answer else ""
        texts.append({"question": entry["question"], "answer": answer, "gold": address, "flaw": flaw})
    return json.dumps(texts)


def _flaw(task: str, made, entry: dict) -> str:
    """Why a recorded answer cannot be right: it is not solved, or the task's own scorer refuses it. "" where it can."""
    answer = entry["answer"].strip(grade.WHITE)
    if task in EVALUATED and _UNSOLVED.search(answer):
        return f"{_UNSOLVED.search(answer)[0]} in the recorded answer"
    if len(answer) > LONGEST or (task in FORMS and not FORMS[task].fullmatch(answer)):
        return "the recorded answer does not have the form of an answer"
    if task in _INTEGRALS:  # their scorer takes seconds
        return ""
    score = float(made.score_answer(answer, entry))
    if score != 1.0:
        return f"the task's own scorer gives the recorded answer {score:.3g}"
    return "" if _sound(task, answer, entry) else "the recorded answer is against the question's rules"


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


def score(gold: str, answer: str, of: str) -> str:
    """The score as Python spells it, or the flaw `of` the "gold" answer.

    Raises ValueError where the question differs from the gold answer's.
    """
    address = _address(gold)
    task = address["task"]
    made = _made(task, address["settings"])
    entry = made[address["index"]]
    if address["answer"] and entry["answer"] != address["answer"]:
        raise ValueError(f"its answer is {entry['answer']!r}; another version of reasoning_gym made the gold answer")
    if of == "gold":
        return _flaw(task, made, entry) if isinstance(entry["answer"], str) else ""
    return repr(float(made.score_answer(answer, entry))) if _sound(task, answer, entry) else "0.0"


def _sound(task: str, answer: str, entry: dict) -> bool:
    """What the question asks and the scorer does not, of an answer that has the task's form."""
    metadata = entry["metadata"]
    if task in ("countdown", "puzzle24"):
        return _computed(answer, metadata["numbers"], metadata.get("target", 24))
    if task in _INTEGRALS:
        return symbolic.is_value_of(answer, (metadata["variable"], "C"))
    if task == "graph_color":
        pairs = json.loads(answer, object_pairs_hook=list)
        return sorted(name for name, _ in pairs) == sorted(map(str, metadata["puzzle"]["vertices"]))
    if task == "propositional_logic":
        return _is_formula(answer)
    if task == "rush_hour":
        return _moves_are_possible(answer, metadata["board_config"])
    return True


def _computed(answer: str, numbers: list[int], target: int) -> bool:
    """Whether an expression of exactly these numbers equals the target exactly."""
    tree = notation.read(answer)
    try:
        value = None if tree is None else notation.rational(tree)
    except (ZeroDivisionError, notation.TooLargeError):
        return False
    return value == Fraction(target) and sorted(map(int, re.findall(r"[0-9]+", answer))) == sorted(numbers)


def _is_formula(answer: str) -> bool:
    """Whether it is a formula with a bracket around every two that are joined, but the outermost."""
    text = re.sub("[A-Z]", "f", re.sub(r"(?<![A-Z]) | (?![A-Z])", "", answer))
    before = ""
    while text != before:
        before, text = text, re.sub(r"¬f|\(f[∨∧→↔]f\)|\(f\)", "f", text)
    return re.fullmatch(r"f(?:[∨∧→↔]f)?", text) is not None


def _moves_are_possible(answer: str, config: str) -> bool:
    """Whether every car goes as far as it is told; the scorer leaves out what is in the way."""
    from reasoning_gym.games.rush_hour import Board

    board = Board(config)
    for move in answer.split(" "):
        number, steps = ord(move[0]) - ord("A"), int(move[1:])
        if number >= len(board._pieces):
            return False
        piece = board._pieces[number]
        before = piece.position
        board.move(move[0], steps)
        if board._pieces[number].position != before + piece.stride * steps:
            return False
    return True
