"""Thinkers written for transformers: what the files hold, and the same generation where torch is installed."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny
import tolerances
from small_runs import composed
from tolerances import rounding

from qstar import prepare, runs
from qstar.data import tokenizer as tokenizers
from qstar.decoding import score
from qstar.methods.adaptive import Adaptive
from qstar.methods.dpo import DPO
from qstar.methods.fast_quiet_star import FastQuietStar
from qstar.methods.plain_lm import PlainLM
from qstar.methods.policy_gradient import PolicyGradient
from qstar.methods.ppo import PPO
from qstar.methods.quiet_star import QuietStar
from qstar.methods.sft import SFT
from qstar.models import lm
from qstar.policy import Policy
from qstar.thoughts.writing import generate

TOKENIZER = tokenizers.characters("abcdefghijklm")
PROMPTS = [[3, 7, 1], [5, 2, 10, 6, 1, 4]]
KEYS = 6 + 6 + 5  # the longer prompt, what is written after it, and a thought with its start and end
WINDOWED = dataclasses.replace(tiny.LM, window=3, global_layers=(1,), qk_norm=True)
GEMMA = dataclasses.replace(
    tiny.LM, tied=True, qk_norm=True, post_norms=True, norm_offset=1.0, activation="gelu_tanh", embed_scale=4.0
)
OURS = {"thought_len": 3, "num_thoughts": 2, "delimiter_init": "random"}
METHODS = {
    "logprobs": (tiny.LM, QuietStar(**OURS)),
    "hidden": (tiny.LM, QuietStar(**OURS, mix="hidden", delimiter_scale=100.0, forbidden=("m",))),
    "sigmoid": (tiny.LM, QuietStar(**OURS, mixing="sigmoid", mixing_side="base", mixing_start=0.3)),
    "no head": (tiny.LM, QuietStar(**OURS, mixing="none")),
    "empty": (tiny.LM, QuietStar(**OURS | {"thought_len": 0})),
    "pause": (tiny.LM, QuietStar(**OURS, fill="pause")),
    "dots": (tiny.LM, QuietStar(**OURS, fill="dots", dot="c")),
    "gate": (tiny.LM, Adaptive(**OURS)),
    "window": (WINDOWED, QuietStar(**OURS)),
    "gemma": (GEMMA, QuietStar(**OURS)),
}


def policy(name):
    shape, method = METHODS[name]
    definition = method.definition(shape, TOKENIZER)
    params = tiny.weights_of(definition)
    return Policy(method, definition, jax.tree.map(np.asarray, params), TOKENIZER, name)


def written(run, folder):
    runs.save_thinker(folder, run)
    return json.loads((folder / "config.json").read_text()), safetensors.numpy.load_file(folder / "model.safetensors")


def test_the_directory_names_its_code_and_how_it_thinks(tmp_path):
    config, tensors = written(policy("hidden"), tmp_path)
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_qstar.QStarForCausalLM"
    assert "class QStarForCausalLM" in (tmp_path / "modeling_qstar.py").read_text()
    assert config["language_model"]["model_type"] == "llama"
    assert config["thinking"] == {
        "thought_len": 3, "mix": "hidden", "fill": "sampled", "gate_at": None, "mixing": "raw",
        "mixing_side": "thought", "start_share": 0.0, "dot": None, "forbidden": [12],
    }  # fmt: skip
    assert json.loads((tmp_path / "generation_config.json").read_text())["suppress_tokens"] == [12]
    assert {name: tensors[name].shape for name in ("start", "mixing.0.weight", "mixing.4.weight")} == {
        "start": (16,), "mixing.0.weight": (16, 32), "mixing.4.weight": (1, 16)
    }  # fmt: skip


def test_scales_of_embeddings_are_multiplied_in(tmp_path):
    run = policy("hidden")
    np.testing.assert_allclose(written(run, tmp_path)[1]["start"], run.params["start"] * 100, rtol=rounding(1))
    run = policy("gemma")
    np.testing.assert_allclose(written(run, tmp_path / "gemma")[1]["end"], run.params["end"] * 4, rtol=rounding(1))


def test_thoughts_that_depend_on_other_texts_are_refused(tmp_path):
    run = dataclasses.replace(policy("logprobs"), method=QuietStar(**OURS, fill="shuffled"))
    with pytest.raises(ValueError, match=r"method\.fill = 'shuffled'"):
        runs.save_thinker(tmp_path / "out", run)


def test_a_model_that_does_not_think_is_refused(tmp_path):
    plain = dataclasses.replace(policy("logprobs"), method=PlainLM())
    with pytest.raises(ValueError, match=r"method=lm, which does not think.*--to huggingface"):
        runs.save_thinker(tmp_path / "out", plain)


# --- what transformers computes -----------------------------------------------------------------------------------


def loaded(folder):
    pytest.importorskip("torch", reason="needs torch and transformers")
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype="float32").eval()


def both(run, folder, prompts, count):
    """New tokens, their log-probs and the thoughts before the first one: ours, and those of transformers."""
    runs.save_thinker(folder, run)
    model = loaded(folder)
    import torch

    ours = generate(run.method, run.definition, run.params, prompts, jax.random.key(0), max_new_tokens=count)
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.no_grad():
        settings = {"max_new_tokens": count, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        theirs = model.generate(ids, attention_mask=mask, pad_token_id=0, **settings)
        thoughts = [model.thought(torch.tensor(prompt)) for prompt in prompts]
    new = theirs.sequences[:, width:]
    logprobs = torch.stack(theirs.logits, 1).gather(-1, new[..., None])[..., 0]
    return ours, new.numpy(), logprobs.numpy(), thoughts


@pytest.mark.parametrize("name", METHODS)
def test_generation_with_greedy_thoughts_equals_ours(name, tmp_path):
    run = policy(name)
    ours, tokens, logprobs, thoughts = both(run, tmp_path, PROMPTS, 6)
    np.testing.assert_array_equal(tokens, ours.tokens)
    np.testing.assert_allclose(logprobs, ours.logprobs, rtol=0, atol=tolerances.forward(METHODS[name][0], KEYS))
    if name == "gate":
        assert 0 < np.mean(np.asarray(ours.effect.weight) == 0) < 1  # it opens and closes
    elif run.method.fill == "sampled":
        np.testing.assert_array_equal(np.stack(thoughts), ours.effect.thoughts[:, 0, 0])


def test_the_bundled_model_with_its_recipes_thoughts_generates_as_ours(tmp_path):
    base = runs.load_model("bundled:cups")
    method = composed("method=quiet_star_cups").method
    definition = method.definition(base.lm, base.tokenizer)
    params = method.start_from(definition, base.language_model, jax.random.key(0))
    params["mixing"] = params["mixing"] | {"last": 0.05 * jax.random.normal(jax.random.key(1), (base.lm.width, 1))}
    run = Policy(method, definition, jax.tree.map(np.asarray, params), base.tokenizer, "cups")
    prompts = [base.tokenizer.encode_whole(text) for text in ("3aegbdh=", "1jigc=")]
    ours, tokens, logprobs, thoughts = both(run, tmp_path, prompts, 4)
    np.testing.assert_array_equal(tokens, ours.tokens)
    np.testing.assert_array_equal(np.stack(thoughts), ours.effect.thoughts[:, 0, 0])
    bound = tolerances.forward(base.lm, keys=32, size=20.0, scores=3.0)
    np.testing.assert_allclose(logprobs, ours.logprobs, rtol=0, atol=bound)


def test_logits_of_every_position_without_thoughts_are_the_language_models(tmp_path):
    run = policy("logprobs")
    runs.save_thinker(tmp_path, run)
    model = loaded(tmp_path)
    import torch

    ours = generate(run.method, run.definition, run.params, [PROMPTS[0]], jax.random.key(0), max_new_tokens=1)
    with torch.no_grad():
        plain = model(torch.tensor([PROMPTS[0]]), think=False).logits
        thinking = model(torch.tensor([PROMPTS[0]])).logits
    first, bound = int(ours.tokens[0, 0]), tolerances.forward(tiny.LM, KEYS)
    assert plain.shape == thinking.shape == (1, 3, 13)
    np.testing.assert_allclose(plain[0, -1, first], ours.effect.base[0, 0], rtol=0, atol=bound)
    np.testing.assert_allclose(thinking[0, -1, first], ours.effect.mixed[0, 0, 0], rtol=0, atol=bound)


def positions(model, call):
    """What a call returns, and how many positions its passes through the layers were over."""
    seen = []
    hook = model.model.register_forward_pre_hook(
        lambda _, args, settings: seen.append(settings["inputs_embeds"].shape[1]), with_kwargs=True
    )
    result = call()
    hook.remove()
    return result, seen


def test_a_new_token_costs_a_position_for_each_token_of_its_thought_and_three_more(tmp_path):
    runs.save_thinker(tmp_path, policy("logprobs"))
    model = loaded(tmp_path)
    import torch

    ids = torch.tensor([PROMPTS[1]])
    settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    _, seen = positions(model, lambda: model.generate(ids, **settings))
    assert seen == [6, *[1] * 5, *[1, *[1] * 5] * 4]  # the prompt; a token; start, three tokens and end of a thought


def test_kept_keys_and_values_leave_beam_search_and_later_calls_as_they_are(tmp_path):
    runs.save_thinker(tmp_path, policy("window"))
    model = loaded(tmp_path)
    import torch

    ids = torch.tensor([PROMPTS[1], PROMPTS[1][::-1]])
    settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 4, "num_beams": 3, "do_sample": False}
    with torch.no_grad():
        found, kept = positions(model, lambda: model.generate(ids, **settings, pad_token_id=0))
        model.prepare_inputs_for_generation = lambda ids, attention_mask, **_: {
            "input_ids": ids, "attention_mask": attention_mask, "logits_to_keep": 1
        }  # fmt: skip
        again, anew = positions(model, lambda: model.generate(ids, **settings, pad_token_id=0))
        first = model(ids)
        longer = torch.cat([ids, ids[:, :2]], 1)
        whole, after = (model(longer, logits_to_keep=2, read=read).logits for read in (None, first.read))
    assert found.tolist() == again.tolist() and sum(kept) < sum(anew)
    torch.testing.assert_close(after, whole, rtol=0, atol=tolerances.forward(WINDOWED, KEYS))


def test_the_command_writes_a_run_with_its_thoughts(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "load_run", lambda source: policy("logprobs"))
    said = prepare.prepare("runs/mine", tmp_path / "out", "thinker", "float32")
    assert "(thinker, float32)" in said and (tmp_path / "out" / "modeling_qstar.py").is_file()


# --- models that were trained to do without thoughts, or never had any --------------------------------------------


@pytest.mark.parametrize("method", [FastQuietStar(teacher="runs/teacher"), SFT(), PolicyGradient(), PPO(), DPO()])
def test_language_models_of_every_method_have_the_same_logits_in_transformers(method, tmp_path):
    definition = method.definition(tiny.LM, TOKENIZER)
    params = jax.tree.map(np.asarray, tiny.weights_of(definition))
    run = Policy(method, definition, params, TOKENIZER, "run")
    runs.save_huggingface(tmp_path, run)
    model = loaded(tmp_path)
    import torch

    ids = np.array(PROMPTS[1:])
    with torch.no_grad():
        found = model(torch.tensor(ids)).logits.numpy()
    ours = score.logits(lm.definition(tiny.LM), run.language_model, ids)
    np.testing.assert_allclose(found, ours, rtol=0, atol=tolerances.forward(tiny.LM, KEYS))
