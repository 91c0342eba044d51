"""The Hydra group `task`: every option composes to its dataclass, with values for what the command line may change."""

import hydra
import pytest
from omegaconf import OmegaConf

from qstar import config as configs
from qstar.paths import CONFIGS
from qstar.tasks.arithmetic import Arithmetic
from qstar.tasks.commonsense_qa import CommonsenseQA
from qstar.tasks.countdown import Countdown
from qstar.tasks.cups import Cups
from qstar.tasks.gsm8k import GSM8K
from qstar.tasks.jsonl import Jsonl
from qstar.tasks.puzzles import Puzzles
from qstar.tasks.svamp import SVAMP


def composed(*overrides):
    configs.register()
    with hydra.initialize_config_dir(CONFIGS, version_base=None):
        return configs.build(hydra.compose(overrides=list(overrides)).task)


@pytest.mark.parametrize(
    ("option", "task"),
    [
        ("arithmetic", Arithmetic(digits=(1, 2, 3, 4, 5), num_shots=10)),
        ("countdown", Countdown()),
        ("cups", Cups()),
        ("gsm8k", GSM8K(folder="DATA/gsm8k", num_shots=6)),
        ("commonsense_qa", CommonsenseQA(folder="DATA/commonsenseqa", num_shots=7)),
        ("svamp", SVAMP(folder="DATA/svamp")),
        ("reasoning_gym", Puzzles(task="chain_sum")),
        ("jsonl", Jsonl()),
    ],
)
def test_every_task_composes(monkeypatch, option, task):
    monkeypatch.setenv("QSTAR_DATA", "DATA")
    assert composed(f"+task={option}") == task


def test_values_come_from_the_command_line():
    assert composed("+task=arithmetic", "task.digits=[6,7]").digits == (6, 7)
    assert composed("+task=reasoning_gym", "task.task=n_queens", "+task.options.n=5").options == {"n": 5}


def test_five_lines_of_yaml_are_a_task(tmp_path):
    (tmp_path / "capitals.jsonl").write_text('{"q": "What is the capital of Peru?", "a": "Lima"}\n')
    given = f"""
        path: {tmp_path / "capitals.jsonl"}
        question_field: q
        answer_field: a
        dev: 0
        test: 0
    """
    task = configs.build(OmegaConf.merge(OmegaConf.structured(Jsonl), OmegaConf.create(given)))
    assert [(one.question, one.answer) for one in task.problems("train")] == [("What is the capital of Peru?", "lima")]
