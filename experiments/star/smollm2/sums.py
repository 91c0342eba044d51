"""Write sums of 1 to 3 digits as a language model meets them in text, for task=jsonl: train, dev and test.

    python experiments/star/smollm2/sums.py sums

A pretrained model of this size gets next to nothing right on STaR's scratchpad, whose digits stand apart, nor where it
adds place by place, nor where it gives the answer alone. It does where it says the sum again before the answer, with
numbers written as always:

    Q: 57 + 26
    A: 57 + 26 = 83
    #### 83

Which sums are dev and test is what `task=arithmetic` says: a + b and b + a fall into the same split.
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
