"""Are wrong steps taken back, and is it worth the tokens? Workings that back-track, before and after GRPO.

    python experiments/rl/self_correction.py --rl runs/rl --out runs/self_correction     # from the bases of study.py
    python experiments/rl/self_correction.py --show experiments/rl/self_correction.jsonl

Every base of study.py is fine-tuned on 2,000 workings of its writer, as many steps as `longer` there, in two ways.
*Noticing*: the writer notices each of his slips and goes back; a dot takes the place before it back, and the right one
follows: `3ae=-45.1-1;`. *Clean*: the same workings without slips and dots. Then GRPO from each of the two, and the base
and its GRPO of study.py as they are. Of sampled solutions is counted, by truth: how many places do not follow from the
place before (slips), how many of these are taken back, how many right places are, and how often the answer is right
although a slip stays. Finished lines of OUT/self_correction.jsonl are not repeated.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grounds
import numpy as np
import study

from qstar import files
from qstar.cli import entry, flags
from qstar.evals import chain
from qstar.reports import frames, tables
from qstar.runs import load
from qstar.tasks import cups
from qstar.tasks.problem import Problem

RESULTS = "self_correction.jsonl"
LONGEST = 24  # tokens of a solution: six moves, each with a slip that is taken back, are 22
QUESTIONS = 500  # of test; half of them are answered by samples
TOKENS = 64  # of all solutions that a vote may have
RATE = "2e-4"  # of GRPO
ROOM = (f"data.max_new_tokens={LONGEST}", "data.length=40")
BY_TRUTH = ("slips", "taken_back", "unfounded", "right_with_slip")  # of places or answers, in samples
COLUMNS = ("greedy", "sampled", "vote", "tokens", *BY_TRUTH)


# --- workings -----------------------------------------------------------------------------------------------------


class Noticing(grounds.Writer):
    """The writer of a base, who notices each slip: a dot, then the right place."""

    def examples(self, task: cups.Cups, problems: Sequence[Problem]) -> list[dict]:
        rows = []
        for problem in problems:
            place, noticed, clean = int(problem.question[0]), "", ""
            for move in problem.question[1:-1]:
                if self._rng.random() < self._errors[place, move]:
                    noticed += f"{self._instead[place, move]}."
                place = self._right(place, move)
                noticed, clean = f"{noticed}{place}", f"{clean}{place}"
            prompt = task.prompt(problem)
            rows.append({"prompt": prompt, "noticing": f"-{noticed}-{place};", "clean": f"-{clean}-{place};"})
        return rows


@dataclass
class Count:
    """Of places that are written: those that do not follow from the place before (slips), and those that do."""

    slips: int = 0
    slips_taken_back: int = 0
    right: int = 0
    right_taken_back: int = 0
    stays: bool = False  # a slip that was not taken back

    @classmethod
    def of(cls, problem: Problem, written: str) -> "Count | None":
        """None for a text without workings."""
        workings = re.fullmatch(r"-([1-5.]*)-[1-5];?", written)
        if workings is None:
            return None
        count, kept, follows, moves = cls(), [problem.question[0]], [], problem.question[1:-1]
        for mark in workings[1]:
            if mark == ".":
                if follows:
                    kept.pop()
                    if follows.pop():
                        count.right_taken_back += 1
                    else:
                        count.slips_taken_back += 1
                continue
            move = moves[len(follows)] if len(follows) < len(moves) else None
            follows.append(move is not None and cups.MOVES[move][int(kept[-1]) - 1] == mark)
            kept.append(mark)
            if follows[-1]:
                count.right += 1
            else:
                count.slips += 1
        count.stays = not all(follows)
        return count


# --- measurements -------------------------------------------------------------------------------------------------


def measured(run: Path, step: int | None, test: int) -> dict:
    """Answers to `test` questions, and of SAMPLES solutions to each half of them what became of slips."""
    task = cups.Cups(4, 6, test=test)
    problems = task.problems("test")
    policy = load.load_run(run, step).plain()

    few = problems[: len(problems) // 2]
    _, greedy = study.answered(policy, task, problems, 1, 0.0, LONGEST)
    written, sampled = study.answered(policy, task, few, study.SAMPLES, 1.0, LONGEST)
    lengths = [len(tokens) for tokens in written.tokens]
    right = np.array([verdict.correct for verdict in sampled])
    counts = [Count.of(few[i // study.SAMPLES], text) for i, text in enumerate(written.text)]
    worked = [count for count in counts if count is not None]
    total = {name: sum(getattr(count, name) for count in worked) for name in vars(Count())}
    stays = np.array([count is not None and count.stays for count in counts])
    votes = min(study.SAMPLES, max(int(TOKENS / np.mean(lengths)), 1))
    answers = np.array([verdict.answer for verdict in sampled]).reshape(-1, study.SAMPLES)[:, :votes].tolist()
    share = lambda some, all: some / all if all else None  # noqa: E731
    return {
        "greedy": float(np.mean([verdict.correct for verdict in greedy])),
        "sampled": float(right.mean()),
        "vote": float(np.mean([chain.majority(row) == few[i].answer for i, row in enumerate(answers)])),
        "votes": votes,
        "tokens": float(np.mean(lengths)),
        "slips": share(total["slips"], total["slips"] + total["right"]),
        "taken_back": share(total["slips_taken_back"], total["slips"]),
        "unfounded": share(total["right_taken_back"], total["right"]),
        "right_with_slip": share(int((right & stays).sum()), int(stays.sum())),
        "worked": len(worked) / len(counts),
        "questions": len(few),
    }


WORKINGS = ("as it is", "clean", "noticing")


def lines(
    rl: Path, sizes: study.Sizes, base: int, workings: Sequence[str], lr: str, done: set[tuple]
) -> Iterator[dict]:
    """Of a base, before and after GRPO, with each of these workings, fine-tuned with this learning rate."""
    task = cups.Cups(4, 6, train=sizes.examples, seed=base + 100)
    rows = Noticing(base).examples(task, task.problems("train"))
    start = rl / f"base_{base}" / "run"
    for kind in workings:
        line = {"base": base, "workings": kind, "lr": "" if kind == "as it is" else lr}
        if {_key(line | {"trained": trained}) for trained in ("sft", "grpo")} <= done:
            continue
        folder, before = sizes.out / "_".join((kind.replace(" ", "_"), line["lr"])) / f"base_{base}", start
        if kind != "as it is":
            examples = [{"prompt": row["prompt"], "completion": row[kind]} for row in rows]
            study.fine_tuned(sizes, folder, base, grounds.trained(start), examples, 3 * sizes.steps, lr)
            before = folder / "run"
        yield {**line, "trained": "sft", "sampled_tokens": 0, "test": measured(before, None, sizes.test)}
        more = study.reinforced(sizes, study.LADDER["grpo"], folder / "grpo", before, RATE, base)
        after = measured(folder / "grpo", more["step"], sizes.test)
        yield {**line, "trained": "grpo", "sampled_tokens": more["tokens"], "test": after}


def _key(line: dict) -> tuple:
    return tuple(line[name] for name in ("base", "workings", "lr", "trained"))


# --- tables -------------------------------------------------------------------------------------------------------


def show(file: Path) -> None:
    """Print the table of the results, and what noticing gains over clean workings."""
    records = files.records(file, "a result")
    arms = frames.by([line | {"arm": (line["workings"], line["lr"], line["trained"])} for line in records], "arm")
    of = {
        arm: [{"base": line["base"]} | {k: v for k, v in line["test"].items() if v is not None} for line in some]
        for arm, some in arms.items()
    }
    asked = lambda line: line.get("questions", QUESTIONS // 2)  # noqa: E731
    print(tables.section("Self-correction", ("workings", "rate", "trained", "bases", "sampled in training", *COLUMNS), [
        (
            *arm, len(some), f"{np.mean([line['sampled_tokens'] for line in arms[arm]]):,.0f}",
            *(tables.mean(some, name) for name in COLUMNS if name not in BY_TRUTH),
            *(tables.share_mean(some, name, asked) for name in BY_TRUTH),
        )
        for arm, some in of.items()
    ]))  # fmt: skip
    names = ("greedy", "sampled", "vote")
    print(tables.section("Noticing, less clean, on the same bases", ("rate", "trained", *names), [
        (*rest, *(tables.gain(some, name, of["clean", *rest]) for name in names))
        for (workings, *rest), some in of.items()
        if workings == "noticing" and ("clean", *rest) in of
    ]))  # fmt: skip


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("--rl", type=Path, default=Path("runs/rl"), help="the folder of study.py, for its bases")
    parser.add_argument("--bases", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workings", nargs="+", choices=WORKINGS, default=list(WORKINGS))
    parser.add_argument("--lr", default="1e-4", help="of fine-tuning; that of GRPO is the one of study.py")
    parser.add_argument("--steps", type=int, default=100, help="of 128 rollouts; three times as many of fine-tuning")
    parser.add_argument("--examples", type=int, default=2000, help="of a writer")
    parser.add_argument("--test", type=int, default=QUESTIONS, help="questions")
    parser.add_argument("--out", type=Path, default=Path("runs/self_correction"))
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the tables of these results and run nothing")
    flags.overriding(parser, "--set", "overrides of all runs on rollouts")
    args = parser.parse_args()
    if args.show:
        return show(args.show)
    files.make(args.out)
    more = (*ROOM, *args.set)
    sizes = study.Sizes(args.out.absolute(), args.steps, args.examples, 0, args.test, float("inf"), more)
    with entry.errors():
        entry.prepare_jax()
        done = {_key(line) for line in frames.lines(args.out / RESULTS)}
        for base in args.bases:
            for line in lines(args.rl.absolute(), sizes, base, args.workings, args.lr, done):
                if _key(line) not in done:
                    print(line, flush=True)
                    files.append(args.out / RESULTS, [line], durable=True)
        show(args.out / RESULTS)


if __name__ == "__main__":
    main()
