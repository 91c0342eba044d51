"""What goes wrong without a word in the released code, held right here: one test for each trap."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
import tiny
import tolerances

from qstar import config as configs
from qstar import runs
from qstar.data import tokenizer as tokenizers
from qstar.methods.quiet_star import QuietStar
from qstar.models.thinker import Tokens
from qstar.sharding import MeshConfig, make_mesh
from qstar.structs import TrainState
from qstar.tasks import gsm8k
from qstar.thoughts import writing as writing
from qstar.thoughts.fill import Inner
from qstar.training import build
from qstar.training.build import Program
from qstar.training.checkpoint import Checkpoints

METHOD = QuietStar(thought_len=3, lookahead=2, mix="hidden")
TOKENS = Tokens(forbidden=(5,))
FIRST = dataclasses.replace(METHOD, thought_len=1)
ANCHORS = jnp.array([[1, 3], [0, 4]])


# --- the first forward of a loaded checkpoint overwrote delimiters and mixing head -----------------------------------


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run whose delimiters and mixing head are far from where they began, saved as step 0."""

    directory: str
    program: Program
    state: TrainState
    batches: list


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory, cfg = tmp_path_factory.mktemp("run"), small_runs.small()
    loaded = runs.initial_model(cfg.model, 0)
    settings = (make_mesh(MeshConfig()), cfg.optim, cfg.steps, 1)
    program = Program.of(cfg.method, loaded.lm, *settings, vocabulary=loaded.tokenizer)
    state = program.start(loaded.language_model, 0)
    moved = jax.tree.map(lambda leaf, drawn: leaf + drawn, state.params, tiny.weights_of(program.definition))
    state = jax.device_put(state.replace(params=moved), program.places)
    runs.describe(directory, loaded.lm, loaded.tokenizer)
    configs.save(cfg, directory / "config.yaml")
    data = cfg.data.build(loaded.tokenizer, cfg.batch_size, 0)
    with Checkpoints(directory / "checkpoints", every=1, keep=1) as saved:
        saved.save(0, state, build.stream(data), force=True)
    return Trained(directory, program, state, [data[0], data[1]])


def predicted(method, definition, params, batch):
    return np.asarray(thinking_of(method, definition, params, batch, jax.random.key(0), True)[1].mixed[:, 0])


@functools.partial(jax.jit, static_argnames=("method", "definition", "greedy"))
def thinking_of(method, definition, params, batch, key, greedy):
    thinker = definition.bind(params)
    return method.think(thinker, tiny.context(thinker, batch, ANCHORS), key, greedy)


def test_delimiters_and_mixing_head_survive_saving_loading_and_two_forwards(trained):
    run = runs.load_run(trained.directory)
    begin = trained.program.start(run.params["lm"], 0).params
    for name in ("start", "end", "mixing"):
        for found, expected, fresh in zip(
            *map(jax.tree.leaves, (run.params[name], trained.state.params[name], begin[name])), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
            assert np.all(found != np.asarray(fresh))
    batch = jax.tree.map(lambda x: jnp.asarray(x[:2]), trained.batches[0])
    expected = predicted(trained.program.method, trained.program.definition, trained.state.params, batch)
    for _ in range(2):
        np.testing.assert_array_equal(predicted(run.method, run.definition, run.params, batch), expected)
    reset = {**run.params, **{name: begin[name] for name in ("start", "end", "mixing")}}
    assert np.abs(predicted(run.method, run.definition, reset, batch) - expected).max() > 0.01


@pytest.mark.slow  # tests/runs/test_train_run.py compares all weights of a run that was stopped
def test_training_continues_from_the_loaded_delimiters_and_mixing_head(trained):
    program = trained.program
    with Checkpoints(f"{trained.directory}/checkpoints", every=1, keep=1) as saved:
        source = build.stream(small_runs.small().data.build(_tokenizer(trained), 4, 0))
        restored = saved.restore(program.abstract_state(0), source)
    straight = jax.tree.map(jnp.copy, trained.state)
    for batch in trained.batches:
        straight, _ = program.step(straight, batch)
        restored, metrics = program.step(restored, source.next())
        assert metrics["weight"].value() != 0
    for name in ("start", "end", "mixing"):
        for found, expected in zip(*map(jax.tree.leaves, (restored.params[name], straight.params[name])), strict=True):
            np.testing.assert_array_equal(found, expected)


def _tokenizer(trained):
    return tokenizers.Tokenizer.from_file(f"{trained.directory}/tokenizer.json")


# --- temperature did nothing, so "greedy" thoughts were samples -----------------------------------------------------


@functools.partial(jax.jit, static_argnames=("method", "temperature", "count"))
def thoughts(method, params, key, temperature, count):
    """Tokens [B R A T] of thoughts of `METHOD`'s model."""
    thinker, batch = tiny.thinker_of(tokens=TOKENS)[0].bind(params), tiny.packed()
    return method.thinking.inner(thinker, tiny.context(thinker, batch, ANCHORS), key, count, temperature).tokens


@functools.partial(jax.jit, static_argnames="temperature")
def probabilities(params, temperature):
    """Of every first token of a thought, in REINFORCE at this temperature: [4 V]."""
    method = dataclasses.replace(FIRST, reinforce_temperature=temperature, num_thoughts=13)
    thinker, batch = tiny.thinker_of(tokens=TOKENS)[0].bind(params), tiny.packed()
    every = jnp.broadcast_to(jnp.arange(13)[None, :, None, None], (2, 13, 2, 1))
    talk = method.thinking.talk(thinker, tiny.context(thinker, batch, ANCHORS), Inner(thinker.lm.embed(every), every))
    return jnp.exp(jnp.moveaxis(talk.thought[..., 0], 1, 2)).reshape(4, 13)


@pytest.mark.parametrize("temperature", [0.3, pytest.param(1.0, marks=pytest.mark.slow)])
def test_thoughts_are_drawn_at_their_temperature(temperature):
    params = tiny.thinker_of(tokens=TOKENS)[1]
    tokens = np.moveaxis(thoughts(FIRST, params, jax.random.key(0), temperature, 4000)[..., 0], 1, 2).reshape(4, 4000)
    shares = np.stack([np.bincount(row, minlength=13) for row in tokens]) / 4000
    expected = np.asarray(probabilities(params, temperature))
    assert np.all(np.abs(shares - expected) <= tolerances.share(expected, 4000))
    assert np.abs(shares - np.asarray(probabilities(params, 1.7 * temperature))).max() > 0.05


def test_thoughts_at_temperature_zero_are_the_likeliest_tokens_whatever_the_key():
    params = tiny.thinker_of(tokens=TOKENS)[1]
    likeliest = np.argmax(probabilities(params, 1.0), -1).reshape(2, 1, 2, 1)
    for seed in (0, 1):
        found = thoughts(FIRST, params, jax.random.key(seed), 0.0, 3)
        np.testing.assert_array_equal(found, np.broadcast_to(likeliest, (2, 3, 2, 1)))


def test_greedy_evaluation_is_the_same_for_every_key_and_sampled_evaluation_is_not():
    model, params = tiny.thinker_of(tokens=TOKENS)

    def ask(key, greedy):
        return thinking_of(METHOD, model, params, tiny.packed(), key, greedy)[1].mixed

    greedy, sampled = ([np.asarray(ask(jax.random.key(seed), way)) for seed in (1, 2)] for way in (True, False))
    np.testing.assert_array_equal(*greedy)
    assert np.any(sampled[0] != sampled[1])


# --- inference thought for another length, with untrained delimiters, and once for every thought of training -------


def test_thoughts_have_the_length_of_training_when_evaluating_and_when_writing():
    model, params = tiny.thinker_of(tokens=TOKENS)
    ask = lambda params: thinking_of(METHOD, model, params, tiny.packed(), jax.random.key(0), True)[0]  # noqa: E731
    evaluating = jax.eval_shape(ask, params)
    written = writing.generate(METHOD, model, params, [[3, 7, 1], [5, 2]], jax.random.key(0), max_new_tokens=3)
    assert thoughts(METHOD, params, jax.random.key(0), 1.0, 2).shape == (2, 2, 2, 3)
    assert evaluating.tokens.shape == (2, 1, 2, 3)
    assert written.effect.thoughts.shape == (2, 3, 1, 3)


def test_evaluation_thinks_once_however_many_thoughts_training_has():
    model, params = tiny.thinker_of(tokens=TOKENS)

    def ask(method):
        return thinking_of(method, model, params, tiny.packed(), jax.random.key(1), False)[1].mixed

    many = dataclasses.replace(METHOD, num_thoughts=5, lookahead=4)
    np.testing.assert_array_equal(ask(METHOD), ask(many))


@pytest.mark.parametrize("name", ["start", "end"])
def test_inference_uses_the_delimiters_that_are_trained(name):
    model, params = tiny.thinker_of(tokens=TOKENS)
    other = params | {name: params[name] + 1}
    tokens = [np.asarray(thoughts(METHOD, each, jax.random.key(0), 0.0, 1)) for each in (params, other)]
    assert np.any(tokens[0] != tokens[1]) == (name == "start")  # thoughts begin behind start and never see end
    before, after = (predicted(METHOD, model, each, tiny.packed()) for each in (params, other))
    assert np.abs(before - after).max() > 0.01
    prompts = [[3, 7, 1], [5, 2]]
    texts = [
        writing.generate(METHOD, model, each, prompts, jax.random.key(0), max_new_tokens=3).logprobs
        for each in (params, other)
    ]
    assert np.abs(texts[0] - texts[1]).max() > 0.01


# --- delimiters stood in every softmax -----------------------------------------------------------------------------


def test_delimiters_are_no_rows_of_the_vocabulary(trained):
    params, size = trained.state.params, trained.program.lm.vocab
    assert size == 19  # the characters of the task, and nothing else
    assert params["lm"]["embedding"].shape[0] == size
    batch = jax.tree.map(lambda x: jnp.asarray(x[:2]), trained.batches[0])
    for one in (params, params | {"start": params["start"] * 100, "end": params["end"] * 100}):
        logprobs = predicted(trained.program.method, trained.program.definition, one, batch)
        assert logprobs.shape == (2, 2, size)
        np.testing.assert_allclose(np.exp(logprobs).sum(-1), 1, rtol=tolerances.rounding(size))


def test_tokens_that_a_thought_may_not_hold_are_in_neither_softmax_of_it():
    params = tiny.thinker_of(tokens=TOKENS)[1]
    assert not np.any(np.asarray(thoughts(METHOD, params, jax.random.key(0), 3.0, 200)) == 5)
    found = np.asarray(probabilities(params, 3.0))
    assert np.all(found[:, 5] == 0)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=tolerances.rounding(13))


# --- prompts longer than the window were cropped at random ---------------------------------------------------------


def test_a_question_that_is_too_long_is_always_shortened_alike_and_counted():
    tokenizer = tokenizers.characters("0123456789QA:\n abcdefghijklmnopqrstuvwxyz")
    row = {"question": "how many are " + " ".join("abcdefghij" * 5) + " then", "answer": "so #### 42"}
    once, again = (gsm8k.direct([row, {"question": "one", "answer": "#### 1"}], tokenizer, limit=64) for _ in range(2))
    assert once == again
    assert len(once[0].ids) == 64 and once[0].cut > 0 and once[1].cut == 0
    text = tokenizer.decode(list(once[0].ids))
    # The question's end, its marker and the whole answer are there.
    assert text.startswith("Q:") and text.endswith(" then\nA: 42\n")
