"""Whole self-training runs on a task that takes seconds: say the letter of the question again."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tolerances
from small_runs import chosen, composed

from qstar import config as configs
from qstar import files, runs, sharding
from qstar.config import ImproveConfig
from qstar.data import rationales
from qstar.data.rationales import Store
from qstar.methods.dpo import DPO
from qstar.methods.plain_lm import PlainLM
from qstar.methods.sft import SFT
from qstar.models.origins import Scratch
from qstar.paths import CONFIGS
from qstar.recipes.catalog import made
from qstar.recipes.direct import Direct
from qstar.recipes.human_rationales import HumanRationales
from qstar.recipes.irpo import IRPO
from qstar.recipes.recipe import Recipe
from qstar.recipes.ssd import SSD
from qstar.recipes.trice import TRICE
from qstar.runs import answering, asking, improve, iterations, load, train
from qstar.sharding import MeshConfig
from qstar.structs import TrainState
from qstar.tasks.grading import sandbox
from qstar.tasks.grading.grade import Verdict
from qstar.tasks.grading.program import Program
from qstar.tasks.grading.sandbox import SandboxConfig
from qstar.tasks.problem import Problem, checked
from qstar.training import checkpoint, optim
from qstar.training.checkpoint import Checkpoints
from qstar.training.optim import OptimConfig

LETTERS = "ab"
MODEL = Scratch(
    "characters:ab?!*", width=16, layers=1, heads=2, kv_heads=2, head_size=8, ff=20, max_len=64, remat="none"
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
        return [
            Problem(f"{split}-{i}-{one}", f"{one}?", one, group=str(i % 2)) for i in range(each) for one in self.letters
        ]

    def shots(self, problem, rng):
        return ()

    def prompt(self, problem, shots=()):
        return problem.question

    def hinted(self, problem, shots=()):
        return f"{problem.question}*{problem.hint_text}"

    def completion(self, rationale, problem):
        return f"{problem.answer}!"

    def direct(self, problem):
        return f"{problem.answer}!"

    def shown(self, problem):
        return f"*{problem.hint_text}"

    def cleaned(self, written):
        return f"{written}!" if written in self.letters and written else None

    def reasons(self, stored):
        return stored.removesuffix("!")

    def spellings(self, problem):
        return (problem.answer,)

    def budget(self, problem, tokenizer):
        return 2


def config(directory, **recipe):
    improve = Recipe(**{"iterations": 2, "samples": 8, "temperature": 1.0, "steps": 20, "growth": 1.0} | recipe)
    return ImproveConfig(
        run_dir=str(directory), sample_batch=8, batch_size=4, length=16, log_every=4, save_every=20, wrong_hints=12,
        model=MODEL, task=Echo(), improve=improve, optim=OptimConfig(lr=0.03, warmup_steps=2),
    )  # fmt: skip


def trained(directory, iteration):
    return runs.load_run(directory / f"iteration_{iteration}").params


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def without_clock(directory):
    return [json.loads(line) for line in (directory / iterations.LINES).read_text().splitlines()]


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
    improve.run(config(directory), directory)
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


def test_what_is_learned_is_right_and_holds_no_hint(straight):
    for iteration in (1, 2):
        file = straight / f"iteration_{iteration}" / "examples.jsonl"
        found = [json.loads(line) for line in file.read_text().splitlines()]
        assert found
        assert all(one["completion"] == one["prompt"][0] + "!" and "*" not in one["prompt"] for one in found)


def test_what_is_learned_is_learned_after_its_hint_too_where_requested(straight, tmp_path):
    improve.run(config(tmp_path / "run", iterations=1, learn_hinted=1.0), tmp_path / "run")
    lines = [
        (directory / "iteration_1" / "examples.jsonl").read_text().splitlines()
        for directory in (straight, tmp_path / "run")
    ]
    before, after = ([json.loads(line) for line in one] for one in lines)
    assert after[: len(before)] == before and len(after) == 2 * len(before)
    for one, behind in zip(before, after[len(before) :], strict=True):
        assert behind["completion"] == one["completion"]
        assert behind["prompt"][0] == one["prompt"][0] and "*" in behind["prompt"]


def test_every_iteration_restarts_from_the_base_unless_it_continues(straight, tmp_path):
    assert runs.load_run(straight / "iteration_2").config.model == MODEL
    improve.run(config(tmp_path / "on", restart=False, steps=4), tmp_path / "on")
    assert runs.load_run(tmp_path / "on" / "iteration_2").config.model.source == str(tmp_path / "on" / "iteration_1")


def test_the_ledger_counts_what_the_store_holds(straight):
    rows = Store.open(straight / rationales.FOLDER).rows(rationales.of_iteration(1)).to_pylist()
    ledger = without_clock(straight)[1]["ledger"]
    for phase, hinted in (("sample", False), ("hint", True)):
        mine = [row for row in rows if row["hinted"] == hinted]
        assert ledger[phase]["generated_tokens"] == sum(len(row["tokens"]) for row in mine)
    assert ledger["sample"]["prompt_tokens"] == 32 * 2  # each read once for its eight samples
    assert ledger["train"]["trained_tokens"] == 20 * 4 * 16
    assert ledger["dev"]["prompt_tokens"] == 8 * 2
    assert ledger["wrong_hint"]["prompt_tokens"] == 12 * 4  # with the star and the hint


def test_the_trainers_logprobs_are_the_samplers(straight):
    for line in without_clock(straight)[1:]:
        assert line["mismatch"]["largest"] < tolerances.forward(MODEL, size=8, scores=2.0)  # scores grow in training


def test_the_metrics_of_a_training_begin_with_the_samplers_mismatch(straight):
    for line in without_clock(straight)[1:]:
        file = straight / f"iteration_{line['iteration']}" / "metrics.jsonl"
        metrics = [json.loads(one) for one in file.read_text().splitlines()]
        assert [one["step"] for one in metrics] == [0, 4, 8, 12, 16, 20]
        assert metrics[0]["mismatch_largest"] == line["mismatch"]["largest"]


def test_wrong_hints_are_asked_apart_and_never_learned(straight):
    rows = Store.open(straight / asking.WRONG_HINTS).rows().to_pylist()
    lines = without_clock(straight)
    assert all(row["prompt"] == f"{row['gold']}?*{row['hint']}" and row["hint"] != row["gold"] for row in rows)
    for line in lines[1:]:
        mine = [row for row in rows if row["iteration"] == line["iteration"]]
        assert line["wrong_hints"]["asked"] == len(mine) == 12
        assert line["wrong_hints"]["followed"] == sum(row["answer"] == row["hint"] for row in mine)
        assert line["wrong_hints"]["right"] == sum(row["correct"] for row in mine)
    assert len({row["problem"] for row in rows}) == 12  # the same in both iterations
    # Who has learnt to repeat the letter of the question does not follow the star.
    assert lines[2]["wrong_hints"]["right"] > lines[1]["wrong_hints"]["right"]


def test_wrong_hints_want_samples_and_questions_with_different_answers(tmp_path):
    with pytest.raises(ValueError, match=r"wrong_hints = 12: nothing is sampled with improve.target=direct"):
        improve.run(config(tmp_path / "run", target="direct"), tmp_path / "run")
    alone = dataclasses.replace(config(tmp_path / "run"), task=Echo(letters="a"))
    with pytest.raises(ValueError, match=r"wrong_hints = 12: no two questions of echo in one group have different"):
        improve.run(alone, tmp_path / "run")


def test_a_negative_number_of_wrong_hints_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"wrong_hints = -1: expected 0 or a positive integer"):
        dataclasses.replace(config(tmp_path), wrong_hints=-1)


def test_answers_stated_before_they_are_derived_are_counted_with_and_without_a_hint(straight):
    # A rationale of the echo is its answer and nothing else.
    stated = without_clock(straight)[1]["stated"]
    assert stated["free"] == {"count": without_clock(straight)[1]["right"], "stated": 1.0, "early": 1.0, "place": 0.0}
    assert stated["hinted"]["count"] == without_clock(straight)[1]["right_hinted"]


def test_the_summary_says_what_was_spent_and_what_leaks(straight):
    tables = (straight / "summary.md").read_text().split("\n\n")
    head, _, *rows = tables[0].splitlines()
    assert head.endswith("| generated tokens | so far | trained tokens | so far | FLOPs | so far |")
    ledgers = [line["ledger"] for line in without_clock(straight)]
    generated = [sum(one.get(phase, {}).get("generated_tokens", 0) for phase in ("sample", "hint")) for one in ledgers]
    assert rows[2].split(" | ")[-6:-2] == [f"{generated[2]:,}", f"{sum(generated):,}", "1,280", "2,560"]
    phases = [line.split(" | ")[0].strip("| ") for line in tables[1].splitlines()]
    assert phases == ["phase", "---", "sample", "hint", "train", "wrong hint", "dev", "all"]
    assert tables[1].splitlines()[2].split(" | ")[1] == "128"  # two iterations of 32 prompts of two tokens
    asked = without_clock(straight)[1]["wrong_hints"]
    assert tables[2].splitlines()[2].endswith(f"| {asked['share_followed']:.3f} of 12 |")


def as_after_one_iteration(straight, directory):
    """A copy of the run, as it was before its second iteration."""
    shutil.copytree(straight, directory)
    files.write_records(directory / iterations.LINES, without_clock(straight)[:2])
    shutil.rmtree(directory / "iteration_2")
    for store in (rationales.FOLDER, asking.WRONG_HINTS):
        for file in (directory / store).glob("iteration_0002*"):
            rationales.forget(directory / store, file.name)


@pytest.mark.parametrize(
    "stop", ["sampling", "training", *(pytest.param(stop, marks=pytest.mark.slow) for stop in ("misleading", "asking"))]
)
def test_a_run_that_is_stopped_anywhere_ends_with_the_same_bits(stop, straight, tmp_path, monkeypatch):
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
        "sampling": (Store, "append", 1),  # the second batch
        "misleading": (Store, "append", 5),  # the second batch of wrong hints
        "training": (train, "run", 0),
        "asking": (answering, "evaluated", 0),
    }[stop]
    as_after_one_iteration(straight, directory)
    with monkeypatch.context() as patch:
        patch.setattr(where[0], where[1], after(getattr(where[0], where[1]), where[2]))
        with pytest.raises(Stopped):
            improve.run(config(directory), directory)
    improve.run(config(directory), directory)
    assert without_clock(directory) == without_clock(straight)
    same(trained(directory, 2), trained(straight, 2))
    for name in (rationales.FOLDER, asking.WRONG_HINTS):
        tables = [Store.open(one / name).rows() for one in (directory, straight)]
        assert tables[0].equals(tables[1])


def test_an_iteration_whose_checkpoint_is_damaged_is_trained_again_to_the_same_bits(straight, tmp_path):
    directory = tmp_path / "it's a=b, c"
    as_after_one_iteration(straight, directory)
    largest = max((directory / "iteration_1" / "checkpoints").rglob("*"), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    with pytest.raises(checkpoint.Damaged) as error:
        improve.run(config(directory), directory)
    subprocess.run(["sh", "-c", str(error.value).splitlines()[-1]], check=True)
    improve.run(config(directory), directory)
    assert without_clock(directory) == without_clock(straight)
    for iteration in (1, 2):
        same(trained(directory, iteration), trained(straight, iteration))


def test_a_run_that_another_process_writes_is_refused_and_left_alone(straight):
    before = {file: file.read_bytes() for file in straight.rglob("*") if file.is_file()}
    with files.locked(straight), pytest.raises(files.Locked, match=rf"{straight} is being written by process"):
        improve.run(config(straight, iterations=3), straight)
    assert {file: file.read_bytes() for file in straight.rglob("*") if file.is_file()} == before


def test_without_a_filter_wrong_ones_are_learned_too(tmp_path):
    improve.run(config(tmp_path / "run", keep="all", iterations=1), tmp_path / "run")
    found = [
        json.loads(line) for line in (tmp_path / "run" / "iteration_1" / "examples.jsonl").read_text().splitlines()
    ]
    assert any(one["completion"][0] != one["prompt"][0] for one in found)


def test_answers_alone_can_be_learned(tmp_path):
    cfg = config(tmp_path / "run", target="direct", iterations=1, steps=40)
    cfg = dataclasses.replace(cfg, wrong_hints=0, micro_batches=2)
    lines = improve.run(cfg, tmp_path / "run")
    assert lines[-1]["accuracy"]["share"] == 1.0
    assert not (tmp_path / "run" / rationales.FOLDER).exists()
    # Four examples of a question and an answer of two tokens each fill a row of 16: half of it counts.
    assert lines[-1]["ledger"]["train"]["trained_tokens"] == 40 * 4 * 16
    assert lines[-1]["ledger"]["train"]["target_tokens"] == 40 * 4 * 8


def test_what_a_verifier_learns_from_is_written_with_labels_and_changes_nothing(straight, tmp_path):
    directory = tmp_path / "run"
    improve.run(dataclasses.replace(config(directory, iterations=1, verifier=True), wrong_hints=0), directory)
    found = [json.loads(line) for line in (directory / improve.VERIFIER).read_text().splitlines()]
    assert len(found) == 32 * 8  # none with a hint
    assert {one["label"] for one in found} == {0, 1}
    assert all(one["label"] == (one["completion"] == one["prompt"][0] + "!") for one in found)
    assert {one["iteration"] for one in found} == {1}
    pairs = [json.loads(line) for line in (directory / improve.PAIRS).read_text().splitlines()]
    sides = [{(one["problem"], one["completion"]) for one in found if one["label"] == label} for label in (1, 0)]
    expected = {(name, right, wrong) for name, right in sides[0] for other, wrong in sides[1] if other == name}
    assert {(pair["problem"], pair["chosen"], pair["rejected"]) for pair in pairs} == expected
    assert len(pairs) == len(expected) > 8
    same(trained(directory, 1), trained(straight, 1))  # nor do the wrong hints of that run


def test_dev_problems_are_evaluated_with_examples_and_without(tmp_path):
    class Misleading(Echo):
        """The example takes the place of the question."""

        def shots(self, problem, rng):
            return (dataclasses.replace(problem, question="ba"["ab".index(problem.answer)] + "?"),)

        def prompt(self, problem, shots=()):
            return (shots[0] if shots else problem).question

    cfg = dataclasses.replace(config(tmp_path / "run", iterations=1, few_shot=False), task=Misleading(), ask_both=True)
    line = improve.run(cfg, tmp_path / "run")[-1]
    assert line["accuracy"]["share"] == line["ways"]["zero-shot"]["share"] == 1.0
    assert line["ways"]["few-shot"]["share"] == 0.0
    assert line["ledger"]["dev"]["prompt_tokens"] == 2 * 8 * 2


def test_the_test_split_is_asked_once_and_the_directory_remembers_it(straight, tmp_path):
    cfg = dataclasses.replace(config(tmp_path / "run", iterations=1), test=True)
    improve.run(cfg, tmp_path / "run")
    lines = improve.run(cfg, tmp_path / "run")
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
        improve.NothingRight, match=r"none of 256 samples .* Self-training needs a start above chance"
    ) as error:
        improve.run(cfg, tmp_path / "run")
    (advised,) = re.findall(r"\(qstar-train (.*)\)", str(error.value))
    assert composed(*shlex.split(advised)).method == SFT()
    assert Store.open(tmp_path / "run" / rationales.FOLDER).rows().num_rows == 256 + 32
    assert not (tmp_path / "run" / "iteration_1" / "checkpoints").exists()


def test_more_iterations_continue_and_another_recipe_is_refused(straight, tmp_path):
    directory = tmp_path / "run"
    improve.run(config(directory, iterations=1), directory)
    improve.run(config(directory), directory)
    assert without_clock(directory) == without_clock(straight)
    with pytest.raises(ValueError, match=r"another configuration:\n  improve.samples = 8, now 4"):
        improve.run(config(directory, samples=4), directory)


@pytest.mark.parametrize(("split", "name"), [("train", "training"), ("dev", "dev")])
def test_other_questions_under_the_same_name_are_refused_when_resuming(split, name, straight, tmp_path, monkeypatch):
    directory, asked = shutil.copytree(straight, tmp_path / "run"), Echo.problems

    def edited(task, of):
        first, *others = asked(task, of)
        return [dataclasses.replace(first, question=f"{first.question}?") if of == split else first, *others]

    monkeypatch.setattr(Echo, "problems", edited)
    with pytest.raises(ValueError, match=rf"holds rationales of other questions, .*:\n  {name} questions = .*, now "):
        improve.run(config(directory, iterations=3), directory)
    assert without_clock(directory) == without_clock(straight)
    (directory / "identity.json").unlink()  # as a run of an earlier version
    assert improve.run(config(directory), directory) == without_clock(straight)


def test_a_run_resumes_with_other_settings_of_the_sandbox(tmp_path):
    """Another machine may have other layers; no number depends on them."""
    iterations.claim(config(tmp_path), tmp_path)
    other = dataclasses.replace(config(tmp_path), sandbox=SandboxConfig(weak="allow", without=("bubblewrap",)))
    iterations.claim(other, tmp_path)
    assert configs.load(tmp_path / iterations.KIND.file, schema=ImproveConfig) == other


def test_programs_are_refused_before_anything_is_written_where_the_sandbox_is_weak(tmp_path, monkeypatch):
    class Computed(Echo):
        grader = Program()

        def problems(self, split):
            return checked([(one.id, one) for one in super().problems(split)], self.grader)

    monkeypatch.setattr(sandbox, "_config", SandboxConfig())
    weak = SandboxConfig(without=("seccomp",))
    cfg = dataclasses.replace(config(tmp_path / "run"), task=Computed(), sandbox=weak)
    with pytest.raises(sandbox.TooWeak, match=r"expected seccomp .* sandbox\.weak=allow"):
        improve.run(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_of_an_earlier_version_resumes_with_its_ledger_in_one_place(straight, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(straight, directory)
    lines = without_clock(directory)
    old = [dict(line, asked=line["ledger"].pop("dev")) for line in json.loads(json.dumps(lines))]
    old = [dict(line, train=line["ledger"].pop("train")) if "steps" in line else line for line in old]
    (directory / iterations.LINES).write_text("".join(json.dumps(line) + "\n" for line in old))
    assert improve.run(dataclasses.replace(config(straight)), directory) == lines


def test_human_rationales_must_be_there(tmp_path):
    with pytest.raises(ValueError, match=r"improve.target=human: no problem of echo has a human rationale"):
        improve.run(config(tmp_path / "run", target="human"), tmp_path / "run")


@pytest.mark.parametrize("schedule", ["run", pytest.param("iteration", marks=pytest.mark.slow)])
def test_optimizer_and_schedule_are_carried_on_where_a_recipe_says_so(schedule, tmp_path):
    directory = tmp_path / "run"
    cfg = config(directory, restart=False, optimizer="carried", schedule=schedule, steps=6)
    cfg = dataclasses.replace(cfg, wrong_hints=0, optim=OptimConfig(lr=0.03, warmup_steps=4, schedule="linear"))
    lines = improve.run(cfg, directory)
    trained_by = [configs.load(directory / f"iteration_{i}" / "config.yaml").optim for i in (1, 2)]
    assert [one.moments_of for one in trained_by] == ["", str(directory / "iteration_1")]
    counts = [adam_count(directory / f"iteration_{i}") for i in (1, 2)]
    assert counts == [6, 12]  # Adam's bias correction goes on
    rates = [[float(optim.schedule(one, 6)(step)) for step in range(6)] for one in trained_by]
    if schedule == "run":
        assert [line["schedule_steps"] for line in lines[1:]] == [[1, 6, 12], [7, 12, 12]]
        # Up to 0.03 in four steps, down to nothing at the twelfth, one after the other.
        assert rates[0] + rates[1] == pytest.approx([0.0075, 0.015, 0.0225, 0.03, *np.linspace(0.03, 0, 9)[:8]])
    else:
        assert rates[0] == rates[1] and rates[0][0] == pytest.approx(0.0075)
    said = (directory / "summary.md").read_text().splitlines()[-1]
    assert said.startswith("Optimizer: carried on from the iteration before. Learning rate: ")
    assert ("one schedule for all iterations, steps 7 to 12 of 12" in said) == (schedule == "run")


def adam_count(folder):
    cfg = configs.load(folder / "config.yaml")
    tx = optim.optimizer(cfg.optim, cfg.steps)
    params = jax.tree.map(np.asarray, runs.load_run(folder).params)
    abstract = jax.eval_shape(lambda: TrainState(np.int32(0), params, tx.init(params), jax.random.key(0)))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), abstract)
    with Checkpoints(folder / "checkpoints", 1, 1) as checkpoints:
        return int(checkpoints.load_optimizer(abstract)[1].count)


def test_a_warm_up_that_no_iteration_ends_is_refused_before_anything_is_sampled(tmp_path):
    cfg = dataclasses.replace(config(tmp_path / "run", steps=8), optim=OptimConfig(warmup_steps=20))
    with pytest.raises(ValueError, match=r"optim.warmup_steps = 20, .* has 8 steps, .* improve.schedule=run"):
        improve.run(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Taught(Echo):
    """Questions with a human rationale."""

    def problems(self, split):
        return [dataclasses.replace(one, rationale=one.answer) for one in super().problems(split)]


def test_a_recipe_samples_first_from_a_model_of_human_rationales_and_trains_the_base(tmp_path):
    directory = tmp_path / "run"
    cfg = config(directory, iterations=1, sample_from="sft", sft_steps=30)
    cfg = dataclasses.replace(cfg, task=Taught(), wrong_hints=0)
    lines = improve.run(cfg, directory)
    assert lines[0]["accuracy"]["share"] == 1.0 and lines[0]["steps"] == 30 and lines[0]["examples"] == 32
    assert lines[0]["ledger"]["train"]["trained_tokens"] == 30 * 4 * 16
    rows = Store.open(directory / rationales.FOLDER).rows().to_pylist()
    assert {row["checkpoint"] for row in rows} == {"iteration_0"}
    assert np.mean([row["correct"] for row in rows]) > 0.8
    assert runs.load_run(directory / "iteration_1").config.model == MODEL  # from the base
    with pytest.raises(ValueError, match=r"improve.sample_from=sft: no problem of echo has a human rationale"):
        improve.run(dataclasses.replace(cfg, task=Echo()), tmp_path / "other")


def test_human_rationales_are_right_ones_to_a_preference_verifier(tmp_path):
    """Of an untrained model nothing is right, and every wrong sample has a pair."""
    cfg = config(tmp_path / "run", iterations=1, samples=2, steps=3, human=True, verifier=True)
    improve.run(dataclasses.replace(cfg, task=Taught(), wrong_hints=0), tmp_path / "run")
    samples, pairs = (
        [json.loads(line) for line in (tmp_path / "run" / name).read_text().splitlines()]
        for name in (improve.VERIFIER, improve.PAIRS)
    )
    assert {pair["problem"] for pair in pairs} == {one["problem"] for one in samples if not one["label"]} != set()
    human = [pair for pair in pairs if "chosen_ids" not in pair]
    assert len(human) > 16 and all(pair["chosen"] == pair["prompt"][0] + "!" for pair in human)
    assert all(len(pair["rejected_ids"]) for pair in pairs)


# --- recipes ------------------------------------------------------------------------------------------------------

RECIPES = sorted(file.stem for file in (Path(CONFIGS) / "improve").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_composes_with_its_papers_choices(recipe):
    cfg = composed(f"improve={recipe}", "model.source=bundled:cups", name="improve")
    assert isinstance(cfg, ImproveConfig)
    chosen = {name: getattr(cfg.improve, name) for name in ("hint", "keep", "memory", "restart", "target", "weighting")}
    assert {name: value for name, value in chosen.items() if value != getattr(Recipe(), name)} == DIFFERENT[recipe]


DIFFERENT = {  # from STaR
    "star": {},
    "star_no_rationalization": {"hint": "never"},
    "rft": {"hint": "never"},
    "rest_em": {"hint": "never"},
    "expert_iteration": {"hint": "never", "memory": "all", "restart": False},
    "vstar": {"hint": "never", "memory": "all"},
    "irpo": {"hint": "never", "restart": False},
    "trice": {"hint": "missing", "memory": "newest", "restart": False},
    "ssd": {"hint": "never", "keep": "all"},
    "advantage_sft": {"hint": "never", "restart": False, "weighting": "deviation"},
    "sft": {"target": "human"},
    "direct": {"target": "direct"},
}


@pytest.mark.parametrize(
    "recipe",
    [
        "expert_iteration", "trice", "irpo",
        # What `straight` runs, what expert iteration does but for its memory, and with weights as TRICE has them.
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("star", "star_no_rationalization", "rest_em", "advantage_sft")
        ),
    ],
)  # fmt: skip
def test_every_recipe_that_samples_learns_the_echo(recipe, tmp_path):
    cfg = composed(f"improve={recipe}", "model.source=bundled:cups", name="improve").improve
    small = {"iterations": 2, "problems": 0, "samples": 8 if recipe != "trice" else 1}
    cfg = dataclasses.replace(cfg, **small, temperature=1.0, steps=20, few_shot=False)
    cfg = dataclasses.replace(config(tmp_path / "run"), improve=cfg, wrong_hints=0)
    lines = improve.run(cfg, tmp_path / "run")
    assert lines[-1]["right"] > lines[1]["right"]


def test_irpo_trains_on_pairs_against_the_model_that_was_sampled(tmp_path):
    directory = tmp_path / "run"
    cfg = dataclasses.replace(config(directory), wrong_hints=0)
    cfg = dataclasses.replace(cfg, improve=IRPO(iterations=2, samples=8, temperature=1.0, steps=6, pairs=3, beta=0.2))
    lines = improve.run(cfg, directory)
    store = Store.open(directory / "rationales").rows().to_pylist()
    for iteration in (1, 2):
        folder = directory / f"iteration_{iteration}"
        pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
        rows = [row for row in store if row["iteration"] == iteration and row["stored"]]
        both = {row["problem"] for row in rows if row["correct"]} & {
            row["problem"] for row in rows if not row["correct"]
        }
        assert len(pairs) == lines[iteration]["examples"] == 3 * len(both) > 0
        for pair in pairs:
            assert pair["chosen"] == pair["prompt"][0] + "!" != pair["rejected"]
            assert pair["chosen_ids"] and pair["rejected_ids"]
        trained = runs.load_run(folder).config
        assert trained.method == DPO(beta=0.2, nll_weight=1.0)
        # Two rows a pair; both are read by the model and by the reference.
        ledger = lines[iteration]["ledger"]["train"]
        assert ledger["trained_tokens"] == 2 * 6 * 4 * 16
        first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
        assert {"reward_chosen", "reward_rejected", "margin", "nll"} <= first.keys()
    assert trained.model.source == str(directory / "iteration_1")
    assert not (directory / "iteration_1" / "examples.jsonl").exists()


@pytest.mark.parametrize("setting", [{"hint": "failures"}, {"cap": 3}, {"keep": "all"}, {"memory": "newest"}])
def test_settings_that_pairs_do_not_have_are_refused(setting):
    with pytest.raises(ValueError, match=f"improve.{next(iter(setting))}={next(iter(setting.values()))} would change"):
        IRPO(**setting)


def test_a_model_has_to_be_named():
    with pytest.raises(ValueError, match=r"model.source has no value: give model.source=VALUE"):
        composed(name="improve")


def test_a_run_resumes_with_its_own_configuration_and_what_is_changed(straight, tmp_path):
    cfg, directory = chosen(iterations.KIND, f"resume={straight}", "improve.iterations=3", "test=true")
    assert directory == straight
    assert cfg == dataclasses.replace(
        config(straight, iterations=3), test=True, task=Echo(), model=dataclasses.replace(MODEL), resume=str(straight)
    )
    cfg, _ = chosen(iterations.KIND, f"resume={straight}", "mesh=fsdp_tensor", "mesh.tensor=4")
    assert cfg.mesh == MeshConfig(fsdp=-1, tensor=4) and cfg.model == MODEL
    with pytest.raises(FileNotFoundError, match=rf"resume={tmp_path}: .* no improve.yaml"):
        chosen(iterations.KIND, f"resume={tmp_path}")


@dataclass(frozen=True)
class Uneven(Echo):
    """One question of each of these splits is far longer than the others."""

    splits: tuple[str, ...] = ("train", "dev", "test")

    def problems(self, split):
        return [
            dataclasses.replace(one, question="ab" * 40 + one.question) if number == 3 and split in self.splits else one
            for number, one in enumerate(super().problems(split))
        ]


@pytest.mark.parametrize(("split", "count"), [("train", 32), ("dev", 8)])
def test_an_overlong_question_is_named_before_anything_is_generated(tmp_path, monkeypatch, split, count):
    monkeypatch.setattr(answering, "answer", None)  # nothing is asked
    cfg = dataclasses.replace(config(tmp_path / "run"), task=Uneven(splits=(split,)))
    with pytest.raises(ValueError, match=rf"1 of {count} .*{split}-1-b \(8\d tokens and 2 to write\).*overlong=skip"):
        improve.run(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_overlong_questions_are_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setitem(configs.SCHEMAS, "task", configs.SCHEMAS["task"] | {"uneven": Uneven})
    cfg = config(tmp_path / "run", iterations=1, samples=2, steps=2)
    cfg = dataclasses.replace(cfg, task=Uneven(), overlong="skip", wrong_hints=0, test=True)
    lines = improve.run(cfg, tmp_path / "run")
    assert [line["overlong"] for line in lines] == [{"dev": 1}, {"dev": 1, "training": 1}]
    assert [line["accuracy"]["n"] for line in lines] == [7, 7]
    assert (lines[1]["problems"], lines[1]["sampled"]) == (31, 62)
    assert (lines[1]["test"]["accuracy"]["n"], lines[1]["test"]["overlong"]) == (11, 1)
    assert "longer than the model can read" in (tmp_path / "run" / "summary.md").read_text()


def test_a_choice_about_overlong_questions_is_checked(tmp_path):
    with pytest.raises(ValueError, match="overlong = 'perhaps'"):
        dataclasses.replace(config(tmp_path), overlong="perhaps")


# --- any recipe, any method, weights read once ----------------------------------------------------------------------


@dataclass(frozen=True)
class Plainly(Recipe):
    """A recipe that no catalog has: it trains by another method, from where it was."""

    def train(self, iteration):
        return dataclasses.replace(super().train(iteration), method=PlainLM(), go_on=True)


def test_a_recipe_of_ones_own_is_run_with_the_method_that_it_names(tmp_path, monkeypatch):
    monkeypatch.setitem(configs.SCHEMAS, "improve", configs.SCHEMAS["improve"] | {"plainly": Plainly})
    cfg = config(tmp_path / "run", steps=4)
    cfg = dataclasses.replace(cfg, improve=Plainly(**dataclasses.asdict(cfg.improve)), wrong_hints=0)
    improve.run(cfg, tmp_path / "run")
    found = [runs.load_run(tmp_path / "run" / f"iteration_{number}").config for number in (1, 2)]
    assert [one.method for one in found] == [PlainLM(), PlainLM()]
    assert found[1].model.source == str(tmp_path / "run" / "iteration_1")


def test_the_weights_of_an_iteration_are_read_once(tmp_path, monkeypatch):
    read = []

    def counted(source, seed):
        read.append(getattr(source, "source", "base"))
        return load.initial_model(source, seed)

    # What trains reads its weights itself, through a module of its own.
    monkeypatch.setattr(iterations, "load", SimpleNamespace(initial_model=counted))
    directory = tmp_path / "run"
    cfg = dataclasses.replace(config(directory, steps=4), wrong_hints=0, test=True)
    improve.run(cfg, directory)
    assert read == [str(directory / f"iteration_{number}") for number in (1, 2)]
    read.clear()
    improve.run(dataclasses.replace(cfg, improve=dataclasses.replace(cfg.improve, iterations=3)), directory)
    assert read == [str(directory / f"iteration_{number}") for number in (2, 3)]


def test_settings_make_a_recipe_whatever_it_was_before():
    answers = {
        ("star", "improve.keep=all"): SSD,
        ("star", "improve.target=direct", "improve.problems=0"): Direct,
        ("star", "improve.target=human"): HumanRationales,
        ("trice",): TRICE,
        ("trice", "improve.memory=all", "improve.control_variate=false", "improve.mean_over=tokens"): Recipe,
        ("ssd", "improve.keep=right"): Recipe,
        ("irpo",): IRPO,
        ("irpo", "improve.objective=sft"): Recipe,
        ("expert_iteration", "improve.objective=dpo"): IRPO,
    }
    for (name, *values), kind in answers.items():
        cfg = composed(f"improve={name}", "model.source=bundled:cups", *values, name="improve")
        assert type(made(cfg.improve)) is kind


def test_a_configuration_of_an_earlier_version_is_that_of_its_recipe_now(tmp_path):
    cfg = dataclasses.replace(config(tmp_path), improve=TRICE(steps=20))
    iterations.claim(cfg, tmp_path)
    file = tmp_path / iterations.KIND.file
    assert "  improve: TRICE\n" in file.read_text()
    file.write_text(file.read_text().replace("  improve: TRICE\n", "  improve: Improve\n"))
    earlier = configs.load(file, schema=ImproveConfig)
    assert made(earlier.improve) == cfg.improve
    iterations.claim(cfg, tmp_path)  # is taken for the same run


@pytest.mark.slow  # test_resume.py has other meshes; their rationales are sampled below
def test_a_run_resumes_on_another_mesh_and_trains_there(straight, tmp_path):
    directory, mesh = tmp_path / "run", MeshConfig(fsdp=4)
    shutil.copytree(straight, directory)
    files.write_records(directory / iterations.LINES, without_clock(straight)[:2])
    for iteration in (1, 2):  # the last one had begun, and the checkpoint of the other is lost
        file = directory / f"iteration_{iteration}" / "config.yaml"
        file.write_text(file.read_text().replace(str(straight), str(directory)))
        shutil.rmtree(file.parent / "checkpoints")
    improve.run(dataclasses.replace(config(directory), mesh=mesh), directory)
    assert configs.load(directory / "improve.yaml", schema=ImproveConfig).mesh == mesh
    for line, other in zip(without_clock(directory), without_clock(straight), strict=True):
        assert line["accuracy"] == other["accuracy"] and line["ledger"] == other["ledger"]
    lm = runs.load_run(straight / "iteration_1").lm
    bound = tolerances.trained(lm, 20, lr=0.03, update=tolerances.rounding(100))
    for iteration in (1, 2):
        assert configs.load(directory / f"iteration_{iteration}" / "config.yaml").mesh == mesh
        leaves, others = (jax.tree.leaves(trained(run, iteration)) for run in (directory, straight))
        for leaf, other in zip(leaves, others, strict=True):
            np.testing.assert_allclose(leaf, other, rtol=0, atol=bound)


def test_a_model_that_is_sharded_over_four_devices_samples_the_same_rationales(tmp_path):
    answered = {}
    for mesh in (MeshConfig(), MeshConfig(fsdp=4)):
        cfg = dataclasses.replace(config(tmp_path / "run"), mesh=mesh, sample_batch=6)
        job = improve._prepared(cfg, tmp_path / "run")
        with sharding.on(job.mesh):
            policy, batch = job.policies.after(0), job.problems[:6]
            shared = answering.answer(cfg, policy, batch, [()] * 6, False, 2, jax.random.key(0))
        answered[mesh.fsdp] = [tokens.tolist() for tokens in shared.written.tokens]
    assert answered[4] == answered[1] and len(answered[1]) == 12
    query = policy.params["blocks"]["query"]
    assert query.addressable_shards[0].data.size == query.size // 4
