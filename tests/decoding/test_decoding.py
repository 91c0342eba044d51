import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tolerances
from reference import naive_decoding
from tolerances import EXACT

from qstar import sharding
from qstar.data import tokenizer as tokenizers
from qstar.decoding import score, write
from qstar.decoding.generate import generate
from qstar.decoding.sampling import Choice, Sampling
from qstar.models.cost import Cost
from qstar.ops import rows
from qstar.sharding import MeshConfig

TOKENIZER = tokenizers.characters("abcdefghijklm")
LONG = [(5 * s + s // 7) % 12 for s in range(32)]  # fills its bucket: no padding behind it
PROMPTS = [LONG, [3, 7, 1, 9, 4, 6, 0], [5]]
SAMPLED = Sampling(temperature=1.3, top_k=9, top_p=0.9, max_new_tokens=6)
# What no other test has: windows, global layers, biases and norms within the heads.
WINDOWED = dataclasses.replace(
    tiny.EXACT, layers=3, window=5, global_layers=(1,), local_rope_theta=30.0, qkv_bias=True, qk_norm=True,
    post_norms=True, norm_offset=1.0, activation="gelu_tanh", embed_scale=4.0, query_scalar=5.0, tied=True,
)  # fmt: skip


def written(prompts, key, sampling, cfg=tiny.EXACT, **settings):
    model, params = tiny.lm_of(cfg)
    key = jax.random.key(key) if isinstance(key, int) else key
    return generate(model, params, TOKENIZER, prompts, key, sampling, **({"batch_size": 2} | settings))


def same(found, expected, atol=EXACT):
    assert [row.tolist() for row in found.tokens] == [row.tolist() for row in expected.tokens]
    assert (found.text, found.ending) == (expected.text, expected.ending)
    np.testing.assert_array_equal(found.finished, expected.finished)
    for name in ("logprobs", "behaviour", "margins"):
        np.testing.assert_allclose(
            *(np.concatenate(getattr(one, name)) for one in (found, expected)), rtol=0, atol=atol
        )


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0, max_new_tokens=6),
        SAMPLED,
        Sampling(temperature=0.8, max_new_tokens=6, forbidden_ids=(12, 3), stop_ids=(6, 1)),
    ],
    ids=["greedy", "filtered", "stopped"],
)
def test_every_row_is_what_reading_its_growing_text_again_for_every_token_gives(x64, sampling):
    found = written(PROMPTS, 4, sampling, samples=2)
    params = tiny.lm_of(tiny.EXACT)[1]
    ends = set()
    for row in range(6):
        prompt, key = PROMPTS[row // 2], jax.random.fold_in(jax.random.key(4), row)
        expected = naive_decoding.generate(params, tiny.EXACT, prompt, key, sampling)
        assert found.tokens[row].tolist() == expected.tokens
        np.testing.assert_allclose(found.logprobs[row], expected.logprobs, rtol=0, atol=EXACT)
        np.testing.assert_allclose(found.behaviour[row], expected.behaviour, rtol=0, atol=EXACT)
        np.testing.assert_allclose(found.margins[row], expected.margins, rtol=0, atol=EXACT)
        assert found.finished[row] == expected.finished
        text = "".join("abcdefghijklm"[token] for token in expected.tokens)
        assert found.text[row] + found.ending[row] == text
        assert len(found.ending[row]) == expected.finished
        ends.add((len(text), expected.finished))
    assert found.prompts == [tuple(prompt) for prompt in PROMPTS for _ in range(2)]
    assert found.prompt_tokens.tolist() == [32, 32, 7, 7, 1, 1]
    assert len(ends) > 2 if sampling.stop_ids else ends == {(6, False)}  # rows ended at several lengths


@pytest.mark.parametrize(
    "cfg", [pytest.param(tiny.EXACT, id="llama", marks=pytest.mark.slow), pytest.param(WINDOWED, id="windowed")]
)
def test_log_probs_over_the_cache_are_the_trainer_s_in_exact_arithmetic(x64, cfg):
    found = written(PROMPTS, 1, dataclasses.replace(SAMPLED, max_new_tokens=20), cfg)
    model, params = tiny.lm_of(cfg)
    scored = score.score(model, params, found.prompts, found.tokens, batch_size=2)
    for sampler, trainer in zip(found.logprobs, scored, strict=True):
        np.testing.assert_allclose(sampler, trainer, rtol=0, atol=tolerances.forward(cfg))


def test_a_thinker_s_language_model_writes_without_thoughts(x64):
    plain, (model, params) = tiny.lm_of(tiny.EXACT)[0], tiny.thinker_of(tiny.EXACT)
    ask = (TOKENIZER, PROMPTS[1:], jax.random.key(2), SAMPLED)
    same(generate(model, params, *ask), generate(plain, params["lm"], *ask))


def test_texts_are_asked_as_their_ids():
    same(written(["dhb", "f"], 0, SAMPLED, tiny.LM), written([[3, 7, 1], [5]], 0, SAMPLED, tiny.LM))


# --- what a row depends on ----------------------------------------------------------------------------------------


def test_a_row_is_the_same_to_the_last_bit_whatever_rows_are_beside_it():
    prompts = [
        LONG[token:] + LONG[:more] for token, more in ((20, 0), (0, 9), (23, 0), (31, 0), (0, 4), (25, 0), (29, 0))
    ]
    keys = lambda: jax.random.split(jax.random.key(5), len(prompts))  # noqa: E731
    together = written(prompts, keys(), SAMPLED, tiny.LM, batch_size=3)
    assert len({tuple(row) for row in together.tokens}) == len(prompts)
    turned = written(prompts[::-1], keys()[::-1], SAMPLED, tiny.LM, batch_size=3)
    alone = [written([prompt], keys()[i : i + 1], SAMPLED, tiny.LM, batch_size=3) for i, prompt in enumerate(prompts)]
    for row in range(len(prompts)):
        for name in ("tokens", "logprobs", "behaviour", "margins"):
            expected = getattr(together, name)[row]
            np.testing.assert_array_equal(getattr(turned, name)[-1 - row], expected)
            np.testing.assert_array_equal(getattr(alone[row], name)[0], expected)


@pytest.mark.slow  # samples of a prompt are of two sizes of batches as well
def test_the_size_of_batches_changes_no_text(x64):
    prompts = [LONG[token:] + LONG[:more] for token, more in ((20, 0), (0, 9), (23, 0), (31, 0))]
    whole = written(prompts, 5, SAMPLED, batch_size=4)
    same(written(prompts, 5, SAMPLED, batch_size=2), whole)


def test_samples_of_a_prompt_are_those_of_the_prompt_given_as_often(x64):
    keys = jax.random.split(jax.random.key(6), 4)
    twice = written([*PROMPTS[1:2] * 2, *PROMPTS[2:] * 2], keys, SAMPLED, batch_size=4)
    once = written(PROMPTS[1:], keys, SAMPLED, samples=2)
    same(once, twice)
    assert len({tuple(row) for row in once.tokens}) == 4


def test_one_key_draws_again_for_every_row_and_every_token():
    found = written([[1, 2]], 0, dataclasses.replace(SAMPLED, top_k=0, top_p=1.0), tiny.LM, samples=200, batch_size=1)
    tokens = np.array(found.tokens)
    # Of 199 pairs of neighbours, as many agree as chance has it: far from all.
    assert np.mean(tokens[:-1] == tokens[1:]) < 0.5
    assert np.mean(tokens[:, :-1] == tokens[:, 1:]) < 0.5


# --- ends ---------------------------------------------------------------------------------------------------------

FREE = Sampling(temperature=1.5, max_new_tokens=24)


@pytest.mark.parametrize("look_every", [1, 5, pytest.param(16, marks=pytest.mark.slow)])
def test_stop_texts_cut_what_would_have_been_written_without_them(x64, monkeypatch, look_every):
    monkeypatch.setattr(write, "LOOK_EVERY", look_every)
    free = written(PROMPTS, 7, FREE, samples=2)
    stop = (free.text[0][3:5], free.text[3][10:13], free.text[5][22:24])
    found = written(PROMPTS, 7, dataclasses.replace(FREE, stop=stop), samples=2)
    lengths = []
    for row, text in enumerate(free.text):
        ends = [count for count in range(1, 25) if any(one in text[:count] for one in stop)]
        count = ends[0] if ends else 24
        assert found.tokens[row].tolist() == free.tokens[row][:count].tolist()
        assert found.text[row] + found.ending[row] == text[:count]
        assert found.ending[row] in (stop if ends else ("",))
        assert found.finished[row] == bool(ends)
        lengths.append(count)
    assert lengths[0] <= 5 < 10 < max(lengths)


def test_writing_ends_when_all_rows_have_ended():
    model, params = tiny.lm_of()
    ask = functools.partial(generate, model, params, TOKENIZER, [[1], [2, 3]], jax.random.key(0), batch_size=3)
    all_ids = Sampling(max_new_tokens=30, stop_ids=tuple(range(13)))
    found = ask(all_ids)
    assert [len(row) for row in found.tokens] == [1, 1]
    assert found.cost.discarded_tokens == 1  # the third row, which fills the batch
    # A stop text is seen at the next look, after the first token and 16 more.
    found = ask(Sampling(max_new_tokens=30, stop=tuple("abcdefghijklm")))
    assert (found.text, [len(row) for row in found.tokens], found.finished.tolist()) == (["", ""], [1, 1], [True] * 2)
    assert found.cost.discarded_tokens == 3 * 17 - 2


def test_cost_by_hand():
    found = written([[1] * 33, [2, 3], [4], [5]], 0, Sampling(max_new_tokens=4), tiny.LM, samples=2)
    # Batches of two: the long prompt alone in 64 places, the others in 32; 4 tokens for each of 2 x 2 rows of a batch.
    assert found.cost == Cost(
        prompt_tokens=37,
        padding_tokens=2 * 64 + 2 * 2 * 32 - 37,
        generated_tokens=4 * 2 * 4,
        discarded_tokens=3 * 4 * 4 - 4 * 2 * 4,
        flops=found.cost.flops,
    )
    # Width 16, 4 heads and 2 key/value heads of size 4, feed-forward 20, 2 layers, vocabulary 13.
    weights = 16 * (16 + 8 + 8 + 16) + 3 * 16 * 20
    head, attention = 2 * 13 * 16, lambda keys: 4 * 16 * keys
    reading = lambda width: width * 2 * (2 * weights + attention(width)) + head  # noqa: E731
    writing = lambda width: 2 * (2 * weights + attention(width + 32)) + head  # noqa: E731
    expected = 2 * reading(64) + 4 * reading(32) + 4 * 3 * writing(64) + 2 * 4 * 3 * writing(32)
    assert found.cost.flops == expected
    assert (found.cost + found.cost).prompt_tokens == 74


def test_progress_is_counted_in_prompts():
    told = []
    written([[1] * 33, [2, 3], [4], [5]], 0, SAMPLED, tiny.LM, progress=lambda *now: told.append(now))
    assert told == [(1, 4), (3, 4), (4, 4)]


# --- programs -----------------------------------------------------------------------------------------------------


def test_one_program_reads_one_begins_and_one_goes_on_in_each_shape():
    programs = (write._read, write._begin, write._go_on)
    for program in programs:
        program.clear_cache()
    mesh = sharding.make_mesh(MeshConfig(data=2, tensor=2))
    ask = functools.partial(written, cfg=dataclasses.replace(tiny.LM, vocab=14), mesh=mesh)
    base = dataclasses.replace(FREE, stop=("a", "bcd"))
    for prompts, count in (([[1, 2], [3], [4]], 20), ([[5] * 30], 9), ([[1]], 24)):
        ask(prompts, 0, dataclasses.replace(base, max_new_tokens=count))
    assert [program._cache_size() for program in programs] == [1, 1, 1]
    ask([[1] * 33, [2]], 0, base)
    assert [program._cache_size() for program in programs] == [2, 1, 2]  # the first token is that of any width


def test_another_number_of_rows_compiles_few_programs_for_their_keys():
    ask = functools.partial(written, [[1, 2], [3], [4], [5], [6, 7]], 0, FREE, tiny.LM)
    ask(samples=2)
    with tiny.noting_compiled() as names:
        ask(samples=3)
    # The keys, and clones of them and of a batch's: not a program for every operation of folding and slicing.
    assert len(set(names) - {"jit(_read)", "jit(_begin)", "jit(_go_on)"}) <= 2, names


def test_the_cache_is_extended_in_place():
    """Of a loop that copied its cache, or a layer of it, the compiled program would show the copy."""
    cfg = dataclasses.replace(tiny.LM, heads=2, kv_heads=2, head_size=16, max_len=2048)
    model, params = tiny.lm_of(cfg)
    words, room = np.arange(12, dtype=np.uint32).reshape(2, 3, 2), 512
    one_layer = 2 * 3 * 2 * 16 * room * 4  # bytes of its keys, or of its values: rows, heads, channels, places
    static = {"choice": Choice(temperature=0.7, top_k=3, top_p=0.9, stop_ids=(1,)), "impl": "threefry2x32"}
    read, logits = write._read(model, params, rows.padded([[1, 2, 3], [4]], 32), np.array([3, 1], np.int32), 3)
    state = write._begin(model, logits, words, np.zeros((2, 3), bool), room=room, **static)
    layers = write.unrolled(model, params)
    lowered = write._go_on.lower(model, params, layers, read, words, state, np.int32(9), **static)
    program = lowered.compile()
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes >= 2 * 2 * one_layer  # the state comes out where it went in
    assert memory.temp_size_in_bytes < one_layer
    large = [found for found in instructions(program.as_text()) if found[1] * 4 >= one_layer]
    # Every entry is a place that is handed on, but for the updates, one in a fusion for keys and values of each layer.
    kinds = [kind for kind, _ in large]
    assert set(kinds) <= {"parameter", "get-tuple-element", "bitcast", "dynamic-update-slice", "fusion"}
    assert kinds.count("fusion") <= kinds.count("dynamic-update-slice") == 4


def instructions(text):
    """(kind, elements) of every instruction of a compiled program that gives one array."""
    for line in text.splitlines():
        found = re.match(r"\s*(?:ROOT )?%?\S+ = \w+\[([\d,]+)\]\S* ([\w-]+)\(", line)
        if found:
            yield found[2], int(np.prod([int(size) for size in found[1].split(",")]))


# --- meshes -------------------------------------------------------------------------------------------------------

SPLIT = dataclasses.replace(tiny.EXACT, vocab=14)  # two tensor ways divide it


@functools.cache
def on_one_device():
    return written(PROMPTS * 3, 3, dataclasses.replace(SAMPLED, stop=("d",)), SPLIT, samples=2, batch_size=8)


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(MeshConfig(data=2, fsdp=2, tensor=2), id="all"),
        # Whose axes are in "all" as well.
        pytest.param(MeshConfig(data=8), id="data", marks=pytest.mark.slow),
        pytest.param(MeshConfig(fsdp=4, tensor=2), id="fsdp_tensor", marks=pytest.mark.slow),
    ],
)
def test_eight_devices_write_what_one_writes(x64, mesh):
    mesh = sharding.make_mesh(mesh)
    sampling = dataclasses.replace(SAMPLED, stop=("d",))
    found = written(PROMPTS * 3, 3, sampling, SPLIT, samples=2, batch_size=8, mesh=mesh)
    same(found, on_one_device())
    assert 0 < found.finished.sum() < 18
    model, params = tiny.lm_of(SPLIT)
    scored = score.score(model, params, found.prompts, found.tokens, mesh=mesh)
    np.testing.assert_allclose(np.concatenate(scored), np.concatenate(found.logprobs), rtol=0, atol=EXACT)


def test_rows_and_heads_of_the_cache_are_spread_over_the_mesh():
    model, params = tiny.lm_of(dataclasses.replace(tiny.LM, vocab=14))
    mesh = sharding.make_mesh(MeshConfig(data=4, tensor=2))
    words, idle = np.zeros((4, 1, 2), np.uint32), np.zeros((4, 1), bool)
    with jax.set_mesh(mesh):
        placed = score.placed(model, params, mesh)
        _, logits = write._read(model, placed, rows.padded([[1, 2]] * 4, 32), np.full(4, 2, np.int32), 1)
        state = write._begin(model, logits, words, idle, room=32, choice=Choice(), impl="threefry2x32")
    for leaf in jax.tree.leaves(state.own):
        assert leaf.sharding.shard_shape(leaf.shape) == (1, 1, 1, *leaf.shape[3:])
    assert state.done.sharding.shard_shape((4, 1)) == (1, 1)


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "no text"),
        ({"prompts": [[1], ""]}, "text 1 has no tokens"),
        ({"prompts": [[1] * 60]}, "60 tokens and 5 to write, the model was built for 64"),
        ({"prompts": [[1, 13]]}, "token id 13, the model knows 0 to 12"),
        ({"samples": 0}, "samples = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"samples": 3, "key": jax.random.split(jax.random.key(0), 2)}, r"keys of shape \(2,\) for 3 rows"),
        ({"forbidden_ids": tuple(range(13))}, "all 13 tokens are forbidden"),
        ({"forbidden_ids": (99,)}, r"forbidden token ids \[99\]"),
        ({"stop_ids": (12,), "forbidden_ids": (12,)}, r"stop token ids \[12\] are forbidden"),
        ({"mesh": MeshConfig(data=4)}, "a batch of 2 rows does not divide over data x fsdp = 4"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(change, message):
    asked = {"prompts": [[1, 2]], "key": 0} | change
    own = {name: asked.pop(name) for name in ("forbidden_ids", "stop_ids") if name in asked}
    if "mesh" in asked:
        asked["mesh"] = sharding.make_mesh(asked["mesh"])
    with pytest.raises(ValueError, match=message):
        written(asked.pop("prompts"), asked.pop("key"), Sampling(max_new_tokens=5, **own), tiny.LM, **asked)


def test_parameters_that_have_diverged_are_named():
    model, params = tiny.lm_of()
    broken = {**params, "embedding": params["embedding"].at[1].set(jnp.nan)}
    with pytest.raises(ValueError, match="the model's parameters have diverged"):
        generate(model, broken, TOKENIZER, [[1]], jax.random.key(0), Sampling(max_new_tokens=2))
