"""Write the warm-up examples of the small model of STaR's arithmetic, a few scratchpads, and its tokenizer.

    python experiments/star/arithmetic/warmup.py warmup
    qstar-train experiments=star/arithmetic/warmup data.path=warmup/examples.jsonl model.tokenizer=warmup/tokenizer.json

The paper starts from GPT-J with ten worked sums as few-shot examples. A model of this size cannot learn in context, so
it is first trained on scratchpads of short sums, some with hints as in rationalization. Longer sums are learned by
self-training.
"""

from pathlib import Path

import numpy as np

from qstar.cli import flags
from qstar.data import examples
from qstar.data import tokenizer as tokenizers
from qstar.tasks.arithmetic import ALPHABET, WORDS, Arithmetic

DIGITS = ("1:500", "2:8000", "3:300", "4:300", "5:300")
"""Examples of each number of digits: enough of two to learn the addition of digits, of more to learn the format."""


def warmup(digits: dict[int, int], hinted: float, seed: int) -> list[dict]:
    """`digits[n]` training examples of n digits, a share `hinted` of them with the hint in the prompt."""
    rng = np.random.default_rng(seed)
    rows = []
    for size, count in digits.items():
        task = Arithmetic(digits=(size,), train=count, seed=seed)
        for problem in task.problems("train"):
            prompt = task.hinted(problem) if rng.random() < hinted else task.prompt(problem)
            rows.append({"prompt": prompt, "completion": task.completion(problem.rationale, problem)})
    return rows


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--digits", nargs="+", default=DIGITS, metavar="N:COUNT")
    parser.add_argument("--hinted", type=float, default=0.7, help="share of examples with a hint in the prompt")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    digits = {int(size): int(count) for size, _, count in (text.partition(":") for text in args.digits)}
    args.folder.mkdir(parents=True, exist_ok=True)
    examples.write(args.folder / "examples.jsonl", warmup(digits, args.hinted, args.seed))
    (args.folder / "tokenizer.json").write_text(tokenizers.characters(ALPHABET, WORDS).to_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
