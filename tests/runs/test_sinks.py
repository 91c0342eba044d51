"""What loggers besides the files are shown: settings, figures, and what the model wrote as tables."""

import dataclasses
import json

import pytest
from small_runs import small
from test_trl_export import run as sampled  # noqa: F401 (a fixture)

from qstar import config as configs
from qstar.config import EvaluateConfig
from qstar.runs import iterations, train
from qstar.training import metrics
from qstar.training.metrics import Rows, Sinks, numbers


class Recorder:
    """Keeps what it is shown."""

    def __init__(self, directory, step, config):
        self.config, self.written, self.tables, self.open = config, [], [], True
        KEPT.append(self)

    def write(self, step, values):
        self.written.append((step, dict(values)))

    def table(self, step, name, rows):
        self.tables.append((step, name, rows))

    def close(self):
        self.open = False


KEPT: list[Recorder] = []


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setitem(metrics.SINKS, "wandb", Recorder)
    monkeypatch.setitem(metrics.PACKAGES, "wandb", "json")
    KEPT.clear()
    return KEPT


def test_a_training_shows_its_settings_metrics_and_thoughts(kept, tmp_path):
    cfg = small("steps=2", "eval=none", "control=false", "sample_every=1", "sinks=[wandb]", "seed=7")
    train.run(cfg, tmp_path / "run")
    shown = kept[-1]
    assert (shown.config["seed"], shown.config["method"], shown.config["method.thought_len"]) == (7, "quiet_star", 2)
    assert [step for step, _ in shown.written] == [1, 2] and "loss" in shown.written[0][1]
    assert {name for _, name, _ in shown.tables} == {"thoughts"}
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    last = [[line["text"], *thought.values()] for line in samples if line["step"] == 2 for thought in line["thoughts"]]
    step, _, rows = shown.tables[-1]
    assert step == 2 and rows.columns == ("text", "position", "thought", "weight", "gain")
    assert [list(row) for row in rows.rows] == last
    assert not shown.open


def test_self_training_shows_each_iteration_and_its_samples(kept, sampled):  # noqa: F811
    directory, (first, _, third), _ = sampled
    lines = [{"iteration": 0, "accuracy": {"share": 0.5, "n": 4}}, {"iteration": 1, "accuracy": {"share": 1.0, "n": 4}}]
    with Sinks(directory, ["wandb"], {"seed": 0}) as sinks:
        iterations.show(sinks, directory, lines)
    (shown,) = kept
    assert shown.written[1] == (1, {"iteration": 1, "accuracy/share": 1.0, "accuracy/n": 4})
    ((step, name, rows),) = shown.tables
    assert (step, name, len(rows.rows)) == (1, "rationales", 6)
    assert rows.rows[0][:3] == [first.question, "", f"{first.answer};"] and rows.rows[-1][1] == third.answer


def test_numbers_of_a_record_are_named_by_their_path():
    assert numbers({"a": 1, "b": {"c": 0.5, "d": {"e": 2}}, "f": "text", "g": True, "h": [1]}) == {
        "a": 1, "b/c": 0.5, "b/d/e": 2
    }  # fmt: skip


@pytest.mark.parametrize("schema", ["EvaluateConfig", "ImproveConfig", "SolveConfig", "LabelConfig", "TrainConfig"])
def test_every_command_takes_sinks(schema):
    fields = {field.name: field.default for field in dataclasses.fields(getattr(configs, schema))}
    assert fields["sinks"] == ()


def test_an_evaluation_with_sinks_needs_a_folder():
    with pytest.raises(ValueError, match=r"sinks = \['wandb'\]: .*out=FOLDER"):
        EvaluateConfig(sinks=("wandb",))
    assert EvaluateConfig(sinks=("wandb",), out="here").sinks == ("wandb",)


def test_wandb_gets_the_configuration_and_tables(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Sinks(tmp_path, ["wandb"], {"seed": 7, "method.beta": 1.0}) as sinks:
        sinks.open(0)
        assert dict(wandb.run.config) == {"seed": 7, "method.beta": 1.0}
        sinks.write(1, {"loss": 2.0})
        sinks.table(1, "thoughts", Rows(("text", "gain"), [["a", 0.5]]))
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/thoughts*.json")
    assert json.loads(table.read_text()) == {"columns": ["text", "gain"], "data": [["a", 0.5]]}
