"""Write solutions of countdown for a small model from scratch to learn from, and its tokenizer.

    python experiments/search/frontier/countdown.py runs/countdown/data
    qstar-train experiments=search/frontier/countdown run_dir=runs/countdown/policy

Problems are drawn with their solutions, a random one each, so that the model learns which steps are likely to lead to
the target and cannot be sure.
"""

from pathlib import Path

from qstar import files
from qstar.cli import flags
from qstar.data import examples
from qstar.data import tokenizer as tokenizers
from qstar.tasks.countdown import ALPHABET, WORDS, Countdown


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", type=int, default=40_000, help="of each count of numbers")
    parser.add_argument("--numbers", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    task = Countdown(numbers=tuple(args.numbers), train=args.problems, seed=args.seed)
    solved = [
        {"prompt": task.prompt(problem), "completion": task.completion(problem.rationale, problem)}
        for problem in task.problems("train")
    ]
    files.make(args.folder)
    examples.write(args.folder / "examples.jsonl", solved)
    (args.folder / "tokenizer.json").write_text(tokenizers.characters(ALPHABET, WORDS).to_json(), encoding="utf-8")
    print(f"{len(solved):,} solutions are in {args.folder}")


if __name__ == "__main__":
    main()
