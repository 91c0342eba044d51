"""Can thoughts be learned from answers alone? A curriculum over moves, from a base that never saw workings.

    python experiments/quiet_star/faithfulness/invention.py BASE --out runs/invention [--stages 2 3 4 5 6] [--steps 60]

Stage m sees unworked problems of m - 1 and m moves, from where the stage before it ended, with thoughts of m tokens.
Quiet-STaR thinks at every position and has the plain model as its control. LaTRO thinks before the answer alone, with
sixteen thoughts, and learns from nothing but the answer; its control is trained on the same answers without thoughts.
A control has as many steps as cost the same FLOPs. For the base and after every stage, thoughts of problems of m moves
are measured: the log-prob of the answer after the true places, the share of sampled thoughts that contain them, and the
difference of reward between these and the others. Finished stages are not repeated. Lines go into invention.jsonl of
--out; --show prints the tables of such a folder.
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
from qstar.methods.latro import LaTRO
from qstar.methods.quiet_star import QuietStar
from qstar.policy import Policy
from qstar.reports import frames, tables
from qstar.runs import ablation
from qstar.tasks import cups
from qstar.tasks.cups import MOVES, CupsConfig, Game
from qstar.tasks.problem import Problem

HERE = Path(__file__).resolve().parent
Thinks = QuietStar | LaTRO
DRAWS = 8  # sampled thoughts of a problem
EXAMPLES = 20_000  # problems of a stage with nothing but answers to learn from
CONTROLS = {"Quiet-STaR": "plain LM", "LaTRO": "answers alone"}
"""What has as many FLOPs as an arm with thoughts, and none."""
METHODS = {
    "Quiet-STaR": ("method.delimiter='='", "method.num_thoughts=4"),
    "plain LM": ("method=lm",),
    "LaTRO": (
        "method=latro", "method.delimiter='='", "method.num_thoughts=16", "method.lookahead=1", "method.beta=0",
        "batch_size=64", "optim.lr=5e-4",
    ),
    "answers alone": ("method=sft", "batch_size=64", "optim.lr=5e-4"),
}  # fmt: skip


def staged(arm: str, moves: int, source: str, steps: int, out: Path, extra: Sequence[str]) -> TrainConfig:
    """Stage `moves` of an arm, from `source`; a control has as many FLOPs as `steps` of what it controls."""
    thinker = next((thinker for thinker, control in CONTROLS.items() if control == arm), arm)
    if thinker == "LaTRO":
        data = ("data=examples", f"data.path={out / f'answers_{moves}.jsonl'}", f"data.length={moves + 3}")
    else:
        data = (f"data.min_moves={max(moves - 1, 1)}", f"data.max_moves={moves}", f"data.length={moves + 4}")
    evaluation = (f"eval.min_moves={moves}", f"eval.max_moves={moves}")

    def composed(arm: str, *more: str) -> TrainConfig:
        return ablation.composed(ablation.RECIPE, (f"model.source={source}", *METHODS[arm], *data, *evaluation, *more))

    cfg = composed(thinker, f"method.thought_len={moves}", f"steps={steps}", *extra)
    if arm == thinker:
        return cfg
    plain = composed(arm, "steps=1", *extra)
    count = max(round(ablation.cost(cfg) / ablation.cost(plain)), 1)
    return dataclasses.replace(plain, steps=count, log_every=max(count // 4, 1))


def write_answers(file: Path, moves: int) -> None:
    """Problems of a stage with their answers alone."""
    drawn, rng = CupsConfig(min_moves=max(moves - 1, 1), max_moves=moves), np.random.default_rng(moves)
    games = [cups.draw(drawn, rng) for _ in range(EXAMPLES)]
    files.write_records(file, [{"prompt": game.question, "completion": game.answer} for game in games])


def problems(moves: int, items: int, split: str) -> list[Problem]:
    """All problems of one move, whatever their split; of several moves those of the split."""
    if moves > 1 and split == "train":
        drawn, rng = CupsConfig(min_moves=moves, max_moves=moves), np.random.default_rng(0)
        return [game.problem(game.question) for game in (cups.draw(drawn, rng) for _ in range(items))]
    if moves > 1:
        return CupsEval(items=items, min_moves=moves, max_moves=moves, split=split).problems()
    games = itertools.starmap(Game, itertools.product(range(1, 6), MOVES))
    return [game.problem(game.question) for game in games]


def in_the_head(model: Policy, asked: Sequence[Problem]) -> float:
    """Share of right answers without a thought or workings."""
    answers = faithfulness.completed(model.plain(), [problem.question for problem in asked], 1)
    return float(np.mean([text == problem.answer for text, problem in zip(answers, asked, strict=True)]))


def reader_of(method: Thinks, model: Policy, asked: Sequence[Problem]) -> Reader:
    """A model that thinks about these problems; what is no thinker yet begins as one."""
    definition = method.definition(model.lm, model.tokenizer)
    if isinstance(model.method, Thinks):
        params = model.params
    else:
        params = method.start_from(definition, model.language_model, jax.random.key(0))
    return Reader(method, definition, jax.device_put(params), Questions.of(asked, model.tokenizer.encode))


def with_thoughts(method: Thinks, model: Policy, asked: Sequence[Problem]) -> float:
    """Share of right answers after likeliest thoughts, by the prediction that the method blends or replaces."""
    reader = reader_of(method, model, asked)
    thoughts = reader.thoughts(np.zeros((len(asked), method.thought_len), np.int32), np.zeros(len(asked), np.int32))
    predicted = reader.predictions(thoughts, alone=isinstance(method, LaTRO)).argmax(-1)
    return float(np.mean(predicted == [model.tokenizer.encode(problem.answer)[0] for problem in asked]))


def signal(method: Thinks, model: Policy, asked: Sequence[Problem], key: int) -> dict:
    """Log-probs of the answer after the thought alone, in nats, and how they depend on the tokens of the thought."""
    encode, size = model.tokenizer.encode, method.thought_len
    reader = reader_of(method, model, asked)
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


@dataclasses.dataclass(frozen=True)
class Study:
    """What is trained from where, and what it is asked."""

    base: str
    out: Path
    stages: Sequence[int]
    steps: int
    items: int
    split: str
    seed: int
    extra: Sequence[str]

    def staged(self, arm: str, moves: int, source: str) -> TrainConfig:
        return dataclasses.replace(staged(arm, moves, source, self.steps, self.out, self.extra), seed=self.seed)

    def asked(self, moves: int) -> list[Problem]:
        return problems(moves, self.items, self.split)

    def lines(self, thinkers: Sequence[str]) -> Iterator[dict]:
        """Of the base, then of every stage of these arms and their controls."""
        model = runs.load_model(self.base)
        for moves in range(1, max(self.stages) + 1):
            asked = self.asked(moves)
            yield {"arm": "base", "moves": moves, "n": len(asked), "none": in_the_head(model, asked)}
        for moves in self.stages if "LaTRO" in thinkers else ():
            write_answers(self.out / f"answers_{moves}.jsonl", moves)
        for thinker in thinkers:
            for moves in self.stages:
                method = self.staged(thinker, moves, self.base).method
                yield {"arm": thinker, "moves": moves, "at": "start"} | signal(
                    method, model, self.asked(moves), self.seed
                )
            yield from self.trained(thinker)
            yield from self.trained(CONTROLS[thinker])

    def trained(self, arm: str) -> Iterator[dict]:
        """A line for every stage of an arm."""
        source = self.base
        for moves in self.stages:
            cfg = self.staged(arm, moves, source)
            directory = self.out / arm.replace(" ", "_") / f"{moves}_moves" / str(self.seed)
            ablation.train(directory, dataclasses.replace(cfg, eval=NoEval()))
            run, source = runs.load_run(directory), str(directory)
            line = {"arm": arm, "moves": moves, "at": "end", "steps": cfg.steps, "flops": ablation.cost(cfg)}
            seen = problems(moves, self.items, "train")
            if arm in CONTROLS:
                asked = dataclasses.replace(cfg.eval, items=self.items, split=self.split)
                line |= {
                    row["way"]: row["accuracy"] for row in ablation.answered(run, dataclasses.replace(cfg, eval=asked))
                }
                line |= {"n": self.items, "seen": with_thoughts(cfg.method, run, seen), "seen_n": len(seen)}
                line |= {"reward": float(frames.metrics(directory, "reward")["reward"][-1])}
                if arm == "Quiet-STaR":
                    line |= {"weight": float(frames.metrics(directory, "weight")["weight"][-1])}
                line |= signal(cfg.method, run, self.asked(moves), self.seed)
            else:
                held = self.asked(moves)
                line |= {"n": len(held), "none": in_the_head(run, held)}
                line |= {"seen_n": len(seen), "seen": in_the_head(run, seen)}
            yield line


def shown(lines: Sequence[dict]) -> str:
    def share(line: dict, name: str) -> str:
        n = line["seen_n" if name == "seen" else "n"]
        return tables.interval(line[name], *intervals.wilson(round(line[name] * n), n))

    base = [(line["moves"], line["n"], share(line, "none")) for line in lines if line["arm"] == "base"]
    ended = [line for line in lines if line.get("at") == "end"]
    ways = ("none", "likeliest", "sampled", "seen")
    stages = [
        (line["arm"], line["moves"], line["steps"], *(share(line, way) if way in line else "" for way in ways))
        for line in ended
    ]
    names = ("true", "all_but_last", "random", "drawn", "spread", "holds", "first", "last", "gain_of_last")
    signals = [
        (
            line["arm"],
            line["moves"],
            line["at"],
            *(f"{line[name]:.3f}" for name in names),
            *(f"{line[n]:.3f}" if n in line else "" for n in ("reward", "weight")),
        )
        for line in lines
        if line["arm"] in CONTROLS
    ]
    return "\n".join((
        tables.section("In the head", ("moves", "questions", "right"), base),
        tables.section("Stages", ("arm", "moves", "steps", *ways), stages),
        tables.section("Signal", ("arm", "moves", "stage", *names, "reward", "weight"), signals),
    ))  # fmt: skip


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("base", nargs="?", help="a run of tiny/base.yaml with data.worked=0, see README.md")
    parser.add_argument("--out", type=Path, default=Path("runs/invention"))
    parser.add_argument("--arms", nargs="+", choices=CONTROLS, default=list(CONTROLS), help="each with its control")
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 3, 4, 5, 6], help="moves of every stage")
    parser.add_argument("--steps", type=int, default=60, help="of an arm with thoughts in a stage")
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
            for line in Study(args.base, args.out.absolute(), *settings).lines(args.arms):
                print(line, flush=True)
                files.append(args.out / "invention.jsonl", [{"seed": args.seed, **line}])
        if args.show:
            print(shown(frames.lines(args.show / "invention.jsonl")))


if __name__ == "__main__":
    main()
