"""What is recorded about a model while it trains: its answers in evals.jsonl, its thoughts in samples.jsonl.

A run that was killed and resumed leaves the lines of an uninterrupted one: `rewind` drops what the lost tail of the
earlier process wrote.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from qstar import files, processes
from qstar.config import TrainConfig
from qstar.data.rationales import Sample, Store
from qstar.data.tokenizer import Tokenizer
from qstar.evals import suite
from qstar.evals.suite import Evaluator, Row
from qstar.models.definition import Definition
from qstar.reports import glyphs
from qstar.structs import TrainState
from qstar.thoughts import read
from qstar.thoughts.thinking import Thinks
from qstar.training import console
from qstar.training.metrics import Rows, Sinks
from qstar.training.rollouts import Rollout
from qstar.training.step import weights
from qstar.typing import Params

SAMPLED_TEXTS = 4
THOUGHT = ("position", "thought", "weight", "gain")  # of a thought in samples.jsonl
EXAMPLE_LENGTH = 24  # tokens
METRICS = {"none": "plain", "greedy": "thoughts", "sampled": "sampled"}  # in the names of metrics, by way of answering


@dataclass(frozen=True)
class Reader:
    """Reads texts with a method's likeliest thoughts."""

    method: Thinks
    definition: Definition
    texts: Sequence[Sequence[int]]  # token ids
    seed: int

    def __call__(self, params: Params, count: int | None = None) -> list[read.Reading]:
        """The first `count` texts, or all of them."""
        key = jax.random.key(self.seed)
        return [
            read.read(self.method, self.definition, params, ids, jax.random.fold_in(key, number), greedy=True)
            for number, ids in enumerate(self.texts[:count])
        ]

    def example(self, tokenizer: Tokenizer) -> str:
        """The beginning of a text to read, on one line, or "" where there is none of two tokens."""
        beginnings = (tokenizer.decode(list(ids[:EXAMPLE_LENGTH])).splitlines() for ids in self.texts)
        lines = (lines[0].strip("\ufffd") for lines in beginnings if lines)  # half a character stands for what is cut
        return next((line for line in lines if line.strip() and len(tokenizer.encode(line)) > 1), "")


class Record:
    """Evaluations and samples of one model.

    Args:
        directory: where the two files lie.
        sinks: where thoughts are shown as tables besides.
        reader: None for a method that does not think; no samples are taken then.
        seed: of the thoughts drawn in evaluations.
    """

    def __init__(
        self,
        directory: Path,
        evaluator: Evaluator,
        reader: Reader | None,
        tokenizer: Tokenizer,
        seed: int,
        sinks: Sinks | None = None,
    ):
        self._sinks = sinks
        self._evals, self._samples = directory / "evals.jsonl", directory / "samples.jsonl"
        self._evaluator, self._reader, self._tokenizer, self._seed = evaluator, reader, tokenizer, seed
        self.evaluated: dict[int, list[Row]] = {}  # by step
        self._thoughts: dict[tuple[str, int], str] = {}  # the last one seen, by text and position

    def rewind(self, step: int) -> None:
        """Keep what was recorded up to `step`, in the files and in memory."""
        self.evaluated, self._thoughts = {}, {}
        for line in _keep_until(self._evals, step, "the answers of an evaluation", **suite.FIELDS):
            for name in suite.figures_of(line.record):
                files.check(line.record, line.where, "the answers of an evaluation", **{name: (int, float)})
            self.evaluated.setdefault(line.record["step"], []).append(suite.from_dict(line.record))
        for line in _keep_until(self._samples, step, "a text and its thoughts", text=str, thoughts=list):
            for thought in line.record["thoughts"]:
                if not isinstance(thought, dict):
                    raise ValueError(f"{line.where}: a thought is {thought!r}, expected an object; {files.WAY_OUT}")
                files.check(thought, line.where, "a thought", position=int, thought=str)
                self._thoughts[line.record["text"], thought["position"]] = thought["thought"]

    def evaluate(self, step: int, state: TrainState) -> dict[str, float]:
        """Evaluate; returns the results as metrics. Where there is nothing to ask, nothing is said or written."""
        if self._evaluator.idle:
            self.evaluated[step] = []
            return {}
        with console.phase(f"evaluating at step {step}"), processes.whole(weights(state)) as params:
            rows = self._evaluator(params, jax.random.key(self._seed), divide=processes.divided)
        self.evaluated[step] = rows
        _append(self._evals, [{"step": step, **suite.as_dict(row)} for row in rows])
        return {
            f"{row.task}/{METRICS[row.way]}/{name}": figure.value
            for row in rows
            for name, figure in row.figures.items()
        }

    def sample(self, step: int, state: TrainState) -> None:
        """Read a few texts; write the thoughts that differ from the last time."""
        if self._reader is None:
            return
        with console.phase(f"reading thoughts at step {step}"), processes.whole(weights(state)) as params:
            readings = self._reader(params, SAMPLED_TEXTS)
        shown = []
        for reading in readings:
            text = self._tokenizer.decode(reading.tokens)
            changed = [
                {"position": position, "thought": thought, "weight": round(token.thoughts[0].weight, 4),
                 "gain": round(token.gain, 4)}
                for position, token in enumerate(reading.steps, 1)
                if self._differs(text, position, thought := self._tokenizer.decode(token.thoughts[0].tokens))
            ]  # fmt: skip
            _append(self._samples, [{"step": step, "text": text, "thoughts": changed}])
            shown += [[text, *(thought[name] for name in THOUGHT)] for thought in changed]
        if self._sinks is not None:
            self._sinks.table(step, "thoughts", Rows(("text", *THOUGHT), shown))

    def _differs(self, text: str, position: int, thought: str) -> bool:
        before = self._thoughts.get((text, position))
        self._thoughts[text, position] = thought
        return thought != before


ROLLOUTS = "rollouts"  # of a run directory: a store of what the model wrote while it was trained on it
SHOWN = 160  # characters of a rollout on the terminal


class RolloutRecord:
    """Rollouts of the first step and of every `every` ones: all in a store, the best and the worst on the terminal.

    A step that is taken again after a kill finds its rows there: they are the same.
    """

    def __init__(self, directory: Path, fingerprint: str, cfg: TrainConfig, sinks: Sinks | None = None):
        self._folder, self._fingerprint, self._cfg, self._sinks = directory / ROLLOUTS, fingerprint, cfg, sinks

    def __call__(self, step: int, rollouts: Sequence[Rollout]) -> None:
        if step > 1 and step % self._cfg.sample_every:
            return
        store = Store.create(self._folder, self._fingerprint, self._cfg.task.name)
        if not store.batches(step):
            store.append(step, 0, [self._sample(step, rollout) for rollout in rollouts])
        ordered = sorted(rollouts, key=lambda rollout: rollout.reward)
        if self._sinks is not None:
            rows = [[rollout.asked, rollout.text, rollout.reward, rollout.verdict.reason] for rollout in ordered]
            self._sinks.table(step, "rollouts", Rows(("prompt", "written", "reward", "verdict"), rows))
        for name, rollout in (("best", ordered[-1]), ("worst", ordered[0])):
            text = glyphs.visible(rollout.text)[:SHOWN]
            console.say(f"step {step}, {name} rollout, reward {rollout.reward:g}: {text}")

    def _sample(self, step: int, rollout: Rollout) -> Sample:
        problem, verdict, grader = rollout.problem, rollout.verdict, self._cfg.task.grader
        return Sample(
            problem=problem.id,
            split="train",
            question=problem.question,
            gold=problem.answer,
            group=problem.group,
            prompt=rollout.asked,
            hint="",
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            seed=self._cfg.seed,
            checkpoint=f"step {step - 1}",
            tokens=rollout.tokens,
            logprobs=rollout.behaviour.tolist(),
            margins=rollout.margins.tolist(),
            written=rollout.text + rollout.ending,
            stored=self._cfg.task.cleaned(rollout.text) if rollout.finished else None,
            answer=verdict.answer,
            correct=verdict.correct,
            reason=verdict.reason,
            grader=grader.name,
            grader_version=grader.version,
            prompt_tokens=len(rollout.prompt),
            generated_tokens=len(rollout.tokens),
            finished=rollout.finished,
            weight=rollout.reward,
        )


def _append(file: Path, lines: Sequence[dict]) -> None:
    if processes.first():
        files.append(file, lines)


def _keep_until(file: Path, step: int, kind: str, **fields: type) -> list[files.Line]:
    """Lines up to `step`; the first process removes the rest from the file, and so a line that a kill has torn."""
    keep = files.keep_until if processes.first() else files.until
    return keep(file, step, kind, **fields)
