import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
import tiny

from qstar import runs, think
from qstar.cli import entry
from qstar.data import tokenizer as tokenizers
from qstar.methods.plain_lm import PlainLM
from qstar.methods.quiet_star import QuietStar
from qstar.thoughts.read import read

LETTERS = tokenizers.characters("abcdefghij-.\n")


def opened(method=None):
    """What `runs.load_run` gives, around a tiny model."""
    method = method or QuietStar(thought_len=3, delimiter="-", forbidden=("-",))
    if isinstance(method, QuietStar):
        cfg = method.thinker(tiny.LM, LETTERS)
        model, params = tiny.thinker_of(pause=cfg.pause, tokens=cfg.tokens)
    else:
        model, params = tiny.thinker_of()
    run = {"method": method, "definition": model, "params": params, "tokenizer": LETTERS, "step": 7}
    return SimpleNamespace(**run, path=Path("runs/tiny"))


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(entry, "prepare_jax", lambda: None)  # the tests have a compile cache of their own
    monkeypatch.setattr(runs, "latest_thinker", lambda: "latest")
    monkeypatch.setattr(runs, "load_run", lambda path, step: opened())


def test_a_text_is_printed_and_written_as_a_page(run, capsys, tmp_path):
    think.main(["badge"])
    out = capsys.readouterr().out
    assert out.startswith("runs/tiny, step 7 · thoughts of 3 tokens, likeliest\n")
    assert "\nbadge\n" in out
    assert "of 4 tokens helped" in out
    assert "\x1b" not in out  # not a terminal: no colours
    assert out.endswith(": thoughts.html\n")
    assert (tmp_path / "thoughts.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    think.main(["badge"])
    assert capsys.readouterr().out.endswith(": thoughts.html (the earlier one is overwritten)\n")


def test_the_page_goes_where_it_is_told_or_nowhere(run, tmp_path):
    think.main(["badge", "--html", "mine.html"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.html"]
    (tmp_path / "mine.html").unlink()
    think.main(["badge", "--no-html"])
    assert list(tmp_path.iterdir()) == []


def test_text_comes_from_standard_input_without_its_last_line_end(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("bad\nbee\n"))
    think.main(["-", "--no-html"])
    assert "bad↵\nbee\n\n" in capsys.readouterr().out


def test_readings_are_those_of_the_methods_thoughts():
    args = think.parse(["badge", "--seed", "3"])
    found = think.think(opened(), args)
    wanted = read(*_model(opened()), LETTERS.encode("badge"), jax.random.key(99))  # greedy: the key has no part in it
    assert found == wanted


def _model(run):
    return run.method, run.definition, run.params


def test_sampled_thoughts_come_in_the_requested_number_and_follow_the_seed():
    first, again, other = (
        think.think(opened(), think.parse(["badge", "--sample", "--thoughts", "2", "--seed", seed])) for seed in "001"
    )
    assert {len(step.thoughts) for step in first.steps} == {2}
    assert first == again
    assert first != other


def test_what_is_generated_stands_after_the_text_and_never_holds_what_is_forbidden():
    hot = ["badge", "--generate", "20", "--temperature", "5", "--sample"]
    found = think.think(opened(), think.parse(hot))
    assert LETTERS.decode(found.tokens[:5]) == "badge"
    assert (found.given, len(found.tokens)) == (5, 25)
    assert "-" not in LETTERS.decode([id for step in found.steps for one in step.thoughts for id in one.tokens])
    assert "-" not in LETTERS.decode(found.tokens)
    assert len(set(found.tokens[5:])) > 3  # at this temperature
    one = think.think(opened(), think.parse(["b", "--generate", "1"]))
    assert len(one.steps) == 1


@pytest.mark.parametrize(
    ("text", "method", "message"),
    [
        ("badge", PlainLM(), "method=lm, which does not think: name a run .*qstar-train method=quiet_star"),
        ("b", None, "the text has 1 tokens, and the first has no thought before it"),
        ("big zoo", None, "character ' ' at 3 is not in this tokenizer's alphabet"),
        ("b" * 65, None, "65 tokens, the model was built for 64"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_way_out(text, method, message):
    with pytest.raises(ValueError, match=message):
        think.think(opened(method), think.parse([text]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--thoughts", "2"], "--thoughts 2 needs --sample"),
        (["--thoughts", "0"], "argument --thoughts: 0: expected a positive integer"),
        (["--generate", "-1"], "argument --generate: -1: expected 0 or a positive integer"),
        (["--seed", "-1"], "argument --seed: -1"),
        (["--seed", "99999999999999999999"], "argument --seed: 99999999999999999999"),
        (["--step", "1.5"], "argument --step: 1.5"),
        (["--temperature", "nan", "--generate", "1"], "argument --temperature: nan"),
        (["--temperature", "-0.5", "--generate", "1"], "argument --temperature: -0.5"),
        (["--html", "."], "--html = .: this is a folder"),
        (["--temperature", "1"], "needs --generate"),
        (["--html", "nowhere/x.html"], "there is no directory nowhere"),
        (["--html", "x.html", "--no-html"], "not allowed with"),
        (["run=runs/mine"], "unrecognized arguments: run=runs/mine; run=runs/mine is given as --run runs/mine\n"),
        (["3a=4;"], "unrecognized arguments: 3a=4;\n"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused_before_anything_is_loaded(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        think.parse(["badge", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_without_a_run_the_way_to_one_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(entry, "prepare_jax", lambda: None)
    with pytest.raises(SystemExit) as stop:
        think.main(["badge"])
    assert stop.value.code == 1
    assert "qstar-train" in capsys.readouterr().err


def test_help_is_given_without_importing_jax():
    script = (
        "import sys, qstar.think as t\n"
        "try: t.main(['--help'])\n"
        "except SystemExit as stop: sys.exit(stop.code or int('jax' in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert "--generate N" in found.stdout


def test_pauses_are_read_and_written_too():
    found = think.think(
        opened(QuietStar(thought_len=3, fill="pause", delimiter="-")), think.parse(["bad", "--generate", "2"])
    )
    assert [step.best.tokens for step in found.steps] == [()] * 4
