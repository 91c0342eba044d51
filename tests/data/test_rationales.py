"""The rationale store: what goes in comes out, wrong ones too; kills lose a batch at most; strangers are refused."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from qstar import files, runs
from qstar.data import rationales
from qstar.data.rationales import CORRECT, FINISHED, HINTED, WRONG, Place, Sample, Store, of_iteration, of_split

ROOT = Path(__file__).resolve().parents[2]

RIGHT = Sample(
    problem="train-3", split="train", group="2", question="1 2 + 3 4", gold="4 6",
    prompt="Input:\n1 2 + 3 4\nTarget:\n",
    hint="", temperature=0.5, top_k=40, top_p=0.9, seed=11, checkpoint="run@20", tokens=[4, 9, 2],
    logprobs=[-0.5, -0.25, -2.0], margins=[1.0, 3.5, 0.0], written="a 4 6\n\nInput", stored="a 4 6\n\n", answer="4 6",
    correct=True, reason="right", grader="exact", grader_version=2, prompt_tokens=31, generated_tokens=3, finished=True,
    weight=0.5,
)  # fmt: skip
MISSED = replace(
    RIGHT, problem="train-4", tokens=[1], logprobs=[-1.0], margins=None, written="?", stored=None, answer="",
    correct=False, reason="no answer", generated_tokens=1, finished=False, weight=None,
)  # fmt: skip
SHOWN = replace(RIGHT, problem="train-4", hint="Target: 4 6")


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "rationales", "model-a", "sums")


def names(store):
    return sorted(file.name for file in store.folder.iterdir())


def test_a_row_holds_the_whole_history_of_its_sample(store):
    store.append(2, 5, [RIGHT])
    assert store.rows().to_pylist() == [
        {
            "iteration": 2, "batch": 5, "problem": "train-3", "split": "train", "group": "2", "question": "1 2 + 3 4",
            "gold": "4 6", "prompt": "Input:\n1 2 + 3 4\nTarget:\n", "hint": "", "hinted": False, "temperature": 0.5,
            "top_k": 40, "top_p": 0.9, "seed": 11, "checkpoint": "run@20", "model": "model-a", "tokens": [4, 9, 2],
            "logprobs": [-0.5, -0.25, -2.0], "margins": [1.0, 3.5, 0.0], "written": "a 4 6\n\nInput",
            "stored": "a 4 6\n\n", "answer": "4 6", "correct": True, "reason": "right", "grader": "exact",
            "grader_version": 2, "prompt_tokens": 31, "generated_tokens": 3, "finished": True, "weight": 0.5,
            "place": None,
        }
    ]  # fmt: skip


def test_a_step_of_a_search_has_its_place_in_the_tree(store):
    place = Place(
        node=3, parent=1, draw=0, final=True, rollout=False, chosen=True, scores={"oracle": 1.0, "runs/prm": 0.25},
        value=None, margin=0.5, flops=2**40, scored_tokens=34, scoring_flops=2**41,
    )  # fmt: skip
    store.append(0, 0, [replace(RIGHT, place=place)])
    (row,) = store.rows(columns=["place"]).to_pylist()
    assert row["place"] | {"scores": dict(row["place"]["scores"])} == vars(place)


def test_files_of_versions_without_places_are_read(store):
    store.append(0, 0, [RIGHT])
    (file,) = store.folder.glob("*.parquet")
    whole = store.rows().to_pylist()
    older = store.folder.parent / "older"
    Store.create(older, "model-a", "sums")
    pq.write_table(pq.read_table(file).drop_columns(["place"]), older / file.name)
    assert Store.create(older, "model-a", "sums").rows().to_pylist() == whole


def test_wrong_ones_are_kept_and_what_they_lack_is_null(store):
    store.append(0, 0, [MISSED])
    row = store.rows().to_pylist()[0]
    assert (row["correct"], row["stored"], row["margins"], row["weight"]) == (False, None, None, None)


def test_rows_come_in_the_order_of_iteration_batch_and_sample(store):
    for iteration, batch in ((10, 0), (2, 1), (2, 0), (9, 12), (9, 2)):
        store.append(iteration, batch, [replace(RIGHT, problem=f"{iteration}/{batch}/{row}") for row in range(2)])
    found = store.rows(columns=["problem"])["problem"].to_pylist()
    assert found == [f"{at}/{row}" for at in ("2/0", "2/1", "9/2", "9/12", "10/0") for row in range(2)]
    assert (store.batches(9), store.batches(3)) == ([2, 12], [])


def test_filters_are_queries(store):
    store.append(0, 0, [RIGHT, MISSED])
    store.append(1, 0, [SHOWN, replace(MISSED, split="dev")])

    def count(where):
        return store.rows(where).num_rows

    assert (count(None), count(CORRECT), count(WRONG), count(HINTED), count(FINISHED)) == (4, 2, 2, 1, 2)
    assert (count(of_iteration(1)), count(of_iteration(1) & CORRECT), count(of_split("dev"))) == (2, 1, 1)
    assert store.rows(CORRECT & ~HINTED, ["problem"]).to_pylist() == [{"problem": "train-3"}]


def test_a_query_for_one_iteration_opens_the_files_of_no_other(store):
    store.append(0, 0, [RIGHT])
    store.append(1, 0, [MISSED])
    (store.folder / "iteration_0000_batch_00000.parquet").write_bytes(b"damaged")
    assert store.rows(of_iteration(1))["problem"].to_pylist() == ["train-4"]
    with pytest.raises(ValueError, match=r"iteration_0000_batch_00000.parquet: .*Parquet"):
        store.rows()


def test_unique_keeps_the_first_of_equal_texts_for_the_same_question(store):
    store.append(0, 0, [RIGHT, replace(RIGHT, seed=12), replace(RIGHT, stored="b 4 6\n\n"), SHOWN])
    table = rationales.unique(store.rows())
    assert [(row["problem"], row["stored"], row["seed"]) for row in table.to_pylist()] == [
        ("train-3", "a 4 6\n\n", 11), ("train-3", "b 4 6\n\n", 11), ("train-4", "a 4 6\n\n", 11)
    ]  # fmt: skip


def test_an_empty_store_has_no_rows_but_all_columns(store):
    table = store.rows(CORRECT)
    assert (table.num_rows, "logprobs" in table.column_names) == (0, True)


# --- kills --------------------------------------------------------------------------------------------------------


def test_a_repeated_batch_replaces_itself_bit_for_bit(store):
    store.append(0, 3, [RIGHT, MISSED])
    file = store.folder / "iteration_0000_batch_00003.parquet"
    before = file.read_bytes()
    store.append(0, 3, [RIGHT, MISSED])
    assert file.read_bytes() == before
    assert store.rows().num_rows == 2


def test_leftovers_are_ignored_by_readers_and_removed_by_the_next_writer(store):
    store.append(0, 0, [RIGHT])
    torn = store.folder / "iteration_0000_batch_00001.parquet.77.new"
    torn.write_bytes(b"PAR1 half a batch")
    assert Store.open(store.folder).rows().num_rows == 1
    assert torn.exists()  # a reader may look while another process writes
    Store.create(store.folder, "model-a", "sums")
    assert names(store) == ["iteration_0000_batch_00000.parquet", "store.json"]


def test_a_kill_before_the_store_says_what_it_is_leaves_a_folder_to_begin_in(tmp_path):
    (tmp_path / "store.json.5.new").write_text("{")
    store = Store.create(tmp_path, "model-a", "sums")
    assert (names(store), store.rows().num_rows) == (["store.json"], 0)


def test_a_failed_write_leaves_the_batch_that_was_there(store, monkeypatch):
    store.append(0, 0, [RIGHT])
    monkeypatch.setattr(files.os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        store.append(0, 0, [MISSED])
    assert store.rows()["problem"].to_pylist() == ["train-3"]


def test_kills_lose_the_batch_in_flight_at_most(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "checks"))
    check = importlib.import_module("store_kills")
    *_, outcome = check.rounds(kills=2, seed=1, scratch=tmp_path)
    print(check.table(outcome))
    assert (outcome.kills, outcome.corrupt, outcome.doubled, outcome.acknowledged_lost) == (2, 0, 0, 0)
    assert len(outcome.lost) == 2 and set(outcome.lost) <= {0, 16}
    assert outcome.batches >= 2  # else nothing was there to lose


def test_the_check_of_kills_sees_a_damaged_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "checks"))
    check = importlib.import_module("store_kills")
    store = Store.create(tmp_path, check.MODEL, check.TASK)
    store.append(0, 0, check.batch_of(0))
    store.append(0, 1, check.batch_of(2))
    outcome = check.Outcome()
    check.examine(tmp_path, "begun 0\ndone 0\nbegun 1\ndone 1\nbegun 2\ndone 2\n", 0, outcome)
    assert (outcome.corrupt, outcome.lost, outcome.acknowledged_lost) == (1, [16], 16)


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.fixture
def full(tmp_path):
    """A store of two iterations with two batches each, in a folder whose name a shell would take apart."""
    store = Store.create(tmp_path / "it's a=b, c" / "rationales", "model-a", "sums")
    for iteration in (0, 1):
        for batch in (0, 1):
            store.append(iteration, batch, [replace(RIGHT, problem=f"{iteration}/{batch}")])
    return store.folder


def part(folder, iteration, batch):
    return folder / f"iteration_{iteration:04d}_batch_{batch:05d}.parquet"


def flip(file, byte):
    contents = bytearray(file.read_bytes())
    contents[byte] ^= 1
    file.write_bytes(contents)


def test_every_flipped_byte_is_noticed_where_its_rows_are_read(full):
    size = part(full, 1, 0).stat().st_size
    for byte in range(0, size, 97):
        flip(part(full, 1, 0), byte)
        assert Store.open(full).rows(of_iteration(0)).num_rows == 2
        for ask in (lambda: Store.open(full).rows(), lambda: Store.open(full).batches(1)):
            with pytest.raises(ValueError, match=r"iteration_0001_batch_00000.parquet: holds other bytes"):
                ask()
        flip(part(full, 1, 0), byte)
    assert Store.open(full).rows().num_rows == 4


def test_a_file_that_is_missing_is_named_with_the_number_of_its_samples(full):
    part(full, 0, 1).unlink()
    assert Store.open(full).rows(of_iteration(1)).num_rows == 2
    for ask in (lambda store: store.rows(), lambda store: store.batches(0)):
        with pytest.raises(ValueError, match=r"iteration_0000_batch_00001.parquet: is missing, 1 samples were written"):
            ask(Store.create(full, "model-a", "sums"))


@pytest.mark.parametrize("name", ["iteration_0001_batch_00007.parquet", "iteration_0002_batch_00000.parquet"])
def test_a_copy_under_another_number_is_named_and_never_counted_twice(full, name):
    (full / name).write_bytes(part(full, 1, 1).read_bytes())
    for ask in (lambda: Store.open(full).rows(), lambda: Store.create(full, "model-a", "sums")):
        with pytest.raises(ValueError, match=rf"{name} holds samples of batch 1 of iteration 1: is it a copy"):
            ask()


def test_a_copy_over_another_file_and_one_under_a_strange_name_are_named(full):
    (full / "iteration_0001_batch_00001 (copy).parquet").write_bytes(part(full, 1, 1).read_bytes())
    with pytest.raises(ValueError, match=r"batch_00001 \(copy\).parquet is not a file of this store"):
        Store.open(full).rows()
    (full / "iteration_0001_batch_00001 (copy).parquet").replace(part(full, 1, 0))
    with pytest.raises(ValueError, match=r"iteration_0001_batch_00000.parquet: holds other bytes"):
        Store.open(full).rows()


@pytest.mark.parametrize("gone", [True, False])
def test_the_command_that_is_advised_resumes_without_the_file(full, gone):
    part(full, 1, 0).unlink() if gone else flip(part(full, 1, 0), 500)
    with pytest.raises(ValueError) as error:
        Store.open(full).rows()
    advised = str(error.value).splitlines()[-1]
    command = advised
    subprocess.run(["sh", "-c", command], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    store = Store.create(full, "model-a", "sums")
    assert store.rows(columns=["problem"])["problem"].to_pylist() == ["0/0", "0/1", "1/1"]
    assert store.batches(1) == [1]
    assert Path(f"{part(full, 1, 0)}.damaged").is_file() == (not gone)  # nothing is deleted


def test_a_store_of_an_earlier_version_is_read_and_listed_by_its_next_writer(full):
    about = json.loads((full / rationales.ABOUT).read_text())
    (full / rationales.ABOUT).write_text(json.dumps({name: about[name] for name in ("format", "model", "task")}))
    assert Store.open(full).rows().num_rows == 4
    Store.create(full, "model-a", "sums")
    assert json.loads((full / rationales.ABOUT).read_text()) == about
    flip(part(full, 0, 0), 200)
    with pytest.raises(ValueError, match=r"iteration_0000_batch_00000.parquet: holds other bytes"):
        Store.open(full).rows()


# --- several processes --------------------------------------------------------------------------------------------


def test_batches_of_other_processes_are_read_at_once_and_listed_when_collected(store):
    other = Store.open(store.folder)
    store.append(0, 0, [RIGHT])
    other.append(0, 1, [MISSED])
    assert store.batches(0) == [0, 1] and store.rows().num_rows == 2
    assert list(json.loads((store.folder / "store.json").read_text())["parts"]) == [part(store.folder, 0, 0).name]
    store.collect(0, 2)
    assert len(json.loads((store.folder / "store.json").read_text())["parts"]) == 2
    flip(part(store.folder, 0, 1), 200)
    with pytest.raises(ValueError, match=r"iteration_0000_batch_00001.parquet: holds other bytes"):
        Store.open(store.folder).rows()


def test_a_batch_that_another_process_wrote_elsewhere_is_missed(store, monkeypatch):
    monkeypatch.setattr(files, "LATE_S", 0.0)
    store.append(0, 0, [RIGHT])
    with pytest.raises(ValueError, match=r"lacks 2 of 3 files that other processes wrote \(iteration_0000_batch_00001"):
        store.collect(0, 3)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_store_of_another_model_or_task_is_refused_with_both_named(store):
    with pytest.raises(ValueError, match=r"rationales of model 'model-a', this is model 'model-b': .*another run dir"):
        Store.create(store.folder, "model-b", "sums")
    with pytest.raises(ValueError, match=r"rationales of task 'sums', this is task 'gsm8k'"):
        Store.open(store.folder, task="gsm8k")


def test_a_folder_without_a_store_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a store of rationales \(no store.json in it\)"):
        Store.open(tmp_path)
    (tmp_path / "answers.parquet").touch()
    with pytest.raises(ValueError, match=r"holds Parquet files but no store.json"):
        Store.create(tmp_path, "model-a", "sums")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ('{"format": 2, "model": "a", "task": "b"}', r"store.json is of format 2, this qstar reads 1"),
        ('{"format": 1, "model": "a"}', r"does not say which model and task .*'task'"),
        ("[]", r"does not say which model and task"),
    ],
)
def test_a_store_of_another_format_is_refused(store, about, message):
    (store.folder / "store.json").write_text(about)
    with pytest.raises(ValueError, match=message):
        Store.open(store.folder)


def test_values_that_do_not_fit_are_refused_with_their_column(store):
    with pytest.raises(ValueError, match=r"sample of train-3: 2 logprobs for 3 tokens"):
        replace(RIGHT, logprobs=[-1.0, -1.0])
    with pytest.raises(ValueError, match=r"batch 7 of iteration 1: column gold: "):
        store.append(1, 7, [replace(RIGHT, gold=46)])
    with pytest.raises(ValueError, match=r"column prompt: row 1 has no value"):
        store.append(1, 7, [RIGHT, replace(RIGHT, prompt=None)])
    with pytest.raises(ValueError, match=r"batch 7 of iteration 1 has no samples"):
        store.append(1, 7, [])
    with pytest.raises(ValueError, match=r"no columns text; there are iteration, batch, "):
        store.rows(columns=["text", "gold"])
    assert names(store) == ["store.json"]


def test_a_verifier_learns_from_all_that_was_written_without_a_hint(store):
    store.append(1, 0, [RIGHT, MISSED, SHOWN])
    right = {"prompt": "Input:\n1 2 + 3 4\nTarget:\n", "completion": "a 4 6\n\nInput", "label": 1}
    right |= {"completion_ids": list(RIGHT.tokens)}
    right |= {"problem": "train-3", "iteration": 1}
    wrong = right | {"completion": "?", "completion_ids": list(MISSED.tokens), "label": 0, "problem": "train-4"}
    assert list(rationales.verifier_examples(store)) == [right, wrong]
    asked = list(rationales.verifier_examples(store, {"train-3": "without examples", "train-4": "?"}))
    assert asked == [right | {"prompt": "without examples"}, wrong | {"prompt": "?"}]


def test_each_right_text_of_a_question_is_preferred_to_each_wrong_one_once():
    def example(problem, completion, label, **ids):
        return {"prompt": problem.upper(), "completion": completion, "label": label, "problem": problem, **ids}

    human, sampled = example("p", "r1", 1), example("p", "r2", 1, completion_ids=[2], iteration=1)
    wrong = [example("p", text, 0, completion_ids=[3]) for text in ("w1", "w2", "w1", "")]
    others = [example("q", "r1", 1), example("s", "w1", 0)]  # one side alone gives nothing
    found = list(rationales.preference_pairs([human, *others, *wrong, sampled, human]))
    assert [(pair["chosen"], pair["rejected"]) for pair in found] == [
        ("r1", "w1"), ("r1", "w2"), ("r2", "w1"), ("r2", "w2"),
    ]  # fmt: skip
    first = {"prompt": "P", "chosen": "r1", "rejected": "w1", "rejected_ids": [3], "problem": "p"}
    assert found[0] == first and found[2] == first | {"chosen": "r2", "chosen_ids": [2]}


def test_of_a_question_with_many_pairs_some_of_all_are_preferred():
    examples = [
        {"prompt": "?", "completion": f"{'wr'[label]}{n}", "label": label, "problem": "p"}
        for label in (0, 1) for n in range(10)
    ]  # fmt: skip
    found = [(pair["chosen"], pair["rejected"]) for pair in rationales.preference_pairs(examples, most=30)]
    assert len(set(found)) == 30 and {chosen for chosen, _ in found} == {f"r{n}" for n in range(10)}
    assert len({rejected for _, rejected in found}) > 2
    assert len(list(rationales.preference_pairs(examples, most=100))) == 100


# --- qstar.runs ---------------------------------------------------------------------------------------------------


def test_a_run_directory_opens_as_a_data_frame_where_pandas_is_there(store):
    pytest.importorskip("pandas")
    store.append(0, 0, [RIGHT, MISSED])
    frame = runs.rationales(store.folder.parent)
    assert list(frame[frame.correct].problem) == ["train-3"]
    assert len(runs.rationales(store.folder.parent, WRONG)) == 1


def test_the_latest_rationales_are_those_of_the_newest_run_that_samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no rationales under .*runs: sample some with qstar-improve"):
        runs.rationales("latest")
    for age, (name, row) in enumerate({"star/new": RIGHT, "star/old": MISSED}.items()):
        made = Store.create(tmp_path / "runs" / name / rationales.FOLDER, "model-a", "sums")
        made.append(1, 0, [row])
        os.utime(made.folder / rationales.ABOUT, (2000 - age, 2000 - age))
    (tmp_path / "runs/star/old/iteration_1").mkdir()  # a training, newer than all: none that samples
    (tmp_path / "runs/star/old/iteration_1/config.yaml").touch()
    found = runs.rationales("latest", CORRECT & ~HINTED & of_iteration(1), ["problem"])["problem"]
    assert [str(one) for one in found] == ["train-3"]  # a table of pyarrow where pandas is not


def test_a_run_directory_opens_as_a_table_where_pandas_is_not(store, monkeypatch):
    store.append(0, 0, [RIGHT, MISSED])
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert runs.rationales(store.folder.parent)["problem"].to_pylist() == ["train-3", "train-4"]
