"""What was kept as the examples, or pairs, that are trained on."""

from collections import Counter
from collections.abc import Mapping, Sequence

from qstar.data import pairs, trl
from qstar.data.examples import Completing, as_sampled, encoded
from qstar.recipes.kept import Kept, Preferred


def examples(
    kept: Sequence[Kept] | Sequence[Preferred],
    prompts: Mapping[str, str],
    grouped: bool = False,
    tokenizer: Completing | None = None,
    stop: Sequence[str] = (),
) -> list[dict]:
    """As `data/examples.py` and `data/pairs.py` read them, with the prompt of each question; `grouped` keeps those of
    one in one row.

    With a tokenizer sampled completions have their `completion_ids`, as they were sampled; `stop` are the texts that
    end a completion.
    """
    return [
        _example(completion, prompts[completion.problem], tokenizer, stop)
        | ({"group": completion.problem} if grouped else {})
        for completion in kept
    ]


def _example(kept: Kept | Preferred, prompt: str, tokenizer: Completing | None, stop: Sequence[str]) -> dict:
    if isinstance(kept, Preferred):
        chosen, rejected = (_example(side, prompt, tokenizer, stop) for side in (kept.chosen, kept.rejected))
        return trl.preference(chosen, rejected)
    example = {"prompt": prompt, "completion": kept.stored, "weight": kept.weight}
    if tokenizer is None or kept.tokens is None:
        return example
    ids = as_sampled(kept.tokens, kept.stored, tokenizer, stop)
    return example if ids is None else example | {"completion_ids": ids}


def fitting(examples: Sequence[dict], tokenizer: Completing, length: int) -> list[dict]:
    """Examples that fit into a row of `length` tokens together with all of their group."""
    sizes: Counter = Counter()
    groups = [example.get("group", number) for number, example in enumerate(examples)]
    for group, example in zip(groups, examples, strict=True):
        sizes[group] += len(pairs.encoded(example, tokenizer) if "chosen" in example else encoded(example, tokenizer))
    return [example for group, example in zip(groups, examples, strict=True) if sizes[group] <= length]
