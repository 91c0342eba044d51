"""GSM8K (Cobbe et al., 2021): grade-school word problems whose answer is a number, as Quiet-STaR scores them."""

from collections.abc import Iterable, Mapping

from qstar.tasks import items
from qstar.tasks.items import Item, Tokenizer


def gold(answer: str) -> str:
    """The number behind "####", as written: "1,000" keeps its comma."""
    return answer.split("####")[-1].strip()


def direct(
    rows: Iterable[Mapping[str, str]], tokenizer: Tokenizer, limit: int = items.LIMIT, bos: int | None = None
) -> list[Item]:
    """Zero-shot direct items "Q: {question}\\nA: {number}\\n" of rows {question, answer}, and id where they have one.

    Differs from the official code: a number with a sign is scored by its digits like any other; there it is taken for
    a letter and only its newline is scored (2 of the 1,319 test items).
    """
    valid = items.digit_tokens(tokenizer)
    return [
        items.item(row["question"], gold(row["answer"]), tokenizer, valid, limit, bos, row.get("id", str(number)))
        for number, row in enumerate(rows)
    ]
