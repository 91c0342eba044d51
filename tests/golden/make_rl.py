"""Make the golden policy-gradient losses: what trl computes from logits, old and reference log-probs, in float64.

    python tests/golden/make_rl.py     # writes rl.npz beside this file

Made with torch 2.13.0 and trl 1.16.0. trl's `_compute_loss` is called on a trainer without a model: what it would read
of one, the log-probs of the completions, comes from the logits that are stored here, so that its gradient is one by
logit. The loss is one of training in one process without accumulation. `dapo` divides by all tokens of the batch.
"""

import collections
import types
from pathlib import Path

import numpy as np
import torch
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

HERE = Path(__file__).parent
TEXTS, TOKENS, VOCAB, LONGEST = 6, 5, 7, 12
LENGTHS = [5, 2, 4, 1, 5, 3]
CASES = {
    "grpo": {},
    "grpo_kl": {"beta": 0.04},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "gspo": {"importance_sampling_level": "sequence", "epsilon_low": 3e-2, "epsilon_high": 4e-2},
}


def inputs():
    rng = np.random.default_rng(0)
    ids = rng.integers(VOCAB, size=(TEXTS, TOKENS))
    logits = rng.standard_normal((TEXTS, TOKENS, VOCAB))
    near = lambda size: logits + size * rng.standard_normal(logits.shape)  # noqa: E731
    chosen = lambda x: np.take_along_axis(x - np.log(np.exp(x).sum(-1, keepdims=True)), ids[..., None], -1)[..., 0]  # noqa: E731
    return {
        "ids": ids,
        "logits": logits,
        "mask": np.arange(TOKENS) < np.array(LENGTHS)[:, None],
        "old": chosen(near(0.3)),
        "reference": chosen(near(0.5)),
        "advantage": rng.standard_normal(TEXTS),
    }


class Accelerator:
    num_processes = 1
    sync_gradients = True

    def gather(self, x):
        return x

    gather_for_metrics = gather

    def reduce(self, x, reduction):
        return x


def trainer(kind, logits, ids, **settings):
    """A trainer of trl that has its settings and no model."""

    def logprobs(model, input_ids, attention_mask, logits_to_keep, **_):
        found = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        return found, -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).detach(), None

    made = object.__new__(kind)
    defaults = {
        "loss_type": "grpo",
        "importance_sampling_level": "token",
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.0,
        "max_completion_length": LONGEST,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "aux_loss_enabled": False,
        "use_vllm": False,
        "vllm_importance_sampling_correction": False,
        "_entropy_bonus_enabled": False,
        "use_adaptive_entropy": False,
        "current_gradient_accumulation_steps": 1,
        "accelerator": Accelerator(),
        "model": types.SimpleNamespace(training=True),
        "args": types.SimpleNamespace(
            delta=None, use_bias_correction_kl=False, steps_per_generation=1, gradient_accumulation_steps=1
        ),
        "_metrics": {"train": collections.defaultdict(list)},
        "_get_per_token_logps_and_entropies": logprobs,
    }
    for name, value in (defaults | settings).items():
        object.__setattr__(made, name, value)
    return made


def batch(given):
    tensor = torch.as_tensor
    mask = tensor(given["mask"]).long()
    return {
        "prompt_ids": torch.zeros(TEXTS, 1, dtype=torch.long),
        "prompt_mask": torch.ones(TEXTS, 1, dtype=torch.long),
        "completion_ids": tensor(given["ids"]),
        "completion_mask": mask,
        "advantages": tensor(given["advantage"]),
        "old_per_token_logps": tensor(given["old"]),
        "ref_per_token_logps": tensor(given["reference"]),
        "old_logps": (tensor(given["old"]) * mask).sum(1),
        "num_items_in_batch": mask.sum(),
    }


def main() -> None:
    given = inputs()
    found = dict(given)
    rloo = {"rloo": (RLOOTrainer, {"epsilon_low": 1e9, "epsilon_high": 1e9})}
    for name, (kind, settings) in {**{name: (GRPOTrainer, each) for name, each in CASES.items()}, **rloo}.items():
        logits = torch.tensor(given["logits"], requires_grad=True)
        rows = batch(given)
        if name == "rloo":  # of the weights that sampled: trl takes one ratio of a text, which is 1 there
            rows["old_logps"] = (
                (logits.log_softmax(-1).gather(-1, rows["completion_ids"][..., None])[..., 0].detach())
                * rows["completion_mask"]
            ).sum(1)
        loss = trainer(kind, logits, rows["completion_ids"], **settings)._compute_loss(
            types.SimpleNamespace(training=True), rows
        )
        loss.backward()
        assert loss.dtype == torch.float64
        found |= {f"{name}.loss": loss.item(), f"{name}.gradient": logits.grad.numpy()}
        print(name, loss.item())
    np.savez_compressed(HERE / "rl.npz", **found)


if __name__ == "__main__":
    main()
