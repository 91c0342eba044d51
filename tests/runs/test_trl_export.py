"""What a run sampled as data sets in TRL's formats, and back."""

import json
import shutil
from dataclasses import replace

import pytest
from small_runs import composed

from qstar import config as configs
from qstar import files, prepare
from qstar.data import rationales
from qstar.data import tokenizer as tokenizers
from qstar.data.examples import ExamplesText
from qstar.data.labelled import LabelledText
from qstar.data.pairs import PairsText
from qstar.data.rationales import Sample, Store
from qstar.runs import iterations
from qstar.tasks import cups

LETTERS = tokenizers.characters(cups.ALPHABET)
TASK = ("task=cups", "task.train=3", "task.dev=1", "task.test=1")


def sample(problem, written, correct, hint="", finished=True, stored=True):
    return Sample(
        problem=problem.id, split="train", question=problem.question, gold=problem.answer,
        prompt=f"9={problem.question}{hint}", hint=hint, temperature=1.0, top_k=0, top_p=1.0, seed=0,
        checkpoint="base", tokens=LETTERS.encode(written), logprobs=[-1.0] * len(written), written=written,
        stored=written if stored else None, answer="", correct=correct, reason="", grader="exact", grader_version=1,
        prompt_tokens=9, generated_tokens=len(written), finished=finished,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run on three questions: of the first two right and wrong samples, of the third one after a hint."""
    cfg = composed(*TASK, "model.source=bundled:cups", "length=64", name="improve")
    first, second, third = cfg.task.problems("train")
    directory = tmp_path / "run"
    directory.mkdir()
    configs.save(cfg, directory / iterations.KIND.file)
    wrong = str(1 + int(first.answer) % 5) + ";"
    worked = f"{first.rationale}{first.answer};"
    store = Store.create(directory / rationales.FOLDER, "model", "cups")
    store.append(
        1, 0,
        [
            sample(first, f"{first.answer};", True), sample(first, f"{first.answer};", True),
            sample(first, worked, True), sample(first, wrong, False),
            sample(second, "-11", False, finished=False, stored=False),
            sample(third, f"{third.answer};", True, hint=third.answer),
        ],
    )  # fmt: skip
    return directory, (first, second, third), (wrong, worked)


def sets(folder):
    return {file.stem: [json.loads(line) for line in file.read_text().splitlines()] for file in folder.glob("*.jsonl")}


def test_samples_become_data_sets_free_of_hints_examples_and_copies(run, tmp_path, capsys):
    directory, (first, second, third), (wrong, worked) = run
    prepare.main([str(directory), str(tmp_path / "out"), "--to", "trl"])
    assert (
        "3 of prompt_completion, 1 of preference, 5 of unpaired, 4 of stepwise, 2 of revisions"
        in capsys.readouterr().out
    )
    bare = f"{first.answer};"
    labels = [True] * len(first.question[1:-1]) + [True]
    made = sets(tmp_path / "out")
    revisions = made.pop("revisions")
    assert [revision["completion"] for revision in revisions] == [bare, worked]
    assert revisions[0]["prompt"] == f"{first.question}{wrong}"  # four attempts were drawn, there is one
    assert made == {
        "prompt_completion": [
            {"prompt": first.question, "completion": bare},
            {"prompt": first.question, "completion": worked},
            {"prompt": third.question, "completion": f"{third.answer};"},
        ],
        "preference": [{"prompt": first.question, "chosen": bare, "rejected": wrong}],
        "unpaired": [
            {"prompt": first.question, "completion": bare, "label": True},
            {"prompt": first.question, "completion": bare, "label": True},
            {"prompt": first.question, "completion": worked, "label": True},
            {"prompt": first.question, "completion": wrong, "label": False},
            {"prompt": second.question, "completion": "-11", "label": False},
        ],
        "stepwise": [
            {"prompt": first.question, "completions": [bare], "labels": [True]},
            {"prompt": first.question, "completions": [bare], "labels": [True]},
            {
                "prompt": first.question,
                "completions": [f"-{worked[1]}", *worked[2:-3], f"-{first.answer};"],
                "labels": labels,
            },
            {"prompt": first.question, "completions": [wrong], "labels": [False]},
        ],
    }


def test_what_is_written_is_read_and_trained_on(run, tmp_path):
    directory, (first, _, _), (wrong, worked) = run
    out = tmp_path / "out"
    prepare.prepare(str(directory), out, "trl", "float32")
    sampled = out / "prompt_completion.jsonl"
    texts = [LETTERS.decode(read.completion) for read in ExamplesText(str(sampled)).read(LETTERS)]
    assert texts[:2] == [f"{first.answer};", worked]
    (pair,) = PairsText(str(out / "preference.jsonl")).read(LETTERS)
    assert LETTERS.decode(pair.rejected.completion) == wrong
    unpaired = LabelledText(str(out / "unpaired.jsonl")).read(LETTERS)
    assert [solution.labels[0] for solution in unpaired] == [1.0, 1.0, 1.0, 0.0, 0.0]
    steps = LabelledText(str(out / "stepwise.jsonl"), separator="").read(LETTERS)
    assert [len(solution.labels) for solution in steps] == [1, 1, len(first.question) - 1, 1]


def test_prompts_of_a_chat_model_are_messages(run, tmp_path):
    directory, (first, _, _), (wrong, _) = run
    cfg = configs.load(directory / iterations.KIND.file, schema=configs.ImproveConfig)
    configs.save(replace(cfg, model=replace(cfg.model, chat="true")), directory / iterations.KIND.file)
    prepare.prepare(str(directory), tmp_path / "out", "trl", "float32")
    assert sets(tmp_path / "out")["preference"] == [
        {
            "prompt": [{"role": "user", "content": first.question}],
            "chosen": [{"role": "assistant", "content": f"{first.answer};"}],
            "rejected": [{"role": "assistant", "content": wrong}],
        }
    ]


def test_rollouts_of_reinforcement_learning_are_samples_too(run, tmp_path):
    directory, (first, _, _), (wrong, _) = run
    settings = ("~experiments", "method=rloo", "data=rollouts", "eval=none", "model.source=bundled:cups", *TASK)
    shutil.move(directory / rationales.FOLDER, directory / "rollouts")
    (directory / iterations.KIND.file).unlink()
    configs.save(composed(*settings), directory / "config.yaml")
    prepare.prepare(str(directory), tmp_path / "out", "trl", "float32")
    assert sets(tmp_path / "out")["preference"] == [
        {"prompt": first.question, "chosen": f"{first.answer};", "rejected": wrong}
    ]


def test_labels_of_a_labelling_are_written_with_what_is_judged(tmp_path):
    records = [
        {"prompt": "a", "completions": ["b\n", "c\n"], "labels": [True, 0.0], "problem": "1"},
        {"prompt": "a", "completions": ["b\n", "d\n"], "labels": [True, None], "problem": "1"},
    ]
    (tmp_path / "run").mkdir()
    files.write_records(tmp_path / "run" / "labels.jsonl", records)
    prepare.prepare(str(tmp_path / "run"), tmp_path / "out", "trl", "float32")
    assert sets(tmp_path / "out") == {"stepwise": [{"prompt": "a", "completions": ["b", "c"], "labels": [True, False]}]}


def test_a_directory_without_samples_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected the directory of a qstar-improve run"):
        prepare.prepare(str(tmp_path), tmp_path / "out", "trl", "float32")
    assert not (tmp_path / "out").exists()


def test_the_datasets_library_opens_what_is_written(run, tmp_path):
    datasets = pytest.importorskip("datasets")
    directory, (first, _, _), (wrong, _) = run
    prepare.prepare(str(directory), tmp_path / "out", "trl", "float32")
    read = datasets.load_dataset(str(tmp_path / "out"), "preference", cache_dir=str(tmp_path / "cache"))["train"]
    assert list(read) == [{"prompt": first.question, "chosen": f"{first.answer};", "rejected": wrong}]
    assert sorted(datasets.get_dataset_config_names(str(tmp_path / "out"))) == [
        "preference", "prompt_completion", "stepwise", "unpaired"
    ]  # fmt: skip
