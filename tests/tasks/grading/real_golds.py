"""Golds of public data sets: each takes itself in plain respellings, and refuses what is changed in one place.

`table` yields (data set, judge, gold, right, wrong). Used by a test and by `experiments/checks/real_golds.py`.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from qstar.tasks.grading import grade, symbolic

HASH = grade.Declared("#### ")
AROUND = (
    "{}", "${}$", r"\({}\)", r"\boxed{{{}}}", r"$\boxed{{{}}}$", "**{}**", "The answer is ${}$.", "Answer: {}",
    "**Answer:** {}",
    "the final answer is: {}", "= {}", " {}\t",
)  # fmt: skip
RESPELLED = (
    (r"\frac", r"\dfrac"), (r"\frac", r"\tfrac"), (r"\pi", "π"), ("-", "\N{MINUS SIGN}"), (r"\infty", "∞"),
    (", ", ","), ("^2", "^{2}"), ("^2", "²"), (r"^\circ", "°"), (r",\!", ","), (r",\!", ""), (r"\text{", r"\mathrm{"),
    ("+", " + "), ("pmatrix", "bmatrix"),
)  # fmt: skip
HEDGED = (
    "{} or 7",
    "not {}",
    "7 or {}",
    "{} = 7",
    "7 = {}",
    "{}?",
    "{}, 7",
    r"\cancel{{{}}}",
    "anything but {}",
    r"{} \ne 7",
)
Judge = Callable[[str, str], bool]


def table(data: Path, most: int) -> Iterator[tuple[str, Judge, str, list[str], list[str]]]:
    """`most` golds of each data set."""
    for row in _lines(data / "math500" / "math500.jsonl")[:most]:
        gold = row["answer"]
        if symbolic.expression(gold) is not None:
            yield "MATH-500", _judge(symbolic.Symbolic(HASH)), gold, _spelled(gold), [*_changed(gold), *_hedged(gold)]
    for row in _lines(data / "gsm8k" / "test.jsonl")[:most]:
        yield _number("GSM8K", row["answer"].rpartition("#### ")[2])
    for row in json.loads((data / "svamp" / "SVAMP.json").read_text(encoding="utf-8"))[:most]:
        yield _number("SVAMP", str(row["Answer"]).removesuffix(".0"))
    for row in _lines(data / "aqua" / "dev.jsonl")[:most]:
        yield _choice("AQuA", row["correct"], [option.partition(")")[2] for option in row["options"]])
    for row in _lines(data / "commonsenseqa" / "dev_rand_split.jsonl")[:most]:
        yield _choice("CommonsenseQA", row["answerKey"], [one["text"] for one in row["question"]["choices"]])


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _judge(grader: grade.Grader) -> Judge:
    return lambda answer, gold: grader(f"so\n#### {answer}\n", gold).correct


def _number(name: str, gold: str) -> tuple[str, Judge, str, list[str], list[str]]:
    plain = gold.replace(",", "")
    right = [
        *_spelled(gold),
        plain,
        f"${plain}",
        rf"$\${plain}$",
        f"{plain} dollars",
        f"x = {plain}",
        f"{plain} miles an hour",
    ]
    right += (
        [f"{int(plain):,}".replace(",", mark) for mark in (",", " ", r"\,", "{,}", "\N{THIN SPACE}", "'")]
        if plain.isdigit()
        else []
    )
    return (
        name,
        _judge(grade.Numeric(HASH)),
        gold,
        right,
        [*_changed(gold), *_hedged(gold), f"{plain} dozen", f"{plain}/2"],
    )


def _choice(name: str, letter: str, options: list[str]) -> tuple[str, Judge, str, list[str], list[str]]:
    grader = grade.Choice(HASH)
    text = grade.one_line(options[ord(letter) - ord("A")])
    others = [
        (chr(ord("A") + at), grade.one_line(option))
        for at, option in enumerate(options)
        if at != ord(letter) - ord("A")
    ]
    twice = [other for other, option in others if grade.one_space(option) == grade.one_space(text)]
    forms = (
        "({0}) {1}",
        "{0}. {1}",
        "{0}) {1}",
        "**{0}.** {1}",
        "{1} ({0})",
        "The correct option is {0}",
        "**Answer:** ({0})",
    )
    right = [*_spelled(letter), *_spelled(letter.lower()), *(form.format(letter, text) for form in forms)]
    wrong = [form.format(other, option) for other, option in others for form in ("{0}", "{1}", *forms) if not twice]
    wrong += [form.format(letter, option) for _, option in others for form in ("({0}) {1}", "{1} ({0})") if not twice]
    wrong += [
        f"{letter} or {others[0][0]}",
        f"not {letter}",
        f"not {text} ({letter})",
        f"{letter}?",
        f"{letter} is wrong",
    ]
    return name, _judge(grader), grader.with_options(letter, options), right, wrong


def _spelled(gold: str) -> list[str]:
    texts = [form.format(gold) for form in AROUND if not ("$" in form and re.search(r"(?<!\\)\$", gold))]
    texts += [gold.replace(old, new) for old, new in RESPELLED if old in gold and not (old == ", " and "!" in gold)]
    return [*texts, gold.replace(r"\left", "").replace(r"\right", "")]


def _changed(gold: str) -> Iterator[str]:
    """A digit more or less by one, a sign or a bracket exchanged, two parts exchanged."""
    for match in re.finditer("[0-9]", gold):
        for step in (1, 9):
            yield f"{gold[: match.start()]}{(int(match[0]) + step) % 10}{gold[match.end() :]}"
    for match in re.finditer("[-+]", gold):
        yield f"{gold[: match.start()]}{'+' if match[0] == '-' else '-'}{gold[match.end() :]}"
    for old, new in (
        ("[", "("),
        ("]", ")"),
        (r"\cup", r"\cap"),
        (r"\pi", r"\theta"),
        ("x", "y"),
        (r"\le ", "<"),
        ("i", "j"),
    ):
        if re.search(rf"{re.escape(old)}(?![a-z])", gold) and not (len(old) == 1 and old.isalpha() and "\\" in gold):
            yield gold.replace(old, new, 1)
    parts = re.fullmatch(r"\(([^,]*),([^,]*)\)", gold)
    if parts and parts[1].strip() != parts[2].strip():
        yield f"({parts[2]},{parts[1]})"


def _hedged(gold: str) -> list[str]:
    return [form.format(gold) for form in HEDGED if gold != "7"]
