"""Run directories of every kind as commands leave them, written by hand: literal lines, no model."""

import dataclasses
import functools
import json
from pathlib import Path

from small_runs import composed, small

from qstar import config as configs
from qstar.data.rationales import FOLDER, Place, Sample, Store
from qstar.evals.journal import Journal
from qstar.runs import label, solve

FIGURES = {"accuracy": 0.5, "accuracy_low": 0.25, "accuracy_high": 0.75}


def lines(file: Path, *records: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def answered(step: int, way: str, accuracy: float, n: int = 4) -> dict:
    figures = FIGURES | {"accuracy": accuracy}
    return {"step": step, "task": "cups", "thoughts": way != "none", "way": way, "draws": 1, "n": n, **figures}


made = functools.cache(composed)  # composing takes a second
small_train = functools.cache(small)


def train(folder: Path, seed: int = 0, thought_len: int = 2, accuracy: float = 0.75, steps: int = 10) -> Path:
    """Ten steps of Quiet-STaR with a control, samples of thoughts and no checkpoint."""
    cfg = small_train("steps=10")
    cfg = dataclasses.replace(
        cfg, seed=seed, steps=steps, method=dataclasses.replace(cfg.method, thought_len=thought_len)
    )
    for place, nll in ((folder, 1.25), (folder / "control", 1.5)):
        place.mkdir(parents=True)
        configs.save(cfg, place / "config.yaml")
        metrics = [{"step": step, "time_s": step / 2, "nll": nll - step / 100, "loss": 2.0} for step in (5, 10)]
        metrics[1]["reward"] = 0.125
        lines(place / "metrics.jsonl", *metrics)
    lines(
        folder / "evals.jsonl",
        *(answered(0, way, 0.25) for way in ("none", "greedy")),
        *(answered(10, way, accuracy) for way in ("none", "greedy")),
    )
    lines(folder / "control" / "evals.jsonl", answered(10, "none", 0.25))
    thoughts = [{"position": 1, "thought": "42", "weight": 0.5, "gain": 0.25}]
    lines(folder / "samples.jsonl", {"step": 5, "text": "3a=4", "thoughts": thoughts})
    return folder


SAMPLE = {
    "split": "dev", "question": "3ab=", "gold": "2", "prompt": "3ab=", "hint": "", "temperature": 1.0, "top_k": 0,
    "top_p": 1.0, "seed": 0, "checkpoint": "run@20", "grader": "cups", "grader_version": 1, "prompt_tokens": 4,
    "finished": True, "group": "2",
}  # fmt: skip


def sample(problem: str, written: str, answer: str, correct: bool, **fields: object) -> Sample:
    size = len(written)
    return Sample(
        problem=problem, written=written, answer=answer, correct=correct, tokens=[1] * size, logprobs=[-0.5] * size,
        stored=written, reason="right" if correct else "wrong", generated_tokens=size, **SAMPLE | fields,
    )  # fmt: skip


def improve(folder: Path) -> Path:
    """Two iterations, of which the first trained nothing that is kept."""
    folder.mkdir(parents=True)
    overrides = ("task=cups", "model.source=bundled:cups", "improve.iterations=2")
    configs.save(made(*overrides, name="improve"), folder / "improve.yaml")
    share = lambda value, n: {"share": value, "low": value / 2, "high": 1.0, "n": n}  # noqa: E731
    spent = {"sample": {"generated_tokens": 30, "flops": 600}, "dev": {"generated_tokens": 5, "flops": 100}}
    asked = lambda value: {"accuracy": share(value, 8), "groups": {"6": share(value, 4), "7": share(1.0, 4)}}  # noqa: E731
    lines(
        folder / "iterations.jsonl",
        {"iteration": 0, **asked(0.25), "ledger": {"dev": spent["dev"]}},
        {"iteration": 1, "sampled": 4, "right": 3, "hinted": 1, "right_hinted": 1, "examples": 4, "steps": 2}
        | {**asked(0.5), "ledger": spent, "test": asked(0.75)},
    )
    store = Store.create(folder / FOLDER, "model", "cups")
    store.append(1, 0, [sample("train-1", "2;", "2", True), sample("train-2", "3;", "3", False)])
    return folder


def place(node: int, parent: int, **fields: object) -> Place:
    plain = {"draw": 0, "final": False, "rollout": False, "chosen": False, "scores": {}, "value": None, "margin": None}
    return Place(node=node, parent=parent, flops=10, scored_tokens=3, scoring_flops=5, **plain | fields)


RIGHT, WRONG = {"oracle": 1.0}, {"oracle": 0.0}


def tree(problem: str, right: bool = True) -> list[Sample]:
    """A prompt, two first steps of which one is a dead end, and three solutions, the second of which is chosen."""
    return [
        sample(problem, "", "", False, place=place(0, -1)),
        sample(problem, "-1", "", False, place=place(1, 0, scores=RIGHT, value=0.5)),
        sample(problem, "-<4>", "", False, place=place(2, 0, scores=WRONG, value=0.25)),
        sample(problem, "3;", "3", False, place=place(3, 1, final=True, scores=WRONG, value=0.125)),
        sample(problem, "2;", "2", right, place=place(4, 1, final=True, chosen=True, scores=RIGHT, value=0.75)),
        sample(problem, "3;", "3", False, place=place(5, 1, final=True, draw=1)),
    ]


def search(folder: Path, right: tuple[bool, ...] = (True, True)) -> Path:
    """Two questions, searched by steps; their trees are alike, but for whether the chosen solution is right."""
    folder.mkdir(parents=True)
    overrides = ("task=cups", "model.source=bundled:cups", "search=beam", "search.n=2", "search.m=2", "scorer=oracle")
    configs.save(made(*overrides, name="solve"), folder / solve.KIND.file)
    Store.create(folder / solve.FOLDER, "model", "cups").append(
        0, 0, [row for number, known in enumerate(right, 1) for row in tree(f"dev-{number}", known)]
    )
    lines(folder / solve.BATCHES, {"batch": 0, "seconds": 1.0, "most_tokens": 8})
    return folder


def labelling(folder: Path) -> Path:
    folder.mkdir(parents=True)
    configs.save(made("label.k=4", name="label"), folder / label.KIND.file)
    lines(
        folder / label.LABELS,
        {"prompt": "3a=", "completions": ["2;"], "labels": [False], "problem": "train-0", "correct": False},
    )
    spent = {"sample": {"generated_tokens": 7, "flops": 70}}
    counts = {"solutions": 1, "right": 0, "skipped": 0, "steps": 1, "labels": 1, "mean_label": 0.0}
    (folder / label.SUMMARY).write_text(json.dumps(counts | {"ledger": spent}))
    return folder


def evaluation(folder: Path, right: tuple[bool, ...] = (True, False, True, True)) -> Path:
    """Two steps of an evaluation, asked in two ways; step 10 answers as `right` says with thoughts, nothing without."""
    ways = {"none": (False,) * len(right), "greedy": right}
    for step in (5, 10):
        rows = [
            {"item": f"q{i}", "thoughts": way, "draw": 0, "question": f"{i}a=", "exact": exact}
            for way, exacts in ways.items()
            for i, exact in enumerate(exacts)
        ]
        Journal(folder / f"step_{step}", "cups", {"step": step}).finish(rows)
    evals = [answered(step, way, sum(ways[way]) / len(right)) for step in (5, 10) for way in ways]
    lines(folder / "evals.jsonl", *evals)
    return folder
