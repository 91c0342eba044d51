"""Several thoughts where one is used: accuracy and FLOPs of an answer by number of thoughts and way of choosing.

    python experiments/quiet_star/many_thoughts/many_thoughts.py 0=runs/thinker12_0 1=runs/thinker12_1 \
        --longer 0=runs/longer12_0 --plain 0=runs/plain12_0 --out FOLDER
    python experiments/quiet_star/many_thoughts/many_thoughts.py --show FOLDER

A run stands after the label of its base: one of method=helpful, one with longer thoughts (--longer), one without
thoughts (--plain). A reward model may choose as well, which reads question and thought as text: --label writes what it
is trained on, sampled thoughts of training questions and whether the answer after them is right, --scored asks it.
Lines join results.jsonl of --out; --show prints its table and fills README.md there.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from qstar import files, runs
from qstar.cli import entry, flags
from qstar.data import examples
from qstar.evals.measure import GREEDY, NONE, SAMPLED, ItemRow
from qstar.evals.probability import Direct
from qstar.evals.suite import CupsEval, cups_item
from qstar.methods.helpful import CHOICES
from qstar.models import cost
from qstar.models.cost import Pass
from qstar.policy import Policy
from qstar.reports import frames, tables
from qstar.runs import scoring
from qstar.runs.scoring import Scorer
from qstar.tasks import cups

HERE = Path(__file__).resolve().parent
RECORDS, PLACE = "results.jsonl", "results"
MOVES = (10, 12)
ANY = "any of them right (oracle)"
WAYS = {NONE: "none", GREEDY: "the likeliest", SAMPLED: "one sampled"}


def asked(run: Policy, measure: Direct, ways: tuple[str, ...]) -> list[ItemRow]:
    """Every question with every thought."""
    return [row for index in measure.batches() for row in measure.ask(run, ways, index, jax.random.key(1))]


def alone(run: Policy) -> Policy:
    """A run whose answers come of one thought each."""
    return dataclasses.replace(run, method=dataclasses.replace(run.method, candidates=1))


def right(run: Policy, questions: CupsEval) -> dict[str, np.ndarray]:
    """By way of answering, whether each question is answered right, by draw: [questions, draws]."""
    by_way = frames.grouped(
        asked(run, *questions.measures(run.tokenizer), questions.thoughts), lambda row: row["thoughts"]
    )
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


def sizes(most: int) -> list[int]:
    """Numbers of thoughts to choose from."""
    return [2**n for n in range(1, most.bit_length())]


def answers(run: Policy, questions: CupsEval, most: int) -> Iterator[dict]:
    """A line of each number of thoughts and way of choosing."""
    sampled = dataclasses.replace(questions, thoughts=(NONE, GREEDY, SAMPLED), draws=most)
    for way, of in right(alone(run), sampled).items():
        count = int(way != NONE)
        yield {"thoughts": count, "by": WAYS[way], "right": float(of.mean()), "flops": flops(run, count)}
        if way == SAMPLED:
            any_right = {size: float(of[:, :size].any(1).mean()) for size in sizes(most)}
    for size in sizes(most):
        yield {"thoughts": size, "by": ANY, "right": any_right[size], "flops": flops(run, size)}
        for choose in CHOICES:
            method = dataclasses.replace(run.method, candidates=size, choose=choose)
            of = right(dataclasses.replace(run, method=method), dataclasses.replace(questions, thoughts=(SAMPLED,)))
            yield {"thoughts": size, "by": choose, "right": float(of[SAMPLED].mean()), "flops": flops(run, size)}


def labelled(run: Policy, count: int, draws: int, moves: Sequence[int]) -> Iterator[dict]:
    """Training examples of a reward model: thoughts of so many training questions, in TRL's format with a label."""
    rng, task = np.random.default_rng(0), cups.CupsConfig(*moves)
    problems = [cups.draw(task, rng).problem(str(number)) for number in range(count)]
    items = tuple(cups_item(problem, run.tokenizer) for problem in problems)
    for row in asked(alone(run), Direct("cups", items, 100, draws), (SAMPLED,)):
        yield {"prompt": row["question"], "completion": row["thought"], "label": int(row["exact"])}


def scored(run: Policy, questions: CupsEval, most: int, scorer: Scorer) -> Iterator[dict]:
    """What a reward model makes of the thoughts of `answers`: the best one, and votes weighted by its scores."""
    (measure,) = dataclasses.replace(questions, draws=most).measures(run.tokenizer)
    rows = asked(alone(run), measure, (SAMPLED,))
    spelled = scorer.score([row["question"] for row in rows], [(row["thought"],) for row in rows])
    by_item: dict[str, list[tuple[float, ItemRow]]] = {}
    for score, row in zip(spelled.solutions, rows, strict=True):
        by_item.setdefault(row["item"], []).append((float(score), row))
    each = spelled.cost.flops // len(rows)
    for size in sizes(most):
        about = {"thoughts": size, "flops": flops(run, size) + size * each}
        best = [max(of[:size], key=lambda pair: pair[0])[1]["exact"] for of in by_item.values()]
        won = [_voted(of[:size]) == of[0][1]["answer"] for of in by_item.values()]
        yield about | {"by": "a reward model", "right": float(np.mean(best))}
        yield about | {"by": "votes weighted by a reward model", "right": float(np.mean(won))}


def _voted(scores: Sequence[tuple[float, ItemRow]]) -> str:
    """The prediction whose scores add up to most."""
    totals: dict[str, float] = {}
    for score, row in scores:
        totals[row["prediction"]] = totals.get(row["prediction"], 0.0) + max(score, 0.0)
    return max(totals, key=totals.__getitem__)


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
    order = lambda line: (line["thoughts"], line["by"])  # noqa: E731
    models = list(frames.grouped(lines, lambda line: line["model"]))
    for (thoughts, by), of in sorted(frames.grouped(lines, order).items(), key=lambda item: item[0][0]):
        cells = []
        for model in models:
            shares = {(line["base"], 0): line["right"] for line in of if line["model"] == model}
            each = ", ".join(f"{share:.3f}" for _, share in sorted(shares.items()))
            cells += [tables.over_runs(shares, questions=of[0]["questions"]), each]
        rows.append([thoughts, by, *cells, tables.flops(of[0]["flops"])])
    heads = [head for model in models for head in (model, "of each base")]
    return tables.markdown(("thoughts", "by", *heads, "FLOPs of an answer"), rows)


def record(out: Path, model: str, base: int, lines: Iterable[dict], questions: CupsEval) -> None:
    about = {"model": model, "base": base, "questions": questions.items, "split": questions.split}
    for line in lines:
        files.append(out / RECORDS, [about | line])
        print(f"base {base}: {line['thoughts']} {line['by']}: {line['right']:.3f}", flush=True)


def main() -> None:
    parser = flags.parser(__doc__)
    run = {"type": flags.named, "default": [], "metavar": "BASE=RUN"}
    parser.add_argument("runs", nargs="*", **run)
    parser.add_argument("--longer", nargs="+", **run)
    parser.add_argument("--plain", nargs="+", **run)
    parser.add_argument("--label", nargs="+", **run)
    parser.add_argument("--scored", nargs="+", **run | {"metavar": "BASE=RUN=SCORER"})
    parser.add_argument("--model", default="trained", help="what the runs are called in the table")
    parser.add_argument("--train", type=int, default=2000, help="questions of --label")
    parser.add_argument("--draws", type=int, default=8, help="thoughts of each question of --label")
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
        args.out.mkdir(parents=True, exist_ok=True)
        for base, source in args.label:
            lines = labelled(runs.load_run(source), args.train, args.draws, args.moves)
            examples.write(args.out / f"labelled_{base}.jsonl", list(lines))
        for base, source in args.runs:
            record(args.out, args.model, int(base), answers(runs.load_run(source), questions, args.most), questions)
        for base, source in args.scored:
            source, _, scorer = str(source).partition("=")
            run = runs.load_run(source)
            opened = scoring.opened(scorer, tokenizer=run.tokenizer)
            record(args.out, args.model, int(base), scored(run, questions, args.most, opened), questions)
        for base, source in args.longer:
            record(args.out, args.model, int(base), longer(runs.load_run(source), questions), questions)
        for base, source in args.plain:
            record(args.out, args.model, int(base), plain(runs.load_run(source), questions), questions)
        if args.show:
            text, page = f"\n{table(frames.lines(args.show / RECORDS))}\n", args.show / "README.md"
            print(text)
            if page.is_file():
                tables.fill(page, {PLACE: text})


if __name__ == "__main__":
    main()
