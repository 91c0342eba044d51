"""Can thoughts be learned from answers alone? Quiet-STaR with a curriculum over moves, from a base without workings.

    python experiments/quiet_star/faithfulness/invention.py BASE --out runs/invention [--stages 2 3 4 5 6] [--steps 60]

Stage m of both arms sees unworked problems of m - 1 and m moves, from where the stage before it ended. Quiet-STaR has
thoughts of m tokens, the plain model as many steps as cost the same FLOPs. For the base and after every stage, thoughts
of problems of m moves are measured: the log-prob of the answer after the true places, the share of sampled thoughts
that contain them, and the difference of reward between these and the others. Finished stages are not repeated. Lines go
into invention.jsonl of --out; --show prints the tables of such a folder.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import faithfulness
import jax
import numpy as np
from faithfulness import PLACES, Questions, Reader

from qstar import files, runs
from qstar.cli import entry, flags
from qstar.config import TrainConfig
from qstar.evals import intervals
from qstar.evals.suite import CupsEval, NoEval
from qstar.methods.quiet_star import QuietStar
from qstar.policy import Policy
from qstar.reports import frames, tables
from qstar.runs import ablation
from qstar.tasks.cups import MOVES, Game
from qstar.tasks.problem import Problem

HERE = Path(__file__).resolve().parent
DRAWS = 8  # sampled thoughts of a problem
THINKER = ("method.delimiter='='", "method.num_thoughts=4")


def staged(arm: str, moves: int, source: str, steps: int, extra: Sequence[str]) -> TrainConfig:
    """Stage `moves` of an arm, from `source`."""
    common = (
        f"model.source={source}",
        f"data.min_moves={max(moves - 1, 1)}",
        f"data.max_moves={moves}",
        f"data.length={moves + 4}",  # a problem a row
        f"eval.min_moves={moves}",
        f"eval.max_moves={moves}",
    )
    thinking = (*common, *THINKER, f"method.thought_len={moves}", f"steps={steps}", *extra)
    cfg = ablation.composed(ablation.RECIPE, thinking)
    if arm == "plain LM":
        plain = ablation.composed(ablation.RECIPE, (*common, "method=lm", "steps=1", *extra))
        count = max(round(ablation.cost(cfg) / ablation.cost(plain)), 1)
        cfg = dataclasses.replace(plain, steps=count, log_every=max(count // 4, 1))
    return cfg


def problems(moves: int, items: int, split: str) -> list[Problem]:
    """All problems of one move, whatever their split; of several moves held-out ones."""
    if moves > 1:
        return CupsEval(items=items, min_moves=moves, max_moves=moves, split=split).problems()
    games = itertools.starmap(Game, itertools.product(range(1, 6), MOVES))
    return [game.problem(game.question) for game in games]


def in_the_head(model: Policy, asked: Sequence[Problem]) -> float:
    """Share of right answers without a thought or workings."""
    answers = faithfulness.completed(model.plain(), [problem.question for problem in asked], 1)
    return float(np.mean([text == problem.answer for text, problem in zip(answers, asked, strict=True)]))


def signal(method: QuietStar, model: Policy, asked: Sequence[Problem], key: int) -> dict:
    """Log-probs of the answer after the thought alone, in nats, and how they depend on the tokens of the thought."""
    definition = method.definition(model.lm, model.tokenizer)
    if isinstance(model.method, QuietStar):
        params = model.params
    else:
        params = method.start_from(definition, model.language_model, jax.random.key(0))
    encode, size = model.tokenizer.encode, method.thought_len
    reader = Reader(method, definition, jax.device_put(params), Questions.of(asked, encode))
    gold = np.array([encode(problem.answer)[0] for problem in asked])
    score = lambda tokens: reader.predictions(tokens, alone=True)[np.arange(len(gold)), gold]  # noqa: E731
    rng = np.random.default_rng(key)
    true = np.array([encode(problem.rationale.strip("-"))[:size] for problem in asked])
    wrong = np.array([encode("".join(rng.choice(list(PLACES), size))) for _ in asked])
    # All places but the last: the answer is a move away.
    before = true.copy()
    before[:, -1] = wrong[:, -1]
    sampled = [reader.sampled(jax.random.key(key + draw)) for draw in range(DRAWS)]
    scores = np.stack([score(thought) for thought in sampled])
    holds = np.stack([(thought == true).all(-1) for thought in sampled])
    last = np.stack([thought[:, -1] == true[:, -1] for thought in sampled])
    advantage = scores - scores.mean(0)
    return {
        "true": float(score(true).mean()),
        "all_but_last": float(score(before).mean()),
        "random": float(score(wrong).mean()),
        "drawn": float(scores.mean()),
        "spread": float(advantage.std()),
        "holds": float(holds.mean()),
        "first": float(np.mean([thought[:, 0] == true[:, 0] for thought in sampled])),
        "last": float(last.mean()),
        "gain_of_last": float(advantage[last].mean() - advantage[~last].mean())
        if last.any() and not last.all()
        else 0.0,
    }


def study(
    base: str, out: Path, stages: Sequence[int], steps: int, items: int, split: str, seed: int, extra: Sequence[str]
) -> Iterator[dict]:
    """Lines of the base, then of every stage of both arms."""
    model = runs.load_model(base)
    held = {moves: problems(moves, items, split) for moves in range(1, max(stages) + 1)}
    for moves, asked in held.items():
        yield {"arm": "base", "moves": moves, "n": len(asked), "none": in_the_head(model, asked)}
    for moves in stages:
        method = staged("Quiet-STaR", moves, base, steps, extra).method
        yield {"arm": "Quiet-STaR", "moves": moves, "at": "start", **signal(method, model, held[moves], seed)}
    for arm in ("Quiet-STaR", "plain LM"):
        source = base
        for moves in stages:
            cfg = dataclasses.replace(staged(arm, moves, source, steps, extra), seed=seed)
            line = {"arm": arm, "moves": moves, "steps": cfg.steps, "flops": ablation.cost(cfg)}
            directory = out / arm.replace(" ", "_") / f"{moves}_moves" / str(seed)
            ablation.train(directory, dataclasses.replace(cfg, eval=NoEval()))
            run, source = runs.load_run(directory), str(directory)
            asked = dataclasses.replace(cfg, eval=dataclasses.replace(cfg.eval, items=items, split=split))
            ways = {row["way"]: row["accuracy"] for row in ablation.answered(run, asked)}
            line |= {"n": items, **ways}
            if arm == "Quiet-STaR":
                line |= {"reward": float(frames.metrics(directory, "reward")["reward"][-1])}
                line |= {"weight": float(frames.metrics(directory, "weight")["weight"][-1])}
                line |= signal(cfg.method, run, held[moves], seed)
            yield {**line, "at": "end"}


def shown(lines: Sequence[dict]) -> str:
    share = lambda line, name: tables.interval(line[name], *intervals.wilson(round(line[name] * line["n"]), line["n"]))  # noqa: E731
    base = [(line["moves"], line["n"], share(line, "none")) for line in lines if line["arm"] == "base"]
    ended = [line for line in lines if line.get("at") == "end"]
    ways = ("none", "likeliest", "sampled")
    stages = [
        (line["arm"], line["moves"], line["steps"], *(share(line, way) if way in line else "" for way in ways))
        for line in ended
    ]
    names = ("true", "all_but_last", "random", "drawn", "spread", "holds", "first", "last", "gain_of_last")
    signals = [
        (
            line["moves"],
            line["at"],
            *(f"{line[name]:.3f}" for name in names),
            *(f"{line[n]:.3f}" if n in line else "" for n in ("reward", "weight")),
        )
        for line in lines
        if line["arm"] == "Quiet-STaR"
    ]
    return "\n".join((
        tables.section("In the head", ("moves", "questions", "right"), base),
        tables.section("Stages", ("arm", "moves", "steps", *ways), stages),
        tables.section("Signal", ("moves", "stage", *names, "reward", "weight"), signals),
    ))  # fmt: skip


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("base", nargs="?", help="a run of tiny/base.yaml with data.worked=0, see README.md")
    parser.add_argument("--out", type=Path, default=Path("runs/invention"))
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 3, 4, 5, 6], help="moves of every stage")
    parser.add_argument("--steps", type=int, default=60, help="of Quiet-STaR in a stage")
    parser.add_argument("--items", type=int, default=500, help="questions")
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=Path, metavar="FOLDER")
    flags.overriding(parser, "--set", "overrides of every stage of both arms")
    args = parser.parse_args()
    with entry.errors():
        entry.prepare_jax()
        if args.base:
            args.out.mkdir(parents=True, exist_ok=True)
            settings = (args.stages, args.steps, args.items, args.split, args.seed, args.set)
            for line in study(args.base, args.out, *settings):
                print(line, flush=True)
                files.append(args.out / "invention.jsonl", [{"seed": args.seed, **line}])
        if args.show:
            print(shown(frames.lines(args.show / "invention.jsonl")))


if __name__ == "__main__":
    main()
