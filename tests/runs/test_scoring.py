"""Scores of solutions by a reward model, as search and the commands ask for them."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import small_runs
import tiny
import tolerances

from qstar import prepare
from qstar.data import tokenizer as tokenizers
from qstar.data.labelled import LabelledText
from qstar.data.marks import Marks
from qstar.decoding import score as reading
from qstar.methods.plain_lm import PlainLM
from qstar.methods.verifier import ORM, PRM
from qstar.models import heads
from qstar.ops import rows
from qstar.policy import Policy
from qstar.runs import judge, load, scoring, solve, train
from qstar.runs.scoring import Scorer

LETTERS = tokenizers.characters("abcdefgh=;-+\n")
PROMPTS = ["ab=", "c=", "abcd="]
STEPS = [("cd\n", "ef\n", "gh;"), ("a;",), ("-", "+;")]


def policy(method=PRM(), params=None, tokenizer=LETTERS):  # noqa: B008
    model = heads.definition(tiny.LM)
    return Policy(method, model, tiny.weights_of(model) if params is None else params, tokenizer, "a run")


def by_itself(text):
    """The score at every token of one text, read alone and not padded."""
    held = policy()
    ids = LETTERS.encode(text)
    batch = jax.tree.map(jnp.asarray, rows.padded([ids], len(ids)))
    hidden = held.definition.bind(held.params).lm.text(batch).hidden[0]
    outputs = np.asarray(hidden) @ np.asarray(held.params["score"]["weight"]) + float(held.params["score"]["bias"])
    return 1 / (1 + np.exp(-outputs))


# A sigmoid has a slope of at most a quarter.
BOUND = tolerances.forward(tiny.LM, keys=16) / 4


def test_a_step_has_the_score_of_its_last_token():
    scored = Scorer(policy(), batch_size=2).score(PROMPTS, STEPS)
    for prompt, steps, found in zip(PROMPTS, STEPS, scored.steps, strict=True):
        ends = len(prompt) + np.cumsum([len(step) for step in steps]) - 1
        np.testing.assert_allclose(found, by_itself(prompt + "".join(steps))[ends], rtol=0, atol=BOUND)


def test_token_ids_are_scored_as_they_were_written():
    ids = [[LETTERS.encode(step) for step in steps] for steps in STEPS]
    texts = Scorer(policy()).score(PROMPTS, STEPS)
    both = [Scorer(policy()).score(PROMPTS, ids), Scorer(policy()).score([LETTERS.encode(p) for p in PROMPTS], ids)]
    for scored in both:
        assert [found.tolist() for found in scored.steps] == [found.tolist() for found in texts.steps]


def test_an_end_of_text_token_is_no_place_of_a_score(tmp_path):
    """A step is trained on at its last character, and an end that was sampled after it has no label."""
    ending = LETTERS.marked(Marks(ends=(LETTERS.encode("h")[0],)))
    scorer = Scorer(policy(tokenizer=ending))
    steps = [["cd\n", "efh"], ["cd\n", "ef"], ["cd\n", "h"], ["h"]]
    ended, plain, *nothing = scorer.score(["ab="] * 4, [[ending.encode(step) for step in each] for each in steps]).steps
    assert ended.tolist() == plain.tolist()
    for found, text in zip(nothing, ("ab=cd\nh", "ab=h"), strict=True):
        np.testing.assert_allclose(found[-1], by_itself(text)[-1], rtol=0, atol=BOUND)
    sampled = {"prompt": "ab=", "completions": ["cd\n", "ef"], "labels": [1, 0]}
    (tmp_path / "labelled.jsonl").write_text(json.dumps(sampled | {"completion_ids": ending.encode("cd\nefh")}))
    (trained,) = LabelledText(str(tmp_path / "labelled.jsonl")).read(ending)
    np.testing.assert_allclose(ended, by_itself("ab=cd\nef")[np.array(trained.ends) + 3], rtol=0, atol=BOUND)


def test_a_score_does_not_depend_on_the_solutions_beside_it():
    together = Scorer(policy(), batch_size=3).score(PROMPTS, STEPS).steps
    alone = [Scorer(policy(), batch_size=3).score(*([one] for one in each)).steps[0] for each in zip(PROMPTS, STEPS)]  # noqa: B905
    assert [found.tolist() for found in together] == [found.tolist() for found in alone]


@pytest.mark.parametrize(
    ("how", "expected"), [("last", 0.5), ("min", 0.25), ("product", 0.1), ("mean", (0.8 + 0.25 + 0.5) / 3)]
)
def test_aggregations_of_literal_scores(how, expected):
    assert scoring.aggregated(np.array([0.8, 0.25, 0.5]), how) == pytest.approx(expected)


def test_a_solution_has_the_aggregated_score_of_its_steps():
    least = Scorer(policy(), "min").score(PROMPTS, STEPS)
    assert least.solutions.tolist() == [float(found.min()) for found in least.steps]
    assert Scorer(policy(ORM())).score(PROMPTS, STEPS).solutions[1] != least.solutions[1]  # no sigmoid, clipped


def test_nodes_of_a_search_are_scored_by_their_text():
    scorer = Scorer(policy(), "product")
    nodes = [SimpleNamespace(state=(prompt, steps)) for prompt, steps in zip(PROMPTS, STEPS, strict=True)]
    value = scorer.value(lambda node: node.state)
    assert value(nodes).tolist() == scorer.score(PROMPTS, STEPS).solutions.tolist()
    assert value([]).shape == (0,)


def test_what_is_read_is_counted():
    scored = Scorer(policy(), batch_size=2).score(PROMPTS, STEPS)
    texts = [prompt + "".join(steps) for prompt, steps in zip(PROMPTS, STEPS, strict=True)]
    assert scored.cost.prompt_tokens == sum(map(len, texts))
    assert scored.cost.prompt_tokens + scored.cost.padding_tokens == 2 * 2 * 32  # two batches of two rows
    assert scored.cost.flops > 0


def test_a_score_that_is_not_a_number_is_named():
    params = policy().params
    broken = {**params, "score": {**params["score"], "bias": jnp.float32(jnp.nan)}}
    with pytest.raises(ValueError, match=r"a run .*step 0 of solution 0 .*nan"):
        Scorer(policy(params=broken)).score(PROMPTS, STEPS)


@pytest.mark.parametrize(
    ("prompts", "steps", "fault"),
    [
        (["ab="], [()], "solution 0"),
        (["ab="], [("c", "")], "solution 0"),
        ([[0, 1]], [("c",)], "solution 0.*token ids"),
        (["ab="], [([99],)], "token id 99"),
        (["ab="], [("c" * 62,)], "65 tokens.* 64"),
    ],
)
def test_solutions_that_cannot_be_scored_are_named(prompts, steps, fault):
    with pytest.raises(ValueError, match=fault):
        Scorer(policy()).score(prompts, steps)


def test_two_steps_in_one_token_are_refused():
    joined = tokenizers.characters("abcd=", words=("cd",))
    with pytest.raises(ValueError, match="steps 1 and 2"):
        Scorer(policy(tokenizer=joined)).score(["a="], [("c", "d")])


def test_a_model_without_a_score_head_and_unknown_aggregations_are_refused():
    with pytest.raises(ValueError, match="method=lm"):
        Scorer(dataclasses.replace(policy(), method=PlainLM()))
    with pytest.raises(ValueError, match="aggregation = 'best'"):
        Scorer(policy(), "best")


def test_a_scorer_of_another_tokenizer_is_refused():
    scoring.check_tokenizer(policy(), LETTERS)
    with pytest.raises(ValueError, match="a run has another tokenizer"):
        scoring.check_tokenizer(policy(), tokenizers.characters("abcdefgh=;-+."))
    with pytest.raises(ValueError, match="a run has another tokenizer"):
        scoring.check_tokenizer(policy(), tokenizers.characters("bacdefgh=;-+\n"))  # of the same size


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        (Marks(begin=0, begins=True), r"\(\) as tokens before a text.* has \(0,\)"),
        (Marks(ends=(3,)), r"\(\) as tokens that end a text.* has \(3,\)"),
        (Marks(template="{{ messages }}", chat=True), "False as chat template around prompts.* has True"),
    ],
)
def test_a_scorer_of_other_tokens_around_a_text_is_refused(marks, said):
    scoring.check_tokenizer(policy(), LETTERS.marked(Marks(begin=0, begins=False)))
    with pytest.raises(ValueError, match=said):
        scoring.check_tokenizer(policy(), LETTERS.marked(marks))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A process reward model after two steps of training."""
    folder = tmp_path_factory.mktemp("prm")
    line = {"prompt": "3aegb=", "completions": ["-4", "5", "4", "3", "-3;"], "labels": [True, True, True, False, False]}
    (folder / "labelled.jsonl").write_text(4 * (json.dumps(line) + "\n"))
    data = ("data=labelled", f"data.path={folder / 'labelled.jsonl'}", "data.separator=''", "data.length=32")
    short = ("steps=2", "batch_size=1", "sample_every=0", "eval=none", "optim.lr=0.1", "optim.warmup_steps=0")
    train.run(small_runs.composed("~experiments", *small_runs.MODEL, "method=prm", *data, *short), folder / "run")
    return folder / "run"


def test_a_run_is_opened_as_a_scorer(run):
    scorer = scoring.opened(run, tokenizers.characters(small_runs.ALPHABET), "mean")
    scored = scorer.score(["3aegb="], [("-4", "5", "4", "3", "-3;")])
    assert scored.steps[0].shape == (5,)
    assert np.all((scored.steps[0] > 0) & (scored.steps[0] < 1))
    assert len(set(scored.steps[0].tolist())) > 1
    assert scored.solutions[0] == pytest.approx(scored.steps[0].mean())


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("opened", [scoring.opened, lambda source: judge.opened(f"judge:{source}")])
def test_weights_that_are_not_numbers_are_refused_when_a_scorer_is_opened(opened, value, run, tmp_path, monkeypatch):
    """An infinite head scores 0 or 1, and would not be noticed later."""
    damaged = load.load_run(run)
    norm = np.array(damaged.params["lm"]["norm"]["scale"])
    norm[2] = value
    damaged = dataclasses.replace(
        damaged, params=damaged.params | {"lm": damaged.params["lm"] | {"norm": {"scale": norm}}}
    )
    for name in ("load_run", "load_model"):
        monkeypatch.setattr(load, name, lambda *_: damaged)
    monkeypatch.setattr(judge.Judge, "check_answers", lambda _: None)  # of characters
    with pytest.raises(ValueError, match=r"the scorer .* has 1 weights in lm\.norm\.scale that are NaN or infinite"):
        opened(run)


def test_a_run_is_written_as_a_classifier_with_its_head(run, tmp_path):
    prepare.prepare(str(run), tmp_path / "out", "token-classification", "float32")
    tensors = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    head = load.load_run(run).params["score"]
    np.testing.assert_array_equal(tensors["score.weight"][1], head["weight"])
    assert tensors["score.bias"][1] == head["bias"] != 0
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    with pytest.raises(ValueError, match="method=lm"):
        scoring.Scorer(load.load_model("bundled:cups"))


@pytest.mark.parametrize("kind", ["token-classification", "sequence-classification"])
def test_a_classifier_scores_as_the_run_that_it_was_written_from(kind, run, tmp_path):
    prepare.prepare(str(run), tmp_path / "out", kind, "float32")
    tokenizer = tokenizers.characters(small_runs.ALPHABET)
    prompts, steps = ["3aegb=", "1ab="], [("-4", "5", "4", "3", "-3;"), ("-2", "1")]
    expected = scoring.opened(run, tokenizer).score(prompts, steps)
    scored = scoring.opened(tmp_path / "out", tokenizer).score(prompts, steps)
    with pytest.raises(ValueError, match=f"reward model.*{kind}"):
        load.load_model(tmp_path / "out")
    for ours, theirs in zip(scored.steps, expected.steps, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=4 * np.finfo(np.float32).eps)


def test_a_classifier_is_fetched_from_the_hub(run, tmp_path, monkeypatch):
    prepare.prepare(str(run), tmp_path / "out", "token-classification", "float32")
    monkeypatch.setattr(load.hub, "fetch", {"ORG/NAME": tmp_path / "out"}.__getitem__)
    assert isinstance(scoring.opened("hub:ORG/NAME").policy.method, PRM)


def test_a_language_model_is_refused_as_a_scorer_and_no_directory_named():
    with pytest.raises(ValueError, match=r"bundled.cups.*LlamaForCausalLM"):
        scoring.opened("bundled:cups")
    with pytest.raises(FileNotFoundError, match="runs/none"):
        scoring.opened("runs/none")


@pytest.fixture(scope="module")
def preference(tmp_path_factory):
    """A preference verifier after two steps of training."""
    folder = tmp_path_factory.mktemp("dpo")
    line = {"prompt": "3aegb=", "chosen": "-4543-3;", "rejected": "-5-5;"}
    (folder / "pairs.jsonl").write_text(2 * (json.dumps(line) + "\n"))
    data = ("data=pairs", f"data.path={folder / 'pairs.jsonl'}", "data.length=32", "control=false")
    short = ("steps=2", "batch_size=2", "sample_every=0", "eval=none", "optim.lr=0.1", "optim.warmup_steps=0")
    train.run(small_runs.composed("~experiments", *small_runs.MODEL, "method=dpo", *data, *short), folder / "run")
    return folder / "run"


def test_a_preference_verifier_scores_by_the_log_ratio_up_to_each_step(preference):
    prompts, steps = ["3aegb=", "1ab="], [("-4", "5", "4", "3", "-3;"), ("-2", "1")]
    scored = scoring.opened(preference).score(prompts, steps)
    run = load.load_run(preference)
    start = load.initial_model(run.config.model, run.config.seed)
    for prompt, solution, scores in zip(prompts, steps, scored.steps, strict=True):
        text = run.tokenizer.encode("".join(solution))
        before = run.tokenizer.encode_prompt(prompt)
        ((ours,), (theirs,)) = (
            reading.score(of.definition, of.params, [before], [text])
            for of in (run, Policy.of_language_model(start.lm, start.language_model, start.tokenizer, ""))
        )
        ends = np.cumsum([len(step) for step in solution]) - 1
        bound = 2 * len(text) * tolerances.forward(run.lm, keys=16)  # a difference of two sums
        np.testing.assert_allclose(scores, np.cumsum(ours - theirs)[ends], rtol=0, atol=bound)
    assert abs(scored.solutions[0]) > 0.1
    assert scored.solutions[0] == scored.steps[0][-1]


def test_votes_are_not_weighed_by_log_ratios(preference, tmp_path):
    weighted = ("search=best_of_n", "search.select=weighted", f"scorer={preference}", "questions=2")
    small = [*small_runs.MODEL, "task=cups", *weighted, f"run_dir={tmp_path / 'solve'}"]
    with pytest.raises(ValueError, match=r"search\.select = 'weighted'"):
        solve.run(small_runs.composed(*small, name="solve"), tmp_path / "solve")
    assert not (tmp_path / "solve").exists()


def test_particles_are_not_drawn_by_log_ratios(preference, tmp_path):
    small = [*small_runs.MODEL, "task=cups", "search=particles", f"scorer={preference}", "questions=2"]
    with pytest.raises(ValueError, match=r"search=particles .*log-ratios"):
        solve.run(small_runs.composed(*small, f"run_dir={tmp_path / 'solve'}", name="solve"), tmp_path / "solve")
    assert not (tmp_path / "solve").exists()
