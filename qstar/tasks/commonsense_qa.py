"""CommonsenseQA (Talmor et al., 2019): five-choice questions answered by a letter, as Quiet-STaR scores them."""

from collections.abc import Iterable, Mapping
from typing import Any

from qstar.tasks import items
from qstar.tasks.items import Item, Tokenizer

LETTERS = "ABCDE"


def question(row: Mapping[str, Any]) -> str:
    """The question and its five choices, one a line: "(A) ...", "(B) ..."."""
    choices = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=True)]
    return "\n".join([row["question"], *choices])


def direct(
    rows: Iterable[Mapping[str, Any]], tokenizer: Tokenizer, limit: int = items.LIMIT, bos: int | None = None
) -> list[Item]:
    """Zero-shot direct items "Q: {question}\\n(A) ...\\nA: {letter}\\n" of rows {question, choices, answer}."""
    valid = items.valid_tokens(tokenizer, LETTERS)
    return [items.item(question(row), row["answer"], tokenizer, valid, limit, bos) for row in rows]
