"""Reward models as classifiers that transformers loads: what the files hold, and the logits where it is installed."""

import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tolerances

from qstar.models import heads
from qstar.models.formats import hf
from qstar.ops import rows

GOLDEN = Path(__file__).parents[2] / "golden"
NAMES = (
    "llama_mha_tied",
    "llama_gqa_untied",
    "llama_wide_heads",
    "families/gemma3",
    "families/qwen3_tied",
    "families/mistral_window",
)
TOKENS = np.random.default_rng(0).integers(1, 40, (2, 11))


def scorer(name):
    cfg, params = hf.read_directory(GOLDEN / name)
    weight = np.random.default_rng(1).normal(size=cfg.width).astype(np.float32)
    return cfg, params, {"weight": weight, "bias": np.float32(0.7)}


def outputs(name):
    """The head's output at every token."""
    cfg, params, score = scorer(name)
    model = heads.definition(cfg).bind(jax.tree.map(jnp.asarray, {"lm": params, "score": score}))
    return np.asarray(model.scores(jax.tree.map(jnp.asarray, rows.padded(TOKENS.tolist(), TOKENS.shape[1]))))


def written(name, folder, kind, log_odds):
    cfg, params, score = scorer(name)
    hf.write_classifier(folder, cfg, params, score, kind, log_odds, None)
    return json.loads((folder / "config.json").read_text()), safetensors.numpy.load_file(folder / "model.safetensors")


def test_a_token_classifier_of_log_odds_has_two_labels_whose_difference_is_the_head(tmp_path):
    config, tensors = written("llama_gqa_untied", tmp_path, "token-classification", True)
    score = scorer("llama_gqa_untied")[2]
    assert config["architectures"] == ["LlamaForTokenClassification"]
    assert (config["num_labels"], config["id2label"]["1"]) == (2, "right")
    np.testing.assert_array_equal(tensors["score.weight"], [np.zeros(16), score["weight"]])
    np.testing.assert_array_equal(tensors["score.bias"], np.float32([0, 0.7]))
    assert "lm_head.weight" not in tensors
    assert "model.layers.1.mlp.down_proj.weight" in tensors


def test_other_scores_are_one_label_and_sequences_keep_the_bias_in_the_config(tmp_path):
    config, tensors = written("llama_mha_tied", tmp_path, "sequence-classification", False)
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert (config["num_labels"], config["problem_type"]) == (1, "regression")
    assert config["score_bias"] == pytest.approx(0.7)
    np.testing.assert_array_equal(tensors["score.weight"], [scorer("llama_mha_tied")[2]["weight"]])
    assert "score.bias" not in tensors


@pytest.mark.parametrize("value", ["0.7", None, True, [0.7], float("nan"), 10**400])
def test_a_bias_that_is_no_number_is_named_with_its_file(tmp_path, value):
    config, _ = written("llama_mha_tied", tmp_path, "sequence-classification", False)
    (tmp_path / "config.json").write_text(json.dumps(config | {"score_bias": value}))
    with pytest.raises(ValueError, match=r"config\.json: score_bias is .*, expected a number"):
        hf.read_classifier(tmp_path)


def test_labels_whose_difference_overflows_are_read_without_a_warning(tmp_path):
    """The scorer that is made of them names the weights that are infinite."""
    _, tensors = written("llama_gqa_untied", tmp_path, "token-classification", True)
    huge = np.full(16, 3e38, np.float32)
    safetensors.numpy.save_file(tensors | {"score.weight": np.stack([-huge, huge])}, tmp_path / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, _, score, _ = hf.read_classifier(tmp_path)
    assert np.isposinf(score["weight"]).all()


@pytest.mark.parametrize("shape", [(), (0,), (16,), (3, 16), (1, 15), (1, 16, 1)])
def test_a_head_of_another_shape_is_refused(tmp_path, shape):
    _, tensors = written("llama_mha_tied", tmp_path, "sequence-classification", False)
    safetensors.numpy.save_file(tensors | {"score.weight": np.zeros(shape, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="the head is"):
        hf.read_classifier(tmp_path)


def test_gemma_has_no_token_classifier(tmp_path):
    with pytest.raises(ValueError, match="no token-classification of gemma3_text"):
        written("families/gemma3", tmp_path, "token-classification", True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", hf.CLASSIFIERS)
@pytest.mark.parametrize("name", NAMES)
def test_logits_of_transformers_equal_ours(name, kind, tmp_path):
    pytest.importorskip("torch", reason="needs torch and transformers")
    import torch
    import transformers

    if name.endswith("gemma3") and kind == "token-classification":
        pytest.skip("transformers has none")
    config, _ = written(name, tmp_path, kind, True)
    auto = {"token-classification": "AutoModelForTokenClassification"}.get(kind, "AutoModelForSequenceClassification")
    model = getattr(transformers, auto).from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        found = np.stack([model(torch.tensor(row[None])).logits[0].numpy() for row in TOKENS])
    cfg, expected = hf.read_config(tmp_path), outputs(name)
    # Weights are 0.4 of a normal number.
    bound = tolerances.forward(cfg, TOKENS.shape[1], np.abs(expected).max(), scores=0.16 * cfg.width)
    if kind == "token-classification":
        np.testing.assert_allclose(found[..., 1] - found[..., 0], expected, rtol=0, atol=bound)
    else:
        np.testing.assert_allclose(found[:, 1] + config["score_bias"], expected[:, -1], rtol=0, atol=bound)
