import json
import math
import re

import pytest

from qstar.data import tokenizer as tokenizers
from qstar.reports.page import page
from qstar.thoughts.read import Candidate, Reading, Step, Thought

LETTERS = tokenizers.characters("ab<>/&\"'!-scriptm; \n\u2028\x1b")


def reading(text, thought="ab", likeliest=()):
    ids = LETTERS.encode(text)
    one = Thought(tuple(LETTERS.encode(thought)), 0.25, -2.0, -0.5, likeliest)
    return Reading(ids[0], tuple(Step(id, (one,), likeliest) for id in ids[1:]), given=2)


def data_of(source):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', source, re.DOTALL)
    return json.loads(found)


@pytest.mark.parametrize("text", ["a</script>b", "a<!--<script>", "a&amp;\"'b", "ab\u2028a"])
def test_no_text_ends_the_data_or_becomes_markup(text):
    source = page(reading(text, thought=text), LETTERS, about="runs/<b>&")
    assert "".join(token["text"] for token in data_of(source)["tokens"]) == text.replace("\u2028", "\\u2028")
    assert data_of(source)["about"] == "runs/<b>&"
    assert source.count("<script") == source.count("</script>") == 2
    assert "innerHTML" not in source


def test_a_token_carries_its_thought_and_its_likeliest_successors():
    likeliest = (Candidate(1, math.log(0.5)), Candidate(0, math.log(0.25)))
    data = data_of(page(reading("a\nb", " a", likeliest), LETTERS, "here"))
    assert data["given"] == 2
    assert data["summary"] == {"base": 2.0, "mixed": 0.5, "helped": 1.0}
    assert data["tokens"][0] == {"text": "a", "name": "a", "breaks": 0}
    assert data["tokens"][1]["text"] == "↵"
    assert data["tokens"][1]["breaks"] == 1
    successors = [{"name": "b", "share": 0.5, "true": True}, {"name": "a", "share": 0.25, "true": False}]
    assert data["tokens"][2] == {
        "text": "b",
        "name": "b",
        "breaks": 0,
        "id": 1,
        "gain": 1.5,
        "base": -2.0,
        "mixed": -0.5,
        "next": successors,
        "thoughts": [{"text": "␣a", "weight": 0.25, "mixed": -0.5, "gain": 1.5, "next": successors}],
    }
    assert data["best"][0] == [1, {"text": "␣a", "weight": 0.25, "mixed": -0.5, "gain": 1.5}]


def test_pauses_have_no_text():
    step = Step(1, (Thought((), 0.5, -1.0, -1.0, ()),), ())
    data = data_of(page(Reading(0, (step,), 2), LETTERS, "here"))
    assert data["tokens"][1]["thoughts"][0]["text"] is None
    assert data["best"] == []


def test_the_page_names_nothing_outside_itself_and_may_load_nothing():
    source = page(reading("ab"), LETTERS, "here")
    assert re.findall(r"https?://|@import|url\(|src=", source) == []
    assert "default-src 'none'" in source


def test_numbers_that_are_none_are_null():
    step = Step(1, (Thought((0,), math.nan, -1.0, -math.inf, ()),), ())
    thought = data_of(page(Reading(0, (step,), 2), LETTERS, "here"))["tokens"][1]["thoughts"][0]
    assert (thought["weight"], thought["mixed"]) == (None, None)
