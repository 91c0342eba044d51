"""Step labels in the formats of others, on literal records in their form."""

import json

import pytest

from qstar.data import step_formats
from qstar.data import tokenizer as tokenizers
from qstar.data.labelled import LabelledText

SHEPHERD = {
    "input": "How many? Step 1: 1 + 1 = 2 ки\nStep 2: So 2 - 3. ки",
    "label": "How many? Step 1: 1 + 1 = 2 +\nStep 2: So 2 - 3. -",
    "task": "GSM8K",
}
PRM800K = {
    "labeler": "someone",
    "question": {"problem": "How many?"},
    "label": {
        "steps": [
            {"completions": [{"text": "a", "rating": 0}], "human_completion": None, "chosen_completion": 0},
            {
                "completions": [{"text": "b", "rating": -1}, {"text": "c", "rating": None}],
                "human_completion": {"text": "d", "rating": None},
                "chosen_completion": None,
            },
            {
                "completions": [{"text": "e", "rating": 1}, {"text": "f", "rating": -1}],
                "human_completion": None,
                "chosen_completion": 1,
            },
        ]
    },
}
TREE = {
    "question": "How many?",
    "final_answer": "3",
    "reasoning_steps": {
        "text": "How many?",
        "mc_value": 0.5,
        "children": [
            {
                "text": "a",
                "mc_value": 0.75,
                "children": [
                    {"text": "b", "mc_value": 1.0, "children": []},
                    {"text": "c", "mc_value": 0.0, "children": []},
                ],
            }
        ],
    },
}
PREFIXES = {
    "question": "How many?",
    "reasoning_steps": [
        {"solution_prefix": "How many?", "mc_value": 0.5},
        {"solution_prefix": "How many?\n\na", "mc_value": 0.25},
    ],
}


def read(record):
    return [
        (one["prompt"], "|".join(one["completions"]), one["labels"]) for one in step_formats.stepwise(record, "line")
    ]


def test_math_shepherd():
    assert read(SHEPHERD) == [("How many? ", "Step 1: 1 + 1 = 2|Step 2: So 2 - 3.", [True, False])]


def test_prm800k_with_neutral_steps_as_right_and_every_rated_alternative():
    assert read(PRM800K) == [
        ("How many?\n", "a|b", [None, False]),
        ("How many?\n", "a|d|e", [None, None, True]),
        ("How many?\n", "a|d|f", [True, None, False]),
    ]


def test_omega_trees_label_every_step_once():
    assert read(TREE) == [("How many?\n", "a|b", [0.75, 1.0]), ("How many?\n", "a|c", [None, 0.0])]
    assert read(PREFIXES) == [("How many?\n", "a", [0.25])]


def test_all_formats_are_trained_on_from_one_file(tmp_path):
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in (SHEPHERD, PRM800K, TREE, PREFIXES)))
    letters = tokenizers.characters("abcdefHowmny?Stp123:+=-.\n ")
    solutions = LabelledText(str(file)).read(letters)
    assert [one.labels for one in solutions] == [
        (1.0, 0.0), (0.0,), (1.0,), (1.0, 0.0), (0.75, 1.0), (0.0,), (0.25,)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (SHEPHERD | {"label": "How many? Step 1: 2"}, "line: label: .* does not end with"),
        (SHEPHERD | {"label": "How many?"}, "line: label"),
        (PRM800K | {"label": {"steps": [{"completions": []}]}}, "line: not as question and label and labeler"),
        (PREFIXES | {"reasoning_steps": [{"solution_prefix": "Why?", "mc_value": 1}]}, "line: solution_prefix 'Why"),
        (PREFIXES | {"reasoning_steps": [{"solution_prefix": "How many?a", "mc_value": 2}]}, "line: mc_value is 2"),
    ],
)
def test_records_that_only_begin_like_a_format_are_named(record, fault):
    with pytest.raises(ValueError, match=fault):
        step_formats.stepwise(record, "line")


def test_trl_takes_booleans_and_adds_the_separator_itself():
    record = {"prompt": "p", "completions": ["a\n", "b\n", "c"], "labels": [True, 0.25, 0.0], "k": 4}
    assert step_formats.trl(record) == {"prompt": "p", "completions": ["a", "b", "c"], "labels": [True, True, False]}
    assert step_formats.trl(record | {"completions": ["a", "b\n", "c"]})["completions"] == ["a", "b\n", "c"]
    assert step_formats.trl(record | {"labels": [True, None, False]}) is None
