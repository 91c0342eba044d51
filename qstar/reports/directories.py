"""Run directories to look at: `qstar.open("latest")` gives what a command left as frames, and its model to ask.

    run = qstar.open("runs/mine")        of qstar-train, qstar-improve, qstar-solve or qstar-label, or an evaluation
    run.metrics("nll", "reward")         a frame (`reports/arrow.py`); so are evals, samples, rationales, ...
    run.read(["3aegbdh=4;"])             many texts with the thoughts before every token (`reports/readings.py`)
    run.ask("gsm8k", items=50)           an evaluation by name (`reports/interactive.py`)
    run.tree("dev-8")                    all that a search proposed for a question (`reports/searchtree.py`)

What a directory does not hold is refused with what it does hold. Files are read when they are asked for, also of a run
that is still going on; the model, the configuration and a search's table are kept once they have been needed.
"""

import functools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from qstar import config as configs
from qstar import files
from qstar.config import C, ImproveConfig, LabelConfig, SolveConfig, TrainConfig
from qstar.data import rationales as stores
from qstar.data.rationales import Query, Store
from qstar.evals import journal
from qstar.methods.protocol import Counts
from qstar.models import cost
from qstar.reports import frames, html, overview
from qstar.reports.arrow import Frame
from qstar.reports.overview import Panel
from qstar.runs import label, load, scoring, solve, stored
from qstar.runs.kinds import Kind
from qstar.runs.record import ROLLOUTS
from qstar.training import metrics

if TYPE_CHECKING:
    from qstar.evals.measure import Evaluation
    from qstar.policy import Policy
    from qstar.reports.faithfulness import Held
    from qstar.reports.interactive import Answers
    from qstar.reports.readings import Readings
    from qstar.reports.searchtree import SearchTree

SETTINGS = "improve.yaml"  # of self-training
ROLLOUT = {
    "step": "iteration",
    "problem": "problem",
    "question": "question",
    "gold": "gold",
    "written": "written",
    "answer": "answer",
    "correct": "correct",
    "verdict": "reason",
    "tokens": "generated_tokens",
    "reward": "weight",
}
"""Columns of a frame of rollouts, and the store's names of them."""


def open(
    path: "str | Path | RunDirectory" = "latest", step: int | None = None, *, thinks: bool = False
) -> "RunDirectory":
    """What a command left in a directory.

    Args:
        path: a directory, or `latest`: of those under runs/ that do not belong to another, the one begun last. One that
            is open already is opened again where `step` names a checkpoint.
        step: the checkpoint whose model is asked (default: the newest).
        thinks: `latest` is the newest run with a model that thinks.

    Raises FileNotFoundError where there is no such directory, ValueError for one that no command wrote, TypeError for
    what names none.
    """
    if isinstance(path, RunDirectory):
        return path if step is None else type(path)(path.path, step)
    if not isinstance(path, str | Path):
        raise TypeError(f"qstar.open({path!r}): expected a directory, as text or a path, or latest")
    directory = files.expanded(path)
    if str(path) == "latest":
        directory = stored.latest_thinker() if thinks else _latest()
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "is not there"
        raise FileNotFoundError(f"{directory} {what}: expected a run directory, or latest, the newest one under runs/")
    kind = kind_of(directory)
    if kind is not None:
        return kind(directory, step)
    within = run_folders(directory)
    if within:
        raise ValueError(
            f"{directory} is no run directory but holds {len(within)}: open one of them, as in "
            f"qstar.open({str(within[0])!r}), or all as a sweep with qstar.sweep({str(path)!r})"
        )
    if (directory / "model.json").is_file() or (directory / "config.json").is_file():
        raise ValueError(f"{directory} holds a model and no run: load it with qstar.load_model({str(path)!r})")
    raise ValueError(
        f"{directory} is no run directory: it holds none of {', '.join(KINDS)}, and no answers of qstar-evaluate"
    )


def run_folders(folder: Path) -> list[Path]:
    """The run directories below a folder that do not lie within another one, by name.

    Raises ValueError for a folder that is none of runs but, say, a whole disk.
    """
    runs = []
    for number, (place, within, names) in enumerate(os.walk(folder)):
        if number == SEARCHED:
            raise ValueError(
                f"{folder} has over {SEARCHED:,} folders below it: name the folder of the runs that are meant"
            )
        if Path(place) != folder and not KINDS.keys().isdisjoint(names):
            runs.append(Path(place))
            within.clear()
    return sorted(runs, key=_by_number)


SEARCHED = 20_000  # folders, which take a second


def _by_number(path: Path) -> list[tuple[bool, int, str]]:
    """Jobs of a sweep are numbered: 10 comes after 9."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in path.parts]


def _latest() -> Path:
    runs = run_folders(Path("runs"))
    if not runs:
        raise FileNotFoundError(
            f"no run under {Path('runs').absolute()}: start one with qstar-train, or name a directory"
        )
    return max(runs, key=lambda path: (max(_begun(path)), str(path)))


def _begun(path: Path) -> Iterator[float]:
    return ((path / name).stat().st_mtime for name in KINDS if (path / name).is_file())


@dataclass(frozen=True, repr=False)
class RunDirectory:
    """What all kinds of directory have in common; each kind says what it holds.

    `run.model` is a `qstar.policy.Policy`, `run.config` the frozen configuration of the command.
    """

    path: Path
    step: int | None = None  # of the checkpoint whose model is asked; None: the newest

    command: ClassVar[str] = ""
    holds: ClassVar[str] = ""  # methods that give something

    # --- what was written down

    @property
    def config(self) -> Any:
        """The configuration, as the command took it."""
        raise self._lacks("configuration")

    @property
    def evaluation(self) -> "Evaluation | None":
        """The questions that its command asked, where it asked some."""
        return None

    def settings(self) -> Frame:
        """Every setting with its value, by dotted key."""
        return Frame.of({"setting": key, "value": str(value)} for key, value in configs.flat(self.config).items())

    def metrics(self, *names: str) -> Frame:
        """The lines of metrics.jsonl: `step`, `time_s` and these metrics (default: all)."""
        raise self._lacks("metrics")

    def evals(self) -> Frame:
        """What was answered in all: a row for every evaluation, each figure with `_low` and `_high` (95 %)."""
        raise self._lacks("evaluations")

    def answers(self, task: str | None = None) -> Frame:
        """What was answered to every question: a row for each item, way and draw."""
        raise self._lacks("answers to single questions")

    def samples(self) -> Frame:
        """Thoughts as they changed in training: a row where a thought differs from the one recorded before it."""
        raise self._lacks("samples of thoughts")

    def rationales(self, where: Query | None = None, columns: Sequence[str] | None = None) -> Frame:
        """All that was sampled, right or wrong: the store's rows.

        Args:
            where: a query as in `qstar.data.rationales`: `CORRECT & of_iteration(3)`.
            columns: their names (default: all of `rationales.SCHEMA`).
        """
        raise self._lacks("stored samples")

    def rollouts(self, where: Query | None = None) -> Frame:
        """What reinforcement learning sampled and trained on: a row for each recorded answer."""
        raise self._lacks("rollouts")

    def tree(self, problem: str) -> "SearchTree":
        """All that was proposed for a question, by its id (`questions()` lists them)."""
        raise self._lacks("search trees")

    def questions(self) -> Frame:
        """The questions that were searched: what was proposed, chosen and spent for each."""
        raise self._lacks("searched questions")

    def labels(self) -> Frame:
        """The labelled solutions, as training reads them."""
        raise self._lacks("labels")

    def judged(self, scorer: str | Path) -> Frame:
        """What a process reward model says of labelled solutions: a row for each step."""
        raise self._lacks("labelled steps")

    def faithfulness(self) -> "Held":
        """What edits of its thoughts or written workings change; see `reports/faithfulness.py`."""
        from qstar.reports import faithfulness

        return faithfulness.of_run(self.path)

    def ledger(self) -> Frame:
        """Tokens and FLOPs by phase."""
        raise self._lacks("ledger")

    def machine(self) -> files.JsonObject:
        """Versions, devices and commit, where the run wrote them down."""
        file = self.path / "environment.json"
        return files.read_json(file) if file.is_file() else {}

    def panels(self) -> list[Panel]:
        """The curves that say most, for `_repr_html_` and qstar-report."""
        return []

    # --- the model

    @property
    def model(self) -> "Policy":
        """The model that was trained, or searched with."""
        raise self._lacks("model")

    def read(self, texts: str | Sequence[str], *, num_thoughts: int = 1, seed: int | None = None) -> "Readings":
        """Texts with the thoughts before every token and what each changed; see `interactive.read`."""
        from qstar.reports import interactive

        return interactive.read(self.model, texts, num_thoughts=num_thoughts, seed=seed)

    def think(self, text: str, *, tokens: int = 32, temperature: float = 0.0, seed: int | None = None) -> "Readings":
        """A text, continued by up to so many tokens with a thought before each; see `interactive.think`."""
        from qstar.reports import interactive

        return interactive.think(self.model, text, tokens=tokens, temperature=temperature, seed=seed)

    def ask(self, task: Any = None, *, seed: int = 0, out: str | Path | None = None, **settings: Any) -> "Answers":
        """An evaluation, by its name or that of a task (default: the run's own); see `interactive.ask`."""
        from qstar.reports import interactive

        return interactive.ask(self.model, self.evaluation if task is None else task, seed=seed, out=out, **settings)

    def solve(
        self, task: Any, strategy: Any = "majority", *, out: str | Path | None = None, **settings: Any
    ) -> "RunDirectory":
        """A search with this model, as `qstar-solve` makes it: the opened directory; see `interactive.solve`."""
        from qstar.reports import interactive

        return open(interactive.solve(self.model, task, strategy, out=out, **settings))

    # --- shown

    def about(self) -> list[tuple[str, object]]:
        """What the run is, in pairs of a name and a value."""
        return []

    def table(self) -> Frame:
        """The last table: what came out."""
        return self.evals()

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {html.written(value)}" for name, value in self.about())
        return f"{type(self).__name__}({str(self.path)!r}: {facts})"

    def _repr_html_(self) -> str:
        try:
            last: Frame | str = self.table()
        except (FileNotFoundError, ValueError) as error:  # of a run that has only begun
            last = str(error)
        return html.fragment(overview.summary(self.path, self.about(), self.panels(), last))

    def _lacks(self, what: str) -> ValueError:
        return ValueError(f"{self.path} is a directory of {self.command}, which has no {what}; it has {self.holds}")

    def _rows(self, folder: str, where: Query | None, columns: Sequence[str] | None, missing: str) -> Frame:
        if not (self.path / folder / stores.ABOUT).is_file():
            raise FileNotFoundError(f"{self.path / folder} is not there: {missing}")
        return Frame(Store.open(self.path / folder).rows(where, columns))

    def _lines(self, name: str, missing: str) -> list[dict]:
        if not (self.path / name).is_file():
            raise FileNotFoundError(f"{self.path / name} is not there: {missing}")
        return frames.lines(self.path / name)


# --- qstar-train ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class TrainRun(RunDirectory):
    """A run of qstar-train, reinforcement learning included."""

    command: ClassVar[str] = "qstar-train"
    holds: ClassVar[str] = "settings, metrics, evals, samples, rollouts, ledger, machine and a model"

    @functools.cached_property
    def config(self) -> TrainConfig:
        return configs.load(self.path / "config.yaml")

    @property
    def evaluation(self) -> "Evaluation":
        return self.config.eval

    @functools.cached_property
    def model(self) -> load.Run:
        """The model of the checkpoint. Raises FileNotFoundError where none has been saved."""
        stored.steps(self.path)
        return load.load_run(self.path, self.step)

    @property
    def control(self) -> "TrainRun | None":
        """The plain language model that was trained beside it; None where there is none."""
        return TrainRun(self.path / "control") if (self.path / "control" / "config.yaml").is_file() else None

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints."""
        return stored.saved_steps(self.path)

    def metrics(self, *names: str) -> Frame:
        if not (self.path / metrics.FILE).is_file():
            raise FileNotFoundError(f"{self.path} has no metrics yet: the first line is written after the first step")
        frame = Frame.of(metrics.records(self.path), ("step", "time_s"))
        missing = [name for name in names if name not in frame.columns]
        if missing:
            raise KeyError(f"no metric {', '.join(missing)} in {self.path}; there are {', '.join(frame.columns[2:])}")
        return frame.select("step", "time_s", *names) if names else frame

    def evals(self) -> Frame:
        """With a column `model`: `run`, or `control`."""
        frame = self._evals()
        if not len(frame):
            raise FileNotFoundError(
                f"{self.path} has no evaluations: with eval=none nothing is asked, and the first questions are asked "
                "before the first step"
            )
        return frame

    def _evals(self) -> Frame:
        """Empty where nothing has been asked."""
        arms = [("run", self.path)] + ([("control", self.control.path)] if self.control else [])
        return Frame.of(
            {"model": name, **line}
            for name, path in arms
            if (path / "evals.jsonl").is_file()
            for line in frames.evaluations(path)
        )

    def samples(self) -> Frame:
        if not (self.path / "samples.jsonl").is_file():
            rollouts = " (run.rollouts() has its rollouts)" if (self.path / ROLLOUTS).is_dir() else ""
            raise FileNotFoundError(
                f"{self.path} has no samples of thoughts yet: they are taken every sample_every steps where the method "
                f"thinks{rollouts}"
            )
        lines = self._lines("samples.jsonl", "")
        return Frame.of(
            ({"step": line["step"], "text": line["text"], **thought} for line in lines for thought in line["thoughts"]),
            ("step", "text", "position", "thought", "weight", "gain"),
        )

    def rationales(self, where: Query | None = None, columns: Sequence[str] | None = None) -> Frame:
        """The rollouts of reinforcement learning; the reward of each is its `weight`, its step the `iteration`."""
        return self._rows(ROLLOUTS, where, columns, "rollouts are stored where data=rollouts and sample_every > 0")

    def rollouts(self, where: Query | None = None) -> Frame:
        """Rollouts of the first step and of every `sample_every` ones, as they were sampled.

        `reward` is the sum of its parts, `logprob` that of the sampled tokens in nats, `verdict` the grader's reason.
        """
        stored = self.rationales(where, [*ROLLOUT.values(), "logprobs"]).records()
        named = (
            {name: row[column] for name, column in ROLLOUT.items()} | {"logprob": math.fsum(row["logprobs"])}
            for row in stored
        )
        return Frame.of(named, (*ROLLOUT, "logprob"))

    def ledger(self) -> Frame:
        """Of training, as far as it went: tokens of text, and the FLOPs that the method asks for (`models/cost.py`)."""
        lines = metrics.records(self.path)
        step = int(lines[-1]["step"]) if lines else 0
        cfg, row = self.config, {"phase": "train", "steps": step}
        if self.machine():
            row["seconds"] = float(lines[-1]["time_s"]) if lines else 0.0
        row["trained_tokens"] = step * cfg.batch_size * cfg.data.length
        if isinstance(cfg.method, Counts) and (self.path / "lm.json").is_file():
            passes = cfg.method.passes(cfg.data.length)
            once = cost.flops(stored.shape(self.path / "lm.json"), passes, frozen=cfg.lora.rank > 0)
            row["flops"] = float(step * cfg.batch_size * once)
        return Frame.of([row])

    def panels(self) -> list[Panel]:
        if not (self.path / metrics.FILE).is_file():
            return []
        control = self.control
        plain = control.metrics() if control and (control.path / metrics.FILE).is_file() else None
        shown = overview.training(self.metrics(), self.config.method.headline, plain)
        return shown + overview.answered(self._evals())

    def about(self) -> list[tuple[str, object]]:
        cfg = self.config
        lines = metrics.records(self.path) if (self.path / metrics.FILE).is_file() else []
        step = lines[-1]["step"] if lines else 0
        facts: list[tuple[str, object]] = [
            ("method", configs.choice("method", type(cfg.method))),
            ("step", f"{step} of {cfg.steps}"),
        ]
        return facts + overview.headlines(self._evals())

    def table(self) -> Frame:
        """The first and last answers, the control's too; where nothing was asked, the last metrics."""
        answers = self._evals()
        if len(answers):
            return overview.last_answers(answers)
        frame = self.metrics()
        last = ("step", *(name for name in self.config.method.headline if name in frame.columns))
        return Frame(frame.arrow.select(last).slice(len(frame) - 1))


# --- qstar-improve --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class ImproveRun(RunDirectory):
    """A run of qstar-improve; `step` is the iteration whose model is asked."""

    command: ClassVar[str] = "qstar-improve"
    holds: ClassVar[str] = "settings, metrics, evals, iterations, rationales, ledger, machine and a model"

    @functools.cached_property
    def config(self) -> ImproveConfig:
        return configs.load(self.path / SETTINGS, schema=ImproveConfig)

    @property
    def trainings(self) -> dict[int, TrainRun]:
        """The training of each iteration, a run like any other."""
        folders = [path for path in self.path.glob("iteration_*") if (path / "config.yaml").is_file()]
        return {number: TrainRun(path) for number, path in sorted((int(path.name[10:]), path) for path in folders)}

    @functools.cached_property
    def model(self) -> load.Run:
        """The model of the last iteration that was trained, or of iteration `step`."""
        trained = {number: run for number, run in self.trainings.items() if run.steps}
        if not trained:
            raise FileNotFoundError(f"{self.path} has trained no model yet: its first iteration is under way")
        number = max(trained) if self.step is None else self.step
        if number not in trained:
            raise FileNotFoundError(f"{self.path} has no model of iteration {number}; there are {list(trained)}")
        return trained[number].model

    def machine(self) -> files.JsonObject:
        return next((run.machine() for run in self.trainings.values()), {})

    def iterations(self) -> list[dict]:
        """The lines of iterations.jsonl. Raises FileNotFoundError where none is finished."""
        return self._lines("iterations.jsonl", "a line is written after every iteration")

    def metrics(self, *names: str) -> Frame:
        """Of all trainings, with a column `iteration`."""
        parts = [(number, run.metrics(*names)) for number, run in self.trainings.items()]
        return Frame.of({"iteration": number, **row} for number, part in parts for row in part.records())

    def evals(self) -> Frame:
        """Accuracy after every iteration: of all questions (`group` null), of each group, with and without examples."""
        rows = []
        for line in self.iterations():
            parts = [("dev", line), *([("test", line["test"])] if "test" in line else [])]
            for split, part in parts:
                shares = {None: part["accuracy"], **part.get("groups", {}), **part.get("ways", {})}
                for group, share in shares.items():
                    named = {"iteration": line["iteration"], "split": split, "group": group, "n": share["n"]}
                    rows.append(
                        named
                        | {"accuracy": share["share"], "accuracy_low": share["low"], "accuracy_high": share["high"]}
                    )
        return Frame.of(rows)

    def rationales(self, where: Query | None = None, columns: Sequence[str] | None = None) -> Frame:
        return self._rows(stores.FOLDER, where, columns, "nothing has been sampled yet")

    def ledger(self) -> Frame:
        """A row for every phase of every iteration."""
        return Frame.of(
            {"iteration": line["iteration"], "phase": phase, **spent}
            for line in self.iterations()
            for phase, spent in line["ledger"].items()
        )

    def panels(self) -> list[Panel]:
        if not (self.path / "iterations.jsonl").is_file():
            return []
        return overview.improvement(self.iterations(), self.evals())

    def about(self) -> list[tuple[str, object]]:
        cfg = self.config
        facts: list[tuple[str, object]] = [
            ("recipe", configs.choice("improve", type(cfg.improve))),
            ("task", cfg.task.name),
        ]
        if not (self.path / "iterations.jsonl").is_file():
            return [*facts, ("iteration", f"0 of {cfg.improve.iterations}")]
        lines = self.iterations()
        done = f"{lines[-1]['iteration']} of {cfg.improve.iterations}"
        first, last = (line["accuracy"]["share"] for line in (lines[0], lines[-1]))
        return [*facts, ("iteration", done), ("dev accuracy", f"{first:.3f} to {last:.3f}")]

    def table(self) -> Frame:
        return overview.iterations(self.iterations())


# --- qstar-solve ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class SourcedRun(RunDirectory, Generic[C]):
    """A run that asks a model and does not train it."""

    kind: ClassVar[Kind]

    @functools.cached_property
    def config(self) -> C:
        return configs.load(self.path / self.kind.file, schema=self.kind.schema)

    @functools.cached_property
    def model(self) -> "Policy":
        """The model that was asked, as its source is now."""
        return load.initial_model(self.config.model, self.config.seed)


@dataclass(frozen=True, repr=False)
class SolveRun(SourcedRun[SolveConfig]):
    """A run of qstar-solve."""

    command: ClassVar[str] = "qstar-solve"
    holds: ClassVar[str] = "settings, evals, questions, rationales (candidates), tree, ledger and a model"

    kind: ClassVar[Kind] = solve.KIND

    def evals(self) -> Frame:
        """Accuracy for every budget; costs are means over questions."""
        return self._table

    @functools.cached_property
    def _table(self) -> Frame:
        lines = (dict(vars(line)) for line in solve.tabulated(self.config, self.path))
        ends = {"low": "accuracy_low", "high": "accuracy_high"}
        return Frame.of({ends.get(name, name): value for name, value in line.items()} for line in lines)

    def rationales(self, where: Query | None = None, columns: Sequence[str] | None = None) -> Frame:
        """All candidates: a row for every prompt and step, with its `place` in the tree."""
        return self._rows(solve.FOLDER, where, columns, "no question has been searched yet")

    @functools.cached_property
    def _by_problem(self) -> dict[str, list[dict]]:
        from qstar.reports.searchtree import COLUMNS

        return frames.grouped(self.rationales(columns=COLUMNS).records(), lambda row: str(row["problem"]))

    def tree(self, problem: str) -> "SearchTree":
        from qstar.reports.searchtree import SearchTree

        rows = self._by_problem
        if problem not in rows:
            raise ValueError(f"{problem!r} is no question of {self.path}, which has {', '.join(list(rows)[:8])}, ...")
        return SearchTree.of(rows[problem])

    def trees(self) -> "Iterator[SearchTree]":
        """Of every question, in the order of the search."""
        return (self.tree(problem) for problem in self._by_problem)

    def questions(self) -> Frame:
        return Frame.of(tree.summary() for tree in self.trees())

    def ledger(self) -> Frame:
        """What all questions cost together."""
        places = [row["place"] for row in self.rationales(columns=["place"]).records()]
        tokens = self.rationales(columns=["generated_tokens", "prompt_tokens"])
        prompts = [place["parent"] < 0 for place in places]
        read = sum(int(count) for count, prompt in zip(tokens["prompt_tokens"], prompts, strict=True) if prompt)
        write = {"phase": "propose", "prompt_tokens": read, "generated_tokens": int(tokens["generated_tokens"].sum())}
        write["flops"] = float(sum(place["flops"] for place in places))
        score = {"phase": "score", "prompt_tokens": sum(place["scored_tokens"] for place in places)}
        return Frame.of([write, score | {"flops": float(sum(place["scoring_flops"] for place in places))}])

    def table(self) -> Frame:
        return overview.with_intervals(self.evals())

    def panels(self) -> list[Panel]:
        return overview.search(self.evals()) if (self.path / solve.BATCHES).is_file() else []

    def about(self) -> list[tuple[str, object]]:
        cfg = self.config
        facts: list[tuple[str, object]] = [
            ("strategy", configs.choice("search", type(cfg.search))),
            ("task", cfg.task.name),
        ]
        if not (self.path / solve.BATCHES).is_file():
            return [*facts, ("questions", 0)]
        right = [
            row["correct"] for row in self.rationales(columns=["correct", "place"]).records() if row["place"]["chosen"]
        ]
        return [*facts, ("questions", len(right)), ("accuracy", f"{sum(right) / max(len(right), 1):.3f}")]


# --- qstar-label and qstar-evaluate ---------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class LabelRun(SourcedRun[LabelConfig]):
    """A run of qstar-label."""

    command: ClassVar[str] = "qstar-label"
    holds: ClassVar[str] = "settings, labels, judged, ledger and a model"

    kind: ClassVar[Kind] = label.KIND

    def summary(self) -> dict[str, Any]:
        """Counts, and the ledger. Raises FileNotFoundError where labelling has not ended."""
        if not (self.path / label.SUMMARY).is_file():
            raise FileNotFoundError(f"{self.path / label.SUMMARY} is not there: it is written when all is labelled")
        return files.read_json(self.path / label.SUMMARY)

    def labels(self) -> Frame:
        return Frame.of(self._lines(label.LABELS, "it is written when all is labelled"))

    def judged(self, scorer: str | Path) -> Frame:
        """The labelled steps with the scores of a process reward model, from a run or `bundled:cups_prm`.

        `solution` counts the solutions, `place` the steps of each, `correct` says whether its answer is right.
        Raises FileNotFoundError and ValueError as `runs.scoring.opened`.
        """
        rows = self.labels().records()
        scored = scoring.opened(scorer).score([row["prompt"] for row in rows], [row["completions"] for row in rows])
        return Frame.of(
            {"solution": number, "problem": row["problem"], "prompt": row["prompt"], "place": place, "step": step}
            | {"label": label, "score": float(score), "correct": row["correct"]}
            for number, (row, scores) in enumerate(zip(rows, scored.steps, strict=True))
            for place, (step, label, score) in enumerate(zip(row["completions"], row["labels"], scores, strict=True))
        )

    def ledger(self) -> Frame:
        return Frame.of({"phase": phase, **spent} for phase, spent in self.summary()["ledger"].items())

    def about(self) -> list[tuple[str, object]]:
        facts: list[tuple[str, object]] = [
            ("labels by", configs.choice("label", type(self.config.label))),
            ("task", self.config.task.name),
        ]
        if not (self.path / label.SUMMARY).is_file():
            return [*facts, ("solutions", "not finished")]
        summary = self.summary()
        return facts + [
            (name.replace("_", " "), summary[name]) for name in ("solutions", "right", "labels", "mean_label")
        ]

    def table(self) -> Frame:
        counts = {name: value for name, value in self.summary().items() if not isinstance(value, dict)}
        return Frame.of([counts])


@dataclass(frozen=True, repr=False)
class EvaluationFolder(RunDirectory):
    """What qstar-evaluate wrote with out=FOLDER."""

    command: ClassVar[str] = "qstar-evaluate"
    holds: ClassVar[str] = "evals and answers"

    @functools.cached_property
    def _tables(self) -> dict[str, Any]:
        return journal.load(self.path)

    @property
    def tasks(self) -> list[str]:
        """What was asked, as far as all questions are answered."""
        return list(self._tables)

    def evals(self) -> Frame:
        return Frame.of(self._evaluations())

    def _evaluations(self) -> list[dict]:
        """The folder of one step has its lines in the file above it."""
        step = self.path.name.removeprefix("step_")
        if (self.path / "evals.jsonl").is_file() or not step.isdigit():
            return frames.evaluations(self.path)
        return [line for line in frames.evaluations(self.path.parent) if line["step"] == int(step)]

    def answers(self, task: str | None = None) -> Frame:
        tables = self._tables
        name = task or next(iter(tables))
        if name not in tables or (task is None and len(tables) > 1):
            raise ValueError(f"task = {task!r}: {self.path} has answers to {', '.join(tables)}; name one of them")
        return Frame(tables[name])

    def panels(self) -> list[Panel]:
        return overview.answered(self.evals())

    def about(self) -> list[tuple[str, object]]:
        rows = self._evaluations()
        steps = sorted({row["step"] for row in rows})
        return [("tasks", ", ".join(dict.fromkeys(row["task"] for row in rows))), ("steps", ", ".join(map(str, steps)))]

    def table(self) -> Frame:
        return overview.with_intervals(self.evals())


KINDS: dict[str, type[RunDirectory]] = {
    SETTINGS: ImproveRun,
    solve.KIND.file: SolveRun,
    label.KIND.file: LabelRun,
    "config.yaml": TrainRun,
}
"""By the file that says what was asked for. One of several: an iteration of self-training is a training."""


def kind_of(directory: Path) -> type[RunDirectory] | None:
    """None for a directory that no command wrote."""
    for name, kind in KINDS.items():
        if (directory / name).is_file() and not (directory / "model.json").is_file():
            return kind
    answered = any(directory.glob("step_*/*.parquet")) or any(directory.glob("*.parquet"))
    if ((directory / "evals.jsonl").is_file() or answered) and not (directory / stores.ABOUT).is_file():
        return EvaluationFolder
    return None
