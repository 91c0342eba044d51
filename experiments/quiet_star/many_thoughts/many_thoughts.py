"""Several thoughts where one is used: accuracy and FLOPs of an answer by number of thoughts and way of choosing.

    python experiments/quiet_star/many_thoughts/many_thoughts.py 0=runs/thinker12_0 1=runs/thinker12_1 \
        --longer 0=runs/longer12_0 --plain 0=runs/plain12_0 --out FOLDER
    python experiments/quiet_star/many_thoughts/many_thoughts.py --show FOLDER

A run stands after the label of its base: one of method=helpful, one with longer thoughts (--longer), one without
thoughts (--plain). Lines join results.jsonl of --out; --show prints its table and fills README.md there.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from qstar import files, runs
from qstar.cli import entry, flags
from qstar.evals.measure import GREEDY, NONE, SAMPLED
from qstar.evals.suite import CupsEval
from qstar.methods.helpful import CHOICES
from qstar.models import cost
from qstar.models.cost import Pass
from qstar.policy import Policy
from qstar.reports import frames, tables

HERE = Path(__file__).resolve().parent
RECORDS, PLACE = "results.jsonl", "results"
MOVES = (10, 12)
ANY = "any of them right (oracle)"
WAYS = {NONE: "none", GREEDY: "the likeliest", SAMPLED: "one sampled"}


def right(run: Policy, questions: CupsEval) -> dict[str, np.ndarray]:
    """By way of answering, whether each question is answered right, by draw: [questions, draws]."""
    (measure,) = questions.measures(run.tokenizer)
    rows = [
        row for index in measure.batches() for row in measure.ask(run, questions.thoughts, index, jax.random.key(1))
    ]
    by_way = frames.grouped(rows, lambda row: row["thoughts"])
    items = {way: frames.grouped(of, lambda row: row["item"]) for way, of in by_way.items()}
    return {way: np.array([[row["exact"] for row in draws] for draws in of.values()]) for way, of in items.items()}


def flops(run: Policy, thoughts: int) -> int:
    """Of one answer: a question of eleven moves is read, so many thoughts are generated and each is followed by a
    prediction."""
    length = sum(MOVES) // 2 + 2
    read = (Pass(length, length, 1, gradient=False),)
    if thoughts:
        thinking = dataclasses.replace(run.method.thinking, num_thoughts=thoughts, lookahead=1, scored=False)
        _, sampling, columns = thinking.passes(1, length)
        read += (sampling, dataclasses.replace(columns, gradient=False))
    return cost.flops(run.lm, read)


def answers(run: Policy, questions: CupsEval, most: int) -> Iterator[dict]:
    """A line of each number of thoughts and way of choosing."""
    alone = dataclasses.replace(run, method=dataclasses.replace(run.method, candidates=1))
    sampled = dataclasses.replace(questions, thoughts=(NONE, GREEDY, SAMPLED), draws=most)
    for way, of in right(alone, sampled).items():
        count = int(way != NONE)
        yield {"thoughts": count, "by": WAYS[way], "right": float(of.mean()), "flops": flops(run, count)}
        if way == SAMPLED:
            sizes = [2**n for n in range(1, most.bit_length()) if 2**n <= most]
            found = {size: float(of[:, :size].any(1).mean()) for size in sizes}
    for size in sizes:
        yield {"thoughts": size, "by": ANY, "right": found[size], "flops": flops(run, size)}
        for choose in CHOICES:
            method = dataclasses.replace(run.method, candidates=size, choose=choose)
            of = right(dataclasses.replace(run, method=method), dataclasses.replace(questions, thoughts=(SAMPLED,)))
            yield {"thoughts": size, "by": choose, "right": float(of[SAMPLED].mean()), "flops": flops(run, size)}


def longer(run: Policy, questions: CupsEval) -> Iterator[dict]:
    name = f"thoughts of {run.method.thought_len} tokens"
    for way, of in right(run, dataclasses.replace(questions, thoughts=(GREEDY, SAMPLED))).items():
        yield {"thoughts": 1, "by": f"{name}, {WAYS[way]}", "right": float(of.mean()), "flops": flops(run, 1)}


def plain(run: Policy, questions: CupsEval) -> Iterator[dict]:
    of = right(run, dataclasses.replace(questions, thoughts=(NONE,)))[NONE]
    yield {
        "thoughts": 0,
        "by": "plain model, trained with as many FLOPs",
        "right": float(of.mean()),
        "flops": flops(run, 0),
    }


def table(lines: Sequence[dict]) -> str:
    rows = []
    for (thoughts, by), of in frames.grouped(lines, lambda line: (line["thoughts"], line["by"])).items():
        shares = {(line["base"], 0): line["right"] for line in of}
        rows.append(
            [
                thoughts,
                by,
                len(shares),
                tables.over_runs(shares, questions=of[0]["questions"]),
                ", ".join(f"{share:.3f}" for share in shares.values()),
                tables.flops(of[0]["flops"]),
            ]
        )
    return tables.markdown(
        ("thoughts", "by", "bases", "right", "of each base", "FLOPs of an answer"), sorted(rows, key=lambda row: row[0])
    )


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("runs", nargs="*", metavar="BASE=RUN")
    parser.add_argument("--longer", nargs="+", default=[], metavar="BASE=RUN")
    parser.add_argument("--plain", nargs="+", default=[], metavar="BASE=RUN")
    parser.add_argument("--items", type=int, default=500, help="questions")
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--most", type=int, default=16, help="thoughts of a question")
    parser.add_argument("--moves", type=int, nargs=2, default=MOVES, help="of a question, at least and at most")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--show", type=Path, metavar="FOLDER", help="the table of its records, also in its README.md")
    args = parser.parse_args()
    least, most = args.moves
    questions = CupsEval(items=args.items, split=args.split, min_moves=least, max_moves=most)
    with entry.errors():
        entry.prepare_jax()
        for kind, named in ((answers, args.runs), (longer, args.longer), (plain, args.plain)):
            for said in named:
                base, _, source = said.partition("=")
                about = {"base": int(base), "questions": args.items, "split": args.split}
                run = runs.load_run(source)
                lines = kind(run, questions, args.most) if kind is answers else kind(run, questions)
                args.out.mkdir(parents=True, exist_ok=True)
                for line in lines:
                    files.append(args.out / RECORDS, [about | line])
                    print(f"base {base}: {line['thoughts']} {line['by']}: {line['right']:.3f}", flush=True)
        if args.show:
            text, page = f"\n{table(frames.lines(args.show / RECORDS))}\n", args.show / "README.md"
            print(text)
            if page.is_file():
                page.write_text(tables.filled(page.read_text(encoding="utf-8"), {PLACE: text}), encoding="utf-8")


if __name__ == "__main__":
    main()
