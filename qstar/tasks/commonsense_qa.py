"""CommonsenseQA (Talmor et al., 2019): five-choice questions answered by a letter, as Quiet-STaR scores them."""

from collections.abc import Iterable, Mapping
from typing import Any

from qstar.tasks import items
from qstar.tasks.items import Choices, Item, Tokenizer

LETTERS = "ABCDE"


def question(row: Mapping[str, Any]) -> str:
    """The question and its five choices, one a line: "(A) ...", "(B) ..."."""
    choices = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=True)]
    return "\n".join([row["question"], *choices])


def direct(
    rows: Iterable[Mapping[str, Any]], tokenizer: Tokenizer, limit: int = items.LIMIT, bos: int | None = None
) -> list[Item]:
    """Zero-shot direct items "Q: {question}\\n(A) ...\\nA: {letter}\\n" of rows {question, choices, answer}.

    Rows may have an id as well; without one it is their number.
    """
    valid = items.valid_tokens(tokenizer, LETTERS)
    return [
        items.item(question(row), row["answer"], tokenizer, valid, limit, bos, row.get("id", str(number)))
        for number, row in enumerate(rows)
    ]


def texts(
    rows: Iterable[Mapping[str, Any]], tokenizer: Tokenizer, limit: int = items.LIMIT, bos: int | None = None
) -> list[Choices]:
    """The same questions answered by a choice's text instead of its letter: the choices are not listed before."""
    return [
        items.choices(
            row["question"],
            row["choices"],
            LETTERS.index(row["answer"]),
            tokenizer,
            limit,
            bos,
            row.get("id", str(number)),
        )
        for number, row in enumerate(rows)
    ]
