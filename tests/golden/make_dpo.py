"""Make the golden preference losses: what trl computes on two of the golden Llama directories, in float64.

    python tests/golden/make_dpo.py     # writes dpo.npz beside this file

Made with torch 2.13.0, transformers 5.24.0 and trl 1.16.0. The policy is llama_mha_tied, the reference the same
weights with noise; of the gradient the leaves in `KEPT` are stored. trl's loss is called as its trainer calls it. Where
its terms are put together in another way than ours this file says how: `smoothed` is its sigmoid loss of the pairs and
of the pairs the other way round, `irpo` is its sigmoid and its sft loss of one pair at a time, which divides by the
tokens of a completion, where that of a batch divides by those of all completions.

Norms, rotary angles and log-probs are in float64 here, where transformers and trl's fused head round to float32.
"""

import functools
import tempfile
import types
from pathlib import Path

import datasets
import numpy as np
import tokenizers
import torch
import transformers
import trl

HERE = Path(__file__).parent
BETA, SMOOTHING = 0.3, 0.1
PROMPTS = [[3, 14, 15], [9, 26], [5, 35, 8, 9]]
CHOSEN = [[7, 1, 40, 2], [11, 12, 13], [4]]
REJECTED = [[7, 30, 2], [21, 2, 2, 5, 6], [17, 3]]
KEPT = (
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.mlp.down_proj.weight",
    "model.norm.weight",
)


class Norm(torch.nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


class Rotary(torch.nn.Module):
    def __init__(self, size: int, theta: float):
        super().__init__()
        self.frequencies = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)

    def forward(self, x, position_ids):
        angles = position_ids[..., None].double() * self.frequencies
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()


def log_probs(forward, labels, input_ids, attention_mask, **_):
    """Of every next token whose label counts, as trl's fused head gives them."""
    logits = forward(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1]
    counts = labels[:, 1:] != -100
    found = logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
    logged = {"entropy": found.detach(), "mean_logits": found.detach(), "is_top1": counts}  # no loss has them
    return types.SimpleNamespace(log_probs=found * counts, label_mask=counts, **logged)


def exact(model) -> None:
    """Let all arithmetic of the model be in float64."""
    for layer in model.model.layers:
        layer.input_layernorm = Norm(layer.input_layernorm)
        layer.post_attention_layernorm = Norm(layer.post_attention_layernorm)
    model.model.norm = Norm(model.model.norm)
    model.model.rotary_emb = Rotary(model.config.head_dim, model.config.rope_parameters["rope_theta"])
    forward = functools.partial(type(model).forward, model)
    model.forward = functools.partial(log_probs, forward)


def models():
    load = lambda: transformers.LlamaForCausalLM.from_pretrained(  # noqa: E731
        HERE / "llama_mha_tied", dtype=torch.float64, attn_implementation="sdpa"
    )
    policy, reference = load(), load()
    torch.manual_seed(0)
    with torch.no_grad():
        for _, weight in sorted(reference.named_parameters()):
            weight.copy_((weight + 0.05 * torch.randn_like(weight)).float())  # the file holds them in float32
    return policy, reference


def trainer(policy, reference, folder: str, losses: list[str], weights: list[float]):
    vocabulary = {f"t{i}": i for i in range(48)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="t0"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="t0", eos_token="t0")
    rows = datasets.Dataset.from_list([{"prompt": "t1", "chosen": "t2", "rejected": "t3"}])
    args = trl.DPOConfig(
        folder, beta=BETA, loss_type=losses, loss_weights=weights, use_cpu=True, bf16=False, report_to=[],
        gradient_checkpointing=False,
    )  # fmt: skip
    return trl.DPOTrainer(policy, reference, args, train_dataset=rows, processing_class=tokenizer)


def batch(rows, swapped: bool = False) -> dict:
    sides = (REJECTED, CHOSEN) if swapped else (CHOSEN, REJECTED)
    texts = [(PROMPTS[i], side[i]) for side in sides for i in rows]
    width = max(len(prompt) + len(text) for prompt, text in texts)
    pad = lambda values: torch.tensor([[*row, *[0] * (width - len(row))] for row in values])  # noqa: E731
    return {
        "input_ids": pad([[*prompt, *text] for prompt, text in texts]),
        "attention_mask": pad([[1] * (len(prompt) + len(text)) for prompt, text in texts]),
        "completion_mask": pad([[0] * len(prompt) + [1] * len(text) for prompt, text in texts]),
    }


def terms(name: str):
    """trl's losses with their weights, the batches they are asked of, and the weights of these."""
    every = range(len(PROMPTS))
    if name == "smoothed":
        return ["sigmoid"], [1.0], [(batch(every), 1 - SMOOTHING), (batch(every, swapped=True), SMOOTHING)]
    if name == "irpo":
        return ["sigmoid", "sft"], [1.0, 1.0], [(batch([i]), 1 / len(PROMPTS)) for i in every]
    return [name], [1.0], [(batch(every), 1.0)]


def main() -> None:
    found = {}
    for name in ("sigmoid", "hinge", "ipo", "smoothed", "irpo"):
        policy, reference = models()
        losses, weights, batches = terms(name)
        with tempfile.TemporaryDirectory() as folder:
            asked = trainer(policy, reference, folder, losses, weights)
            exact(policy)
            exact(reference)
            policy.zero_grad()
            loss = sum(weight * asked._compute_loss(policy, inputs, False) for inputs, weight in batches)
        loss.backward()
        found[f"{name}.loss"] = loss.item()
        found |= {f"{name}.{leaf}": dict(policy.named_parameters())[leaf].grad.numpy() for leaf in KEPT}
        assert loss.dtype == torch.float64
        print(name, loss.item())
    weights = {f"reference.{name}": leaf.detach().float().numpy() for name, leaf in reference.named_parameters()}
    np.savez_compressed(HERE / "dpo.npz", **found, **weights)


if __name__ == "__main__":
    main()
