"""Low-rank adapters in the layout of the library `peft`: adapter_config.json and adapter_model.safetensors.

Their matrices are [out, in], a layer each; ours keep heads as axes of their own and stack the layers, so theirs are the
transposes of ours with the axes of each side flattened.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors.numpy

from qstar import files
from qstar.models import lm, lora
from qstar.models.definition import differences
from qstar.models.formats import hf
from qstar.models.formats.weights import Tensors, inside
from qstar.models.lm import LMConfig
from qstar.models.lora import LoraConfig, WithAdapters
from qstar.settings import LARGEST
from qstar.typing import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODULES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
# Settings that change what an adapter computes and leave no trace in its tensors' names and shapes.
REFUSED = (
    "use_dora", "alpha_pattern", "fan_in_fan_out", "use_qalora", "use_bdlora", "layer_replication",
    "alora_invocation_tokens", "arrow_config",
)  # fmt: skip
# Of init_lora_weights: beginnings that leave the model's own weights as they are. Others (PiSSA, OLoRA, LoftQ) change
# them wherever the adapter is loaded.
BEGINNINGS = (None, True, False, "gaussian", "orthogonal", "eva")


def write(path: str | Path, cfg: LoraConfig, adapters: Params, base: str, dtype: str = "float32") -> None:
    """Write a directory that `peft.PeftModel.from_pretrained` puts on the model `base`.

    Args:
        adapters: {target: {"a": [L *in rank], "b": [L rank *out]}}.
        base: hub id or directory of the model that was adapted.
        dtype: stored type, float32, bfloat16 or float16.
    """
    if dtype not in hf.WRITTEN:
        raise ValueError(f"dtype {dtype!r}: choose one of {', '.join(hf.WRITTEN)}")
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: np.ascontiguousarray(np.asarray(adapters[target][side][layer]).reshape(shape[::-1]).T, hf.WRITTEN[dtype])
        for name, target, side, layer, shape in _places(adapters)
    }
    safetensors.numpy.save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})
    contents = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": cfg.rank,
        "lora_alpha": cfg.alpha,
        "target_modules": [MODULES[target].split(".")[1] for target in adapters],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (path / CONFIG).write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def base_of(path: str | Path) -> str:
    """The model that an adapter directory is for. Raises FileNotFoundError or ValueError."""
    base = _config(Path(path)).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{Path(path) / CONFIG} names no base model: set its base_model_name_or_path")
    if (files.expanded(base) / CONFIG).is_file():
        raise ValueError(
            f"{Path(path) / CONFIG}: its base_model_name_or_path, {base}, holds adapters as well; merge those first"
        )
    return base


def read(path: str | Path, model: LMConfig) -> tuple[LoraConfig, Params]:
    """An adapter and its configuration, for a model of this shape; float32 (numpy).

    Raises:
        FileNotFoundError: no adapter_config.json, or no adapter_model.safetensors.
        ValueError: another kind of adapter, a damaged file, tensors that do not fit the model.
    """
    path = Path(path)
    raw = _config(path)
    file = inside(path, WEIGHTS)
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}; adapters in PyTorch's .bin form are saved again with peft")
    with Tensors([file]) as tensors:
        return _read(path, raw, tensors, model)


def _read(path: Path, raw: dict, tensors: Tensors, model: LMConfig) -> tuple[LoraConfig, Params]:
    stored = tensors.shapes
    targets = [target for target, module in MODULES.items() if any(f".{module}." in name for name in stored)]
    largest = max((max(shape, default=0) for shape in stored.values()), default=0)
    if raw["r"] > largest:
        raise ValueError(f"{path / CONFIG}: r = {str(raw['r'])[:40]} does not fit the tensors of {WEIGHTS}")
    # peft's rank-stabilised variant divides by the root of the rank.
    alpha = raw["lora_alpha"] * (raw["r"] ** 0.5 if raw.get("use_rslora") else 1)
    cfg = LoraConfig(rank=raw["r"], alpha=float(alpha), targets=tuple(targets) or ("all",))
    shapes = WithAdapters(lm.definition(model), cfg).abstract[lora.NAME]
    places = list(_places(shapes))
    problems = differences({name: shape for name, *_, shape in places}, stored)
    if problems:
        raise ValueError(f"the adapter at {path} does not fit its config and base model:\n  {problems}")
    adapters = {
        target: {side: np.empty(leaf.shape, np.float32) for side, leaf in sides.items()}
        for target, sides in shapes.items()
    }
    for name, target, side, layer, _ in places:
        leaf = adapters[target][side]
        leaf[layer] = tensors(name).T.reshape(leaf.shape[1:])
    return cfg, adapters


def _places(adapters: Params) -> Iterator[tuple[str, str, str, int, tuple[int, int]]]:
    """Name of every tensor there; target, side and layer of ours that it holds; its shape."""
    for target, sides in adapters.items():
        layers, rank = sides["b"].shape[:2]
        for layer in range(layers):
            module = f"base_model.model.model.layers.{layer}.{MODULES[target]}"
            inputs, outputs = (sides[side].size // (layers * rank) for side in "ab")
            yield f"{module}.lora_A.weight", target, "a", layer, (rank, inputs)
            yield f"{module}.lora_B.weight", target, "b", layer, (outputs, rank)


def _config(path: Path) -> dict:
    file = inside(path, CONFIG)
    if not file.is_file():
        raise FileNotFoundError(f"{path} has no {CONFIG}: expected a directory that peft wrote")
    raw = files.json_object(file)
    missing = [name for name in ("r", "lora_alpha") if name not in raw]
    if raw.get("peft_type") != "LORA" or missing:
        kind = raw.get("peft_type")
        raise ValueError(f"{file}: peft_type {kind!r}, missing {missing}; expected an adapter of type LORA")
    rank, alpha = raw["r"], raw["lora_alpha"]
    if type(rank) is not int or rank < 1:
        raise ValueError(f"{file}: r is {str(rank)[:40]!r}, expected a positive integer")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= LARGEST:
        raise ValueError(f"{file}: lora_alpha is {str(alpha)[:40]!r}, expected a positive number up to {LARGEST:g}")
    if not isinstance(raw.get("use_rslora"), bool | None):
        raise ValueError(f"{file}: use_rslora is {str(raw['use_rslora'])[:40]!r}, expected true or false")
    refused = [f"{name} = {raw[name]!r}" for name in REFUSED if raw.get(name)]
    if raw.get("init_lora_weights") not in BEGINNINGS:
        refused.append(f"init_lora_weights = {raw['init_lora_weights']!r}")
    if refused:
        raise ValueError(
            f"{file}: {', '.join(refused)} is not supported; merge the adapter with peft and load the model"
        )
    return raw
