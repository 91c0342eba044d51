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


SETTINGS = (
    "method=sft",
    "data=examples",
    "data.length=16",
    "eval=none",
    "control=false",
    "batch_size=4",
    "sample_every=0",
)


def test_completions_are_trained_on_and_prompts_are_not(examples, tmp_path):
    data = ("method=sft", "data=examples", f"data.path={examples}", "data.length=16", "eval=none", "control=false")
    length = ("steps=30", "batch_size=4", "optim.lr=0.01", "optim.warmup_steps=1", "sample_every=0", "log_every=10")
    cfg = composed(*MODEL, *data, *length)
    train.run(cfg, tmp_path / "run")
    found = lines(tmp_path / "run" / "metrics.jsonl")
    assert found[-1]["nll"] < 0.5 * found[0]["nll"]
    assert found[-1]["tokens"] == 16  # two of each example; four rows
    assert type(runs.load_run(tmp_path / "run").method).__name__ == "SFT"


def test_a_run_does_not_resume_on_an_edited_file(examples, tmp_path):
    directory = tmp_path / "run"

    def trained(steps, file=examples):
        more = (f"data.path={file}", f"steps={steps}", "resume=x", f"run_dir={directory}")
        train.run(composed(*MODEL, *SETTINGS, *more), directory)
        return (directory / "metrics.jsonl").read_bytes()

    before = trained(1)
    whole = examples.read_text()
    examples.write_text(whole.replace("4;", "3;"))
    with pytest.raises(ValueError, match=rf"holds a run that was trained on other data, .*:\n  {examples} = \w+, now "):
        trained(2)
    assert (directory / "metrics.jsonl").read_bytes() == before
    other = examples.rename(tmp_path / "other.jsonl")  # chosen, not edited
    assert trained(2, other) != before
    other.write_text(whole)
    with pytest.raises(ValueError, match="other data"):
        trained(3, other)
    (directory / "identity.json").unlink()  # as a run of an earlier version
    trained(3, other)
