"""Labels of steps, and reward models trained on them, compared with the exact truth of every step.

    python experiments/verifiers/truth/truth.py cups sums --workers 2 --out runs/truth
    python experiments/verifiers/truth/truth.py --show runs/truth [--page FILE]         # tables and figures

For each seed: solutions are sampled and labelled with 64 completions from every step, of which the first 1, 2, 4, ...
are the smaller k; the same solutions are labelled by OmegaPRM; some of them again with 1,024 completions, an estimate
of what the policy can still reach. A consensus keeps the solutions of which hard labels and OmegaPRM, with the same
k, name the same first error. Reward models are trained on labels of several kinds and evaluated on other
solutions: accuracy and calibration of steps, the first wrong step, the best of 16 solutions.

A solution of one step is a guess without workings: its label is the grade of its answer, independent of the kind of
labels. So labels and first errors are compared on solutions with workings; calibration and best-of-N use all.

Jobs use one core each, the most informative first. A finished job adds a line to OUT/results.jsonl and is not repeated;
in an interrupted one, labelling resumes. Without its line, a job whose runs exist is evaluated again from them.
"""

import argparse
import dataclasses
import functools
import operator
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qstar import config as configs
from qstar import files
from qstar.cli import entry, flags
from qstar.evals import records, step_scores
from qstar.evals.intervals import student
from qstar.reports import figures, frames, tables
from qstar.runs import label, pool, scoring, stored, train
from qstar.search import labelling
from qstar.search.choose import AGGREGATIONS
from qstar.tasks.labels import Consensus, Truth
from qstar.tasks.problem import Problem, Task

LABELS, POLICY = "labels", "policy"
RESULTS, RELIABILITY, BEST = "results.jsonl", "reliability.png", "best.png"
TRUTHS = ("right", "reachable")
CONSENSUS = "consensus"
MAJORITY = "majority"
SOLUTIONS = 16  # of each held-out question; records that do not say have as many
WORKED = "majority of workings"
CONTROLS = ("one sample", MAJORITY, WORKED, "oracle")
REFERENCE = ("hard", 4)  # labels that the others are compared with, seed by seed
WAYS = {"best": "highest score", "vote": "weighted votes"}  # of choosing a solution


@dataclass(frozen=True)
class Setting:
    """A task, the model that writes its solutions, and how many of them."""

    task: tuple[str, ...]
    base: str
    length: int  # of a row of training
    problems: int  # of training, whose solutions are labelled; of sums as many of each number of digits
    held_out: int  # other problems
    ks: Sequence[int]  # completions from a step
    omega: Sequence[int]  # completions by OmegaPRM
    models: Sequence[str]  # kinds of labels that reward models are trained on
    steps: int  # of training a reward model


SETTINGS = {
    "cups": Setting(
        ("task=cups", "temperature=1.3"), "bundled:cups", 24, 2500, 200, (1, 2, 4, 8, 16, 64), (1, 2, 4, 8, 16, 64),
        ("right", "hard_4", "soft_64", "omega_2", "hard_64", "soft_16", "hard_1", "hard_16", "soft_4", "omega_8",
         "consensus_4"), 2000,
    ),
    "sums": Setting(
        ("task=arithmetic", "task.digits=[2,3]", "temperature=1.3"), "bundled:sums", 64, 60, 50, (1, 2, 4, 8, 16),
        (1, 2, 4, 8, 16), ("right", "hard_4", "soft_16", "omega_2", "hard_16"), 600,
    ),
}  # fmt: skip
GIVEN = ("problems", "held_out", "ks", "omega", "models", "steps")  # fields that arguments replace


@dataclass(frozen=True)
class Job:
    """One measurement: a kind of labels and its reward model, or the labels and controls that these need."""

    task: str
    seed: int
    kind: str


@dataclass(frozen=True)
class Place:
    """A task, a seed and the folder of their runs."""

    args: argparse.Namespace
    task: str
    seed: int

    @property
    def setting(self) -> Setting:
        return self.args.settings[self.task]

    @property
    def folder(self) -> Path:
        return self.args.out / self.task / f"seed_{self.seed}"


# --- labels -------------------------------------------------------------------------------------------------------


def labelled(place: Place, name: str, *overrides: str, split: str = "train") -> Path:
    """The folder of a run of qstar-label, which is resumed if it was interrupted."""
    folder = place.folder / name
    if not (folder / label.SUMMARY).is_file():
        sizes = (
            f"task.train={place.setting.problems}",
            f"task.dev={place.setting.held_out}",
            f"task.seed={place.seed}",
        )
        given = (f"model.source={place.setting.base}", f"seed={place.seed}", f"split={split}", *sizes, *overrides)
        label.run(configs.composed("label", [*place.setting.task, *given, f"run_dir={folder}"]), folder)
    return folder


def sampled(place: Place) -> Path:
    """The solutions of training, with the most completions of every step."""
    return labelled(place, "monte_carlo", f"samples={place.args.samples}", f"label.k={max(place.setting.ks)}")


def held_out(place: Place) -> Path:
    """Other questions and their solutions, with the truth of every step."""
    seed = f"seed={place.seed + 2000}"
    return labelled(place, "held_out", "label=truth", f"samples={place.args.solutions}", seed, split="dev")


def searched(place: Place, k: int) -> Path:
    """The solutions of training, labelled by OmegaPRM."""
    source = f"source={sampled(place) / label.LABELS}"
    return labelled(place, f"omega_{k}", "label=omega", f"label.k={k}", source, "batch=128")


def rows_of(folder: Path) -> list[dict]:
    return list(files.records(folder / label.LABELS, "a labelled solution"))


def has_workings(row: Mapping) -> bool:
    return len(row["completions"]) > 1


def judged(row: Mapping, kind: str, k: int) -> list[bool]:
    """The steps of a solution that labels of a kind call right: those whose label is above a half."""
    labels = row["labels"] if kind == "omega" else labelling.estimates(row["outcomes"], k, kind == "soft")
    return [step > 0.5 for step in labels]


def agreed(place: Place, k: int) -> list[dict]:
    """The solutions of training of which hard labels and OmegaPRM, with k completions, name the same first error."""
    hard = place.folder / f"hard_{k}.jsonl"
    files.write_records(hard, trained_on(place, f"hard_{k}"))
    both = Consensus(str(hard), str(searched(place, k))).agreed()
    return [row for row in both if row is not None]


def spent(folder: Path, k: int, most: int) -> float:
    """Tokens that were written for the first k of `most` completions."""
    ledger = files.read_json(folder / label.SUMMARY)["ledger"]["label"]
    return ledger["generated_tokens"] * k / most


class Truths:
    """The exact truth of the steps of solutions of a task."""

    def __init__(self, folder: Path, split: str):
        self._task: Task = configs.load(folder / label.KIND.file, schema=configs.LabelConfig).task
        self._problems: dict[str, Problem] = {problem.id: problem for problem in self._task.problems(split)}

    def answer(self, row: Mapping) -> str:
        """The declared answer of a solution; empty if it has none."""
        text = "".join(row["completions"])
        text = next((text.removesuffix(stop) for stop in self._task.stop if text.endswith(stop)), text)
        return self._task.grader(text, self._problems[row["problem"]].gold).answer

    def of(self, row: Mapping, what: str) -> list[bool]:
        return list(Truth(what).of(self._task, self._problems[row["problem"]], row["completions"]))


def compared(rows: Sequence[Mapping], said: Sequence[Sequence[bool]], truths: Truths) -> dict:
    """Judgements of steps against both truths; first errors of solutions with workings."""
    line = {"solutions": len(rows), "steps": sum(map(len, said))}
    worked = [number for number, row in enumerate(rows) if has_workings(row)]
    mine = np.concatenate([np.array(steps, bool) for steps in said])
    for what in TRUTHS:
        truth = [truths.of(row, what) for row in rows]
        right = np.concatenate([np.array(steps, bool) for steps in truth])
        line |= {
            f"{what}_base_rate": float(max(right.mean(), 1 - right.mean())),
            f"{what}_accuracy": float((mine == right).mean()),
            f"{what}_wrong_passed": float(mine[~right].mean()) if not right.all() else float("nan"),
            f"{what}_f1": step_scores.first_errors([said[i] for i in worked], [truth[i] for i in worked]).f1,
        }
    return line


def label_lines(place: Place) -> Iterator[dict]:
    """Of hard and soft labels with every k, on the same solutions."""
    folder, most = sampled(place), max(place.setting.ks)
    rows, truths = list(filter(has_workings, rows_of(folder))), Truths(folder, "train")
    for k in place.setting.ks:
        for kind in ("hard", "soft"):
            line = compared(rows, [judged(row, kind, k) for row in rows], truths)
            yield {"of": "labels", "kind": kind, "k": k, "tokens": spent(folder, k, most)} | line


def omega_line(place: Place, k: int) -> dict:
    folder = searched(place, k)
    rows = list(filter(has_workings, rows_of(folder)))
    line = compared(rows, [judged(row, "omega", k) for row in rows], Truths(folder, "train"))
    return {"of": "labels", "kind": "omega", "k": k, "tokens": spent(folder, 1, 1)} | line


def consensus_line(place: Place, k: int) -> dict:
    rows = list(filter(has_workings, agreed(place, k)))
    line = compared(rows, [[bool(label) for label in row["labels"]] for row in rows], Truths(sampled(place), "train"))
    tokens = spent(sampled(place), k, max(place.setting.ks)) + spent(searched(place, k), 1, 1)
    return {"of": "labels", "kind": CONSENSUS, "k": k, "tokens": tokens} | line


OF_LABELS = {"omega": omega_line, CONSENSUS: consensus_line}  # of jobs of their own


def policy_lines(place: Place) -> Iterator[dict]:
    """Differences of labels from the share of `args.rollouts` completions that are right.

    The solutions are evenly spaced among those with workings, so that they are of every size of question.
    """
    args, chosen = place.args, place.folder / "subset.jsonl"
    if not args.subset:
        return
    rows = list(filter(has_workings, rows_of(sampled(place))))
    rows = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, args.subset).round().astype(int))]
    files.write_records(chosen, rows)
    seed = f"seed={place.seed + 1000}"
    folder = labelled(place, "policy", f"source={chosen}", f"label.k={args.rollouts}", "label.soft=true", seed)
    exact = {(row["problem"], *row["completions"]): row for row in rows_of(folder)}
    both = [(row, exact[(row["problem"], *row["completions"])]) for row in rows]
    share = np.concatenate([row["labels"][:-1] for _, row in both]).astype(float)  # the last step has no completions
    for k in place.setting.ks:
        for kind in ("hard", "soft"):
            given = [labelling.estimates(row["outcomes"], k, kind == "soft")[:-1] for row, _ in both]
            gap = np.concatenate(given).astype(float) - share
            yield {
                "of": "policy", "kind": kind, "k": k, "steps": len(gap),
                "error": float(np.abs(gap).mean()), "bias": float(gap.mean()),
                "agree": float(((gap + share > 0.5) == (share > 0.5)).mean()),
            }  # fmt: skip


# --- reward models ------------------------------------------------------------------------------------------------


def trained_on(place: Place, kind: str) -> list[dict]:
    """Solutions with the labels of a kind: right, reachable, hard_K, soft_K, omega_K or consensus_K."""
    name, _, k = kind.partition("_")
    if name == CONSENSUS:
        return agreed(place, int(k))
    if name == "omega":
        return rows_of(searched(place, int(k)))
    rows = rows_of(sampled(place))
    if name in TRUTHS:
        truths = Truths(sampled(place), "train")
        return [dict(row) | {"labels": truths.of(row, name)} for row in rows]
    return [dict(row) | {"labels": list(labelling.estimates(row["outcomes"], int(k), name == "soft"))} for row in rows]


def scored(place: Place, kind: str, held: Sequence[Mapping]) -> list[np.ndarray]:
    """Scores of the steps of held-out solutions by a reward model that was trained on labels of this kind."""
    run = place.folder / f"prm_{kind}" / "run"
    if stored.saved_steps(run) != [place.setting.steps]:
        shutil.rmtree(run.parent, ignore_errors=True)  # of a call that was interrupted
        train_on(trained_on(place, kind), run, place)
    return scoring.opened(run).score([row["prompt"] for row in held], [row["completions"] for row in held]).steps


def train_on(rows: Sequence[Mapping], run: Path, place: Place) -> None:
    """A reward model, from the model that wrote the solutions."""
    data, steps = run.parent / "train.jsonl", place.setting.steps
    files.make(run.parent)
    fields = ("prompt", "completions", "labels", "completion_ids")
    files.write_records(data, [{name: row[name] for name in fields} for row in rows])
    cfg = configs.composed("train", [
        "~experiments", "method=prm", "data=labelled", "model=pretrained", f"model.source={place.setting.base}",
        "eval=none", f"data.path={data}", "data.separator=''", f"data.length={place.setting.length}",
        "model.remat=none", f"seed={place.seed}", f"steps={steps}", "batch_size=32", "optim.lr=2e-3",
        "optim.schedule=cosine", "optim.beta2=0.98", f"optim.warmup_steps={min(50, steps // 2)}",
        f"save_every={steps}", "log_every=200", "sample_every=0", f"run_dir={run}",
    ])  # fmt: skip
    train.run(cfg, run)


def model_line(held: Sequence[Mapping], scores: Sequence[np.ndarray], truths: Truths) -> dict:
    """Scores of steps against the truth, and solutions chosen by them."""
    line = compared(held, [list(steps > 0.5) for steps in scores], truths)
    flat = np.concatenate(scores)
    for what in TRUTHS:
        right = np.concatenate([np.array(truths.of(row, what), bool) for row in held])
        line |= {f"{what}_ece": step_scores.ece(flat, right), f"{what}_brier": step_scores.brier(flat, right)}
    return line


def choices(held: Sequence[Mapping], scores: Sequence[np.ndarray], truths: Truths) -> dict:
    """Accuracy of the solution of the highest score, and of weighted votes."""
    answers, line = [truths.answer(row) for row in held], {"questions": len({row["problem"] for row in held})}
    for how in AGGREGATIONS:
        weights = [scoring.aggregated(steps, how) for steps in scores]
        line[f"best_{how}"] = share_right(held, [*range(len(held))], weights)
        line[f"vote_{how}"] = share_right(held, answers, weights)
    return line


def share_right(held: Sequence[Mapping], answers: Sequence, weights: Sequence[float]) -> float:
    """Accuracy of the answer with most weight, the first of equal ones. Solutions without an answer do not vote."""
    totals: dict[str, dict] = {row["problem"]: {} for row in held}
    right = {}
    for row, answer, weight in zip(held, answers, weights, strict=True):
        right[row["problem"], answer] = row["correct"]
        if answer != "":
            of = totals[row["problem"]]
            of[answer] = of.get(answer, 0.0) + weight
    winners = [(problem, max(of, key=of.__getitem__)) for problem, of in totals.items() if of]
    return sum(right[winner] for winner in winners) / len(totals)


def control_lines(place: Place) -> Iterator[dict]:
    """Choices without a reward model: a random solution, the majority of all or of those with workings, the oracle."""
    folder = held_out(place)
    held, truths = rows_of(folder), Truths(folder, "dev")
    sample = float(np.mean([row["correct"] for row in held]))
    answers = [truths.answer(row) for row in held]
    most = share_right(held, answers, np.ones(len(held)))
    worked = share_right(held, answers, [float(has_workings(row)) for row in held])
    questions = len({row["problem"] for row in held})
    any_right = share_right(held, [*range(len(held))], [float(row["correct"]) for row in held])
    for kind, share in zip(CONTROLS, (sample, most, worked, any_right), strict=True):
        yield {"of": "models", "kind": kind, "best_last": share, "solutions": len(held), "questions": questions}


def model_lines(place: Place, kind: str) -> Iterator[dict]:
    """Of the reward model that is trained on a kind of labels, with its reliability."""
    folder = held_out(place)
    held, truths = rows_of(folder), Truths(folder, "dev")
    scores = scored(place, kind, held)
    yield {"of": "models", "kind": kind} | model_line(held, scores, truths) | choices(held, scores, truths)
    for what in TRUTHS:
        right = np.concatenate([np.array(truths.of(row, what), bool) for row in held])
        for cell in step_scores.reliability(np.concatenate(scores), right):
            if cell.count:
                yield {"of": "reliability", "kind": kind, "truth": what} | dataclasses.asdict(cell)


# --- jobs ---------------------------------------------------------------------------------------------------------


def stages(args: argparse.Namespace) -> Iterator[list[Job]]:
    """Lists of independent jobs, each list after the one before it, the most informative first."""
    for task in args.tasks:
        setting = args.settings[task]
        others = [f"omega_{k}" for k in setting.omega if f"omega_{k}" not in setting.models]
        for kinds in ([LABELS], [*setting.models, POLICY, *others]):
            yield [Job(task, seed, kind) for kind in kinds for seed in args.seeds]


def work(job: Job, args: argparse.Namespace) -> str:
    """A job and its line of results."""
    started, place = time.monotonic(), Place(args, job.task, job.seed)
    lines: list[dict] = []
    if job.kind == LABELS:
        lines += [*label_lines(place), *control_lines(place)]
    elif job.kind == POLICY:
        lines += policy_lines(place)
    else:
        name, _, k = job.kind.partition("_")
        if name in OF_LABELS:
            lines.append(OF_LABELS[name](place, int(k)))
        if job.kind in place.setting.models:
            lines += model_lines(place, job.kind)
    seconds = round(time.monotonic() - started, 1)
    files.append(args.out / RESULTS, [dataclasses.asdict(job) | {"seconds": seconds, "lines": lines}], durable=True)
    return f"{job.task}, seed {job.seed}, {job.kind}: {seconds:.0f} s"


def results(out: Path) -> list[dict]:
    return frames.lines(out / RESULTS)


# --- tables -------------------------------------------------------------------------------------------------------


def label_table(lines: Sequence[Mapping]) -> str:
    kind_of, k_of = REFERENCE
    reference = [line for line in lines if (line["kind"], line["k"]) == REFERENCE]
    names = (
        "labels", "k", "solutions", "tokens", "right", "wrong called right", "first-error F1",
        f"less that of {kind_of} {k_of}", "reachable", "unreachable called reachable",
        f"reachable, less that of {kind_of} {k_of}",
    )  # fmt: skip
    rows = [
        (
            kind, k, tables.mean(group, "solutions", form=",.0f"), tables.mean(group, "tokens", form=",.0f"),
            tables.mean(group, "right_accuracy"), tables.mean(group, "right_wrong_passed"),
            tables.mean(group, "right_f1"), tables.gain(group, "right_f1", reference),
            tables.mean(group, "reachable_accuracy"), tables.mean(group, "reachable_wrong_passed"),
            tables.gain(group, "reachable_accuracy", reference),
        )
        for (kind, k), group in sorted(frames.by(lines, "kind", "k").items(), key=lambda item: _place(*item[0]))
    ]  # fmt: skip
    return tables.markdown(names, rows)


def _place(kind: str, k: int) -> tuple:
    """Of labels in a table: OmegaPRM's and the consensus after the others, few completions before many."""
    return {"omega": 1, CONSENSUS: 2}.get(kind, 0), k, kind


def _ordered(lines: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    """Reward models by the labels that they were trained on, exact ones first, after the choices without one."""
    names = [*CONTROLS, *TRUTHS, "hard", "soft", "omega", CONSENSUS]

    def place(kind: str) -> tuple[int, int]:
        name, _, k = kind.partition("_")
        return names.index(name), int(k or 0)

    return dict(sorted(frames.by(lines, "kind").items(), key=lambda item: place(item[0])))


def policy_table(lines: Sequence[Mapping]) -> str:
    names = ("labels", "k", "mean error", "bias", "same side of a half")
    steps = operator.itemgetter("steps")
    rows = [
        (kind, k, tables.mean(group, "error"), tables.mean(group, "bias"), tables.share_mean(group, "agree", steps))
        for (kind, k), group in frames.by(lines, "kind", "k").items()
    ]
    return tables.markdown(names, rows)


def calibration_table(lines: Sequence[Mapping]) -> str:
    names = ("trained on", "right", "ECE", "Brier", "first-error F1", "reachable", "ECE", "Brier")
    parts = (
        "right_accuracy", "right_ece", "right_brier", "right_f1", "reachable_accuracy", "reachable_ece",
        "reachable_brier",
    )  # fmt: skip
    rows = [
        (kind.replace("_", " "), *(tables.mean(group, name) for name in parts))
        for kind, group in _ordered(lines).items() if kind not in CONTROLS
    ]  # fmt: skip
    return tables.markdown(names, rows)


def choice_table(lines: Sequence[Mapping], way: str) -> str:
    """Shares of questions that are answered rightly; in brackets the gain over the majority, seed by seed."""
    majority, worked = ([line for line in lines if line["kind"] == kind] for kind in (MAJORITY, WORKED))
    rows = [
        (kind.replace("_", " "), tables.share_mean(group, "best_last", _questions), *[""] * len(AGGREGATIONS))
        for kind, group in _ordered(lines).items()
        if kind in CONTROLS
    ]
    for kind, group in _ordered(lines).items():
        if kind not in CONTROLS:
            names = [f"{way}_{how}" for how in AGGREGATIONS]
            cells = [
                f"{tables.share_mean(group, name, _questions)} ({tables.gain(group, name, majority, 'best_last')})"
                for name in names
            ]
            rows.append((kind.replace("_", " "), *cells, tables.gain(group, f"{way}_min", worked, "best_last")))
    return tables.markdown(("trained on", *AGGREGATIONS, f"min, less {WORKED}"), rows)


def _questions(line: Mapping) -> int:
    """The number of held-out questions; a record that does not say has `SOLUTIONS` solutions of each."""
    return line.get("questions", line["solutions"] // SOLUTIONS)


def measured(out: Path) -> dict[str, dict[str, list[Mapping]]]:
    """Of every task the lines by what they are of."""
    return {
        task: frames.by([line | {"seed": job["seed"]} for job in jobs for line in job["lines"]], "of")
        for task, jobs in frames.by(results(out), "task").items()
    }


def shown(of: Mapping[str, list[Mapping]]) -> dict[str, str]:
    """The tables of a task, by title."""
    found = {name: table(of[name]) for name, table in (("labels", label_table), ("policy", policy_table)) if name in of}
    if "models" in of:
        found["calibration"] = calibration_table(of["models"])
        found |= {title: choice_table(of["models"], way) for way, title in WAYS.items()}
    return found


def show(out: Path, figure: bool, page: Path | None = None) -> None:
    """Print the tables of the results, and draw the reward models' reliability and accuracy.

    Raises ValueError where the page shows more results than these.
    """
    if page:
        records.check_shown(page, out)
    for task, of in measured(out).items():
        by_title = shown(of)
        print(f"## {task}\n")
        for title, table in by_title.items():
            print(f"### {title}\n\n{table}")
        if page:
            tables.fill(page, {f"{task}, {title}": f"\n{table}\n" for title, table in by_title.items()})
        if figure and "reliability" in of:
            draw_reliability(of["reliability"], out / f"{task}_{RELIABILITY}")
            draw_choices(of["models"], out / f"{task}_{BEST}")


def draw_reliability(cells: Sequence[Mapping], file: Path) -> None:
    """A panel for each kind of labels: the share of true steps against the score, every seed a line."""
    kinds = _ordered(cells)
    figure, axes = figures.grid(len(kinds), min(len(kinds), 5), 2.2, 2.3, shared=True)
    for panel, (kind, group) in zip(axes, kinds.items(), strict=True):
        panel.plot([0, 1], [0, 1], color=figures.GREY, linewidth=0.8, linestyle=":")
        curves = [
            figures.Curve("", [cell["score"] for cell in cells], [cell["right"] for cell in cells], figures.COLOURS[i])
            for i, what in enumerate(TRUTHS)
            for cells in frames.by([cell for cell in group if cell["truth"] == what], "seed").values()
        ]
        figures.curves(panel, curves, "score", "share of steps" if panel in axes[::5] else "", (0, 1))
        panel.set_title(kind.replace("_", " "), fontsize=9)
    figures.legend(figure, TRUTHS, figures.COLOURS[:2], "oo")
    figures.save(figure, file)


def draw_choices(lines: Sequence[Mapping], file: Path) -> None:
    """Shares of questions that are answered rightly with each kind of labels and each aggregation."""
    kinds = _ordered(lines)
    names = [kind for kind in kinds if kind not in CONTROLS]
    figure, axes = figures.grid(len(WAYS), len(WAYS), 4, 0.45 * len(names) + 1)
    for panel, (way, title) in zip(axes, WAYS.items(), strict=True):
        shown = []
        for row, name in enumerate(names):
            for i, how in enumerate(AGGREGATIONS):
                mean, half = student([line[f"{way}_{how}"] for line in kinds[name]])
                half = half if half == half else 0.0
                above = 0.24 - 0.16 * i
                shown.append(figures.Point(row, mean, mean - half, mean + half, figures.COLOURS[i], above=above))
        figures.points(panel, [name.replace("_", " ") for name in names], shown, "", (0, 1))
        for control in CONTROLS:
            mean = student([line["best_last"] for line in kinds[control]])[0]
            figures.level(panel, mean, upright=True)
            panel.text(mean, len(names) - 0.4, control, fontsize=7, rotation=25, color="0.4")
        panel.set_xlabel(f"questions answered rightly, {title}", fontsize=9)
    figures.legend(figure, AGGREGATIONS, figures.COLOURS[: len(AGGREGATIONS)], "oooo")
    figures.save(figure, file)


def main() -> None:
    parser = flags.parser(__doc__)
    parser.add_argument("tasks", nargs="*", default=["cups"], help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--problems", type=int, help="of training, whose solutions are labelled")
    parser.add_argument("--samples", type=int, default=4, help="solutions of each")
    parser.add_argument("--ks", type=int, nargs="+", help="completions from a step")
    parser.add_argument("--omega", type=int, nargs="*", help="completions by OmegaPRM")
    parser.add_argument("--subset", type=int, default=40, help="solutions that are completed many times more")
    parser.add_argument("--rollouts", type=int, default=1024, help="completions of these, from every step")
    parser.add_argument("--held-out", type=int, help="other problems")
    parser.add_argument("--solutions", type=int, default=SOLUTIONS, help="of each of these")
    parser.add_argument("--models", nargs="*", help="kinds of labels that reward models are trained on")
    parser.add_argument("--steps", type=int, help="of training a reward model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=1, help="jobs at a time, each with its share of the processors")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", type=Path, metavar="OUT", help="print the tables of these results and run nothing")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="with --show: write the tables into this page as well"
    )
    args = parser.parse_args()
    if args.page and not args.show:
        parser.error("--page FILE takes the tables that --show OUT prints: give that as well")
    if args.show:
        return show(args.show, figure=True, page=args.page)
    unknown = [task for task in args.tasks if task not in SETTINGS]
    if unknown:
        parser.error(f"task {unknown[0]!r}: expected {' or '.join(SETTINGS)}")
    if args.out is None:
        parser.error("--out FOLDER is needed: results are written there")
    given = {name: getattr(args, name) for name in GIVEN if getattr(args, name) is not None}
    args.settings = {task: dataclasses.replace(setting, **given) for task, setting in SETTINGS.items()}
    files.make(args.out)
    with entry.errors():
        done = {(job["task"], job["seed"], job["kind"]) for job in results(args.out)}
        for jobs in stages(args):
            todo = [job for job in jobs if dataclasses.astuple(job) not in done]
            pool.carry_out(functools.partial(work, args=args), todo, args.workers, entry.prepare_jax)
        show(args.out, figure=False)


if __name__ == "__main__":
    main()
