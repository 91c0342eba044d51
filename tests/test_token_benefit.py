"""The command that says what thoughts did to every token of a text."""

import experiment_scripts
import pytest


def test_texts_without_the_fields_are_refused(tmp_path):
    token_benefit = experiment_scripts.load("quiet_star/token_benefit")
    (tmp_path / "t.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    assert token_benefit.texts(tmp_path / "t.jsonl", ["question", "answer"], 3) == ["q\na"]
    with pytest.raises(ValueError, match=r"t.jsonl: its records lack body; choose other fields with --field"):
        token_benefit.texts(tmp_path / "t.jsonl", ["body"], 3)
    with pytest.raises(FileNotFoundError, match=r"none.jsonl is not a file"):
        token_benefit.texts(tmp_path / "none.jsonl", ["body"], 3)
