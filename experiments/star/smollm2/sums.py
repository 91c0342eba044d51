"""Write sums of 1 to 3 digits in ordinary notation, for task=jsonl: train, dev and test.

    python experiments/star/smollm2/sums.py sums

A pretrained model of this size solves almost no sums with STaR's scratchpad, whose digits are separated by spaces, by
adding place by place, or by giving the answer alone. It solves some when it repeats the sum before the answer:

    Q: 57 + 26
    A: 57 + 26 = 83
    #### 83

The splits are those of `task=arithmetic`: a + b and b + a are in the same one.
"""

from pathlib import Path

from qstar import files
from qstar.cli import flags
from qstar.tasks.arithmetic import Arithmetic
from qstar.tasks.problem import SPLITS


def records(task: Arithmetic, split: str) -> list[dict[str, str]]:
    """Questions of a split, each once: short sums come more than once in train."""
    questions = {}
    for problem in task.problems(split):
        a, b = (int(number.replace(" ", "")) for number in problem.question.split("+"))
        question = f"{a} + {b}"
        questions.setdefault(question, {"question": question, "answer": str(a + b), "group": problem.group})
    return [{"id": f"{split}-{i}", **row} for i, row in enumerate(questions.values())]


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("folder", type=Path)
    for split, count in (("train", 400), ("dev", 60), ("test", 80)):
        parser.add_argument(f"--{split}", type=int, default=count, help="sums of each number of digits, at most")
    args = parser.parse_args()
    task = Arithmetic(digits=(1, 2, 3), train=args.train, dev=args.dev, test=args.test)
    args.folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        files.write_records(args.folder / f"{split}.jsonl", records(task, split))


if __name__ == "__main__":
    main()
