"""What labels of steps are worth where the truth of every step is known, and the reward models trained on them.

    python experiments/verifiers/truth/truth.py cups --out runs/truth/cups
    python experiments/verifiers/truth/truth.py sums --out runs/truth/sums
    python experiments/verifiers/truth/truth.py --show runs/truth/cups         # tables and figure

For each seed: solutions are sampled and labelled with 64 completions from every step, of which the first 1, 2, 4, ...
are the smaller k; the same solutions are labelled by OmegaPRM; some of them once more with 1,024 completions, which is
what the policy can still reach. A reward model is trained on labels of several kinds, and asked other solutions: is a
step right, how sure, which is the first wrong one, which of 16 solutions is best. Parts that are done are not repeated.

Writes OUT/labels.jsonl and OUT/models.jsonl, a line for each seed and kind, and OUT/reliability.jsonl.
"""

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qstar import config as configs
from qstar import files
from qstar.cli import entry, flags
from qstar.evals import step_scores
from qstar.evals.intervals import student
from qstar.reports import figures, frames, tables
from qstar.runs import label, scoring, train
from qstar.search import labelling
from qstar.search.choose import AGGREGATIONS
from qstar.tasks.problem import Problem, Task

LABELS, MODELS, RELIABILITY, FIGURE = "labels.jsonl", "models.jsonl", "reliability.jsonl", "reliability.png"
TRUTHS = ("right", "reachable")


@dataclass(frozen=True)
class Setting:
    """A task and the model that writes its solutions."""

    task: tuple[str, ...]
    base: str
    length: int  # of a row of training


SETTINGS = {
    "cups": Setting(("task=cups", "temperature=1.3"), "bundled:cups", 96),
    "sums": Setting(("task=arithmetic", "task.digits=[2,3]", "temperature=1.3"), "bundled:sums", 128),
}


# --- labels -------------------------------------------------------------------------------------------------------


def labelled(args: argparse.Namespace, seed: int, name: str, *overrides: str, split: str = "train") -> Path:
    """The folder of a run of qstar-label, which goes on where it was begun."""
    setting, folder = SETTINGS[args.task], args.out / f"seed_{seed}" / name
    if not (folder / label.SUMMARY).is_file():
        given = [*setting.task, f"model.source={setting.base}", f"seed={seed}", f"split={split}", *overrides]
        given = [override for override in given if override.partition("=")[0] not in ("task.train", "task.dev")]
        sizes = [f"task.train={args.problems}", f"task.dev={args.held_out}"]
        label.run(configs.composed("label", [*given, *sizes, f"run_dir={folder}"]), folder)
    return folder


def rows_of(folder: Path) -> list[dict]:
    return list(files.records(folder / label.LABELS, "a labelled solution"))


def judged(row: Mapping, kind: str, k: int) -> list[bool]:
    """What labels of a kind say of the steps of a solution: a share is right where it is above a half."""
    labels = row["labels"] if kind == "omega" else labelling.estimates(row["outcomes"], k, kind == "soft")
    return [step > 0.5 for step in labels]


def spent(folder: Path, k: int, most: int) -> float:
    """Tokens that were written for the first k of `most` completions."""
    ledger = json.loads((folder / label.SUMMARY).read_text(encoding="utf-8"))["ledger"]["label"]
    return ledger["generated_tokens"] * k / most


class Truths:
    """What the task knows of the steps of its solutions."""

    def __init__(self, task: Task, split: str):
        self._task = task
        self._problems: dict[str, Problem] = {problem.id: problem for problem in task.problems(split)}

    def answer(self, row: Mapping) -> str:
        """What the solution of a row declares; empty where nothing can be read."""
        text = "".join(row["completions"])
        text = next((text.removesuffix(stop) for stop in self._task.stop if text.endswith(stop)), text)
        return self._task.grader(text, self._problems[row["problem"]].gold).answer

    def of(self, row: Mapping, what: str) -> list[bool]:
        return list(getattr(self._task.truth(self._problems[row["problem"]], row["completions"]), what))


def compared(rows: Sequence[Mapping], said: Sequence[Sequence[bool]], truths: Truths) -> dict:
    """Judgements of steps against both truths."""
    line = {"solutions": len(rows), "steps": sum(map(len, said))}
    mine = np.concatenate([np.array(steps, bool) for steps in said])
    for what in TRUTHS:
        truth = [truths.of(row, what) for row in rows]
        right = np.concatenate([np.array(steps, bool) for steps in truth])
        line |= {
            f"{what}_base_rate": float(max(right.mean(), 1 - right.mean())),
            f"{what}_accuracy": float((mine == right).mean()),
            f"{what}_wrong_passed": float(mine[~right].mean()) if not right.all() else float("nan"),
            f"{what}_f1": step_scores.first_errors(said, truth).f1,
        }
    return line


def label_lines(args: argparse.Namespace, seed: int) -> Iterator[dict]:
    """Of every kind of labels and every k, on the same solutions."""
    most = max(args.ks)
    sampled = labelled(args, seed, "monte_carlo", f"samples={args.samples}", f"label.k={most}")
    rows, truths = rows_of(sampled), truths_of(args, sampled, "train")
    for k in args.ks:
        for kind in ("hard", "soft"):
            line = compared(rows, [judged(row, kind, k) for row in rows], truths)
            yield {"seed": seed, "kind": kind, "k": k, "tokens": spent(sampled, k, most)} | line
    for k in args.omega:
        folder = labelled(args, seed, f"omega_{k}", "label=omega", f"label.k={k}", f"source={sampled / label.LABELS}")
        omega = rows_of(folder)
        line = compared(omega, [judged(row, "omega", k) for row in omega], truths)
        yield {"seed": seed, "kind": "omega", "k": k, "tokens": spent(folder, 1, 1)} | line
    yield from policy_lines(args, seed, sampled, rows)


def policy_lines(args: argparse.Namespace, seed: int, sampled: Path, rows: Sequence[Mapping]) -> Iterator[dict]:
    """How far labels are from what the policy reaches: the share of `args.rollouts` completions that are right."""
    chosen = args.out / f"seed_{seed}" / "subset.jsonl"
    if not chosen.is_file():
        files.write_records(chosen, rows[: args.subset])
    folder = labelled(
        args, seed, "policy", f"source={chosen}", f"label.k={args.rollouts}", "label.soft=true", f"seed={seed + 1000}"
    )
    if not any(len(row["completions"]) > 1 for row in rows[: args.subset]):
        return
    exact = {(row["problem"], *row["completions"]): row for row in rows_of(folder)}
    both = [(row, exact[(row["problem"], *row["completions"])]) for row in rows[: args.subset]]
    share = np.concatenate([row["labels"][:-1] for _, row in both]).astype(float)  # the last step has no completions
    for k in args.ks:
        for kind in ("hard", "soft"):
            given = [labelling.estimates(row["outcomes"], k, kind == "soft")[:-1] for row, _ in both]
            gap = np.concatenate(given).astype(float) - share
            yield {
                "seed": seed, "kind": kind, "k": k, "against": "policy", "steps": len(gap),
                "error": float(np.abs(gap).mean()), "bias": float(gap.mean()),
                "agree": float(((gap + share > 0.5) == (share > 0.5)).mean()),
            }  # fmt: skip


def truths_of(args: argparse.Namespace, folder: Path, split: str) -> Truths:
    return Truths(configs.load(folder / label.KIND.file, schema=configs.LabelConfig).task, split)


# --- reward models ------------------------------------------------------------------------------------------------


def trained_on(args: argparse.Namespace, seed: int, kind: str) -> list[dict]:
    """Solutions with the labels of a kind: right, reachable, hard_K, soft_K or omega_K."""
    folder = args.out / f"seed_{seed}" / "monte_carlo"
    name, _, k = kind.partition("_")
    if name == "omega":
        return rows_of(args.out / f"seed_{seed}" / kind)
    rows = rows_of(folder)
    if name in TRUTHS:
        truths = truths_of(args, folder, "train")
        return [dict(row) | {"labels": truths.of(row, name)} for row in rows]
    return [dict(row) | {"labels": list(labelling.estimates(row["outcomes"], int(k), name == "soft"))} for row in rows]


def scored(args: argparse.Namespace, seed: int, kind: str, held: Sequence[Mapping]) -> list[np.ndarray]:
    """Scores of the steps of held-out solutions by a reward model that was trained on labels of this kind."""
    setting, folder = SETTINGS[args.task], args.out / f"seed_{seed}" / f"prm_{kind}"
    file = folder / "scores.npz"
    if not file.is_file():
        files.make(folder)
        fields = ("prompt", "completions", "labels", "completion_ids")
        rows = [{name: row[name] for name in fields} for row in trained_on(args, seed, kind)]
        files.write_records(folder / "train.jsonl", rows)
        cfg = configs.composed("train", [
            "~experiments", "method=prm", "data=labelled", "model=pretrained", f"model.source={setting.base}",
            "eval=none", f"data.path={folder / 'train.jsonl'}", "data.separator=''", f"data.length={setting.length}",
            "model.remat=none", f"seed={seed}", f"steps={args.steps}", "batch_size=16", "optim.lr=2e-3",
            "optim.schedule=cosine", "optim.beta2=0.98", f"optim.warmup_steps={min(50, args.steps // 2)}",
            f"save_every={args.steps}", "log_every=100", "sample_every=0", f"run_dir={folder / 'run'}",
        ])  # fmt: skip
        train.run(cfg, folder / "run")
        scores = scoring.opened(folder / "run").score(
            [row["prompt"] for row in held], [row["completions"] for row in held]
        )
        np.savez(file, *scores.steps)
    with np.load(file) as stored:
        return [stored[f"arr_{number}"] for number in range(len(held))]


def model_line(held: Sequence[Mapping], scores: Sequence[np.ndarray], truths: Truths) -> dict:
    """Scores of steps against the truth, and solutions chosen by them."""
    line = compared(held, [list(steps > 0.5) for steps in scores], truths)
    flat = np.concatenate(scores)
    for what in TRUTHS:
        right = np.concatenate([np.array(truths.of(row, what), bool) for row in held])
        line |= {f"{what}_ece": step_scores.ece(flat, right), f"{what}_brier": step_scores.brier(flat, right)}
    for how in AGGREGATIONS:
        line[f"best_{how}"] = chosen_right(held, [scoring.aggregated(steps, how) for steps in scores])
    return line


def chosen_right(held: Sequence[Mapping], weights: Sequence[float]) -> float:
    """Share of questions of which the solution of most weight has the right answer."""
    best: dict[str, tuple[float, bool]] = {}
    for row, weight in zip(held, weights, strict=True):
        if row["problem"] not in best or weight > best[row["problem"]][0]:
            best[row["problem"]] = (weight, row["correct"])
    return float(np.mean([correct for _, correct in best.values()]))


def model_lines(args: argparse.Namespace, seed: int) -> Iterator[tuple[dict, list[dict]]]:
    """Of a reward model for each kind of labels, with its reliability; first what needs no model."""
    folder = labelled(
        args, seed, "held_out", "label=truth", f"samples={args.solutions}", f"seed={seed + 2000}", split="dev"
    )
    held, truths = rows_of(folder), truths_of(args, folder, "dev")
    answers = {row["problem"]: [] for row in held}
    for row in held:
        answers[row["problem"]].append(row)
    yield {"seed": seed, "kind": "one sample", "best_last": float(np.mean([row["correct"] for row in held]))}, []
    vote = [voted(rows, [truths.answer(row) for row in rows]) for rows in answers.values()]
    yield {"seed": seed, "kind": "majority", "best_last": float(np.mean(vote))}, []
    any_right = [any(row["correct"] for row in rows) for rows in answers.values()]
    yield {"seed": seed, "kind": "oracle", "best_last": float(np.mean(any_right))}, []
    for kind in args.models:
        scores = scored(args, seed, kind, held)
        flat = np.concatenate(scores)
        right = np.concatenate([np.array(truths.of(row, "right"), bool) for row in held])
        what = {"seed": seed, "kind": kind}
        cells = [what | dataclasses.asdict(cell) for cell in step_scores.reliability(flat, right) if cell.count]
        yield what | model_line(held, scores, truths), cells


def voted(rows: Sequence[Mapping], answers: Sequence[str]) -> bool:
    """Whether the answer of most solutions is right; of equal counts the first. What has no answer does not vote."""
    counts = Counter(answer for answer in answers if answer)
    if not counts:
        return False
    winner = max(counts, key=counts.__getitem__)
    return next(row["correct"] for row, answer in zip(rows, answers, strict=True) if answer == winner)


# --- tables -------------------------------------------------------------------------------------------------------


def over_seeds(lines: Sequence[Mapping], name: str, form: str = ".3f") -> str:
    """Mean over seeds with its 95 % interval by Student's t; empty where no line has the figure."""
    values = [line[name] for line in lines if name in line and line[name] == line[name]]
    if not values:
        return ""
    mean, half = student(values)
    return f"{mean:{form}}" if half != half else f"{mean:{form}} ± {half:{form}}"


def by(lines: Sequence[Mapping], *keys: str) -> dict[tuple, list[Mapping]]:
    return frames.grouped(lines, lambda line: tuple(line[key] for key in keys))


def label_table(lines: Sequence[Mapping]) -> str:
    names = (
        "labels", "k", "tokens", "right", "wrong called right", "first-error F1", "reachable",
        "unreachable called reachable",
    )  # fmt: skip
    parts = ("right_accuracy", "right_wrong_passed", "right_f1", "reachable_accuracy", "reachable_wrong_passed")
    rows = [
        (kind, k, over_seeds(group, "tokens", ",.0f"), *(over_seeds(group, name) for name in parts))
        for (kind, k), group in by([line for line in lines if "against" not in line], "kind", "k").items()
    ]
    return tables.markdown(names, rows)


def policy_table(lines: Sequence[Mapping]) -> str:
    names = ("labels", "k", "mean error", "bias", "same side of a half")
    rows = [
        (kind, k, *(over_seeds(group, name) for name in ("error", "bias", "agree")))
        for (kind, k), group in by([line for line in lines if "against" in line], "kind", "k").items()
    ]
    return tables.markdown(names, rows)


def model_table(lines: Sequence[Mapping]) -> str:
    names = ("trained on", "right", "ECE", "Brier", "first-error F1", *(f"best of N, {how}" for how in AGGREGATIONS))
    figures_of = ("right_accuracy", "right_ece", "right_brier", "right_f1", *(f"best_{how}" for how in AGGREGATIONS))
    rows = [
        (kind.replace("_", " "), *(over_seeds(group, name) for name in figures_of))
        for (kind,), group in by(lines, "kind").items()
    ]
    return tables.markdown(names, rows)


def show(out: Path, figure: bool) -> None:
    """Print the tables of what has been measured, and draw the reliability of each kind of labels."""
    labels = list(files.records(out / LABELS, "labels of one kind"))
    print(label_table(labels))
    print(policy_table(labels))
    if (out / MODELS).is_file():
        print(model_table(list(files.records(out / MODELS, "a reward model"))))
        if figure and (out / RELIABILITY).is_file():
            draw(list(files.records(out / RELIABILITY, "a bin of scores")), out / FIGURE)


def draw(cells: Sequence[Mapping], file: Path) -> None:
    """A panel for each kind of labels: the share of right steps against the score, every seed a line."""
    kinds = by(cells, "kind")
    figure, axes = figures.grid(len(kinds), min(len(kinds), 4), 2.6, 2.4, shared=True)
    for panel, ((kind,), group) in zip(axes, kinds.items(), strict=True):
        panel.plot([0, 1], [0, 1], color=figures.GREY, linewidth=0.8, linestyle=":")
        curves = []
        for colour, seed in zip(figures.COLOURS, by(group, "seed").values(), strict=False):
            x, y = ([cell[name] for cell in seed] for name in ("score", "right"))
            curves.append(figures.Curve("", x, y, colour))
        figures.curves(panel, curves, "score", "share right", (0, 1))
        panel.set_title(kind.replace("_", " "), fontsize=9)
    figures.save(figure, file)


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("task", choices=SETTINGS, nargs="?", default="cups")
    parser.add_argument("--problems", type=int, default=250, help="of training, whose solutions are labelled")
    parser.add_argument("--samples", type=int, default=4, help="solutions of each")
    parser.add_argument("--ks", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64], help="completions from a step")
    parser.add_argument("--omega", type=int, nargs="*", default=[1, 2, 4, 8, 16, 64], help="completions by OmegaPRM")
    parser.add_argument("--subset", type=int, default=40, help="solutions that are completed many times more")
    parser.add_argument("--rollouts", type=int, default=1024, help="completions of these, from every step")
    parser.add_argument("--held-out", type=int, default=200, help="other problems, of each number of digits")
    parser.add_argument("--solutions", type=int, default=16, help="of each of these")
    parser.add_argument("--models", nargs="*", default=["right", "hard_1", "hard_4", "hard_64", "soft_64", "omega_8"])
    parser.add_argument("--steps", type=int, default=1500, help="of training a reward model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", type=Path, metavar="OUT", help="only print the tables of what is there")
    args = parser.parse_args()
    if args.show:
        return show(args.show, figure=True)
    if args.out is None:
        parser.error("--out FOLDER is needed: results are written there")
    with entry.errors():
        entry.prepare_jax()
        for seed in args.seeds:
            for line in label_lines(args, seed):
                put(args.out / LABELS, line)
        for seed in args.seeds:
            for line, cells in model_lines(args, seed):
                put(args.out / MODELS, line)
                for cell in cells:
                    put(args.out / RELIABILITY, cell)
        show(args.out, figure=False)


def put(file: Path, line: Mapping) -> None:
    """A line of a file of results, in the place of the one with the same names before it."""
    keys = ("seed", "kind", "k", "against", "low")
    name = lambda of: tuple(of.get(key) for key in keys)  # noqa: E731
    before = list(files.records(file, "a result")) if file.is_file() else []
    files.write_records(file, [*(old for old in before if name(old) != name(line)), line])


if __name__ == "__main__":
    main()
