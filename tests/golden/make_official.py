"""Make the golden arrays of Quiet-STaR from its released code: losses, rewards and gradients of tiny random models.

    git clone https://github.com/ezelikman/quiet-star && git -C quiet-star checkout 892446b
    pip install torch==2.13.0 transformers==4.37.2            # a Python 3.11 of their own
    python tests/golden/make_official.py quiet-star           # writes official/*.npz beside this file

The two model files of the checkout run as they are, under the module names of transformers that they expect; what they
import for plots and logs is replaced by empty modules. Everything is float64: the few operations that the code pins to
float32 (RMSNorm, the table of rotary angles) are made to follow, unless `--as-is` leaves them alone. Attributes that
the released scripts set are set on the model; two more (`start_token_id`, `rm_initialized`) keep the first forward from
overwriting the delimiters and zeroing the mixing head, so that all weights are random. Made with the versions above.
"""

import argparse
import importlib.util
import json
import sys
import types
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import transformers.models.mistral  # before the modules below are emptied: it looks for some of them

HERE = Path(__file__).parent
PAD = 2  # Mistral's end-of-text token, which the released code pads with
PLOTS_AND_LOGS = (
    "pandas seaborn matplotlib matplotlib.pyplot matplotlib.colors wandb termcolor reportlab reportlab.pdfgen "
    "reportlab.lib reportlab.lib.pagesizes reportlab.lib.colors"
).split()


@dataclass(frozen=True)
class Case:
    """One model and one batch. `vocab` counts the two delimiters, which are its last ids."""

    n_ahead: int
    n_ahead_talk: int
    n_passes: int
    beta: float = 1e6
    heads: int = 4
    kv_heads: int = 4
    lengths: tuple[int, ...] = (14, 14)  # tokens of each row; the longest is the width of the batch
    width: int = 16
    layers: int = 2
    ff: int = 20
    vocab: int = 27
    theta: float = 100.0
    eps: float = 1e-5
    tied: bool = False
    policy: bool = True  # False: the released code's use_policy_loss off
    certain: float = 0.0  # above 0: one token's output row is scaled by it, so that some losses are exactly zero


CASES = {
    "mha_12_4": Case(12, 4, 2),
    "gqa_12_4_padded": Case(12, 4, 2, beta=1.0, kv_heads=2, lengths=(15, 9)),
    "gqa_11_2_padded": Case(11, 2, 1, kv_heads=2, lengths=(13, 13, 6)),
    "mha_10_5_padded": Case(10, 5, 2, lengths=(14, 8)),
    "mqa_9_6": Case(9, 6, 1, beta=1.0, kv_heads=1, lengths=(12, 12)),
    "gqa_8_4_tied": Case(8, 4, 2, kv_heads=2, tied=True, lengths=(14, 11)),
    "mha_7_3_three": Case(7, 3, 3, lengths=(12, 12)),
    "gqa_6_2_three_padded": Case(6, 2, 3, beta=1.0, kv_heads=2, lengths=(12, 5, 9)),
    "mha_5_1_certain": Case(5, 1, 2, certain=300.0, lengths=(20, 13)),
    "mha_4_1_padded": Case(4, 1, 1, lengths=(13, 7)),
    "gqa_4_6_padded": Case(4, 6, 3, beta=1.0, kv_heads=2, lengths=(14, 10)),
    "gqa_3_2_padded": Case(3, 2, 2, kv_heads=2, lengths=(13, 8), policy=False),
    "deep_12_4_padded": Case(
        12, 4, 2, heads=8, kv_heads=2, width=32, layers=4, ff=24, vocab=35, theta=10000.0, lengths=(24, 17, 24)
    ),
}


class Tokenizer:
    """What the model asks of a tokenizer in training once the ids of its delimiters are known."""

    pad_token_id = PAD


class Follows64(types.ModuleType):
    """torch, for code that says torch.float32 and shall compute in float64."""

    float32 = torch.float64

    def __getattr__(self, name: str):
        return getattr(torch, name)


def official(checkout: Path) -> tuple[types.ModuleType, types.ModuleType]:
    """The checkout's configuration and model modules, loaded in the place of transformers' own."""
    for name in PLOTS_AND_LOGS:
        sys.modules[name] = mock.MagicMock(name=name)
    loaded = []
    for name in ("configuration_mistral", "modeling_mistral"):
        full = f"{transformers.models.mistral.__name__}.{name}"
        spec = importlib.util.spec_from_file_location(full, checkout / f"{name}.py")
        sys.modules[full] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        loaded.append(module)
    return tuple(loaded)


def build(case: Case, seed: int, configuration: types.ModuleType, modeling: types.ModuleType, as_is: bool = False):
    """The released model in float64, every parameter random: norms away from one, delimiters and mixing head too."""
    cfg = configuration.MistralConfig(
        vocab_size=case.vocab,
        hidden_size=case.width,
        intermediate_size=case.ff,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        max_position_embeddings=2048,
        rope_theta=case.theta,
        rms_norm_eps=case.eps,
        tie_word_embeddings=case.tied,
        attn_implementation="eager",
    )
    torch.set_default_dtype(torch.float64)
    model = modeling.MistralForCausalLM(cfg)
    randomise(model, case, np.random.default_rng(seed))
    if not as_is:
        modeling.torch = Follows64("torch")
        for module in model.modules():
            if isinstance(module, modeling.MistralRotaryEmbedding):
                power = torch.arange(0, module.dim, 2, dtype=torch.float64) / module.dim
                module.inv_freq = 1.0 / module.base**power
                module._set_cos_sin_cache(module.max_position_embeddings, "cpu", torch.float64)
    return configure(model, case)


def randomise(model, case: Case, rng: np.random.Generator) -> None:
    """Multiples of 1/1024, which compress well, around one for the norms."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 1.0 if "embedding" not in name and weight.ndim > 1 else 0.3
            scale *= weight.shape[-1] ** -0.5 if name.startswith(("model.layers", "lm_head", "talk_head")) else 1.0
            drawn = scale * rng.standard_normal(tuple(weight.shape)) + ("norm" in name)
            if name in ("start_embedding", "end_embedding"):
                drawn /= 10  # the model multiplies them by 100
            weight.copy_(torch.tensor(np.round(drawn * 1024) / 1024))
        if case.certain:
            model.lm_head.weight[5] *= case.certain


def configure(model, case: Case):
    """What quiet-star-train.py sets, and the guards against what the first forward overwrites."""
    model.tokenizer = Tokenizer()
    model.n_ahead, model.n_ahead_talk, model.n_passes = case.n_ahead, case.n_ahead_talk, case.n_passes
    model.gumbel_temperature = 1
    model.kill_after = None
    model.policy_loss_beta = case.beta
    model.use_policy_loss = model.include_policy_loss = case.policy
    model.start_token_id, model.end_token_id = case.vocab - 2, case.vocab - 1
    model.rm_initialized = True
    return model.train()


def rows(case: Case, seed: int) -> np.ndarray:
    """Random text, padded at its right; neither padding nor delimiters occur in it."""
    rng = np.random.default_rng(1000 + seed)
    tokens = np.full((len(case.lengths), max(case.lengths)), PAD)
    for row, length in zip(tokens, case.lengths, strict=True):
        row[:length] = rng.integers(PAD + 1, case.vocab - 2, length)
        if case.certain:
            row[2:length:3] = 5
    return tokens


def observed(model, **inputs) -> dict:
    """The local variables of the model's forward as it returned."""
    code = type(model).forward.__code__
    seen = {}

    def watch(frame, event, _):
        if event == "return" and frame.f_code is code:
            seen.update(frame.f_locals)

    sys.setprofile(watch)
    try:
        model(**inputs)
    finally:
        sys.setprofile(None)
    return seen


def run(model, case: Case, tokens: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """One training forward and backward pass: what the released code computed on the way."""
    means = []
    model.loss_mean = lambda losses, mean=model.loss_mean: means.append(mean(losses)) or means[-1]
    ids = torch.tensor(tokens)
    torch.manual_seed(seed)
    local = observed(model, input_ids=ids, attention_mask=(ids != PAD).long(), labels=ids.clone())
    local["loss"].backward()
    samples = (len(tokens), case.n_passes)
    history = local["sampled_token_history"][1 : case.n_ahead - 2]
    thoughts = [column.numpy().reshape(*samples, -1) for column in history]
    found = {
        "tokens": tokens,
        "mask": tokens != PAD,
        "thoughts": np.stack(thoughts, -1) if thoughts else np.zeros((*samples, tokens.shape[1], 0)),
        "base": means[-1],
        "talk": torch.stack(means[-2::-1]),  # asked for last first
        "total": local["loss"],
        "certain": certainties(local["loss_list"], ids, case),
    }
    if case.policy:
        found |= {"reward": local["policy_reward"].reshape(*samples, -1), "policy": local["dqn_loss"]}
    found = {name: as_numpy(value) for name, value in found.items()}
    for name, weight in model.named_parameters():
        found |= {f"weight/{name}": as_numpy(weight), f"gradient/{name}": as_numpy(weight.grad)}
    return found


def certainties(losses: list[torch.Tensor], ids: torch.Tensor, case: Case) -> np.ndarray:
    """How many losses of real tokens are exactly zero, so that the released code's means leave them out: base, talk.

    Raises where one is so near to zero that another rounding could change that.
    """
    ids, counts = ids.repeat_interleave(case.n_passes, 0), []
    for ahead, loss in zip(
        [1, *range(1, case.n_ahead_talk + 1)], [losses[0], *losses[-case.n_ahead_talk :]], strict=True
    ):
        real = loss[ids[:, ahead:] != PAD]
        if torch.any((real != 0) & (real < 1e-10)):
            raise ValueError(f"a loss of {real[real > 0].min()} is hardly told from zero: take another seed")
        counts.append(int((real == 0).sum()))
    return np.array(counts)


def as_numpy(value) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    return value.astype(np.uint8) if value.dtype.kind in "iu" or not value.size else value


def make(checkout: Path, out: Path, as_is: bool) -> None:
    configuration, modeling = official(checkout)
    out.mkdir(parents=True, exist_ok=True)
    for seed, (name, case) in enumerate(CASES.items()):
        model = build(case, seed, configuration, modeling, as_is)
        found = run(model, case, rows(case, seed), seed)
        np.savez_compressed(out / f"{name}.npz", case=json.dumps(asdict(case)), **found)
        print(f"{name}: total {found['total']:.6g}, largest reward {np.abs(found.get('reward', 0)).max():.3g}")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkout", type=Path, help="of github.com/ezelikman/quiet-star")
    options.add_argument("--out", type=Path, default=HERE / "official", help="default: official/ beside this file")
    options.add_argument("--as-is", action="store_true", help="leave what the code pins to float32 in float32")
    chosen = options.parse_args()
    make(chosen.checkout, chosen.out, chosen.as_is)
