"""Make the golden scores of questions: the released evaluation of a tiny released model, thoughts and all.

    python tests/golden/make_official_score.py quiet-star     # writes official_score.npz beside this file

Environment and checkout are those of `make_official.py`. The checkout's eval_helpers.py writes the prompts and scores
the logits, the model runs in evaluation mode; Mistral's tokenizer is replaced by `letters.py`, which has its ids
for what answers are made of. Kept are the weights of the tokens that occur: restricted to valid tokens and normalised
again, a probability does not depend on the others.
"""

import argparse
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import letters
import make_official
import numpy as np
import torch
import transformers

CASE = make_official.Case(8, 4, 2, kv_heads=2, lengths=(), vocab=32002)
GSM8K = [
    {"question": "How many legs have 9 cats and 3 hens?", "answer": "9*4=36, 3*2=6. #### 42"},
    {"question": "A hen has 7 eggs. How many after 7 less?", "answer": "It is nothing. #### 0"},
    {"question": "What are 1,300 and 5?", "answer": "1300+5=1305 #### 1,305"},
    {"question": "One asks:\nQ: 1+1?\nA: 2\nAnd then 3+4 is?", "answer": "3+4=7 #### 7"},
    {"question": "What is the square of 111?", "answer": "#### 12321"},
]
CSQA = [
    {"question": "Where do fish live?", "choices": ["sky", "sea", "oven", "bed", "sand"], "answer": "B"},
    {"question": "Which one of these is cold?", "choices": ["fire", "sun", "tea", "soup", "ice"], "answer": "E"},
    {"question": "A cat or B bats: what is A A A?", "choices": ["a A", "b B", "c C", "d D", "e E"], "answer": "A"},
    {"question": "Who reads?", "choices": ["stone", "tree", "pupil", "cloud", "fork"], "answer": "C"},
]


class Tokenizer:
    """As eval_helpers.py uses it."""

    pad_token_id = eos_token_id = letters.SPECIAL["</s>"]

    def encode(self, text: str, return_tensors: str) -> torch.Tensor:
        return torch.tensor([[letters.SPECIAL["<s>"], *letters.encode(text)]])

    def decode(self, ids) -> str:
        return letters.decode(ids)


def helpers(checkout: Path):
    """The checkout's eval_helpers module."""
    spec = importlib.util.spec_from_file_location("eval_helpers", checkout / "eval_helpers.py")
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(transformers.AutoTokenizer, "from_pretrained", lambda name: Tokenizer()):
        spec.loader.exec_module(module)
    return module


def columns(rows: list[dict]) -> dict[str, list]:
    """Rows as the data sets have them."""
    table = {name: [row[name] for row in rows] for name in rows[0]}
    if "choices" in table:
        table["choices"] = [{"label": list("ABCDE"), "text": texts} for texts in table["choices"]]
        table["answerKey"] = table.pop("answer")
    return table


def answered(model, tokens: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Logits [S, V] that the released model gives in evaluation, and the thoughts [S, T] it had."""
    inputs = {"input_ids": tokens[None], "attention_mask": (tokens != make_official.PAD).long()[None]}
    with torch.no_grad():
        local = make_official.observed(model, **inputs, labels=tokens[None].clone())
    thoughts = torch.stack(local["sampled_token_history"][1 : CASE.n_ahead - 2], -1)
    return local["logits"][0].numpy(), thoughts.numpy()


def task(model, evaluation, tokenized: dict) -> dict[str, np.ndarray]:
    """Scores of every item and their mean, with the texts and thoughts they came from."""
    tokens = tokenized["input_ids"]
    torch.manual_seed(0)
    logits, thoughts = zip(*(answered(model, row) for row in tokens), strict=True)
    labels = tokenized["labels"].numpy()
    score = lambda some: float(evaluation.compute_metrics((logits[some], labels[some], None))["accuracy"])  # noqa: E731
    each = [score(slice(i, i + 1)) for i in range(len(labels))]
    return {"tokens": labels, "thoughts": np.stack(thoughts), "score": np.array(each), "mean": score(slice(None))}


def main(checkout: Path, out: Path) -> None:
    model = make_official.build(CASE, 0, *make_official.official(checkout)).eval()
    evaluation = helpers(checkout)
    found = {
        "gsm8k": task(model, evaluation, evaluation.preprocess_eval_function_gsm(columns(GSM8K))),
        "csqa": task(model, evaluation, evaluation.preprocess_eval_function_csqa(columns(CSQA))),
    }
    arrays = {f"{name}/{key}": value for name, one in found.items() for key, value in one.items()}
    # Thoughts matter where an answer is scored, at the end of a text: the others are left out.
    for name, one in found.items():
        lengths = (one["tokens"] != make_official.PAD).sum(axis=1)
        arrays[f"{name}/tokens"] = one["tokens"][:, : lengths.max()].astype(np.int32)
        kept = [thoughts[length - 10 : length] for thoughts, length in zip(one["thoughts"], lengths, strict=True)]
        arrays[f"{name}/thoughts"] = np.stack(kept).astype(np.int32)
    used = [arrays[f"{name}/{key}"].ravel() for name in found for key in ("tokens", "thoughts")]
    vocabulary = np.unique(np.concatenate([*used, list(letters.PIECES.values())])).astype(np.int32)
    for name, weight in model.named_parameters():
        rows = vocabulary if name in ("model.embed_tokens.weight", "lm_head.weight") else slice(None)
        arrays[f"weight/{name}"] = weight.detach().numpy()[rows]
    case = asdict(CASE) | {"vocab": len(vocabulary)}
    np.savez_compressed(out, case=json.dumps(case), vocabulary=vocabulary, rows=json.dumps([GSM8K, CSQA]), **arrays)
    print({name: (one["score"], one["mean"]) for name, one in found.items()})


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkout", type=Path, help="of github.com/ezelikman/quiet-star")
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "official_score.npz")
    main(**vars(options.parse_args()))
