"""Whole self-training runs on a task that takes seconds: say the letter of the question again."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from small_runs import composed

from qstar import answering, experiment, improve, improvement, runs
from qstar import config as configs
from qstar.config import ImproveConfig
from qstar.data import rationales
from qstar.data.rationales import Store
from qstar.paths import CONFIGS
from qstar.runs import Scratch
from qstar.tasks.grade import Verdict
from qstar.tasks.problem import Problem
from qstar.training.improve import Improve
from qstar.training.optim import OptimConfig

LETTERS = "ab"
MODEL = Scratch(
    "characters:ab?!*", width=16, layers=1, heads=2, kv_heads=2, head_size=8, ff=20, max_len=64, remat=False
)


@dataclass(frozen=True)
class Letter:
    """The one letter written before the exclamation mark is the answer."""

    name = "letter"
    version = 1

    def canonical(self, gold):
        return gold

    def __call__(self, written, gold):
        return Verdict(written == gold, written, "right" if written == gold else "wrong")


@dataclass(frozen=True)
class Echo:
    """Questions of one letter; a hint shows it behind a star."""

    letters: str = LETTERS
    name = "echo"
    stop = ("!",)
    grader = Letter()

    def problems(self, split):
        each = {"train": 16, "dev": 4, "test": 6}[split]
        return [Problem(f"{split}-{i}-{one}", f"{one}?", one, group=one) for i in range(each) for one in self.letters]

    def shots(self, problem, rng):
        return ()

    def prompt(self, problem, shots=()):
        return problem.question

    def hinted(self, problem, shots=()):
        return f"{problem.question}*{problem.told}"

    def completion(self, rationale, problem):
        return f"{problem.answer}!"

    def direct(self, problem):
        return f"{problem.answer}!"

    def shown(self, problem):
        return f"*{problem.told}"

    def cleaned(self, written):
        return f"{written}!" if written in self.letters and written else None

    def budget(self, problem, tokenizer):
        return 2


def config(directory, **recipe):
    improve = Improve(**{"iterations": 2, "samples": 8, "temperature": 1.0, "steps": 20, "growth": 1.0} | recipe)
    return ImproveConfig(
        run_dir=str(directory), sample_batch=8, batch_size=4, length=16, log_every=4, save_every=4,
        model=MODEL, task=Echo(), improve=improve, optim=OptimConfig(lr=0.03, warmup_steps=2),
    )  # fmt: skip


def trained(directory, iteration):
    return runs.load_run(directory / f"iteration_{iteration}").params


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def without_clock(directory):
    return [json.loads(line) for line in (directory / improvement.LINES).read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def known():
    """The task as one of those that configurations name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(configs.SCHEMAS, "task", configs.SCHEMAS.get("task", {}) | {"echo": Echo})
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of two iterations, never stopped."""
    directory = tmp_path_factory.mktemp("straight") / "run"
    improvement.run(config(directory), directory)
    return directory


def test_it_learns_from_its_own_right_answers(straight):
    lines = without_clock(straight)
    assert [line["iteration"] for line in lines] == [0, 1, 2]
    assert lines[0]["accuracy"]["share"] < 0.9 < lines[2]["accuracy"]["share"]
    assert lines[1]["sampled"] == 32 * 8
    assert 0 < lines[1]["right"] < lines[2]["right"]


def test_the_store_holds_every_sample_with_its_history(straight):
    rows = Store.open(straight / rationales.FOLDER).rows().to_pylist()
    lines = without_clock(straight)
    assert len(rows) == sum(line["sampled"] + line["hinted"] for line in lines[1:])
    assert sum(row["correct"] for row in rows) == sum(line["right"] + line["right_hinted"] for line in lines[1:])
    assert {row["checkpoint"] for row in rows if row["iteration"] == 1} == {"base"}
    assert {row["checkpoint"] for row in rows if row["iteration"] == 2} == {"iteration_1"}
    for row in rows:
        assert row["hinted"] == ("*" in row["prompt"])
        assert row["correct"] == (row["finished"] and row["written"] == row["gold"] + "!")


def test_what_is_learnt_is_right_and_holds_no_hint(straight):
    for iteration in (1, 2):
        file = straight / f"iteration_{iteration}" / "examples.jsonl"
        found = [json.loads(line) for line in file.read_text().splitlines()]
        assert found
        assert all(one["completion"] == one["prompt"][0] + "!" and "*" not in one["prompt"] for one in found)


def test_every_iteration_restarts_from_the_base_unless_it_goes_on(straight, tmp_path):
    assert runs.load_run(straight / "iteration_2").config.model == MODEL
    improvement.run(config(tmp_path / "on", restart=False), tmp_path / "on")
    assert runs.load_run(tmp_path / "on" / "iteration_2").config.model.source == str(tmp_path / "on" / "iteration_1")


def test_the_ledger_counts_what_the_store_holds(straight):
    rows = Store.open(straight / rationales.FOLDER).rows(rationales.of_iteration(1)).to_pylist()
    ledger = without_clock(straight)[1]["ledger"]
    for phase, hinted in (("sample", False), ("hint", True)):
        mine = [row for row in rows if row["hinted"] == hinted]
        assert ledger[phase]["generated_tokens"] == sum(len(row["tokens"]) for row in mine)
    assert ledger["sample"]["prompt_tokens"] == 32 * 2  # each read once for its eight samples
    assert without_clock(straight)[1]["train"]["trained_tokens"] == 20 * 4 * 16


def test_the_trainers_logprobs_are_the_samplers(straight):
    for line in without_clock(straight)[1:]:
        assert line["mismatch"]["largest"] < 1e-5


@pytest.mark.parametrize("stop", ["sampling", "training", "asking"])
def test_a_run_that_is_stopped_anywhere_comes_to_the_same_bits(stop, straight, tmp_path, monkeypatch):
    directory = tmp_path / "run"

    class Stopped(Exception):  # noqa: N818
        pass

    def after(function, calls):
        count = iter(range(10**6))

        def stopping(*args, **kwargs):
            if next(count) == calls:
                raise Stopped
            return function(*args, **kwargs)

        return stopping

    where = {
        "sampling": (Store, "append", 6),  # the second batch of the second iteration
        "training": (experiment, "run", 1),
        "asking": (answering, "evaluated", 2),
    }[stop]
    with monkeypatch.context() as patch:
        patch.setattr(where[0], where[1], after(getattr(where[0], where[1]), where[2]))
        with pytest.raises(Stopped):
            improvement.run(config(directory), directory)
    improvement.run(config(directory), directory)
    assert without_clock(directory) == without_clock(straight)
    same(trained(directory, 2), trained(straight, 2))
    tables = [Store.open(one / rationales.FOLDER).rows() for one in (directory, straight)]
    assert tables[0].equals(tables[1])


def test_without_a_filter_wrong_ones_are_learnt_too(tmp_path):
    improvement.run(config(tmp_path / "run", keep="all", iterations=1), tmp_path / "run")
    found = [
        json.loads(line) for line in (tmp_path / "run" / "iteration_1" / "examples.jsonl").read_text().splitlines()
    ]
    assert any(one["completion"][0] != one["prompt"][0] for one in found)


def test_answers_alone_can_be_learnt(tmp_path):
    lines = improvement.run(config(tmp_path / "run", target="direct", iterations=1, steps=40), tmp_path / "run")
    assert lines[-1]["accuracy"]["share"] == 1.0
    assert not (tmp_path / "run" / rationales.FOLDER).exists()


def test_the_test_split_is_asked_once_and_the_directory_remembers_it(straight, tmp_path):
    cfg = dataclasses.replace(config(tmp_path / "run", iterations=1), test=True)
    improvement.run(cfg, tmp_path / "run")
    lines = improvement.run(cfg, tmp_path / "run")
    assert lines[-1]["test"]["accuracy"]["n"] == 12
    touches = (tmp_path / "run" / "test_touches.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in touches] == ["accuracy after iteration 1"]
    assert "Test, after the last iteration: " in (tmp_path / "run" / "summary.md").read_text()


def test_where_nothing_is_right_it_stops_with_advice_and_the_samples_stay(tmp_path):
    @dataclass(frozen=True)
    class Never(Letter):
        def __call__(self, written, gold):
            return Verdict(False, "", "wrong")

    class Hopeless(Echo):
        grader = Never()

    cfg = dataclasses.replace(config(tmp_path / "run"), task=Hopeless())
    with pytest.raises(
        improvement.NothingRight, match=r"none of 256 samples .* Self-training needs a start above chance"
    ):
        improvement.run(cfg, tmp_path / "run")
    assert Store.open(tmp_path / "run" / rationales.FOLDER).rows().num_rows == 256 + 32
    assert not (tmp_path / "run" / "iteration_1" / "checkpoints").exists()


def test_more_iterations_go_on_and_another_recipe_is_refused(straight, tmp_path):
    directory = tmp_path / "run"
    improvement.run(config(directory, iterations=1), directory)
    improvement.run(config(directory), directory)
    assert without_clock(directory) == without_clock(straight)
    with pytest.raises(ValueError, match=r"holds a run of another configuration:\n  improve.samples = 8, now 4"):
        improvement.run(config(directory, samples=4), directory)


def test_human_rationales_must_be_there(tmp_path):
    with pytest.raises(ValueError, match=r"improve.target=human: no problem of echo has a human rationale"):
        improvement.run(config(tmp_path / "run", target="human"), tmp_path / "run")


# --- recipes ------------------------------------------------------------------------------------------------------

RECIPES = sorted(file.stem for file in (Path(CONFIGS) / "improve").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_composes_with_its_papers_choices(recipe):
    cfg = composed(f"improve={recipe}", "model.source=bundled:cups", name="improve")
    assert isinstance(cfg, ImproveConfig)
    chosen = {name: getattr(cfg.improve, name) for name in ("hint", "keep", "memory", "restart", "target", "weighting")}
    assert {name: value for name, value in chosen.items() if value != getattr(Improve(), name)} == DIFFERENT[recipe]


DIFFERENT = {  # from STaR
    "star": {},
    "star_no_rationalization": {"hint": "never"},
    "rft": {"hint": "never"},
    "rest_em": {"hint": "never"},
    "expert_iteration": {"hint": "never", "memory": "all", "restart": False},
    "vstar": {"hint": "never", "memory": "all"},
    "trice": {"hint": "missing", "memory": "newest", "restart": False},
    "ssd": {"hint": "never", "keep": "all"},
    "grpo": {"hint": "never", "restart": False, "weighting": "grpo"},
    "sft": {"target": "human"},
    "direct": {"target": "direct"},
}


@pytest.mark.parametrize("recipe", ["expert_iteration", "grpo", "rest_em", "star", "star_no_rationalization", "trice"])
def test_every_recipe_that_samples_learns_the_echo(recipe, tmp_path):
    cfg = composed(f"improve={recipe}", "model.source=bundled:cups", name="improve").improve
    small = {"iterations": 2, "problems": 0, "samples": max(cfg.samples, 8) if recipe != "trice" else 1}
    cfg = dataclasses.replace(cfg, **small, temperature=1.0, steps=20, few_shot=False)
    lines = improvement.run(dataclasses.replace(config(tmp_path / "run"), improve=cfg), tmp_path / "run")
    assert lines[-1]["right"] > lines[1]["right"]


def test_a_model_has_to_be_named():
    with pytest.raises(ValueError, match=r"model.source has no value: give model.source=VALUE"):
        composed(name="improve")


def chosen(*overrides):
    """What the command line makes of these."""
    configs.register()
    with initialize_config_dir(version_base="1.3", config_dir=CONFIGS):
        return improve.chosen(compose("improve", list(overrides)), list(overrides))


def test_a_run_goes_on_with_its_own_configuration_and_what_is_changed(straight, tmp_path):
    cfg, directory = chosen(f"resume={straight}", "improve.iterations=3", "test=true")
    assert directory == straight
    assert cfg == dataclasses.replace(
        config(straight, iterations=3), test=True, task=Echo(), model=dataclasses.replace(MODEL)
    )
    with pytest.raises(FileNotFoundError, match=r"is no self-training run \(no improve.yaml in it\)"):
        chosen(f"resume={tmp_path}")
