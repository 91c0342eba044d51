"""A whole run of fine-tuning on a file of examples."""

import json

import pytest
from small_runs import MODEL, composed, lines

from qstar import runs
from qstar.runs import train


@pytest.fixture
def examples(tmp_path):
    file = tmp_path / "examples.jsonl"
    pairs = [("3aegb=", "4;"), ("1dbae=", "2;"), ("2ccca=", "5;"), ("5jjhi=", "1;")]
    file.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs))
    return file


def test_completions_are_trained_on_and_prompts_are_not(examples, tmp_path):
    data = ("method=sft", "data=examples", f"data.path={examples}", "data.length=16", "eval=none", "control=false")
    length = ("steps=30", "batch_size=4", "optim.lr=0.01", "optim.warmup_steps=1", "sample_every=0", "log_every=10")
    cfg = composed(*MODEL, *data, *length)
    train.run(cfg, tmp_path / "run")
    found = lines(tmp_path / "run" / "metrics.jsonl")
    assert found[-1]["nll"] < 0.5 * found[0]["nll"]
    assert found[-1]["tokens"] == 16  # two of each example; four rows
    assert type(runs.load_run(tmp_path / "run").method).__name__ == "SFT"
