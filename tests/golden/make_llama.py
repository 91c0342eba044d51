"""Make the golden Llama directories: tiny random weights, tokens, and the logits that transformers computes.

    python tests/golden/make_llama.py           # writes llama_*/ beside this file
    python tests/golden/make_llama.py --check   # also: what qstar writes gives the same logits in transformers

Made with torch 2.13.0 and transformers 5.23.0; the check needs qstar in the same environment.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
SHAPES = {
    "llama_mha_tied": {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "llama_gqa_untied": {"num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 500.0, "rms_norm_eps": 1e-3},
    "llama_wide_heads": {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 12, "rms_norm_eps": 1e-2},
}


def build(seed: int, theta: float = 10000.0, **shape) -> transformers.LlamaForCausalLM:
    torch.manual_seed(seed)
    cfg = transformers.LlamaConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        bos_token_id=None,
        eos_token_id=None,
        **shape,
    )
    model = transformers.LlamaForCausalLM(cfg).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Norms away from one and matrices large enough that a transposed or permuted weight shows.
            weight.copy_(torch.rand_like(weight) + 0.5 if "norm" in name else torch.randn_like(weight) * 0.4)
    return model


def logits(model, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def make(directory: Path, seed: int, shape: dict) -> None:
    theta = shape.get("rope_theta", 10000.0)
    model = build(seed, theta, **{name: value for name, value in shape.items() if name != "rope_theta"})
    tokens = np.random.default_rng(seed).integers(0, 48, (2, 12))
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    np.savez(directory / "expected.npz", tokens=tokens.astype(np.int32), logits=logits(model, tokens))


def check(directory: Path) -> float:
    """Largest difference between the golden logits and transformers' on what qstar writes."""
    from qstar.models.formats import hf

    expected = np.load(directory / "expected.npz")
    with tempfile.TemporaryDirectory() as written:
        hf.write_directory(written, *hf.read_directory(directory), tokenizer_json=None)
        model = transformers.AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32)
        return float(np.abs(logits(model, expected["tokens"].astype(np.int64)) - expected["logits"]).max())


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true")
    checking = options.parse_args().check
    for seed, (name, shape) in enumerate(SHAPES.items()):
        if checking:
            print(f"{name}: max |logit difference| {check(HERE / name):.2e}")
        else:
            make(HERE / name, seed, shape)
