"""The steps of CONTRIBUTING.md, each followed once: a toy of that kind in a package of its own, and a run."""

import dataclasses
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import small_runs
import tolerances
from hydra import compose, initialize_config_dir

from qstar import config as configs
from qstar import evaluate
from qstar.paths import CONFIGS, ROOT
from qstar.runs import improve, train
from qstar.search import run as searches
from qstar.search.interface import Candidate

MODULE = '''
"""A method, a recipe, a task, a strategy and a file format of somebody else."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from qstar.data import examples, pipeline
from qstar.data.dataset import Data
from qstar.data.examples import Example
from qstar.methods.plain_lm import PlainLM
from qstar.recipes.recipe import Plan, Recipe
from qstar.search.sample import sample
from qstar.settings import Count, Positive
from qstar.structs import Batch, Examples
from qstar.tasks.grading.grade import Verdict
from qstar.tasks.problem import Asked, Problem, known


@dataclass(frozen=True)
class Scaled(PlainLM):
    """The negative log-likelihood times a number."""

    scale: Positive = 2.0  # of the loss

    def loss_terms(self, models, batch, key):
        loss, metrics = super().loss_terms(models, batch, key)
        return loss.replace(terms=tuple(term.replace(weight=self.scale * term.weight) for term in loss.terms)), metrics


@dataclass(frozen=True)
class FirstFew(Recipe):
    """Asks the same few questions in every iteration."""

    few: Count = 3  # questions

    def plan(self, iteration, count, seed):
        return Plan(range(min(self.few, count)), self.samples, self.hint)


class Last:
    """The last character is the answer."""

    name: ClassVar[str] = "last"
    version: ClassVar[int] = 1

    def canonical(self, gold):
        return gold

    def __call__(self, written, gold):
        answer = written[-1:]
        return Verdict(answer == gold, answer, "right" if answer == gold else "wrong")


@dataclass(frozen=True)
class OneMove(Asked):
    """Where a ball is after one move of the cups."""

    count: Count = 4  # questions of each split
    name: ClassVar[str] = "one move"
    stop: ClassVar[tuple[str, ...]] = (";",)
    grader: ClassVar[Last] = Last()

    def problems(self, split):
        moves = ("3a", "3b", "3c", "3d")
        return [Problem(f"{known(split)}-{i}", moves[i % 4], "4") for i in range(self.count)]

    def shots(self, problem, rng):
        return ()

    def ask(self, problem, hint):
        return (f"{problem.hint_text}." if hint else "") + f"{problem.question}="

    def shown(self, problem):
        return f"{problem.hint_text}."

    def completion(self, rationale, problem):
        return f"{problem.answer};"

    def cleaned(self, written):
        return f"{written[-1:]};" if written else None

    def reasons(self, stored):
        return None

    def budget(self, problem, tokenizer):
        return 24


@dataclass(frozen=True)
class FirstSample:
    """Takes the first of two solutions, without a scorer."""

    guided: ClassVar[bool] = False
    stepwise: ClassVar[bool] = False
    branching: ClassVar[int] = 2

    def __call__(self, trees):
        nodes = sample(trees, range(len(trees.prompts)), self.branching)
        return trees.solutions(lambda problem: nodes[problem][0])


@dataclass(frozen=True)
class Tabbed(Data):
    """Lines of a prompt, a tab and a completion."""

    rows: ClassVar[tuple[type, ...]] = (Examples, Batch)
    holds: ClassVar[str] = "lines with a tab"

    path: str  # of the file
    length: Count = 32  # tokens in a row

    def build(self, tokenizer, batch_size, seed, say=print):
        pairs = [line.split("\\t") for line in Path(self.path).read_text().splitlines()]
        encoded = [Example(*map(tuple, tokenizer.encode_pair(*pair))) for pair in pairs]
        return pipeline.source_dataset(examples.rows(encoded, self.length, seed), batch_size, seed)
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The package and its YAML files; its classes are lines of `SCHEMAS`."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("mine")
    parts = {"method": module.Scaled, "improve": module.FirstFew, "task": module.OneMove, "data": module.Tabbed}
    for group, kind in parts.items():
        monkeypatch.setitem(configs.SCHEMAS, group, configs.SCHEMAS[group] | {"mine": kind})
        (tmp_path / "configs" / group).mkdir(parents=True)
        (tmp_path / "configs" / group / "mine.yaml").write_text("defaults: [base_mine]\n")
    configs.register()
    yield module
    sys.modules.pop("mine")


def composed(folder: Path, name: str, *overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=CONFIGS):
        return configs.build(compose(name, [f"hydra.searchpath=[file://{ROOT},file://{folder}/configs]", *overrides]))


def test_a_method(mine, tmp_path):
    settings = (
        "~experiments",
        "method=mine",
        "method.scale=3",
        "eval=none",
        "steps=2",
        "batch_size=2",
        "log_every=1",
        "data.length=32",
    )
    cfg = composed(tmp_path, "train", *small_runs.MODEL, *settings)
    assert cfg.method == mine.Scaled(scale=3.0)
    plain = dataclasses.replace(cfg, method=configs.SCHEMAS["method"]["lm"]())
    losses = []
    for number, one in enumerate((plain, cfg)):
        train.run(one, tmp_path / f"run_{number}")
        losses.append(small_runs.lines(tmp_path / f"run_{number}" / "metrics.jsonl")[0]["loss"])
    # Logits and scores of a new model have a variance of about 1.
    bound = 3 * tolerances.forward(cfg.model, keys=32, size=8, scores=1.0)
    assert losses[1] == pytest.approx(3 * losses[0], abs=bound)


def test_a_recipe_and_a_task(mine, tmp_path):
    settings = ("improve.few=2", "improve.keep=all", "improve.steps=2", "improve.few_shot=false", "improve.hint=never")
    sizes = ("batch_size=2", "length=48", "sample_batch=4", "optim.warmup_steps=0")
    cfg = composed(tmp_path, "improve", "model.source=bundled:cups", "task=mine", "improve=mine", *settings, *sizes)
    lines = improve.run(cfg, tmp_path / "run")
    assert lines[1]["problems"] == lines[1]["sampled"] == 2
    assert lines[0]["accuracy"]["n"] == 4


def test_a_task_as_an_evaluation(mine, tmp_path):
    questions = ("eval=task", "task@eval.task=mine", "eval.thoughts=[none]")
    cfg = composed(tmp_path, "evaluate", "run=none", "model.source=bundled:cups", *questions)
    ((_, (row,)),) = evaluate.evaluate(cfg)
    assert (row.task, row.n) == ("onemove_written", 4)


def test_a_strategy(mine):
    def propose(prefixes, k, key):
        letters = np.random.default_rng(key).choice(list("xyz"), (len(prefixes), k)).tolist()
        return [
            [Candidate(f"{prefix.state}{letter}", 1, True, letter, np.zeros(1)) for letter in row]
            for prefix, row in zip(prefixes, letters, strict=True)
        ]

    found = searches.search(mine.FirstSample(), ["a", "b"], propose, {}, lambda node: node.state[-1], 0)
    assert len(found.answers) == 2 and set(found.answers) <= set("xyz")


def test_a_file_format(mine, tmp_path):
    (tmp_path / "sums.tsv").write_text("3a=\t4;\n1b=\t2;\n")
    data = ("data=mine", f"data.path={tmp_path}/sums.tsv", "data.length=8", "eval=none")
    cfg = composed(tmp_path, "train", "method=sft", *small_runs.MODEL, *data, "steps=2", "batch_size=1", "log_every=1")
    train.run(dataclasses.replace(cfg, control=False), tmp_path / "run")
    lines = small_runs.lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["tokens"] for line in lines] == [2, 2]  # an example in a row: the two characters after the tab


def test_a_file_format_serves_the_methods_that_take_its_rows_alone(mine, tmp_path):
    data = ("~experiments", "data=mine", "data.path=sums.tsv", "eval=none")
    assert composed(tmp_path, "train", "model=tiny", "method=lm", *data).data == mine.Tabbed("sums.tsv")
    with pytest.raises(ValueError, match=r"method=dpo .* data=mine holds lines with a tab"):
        composed(tmp_path, "train", "model=tiny", "method=dpo", *data)
