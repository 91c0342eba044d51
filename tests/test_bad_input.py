"""What cannot work is refused before anything is compiled or written, by the name of what is wrong and the way out."""

import dataclasses
import errno
import hashlib
import os
import shutil
from pathlib import Path

import jax
import pytest
from small_runs import ALPHABET, MODEL, RUN, chosen, composed, lines, small
from tokenizers import Tokenizer as Backend
from tokenizers import models

import qstar
from qstar import config as configs
from qstar import evaluate, paths, prepare, runs
from qstar.config import EvaluateConfig
from qstar.data import tokenizer as tokenizers
from qstar.data.tokenizer import Tokenizer
from qstar.evals.suite import Evaluator
from qstar.models import lm as language_model
from qstar.models.formats import hf
from qstar.runs import improve, label, load, solve, stored
from qstar.runs import train as train_run
from qstar.training import checkpoint, loop
from qstar.training.build import Program

SHAPE = language_model.LMConfig(vocab=19, width=16, layers=1, heads=2, kv_heads=2, head_size=8, ff=20, max_len=64)
TEXT = (*MODEL, "~experiments", "control=false", "method.delimiter='-'", "method.thought_len=2", "eval=none")
"""A run on text files; `data=text` and where they are have to be added."""


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("QSTAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("QSTAR_DATA", raising=False)


@pytest.fixture
def refused(monkeypatch, tmp_path):
    """Asserts that a run is refused with this message before a weight is placed, a question asked or a file written."""

    def started(*args, **kwargs):
        raise AssertionError("the run was begun")

    def check(cfg, message, error=ValueError, directory=tmp_path / "run"):
        before = files(directory)
        with monkeypatch.context() as patch:
            for owner, name in ((loop, "fit"), (Evaluator, "__call__"), (Program, "start"), (Program, "step")):
                patch.setattr(owner, name, started, raising=False)
            with pytest.raises(error, match=message):
                train_run.run(cfg, directory)
        assert files(directory) == before

    return check


def files(directory: Path) -> dict[str, str]:
    """Checksums of all files below a directory."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def model_directory(folder: Path, tokenizer: Tokenizer, shape: language_model.LMConfig = SHAPE) -> Path:
    params = language_model.definition(shape).init(jax.random.key(0))
    hf.write_directory(folder, shape, params, tokenizer.to_json())
    return folder


# --- sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("mesh=fsdp_tensor", "batch_size=8"), r"weight .*embedding \(19, 16\): its axis 'vocab' of size 19 is not"),
        (("mesh.data=3",), r"a batch of 4 rows does not divide over data x fsdp = 3 of the mesh: make the batch a mul"),
        (("mesh=fsdp", "batch_size=16", "micro_batches=4"), "a batch of 4 rows does not divide over data x fsdp = 8"),
        (("mesh.data=16",), r"\(16, 1, 1\) .* 16 devices, found 8; .* mesh=single"),
        (("mesh.data=-1", "mesh.tensor=3"), "8 devices are not a multiple of 3"),
        (("data.length=100",), "data.length = 100 is longer than the context of scratch, 64 tokens: lower data.length"),
        (("method.delimiter=ab",), "method.delimiter = 'ab' is not one token of this model's tokenizer; choose text"),
        (("method.fill=dots", "method.dot='?'"), r"method.dot = '\?' is not one token"),
        (("method.forbidden=[a,zz]",), "method.forbidden = 'zz' is not one token"),
    ],
)
def test_sizes_and_tokens_that_do_not_fit_are_refused(refused, overrides, message):
    refused(small(*overrides), message)


def test_heads_that_the_mesh_does_not_divide_are_refused(refused):
    model = [one for one in MODEL if "heads" not in one]
    cfg = composed(*model, *RUN, "model.heads=3", "model.kv_heads=3", "mesh.tensor=2")
    refused(
        cfg, r"its axis '(kv_)?heads' of size 3 is not divisible by the mesh axis 'tensor' of size 2; .* mesh=single"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.tokenizer='characters:'", "alphabet ''"),
        ("model.tokenizer='characters:aab'", r"each once; repeated: \['a'\]"),
        ("model.tokenizer=absent.json", "no tokenizer at absent.json"),
    ],
)
def test_a_tokenizer_that_cannot_be_made_is_refused(refused, override, message):
    field = override.partition("=")[0]
    cfg = composed(*(one for one in MODEL if not one.startswith(f"{field}=")), *RUN, override)
    refused(cfg, message, error=(ValueError, FileNotFoundError))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.heads=0", "model.heads = 0: expected a positive integer"),
        ("model.heads=3", "model.heads = 3 is not a multiple of model.kv_heads = 2"),
        ("model.head_size=7", "model.head_size = 7"),
        ("model.dtype=float8", "model.dtype = 'float8': choose one of float32, bfloat16"),
    ],
)
def test_a_model_of_impossible_shape_is_refused_when_composed(override, message):
    field = override.partition("=")[0]
    with pytest.raises(ValueError, match=message):
        composed(*(one for one in MODEL if not one.startswith(f"{field}=")), *RUN, override)


# --- where things are written -------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "run", "a/b/c"])
def test_a_run_directory_that_is_a_file_or_lies_below_one_is_refused_by_its_key(below, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "unmounted" / "runs")
    commands = (
        (train_run.run, composed()),
        (improve.run, composed("model.source=x", name="improve")),
        (solve.run, composed("model.source=x", name="solve")),
        (label.run, composed("model.source=x", name="label")),
        (label.run, composed("label=consensus", name="label")),
    )
    for run, cfg in commands:
        for place, kind in (("notes.txt", "a file"), ("link", "a link to a place that is not there")):
            with pytest.raises(ValueError, match=rf"run_dir = .*{place}.* is {kind}: name a folder"):
                run(cfg, tmp_path / place / below)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "notes.txt"]


@pytest.mark.parametrize("name", ["train", "improve"])
def test_a_run_directory_without_a_name_is_refused(name):
    with pytest.raises(ValueError, match=r"run_dir = '': expected a folder"):
        composed("run_dir=", "model.source=bundled:cups", name=name)


def test_impossible_outputs_of_other_commands_are_refused_before_loading(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"out = .*notes.txt.x: .*notes.txt is a file"):
        evaluate.evaluate(EvaluateConfig(run="nowhere", out=str(tmp_path / "notes.txt" / "x"), eval=composed().eval))
    with pytest.raises(ValueError, match=r"OUT = .*notes.txt.x: .*notes.txt is a file"):
        prepare.prepare("nowhere", tmp_path / "notes.txt" / "x", "checkpoint", "float32")
    monkeypatch.setenv("QSTAR_CACHE", str(tmp_path / "notes.txt"))
    with pytest.raises(ValueError, match=r"QSTAR_CACHE = .*notes.txt is a file"):
        paths.cache_folder()
    for read in (load.load_model, stored.is_run, qstar.open, paths.cache_folder):
        with pytest.raises(ValueError, match=r"~no-such-user/x: there is no such home folder"):
            read("~no-such-user/x")
    with pytest.raises(ValueError, match=r"OUT = .*: .*surrogates not allowed"):
        paths.check_folder("OUT", b"caf\xe9".decode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"OUT = .*: .*too long"):
        paths.check_folder("OUT", tmp_path / ("x" * 300))
    assert files(tmp_path).keys() == {"notes.txt"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused_by_its_key(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=r"run_dir = .* cannot be written to"):
        paths.check_folder("run_dir", tmp_path / "run")
    with pytest.raises(ValueError, match=r"--html = .* cannot be written"):
        paths.check_file("--html", tmp_path / "page.html")


# --- models -------------------------------------------------------------------------------------------------------


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(refused, tmp_path):
    model_directory(tmp_path / "model", tokenizers.characters(ALPHABET + "klmno"))
    cfg = composed(f"model.source={tmp_path / 'model'}", *RUN)
    refused(
        cfg, r"model: the tokenizer has ids up to 23, the model embeds only 19 tokens .*; use the tokenizer that came"
    )


def test_a_tokenizer_that_joins_an_answer_to_its_question_is_refused_for_cups(refused, tmp_path):
    vocab = {letter: id for id, letter in enumerate(ALPHABET)} | {"=1": 19}
    joined = Backend(models.BPE(vocab=vocab, merges=[("=", "1")]))
    model_directory(tmp_path / "model", Tokenizer(joined), dataclasses.replace(SHAPE, vocab=20))
    cfg = composed(f"model.source={tmp_path / 'model'}", *RUN)
    refused(cfg, "this tokenizer does not write each place after .* as one token of its own")


def test_text_outside_a_character_tokenizer_is_named(refused, tmp_path):
    (tmp_path / "text.txt").write_text("3a=Q;\n")
    cfg = composed(*TEXT, "data=text", f"data.paths=[{tmp_path / 'text.txt'}]", "data.length=8")
    refused(cfg, "character 'Q' at 3 is not in this tokenizer's alphabet")


def test_a_model_of_more_processes_or_without_files_is_refused(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "empty", "holds neither a config.json nor a model.json"),
        (tmp_path / "absent", "no model at"),
        ("bundled:caps", "no bundled model 'caps'; there are: cups, cups_prm, sums"),
    ):
        refused(composed(f"model.source={source}"), message, error=(ValueError, FileNotFoundError))


# --- text and questions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b" \n\n", "no documents: .*text.txt hold nothing but whitespace"),
        (b"a=1;\n\xff\xfe", r"text.txt is not UTF-8: byte 0xff at byte offset 5; convert it"),
        (b"a", "has no usable window: 0 tokens in 0 documents"),
        (None, "data.paths: .*text.txt does not exist"),
    ],
)
def test_text_that_cannot_be_used_is_refused(refused, tmp_path, contents, message):
    file = tmp_path / "text.txt"
    if contents is not None:
        file.write_bytes(contents)
    cfg = composed(*TEXT, "data=text", f"data.paths=[{file}]", "data.length=8")
    refused(cfg, message, error=(ValueError, FileNotFoundError))


def test_questions_that_are_not_there_are_refused_with_the_ways_out(refused, tmp_path, monkeypatch):
    refused(
        composed(*MODEL, "eval=questions"),
        r"eval.gsm8k = '/gsm8k' is not a folder: set QSTAR_DATA .* eval.gsm8k=FOLDER, .* or use eval=none",
        error=FileNotFoundError,
    )
    (tmp_path / "gsm8k").mkdir()
    monkeypatch.setenv("QSTAR_DATA", str(tmp_path))
    cfg = composed(*MODEL, "eval=questions", "eval.commonsense_qa=")
    refused(cfg, r"gsm8k/test.jsonl does not exist", error=FileNotFoundError)
    with pytest.raises(FileNotFoundError, match=r"eval.commonsense_qa = .* is not a folder"):
        evaluate.evaluate(EvaluateConfig(run="none", model=cfg.model, eval=composed("eval=questions").eval))


# --- run directories that are there -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two steps of a plain language model."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    train_run.run(plain(), directory)
    return directory


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


def plain(*overrides: str):
    size = ("batch_size=4", "save_every=1", "steps=2") if not overrides else ("batch_size=4", "save_every=1")
    return composed(*MODEL, *size, "method=lm", "control=false", "eval=none", *overrides)


def resumed(directory: Path, *overrides: str):
    return chosen(stored.TRAINING, f"resume={directory}", *overrides)[0]


def test_a_directory_of_another_run_is_refused_and_left_alone(refused, copy):
    message = (
        r"(?s)holds a run of another configuration:\n  steps = 2, now 3\n  optim.lr = 0.0003, now 0.002\n"
        r"choose another run_dir, or resume that run .*\n.* resume="
    )
    refused(plain("steps=3", "optim.lr=0.002"), message)


def test_the_same_configuration_resumes_where_it_was(copy):
    before = files(copy / "checkpoints")
    train_run.run(plain("steps=2", "name=other", "run_dir=elsewhere"), copy)
    assert [line["step"] for line in lines(copy / "metrics.jsonl")] == [1, 2]
    assert files(copy / "checkpoints") == before


def test_files_of_a_run_without_its_configuration_are_not_overwritten(refused, copy):
    (copy / "config.yaml").unlink()
    refused(plain(), "holds metrics.jsonl and checkpoints but no config.yaml: choose another run_dir")


def test_fewer_steps_than_were_trained_are_refused(copy):
    before = files(copy)
    with pytest.raises(ValueError, match=r"steps = 1: .* has been trained for 2 steps already; raise steps"):
        train_run.run(resumed(copy, "steps=1"), copy)
    assert files(copy) == before


def test_another_model_than_the_run_began_with_is_refused(refused, copy):
    refused(
        resumed(copy, "model.width=32"), r"lm.json describes another model than scratch is now:\n  width = 16, now 32"
    )
    refused(resumed(copy, "model.rope_theta=500"), "rope_theta = 10000.0, now 500.0")


def test_how_the_model_is_computed_may_change(copy):
    cfg = resumed(copy, "model.remat=minimal", "steps=3")
    assert train_run.run(cfg, copy).directory == copy
    assert configs.load(copy / "config.yaml").model.remat == "minimal"


def test_a_checkpoint_of_another_model_is_refused_with_the_differences(copy):
    before = files(copy)
    with pytest.raises(ValueError, match=r"(?s)step 2 of .*not of this model and optimiser:.*missing ema/embedding"):
        train_run.run(resumed(copy, "optim.ema=0.9", "steps=3"), copy)
    assert files(copy) == before


def test_a_checkpoint_of_processes_at_different_places_of_the_data_is_refused_by_one(copy):
    data = copy / "checkpoints" / "2" / "data"
    (data / "process_0-of-1.json").rename(data / "process_0-of-2.json")
    (data / "process_1-of-2.json").write_text("{}")
    checkpoint.seal(data.parent)
    message = r"checkpoints/2 was saved by 2 processes that stood at different places .*, this run has 1; .* 2"
    with pytest.raises(ValueError, match=message):
        train_run.run(resumed(copy, "steps=3"), copy)


def test_a_run_that_has_not_saved_yet_cannot_be_evaluated(copy):
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(FileNotFoundError, match="holds no committed checkpoint"):
        evaluate.evaluate(EvaluateConfig(run=str(copy), eval=composed().eval))


def test_a_full_disk_leaves_the_previous_checkpoint_to_resume_from(tmp_path, finished, monkeypatch):
    from orbax.checkpoint._src.path import atomicity

    commit = atomicity.AtomicRenameTemporaryPath.finalize

    async def full(self):
        if self.get_final().name == "2":
            raise OSError(errno.ENOSPC, "No space left on device")
        await commit(self)

    with monkeypatch.context() as disk:
        disk.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", full)
        with pytest.raises(OSError, match=r"the disk is full: .* the last good checkpoint is step 1"):
            train_run.run(plain(), tmp_path / "run")
    assert runs.load_run(tmp_path / "run").step == 1
    train_run.run(plain(), tmp_path / "run")
    assert lines(tmp_path / "run" / "metrics.jsonl") == lines(finished / "metrics.jsonl")


def test_questions_that_are_not_there_are_missed_before_a_model_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(load, "initial_model", lambda *args: pytest.fail("the model was loaded"))
    for name, command in (("improve", improve), ("solve", solve), ("label", label)):
        cfg = composed("task=gsm8k", "model.source=models/large", f"run_dir={tmp_path / name}", name=name)
        with pytest.raises(FileNotFoundError, match="set QSTAR_DATA to the folder that holds gsm8k/"):
            command.run(cfg, tmp_path / name)
