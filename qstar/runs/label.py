"""Labels of the steps of solutions, batch by batch: what `qstar-label` runs.

    RUN/label.yaml            the configuration
    RUN/batches/*.jsonl       the solutions of some questions with their labels, a file for each batch, and its cost
    RUN/labels.jsonl          all of them, as `data=labelled` reads them
    RUN/labels_k4.jsonl       the same solutions with the labels of fewer completions (label.smaller)
    RUN/trl.jsonl             the solutions all of whose steps have a label, in TRL's stepwise format
    RUN/summary.json          counts, and tokens and FLOPs by phase

A batch is a function of the configuration and its number, so a run that was killed and resumed writes the same files,
whatever its number of processes: each labels some of the batches, and the first one writes the rest.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from qstar import files, paths, processes, sharding
from qstar.config import LabelConfig
from qstar.data import overlong, step_formats
from qstar.decoding import generate as decoding
from qstar.decoding.generate import Written
from qstar.decoding.sampling import Sampling
from qstar.models import lm as language_models
from qstar.models.cost import Cost
from qstar.policy import Policy
from qstar.runs import answering, identity, load, solutions
from qstar.runs.kinds import Kind
from qstar.runs.solutions import Given
from qstar.search import labelling
from qstar.search.labelling import Labelled, MonteCarlo, Prefix, Solution
from qstar.tasks.grading import sandbox
from qstar.tasks.labels import LABELS, Consensus, Truth
from qstar.tasks.problem import Problem, before_stop, graded, no_questions
from qstar.training import console, layout
from qstar.typing import Key

KIND = Kind("label", "labelling run", LabelConfig, "label.yaml", groups=("mesh",), free=("sandbox", "sinks", "mesh"))
TRL, SUMMARY, BATCHES = "trl.jsonl", "summary.json", "batches"
SOURCE = "sampled"  # of a solution that the model itself wrote here
SAMPLED, COMPLETED = range(2)  # what a key is folded with
ORIGIN = {"prompt": str, "source": str, "model": str}
LEDGER = ("prompt_tokens", "padding_tokens", "generated_tokens", "discarded_tokens", "graded_tokens")
PHASES = ("sample", "label")


@dataclass(frozen=True)
class Job:
    """A labelling run, checked."""

    cfg: LabelConfig
    policy: Policy
    problems: Mapping[str, Problem]
    given: Mapping[str, Sequence[Given]]  # solutions by problem; empty where they are sampled
    room: int  # tokens of the longest answer
    fingerprint: str  # of the model
    left: int = 0  # questions that are too long for the model
    mesh: jax.sharding.Mesh | None = None  # of this process's devices; None: its first one

    @property
    def batches(self) -> list[list[Problem]]:
        names, size = list(self.given or self.problems), self.cfg.batch
        return [[self.problems[name] for name in names[i : i + size]] for i in range(0, len(names), size)]


def run(cfg: LabelConfig, directory: Path) -> dict:
    """Label, or resume labelling, and return the summary. Of several processes the first one has it.

    Raises FileNotFoundError, ValueError and its like for anything that cannot work, before anything is generated.
    """
    paths.check_folder("run_dir", directory)
    if isinstance(cfg.label, Consensus):
        with processes.locked(directory):
            return processes.first_does(lambda: _agreed(cfg, directory)) or {}
    sandbox.configure(cfg.sandbox)
    with processes.together():
        job = prepared(cfg)
    with processes.locked(directory):
        return _run(job, directory)


def _agreed(cfg: LabelConfig, directory: Path) -> dict:
    every = list(cfg.label.agreed())
    records = [record for record in every if record is not None]
    if not any(label is not None for record in records for label in record["labels"]):
        raise ValueError(
            f"no step has a label on which {cfg.label.first} and {cfg.label.second} agree: expected two labellings "
            "that name the same first wrong step in at least one solution"
        )
    KIND.claim(cfg, directory)
    nothing = {phase: Cost().ledger(*LEDGER) for phase in PHASES}  # the labellers have accounts of their own
    return _finish(cfg, directory, records, [{"ledger": nothing, "skipped": len(every) - len(records)}])


def _run(job: Job, directory: Path) -> dict:
    def begin() -> None:
        KIND.claim(job.cfg, directory)
        asked = {"questions": identity.checksum(list(job.problems.values()), identity.SHOWN)}
        identity.claim(directory, asked, "labels of other questions")
        files.make(directory / BATCHES)
        files.remove_partial(directory / BATCHES)
        for number, file in enumerate(parts):
            if file.is_file():
                _read(job, number, file)

    batches = job.batches
    parts = [directory / BATCHES / f"batch_{number:05d}.jsonl" for number in range(len(batches))]
    processes.first_does(begin)
    with sharding.on(job.mesh), console.counting("labelling") as progress:

        def label(number: int) -> None:
            if not parts[number].is_file():
                files.write_records(parts[number], Batch(job, number, batches[number]).records())
            progress(number + 1, len(batches))

        processes.shared(len(batches), label)
    return processes.first_does(lambda: _collected(job, directory, parts)) or {}


def _collected(job: Job, directory: Path, parts: Sequence[Path]) -> dict:
    files.await_all(parts)
    read = [_read(job, number, file) for number, file in enumerate(parts)]
    records = [record for records, _ in read for record in records]
    return _finish(job.cfg, directory, records, [cost for _, cost in read], job.left)


def _read(job: Job, number: int, file: Path) -> tuple[list[dict], dict]:
    """As `_part`; raises ValueError as well where the batch is of other weights or solutions than the run's are now."""
    batch, way = job.batches[number], "put back the earlier ones, or choose another run_dir"
    records, cost = _part(file, [problem.id for problem in batch])
    if any(record["model"] != job.fingerprint for record in records):
        raise ValueError(
            f"{file} was written with other weights or another tokenizer than {job.policy.name} has: {way}"
        )
    written = [(record["problem"], record["prompt"], record["completions"]) for record in records]
    solutions_now = [solution for problem in batch for solution in job.given.get(problem.id, ())]
    given = [(solution.problem, solution.prompt, list(solution.steps)) for solution in solutions_now]
    if written[: len(given)] != given:
        raise ValueError(f"{file} has labels of other solutions than {job.cfg.source} holds: {way}")
    sampled = sum(record["source"] == SOURCE for record in records) + cost["skipped"]
    if not given and sampled != job.cfg.samples * len(batch):
        raise ValueError(
            f"{file} has {sampled} of {job.cfg.samples * len(batch)} sampled solutions: lines were removed or added; "
            "move the file away and resume: its questions are labelled again"
        )
    return records, cost


def _part(file: Path, questions: Sequence[str]) -> tuple[list[dict], dict]:
    """The labelled solutions of a batch, and what it cost. Raises ValueError for a file that is not as it was written.

    Args:
        questions: the ids of those of the batch.
    """
    kind, way = "a labelled solution", "; move the file away and resume: its questions are labelled again"
    lines = files.lines(file, kind)
    if not lines or "ledger" not in lines[-1].record:
        raise ValueError(f"{file} ends without the line of its batch's cost: it was cut{way}")
    for line in lines[:-1]:
        files.check(line.record, line.where, kind, problem=str, completions=list, labels=list, correct=bool, **ORIGIN)
        if line.record["problem"] not in questions:
            raise ValueError(
                f"{line.where}: question {line.record['problem']!r} is not one of this batch, {', '.join(questions)}: "
                f"is it a copy of another file?{way}"
            )
    files.check(lines[-1].record, lines[-1].where, "the cost of a batch", ledger=dict, skipped=int)
    return [line.record for line in lines[:-1]], lines[-1].record


def _finish(cfg: LabelConfig, directory: Path, records: Sequence[dict], costs: Sequence[dict], left: int = 0) -> dict:
    """Write what training reads, and the summary."""
    if not records:
        raise ValueError(
            f"no solution has labels: {sum(cost['skipped'] for cost in costs)} of {cfg.task.name} have no steps that "
            "can be told apart"
        )
    files.write_records(directory / LABELS, records)
    files.write_records(directory / TRL, [row for row in map(step_formats.trl, records) if row is not None])
    for k in _smaller(cfg):
        fewer = [
            record | {"labels": list(labelling.estimates(record["outcomes"], k, cfg.label.soft))} for record in records
        ]
        files.write_records(directory / _of_fewer(k), [record | {"k": k} for record in fewer])
    labels = [label for record in records for label in record["labels"] if label is not None]
    summary = {
        "solutions": len(records),
        "right": sum(record["correct"] for record in records),
        "skipped": sum(cost["skipped"] for cost in costs),  # no steps, two in one token, or no agreement
        "overlong": left,  # questions
        "steps": sum(len(record["labels"]) for record in records),
        "labels": len(labels),
        "mean_label": float(np.mean(labels)),
        "ledger": {
            phase: {name: sum(cost["ledger"][phase][name] for cost in costs) for name in (*LEDGER, "flops")}
            for phase in PHASES
        },
    }
    files.write_json(directory / SUMMARY, summary)
    return summary


def _smaller(cfg: LabelConfig) -> tuple[int, ...]:
    return cfg.label.smaller if isinstance(cfg.label, MonteCarlo) else ()


def _of_fewer(k: int) -> str:
    return f"labels_k{k}.jsonl"


def beside(cfg: LabelConfig) -> dict[str, str]:
    """What else a run writes for training, and the names of the files."""
    return {f"of {k} completions": _of_fewer(k) for k in _smaller(cfg)} | {"for TRL": TRL}


# --- a batch ------------------------------------------------------------------------------------------------------


class Batch:
    """The questions of one batch, with what has been spent on them."""

    def __init__(self, job: Job, number: int, problems: Sequence[Problem]):
        self.job, self.cfg, self.problems = job, job.cfg, problems
        self.key = jax.random.fold_in(jax.random.key(job.cfg.seed), number)
        self.calls, self.skipped = 0, 0
        self._verdicts: dict[tuple[str, str, bool], bool] = {}
        self.spent = dict.fromkeys(PHASES, Cost())

    def records(self) -> list[dict]:
        """A line for every solution, and a last one with the cost."""
        answers = list(self._given() if self.job.given else self._sampled())
        if isinstance(self.cfg.label, Truth):
            labels = [
                self.cfg.label.of(self.cfg.task, self.problems[answer.problem], answer.steps) for answer in answers
            ]
            rows = [
                Labelled(answer, step_labels, (None,) * len(step_labels))
                for answer, step_labels in zip(answers, labels, strict=True)
            ]
        else:
            rows = self.cfg.label(answers, self._complete)
        ledger = {phase: cost.ledger(*LEDGER) for phase, cost in self.spent.items()}
        return [*map(self._record, rows), {"ledger": ledger, "skipped": self.skipped}]

    def _record(self, row: Labelled) -> dict:
        solution, problem, cfg = row.solution, self.problems[row.solution.problem], self.cfg
        return {
            "prompt": solution.prompt,
            "completions": list(solution.steps),
            "labels": list(row.labels),
            "completion_ids": [id for step in solution.ids for id in step],
            "problem": problem.id,
            "gold": problem.answer,
            "correct": solution.right,
            "source": solution.source,
            "kind": cfg.label.kind,
            "k": getattr(cfg.label, "k", 0),
            "outcomes": [None if outcomes is None else list(outcomes) for outcomes in row.outcomes],
            "task": cfg.task.name,
            "split": cfg.split,
            "model": self.job.fingerprint,
            "checkpoint": self.job.policy.name,
            **{name: getattr(cfg, name) for name in ("temperature", "top_k", "top_p", "seed")},
            "grader": cfg.task.grader.name,
            "grader_version": cfg.task.grader.version,
        }

    # --- solutions ------------------------------------------------------------------------------------------------

    def _given(self) -> Iterator[Solution]:
        tokenizer = self.job.policy.tokenizer
        for index, problem in enumerate(self.problems):
            for given in self.job.given[problem.id]:
                yield solutions.cut(index, given, self._is_right(problem, given.text, True), tokenizer)

    def _sampled(self) -> Iterator[Solution]:
        cfg, prompts = self.cfg, [self.cfg.task.prompt(problem) for problem in self.problems]
        written = self._generate("sample", prompts, cfg.samples, jax.random.fold_in(self.key, SAMPLED))
        for row, ids in enumerate(written.tokens):
            index = row // cfg.samples
            right = self._is_right(self.problems[index], written.text[row], written.finished[row])
            text = _text(written, row, self.job.policy)
            given = Given(self.problems[index].id, prompts[index], cfg.task.steps(text), tuple(ids.tolist()), SOURCE)
            try:
                yield solutions.cut(index, given, right, self.job.policy.tokenizer)
            except ValueError:  # nothing was written, or two steps end in one token
                self.skipped += 1

    def _is_right(self, problem: Problem, text: str, finished: bool) -> bool:
        """Completions are often the same: each text is graded once."""
        asked = (problem.id, text, bool(finished))
        if asked not in self._verdicts:
            before = before_stop(text, self.cfg.task.stop)
            self._verdicts[asked] = graded(self.cfg.task, problem, before, bool(finished)).correct
        return self._verdicts[asked]

    # --- completions ----------------------------------------------------------------------------------------------

    def _complete(self, prefixes: Sequence[Prefix], k: int) -> list[list[Solution]]:
        """k completions of each of these prefixes, graded."""
        encode = self.job.policy.tokenizer.encode_prompt
        key = jax.random.fold_in(jax.random.fold_in(self.key, COMPLETED), self.calls)
        self.calls += 1
        written = self._generate(
            "label", [[*encode(prefix.solution.prompt), *prefix.ids] for prefix in prefixes], k, key
        )
        return [[self._completion(prefix, written, n * k + i) for i in range(k)] for n, prefix in enumerate(prefixes)]

    def _completion(self, prefix: Prefix, written: Written, row: int) -> Solution:
        whole, task = prefix.solution, self.cfg.task
        before = "".join(whole.steps[: prefix.count])
        right = self._is_right(self.problems[whole.problem], before + written.text[row], written.finished[row])
        begun = dataclasses.replace(
            whole, steps=whole.steps[: prefix.count], ids=whole.ids[: prefix.count], right=right,
            source=f"completion of {prefix.count} steps",
        )  # fmt: skip
        if not self.cfg.label.follows:
            return begun
        steps = task.steps(before + _text(written, row, self.job.policy))
        ids = (*prefix.ids, *written.tokens[row].tolist())
        completed = Given("", whole.prompt, steps, ids, begun.source)
        try:
            solution = solutions.cut(whole.problem, completed, right, self.job.policy.tokenizer)
        except ValueError:
            solution = None
        if solution is not None and solution.ids[: prefix.count] == whole.ids[: prefix.count]:
            return solution
        return begun  # its steps cannot be told apart: it counts as right or wrong, and has none that could be searched

    def _generate(self, phase: str, prompts: Sequence[str | Sequence[int]], count: int, key: Key) -> Written:
        """`count` continuations of every prompt."""
        cfg, policy = self.cfg, self.job.policy
        sampling = Sampling(cfg.temperature, cfg.top_k, cfg.top_p, self.job.room, tuple(cfg.task.stop))
        written = decoding.generate(
            policy.definition,
            policy.params,
            policy.tokenizer,
            prompts,
            key,
            sampling,
            samples=count,
            batch_size=sharding.full(max(cfg.rows // count, 1)),
        )
        grading = Cost(graded_tokens=sum(map(len, written.tokens)))
        self.spent[phase] += written.cost + grading
        return written


def _text(written: Written, row: int, policy: Policy) -> str:
    """What was written, its stop text included; an end-of-text token is not part of it."""
    ids = written.tokens[row]
    ended = len(ids) and int(ids[-1]) in policy.tokenizer.ends
    return written.text[row] + ("" if ended else written.ending[row])


# --- before anything is generated ---------------------------------------------------------------------------------


def prepared(cfg: LabelConfig) -> Job:
    """The model, the questions and the solutions of a run, checked."""
    with console.phase("reading the questions"):
        every = {problem.id: problem for problem in cfg.task.problems(cfg.split)}
    with console.phase("loading the model"):
        policy = load.initial_model(cfg.model, cfg.seed)
    given = solutions.read(cfg.source, every, cfg.task) if cfg.source else {}
    names = list(given or every)[: cfg.problems or None]
    problems, given = {name: every[name] for name in names}, {name: given[name] for name in names} if given else {}
    if not problems:
        raise ValueError(no_questions(cfg.task.name, cfg.split))
    room = max(cfg.task.budget(problem, policy.tokenizer) for problem in problems.values())
    job = Job(cfg, policy, problems, given, room, policy.fingerprint)
    job = _fitting(job)
    _check_steps(job)
    mesh = layout.sampling(cfg.mesh, language_models.definition(policy.lm), cfg.rows)
    with sharding.on(mesh):
        return dataclasses.replace(job, policy=policy.plain(), mesh=mesh)


def _check_steps(job: Job) -> None:
    """Raise ValueError where the labels could not be found, or not be told apart by this tokenizer."""
    cfg, tokenizer = job.cfg, job.policy.tokenizer
    if isinstance(cfg.label, Truth):
        cfg.label.of(cfg.task, next(iter(job.problems.values())), ())
    if not cfg.task.delimiters and all(len(each.steps) < 2 for every in job.given.values() for each in every):
        raise ValueError(
            f"{cfg.task.name} does not split its solutions into steps, so that there is nothing to label: expected "
            "another task, or source=FILE with the steps of each solution as completions"
        )
    for problem in job.problems.values():
        asked = job.given.get(problem.id) or _worked(cfg, problem)
        for given in asked:
            if isinstance(cfg.label, Truth):
                cfg.label.of(cfg.task, problem, given.steps)
            solutions.cut(0, given, True, tokenizer)
            unknown = [id for id in given.ids or () if id >= job.policy.lm.vocab]
            if unknown:
                raise ValueError(
                    f"{given.where}: completion_ids has {unknown[0]}, {job.policy.name} knows 0 to "
                    f"{job.policy.lm.vocab - 1}: give the model that wrote it, or leave completion_ids out"
                )


def _worked(cfg: LabelConfig, problem: Problem) -> list[Given]:
    """The problem's own rationale, where it has one."""
    if not problem.rationale:
        return []
    steps = cfg.task.steps(cfg.task.completion(problem.rationale, problem))
    return [Given(problem.id, cfg.task.prompt(problem), steps, None, f"{cfg.task.name}, rationale of {problem.id}")]


def _fitting(job: Job) -> Job:
    """With the questions alone that the model can read and complete. Raises ValueError that names the others."""
    cfg, policy, most = job.cfg, job.policy, job.policy.lm.max_len
    # A completion begins after all steps but the last one, and may take as much again as a whole answer.
    answers = 1 if job.given or isinstance(cfg.label, Truth) else 2
    sizes, rooms = {}, {}
    for name, problem in job.problems.items():
        size = overlong.prompt_tokens(policy.tokenizer, name, cfg.task.prompt(problem))
        sizes[name] = max(
            [size, *(len(solutions.encoded(given, policy.tokenizer)) for given in job.given.get(name, ()))]
        )
        rooms[name] = answers * cfg.task.budget(problem, policy.tokenizer)
    left = overlong.of_questions(sizes, rooms, most)
    ways = answering.ways_out(
        cfg.task, "shorten them", "use a model with a longer context", "leave them out with overlong=skip"
    )
    place = f"the {most} tokens that {policy.name} was built for"
    overlong.check_questions(left, len(sizes), cfg.task.name, cfg.split, place, ways, skip=cfg.overlong == "skip")
    if not left:
        return job
    console.say(overlong.told(left, len(sizes), f"the {most} tokens of {policy.name}"))
    names = sizes.keys() - {question.id for question in left}
    kept = lambda of: {name: value for name, value in of.items() if name in names}  # noqa: E731
    room = max(rooms[name] for name in names) // answers
    return dataclasses.replace(job, problems=kept(job.problems), given=kept(job.given), room=room, left=len(left))
