"""Reinforcement learning on one task from several bases: methods, ReFT's claims, and rewards by a reward model.

    python experiments/rl/study.py --out runs/rl --workers 2                # all parts; give it again to go on
    python experiments/rl/study.py ladder --bases 0 1 2 --out runs/rl
    python experiments/rl/study.py ladder --ground gym --arms base longer reft grpo --steps 40 --out runs/rl_gym
    python experiments/rl/study.py --show experiments/rl/results.jsonl      # tables; --figure FILE: and prm as a figure

A base is the bundled model of cups, fine-tuned on workings with errors: each of the 50 facts (from this cup, this move
leads to that one) is wrong with a probability that is drawn for the base, for some facts above a half, and the workings
continue from the wrong cup. The base samples such workings: most questions have both right and wrong answers.

That is the ground `cups`; `sums` and `gym` have few gold rationales and ask the questions of these (`grounds.py`).

ladder   every method at the same number of rollouts, beside filtered fine-tuning, the writer's examples for longer,
         and ReFT with parts taken away. Learning rates are chosen on dev with the first base; test is asked once.
prm      the outcome, and the scores of `bundled:cups_prm` in several ways, as reward: its score against the truth.

OUT/results.jsonl gets a line for each finished job. Finished jobs are not repeated, interrupted ones resume.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grounds
import jax
import numpy as np
from grounds import Ground, trained

from qstar import config as configs
from qstar import files
from qstar.cli import entry, flags
from qstar.decoding import generate as decoding
from qstar.decoding import score
from qstar.decoding.generate import Written
from qstar.decoding.sampling import Sampling
from qstar.evals import chain
from qstar.policy import Policy
from qstar.reports import figures, frames, tables
from qstar.runs import improve, iterations, judge, load, pool, stored, train
from qstar.tasks.grading.grade import Verdict
from qstar.tasks.problem import Problem, Task, graded
from qstar.training import metrics

RESULTS, SCORER = "results.jsonl", "bundled:cups_prm"
SHOWN = ("reward", "right", "entropy", "sampled_tokens", "dead", "kl", "clipped", "reward_grade", "reward_scorer")


@dataclass(frozen=True)
class Arm:
    """How a base is trained."""

    kind: str  # rollouts, improve, sft, none
    overrides: tuple[str, ...] = ()
    rates: tuple[str, ...] = ("1e-4", "3e-4", "1e-3")  # learning rates that dev chooses from
    like: str = ""  # the arm whose rate it takes instead


def _pairs(*overrides: str, rates: tuple[str, ...] = ("1e-5", "3e-5", "1e-4", "3e-4")) -> Arm:
    """IRPO, or one thing of it changed, with rates of its own."""
    return Arm("improve", ("improve=irpo", "improve.samples=8", "improve.iterations=6", *overrides), rates)


def _rollouts(method: str, *overrides: str, rates: tuple[str, ...] = ("1e-4", "2e-4", "4e-4"), like: str = "") -> Arm:
    return Arm("rollouts", (f"method={method}", *overrides), rates, like)


_REFT = ("reft", "data=rollouts_reft", "method.minibatches=8")  # sixteen updates a step; the paper makes two
LADDER = {
    "base": Arm("none"),
    "grpo": _rollouts("grpo"),
    "ppo": _rollouts("ppo", rates=("2e-5", "5e-5", "1e-4", "2e-4")),
    "online": Arm(
        "improve",
        ("improve=expert_iteration", "improve.samples=8", "improve.iterations=6"),
        rates=("3e-5", "1e-4", "3e-4", "1e-3"),
    ),
    "longer": Arm("sft", rates=("3e-5", "1e-4", "3e-4", "1e-3")),
    "reft": _rollouts(*_REFT, rates=("2e-5", "5e-5", "1e-4", "2e-4")),
    "rloo": _rollouts("rloo"),
    "dr_grpo": _rollouts("dr_grpo", "method.constant=10"),
    "dapo": _rollouts("dapo", "data=rollouts_dapo", "method.minibatches=1"),
    "maxrl": _rollouts("maxrl"),
    "reinforce": _rollouts("reinforce"),
    "reinforce_pp": _rollouts("reinforce_pp"),
    "gspo": _rollouts("gspo"),
    "offline": Arm("improve", ("improve=expert_iteration", "improve.samples=8", "improve.iterations=1"), like="online"),
    "star": Arm("improve", ("improve=star_no_rationalization", "improve.few_shot=false", "improve.iterations=6")),
    "filtered": Arm("sft", like="longer"),  # the writer's examples with a right answer
    "reft_no_partial": _rollouts(*_REFT, "data.rewards.wrong=0", like="reft"),
    "reft_no_kl": _rollouts(*_REFT, "method.kl_coef=0", like="reft"),
    "irpo": _pairs(),
    "irpo_no_nll": _pairs("improve.nll_weight=0"),  # iterated DPO
    "irpo_right": _pairs("improve.objective=sft", rates=("3e-5", "1e-4", "3e-4", "1e-3")),  # right samples alone
}
"""In order of value. `online` is expert iteration, `offline` one round of it."""
MAIN = 6  # of these come first, from all bases
_STEPS = ("policy_gradient", "method.baseline=leave_one_out", "method.to_go=true", "data.max_new_tokens=16")
_SCORED = (*_STEPS, f"data.rewards.scorer={SCORER}")
PRM = {
    "outcome": _rollouts(*_STEPS, like="grpo"),
    "sum": _rollouts(*_SCORED, "data.rewards.right=0", "data.rewards.scorer_as=sum", like="grpo"),
    "min": _rollouts(*_SCORED, "data.rewards.right=0", "data.rewards.scorer_as=min", like="grpo"),
    "softmin": _rollouts(*_SCORED, "data.rewards.right=0", "data.rewards.scorer_as=softmin", like="grpo"),
    "mixed": _rollouts(*_SCORED, "data.rewards.scorer_as=softmin", like="grpo"),
}
PARTS = {"ladder": LADDER, "prm": PRM}


@dataclass(frozen=True)
class Job:
    """One line of the results."""

    part: str  # base, sweep, ladder, prm
    arm: str
    base: int
    lr: str = ""  # of a sweep; else the best of the sweep

    @property
    def key(self) -> tuple:
        return dataclasses.astuple(self)


@dataclass(frozen=True)
class Sizes:
    """Of all jobs."""

    out: Path
    steps: int  # of 128 rollouts
    examples: int  # of a writer
    base_steps: int
    test: int  # questions, each answered with the likeliest tokens, and half of them SAMPLES times by sampling
    until: float  # time at which nothing is begun any more
    more: tuple[str, ...]  # overrides of all runs on rollouts
    ground: Ground = grounds.GROUNDS["cups"]

    @property
    def asked(self) -> int:
        """Questions of methods that learn from their own answers."""
        return self.examples if self.ground.own else self.ground.questions


SAMPLES = 8
DEV = 200  # questions that rates are chosen on


# --- the bases ----------------------------------------------------------------------------------------------------


def fine_tuned(
    sizes: Sizes, folder: Path, base: int, model: Sequence[str], rows: Sequence[Mapping], steps: int, lr: str
) -> None:
    """Train, or resume, a run of method=sft on these examples."""
    files.make(folder)
    kept = [{name: row[name] for name in ("prompt", "completion")} for row in rows]
    files.write_records(folder / "examples.jsonl", kept)
    task, *options = sizes.ground.settings(base)
    given = [
        "~experiments", "method=sft", "data=examples", f"data.path={folder / 'examples.jsonl'}",
        f"data.length={sizes.ground.row}", *model, "model.remat=none", "eval=task", f"task@eval.{task}",
        *(option.replace("task.", "eval.task.", 1) for option in options), f"eval.task.dev={DEV}", f"eval.items={DEV}",
        "eval.few_shot=false", "eval.thoughts=[none]", "eval.batch_size=100", "eval.every=60", f"seed={base}",
        f"steps={steps}", "batch_size=16", f"optim.lr={lr}", "optim.beta2=0.98", "optim.warmup_steps=5", "log_every=20",
        "save_every=60", "sample_every=0", f"run_dir={folder / 'run'}",
    ]  # fmt: skip
    train.run(configs.composed("train", given), folder / "run")


# --- jobs ---------------------------------------------------------------------------------------------------------


def done(out: Path) -> list[dict]:
    return frames.lines(out / RESULTS)


def chosen_rate(out: Path, name: str) -> str | None:
    """The rate of an arm with the best dev accuracy at the end; None while some were not tried, or if all failed."""
    name = LADDER[name].like or name
    tried = [line for line in done(out) if line["part"] == "sweep" and line["arm"] == name]
    lines = {line["lr"]: line["dev"][-1][1] for line in tried if "failed" not in line}
    left = set(LADDER[name].rates) - {line["lr"] for line in tried}
    return max(lines, key=lines.__getitem__) if lines and not left else None


def work(job: Job, sizes: Sizes) -> str:
    """Run a job, unless the time is too short, and append its result; returns a line about it."""
    name = " ".join(map(str, job.key))
    took = [line["seconds"] for line in done(sizes.out) if line["part"] == job.part]
    if time.time() + (max(took) if took else 60) > sizes.until:
        return f"{name}: left for another call"
    started, lr = time.monotonic(), job.lr
    if job.part in PARTS and PARTS[job.part][job.arm].kind != "none":
        lr = chosen_rate(sizes.out, job.arm if job.part == "ladder" else "grpo")
        if lr is None:
            return f"{name}: waits for its learning rates"
    line = dataclasses.asdict(job) | {"ground": sizes.ground.name} | ({"chosen": lr} if lr != job.lr else {})
    try:
        line |= carried_out(job, sizes, lr)
    except entry.EXPECTED as error:
        line |= {"failed": f"{type(error).__name__}: {error}", "dev": [[0, 0.0]]}
    files.append(sizes.out / RESULTS, [line | {"seconds": round(time.monotonic() - started, 1)}], durable=True)
    if "failed" in line:
        return f"{name}: failed, and is tried again by the next call: {line['failed']}"
    last = line.get("test", {}).get("greedy", line["dev"][-1][1] if line.get("dev") else float("nan"))
    return f"{name}: {last:.3f} ({time.monotonic() - started:.0f} s)"


def carried_out(job: Job, sizes: Sizes, lr: str) -> dict:
    base = sizes.out / f"base_{job.base}" / "run"
    if job.part == "base":
        ground, folder = sizes.ground, base.parent
        rows, model = ground.rationales(job.base, sizes.examples), ground.model(folder)
        fine_tuned(sizes, folder, job.base, model, rows, sizes.base_steps, ground.rate)
        return {"dev": dev(base)}
    part = "prm" if job.part == "prm" else "ladder"  # of which a sweep is one
    arm, folder = PARTS[part][job.arm], sizes.out / part / job.arm / f"base_{job.base}_lr_{lr}"
    if arm.kind == "none":
        return {"test": measured(base, None, job.base, sizes)}
    if arm.kind == "sft":
        rows = sizes.ground.rationales(job.base, sizes.examples)
        rows = [row for row in rows if job.arm == "longer" or row["right"]]
        fine_tuned(sizes, folder, job.base, trained(base), rows, 3 * sizes.steps, lr)
        run, step, line = folder / "run", None, {"dev": dev(folder / "run"), "tokens": 0}
    elif arm.kind == "improve":
        line = self_trained(sizes, arm, folder, base, lr, job.base)
        run, step = iterations.trained(folder, len(line["dev"]) - 1), None
    else:
        line = reinforced(sizes, arm, folder, base, lr, job.base)
        run, step = folder, line["step"]
    if job.part == "prm":
        steps = stored.saved_steps(run)[3::4]
        line["scored"] = [
            {"step": at} | measured(run, at, job.base, dataclasses.replace(sizes, test=min(200, sizes.test)), "dev")
            for at in steps
        ]
    return line | ({} if job.part == "sweep" else {"test": measured(run, step, job.base, sizes)})


def self_trained(sizes: Sizes, arm: Arm, folder: Path, base: Path, lr: str, number: int) -> dict:
    """A run of qstar-improve with the same number of rollouts; where questions are few, more samples of each."""
    ground, model = sizes.ground, trained(base)
    cfg = configs.composed("improve", [*arm.overrides, *model])
    rounds, samples = cfg.improve.iterations, cfg.improve.samples
    each = max(sizes.steps * 128 // rounds // samples, 1)
    if ground.own and each > sizes.asked:
        each, samples = sizes.asked, samples if samples == 1 else each * samples // sizes.asked
    steps = max(3 * sizes.steps // rounds, 1)
    given = [
        *arm.overrides, *ground.settings(number), f"task.dev={DEV}", f"task.train={max(each, sizes.asked)}", *model,
        "model.remat=none", f"improve.steps={steps}", f"improve.problems={each}", f"improve.samples={samples}",
        "improve.growth=1.0", f"seed={number}", "sample_batch=64", f"length={ground.row}", "batch_size=16",
        f"optim.lr={lr}", "optim.beta2=0.98", f"optim.warmup_steps={min(5, steps // 2)}", "log_every=20",
        "save_every=1000", f"run_dir={folder}",
    ]  # fmt: skip
    lines = improve.run(configs.composed("improve", given), folder)
    spent = sum(line.get("ledger", {}).get("sample", {}).get("generated_tokens", 0) for line in lines)
    return {"dev": [[line["iteration"], line["accuracy"]["share"]] for line in lines], "tokens": spent}


def reinforced(sizes: Sizes, arm: Arm, folder: Path, base: Path, lr: str, number: int) -> dict:
    """A run on rollouts: the curve, and the newest checkpoint within the budget of 128 rollouts a step."""
    ground = sizes.ground
    source = [] if any(override.startswith("data=") for override in arm.overrides) else ["data=rollouts"]
    given = [
        "~experiments", *source, *arm.overrides, "eval=own_task", *ground.settings(number),
        f"task.train={sizes.asked}", f"task.dev={DEV}", *trained(base), "model.remat=none", "batch_size=128",
        f"data.length={ground.length}", f"eval.items={DEV}", "eval.batch_size=100", f"steps={sizes.steps}",
        f"optim.lr={lr}", "optim.warmup_steps=5", "optim.beta2=0.98", f"seed={number}", "log_every=5", "sample_every=0",
        f"save_every={max(sizes.steps // 20, 1)}", f"eval.every={max(sizes.steps // 5, 1)}", "keep=100", *sizes.more,
        f"run_dir={folder}",
    ]  # fmt: skip
    cfg = configs.composed("train", given)
    train.run(cfg, folder)
    asked = {
        step: files.read_json(next((folder / "checkpoints" / str(step) / "data").glob("process_*")))["questions"]
        for step in stored.saved_steps(folder)
    }
    step = max(step for step in asked if asked[step] * cfg.data.samples <= sizes.steps * cfg.batch_size)
    lines = [line for line in metrics.records(folder) if "sampled_tokens" in line]
    each = float(np.mean([line["sampled_tokens"] for line in lines if line["step"] <= step]))
    curve = [{"step": line["step"]} | {name: line[name] for name in SHOWN if name in line} for line in lines]
    spent = round(asked[step] * cfg.data.samples * each)
    return {"dev": [pair for pair in dev(folder) if pair[0] <= step], "curve": curve, "step": step, "tokens": spent}


def dev(run: Path) -> list[list]:
    """Accuracy on dev with the likeliest tokens, by step."""
    return [[line["step"], line["accuracy"]] for line in frames.evaluations(run)]


# --- measurements -------------------------------------------------------------------------------------------------


def answered(
    policy: Policy, task: Task, problems: Sequence[Problem], samples: int, temperature: float, longest: int
) -> tuple[Written, list[Verdict]]:
    """Answers of at most `longest` tokens, `samples` to each question, and what the grader says of them."""
    sampling = Sampling(temperature, max_new_tokens=longest, stop=tuple(task.stop))
    written = decoding.generate(
        policy.definition, policy.params, policy.tokenizer, [task.prompt(problem) for problem in problems],
        jax.random.key(7), sampling, samples=samples, batch_size=50,
    )  # fmt: skip
    return written, [
        graded(task, problems[i // samples], text, written.finished[i]) for i, text in enumerate(written.text)
    ]


def measured(run: Path, step: int | None, base: int, sizes: Sizes, split: str = "test") -> dict:
    """Greedy and sampled answers, compared with the truth, the base and the reward model, where there are these."""
    ground = sizes.ground
    task = ground.asks(base, test=sizes.test, dev=sizes.test)
    problems = task.problems(split)
    first = sizes.out / f"base_{base}" / "run"
    policy, start = load.load_run(run, step).plain(), load.load_run(first).plain()

    asked = functools.partial(answered, policy, task, longest=ground.longest)
    few = problems[: len(problems) // 2]
    _, greedy = asked(problems, 1, 0.0)
    written, sampled = asked(few, SAMPLES, 1.0)
    right = np.array([verdict.correct for verdict in sampled]).reshape(-1, SAMPLES)
    before = score.score(start.definition, start.params, written.prompts, written.tokens, batch_size=64)
    moved = [np.sum(np.subtract(new, old)) for new, old in zip(written.logprobs, before, strict=True)]
    steps = [task.steps(text + end) for text, end in zip(written.text, written.ending, strict=True)]
    truths = [task.truth(few[i // SAMPLES], some) for i, some in enumerate(steps)]
    answers = np.array([verdict.answer for verdict in sampled]).reshape(-1, SAMPLES).tolist()
    # The answer that a vote chooses is right where one of the samples with it is.
    votes = [row.index(chain.majority(row)) if any(row) else 0 for row in answers]
    out = {
        "greedy": float(np.mean([verdict.correct for verdict in greedy])),
        "sampled": float(right.mean()),
        "vote": float(np.mean(right[np.arange(len(few)), votes])),
        "any": float(right.any(1).mean()),
        "live": float((right.any(1) & ~right.all(1)).mean()),
        "entropy": float(-np.mean(np.concatenate(written.logprobs))),
        "kl": float(np.mean(moved)),
        "length": float(np.mean([len(tokens) for tokens in written.tokens])),
        "finished": float(np.mean(written.finished)),
        "questions": len(problems),
    }
    known = [truth for truth in truths if truth is not None]
    if known:
        out["sound"] = sum(bool(truth.right) and all(truth.right) for truth in known) / len(truths)  # all steps follow
    if ground.scorer:
        scored = [i for i, some in enumerate(steps) if some]
        prompts = [task.prompt(few[i // SAMPLES]) for i in scored]
        judged = judge.opened(ground.scorer).score(prompts, [steps[i] for i in scored])
        lowest = np.full(len(steps), -np.inf)
        lowest[scored] = [scores.min() for scores in judged.steps]
        best = lowest.reshape(-1, SAMPLES).argmax(1)
        out["reranked"] = float(np.mean(right[np.arange(len(few)), best]))
        out["prm_min"] = float(np.mean(lowest[scored]))
        out["prm_sum"] = float(np.mean([scores.sum() for scores in judged.steps]))
    return out


# --- tables -------------------------------------------------------------------------------------------------------


FIGURES = ("greedy", "sampled", "vote", "reranked", "any", "sound", "kl", "entropy", "length")
CONTROLS = (
    "base",
    "longer",
    "filtered",
    "grpo",
    "offline",
    "reft",
    "irpo_right",
    "irpo_no_nll",
    "outcome",
)  # what others are compared with


def show(file: Path) -> None:
    """Print the tables of the results."""
    parts = measurements(file)
    sweep = frames.by(parts.get("sweep", []), "arm")
    rates = sorted({line["lr"] for line in parts.get("sweep", [])}, key=float)
    cells = {arm: {line["lr"]: line["dev"][-1][1] for line in some} for arm, some in sweep.items()}
    print(tables.section("Learning rates, dev, first base", ("arm", *rates), [
        (arm, *(f"{of[lr]:.3f}" if lr in of else "" for lr in rates)) for arm, of in cells.items()
    ]))  # fmt: skip
    for part in [part for part in PARTS if part in parts]:
        arms = frames.by(parts[part], "arm")
        figures_there = [name for name in FIGURES if any(name in line["test"] for line in parts[part])]
        print(tables.section(part, ("arm", "bases", "lr", "tokens", *figures_there), [
            (
                arm, len(some), some[0].get("chosen", ""), f"{np.mean([line.get('tokens', 0) for line in some]):,.0f}",
                *(tables.mean(tested(some), name) for name in figures_there),
            )
            for arm, some in arms.items()
        ]))  # fmt: skip
        controls = [arm for arm in CONTROLS if arm in arms]
        for name in ("greedy", "sampled"):
            print(tables.section(f"{part}, {name}: differences on the same bases", ("arm", *controls), [
                (arm, *(gain(some, arms[control], name) if control != arm else "" for control in controls))
                for arm, some in arms.items()
            ]))  # fmt: skip
    if "prm" not in parts:
        return
    curves = frames.by(parts["prm"], "arm")
    names = ("prm_min", "prm_sum", "sound", "sampled", "length")
    rows = [
        (arm, step, *(f"{value:.3f}" for value in values))
        for arm, some in curves.items()
        for step, *values in zip(*scored(some, names), strict=True)
    ]
    heads = ("reward", "step", "PRM, minimum", "PRM, sum", "all steps right", "right, sampled", "tokens")
    print(tables.section("PRM against truth", heads, rows))


def tested(lines: Sequence[Mapping]) -> list[dict]:
    """What was measured on the test split, by base."""
    return [{"base": line["base"]} | line["test"] for line in lines]


def gain(lines: Sequence[Mapping], others: Sequence[Mapping], name: str) -> str:
    """The mean difference on the same bases, with its interval."""
    return tables.gain(tested(lines), name, tested(others))


def measurements(file: Path) -> dict[str, list[dict]]:
    """The results of jobs that did not fail, by part. Raises ValueError, FileNotFoundError for another file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: expected the {RESULTS} of this study")
    if foreign := [line for line in files.records(file, "a result") if not {"part", "arm", "base"} <= set(line)]:
        raise ValueError(f"{file} is of another study: a line has {', '.join(foreign[0])}, but no part")
    lines = [line for line in files.records(file, "a result") if "failed" not in line]
    return frames.by(lines, "part")


def scored(lines: Sequence[Mapping], names: Sequence[str]) -> list[list[float]]:
    """The steps at which runs were evaluated on dev, then these figures, means over bases."""
    steps = [at["step"] for at in lines[0]["scored"]]
    at = {step: [point for line in lines for point in line["scored"] if point["step"] == step] for step in steps}
    return [steps, *([float(np.mean([point[name] for point in at[step]])) for step in steps] for name in names)]


def draw(file: Path, picture: Path) -> None:
    """The score of the reward model, and the truth, of each reward over steps."""
    parts = measurements(file)
    if "prm" not in parts:
        raise ValueError(f"{file} has no results of prm, which the figure shows")
    curves = frames.by(parts["prm"], "arm")
    names = {"prm_min": "PRM, lowest score of a step", "sampled": "answer right", "sound": "all steps right"}
    of = {arm: dict(zip(("step", *names), scored(lines, tuple(names)), strict=True)) for arm, lines in curves.items()}
    figure, panels = figures.grid(len(names), across=3, width=3.0, height=2.6)
    for panel, (name, label) in zip(panels, names.items(), strict=True):
        shown = [
            figures.Curve(arm, at["step"], at[name], colour)
            for (arm, at), colour in zip(of.items(), figures.COLOURS, strict=False)
        ]
        figures.curves(panel, shown, "step", label, limits=(-0.02, 1.02) if name == "prm_min" else (-0.02, 0.62))
    panels[-1].legend(fontsize=8, frameon=False)
    figures.save(figure, picture)


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--ground", choices=grounds.GROUNDS, default="cups", help="the task, and what bases are taught")
    parser.add_argument(
        "--bases", type=int, nargs="+", default=[0, 1, 2], help="models fine-tuned on different workings"
    )
    parser.add_argument("--arms", nargs="+", default=[], help="only these")
    parser.add_argument("--steps", type=int, default=100, help="of 128 rollouts")
    parser.add_argument("--examples", type=int, help="rationales of a base (2,000, 100, 600)")
    parser.add_argument("--base-steps", type=int, help="of fine-tuning on these (240, 30, 300)")
    parser.add_argument("--test", type=int, default=500, help="questions")
    parser.add_argument("--out", type=Path, help="of one ground; runs/rl, runs/rl_sums, runs/rl_gym")
    parser.add_argument("--workers", type=int, default=1, help="jobs at a time, each with its share of the processors")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no job that may not finish in this time")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the tables of these results and run nothing")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="with --show: also draw the rewards of prm")
    flags.overriding(parser, "--set", "overrides of all runs on rollouts")
    args = parser.parse_args()
    if args.show:
        with entry.errors():
            if args.figure:
                draw(args.show, args.figure)
            return show(args.show)
    ground = grounds.GROUNDS[args.ground]
    args.out = args.out or Path("runs/rl" if args.ground == "cups" else f"runs/rl_{args.ground}")
    for kind, given, known in (("part", args.parts, list(PARTS)), ("arm", args.arms, [*LADDER, *PRM])):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"no {kind} {', '.join(unknown)}; there are {', '.join(known)}")
    if args.figure:
        parser.error("--figure draws what --show FILE has")
    sizes = Sizes(
        args.out.absolute(), args.steps, args.examples or ground.questions, args.base_steps or ground.steps, args.test,
        time.time() + 60 * args.minutes, tuple(args.set), ground,
    )  # fmt: skip
    first, parts = args.bases[0], args.parts or [part for part in PARTS if part != "prm" or ground.scorer]
    if "prm" in parts and not ground.scorer:
        parser.error(f"prm needs a model that scores steps, and there is none of {args.ground}")
    others = {line.get("ground", "cups") for line in done(args.out)} - {args.ground}
    if others:
        parser.error(f"{args.out} holds the study on {', '.join(others)}: give another --out for {args.ground}")
    files.make(args.out)
    of = {part: [arm for arm in PARTS[part] if not args.arms or arm in args.arms] for part in parts}
    ladder, prm = of.get("ladder", []), of.get("prm", [])
    tuned = [arm for arm in LADDER if arm in ladder or (prm and arm == "grpo")]
    tuned = [arm for arm in tuned if LADDER[arm].kind != "none" and not LADDER[arm].like]
    stages = [
        [Job("base", "base", base) for base in args.bases if not (args.out / f"base_{base}/run/summary.md").is_file()]
    ]
    for some in (list(LADDER)[:MAIN], list(LADDER)[MAIN:]):
        stages.append([Job("sweep", arm, first, lr) for arm in tuned if arm in some for lr in LADDER[arm].rates])
        stages.append([Job("ladder", arm, base) for arm in ladder if arm in some for base in args.bases])
        stages.append([Job("prm", arm, base) for arm in prm for base in args.bases])
    stages.append([Job("prm", arm, base) for base in args.bases for arm in prm])
    carry_out = functools.partial(work, sizes=sizes)
    with entry.errors():
        for jobs in stages:
            good = [line for line in done(args.out) if "failed" not in line]
            there = {tuple(line[name] for name in ("part", "arm", "base", "lr")) for line in good}
            left = [job for job in jobs if job.part == "base" or job.key not in there]
            pool.carry_out(carry_out, left, args.workers, entry.prepare_jax)


if __name__ == "__main__":
    main()
