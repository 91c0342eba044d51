"""Runs that begin where another ended, and runs that compare themselves with another."""

import dataclasses
import json
import sys
from pathlib import Path

import experiment_scripts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from small_runs import composed, small
from tolerances import rounding

from qstar import runs
from qstar.evals import intervals
from qstar.methods.plain_lm import PlainLM
from qstar.ops import rows as text_rows
from qstar.paths import ROOT
from qstar.runs import ablation, train
from qstar.thoughts.predict import Prediction
from qstar.training import loop

SMALL = ("batch_size=4", "optim.lr=0.01", "eval=none", "steps=2", "control=false", "sample_every=0")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The directory of a run of Quiet-STaR of two steps."""
    directory = tmp_path_factory.mktemp("quiet")
    train.run(composed(*small_runs.MODEL, "method.thought_len=2", *SMALL), directory)
    return directory


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    monkeypatch.setattr(train, "BEST_OF", 4)


def going_on(directory, *overrides):
    return composed("model=pretrained", f"model.source={directory}", "method.thought_len=1", *SMALL, *overrides)


def started(cfg):
    """The weights before the first step of a run."""
    loaded = runs.initial_model(cfg.model, cfg.seed)
    mesh = train.sharding.make_mesh(cfg.mesh)
    program = train.Program.of(cfg.method, loaded.lm, mesh, cfg.optim, 1, 1, vocabulary=loaded.tokenizer)
    return program.start(loaded.language_model, cfg.seed, runs.carried_on(loaded, cfg.method)).params


def test_a_run_starts_from_another_with_its_delimiters_and_mixing_head(quiet):
    saved = runs.load_run(quiet).params
    assert np.abs(saved["mixing"]["last"]).max() > 0  # it has learned
    for leaf, expected in zip(jax.tree.leaves(started(going_on(quiet))), jax.tree.leaves(saved), strict=True):
        np.testing.assert_array_equal(leaf, expected)


def test_extras_false_begins_with_the_language_model_alone(quiet):
    saved, found = runs.load_run(quiet).params, started(going_on(quiet, "model.extras=false"))
    np.testing.assert_array_equal(found["lm"]["embedding"], saved["lm"]["embedding"])
    assert np.all(found["mixing"]["last"] == 0)
    assert np.abs(found["start"] - saved["start"]).max() > 0


def test_parts_that_the_other_run_lacks_begin_again(quiet):
    cfg = going_on(quiet, "method=adaptive_cups", "method.thought_len=2")
    saved, found = runs.load_run(quiet).params, started(cfg)
    np.testing.assert_array_equal(found["mixing"]["last"], saved["mixing"]["last"])
    assert np.all(found["gate"]["last"] == 0)


def test_a_mixing_head_of_another_meaning_is_refused(quiet):
    with pytest.raises(ValueError, match=r"its mixing was trained with method.mixing = 'raw', this run has 'sigmoid'"):
        train.run(going_on(quiet, "method.mixing=sigmoid"), quiet.parent / "refused")
    assert not (quiet.parent / "refused").exists()
    assert started(going_on(quiet, "method.mixing=sigmoid", "model.extras=false"))["mixing"]


def student(quiet, *overrides):
    return composed(
        "model=pretrained",
        f"model.source={quiet}",
        "method=fast_quiet_star",
        f"method.teacher={quiet}",
        *SMALL,
        *overrides,
    )


@pytest.mark.slow  # tests/runs/test_resume.py stops other methods
def test_the_student_of_a_run_trains_stops_and_resumes_bit_for_bit(quiet, tmp_path, monkeypatch):
    train.run(student(quiet, "steps=3", "save_every=1"), tmp_path / "straight")
    stopped = {"now": False}
    monkeypatch.setattr(loop._StopSignals, "asked", lambda self, step, every: step == 1 and not stopped["now"])
    cfg = student(quiet, "steps=3", "save_every=1")
    with pytest.raises(loop.Interrupted):
        train.run(cfg, tmp_path / "resumed")
    stopped["now"] = True
    train.run(dataclasses.replace(cfg, resume=str(tmp_path / "resumed")), tmp_path / "resumed")
    straight, resumed = (small_runs.lines(tmp_path / name / "metrics.jsonl") for name in ("straight", "resumed"))
    assert resumed == straight
    assert {"nll", "nll_teacher", "reward"} <= set(straight[-1])
    trained = runs.load_run(tmp_path / "straight")
    assert "mixing" not in trained.params  # a language model like any other


def test_a_method_with_a_reference_is_trained_evaluated_and_loaded(tmp_path):
    cfg = small("method=rlp_cups", "steps=2", "control=false", "sample_every=0")
    train.run(cfg, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2
    assert "mixing" not in runs.load_run(tmp_path / "run").params
    rows = small_runs.lines(tmp_path / "run" / "evals.jsonl")
    assert {row["step"] for row in rows} == {0, 2} and any(row["thoughts"] != "none" for row in rows)


def test_a_teacher_that_cannot_teach_is_refused_before_anything_is_written(quiet, tmp_path):
    plain = tmp_path / "plain"
    train.run(composed(*small_runs.MODEL, "method=lm", *SMALL), plain)
    with pytest.raises(ValueError, match="was trained with method=lm, which does not think"):
        train.run(student(quiet, f"method.teacher={plain}"), tmp_path / "student")
    with pytest.raises(FileNotFoundError, match="no_such is not a run directory"):
        train.run(student(quiet, "method.teacher=no_such"), tmp_path / "student")
    with pytest.raises(ValueError, match="has another tokenizer than bundled:cups"):
        cups = composed("method=fast_quiet_star", f"method.teacher={quiet}", *SMALL)
        loaded = runs.initial_model(cups.model, 0)
        letters = dataclasses.replace(loaded, tokenizer=train.Tokenizer.from_file(_other_tokenizer(tmp_path)))
        runs.other_model(cups.method, letters)
    assert not (tmp_path / "student").exists()


def _other_tokenizer(folder):
    from qstar.data import tokenizer

    (folder / "tokenizer.json").write_text(tokenizer.characters("abc").to_json())
    return folder / "tokenizer.json"


# --- the comparison -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scripts():
    """The modules of experiments/quiet_star/followups, by name."""
    return {name: experiment_scripts.load(f"quiet_star/followups/{name}") for name in ("fast_quiet_star", "compare")}


def test_every_arm_of_the_comparison_costs_the_same(scripts):
    arms = ablation.read(str(ROOT / "experiments/quiet_star/followups/followups.yaml"))
    asked = {name: ablation.plan(arms, arm, 0, Path("out")).asked for name, arm in arms.arms.items()}
    expected = ablation.cost(asked["Quiet-STaR"])
    assert {name: ablation.cost(cfg) / expected for name, cfg in asked.items()} == pytest.approx(
        dict.fromkeys(asked, 1.0), abs=0.02
    )
    stages = scripts["fast_quiet_star"].plan(Path("out"))
    spent = [scripts["compare"].flops(cfg, stages) / expected for _, cfg in stages]
    assert sum(spent[:-1]) == pytest.approx(1, abs=0.02)
    assert spent[-1] == pytest.approx(1, abs=0.02)


@pytest.fixture(scope="module")
def gated(scripts, tmp_path_factory):
    """An arm with a gate, trained and asked."""
    directory = tmp_path_factory.mktemp("gated") / "0"
    cfg = small("method=adaptive_cups", "steps=2", "control=false", "sample_every=0", "save_every=2")
    return scripts["compare"].finished("adaptive", directory, cfg, 5.0)


def test_the_shares_of_open_positions_are_those_of_the_texts_read_one_by_one(scripts, gated, monkeypatch):
    compare, run = scripts["compare"], runs.load_run(gated.directory)
    (questions,) = gated.cfg.eval.measures(run.tokenizer)
    thinker, chances = run.definition.bind(jax.device_put(run.params)), []
    for item in questions.items:
        alone = jax.device_put(text_rows.padded([list(item.ids)], len(item.ids)))  # without padding
        text = thinker.lm.text(alone)
        chances.append(np.asarray(jax.nn.sigmoid(thinker.gate(text.hidden)))[0])
    values = np.sort(np.concatenate(chances))
    third = len(values) // 3
    gap = third + np.argmax(np.diff(values)[third:-third])
    middle = float(values[gap : gap + 2].mean())  # far from any, for rounding differs with the padding
    opened = dataclasses.replace(run, method=dataclasses.replace(run.method, gate_at=middle))
    monkeypatch.setattr(compare.runs, "load_run", lambda directory: opened)
    found = compare.gate_shares(gated)
    everywhere = np.concatenate([chance[:-1] >= middle for chance in chances])  # the last token predicts nothing
    # The place behind "=" is what a question asks for.
    scored = [chance[item.text.index("=")] >= middle for chance, item in zip(chances, questions.items, strict=True)]
    assert 0.2 < everywhere.mean() < 0.8
    assert found["of all positions"] == pytest.approx(everywhere.mean())
    assert found["of scored positions"] == pytest.approx(np.mean(scored))
    logged = small_runs.lines(gated.directory / "metrics.jsonl")[-1]
    assert {name: logged[name] for name in ("gate_precision", "gate_recall", "gate_brier")}.items() <= found.items()


def test_gains_are_those_of_the_predictions_after_thoughts_over_those_without(scripts, gated):
    compare, run = scripts["compare"], runs.load_run(gated.directory)

    class Knows:
        """Thinks of nothing, and gives the next token e times its likelihood, e^2 times behind "="."""

        thinking = gated.cfg.method.thinking

        def think(self, model, context, key, greedy, num_thoughts=1):
            assert not greedy
            batch = context.batch
            behind = batch.tokens == run.tokenizer.id_of("=")
            base = jax.nn.log_softmax(model.lm.logits(context.text.hidden))
            true = jax.nn.one_hot(jnp.roll(batch.tokens, -1, 1), base.shape[-1])
            mixed = base + jnp.where(behind, 2.0, 1.0)[..., None] * true
            return None, Prediction(base, mixed[:, None], jnp.ones_like(mixed[:, None, :, 0]))

    found = compare.gains(dataclasses.replace(run, method=Knows()), gated.cfg)
    assert found == pytest.approx(
        dict(zip(compare.PLACES, (2.0, 1.0), strict=True)), abs=rounding(8, size=10)
    )  # differences of log-probs of up to 10
    small_batches = dataclasses.replace(gated.cfg, eval=dataclasses.replace(gated.cfg.eval, batch_size=4))
    assert compare.gains(dataclasses.replace(run, method=Knows()), small_batches) == pytest.approx(
        found, abs=rounding(8, size=10)
    )
    assert compare.gains(dataclasses.replace(run, method=PlainLM()), gated.cfg) == {}


def answer(way, accuracy):
    return {"way": way, "accuracy": accuracy, "accuracy_low": 0.25, "accuracy_high": 0.25}


def test_seeds_of_an_arm_have_students_interval_and_one_seed_its_questions(scripts):
    compare, cfg = scripts["compare"], composed("steps=7")
    gains = dict(zip(compare.PLACES, (1.0, -0.25), strict=True))
    first, second = (
        [
            compare.Row("thinks", Path("out"), cfg, 10.0, [answer("none", 0.2), answer("likeliest", right)], gains),
            compare.Row("plain", Path("out"), cfg, 20.0, [answer("none", 0.2)]),
        ]
        for right in (0.8, 0.9)
    )
    lines = compare.table([*first, *second]).splitlines()
    # Of two values the half width is 12.706 times half their distance.
    assert lines[2:] == [
        "| thinks | 2 | 7 | 1.00 | 0.200 ± 0.000 | 0.850 ± 0.635 |  | +1.000 ± 0.000 | -0.250 ± 0.000 |",
        "| plain | 2 | 7 | 2.00 | 0.200 ± 0.000 |  |  |  |  |",
    ]
    assert compare.table(first).splitlines()[2:] == [
        "| thinks | 1 | 7 | 1.00 | 0.200 (0.250 to 0.250) | 0.800 (0.250 to 0.250) |  | +1.000 | -0.250 |",
        "| plain | 1 | 7 | 2.00 | 0.200 (0.250 to 0.250) |  |  |  |  |",
    ]


def test_the_command_tabulates_every_seed_and_says_where_gates_are_open(scripts, gated, tmp_path, monkeypatch, capsys):
    compare = scripts["compare"]
    plain = compare.Row("plain", Path("out"), composed("method=lm", "steps=9"), 10.0, [answer("none", 0.2)])
    monkeypatch.setattr(compare, "table_rows", lambda seed, out, base, model: [gated, plain])
    monkeypatch.setattr(sys, "argv", ["compare.py", "--seeds", "0", "1", "--out", str(tmp_path)])
    compare.main()
    table, gate = (tmp_path / "table.md").read_text().split("\n\n")
    assert capsys.readouterr().out == f"{table}\n\n{gate}\n"
    adaptive, last = (line.strip("| ").split(" | ") for line in table.splitlines()[2:])
    assert adaptive[:4] == ["adaptive", "2", "2", "1.00"]
    asked = {one["way"]: one["accuracy"] for one in gated.answers}
    ways = ("none", "likeliest", "sampled")
    count = gated.answers[0]["n"]
    spread = {way: intervals.share_across([asked[way]] * 2, count) for way in ways}
    assert adaptive[4:7] == [f"{asked[way]:.3f} [{spread[way][0]:.3f}, {spread[way][1]:.3f}]" for way in ways]
    assert adaptive[7:] == [f"{gated.gains[place]:+.3f} ± 0.000" for place in compare.PLACES]
    assert last[:5] == ["plain", "2", "9", "2.00", "0.200 ± 0.000"]
    assert gate.startswith("Gate of adaptive: of all positions ")
    monkeypatch.setattr(compare, "gate_shares", lambda row: dict.fromkeys((*compare.POSITIONS, *compare.GATE), 1.0))
    low = intervals.share_across([1.0, 1.0], count)[0]
    opened = ", ".join(f"{what} 1.000 [{low:.3f}, 1.000]" for what in compare.POSITIONS)
    training = ", ".join(f"{name} 1.000 ± 0.000" for name in compare.GATE)  # of no known number of positions
    assert compare.gates([gated, gated]) == f"\nGate of adaptive: {opened}, {training}\n"


def test_every_arm_begins_from_every_base_and_means_are_over_bases(scripts, monkeypatch, tmp_path):
    """Base 0 with two seeds counts as much as base 1 with one."""
    compare, begun = scripts["compare"], []

    def finished(name, directory, cfg, spent, test=""):
        if cfg.model.source.startswith("bundled:"):  # stages begin from the stage before
            begun.append((directory.relative_to(tmp_path).parts[0] == "base_1", cfg.model.source))
        return compare.Row(name, directory, cfg, 1.0, [answer("none", 0.2)])

    monkeypatch.setattr(compare, "finished", finished)
    rows = compare.table_rows(0, tmp_path) + compare.table_rows(0, tmp_path, 1, "bundled:sums")
    assert [row.base for row in rows] == [0] * 8 + [1] * 8
    assert begun == [(False, "bundled:cups")] * 7 + [(True, "bundled:sums")] * 7  # six arms and the first stage
    of_bases = [dataclasses.replace(rows[0], base=base) for base in (0, 0, 1)]
    assert compare.over_runs(of_bases, [1.0, 3.0, 4.0], "+").startswith("+3.000 ")


@pytest.mark.parametrize(
    ("said", "message"),
    [(["1=a", "1=b"], "labels 1, 1: expected another number for every model"), (["1=a", "--answers"], "--bases is of")],
)
def test_bases_that_cannot_be_meant_are_refused(scripts, said, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare.py", "--bases", *said])
    with pytest.raises(SystemExit):
        scripts["compare"].main()
    assert message in capsys.readouterr().err


def test_thoughts_before_answers_alone_cost_the_same_with_every_rate(scripts):
    compare = scripts["compare"]
    arms = compare.answer_arms(["Quiet-STaR", "RLP", "LaTRO"], [1e-4, 1e-3], [])
    assert list(arms) == [(name, rate) for name in ("Quiet-STaR", "RLP", "LaTRO") for rate in (1e-4, 1e-3)]
    group = ablation.Ablation("x", "", "", {})
    found = {name: ablation.plan(group, arm, 0, Path("out")) for name, arm in arms.items()}
    expected = ablation.cost(found["Quiet-STaR", 1e-4].trained)
    for (_, rate), run in found.items():
        assert ablation.cost(run.trained) / expected == pytest.approx(1, abs=0.02)
        assert (run.trained.optim.lr, run.asked.eval.split, run.test) == (rate, "dev", "split=dev")
        assert run.trained.data.answers_only and not run.trained.data.closing
    # A step of RLP, in few places of a row, is cheaper than one of the 40 of the recipe.
    assert {rate: found["RLP", rate].trained.steps for rate in (1e-4, 1e-3)} == {1e-4: 58, 1e-3: 58}


def test_the_rate_that_answers_dev_best_is_asked_test(scripts):
    compare, cfg = scripts["compare"], composed("steps=7")
    arms = compare.answer_arms(["RLP", "LaTRO"], [1e-4, 1e-3], [], steps=1)
    scores = {"RLP, lr 0.0001": 0.3, "RLP, lr 0.001": 0.6, "LaTRO, lr 0.0001": 0.5, "LaTRO, lr 0.001": 0.2}
    rows = [compare.Row(name, Path("out"), cfg, 1.0, [answer("sampled", score)]) for name, score in scores.items()]
    found = compare.best(arms, rows)
    assert list(found) == [("RLP", 1e-3), ("LaTRO", 1e-4)]
    assert {arm.test for arm in found.values()} == {("eval.split=test",)}


def test_the_stages_begin_from_one_another_and_the_student_from_the_last(scripts):
    stages = scripts["fast_quiet_star"].plan(Path("out"), 3, stages=("9-2", "8-1"), steps=(5, 6), student_steps=7)
    first, second, student = (cfg for _, cfg in stages)
    assert (first.method.thought_len, first.method.lookahead, first.steps) == (9, 2, 5)
    assert first.model.source == "bundled:cups" and second.model.source == "out/1_9-2/3"
    assert (second.method.thought_len, second.model.extras, second.seed) == (8, True, 3)
    assert (student.method.teacher, student.model.source, student.steps) == ("out/2_8-1/3",) * 2 + (7,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": ("8-1",), "steps": (1, 2)}, "--stages 8-1 with --steps 1 2: one number for each"),
        ({"stages": ("8",), "steps": (1,)}, "--stages 8: .*THOUGHT-AHEAD"),
    ],
)
def test_stages_that_cannot_be_are_refused(scripts, settings, message):
    with pytest.raises(ValueError, match=message):
        scripts["fast_quiet_star"].plan(Path("out"), **settings)
