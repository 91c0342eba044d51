"""What a run sampled or labelled as data sets in TRL's formats: a folder that `datasets.load_dataset` opens.

Of self-training, of the rollouts that reinforcement learning kept, and of the whole solutions that a search of training
questions found (each file where it would hold something):

    prompt_completion   what is right, each text of a question once: what a recipe of STaR's kind trains on
    preference          right samples against wrong ones of the same question, each sample in at most one pair
    unpaired            every sample without a hint, with the grader's verdict as its label
    stepwise            steps of those samples with labels, where the task knows them exactly
    revisions           up to four wrong samples of a question as a part of its prompt, then a right one: what a model
                        for search=revise is trained on (`data/revisions.py`)

Of labelling: stepwise, with the labels that it found. Prompts are those that a question is asked by, without examples
and hints; samples that were drawn after a hint are in `prompt_completion` alone, free of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qstar import config as configs
from qstar import files
from qstar.config import ImproveConfig, SolveConfig, TrainConfig
from qstar.data import rationales, revisions, step_formats, trl
from qstar.data.rationales import Store
from qstar.runs import iterations, label, record, solutions, solve
from qstar.tasks import conversation
from qstar.tasks.grading import sandbox
from qstar.tasks.problem import Problem, Task, before_stop, graded

Row = Mapping[str, Any]
CARD = "README.md"
# Stores of samples in runs: the folder, and the configuration whose task they are of.
SAMPLED = ((rationales.FOLDER, iterations.KIND.file, ImproveConfig), (record.ROLLOUTS, "config.yaml", TrainConfig))


def save(out: Path, source: str | Path) -> dict[str, int]:
    """Write the data sets of a run; returns how many records each has.

    Raises FileNotFoundError for a directory that is no such run; ValueError where there is
    nothing to write.
    """
    sets = {name: records for name, records in _sets(Path(source)).items() if records}
    if not sets:
        raise ValueError(f"{source} has nothing right and no labels: expected a run that sampled something to train on")
    files.make(out)
    for name, records in sets.items():
        files.write_records(out / f"{name}.jsonl", records)
    files.write(out / CARD, _card(sets))
    return {name: len(records) for name, records in sets.items()}


def _sets(run: Path) -> dict[str, list[trl.Record]]:
    if (run / label.LABELS).is_file():
        labelled = files.records(run / label.LABELS, "a labelled solution", prompt=str, completions=list, labels=list)
        return {"stepwise": [record for record in map(_stepwise, labelled) if record is not None]}
    if (run / solve.KIND.file).is_file():
        return _searched(run).sets()
    sampled = next((entry for entry in SAMPLED if (run / entry[0]).is_dir() and (run / entry[1]).is_file()), None)
    if sampled is None:
        stores = " nor ".join(f"{store}/" for store, _, _ in SAMPLED)
        raise FileNotFoundError(
            f"{run} has neither {label.LABELS} nor {stores}: expected the directory of a qstar-improve run that "
            "sampled, of a qstar-train run with data=rollouts, of a qstar-solve run with split=train, or of a "
            "qstar-label run"
        )
    store, config, schema = sampled
    cfg = configs.load(run / config, schema=schema)
    problems = {problem.id: problem for problem in cfg.task.problems("train")}
    columns = ["problem", "hinted", "written", "stored", "correct", "finished"]
    rows = Store.open(run / store).rows(None, columns).to_pylist()
    return _Samples(cfg.task, problems, rows, _is_chat(cfg)).sets()


def _is_chat(cfg: ImproveConfig | TrainConfig | SolveConfig) -> bool:
    return getattr(cfg.model, "chat", "auto") == "true"


def _searched(run: Path) -> "_Samples":
    """The whole solutions of a search, whatever steps they were found by."""
    cfg = configs.load(run / solve.KIND.file, schema=SolveConfig)
    if cfg.split != "train":
        raise ValueError(
            f"{run} searched questions of {cfg.split}, which are not for training: expected a run of qstar-solve with "
            "split=train"
        )
    sandbox.configure(cfg.sandbox)
    problems = {problem.id: problem for problem in cfg.task.problems("train")}
    found = solutions.read(str(run), problems, cfg.task)
    rows = [_row(cfg.task, problems[name], given.text) for name, each in found.items() for given in each]
    return _Samples(cfg.task, problems, rows, _is_chat(cfg))


def _row(task: Task, problem: Problem, written: str) -> Row:
    before = before_stop(written, task.stop)
    return {
        "problem": problem.id,
        "hinted": False,
        "written": written,
        "stored": task.cleaned(before),
        "correct": graded(task, problem, before, finished=True).correct,
        "finished": True,
    }


@dataclass(frozen=True)
class _Samples:
    """The samples of a run."""

    task: Task
    problems: Mapping[str, Problem]
    rows: Sequence[Row]
    chat: bool  # prompts are messages

    def sets(self) -> dict[str, list[trl.Record]]:
        return {
            "prompt_completion": [self._record(row["problem"], completion=row["stored"]) for row in self._texts(True)],
            "preference": list(self._pairs()),
            "unpaired": [
                self._record(row["problem"], label=row["correct"], completion=row["written"]) for row in self._unhinted
            ],
            "stepwise": list(self._steps()),
            "revisions": list(self._revisions()),
        }

    @property
    def _unhinted(self) -> list[Row]:
        return [row for row in self.rows if not row["hinted"] and row["written"]]

    def _texts(self, correct: bool, hinted: bool = True) -> list[Row]:
        """Samples with a form to train on, each text of a question once."""
        kept = [row for row in self.rows if row["correct"] == correct and row["stored"] and hinted >= row["hinted"]]
        return list({(row["problem"], row["stored"]): row for row in reversed(kept)}.values())[::-1]

    def _pairs(self) -> Iterator[trl.Record]:
        wrong = self._by_problem(False)
        for row in self._texts(True, hinted=False):
            if wrong.get(row["problem"]):
                rejected = wrong[row["problem"]].pop(0)
                yield self._record(row["problem"], chosen=row["stored"], rejected=rejected)

    def _steps(self) -> Iterator[trl.Record]:
        for row in self._unhinted:
            problem, steps = self.problems[row["problem"]], self.task.steps(row["written"])
            truth = self.task.truth(problem, steps) if row["finished"] else None
            if truth is not None:
                labelled = {"prompt": self.task.prompt(problem), "completions": steps, "labels": truth.right}
                if (record := _stepwise(labelled)) is not None:
                    yield record

    def _revisions(self) -> Iterator[trl.Record]:
        """Each number of attempts as often; none of conversations, whose turns are not attempts."""
        wrong = self._by_problem(False)
        for number, (problem, right) in enumerate(self._by_problem(True).items()):
            prompt = self.task.prompt(self.problems[problem])
            if self.chat or conversation.parsed(prompt):
                return
            for revision in revisions.revisions(right, wrong.get(problem, []), np.random.default_rng(number)):
                yield trl.written("".join((prompt, *revision.attempts)), False, {"completion": revision.solution})

    def _by_problem(self, correct: bool) -> dict[str, list[str]]:
        texts: dict[str, list[str]] = {}
        for row in self._texts(correct, hinted=False):
            texts.setdefault(row["problem"], []).append(row["stored"])
        return texts

    def _record(self, problem: str, label: bool | None = None, **completions: str) -> trl.Record:
        others = {} if label is None else {"label": label}
        return trl.written(self.task.prompt(self.problems[problem]), self.chat, completions, **others)


def _stepwise(labelled: Row) -> trl.Record | None:
    """None where a step has no label, and of conversations, which TRL's stepwise format does not have."""
    return None if conversation.parsed(labelled["prompt"]) else step_formats.trl(labelled)


def _card(sets: Mapping[str, Sequence]) -> str:
    """A data card whose header names the sets, so that `datasets` finds them."""
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in sets)
    table = "".join(f"| `{name}` | {len(records):,} |\n" for name, records in sets.items())
    return (
        f"---\nconfigs:\n{configs}tags:\n- trl\n- self-training\n---\n\n# Solutions that a model wrote\n\n"
        "Sampled by a language model, graded by their answers, written by `qstar-prepare RUN OUT --to trl`.\n\n"
        f"| set | records |\n|---|---|\n{table}\n"
        "Steps that are lines stand here without their newline, which TRL's `step_separator` puts back; of other steps "
        'the text is whole: `step_separator=""`.\n'
    )
