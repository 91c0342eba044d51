"""TRL's formats, plain and in conversations, and what of ours trains on them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_chat import ASKED, END, HELLO, MODEL, OTHER, ids

from qstar.data import trl
from qstar.data.examples import Example, ExamplesText
from qstar.data.labelled import LabelledText
from qstar.data.pairs import PairsText

REPLY = [{"role": "assistant", "content": "Hi."}]
OTHERS = [{"role": "assistant", "content": "No."}]
CHAT = Example(tuple(ASKED), (*ids("Hi."), END))


@pytest.fixture(params=["jsonl", "parquet"])
def write(request, tmp_path):
    """Writes records to a file of this kind and returns its path."""

    def written(*records):
        file = tmp_path / f"records.{request.param}"
        if request.param == "parquet":
            pq.write_table(pa.Table.from_pylist(list(records)), file)
        else:
            file.write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(file)

    return written


def test_prompts_and_completions_are_texts_or_messages(write):
    assert ExamplesText(str(write({"prompt": "a=", "completion": "b"}))).read(MODEL) == [
        Example(tuple(ids("a=")), (*ids("b"), OTHER))
    ]
    assert ExamplesText(str(write({"prompt": HELLO, "completion": REPLY}))).read(MODEL) == [CHAT]
    assert ExamplesText(str(write({"messages": [*HELLO, *REPLY]}))).read(MODEL) == [CHAT]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": HELLO, "chosen": REPLY, "rejected": OTHERS},
        {"chosen": [*HELLO, *REPLY], "rejected": [*HELLO, *OTHERS]},
    ],
)
def test_preferences_in_messages_with_and_without_a_prompt(write, record):
    (pair,) = PairsText(write(record)).read(MODEL)
    assert pair.chosen == CHAT
    assert pair.rejected == Example(tuple(ASKED), (*ids("No."), END))


def test_the_prompt_of_a_pair_is_what_both_texts_begin_with_up_to_a_space():
    record = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    assert trl.texts(record, "") == {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    record = {"chosen": "2+2=4", "rejected": "2+2=5"}
    assert trl.texts(record, "") == {"prompt": "2+2=", "chosen": "4", "rejected": "5"}


def test_unpaired_labels_judge_a_reply(write):
    (solution,) = LabelledText(write({"prompt": HELLO, "completion": REPLY, "label": False})).read(MODEL)
    assert solution.prompt == tuple(ASKED)
    assert solution.completion == (*ids("Hi."), END)
    assert set(solution.labels) == {0.0}


def test_steps_are_judged_after_a_prompt_in_messages(write):
    record = {"prompt": HELLO, "completions": ["One.", "Two."], "labels": [True, False]}
    (solution,) = LabelledText(write(record)).read(MODEL)
    assert solution.prompt == tuple(ASKED)
    assert solution.ends == (4, 8) and solution.labels == (1.0, 0.0)  # the newline after One., the period of Two.


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "completion": REPLY}, "completion is a list and prompt is not"),
        ({"prompt": HELLO, "completion": "b"}, "prompt is a list and completion is not"),
        ({"prompt": HELLO, "completion": [*REPLY, *HELLO, *REPLY]}, "completion has 4 messages|completion is"),
        ({"prompt": [*HELLO, *REPLY], "completion": REPLY}, "prompt is of role 'assistant', expected 'user'"),
        ({"prompt": HELLO, "completion": HELLO}, "completion is of role 'user', expected 'assistant'"),
        ({"chosen": "one", "rejected": "two"}, "no prompt, and chosen and rejected begin differently"),
    ],
)
def test_records_that_are_of_no_format_are_named(record, message):
    with pytest.raises(ValueError, match=f"file:7:? .*({message})"):
        trl.texts(record, "file:7")


def test_documents_are_sent_to_the_format_that_reads_them(tmp_path):
    (tmp_path / "text.jsonl").write_text('{"text": "a document"}\n')
    with pytest.raises(ValueError, match=r"jsonl:1 lacks .*prompt and completion.*data=text"):
        ExamplesText(str(tmp_path / "text.jsonl")).read(MODEL)


def test_records_are_written_in_the_form_of_their_prompt():
    plain = trl.written("a=", False, {"chosen": "b", "rejected": "c"})
    assert plain == {"prompt": "a=", "chosen": "b", "rejected": "c"}
    asked = [{"role": "user", "content": "a="}]
    assert trl.written("a=", True, {"completion": "Hi."}, label=True) == {
        "prompt": asked,
        "completion": REPLY,
        "label": True,
    }
    spelled = trl.texts({"prompt": HELLO, "completion": REPLY}, "")
    assert trl.written(spelled["prompt"], False, {"completion": "Hi."}) == {"prompt": HELLO, "completion": REPLY}
