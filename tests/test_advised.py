"""Every command that is advised works when it is pasted, in folders whose names a shell or Hydra would take apart."""

import datetime
import json
import re
import signal
from types import SimpleNamespace

import hydra.core.utils
import jax
import pytest
from shell import paste
from small_runs import MODEL

from qstar import advice, files
from qstar.cli import entry
from qstar.evals.suite import Evaluator
from qstar.runs import iterations, train
from qstar.training import checkpoint
from qstar.training.metrics import MetricLogger

AWKWARD = 'it\'s a=b, c ${d} "e" (f)'
TRAIN = (*MODEL, "batch_size=4", "method=lm", "control=false", "eval=none", "save_every=1", "peak_tflops=1")
SUMS = (
    *(part for part in MODEL if "tokenizer" not in part and "max_len" not in part),
    advice.override("model.tokenizer", "characters:0123456789 +:,.<>/\nITaceghnprstuC"),
    "task.digits=[1]",
    "task.train=8",
    "task.dev=4",
    "improve=direct",
    "improve.iterations=1",
    "improve.steps=3",
    "improve.few_shot=false",
    "optim.warmup_steps=1",
    "length=48",
    "model.max_len=128",
    "batch_size=2",
    "save_every=1",
    "log_every=1",
    "dev=2",
)


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    """Runs a command line in a folder of its own; its status, output and error output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    monkeypatch.setenv("QSTAR_CACHE", str(tmp_path / "cache"))

    def run(command: str) -> tuple[int, str, str]:
        status, (out, err) = paste(command, monkeypatch), capsys.readouterr()
        print(f"$ {command}\n{out}{err}")  # for a test that fails
        return status, out, err

    return run


def advised(text: str, program: str) -> str:
    """The command line of this program that a text holds."""
    (found,) = re.findall(rf"(?:^|  )({program} .*)$", text, re.MULTILINE)
    return found


@pytest.fixture
def stopped(monkeypatch):
    """The next training gets this signal when it writes its first line of metrics."""

    def at_first_line(number: int) -> None:
        write = MetricLogger.write

        def stopping(self, step, values=None):
            monkeypatch.setattr(MetricLogger, "write", write)
            if step:
                signal.raise_signal(number)
            return write(self, step, values)

        monkeypatch.setattr(MetricLogger, "write", stopping)

    return at_first_line


def steps_of(directory):
    return [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_training_resumes_by_the_command_it_prints(call, stopped, tmp_path):
    directory = tmp_path / AWKWARD / "run"
    stopped(signal.SIGTERM)
    command = advice.command("qstar-train", *TRAIN, "steps=3", advice.override("run_dir", f"{AWKWARD}/run"))
    status, _, err = call(command)
    assert (status, steps_of(directory)) == (143, [1, 2])  # the step in flight is finished
    assert call(advised(err, "qstar-train"))[0] == 0
    assert steps_of(directory) == [1, 2, 3]
    # The same directory for another configuration.
    status, _, err = call(command.replace("steps=3", "steps=4"))
    assert (status, steps_of(directory)) == (1, [1, 2, 3])
    assert call(advised(err, "qstar-train"))[0] == 0
    assert steps_of(directory) == [1, 2, 3, 4]
    # Its newest checkpoint is damaged.
    before = {step: sorted((directory / "checkpoints" / step).rglob("*")) for step in ("3", "4")}
    largest = max((file for file in before["4"] if file.is_file()), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    resume = advised(err, "qstar-train").replace(" steps=4", "")
    status, _, err = call(resume)
    assert status == 1 and f"{directory / 'checkpoints' / '4'} is a damaged checkpoint" in err
    assert call(advised(err, "mv"))[0] == 0
    status, out, _ = call(advised(err, "qstar-train"))
    assert status == 0 and f"resuming from step 3 of {AWKWARD}/run" in out
    assert steps_of(directory) == [1, 2, 3, 4]
    assert (directory / "damaged_checkpoint_4" / checkpoint.SEAL).is_file()


def test_a_self_training_resumes_by_the_command_it_prints(call, stopped, tmp_path):
    directory = tmp_path / AWKWARD
    stopped(signal.SIGTERM)
    status, _, err = call(advice.command("qstar-improve", *SUMS, advice.override("run_dir", AWKWARD)))
    assert (status, len(files.records(directory / iterations.LINES, "a line"))) == (143, 1)
    status, out, err = call(advised(err, "qstar-improve"))
    assert (status, err) == (0, "")
    assert f"resuming from step 2 of {AWKWARD}/iteration_1" in out
    assert len(files.records(directory / iterations.LINES, "a line")) == 2


@pytest.fixture
def run(call, tmp_path):
    """A finished run of two checkpoints."""
    directory = tmp_path / AWKWARD
    assert call(advice.command("qstar-train", *TRAIN, "steps=2", advice.override("run_dir", AWKWARD)))[0] == 0
    return directory


def test_an_evaluation_resumes_and_is_compared_by_the_printed_commands(call, run, tmp_path, monkeypatch):
    ask = Evaluator.__call__

    def interrupted(self, *arguments):
        monkeypatch.setattr(Evaluator, "__call__", ask)
        ask(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Evaluator, "__call__", interrupted)
    asked = ("eval.items=4", "eval.batch_size=4", "step=all", advice.override("out", f"{AWKWARD}-out"))
    status, _, err = call(advice.command("qstar-evaluate", *asked, advice.override("run", AWKWARD)))
    assert status == 130
    status, out, _ = call(advised(err, "qstar-evaluate"))
    assert status == 0
    command = advised(out.replace("paired tests:", "\n"), "qstar-compare")
    status, out, _ = call(command)
    assert status == 0 and "step_2 against" in out
    # In one way of one step there is nothing to compare.
    alone = (*asked[:2], "out=alone", advice.override("run", AWKWARD), "eval.thoughts=[none]")
    status, out, _ = call(advice.command("qstar-evaluate", *alone))
    assert status == 0 and "Table and answers are in alone\n" in out


def test_a_directory_that_another_process_writes_is_refused_and_left_alone(call, run, tmp_path):
    before = sorted(run.rglob("*"))
    for program in ("qstar-train", "qstar-evaluate"):
        key = {"qstar-train": "resume", "qstar-evaluate": "out"}[program]
        more = {"qstar-train": ["steps=3"], "qstar-evaluate": ["eval.items=2", advice.override("run", AWKWARD)]}[
            program
        ]
        with files.locked(run):
            status, _, err = call(advice.command(program, *more, advice.override(key, AWKWARD)))
        assert status == 1
        assert re.search(r"Locked: .* is being written by process \d+ on ", err)
    assert sorted(run.rglob("*")) == before


# --- folders by the clock -----------------------------------------------------------------------------------------


def test_runs_and_sweeps_of_the_same_second_get_folders_of_their_own(call, tmp_path, monkeypatch):
    noon = datetime.datetime(2025, 1, 1, 12)
    monkeypatch.setattr(hydra.core.utils, "datetime", SimpleNamespace(now=lambda: noon))
    started = []

    def run(cfg, directory):
        (directory / "file").parent.mkdir(parents=True, exist_ok=True)
        (directory / "file").touch()
        started.append((str(directory), cfg.run_dir))

    monkeypatch.setattr(train, "run", run)
    for arguments in ("", "", "-m seed=0,1", "-m seed=0,1"):
        assert call(f"qstar-train {arguments}")[0] == 0
    name = "runs/tiny/20250101-120000"
    sweeps = [f"runs/tiny/sweep-20250101-120000{end}/{job}" for end in ("", "-2") for job in (0, 1)]
    assert started == [(one, one) for one in (name, f"{name}-2", *sweeps)]


@pytest.mark.parametrize("name", ["a[1]", "what?", "*"])
def test_folders_from_which_checkpoints_could_not_be_read_are_refused(call, tmp_path, name):
    status, _, err = call(advice.command("qstar-train", *TRAIN, "steps=1", advice.override("run_dir", name)))
    assert status == 1 and f"{tmp_path / name}: checkpoints in a folder with" in err
    assert not (tmp_path / name).exists()


def test_a_run_that_fails_before_it_begins_leaves_no_folder(call, tmp_path):
    assert call("qstar-train model.source=./absent")[0] == 1
    assert [file.name for file in tmp_path.iterdir() if file.name != "cache"] == []


# --- what else is said --------------------------------------------------------------------------------------------


def test_a_full_disk_says_how_to_resume_and_a_mistake_does_not(capsys, tmp_path):
    for error, expected in (
        (OSError(28, "the disk is full"), "Resume with  qstar-train resume=runs/x\n"),
        (ValueError("a"), ""),
    ):
        with pytest.raises(SystemExit) as end, entry.errors() as ending:
            ending.go_on = lambda: entry.resume("qstar-train", "runs/x")
            raise error
        assert end.value.code == 1
        assert capsys.readouterr().err.endswith(expected or "a\n")
