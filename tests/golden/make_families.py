"""Make the golden directories of every family: tiny random weights, tokens, and the logits that transformers computes.

    python tests/golden/make_families.py           # writes families/*/ beside this file
    python tests/golden/make_families.py --check   # also: what qstar writes gives the same logits in transformers

Texts are longer than the windows, so that what a window hides shows. Made with torch 2.13.0 and transformers 5.23.0
(those called all: 5.24.0); the check needs qstar in the same environment.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent / "families"
LENGTH = 24
COMMON = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
DEFAULT = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 60,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
FULL, SLIDING = "full_attention", "sliding_attention"
MODELS = {
    "smollm2": ("Llama", {"num_hidden_layers": 2, "tie_word_embeddings": True}),
    "llama3_untied": ("Llama", {"num_hidden_layers": 2, "rope_parameters": LLAMA3}),
    "llama3_tied": ("Llama", {"num_hidden_layers": 2, "rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama_linear": ("Llama", {"num_hidden_layers": 2, "rope_parameters": LINEAR}),
    "mistral_window": ("Mistral", {"num_hidden_layers": 3, "sliding_window": 5}),
    "mistral_no_window": ("Mistral", {"num_hidden_layers": 2, "sliding_window": None, "num_attention_heads": 3,
                                      "num_key_value_heads": 1}),
    "qwen2_tied": ("Qwen2", {"num_hidden_layers": 2, "tie_word_embeddings": True}),
    "qwen2_untied_window": ("Qwen2", {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 5,
                                      "max_window_layers": 1}),
    "qwen3_tied": ("Qwen3", {"num_hidden_layers": 2, "tie_word_embeddings": True}),
    "qwen3_untied": ("Qwen3", {"num_hidden_layers": 2}),
    "gemma3": ("Gemma3", {"num_hidden_layers": 4, "sliding_window": 5, "query_pre_attn_scalar": 10,
                          "layer_types": [SLIDING, SLIDING, FULL, SLIDING],
                          "rope_parameters": {FULL: LINEAR, SLIDING: {"rope_type": "default", "rope_theta": 50.0}}}),
    "gemma3_untied": ("Gemma3", {"num_hidden_layers": 3, "sliding_window": 4, "tie_word_embeddings": False,
                                 "layer_types": [SLIDING, FULL, SLIDING],
                                 "rope_parameters": {FULL: DEFAULT | {"rope_theta": 500.0}, SLIDING: DEFAULT}}),
    "gemma3_all_full": ("Gemma3", {"num_hidden_layers": 2, "layer_types": [FULL, FULL],
                                   "rope_parameters": {FULL: DEFAULT | {"rope_theta": 500.0}, SLIDING: DEFAULT}}),
    "gemma3_all_window": ("Gemma3", {"num_hidden_layers": 2, "sliding_window": 5, "layer_types": [SLIDING, SLIDING],
                                     "rope_parameters": {FULL: DEFAULT | {"rope_theta": 500.0}, SLIDING: DEFAULT}}),
    "qwen2_all_window": ("Qwen2", {"num_hidden_layers": 2, "use_sliding_window": True, "sliding_window": 5,
                                   "max_window_layers": 0}),
}  # fmt: skip


def build(seed: int, family: str, settings: dict) -> transformers.PreTrainedModel:
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}TextConfig" if family == "Gemma3" else f"{family}Config")
    model = getattr(transformers, f"{family}ForCausalLM")(config(**COMMON | {"rope_parameters": DEFAULT} | settings))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Norms away from where they begin, biases that show, and matrices large enough that a transposed or
            # permuted weight shows.
            if "norm" in name:
                weight.copy_(torch.rand_like(weight) + (-0.5 if family == "Gemma3" else 0.5))
            else:
                weight.copy_(torch.randn_like(weight) * 0.4)
    return model.eval()


def logits(model: transformers.PreTrainedModel, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def make(directory: Path, seed: int, family: str, settings: dict) -> None:
    model = build(seed, family, settings)
    tokens = np.random.default_rng(seed).integers(0, COMMON["vocab_size"], (2, LENGTH))
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    found = logits(model, tokens)
    np.savez_compressed(directory / "expected.npz", tokens=tokens.astype(np.int32), logits=found)


def check(directory: Path) -> tuple[str, float]:
    """What transformers makes of our copy of a directory, and its largest difference from the golden logits."""
    from qstar.models.formats import hf

    expected = np.load(directory / "expected.npz")
    with tempfile.TemporaryDirectory() as written:
        hf.write_directory(written, *hf.read_directory(directory), tokenizer_json=None)
        kind = json.loads((Path(written) / "config.json").read_text())["model_type"]
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            written, dtype=torch.float32, output_loading_info=True
        )
        assert not any(told.values()), told
        gap = np.abs(logits(model.eval(), expected["tokens"].astype(np.int64)) - expected["logits"]).max()
        return f"{kind} as {type(model).__name__}", float(gap)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true")
    checking = options.parse_args().check
    for seed, (name, (family, settings)) in enumerate(MODELS.items()):
        if checking:
            kind, gap = check(HERE / name)
            print(f"{name}: {kind}, max |logit difference| {gap:.2e}")
        else:
            make(HERE / name, seed, family, settings)
