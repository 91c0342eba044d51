"""Lines of a run's records that are damaged or of something else are named with their file."""

import json
import shutil

import pytest
from small_runs import composed, small

from qstar import config as configs
from qstar import runs
from qstar.config import ImproveConfig
from qstar.data import tokenizer as tokenizers
from qstar.models.lm import LMConfig
from qstar.models.origins import Scratch
from qstar.recipes.recipe import Recipe
from qstar.runs import iterations, stored
from qstar.runs.record import Record
from qstar.tasks.arithmetic import Arithmetic
from qstar.training import metrics

ANSWERS = {"step": 1, "task": "cups", "thoughts": False, "n": 6, "score": 0.5, "score_low": 0.1, "score_high": 0.9}
SAMPLE = {"step": 1, "text": "3a=", "thoughts": [{"position": 1, "thought": "xy", "weight": 0.1, "gain": 0.0}]}
ITERATION = {"iteration": 0, "accuracy": {"share": 0.5, "n": 4}, "groups": {}, "ledger": {}}


def write(file, *records):
    file.write_text("".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records))


@pytest.mark.parametrize(
    ("name", "good", "bad", "message"),
    [
        ("evals.jsonl", ANSWERS, "scribbled", "not JSON"),
        ("evals.jsonl", ANSWERS, ANSWERS | {"n": "six"}, "'n' is 'six'"),
        ("evals.jsonl", ANSWERS, ANSWERS | {"score": "high"}, "'score' is 'high'"),
        ("evals.jsonl", ANSWERS, {"step": 1}, "no 'task' in it"),
        ("evals.jsonl", ANSWERS, ANSWERS | {"step": 0}, "step 0 after step 1"),
        ("samples.jsonl", SAMPLE, "[]", "a JSON list"),
        ("samples.jsonl", SAMPLE, SAMPLE | {"thoughts": "xy"}, "'thoughts' is 'xy'"),
        ("samples.jsonl", SAMPLE, SAMPLE | {"thoughts": ["xy"]}, "a thought is 'xy'"),
        ("samples.jsonl", SAMPLE, SAMPLE | {"thoughts": [{"thought": "xy"}]}, "no 'position' in it"),
    ],
)
def test_what_is_no_answer_or_sample_is_named_and_stays(tmp_path, name, good, bad, message):
    file = tmp_path / name
    write(file, good, bad)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=rf"{file}, line 2: {message}"):
        Record(tmp_path, None, None, None, 0).rewind(1)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"step": 2', "not JSON"),
        ({"step": 2.5, "time_s": 1}, "'step' is 2.5"),
        ({"step": 2}, "no 'time_s' in it"),
        ({"step": 2, "time_s": "soon"}, "'time_s' is 'soon'"),
    ],
)
def test_what_is_no_line_of_metrics_is_named_and_stays(tmp_path, bad, message):
    file = tmp_path / metrics.FILE
    write(file, {"step": 1, "time_s": 1.0}, bad)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=rf"{file}, line 2: {message}"):
        metrics.MetricLogger(tmp_path).rewind(3)
    assert file.read_bytes() == before
    if message == "not JSON":
        with pytest.raises(ValueError, match=rf"{file}, line 2: {message}"):
            metrics.records(tmp_path)


def test_sums_of_an_open_interval_that_are_none_are_named(tmp_path):
    write(tmp_path / "metrics_open.jsonl", {"step": 2, "time_s": 1.0, "sums": {"loss": [1.0]}})
    with pytest.raises(ValueError, match=r"metrics_open.jsonl, line 1: \[1.0\] is not a sum and count"):
        metrics.MetricLogger(tmp_path).rewind(2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("scribbled", "not JSON"),
        ({"iteration": 1}, "no 'accuracy' in it"),
        (ITERATION, "iteration 0 in the place of iteration 1"),
    ],
)
def test_what_is_no_line_of_an_iteration_is_named(tmp_path, bad, message):
    write(tmp_path / iterations.LINES, ITERATION, bad)
    with pytest.raises(ValueError, match=rf"{iterations.LINES}, line 2: {message}"):
        iterations.lines(tmp_path)


# --- configurations and shapes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    configs.save(small(), folder / "config.yaml")
    return folder / "config.yaml"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size: 4", "batch_size: [4", ""),
        ("batch_size: 4", "batch_size: four", ".*batch_size"),
        ("batch_size: 4", "batch_size: 0", "batch_size = 0"),
        ("batch_size: 4", "batch_sise: 4", ".*batch_sise"),
        ("  width: 16", "  width: wide", ".*width"),
        ("  warmup_steps: ", "  warmup_stpes: ", ".*warmup_stpes"),
        ("  method: QuietStar", "  method: LoudStar", ".*LoudStar"),
    ],
)
def test_a_damaged_configuration_is_named_with_its_line(saved, tmp_path, old, new, message):
    lines = saved.read_text().splitlines()
    number = next(number for number, line in enumerate(lines, 1) if line.startswith(old))
    file = tmp_path / "config.yaml"
    file.write_text(saved.read_text().replace(old, new, 1))
    # YAML says where it gave up, which may be the line after.
    line = f"({number}|{number + 1})" if "[" in new else str(number)
    with pytest.raises(ValueError, match=rf"(?s){file}.* line {line}: .*{message}"):
        configs.load(file)


@pytest.mark.parametrize("contents", [b"\xff\xfe\x00binary", b"", b"- a list", b"text", b"a: 1\nb: 2\n"])
def test_a_file_that_is_not_a_configuration_is_named(tmp_path, contents):
    file = tmp_path / "config.yaml"
    file.write_bytes(contents)
    with pytest.raises(ValueError, match=rf"{file}.* is not a configuration"):
        configs.load(file)


@pytest.fixture
def shape(tmp_path):
    cfg = LMConfig(vocab=19, width=16, layers=1, heads=2, kv_heads=2, head_size=8, ff=20)
    runs.describe(tmp_path, cfg, tokenizers.characters("ab"))
    assert runs.shape(tmp_path / "lm.json") == cfg
    return tmp_path / "lm.json"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"width": 16,', '"width": 16', "line 4: not JSON"),
        ('"width": 16', '"width": "wide"', "line 3: 'width' is 'wide', expected int"),
        ('"width": 16', '"widht": 16', "line 3: 'widht' is not a field"),
        ('"width": 16,', "", "line 1: lacks width"),
        ("{", "[", "line 2: not JSON"),
        ('"tied": true', '"tied": 1', "line [0-9]+: 'tied' is 1, expected bool"),
        ('"width": 16', '"width": 0', " model.width = 0"),
    ],
)
def test_a_damaged_shape_of_a_model_is_named_with_its_line(shape, old, new, message):
    shape.write_text(shape.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"{shape},? ?:?{message}|{shape}:{message}"):
        runs.shape(shape)


# --- the latest self-training -------------------------------------------------------------------------------------


def test_runs_of_another_method_are_not_named_as_begun_ones_that_think(tmp_path):
    for name, cfg in (("plain", composed("method=lm")), ("thinking", composed())):
        (tmp_path / name).mkdir()
        with pytest.raises(FileNotFoundError, match=rf"no run of a method that thinks under {tmp_path}: start one"):
            stored.THINKER.latest(tmp_path)
        configs.save(cfg, tmp_path / name / "config.yaml")
    with pytest.raises(FileNotFoundError, match=r"of 1 that were started, the last one in .*thinking"):
        stored.THINKER.latest(tmp_path)


def test_the_latest_self_training_is_one_that_has_asked_or_sampled(tmp_path):
    cfg = ImproveConfig(model=Scratch(), task=Arithmetic(), improve=Recipe())
    with pytest.raises(FileNotFoundError, match=rf"no self-training run under {tmp_path}: .*qstar-improve"):
        iterations.KIND.latest(tmp_path)
    for name in ("sampled", "interrupted"):
        iterations.claim(cfg, tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"of 2 that were started, the last one in .*interrupted"):
        iterations.KIND.latest(tmp_path)
    write(tmp_path / "sampled" / iterations.LINES, ITERATION)
    assert iterations.KIND.latest(tmp_path) == tmp_path / "sampled"
    shutil.rmtree(tmp_path / "sampled")
    (tmp_path / "interrupted" / "rationales").mkdir()
    (tmp_path / "interrupted" / "rationales" / "iteration_0001_batch_00000.parquet").touch()
    assert iterations.KIND.latest(tmp_path) == tmp_path / "interrupted"
